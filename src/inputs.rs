//! What products take: activations as they are, by groups, or prepared.

use crate::activation::Activation;
use crate::activations::{PreparedActivations, Wanted, build_f32, build_i8, quantize};
use crate::gemm_error::GemmError;
use crate::product::prepare::Prepared;
use crate::tokens::Grouped;
use crate::tokens::sealed::{Scaled, Tokens as _};
use crate::view::MatRef;
use crate::workspace::{Quantized, Workspace};

/// What [`Linear::forward_int8`](crate::Linear::forward_int8) takes: f32, f16 or bf16
/// activations as a [`MatRef`], which it quantises, or [`PreparedActivations`]. Sealed.
pub trait Int8Input: sealed::Ready<Quantized> {}

/// What [`Linear::forward_f32`](crate::Linear::forward_f32) takes: f32 activations as a
/// [`MatRef`], or [`PreparedActivations`]. Sealed.
pub trait F32Input: sealed::Ready<Prepared<f32>> {}

/// What [`Panels::gemm_i8`](crate::Panels::gemm_i8) takes: int8 values as a [`MatRef`], or
/// [`PreparedActivations`], whose scales it does not apply. Sealed.
pub trait ExactInput: sealed::Ready<Prepared<i8>> {}

impl Int8Input for &PreparedActivations {}
impl F32Input for MatRef<'_, f32> {}
impl F32Input for &PreparedActivations {}
impl ExactInput for MatRef<'_, i8> {}
impl ExactInput for &PreparedActivations {}

pub(crate) mod sealed {
    use super::{GemmError, Wanted, Workspace};

    /// Activations that are `P`, prepared, once they are made so in the workspace or
    /// found to be.
    pub trait Ready<P> {
        /// `[tokens, K]`.
        fn shape(&self) -> [usize; 2];

        /// Runs `product` on them, for matrices of which `matrix` says what matters.
        fn with(
            self,
            matrix: Wanted<'_>,
            ws: &mut Workspace,
            product: impl FnOnce(&P, &mut Workspace) -> Result<(), GemmError>,
        ) -> Result<(), GemmError>;
    }
}

/// Activations that are quantised in the workspace.
macro_rules! quantized {
    ($($input:ty),+) => {$(
        impl<T: Activation> sealed::Ready<Quantized> for $input {
            fn shape(&self) -> [usize; 2] {
                let Scaled { x, .. } = self.grouped();
                [x.rows(), x.cols()]
            }

            fn with(
                self,
                matrix: Wanted<'_>,
                ws: &mut Workspace,
                product: impl FnOnce(&Quantized, &mut Workspace) -> Result<(), GemmError>,
            ) -> Result<(), GemmError> {
                let mut quantized = core::mem::take(&mut ws.quantized);
                let done = quantize(self.grouped(), matrix, &mut quantized, ws);
                let done = done.and_then(|()| product(&quantized, ws));
                ws.quantized = quantized;
                done
            }
        }

        impl<T: Activation> Int8Input for $input {}
    )+};
}
quantized!(MatRef<'_, T>, Grouped<'_, T>);

/// Activations that are multiplied as they are, made ready in the workspace.
macro_rules! unchanged {
    ($element:ty, $field:ident, $build:ident) => {
        impl sealed::Ready<Prepared<$element>> for MatRef<'_, $element> {
            fn shape(&self) -> [usize; 2] {
                [self.rows(), self.cols()]
            }

            fn with(
                self,
                matrix: Wanted<'_>,
                ws: &mut Workspace,
                product: impl FnOnce(&Prepared<$element>, &mut Workspace) -> Result<(), GemmError>,
            ) -> Result<(), GemmError> {
                let mut prepared = core::mem::take(&mut ws.$field);
                let done = $build(&mut prepared, self, matrix, ws);
                let done = done.and_then(|()| product(&prepared, ws));
                ws.$field = prepared;
                done
            }
        }
    };
}
unchanged!(i8, prepared_i8, build_i8);
unchanged!(f32, prepared_f32, build_f32);

/// Activations that are prepared already need nothing of the workspace.
macro_rules! prepared {
    ($prepared:ty, |$x:ident, $matrix:ident| $check:expr) => {
        impl sealed::Ready<$prepared> for &PreparedActivations {
            fn shape(&self) -> [usize; 2] {
                [self.tokens(), self.cols()]
            }

            fn with(
                self,
                $matrix: Wanted<'_>,
                ws: &mut Workspace,
                product: impl FnOnce(&$prepared, &mut Workspace) -> Result<(), GemmError>,
            ) -> Result<(), GemmError> {
                let $x = self;
                product($check?, ws)
            }
        }
    };
}
prepared!(Quantized, |x, matrix| x.int8(matrix));
prepared!(Prepared<f32>, |x, matrix| x.f32(matrix));
prepared!(Prepared<i8>, |x, _matrix| x.exact());
