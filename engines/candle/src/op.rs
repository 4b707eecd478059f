//! The product as candle's custom op.

use crate::gradient::InputGradient;
use crate::rows::Rows;
use crate::{ActivationMode, BitLinear, PreparedInput};
use candle_core::{CpuStorage, CudaStorage, CustomOp1, DType, Error, Layout, MetalStorage};
use candle_core::{Result, Shape, Tensor};
use half::slice::HalfFloatSliceExt;
use half::vec::HalfFloatVecExt;
use half::{bf16, f16};
use tritgemm::{Activation, MatMut, MatRef, Workspace};

pub(crate) const NAME: &str = "tritgemm-bit-linear";

/// The forward pass of a layer.
pub(crate) struct Product {
    pub(crate) layer: BitLinear,
    /// The op's argument, if it was prepared.
    pub(crate) prepared: Option<PreparedInput>,
}

/// A float type of candle's that products take and give.
pub(crate) trait Float: Activation {
    /// The values of `x` as f32, in `buffer` if they are of another type.
    fn widened<'a>(x: MatRef<'a, Self>, buffer: &'a mut Vec<f32>) -> Result<MatRef<'a, f32>>;

    /// Outputs, rounded half to even.
    fn storage(y: Vec<f32>) -> CpuStorage;
}

impl Float for f32 {
    fn widened<'a>(x: MatRef<'a, f32>, _: &'a mut Vec<f32>) -> Result<MatRef<'a, f32>> {
        Ok(x)
    }

    fn storage(y: Vec<f32>) -> CpuStorage {
        CpuStorage::F32(y)
    }
}

macro_rules! half_float {
    ($type:ty, $storage:ident) => {
        impl Float for $type {
            fn widened<'a>(
                x: MatRef<'a, Self>,
                buffer: &'a mut Vec<f32>,
            ) -> Result<MatRef<'a, f32>> {
                let (tokens, features) = (x.rows(), x.cols());
                buffer.resize(tokens * features, 0.0);
                for token in 0..tokens {
                    let buffer = &mut buffer[token * features..][..features];
                    x.row(token).convert_to_f32_slice(buffer);
                }
                MatRef::new(buffer, tokens, features).map_err(Error::wrap)
            }

            fn storage(y: Vec<f32>) -> CpuStorage {
                CpuStorage::$storage(Vec::from_f32_slice(&y))
            }
        }
    };
}

half_float!(f16, F16);
half_float!(bf16, BF16);

/// The error about an input of a type that no product takes.
pub(crate) fn wrong_type(got: DType) -> Error {
    Error::UnexpectedDType {
        msg: "BitLinear takes f32, f16 or bf16",
        expected: DType::F32,
        got,
    }
    .bt()
}

/// Whether a shape is `[.., features]`.
pub(crate) fn check_input(shape: &Shape, features: usize) -> Result<()> {
    let Some((&last, leading)) = shape.dims().split_last() else {
        return Err(Error::UnexpectedNumberOfDims {
            expected: 1,
            got: 0,
            shape: shape.clone(),
        }
        .bt());
    };
    if last == features {
        return Ok(());
    }
    Err(Error::UnexpectedShape {
        msg: format!("the last dimension of BitLinear's input must be its {features} columns (K)"),
        expected: with_last(leading, features),
        got: shape.clone(),
    }
    .bt())
}

fn with_last(leading: &[usize], last: usize) -> Shape {
    Shape::from([leading, &[last]].concat())
}

/// A product from `[.., features]` to `[.., outputs]` that `work` computes, in
/// the type of `storage`.
pub(crate) fn on_rows(
    (storage, layout): (&CpuStorage, &Layout),
    [features, outputs]: [usize; 2],
    work: impl Work,
) -> Result<(CpuStorage, Shape)> {
    check_input(layout.shape(), features)?;
    let leading = &layout.dims()[..layout.dims().len() - 1];
    let y = match storage {
        CpuStorage::F32(x) => typed(x, layout, outputs, work),
        CpuStorage::F16(x) => typed(x, layout, outputs, work),
        CpuStorage::BF16(x) => typed(x, layout, outputs, work),
        _ => Err(wrong_type(candle_core::backend::BackendStorage::dtype(
            storage,
        ))),
    }?;
    Ok((y, with_last(leading, outputs)))
}

/// What is done with tokens of any float type.
pub(crate) trait Work {
    /// Computes `y` from `x`.
    fn run<T: Float>(self, x: MatRef<'_, T>, y: MatMut<'_, f32>) -> Result<()>;
}

fn typed<T: Float>(
    x: &[T],
    layout: &Layout,
    outputs: usize,
    work: impl Work,
) -> Result<CpuStorage> {
    let rows = Rows::new(x, layout);
    let len = rows.tokens().checked_mul(outputs).ok_or_else(|| {
        Error::msg(format!(
            "{} x {outputs} outputs do not fit memory",
            rows.tokens()
        ))
    })?;
    let mut y = vec![0.0; len];
    let out = MatMut::new(&mut y, rows.tokens(), outputs).map_err(Error::wrap)?;
    work.run(rows.view()?, out)?;
    Ok(T::storage(y))
}

impl Work for &Product {
    fn run<T: Float>(self, x: MatRef<'_, T>, y: MatMut<'_, f32>) -> Result<()> {
        let linear = self.layer.linear();
        let multiply = |ws: &mut Workspace| -> Result<()> {
            let prepared = self.prepared.as_ref().map(PreparedInput::activations);
            let done = match (prepared, self.layer.mode) {
                (Some(x), ActivationMode::Int8) => linear.forward_int8(x, y, ws),
                (Some(x), ActivationMode::F32) => linear.forward_f32(x, y, ws),
                (None, ActivationMode::Int8) => linear.forward_int8(x, y, ws),
                (None, ActivationMode::F32) => {
                    linear.forward_f32(T::widened(x, &mut Vec::new())?, y, ws)
                }
            };
            done.map_err(Error::wrap)
        };
        let macs = [x.rows(), x.cols(), linear.out_features()];
        let macs = macs.into_iter().fold(1, usize::saturating_mul);
        self.layer.run(macs, multiply)
    }
}

impl CustomOp1 for Product {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        if let Some(prepared) = &self.prepared
            && prepared.mode() != self.layer.mode
        {
            candle_core::bail!(
                "the input was prepared for {:?} activations, the layer takes {:?}",
                prepared.mode(),
                self.layer.mode
            );
        }
        let shape = [self.layer.in_features(), self.layer.out_features()];
        on_rows((storage, layout), shape, self)
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        Err(not_on("CUDA"))
    }

    fn metal_fwd(&self, _: &MetalStorage, _: &Layout) -> Result<(MetalStorage, Shape)> {
        Err(not_on("Metal"))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, grad_y: &Tensor) -> Result<Option<Tensor>> {
        let grad_x = InputGradient(self.layer.clone());
        Ok(Some(grad_y.apply_op1_no_bwd(&grad_x)?))
    }
}

/// The error about a tensor on another device.
pub(crate) fn not_on(device: &str) -> Error {
    Error::msg(format!(
        "BitLinear runs on the CPU device, the input is on a {device} device: move it with `to_device(&Device::Cpu)`"
    ))
}
