//! Scales between what a matrix holds and what a format can store.

use crate::error::{FormatError, Result};
use half::f16;
use tritgemm::{Granularity, Scales, TernaryMatrix};

/// What to do with an f32 scale that the format's type has no equal for.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum ScaleRounding {
    /// Refuse it.
    #[default]
    Exact,
    /// Take the nearest one, ties to even. A scale beyond the largest one is
    /// still refused, and so is one that would become 0.
    Nearest,
}

/// The same matrix with as few scales as say the same: groups to rows if the
/// scales of each row are equal in every bit, rows to one if all are. Only
/// then; nothing is rounded.
///
/// ```
/// use tritgemm::{Granularity, MatRef, Scales, TernaryMatrix};
/// let rows = Scales::per_row(vec![0.5; 3]);
/// let matrix = TernaryMatrix::from_trits(MatRef::new(&[1, 0, -1], 3, 1)?, rows)?;
/// let matrix = tritgemm_formats::simplify(matrix);
/// assert_eq!(matrix.scales().granularity(), Granularity::PerTensor);
/// # Ok::<(), tritgemm::Error>(())
/// ```
pub fn simplify(matrix: TernaryMatrix) -> TernaryMatrix {
    let Some(scales) = fewer(matrix.scales(), matrix.cols()) else {
        return matrix;
    };
    TernaryMatrix::from_packed(
        matrix.packed().to_vec(),
        matrix.rows(),
        matrix.cols(),
        scales,
    )
    .unwrap_or(matrix)
}

/// As few scales as say the same, if there are fewer.
pub(crate) fn fewer(scales: &Scales, cols: usize) -> Option<Scales> {
    let values = scales.values();
    let (&first, rest) = values.split_first()?;
    if scales.granularity() == Granularity::PerTensor {
        return None;
    }
    if rest.iter().all(|v| v.to_bits() == first.to_bits()) {
        return Some(Scales::per_tensor(first));
    }
    let Granularity::PerGroup(size) = scales.granularity() else {
        return None;
    };
    let rows = values.chunks(size.groups(cols));
    let per_row = rows.map(|row| equal(row).then(|| row[0]));
    Some(Scales::per_row(per_row.collect::<Option<_>>()?))
}

fn equal(values: &[f32]) -> bool {
    values.iter().all(|v| v.to_bits() == values[0].to_bits())
}

/// Row and column of the first weight that scale `index` covers.
pub(crate) fn place(granularity: Granularity, index: usize, cols: usize) -> (usize, usize) {
    match granularity {
        Granularity::PerTensor => (0, 0),
        Granularity::PerRow => (index, 0),
        Granularity::PerGroup(size) => {
            let groups = size.groups(cols).max(1);
            (index / groups, index % groups * size.len())
        }
    }
}

/// The f16 bits of the scale of each block of `block` weights of each row;
/// `cols` is a multiple of `block`.
pub(crate) fn block_scales(
    matrix: &TernaryMatrix,
    block: usize,
    rounding: ScaleRounding,
    format: &'static str,
    tensor: &str,
) -> Result<Vec<u16>> {
    let (cols, scales) = (matrix.cols(), matrix.scales());
    let (values, granularity) = (scales.values(), scales.granularity());
    let error = |index: usize, nearest: f32| {
        let (row, col) = place(granularity, index, cols);
        FormatError::ScaleRounding {
            tensor: tensor.into(),
            row,
            col,
            value: values[index],
            nearest,
            stored: "f16",
            format,
        }
    };
    let halves: Vec<u16> = (values.iter().enumerate())
        .map(|(i, &v)| to_f16(v, rounding).map_err(|nearest| error(i, nearest)))
        .collect::<Result<_>>()?;
    let blocks = cols / block;
    let repeat = |times: usize| {
        halves
            .iter()
            .flat_map(move |&half| core::iter::repeat_n(half, times))
    };
    Ok(match granularity {
        Granularity::PerTensor => repeat(matrix.rows() * blocks).collect(),
        Granularity::PerRow => repeat(blocks).collect(),
        Granularity::PerGroup(size) => {
            let (groups, size) = (size.groups(cols), size.len());
            let mut found = Vec::with_capacity(matrix.rows() * blocks);
            for at in (0..matrix.rows()).flat_map(|row| (0..blocks).map(move |b| [row, b])) {
                let [row, start] = [at[0], at[1] * block];
                let own =
                    row * groups + start / size..row * groups + (start + block).div_ceil(size);
                // Equal before rounding: f16s that became equal are not the same scale.
                if !equal(&values[own.clone()]) {
                    return Err(FormatError::ScaleBlock {
                        tensor: tensor.into(),
                        row,
                        col: start,
                        block,
                        granularity,
                        format,
                    });
                }
                found.push(halves[own.start]);
            }
            found
        }
    })
}

/// The f16 bits of a finite `value`, or the nearest f16 if that will not do.
fn to_f16(value: f32, rounding: ScaleRounding) -> Result<u16, f32> {
    let half = f16::from_f32(value);
    let nearest = half.to_f32();
    let kept = match rounding {
        ScaleRounding::Exact => nearest.to_bits() == value.to_bits(),
        ScaleRounding::Nearest => nearest.is_finite() && (nearest != 0.0 || value == 0.0),
    };
    if kept {
        Ok(half.to_bits())
    } else {
        Err(nearest)
    }
}
