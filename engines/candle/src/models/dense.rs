//! Dense tables of a row a token: embeddings and heads.

use super::error::{Result, tensor};
use super::streaming::{products, widen};
use half::bf16;
use rayon::prelude::*;
use std::sync::Arc;
use tritgemm::quant::quantize_token;
use tritgemm_formats::Model;

/// How values are stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Storage {
    F32,
    F16,
    Bf16,
    /// Times a scale a row.
    Int8,
}

impl Storage {
    pub(crate) fn bytes(self) -> usize {
        match self {
            Storage::F32 => 4,
            Storage::F16 | Storage::Bf16 => 2,
            Storage::Int8 => 1,
        }
    }
}

/// Values as they are stored, little-endian.
#[derive(Clone, Copy, Debug)]
enum Values<'a> {
    F32(&'a [f32]),
    F16(&'a [u16]),
    Bf16(&'a [u16]),
    Int8(&'a [i8]),
}

/// Where values lie.
#[derive(Debug)]
enum Place {
    /// A tensor of mapped files, at an address that its type can have.
    File(Arc<Model>, String),
    F32(Vec<f32>),
    /// f16 or bf16.
    Halves(Vec<u16>),
    Int8(Vec<i8>),
}

/// A table `[rows, cols]`.
#[derive(Debug)]
pub(crate) struct Dense {
    storage: Storage,
    rows: usize,
    cols: usize,
    place: Place,
    /// Of int8 rows.
    scales: Vec<f32>,
}

impl Dense {
    /// A tensor of floats of mapped files, read where it is.
    pub(crate) fn mapped(files: &Arc<Model>, name: &str, storage: Storage) -> Result<Self> {
        let stored = files.tensor(name)?;
        let [rows, cols] = stored.shape[..] else {
            return Err(tensor(name, "is no matrix"));
        };
        let (bytes, expected) = (stored.bytes(), rows * cols * storage.bytes());
        if bytes.len() != expected || bytes.is_empty() {
            let what = format!("has {} bytes, expected {expected} and some", bytes.len());
            return Err(tensor(name, what));
        }
        let aligned = match storage {
            Storage::F32 => bytemuck::try_cast_slice::<u8, f32>(bytes).is_ok(),
            Storage::F16 | Storage::Bf16 => bytemuck::try_cast_slice::<u8, u16>(bytes).is_ok(),
            Storage::Int8 => true,
        };
        let place = match storage {
            _ if aligned => Place::File(Arc::clone(files), name.to_owned()),
            Storage::F32 => Place::F32(bytemuck::pod_collect_to_vec(bytes)),
            _ => Place::Halves(bytemuck::pod_collect_to_vec(bytes)),
        };
        Ok(Self {
            storage,
            rows,
            cols,
            place,
            scales: Vec::new(),
        })
    }

    /// Values `[rows, cols]`, rounded to bf16 row by row.
    fn rounded([rows, cols]: [usize; 2], row: impl Fn(usize, &mut [f32]) + Sync) -> Self {
        let mut halves = vec![0; rows * cols];
        let each = halves.par_chunks_exact_mut(cols).enumerate();
        each.for_each_init(
            || vec![0.0; cols],
            |values, (i, halves)| {
                row(i, values);
                for (half, value) in halves.iter_mut().zip(values) {
                    *half = bf16::from_f32(*value).to_bits().to_le();
                }
            },
        );
        Self {
            storage: Storage::Bf16,
            rows,
            cols,
            place: Place::Halves(halves),
            scales: Vec::new(),
        }
    }

    /// Values `[rows, cols]`, of which there are some, rounded to bf16.
    pub(crate) fn bf16(values: &[f32], [rows, cols]: [usize; 2]) -> Self {
        Self::rounded([rows, cols], |i, row| {
            row.copy_from_slice(&values[i * cols..][..cols])
        })
    }

    /// The table in bf16.
    pub(crate) fn to_bf16(&self) -> Self {
        Self::rounded(self.shape(), |i, row| self.row(i, row))
    }

    /// The table in int8, each row by its absolute maximum.
    pub(crate) fn to_int8(&self, name: &str) -> Result<Self> {
        let mut codes = vec![0; self.rows * self.cols];
        let rows = codes.par_chunks_exact_mut(self.cols).enumerate();
        let quantised = rows.map_init(
            || vec![0.0; self.cols],
            |values, (row, codes)| {
                self.row(row, values);
                let scale = quantize_token(values, codes);
                scale.map_err(|e| tensor(name, format!("row {row}: {e}")))
            },
        );
        let scales = quantised.collect::<Result<_>>()?;
        Ok(Self {
            storage: Storage::Int8,
            rows: self.rows,
            cols: self.cols,
            place: Place::Int8(codes),
            scales,
        })
    }

    pub(crate) fn shape(&self) -> [usize; 2] {
        [self.rows, self.cols]
    }

    pub(crate) fn storage(&self) -> Storage {
        self.storage
    }

    fn values(&self) -> Values<'_> {
        let file = match &self.place {
            // It was there, and aligned, when the table was made.
            Place::File(files, name) => files.tensor(name).map_or(&[][..], |t| t.bytes()),
            Place::F32(values) => return Values::F32(values),
            Place::Int8(values) => return Values::Int8(values),
            Place::Halves(values) if self.storage == Storage::F16 => return Values::F16(values),
            Place::Halves(values) => return Values::Bf16(values),
        };
        match self.storage {
            Storage::F32 => Values::F32(bytemuck::cast_slice(file)),
            Storage::F16 => Values::F16(bytemuck::cast_slice(file)),
            Storage::Bf16 => Values::Bf16(bytemuck::cast_slice(file)),
            Storage::Int8 => Values::Int8(bytemuck::cast_slice(file)),
        }
    }

    fn scale(&self, row: usize) -> f32 {
        self.scales.get(row).copied().unwrap_or(1.0)
    }

    /// Row `row`, which there is, into `to`.
    pub(crate) fn row(&self, row: usize, to: &mut [f32]) {
        let range = row * self.cols..(row + 1) * self.cols;
        match self.values() {
            Values::F32(values) => widen(&values[range], to, f32_value),
            Values::F16(values) => widen(&values[range], to, f16_value),
            Values::Bf16(values) => widen(&values[range], to, bf16_value),
            Values::Int8(values) => {
                let scale = self.scale(row);
                widen(&values[range], to, |code| int8_value(code) * scale);
            }
        }
    }

    /// The products of each row with each of the `tokens` of `x` `[tokens, cols]`: `[tokens, rows]`.
    pub(crate) fn product(&self, x: &[f32], tokens: usize) -> Vec<f32> {
        let mut y = match self.values() {
            Values::F32(values) => products(values, x, tokens, f32_value),
            Values::F16(values) => products(values, x, tokens, f16_value),
            Values::Bf16(values) => products(values, x, tokens, bf16_value),
            Values::Int8(values) => products(values, x, tokens, int8_value),
        };
        for (y, scale) in y.chunks_exact_mut(tokens).zip(&self.scales) {
            y.iter_mut().for_each(|y| *y *= scale);
        }
        match tokens {
            1 => y,
            _ => (0..tokens)
                .flat_map(|t| y[t..].iter().step_by(tokens).copied())
                .collect(),
        }
    }
}

#[inline(always)]
fn f32_value(value: f32) -> f32 {
    f32::from_bits(u32::from_le(value.to_bits()))
}

/// Without a branch, so that it can be vectorised: the exponent's bias is 112 smaller.
#[inline(always)]
fn f16_value(bits: u16) -> f32 {
    let bits = u32::from(u16::from_le(bits));
    let magnitude = f32::from_bits((bits & 0x7fff) << 13) * f32::from_bits((127 + 112) << 23);
    let infinite = if bits & 0x7c00 == 0x7c00 {
        0x7f80_0000
    } else {
        0
    };
    f32::from_bits(magnitude.to_bits() | infinite | (bits & 0x8000) << 16)
}

#[inline(always)]
fn bf16_value(bits: u16) -> f32 {
    f32::from_bits(u32::from(u16::from_le(bits)) << 16)
}

#[inline(always)]
fn int8_value(code: i8) -> f32 {
    f32::from(code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::streaming::{BLOCK, STREAMS, TASK};
    use crate::models::sums::LANES;
    use half::f16;

    #[test]
    fn f16_values_are_those_of_the_half_crate() {
        for bits in 0..=u16::MAX {
            let (ours, theirs) = (f16_value(bits.to_le()), f16::from_bits(bits).to_f32());
            match theirs.is_nan() {
                true => assert!(ours.is_nan(), "{bits:04x}"),
                false => assert_eq!(ours.to_bits(), theirs.to_bits(), "{bits:04x}"),
            }
        }
    }

    #[test]
    fn products_are_those_of_the_rows() {
        let (rows, cols, tokens) = (TASK + STREAMS + 3, BLOCK + 3 * LANES + 5, 3);
        let mut state = 1u32;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        let values: Vec<f32> = (0..rows * cols).map(|_| random()).collect();
        let x: Vec<f32> = (0..tokens * cols).map(|_| random()).collect();
        let table = Dense::bf16(&values, [rows, cols]);
        let int8 = table.to_int8("t").unwrap();
        for (table, bound) in [(&table, 1e-4), (&int8, 1e-4)] {
            let y = table.product(&x, tokens);
            let mut row = vec![0.0; cols];
            for m in 0..rows {
                table.row(m, &mut row);
                for t in 0..tokens {
                    let x = &x[t * cols..][..cols];
                    let exact: f64 = row.iter().zip(x).map(|(w, x)| f64::from(w * x)).sum();
                    let got = f64::from(y[t * rows + m]);
                    assert!(
                        (got - exact).abs() < bound,
                        "row {m}, token {t}: {got}, {exact}"
                    );
                }
            }
        }
        let (mut a, mut b) = (vec![0.0; cols], vec![0.0; cols]);
        for m in 0..rows {
            table.row(m, &mut a);
            int8.row(m, &mut b);
            let worst = a
                .iter()
                .zip(&b)
                .map(|(a, b)| (a - b).abs())
                .fold(0.0, f32::max);
            assert!(worst <= 0.5 / 127.0 + 1e-6, "row {m} is {worst} off");
        }
    }
}
