//! A tensor seen as tokens by features.

use candle_core::{Layout, Result};
use std::borrow::Cow;
use tritgemm::MatRef;

/// The elements of a tensor with its leading dimensions as one: tokens of
/// `features` values, `stride` apart.
pub(crate) struct Rows<'a, T: Clone> {
    data: Cow<'a, [T]>,
    tokens: usize,
    features: usize,
    stride: usize,
}

impl<'a, T: Copy> Rows<'a, T> {
    /// Borrows `data` where every token's values are consecutive and tokens lie
    /// an even distance apart, else gathers them into a dense copy. A layout
    /// without dimensions is a token of one value.
    pub(crate) fn new(data: &'a [T], layout: &Layout) -> Self {
        let (features, leading) = layout
            .dims()
            .split_last()
            .map_or((1, &[][..]), |(&f, l)| (f, l));
        let tokens = leading.iter().product();
        let (data, stride) = match row_stride(layout) {
            Some(stride) => {
                let from_start = data.get(layout.start_offset()..).unwrap_or_default();
                (Cow::Borrowed(from_start), stride)
            }
            None => (Cow::Owned(gather(data, layout)), features),
        };
        Self {
            data,
            tokens,
            features,
            stride,
        }
    }

    /// The view that products take.
    pub(crate) fn view(&self) -> Result<MatRef<'_, T>> {
        MatRef::with_stride(&self.data, self.tokens, self.features, self.stride)
            .map_err(candle_core::Error::wrap)
    }
}

/// Elements from a token to the next, if that is one number, at least the
/// number of features, and the features are consecutive.
fn row_stride(layout: &Layout) -> Option<usize> {
    let (&features, leading) = layout.dims().split_last()?;
    let (&step, strides) = layout.stride().split_last()?;
    if features > 1 && step != 1 {
        return None;
    }
    // From the innermost dimension out: each must continue what the ones inside
    // of it span. Dimensions of 1 take no step.
    let mut row: Option<(usize, usize)> = None;
    for (&dim, &stride) in leading
        .iter()
        .zip(strides)
        .rev()
        .filter(|(dim, _)| **dim != 1)
    {
        row = match row {
            None => Some((stride, stride.checked_mul(dim)?)),
            Some((first, span)) if span == stride => Some((first, span.checked_mul(dim)?)),
            Some(_) => return None,
        };
    }
    let stride = row.map_or(features, |(stride, _)| stride);
    (stride >= features).then_some(stride)
}

/// All elements in order.
fn gather<T: Copy>(data: &[T], layout: &Layout) -> Vec<T> {
    let (dims, strides) = (layout.dims(), layout.stride());
    let count: usize = dims.iter().product();
    let mut out = Vec::with_capacity(count);
    let mut index = vec![0; dims.len()];
    let mut at = layout.start_offset();
    for _ in 0..count {
        out.push(data[at]);
        // Counts up like an odometer, the last dimension fastest.
        for (i, (&dim, &stride)) in dims.iter().zip(strides).enumerate().rev() {
            index[i] += 1;
            at += stride;
            if index[i] < dim {
                break;
            }
            at -= stride * dim;
            index[i] = 0;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor};

    /// The rows of a tensor as they are read, and whether without a copy.
    fn read(x: &Tensor) -> (Vec<f32>, bool) {
        let (storage, layout) = x.storage_and_layout();
        let candle_core::Storage::Cpu(storage) = &*storage else {
            unreachable!("made on the CPU");
        };
        let rows = Rows::new(storage.as_slice::<f32>().unwrap(), layout);
        let view = rows.view().unwrap();
        let values = (0..view.rows())
            .flat_map(|i| view.row(i).to_vec())
            .collect();
        (values, matches!(rows.data, Cow::Borrowed(_)))
    }

    #[test]
    fn layouts_read_like_the_tensor_and_copy_only_where_they_must() {
        let x = Tensor::arange(0f32, 120.0, &Device::Cpu).unwrap();
        let x = x.reshape((2, 3, 4, 5)).unwrap();
        let cases = [
            (x.clone(), true),
            (x.narrow(3, 1, 3).unwrap(), true),
            (x.narrow(0, 1, 1).unwrap(), true),
            (x.narrow(0, 1, 1).unwrap().narrow(2, 2, 2).unwrap(), false),
            (x.narrow(2, 1, 1).unwrap(), true),
            (x.narrow(2, 1, 2).unwrap(), false),
            (x.transpose(2, 3).unwrap(), false),
            (x.transpose(1, 2).unwrap(), false),
            (x.narrow(1, 1, 1).unwrap().transpose(1, 2).unwrap(), false),
            (x.narrow(3, 0, 0).unwrap(), true),
            (x.i_row().unwrap(), true),
            (x.i_row().unwrap().broadcast_as((3, 5)).unwrap(), false),
            (x.narrow(3, 2, 1).unwrap(), true),
        ];
        for (i, (x, borrowed)) in cases.iter().enumerate() {
            let dense = x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(read(x), (dense, *borrowed), "case {i}: {:?}", x.layout());
        }
    }

    trait FirstRow {
        fn i_row(&self) -> candle_core::Result<Tensor>;
    }

    impl FirstRow for Tensor {
        fn i_row(&self) -> candle_core::Result<Tensor> {
            self.get(1)?.get(2)?.get(3)
        }
    }
}
