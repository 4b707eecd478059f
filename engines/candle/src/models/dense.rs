//! Dense tables of a row a token, embeddings and heads, and their products: rows are
//! streamed from memory once, which is what a token waits for.
//!
//! Sums have a fixed order, so a table gives the same bits on every instruction set and for
//! any number of threads. There is no unsafe code: the compiler vectorises what [`pulp`]
//! dispatches to the CPU's instruction set.

use super::error::{Result, tensor};
use super::sums::dot;
use half::bf16;
use pulp::{Arch, NullaryFnOnce};
use rayon::prelude::*;
use std::sync::Arc;
use tritgemm_formats::Model;

/// Rows that a thread takes at a time.
const ROWS: usize = 256;

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

/// Where values lie.
#[derive(Debug)]
enum Bytes {
    /// A tensor of mapped files.
    File(Arc<Model>, String),
    Memory(Vec<u8>),
}

/// A table `[rows, cols]`.
#[derive(Debug)]
pub(crate) struct Dense {
    storage: Storage,
    rows: usize,
    cols: usize,
    bytes: Bytes,
    /// Of int8 rows.
    scales: Vec<f32>,
}

impl Dense {
    /// A tensor of floats of mapped files, read where it is.
    pub(crate) fn mapped(files: &Arc<Model>, name: &str, storage: Storage) -> Result<Self> {
        let [rows, cols] = files.tensor(name)?.shape[..] else {
            return Err(tensor(name, "is no matrix"));
        };
        let bytes = Bytes::File(Arc::clone(files), name.to_owned());
        Self::new(name, storage, [rows, cols], bytes, Vec::new())
    }

    fn new(
        name: &str,
        storage: Storage,
        [rows, cols]: [usize; 2],
        bytes: Bytes,
        scales: Vec<f32>,
    ) -> Result<Self> {
        let all = Self {
            storage,
            rows,
            cols,
            bytes,
            scales,
        };
        let expected = rows.checked_mul(cols).map(|n| n * storage.bytes());
        match expected == Some(all.bytes().len()) && rows * cols > 0 {
            true => Ok(all),
            false => Err(tensor(
                name,
                format!("has {} bytes for [{rows}, {cols}]", all.bytes().len()),
            )),
        }
    }

    /// Values `[rows, cols]` rounded to bf16.
    pub(crate) fn bf16(name: &str, values: &[f32], shape: [usize; 2]) -> Result<Self> {
        let bytes = values
            .par_iter()
            .flat_map_iter(|&v| bf16::from_f32(v).to_le_bytes());
        Self::new(
            name,
            Storage::Bf16,
            shape,
            Bytes::Memory(bytes.collect()),
            Vec::new(),
        )
    }

    /// The table in bf16.
    pub(crate) fn to_bf16(&self, name: &str) -> Result<Self> {
        let mut bytes = vec![0; self.rows * self.cols * 2];
        let rows = bytes.par_chunks_exact_mut(self.cols * 2).enumerate();
        rows.for_each_init(
            || vec![0.0; self.cols],
            |values, (row, bytes)| {
                self.row(row, values);
                for (value, bytes) in values.iter().zip(bytes.as_chunks_mut::<2>().0) {
                    *bytes = bf16::from_f32(*value).to_le_bytes();
                }
            },
        );
        Self::new(
            name,
            Storage::Bf16,
            [self.rows, self.cols],
            Bytes::Memory(bytes),
            Vec::new(),
        )
    }

    /// The table in int8, each row by its absolute maximum.
    pub(crate) fn to_int8(&self, name: &str) -> Result<Self> {
        let mut bytes = vec![0; self.rows * self.cols];
        let rows = bytes.par_chunks_exact_mut(self.cols).enumerate();
        let quantised = rows.map_init(
            || vec![0.0; self.cols],
            |values, (row, bytes)| {
                self.row(row, values);
                let largest = values.iter().fold(0f32, |max, v| max.max(v.abs()));
                let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
                for (value, byte) in values.iter().zip(bytes) {
                    *byte = (value * inverse).round_ties_even() as i8 as u8;
                }
                largest / 127.0
            },
        );
        let scales: Vec<f32> = quantised.collect();
        if let Some(row) = scales.iter().position(|s| !s.is_finite()) {
            return Err(tensor(name, format!("is not finite in row {row}")));
        }
        Self::new(
            name,
            Storage::Int8,
            [self.rows, self.cols],
            Bytes::Memory(bytes),
            scales,
        )
    }

    pub(crate) fn shape(&self) -> [usize; 2] {
        [self.rows, self.cols]
    }

    pub(crate) fn storage(&self) -> Storage {
        self.storage
    }

    fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Memory(bytes) => bytes,
            // It was there when the table was made.
            Bytes::File(files, name) => files.tensor(name).map_or(&[], |t| t.bytes()),
        }
    }

    fn scale(&self, row: usize) -> f32 {
        self.scales.get(row).copied().unwrap_or(1.0)
    }

    /// Row `row`, which there is, into `to`.
    pub(crate) fn row(&self, row: usize, to: &mut [f32]) {
        let bytes = self.cols * self.storage.bytes();
        let from = &self.bytes()[row * bytes..][..bytes];
        match self.storage {
            Storage::F32 => widen(from, to, f32::from_le_bytes),
            Storage::F16 => widen(from, to, f16_value),
            Storage::Bf16 => widen(from, to, bf16_value),
            Storage::Int8 => {
                let scale = self.scale(row);
                widen(from, to, |b| int8_value(b) * scale);
            }
        }
    }

    /// The products of each row with each of the `tokens` of `x` `[tokens, cols]`: `[tokens, rows]`.
    pub(crate) fn product(&self, x: &[f32], tokens: usize) -> Vec<f32> {
        let row_bytes = self.cols * self.storage.bytes();
        let mut y = vec![0.0; self.rows * tokens];
        let chunks = y
            .par_chunks_mut(ROWS * tokens)
            .zip(self.bytes().par_chunks(ROWS * row_bytes));
        chunks.for_each(|(y, weights)| {
            let (arch, cols) = (Arch::new(), self.cols);
            match self.storage {
                Storage::F32 => arch.dispatch(Rows {
                    weights,
                    x,
                    y,
                    cols,
                    value: f32::from_le_bytes,
                }),
                Storage::F16 => arch.dispatch(Rows {
                    weights,
                    x,
                    y,
                    cols,
                    value: f16_value,
                }),
                Storage::Bf16 => arch.dispatch(Rows {
                    weights,
                    x,
                    y,
                    cols,
                    value: bf16_value,
                }),
                Storage::Int8 => arch.dispatch(Rows {
                    weights,
                    x,
                    y,
                    cols,
                    value: int8_value,
                }),
            }
        });
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

fn widen<const B: usize>(from: &[u8], to: &mut [f32], value: impl Fn([u8; B]) -> f32) {
    for (from, to) in from.as_chunks::<B>().0.iter().zip(to) {
        *to = value(*from);
    }
}

/// Without a branch, so that it can be vectorised: the exponent's bias is 112 smaller.
#[inline(always)]
fn f16_value(bytes: [u8; 2]) -> f32 {
    let bits = u32::from(u16::from_le_bytes(bytes));
    let magnitude = f32::from_bits((bits & 0x7fff) << 13) * f32::from_bits((127 + 112) << 23);
    let infinite = if bits & 0x7c00 == 0x7c00 {
        0x7f80_0000
    } else {
        0
    };
    f32::from_bits(magnitude.to_bits() | infinite | (bits & 0x8000) << 16)
}

#[inline(always)]
fn bf16_value(bytes: [u8; 2]) -> f32 {
    f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16)
}

#[inline(always)]
fn int8_value([byte]: [u8; 1]) -> f32 {
    f32::from(byte as i8)
}

/// Products of some rows, of values of `B` bytes, with all tokens.
struct Rows<'a, const B: usize, V: Fn([u8; B]) -> f32> {
    weights: &'a [u8],
    x: &'a [f32],
    y: &'a mut [f32],
    cols: usize,
    value: V,
}

impl<const B: usize, V: Fn([u8; B]) -> f32> NullaryFnOnce for Rows<'_, B, V> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let weights = self.weights.as_chunks::<B>().0.chunks_exact(self.cols);
        let tokens = self.x.len() / self.cols;
        for (row, y) in weights.zip(self.y.chunks_exact_mut(tokens)) {
            for (x, y) in self.x.chunks_exact(self.cols).zip(y) {
                *y = dot(row, x, &self.value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::sums::LANES;
    use half::f16;

    #[test]
    fn f16_values_are_those_of_the_half_crate() {
        for bits in 0..=u16::MAX {
            let (ours, theirs) = (f16_value(bits.to_le_bytes()), f16::from_bits(bits).to_f32());
            match theirs.is_nan() {
                true => assert!(ours.is_nan(), "{bits:04x}"),
                false => assert_eq!(ours.to_bits(), theirs.to_bits(), "{bits:04x}"),
            }
        }
    }

    #[test]
    fn products_are_those_of_the_rows() {
        let (rows, cols, tokens) = (ROWS + 3, 3 * LANES + 5, 3);
        let mut state = 1u32;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        let values: Vec<f32> = (0..rows * cols).map(|_| random()).collect();
        let x: Vec<f32> = (0..tokens * cols).map(|_| random()).collect();
        let table = Dense::bf16("t", &values, [rows, cols]).unwrap();
        let int8 = table.to_int8("t").unwrap();
        assert_eq!(table.to_bf16("t").unwrap().bytes(), table.bytes());
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
