//! Tensors of floats, seen as tokens.

use crate::rows::Rows;
use candle_core::{CpuStorage, DType, Error, Result, Shape, Storage, Tensor, WithDType};
use half::slice::HalfFloatSliceExt;
use half::vec::HalfFloatVecExt;
use half::{bf16, f16};
use tritgemm::{Activation, MatRef};

/// A float type of candle's that products take and give.
pub(crate) trait Float: Activation + WithDType + Default {
    /// The values of `x` as f32, in `buffer` if they are of another type.
    fn widened<'a>(x: MatRef<'a, Self>, buffer: &'a mut Vec<f32>) -> Result<MatRef<'a, f32>>;

    /// The values, rounded half to even.
    fn rounded(values: Vec<f32>) -> Vec<Self>;
}

impl Float for f32 {
    fn widened<'a>(x: MatRef<'a, f32>, _: &'a mut Vec<f32>) -> Result<MatRef<'a, f32>> {
        Ok(x)
    }

    fn rounded(values: Vec<f32>) -> Vec<f32> {
        values
    }
}

macro_rules! half_float {
    ($type:ty) => {
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

            fn rounded(values: Vec<f32>) -> Vec<Self> {
                Vec::from_f32_slice(&values)
            }
        }
    };
}

half_float!(f16);
half_float!(bf16);

/// An output of `tokens` times `features` values, to be written.
pub(crate) fn output<T: Float>(tokens: usize, features: usize) -> Result<Vec<T>> {
    match tokens.checked_mul(features) {
        Some(len) => Ok(vec![T::default(); len]),
        None => candle_core::bail!("{tokens} x {features} outputs do not fit memory"),
    }
}

/// What is done with tokens of any float type.
pub(crate) trait Work {
    /// What comes of it.
    type Output;

    /// Does it.
    fn run<T: Float>(self, x: MatRef<'_, T>) -> Result<Self::Output>;
}

/// Does `work` with the tokens of `x` `[.., features]`.
pub(crate) fn on_tokens<W: Work>(x: &Tensor, work: W) -> Result<W::Output> {
    let (storage, layout) = x.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else {
        candle_core::bail!(
            "tritgemm runs on the CPU device, the input is on {:?}: move it with `to_device(&Device::Cpu)`",
            x.device().location()
        );
    };
    match storage {
        CpuStorage::F32(x) => work.run(Rows::new(x, layout).view()?),
        CpuStorage::F16(x) => work.run(Rows::new(x, layout).view()?),
        CpuStorage::BF16(x) => work.run(Rows::new(x, layout).view()?),
        _ => Err(Error::UnexpectedDType {
            msg: "the input must be f32, f16 or bf16",
            expected: DType::F32,
            got: x.dtype(),
        }
        .bt()),
    }
}

/// Checks that a shape is `[.., features]`.
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
        expected: Shape::from([leading, &[features]].concat()),
        got: shape.clone(),
    }
    .bt())
}

/// The shape of `x` with another last dimension.
pub(crate) fn with_last(x: &Tensor, last: usize) -> Shape {
    let mut dims = x.dims().to_vec();
    dims.pop();
    dims.push(last);
    Shape::from(dims)
}
