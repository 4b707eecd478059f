//! I2_S: one number, one header and one size for three layouts.
//!
//! | layout | written by | bytes |
//! |---|---|---|
//! | [`X86`](I2sLayout::X86) | bitnet.cpp on x86, the published files | flat blocks of 128: byte p has elements p, 32 + p, 64 + p, 96 + p |
//! | [`Rows4`](I2sLayout::Rows4) | bitnet.cpp on x86 built without ACT_PARALLEL | byte `r / 4 * K + k` has column k of four rows |
//! | [`Arm`](I2sLayout::Arm) | bitnet.cpp on NEON | flat blocks of 64: byte p has elements p, 16 + p, 32 + p, 48 + p |
//!
//! In all of them the first of the four weights lies in bits 7-6, a code is
//! `w + 1`, and the weights are followed by 32 bytes of which the first four are
//! the f32 scale. Nothing in a file tells the layouts apart.

use super::decode::planes;
use super::types::{I2_S_TAIL, TernaryType};
use crate::error::{FormatError, Result};
use crate::parallel::{first_refused, parts};
use crate::rows::Named;
use core::ops::Range;
use tritgemm::{Linear, Panels, Scales, TernaryMatrix, Workspace, codec};

/// Which of the layouts of I2_S a tensor has. No file says; the published ones
/// have [`X86`](Self::X86).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum I2sLayout {
    /// Flat blocks of 128 weights.
    #[default]
    X86,
    /// Four rows a byte, M a multiple of 4.
    Rows4,
    /// Flat blocks of 64 weights.
    Arm,
}

impl I2sLayout {
    /// All three.
    pub const ALL: [I2sLayout; 3] = [I2sLayout::X86, I2sLayout::Rows4, I2sLayout::Arm];

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            I2sLayout::X86 => "x86",
            I2sLayout::Rows4 => "rows4",
            I2sLayout::Arm => "arm",
        }
    }

    /// The layout of that name.
    ///
    /// ```
    /// use tritgemm_formats::ggml::I2sLayout;
    /// assert_eq!(I2sLayout::from_name("arm"), Some(I2sLayout::Arm));
    /// ```
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|layout| layout.name() == name)
    }

    /// Weights of a flat block; bytes of it are a quarter of that.
    const fn block(self) -> Option<usize> {
        match self {
            I2sLayout::X86 => Some(128),
            I2sLayout::Arm => Some(64),
            I2sLayout::Rows4 => None,
        }
    }

    const fn format(self) -> &'static str {
        match self {
            I2sLayout::X86 => "I2_S",
            I2sLayout::Rows4 => "I2_S rows4",
            I2sLayout::Arm => "I2_S arm",
        }
    }

    /// Bytes of a tensor of `rows x cols` weights in this layout.
    pub(crate) fn tensor_bytes(self, rows: usize, cols: usize, tensor: &str) -> Result<usize> {
        if self == I2sLayout::X86 {
            return TernaryType::I2S.tensor_bytes(rows, cols, tensor);
        }
        let shape = || vec![cols as u64, rows as u64];
        let refused = |expected| FormatError::Shape {
            tensor: tensor.into(),
            shape: shape(),
            expected,
        };
        let weights = rows.checked_mul(cols);
        let weights = weights.ok_or_else(|| FormatError::ShapeOverflow {
            tensor: tensor.into(),
            shape: shape(),
        })?;
        match self.block() {
            _ if weights == 0 => Err(refused("at least one weight")),
            None if !rows.is_multiple_of(4) => {
                Err(refused("rows in fours for the I2_S layout rows4"))
            }
            Some(block) if !weights.is_multiple_of(block) => Err(FormatError::Block {
                tensor: tensor.into(),
                cols,
                block,
                format: self.format(),
            }),
            _ => Ok(weights / 4 + I2_S_TAIL),
        }
    }

    fn checked<'a>(
        self,
        bytes: &'a [u8],
        [rows, cols]: [usize; 2],
        tensor: &'a str,
    ) -> Result<Source<'a>> {
        let expected = self.tensor_bytes(rows, cols, tensor)?;
        let named = Named {
            tensor,
            format: self.format(),
        };
        named.len([rows, cols], expected, bytes.len())?;
        let (weights, tail) = bytes.split_at(bytes.len() - I2_S_TAIL);
        Ok(Source {
            layout: self,
            named,
            rows,
            cols,
            weights,
            scale: f32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]),
        })
    }

    /// Decodes an I2_S tensor of `rows x cols` (M x K) weights in this layout; `tensor` is
    /// its name in errors.
    ///
    /// # Errors
    /// Those of [`TernaryType::decode`]. Where blocks run across rows, [`FormatError::Block`]
    /// if the weights do not fill them; [`FormatError::Shape`] if the rows of
    /// [`Rows4`](Self::Rows4) do not come in fours.
    pub fn decode(
        self,
        bytes: &[u8],
        rows: usize,
        cols: usize,
        tensor: &str,
    ) -> Result<TernaryMatrix> {
        let source = self.checked(bytes, [rows, cols], tensor)?;
        let scales = Scales::per_tensor(source.scale);
        let Some(block) = self.block() else {
            let matrix = source
                .named
                .matrix_of_rows([rows, cols], scales, |row, trits| {
                    source.row_of_four(row, trits)
                })?;
            source.check_scale()?;
            return Ok(matrix);
        };
        let packed = source.flat(block)?;
        source.check_scale()?;
        TernaryMatrix::from_packed(packed, rows, cols, scales)
            .map_err(|error| source.named.matrix(error))
    }

    /// Decodes an I2_S tensor straight into a packed layer: see [`TernaryType::linear`].
    ///
    /// # Errors
    /// Those of [`Self::decode`] and of [`TernaryType::linear`].
    pub fn linear(
        self,
        bytes: &[u8],
        rows: usize,
        cols: usize,
        tensor: &str,
        ws: &Workspace,
    ) -> Result<Linear> {
        let source = self.checked(bytes, [rows, cols], tensor)?;
        let scales = Scales::per_tensor(source.scale);
        let named = source.named;
        let Some(block) = self.block() else {
            source.check_scale()?;
            return named.layer_of_rows([rows, cols], scales, ws, |row, packed, _| {
                let mut trits = vec![0; cols];
                source.row_of_four(row, &mut trits)?;
                named.encode(&trits, packed)
            });
        };
        if !cols.is_multiple_of(block) {
            // Blocks run across rows.
            let matrix = self.decode(bytes, rows, cols, tensor)?;
            let panels = Panels::pack_on(&matrix, ws);
            let layer = panels.and_then(|panels| Linear::from_parts(panels, scales, None));
            return layer.map_err(|e| named.matrix(e));
        }
        source.check_scale()?;
        named.layer_of_rows([rows, cols], scales, ws, |row, packed, _| {
            let at = row * cols / 4;
            match blocks(block, &source.weights[at..][..cols / 4], packed) {
                true => Ok(()),
                false => Err(source.not_ternary(block, row * cols..(row + 1) * cols)),
            }
        })
    }
}

/// A tensor whose length was checked.
struct Source<'a> {
    layout: I2sLayout,
    named: Named<'a>,
    rows: usize,
    cols: usize,
    weights: &'a [u8],
    scale: f32,
}

impl Source<'_> {
    fn check_scale(&self) -> Result<()> {
        match self.scale.is_finite() {
            true => Ok(()),
            false => Err(FormatError::Scale {
                tensor: self.named.tensor.into(),
                row: 0,
                col: 0,
                value: self.scale,
            }),
        }
    }

    /// The trits of a row of [`I2sLayout::Rows4`].
    fn row_of_four(&self, row: usize, trits: &mut [i8]) -> Result<()> {
        let line = &self.weights[row / 4 * self.cols..][..self.cols];
        for (col, (trit, byte)) in trits.iter_mut().zip(line).enumerate() {
            let code = byte >> (6 - 2 * (row % 4)) & 3;
            if code == 3 {
                return Err(self.named.not_ternary([row, col], code));
            }
            *trit = code as i8 - 1;
        }
        Ok(())
    }

    /// The packed rows of a flat layout.
    fn flat(&self, block: usize) -> Result<Vec<u8>> {
        // Whole blocks that one piece of work decodes.
        let run = block * 32;
        let mut flat = vec![0; self.weights.len()];
        let bad = first_refused(
            parts(self.weights, run / 4),
            parts(&mut flat, run / 4),
            parts(&mut vec![(); self.weights.len().div_ceil(run / 4)], 1),
            |bytes, packed, _| blocks(block, bytes, packed),
        );
        if let Some(at) = bad {
            let end = (self.rows * self.cols).min((at + 1) * run);
            return Err(self.not_ternary(block, at * run..end));
        }
        Ok(match self.cols.is_multiple_of(4) {
            true => flat,
            false => repack(&flat, self.cols),
        })
    }

    /// The error of the first code 3 among the weights `at` of the whole tensor.
    fn not_ternary(&self, block: usize, at: Range<usize>) -> FormatError {
        debug_assert_eq!(self.layout.block(), Some(block));
        let (start, plane) = (at.start, block / 4);
        let code = |at: usize| {
            let (block_start, at) = (at / block * plane, at % block);
            self.weights[block_start + at % plane] >> (6 - at / plane * 2) & 3
        };
        let first = { at }.find(|&at| code(at) == 3).unwrap_or(start);
        let place = [first / self.cols, first % self.cols];
        self.named.not_ternary(place, 3)
    }
}

/// Whole blocks; false if a code is 3.
fn blocks(block: usize, bytes: &[u8], packed: &mut [u8]) -> bool {
    const HIGHEST_FIRST: [u32; 4] = [6, 4, 2, 0];
    let pieces = bytes
        .chunks_exact(block / 4)
        .zip(packed.chunks_exact_mut(block / 4));
    let mut bad = 0;
    for (bytes, out) in pieces {
        bad |= match block {
            64 => planes::<4>(bytes, out, HIGHEST_FIRST),
            _ => planes::<8>(bytes, out, HIGHEST_FIRST),
        };
    }
    bad == 0
}

/// Rows of `cols` weights that follow each other without padding, each to start
/// on a byte of its own.
fn repack(flat: &[u8], cols: usize) -> Vec<u8> {
    let weights = flat.len() * 4;
    let row_bytes = codec::row_bytes(cols);
    let mut packed = vec![0; weights / cols * row_bytes];
    for (row, packed) in packed.chunks_exact_mut(row_bytes).enumerate() {
        for col in 0..cols {
            let at = row * cols + col;
            let code = (flat[at / 4] >> (6 - at % 4 * 2)) & 3;
            packed[col / 4] |= code << (6 - col % 4 * 2);
        }
    }
    packed
}
