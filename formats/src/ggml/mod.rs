//! The ternary tensor types of ggml and its forks: bytes of a tensor to a
//! [`TernaryMatrix`] and back.
//!
//! | type | number | of | block | bytes | scale |
//! |---|---|---|---|---|---|
//! | [`Tq1_0`](TernaryType::Tq1_0) | 34 | llama.cpp | 256 | 54 | f16 a block |
//! | [`Tq2_0`](TernaryType::Tq2_0) | 35 | llama.cpp | 256 | 66 | f16 a block |
//! | [`Q2_0`](TernaryType::Q2_0) | 42 | llama.cpp | 64 | 18 | f16 a block |
//! | [`I2S`](TernaryType::I2S) | 36 | bitnet.cpp | 128 | 32 | f32 a tensor |
//! | [`Iq1Bn`](TernaryType::Iq1Bn) | 134 | ik_llama.cpp | 64 | 13 | f16 a row |
//! | [`Iq2Bn`](TernaryType::Iq2Bn) | 135 | ik_llama.cpp | 64 | 16 | f32 a row |
//!
//! Scales keep their bits: an f16 becomes the f32 of the same value, a scale a
//! block becomes a scale a group ([`simplify`](crate::simplify) makes fewer of
//! equal ones). Negative scales are legal. Under a scale of 0 every weight is 0
//! whatever its trit: the trits are kept as stored.
//!
//! TQ1_0 and IQ1_BN store five trits in a byte. Only 243 of the 256 values are
//! made by an encoder, yet ggml gives each of them a meaning: so does this
//! decoder, the same one. A byte that no encoder made is therefore no error,
//! and encoding again need not give that byte.
//!
//! ```
//! use tritgemm::{MatRef, Scales, TernaryMatrix};
//! use tritgemm_formats::{ScaleRounding, ggml::TernaryType};
//!
//! let trits: Vec<i8> = (0..512).map(|i| (i % 3) as i8 - 1).collect();
//! let trits = MatRef::new(&trits, 2, 256)?;
//! let matrix = TernaryMatrix::from_trits(trits, Scales::per_row(vec![0.5, 2.0]))?;
//! let bytes = TernaryType::Tq2_0.encode(&matrix, ScaleRounding::Exact, "w")?;
//! assert_eq!(bytes.len(), 2 * 66);
//! let back = TernaryType::Tq2_0.decode(&bytes, 2, 256, "w")?;
//! assert_eq!(tritgemm_formats::simplify(back), matrix);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod bits;
mod decode;
mod encode;

use crate::error::{FormatError, Result};
use crate::parallel::{first_refused, parts};
use crate::rows::Named;
use crate::scales::{ScaleRounding, block_scales, place};
use core::fmt;
use tritgemm::{GroupSize, Linear, Panels, Scales, TernaryMatrix, Workspace, codec};

/// A ternary tensor type of ggml or one of its forks.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TernaryType {
    /// llama.cpp, 1.69 bits a weight: five trits a byte.
    Tq1_0,
    /// llama.cpp, 2.06 bits a weight.
    Tq2_0,
    /// llama.cpp, 2.25 bits a weight. Its code 3 is +2: such a tensor is not
    /// ternary and is refused. PrismML's fork has another layout under the same
    /// number (blocks of 128), which is not read.
    Q2_0,
    /// bitnet.cpp, 2 bits a weight, as on disk (the same on every CPU). Blocks
    /// run through the whole tensor, across the ends of rows.
    I2S,
    /// ik_llama.cpp, 2 bits a weight.
    Iq2Bn,
    /// ik_llama.cpp, 1.625 bits a weight: five trits a byte.
    Iq1Bn,
}

impl TernaryType {
    /// Every type.
    pub const ALL: &'static [TernaryType] = &[
        TernaryType::Tq1_0,
        TernaryType::Tq2_0,
        TernaryType::Q2_0,
        TernaryType::I2S,
        TernaryType::Iq2Bn,
        TernaryType::Iq1Bn,
    ];

    /// The number in a GGUF file.
    pub const fn id(self) -> u32 {
        match self {
            TernaryType::Tq1_0 => 34,
            TernaryType::Tq2_0 => 35,
            TernaryType::I2S => 36,
            TernaryType::Q2_0 => 42,
            TernaryType::Iq1Bn => 134,
            TernaryType::Iq2Bn => 135,
        }
    }

    /// The type of that number in a GGUF file.
    pub fn from_id(id: u32) -> Option<TernaryType> {
        Self::ALL.iter().copied().find(|ty| ty.id() == id)
    }

    /// The name that its project gives it.
    pub const fn name(self) -> &'static str {
        match self {
            TernaryType::Tq1_0 => "TQ1_0",
            TernaryType::Tq2_0 => "TQ2_0",
            TernaryType::Q2_0 => "Q2_0",
            TernaryType::I2S => "I2_S",
            TernaryType::Iq2Bn => "IQ2_BN",
            TernaryType::Iq1Bn => "IQ1_BN",
        }
    }

    /// Weights in a block. K is a multiple of it; for I2_S M*K is.
    pub const fn block(self) -> usize {
        match self {
            TernaryType::Tq1_0 | TernaryType::Tq2_0 => 256,
            TernaryType::I2S => 128,
            TernaryType::Q2_0 | TernaryType::Iq2Bn | TernaryType::Iq1Bn => 64,
        }
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> usize {
        match self {
            TernaryType::Tq1_0 => 54,
            TernaryType::Tq2_0 => 66,
            TernaryType::Q2_0 => 18,
            TernaryType::I2S => 32,
            TernaryType::Iq2Bn => 16,
            TernaryType::Iq1Bn => 13,
        }
    }

    /// Bytes before the blocks of each row: its scale.
    const fn row_header(self) -> usize {
        match self {
            TernaryType::Iq2Bn => 4,
            TernaryType::Iq1Bn => 2,
            _ => 0,
        }
    }

    /// Whether [`TernaryType::encode`] can write it.
    pub const fn is_written(self) -> bool {
        matches!(self, TernaryType::Tq1_0 | TernaryType::Tq2_0)
    }

    /// Bytes of a row of `cols` weights; `None` if that overflows or `cols` is
    /// not a multiple of the block. A tensor has `rows` of them, and I2_S 32
    /// bytes more for its scale.
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        if !cols.is_multiple_of(self.block()) {
            return None;
        }
        (cols / self.block())
            .checked_mul(self.block_bytes())?
            .checked_add(self.row_header())
    }

    /// Bytes of a tensor of `rows x cols` weights; `tensor` is its name in
    /// errors.
    ///
    /// # Errors
    /// [`FormatError::Shape`] if there are no weights, [`FormatError::Block`] if
    /// they do not fill their blocks, [`FormatError::ShapeOverflow`] if the size
    /// does not fit the address space.
    pub fn tensor_bytes(self, rows: usize, cols: usize, tensor: &str) -> Result<usize> {
        let shape = || vec![cols as u64, rows as u64];
        if rows == 0 || cols == 0 {
            return Err(FormatError::Shape {
                tensor: tensor.into(),
                shape: shape(),
                expected: "at least one weight",
            });
        }
        let overflow = || FormatError::ShapeOverflow {
            tensor: tensor.into(),
            shape: shape(),
        };
        let weights = rows.checked_mul(cols).ok_or_else(overflow)?;
        // Only I2_S has blocks that run across rows.
        let run = if self == TernaryType::I2S {
            weights
        } else {
            cols
        };
        if !run.is_multiple_of(self.block()) {
            return Err(FormatError::Block {
                tensor: tensor.into(),
                cols,
                block: self.block(),
                format: self.name(),
            });
        }
        let bytes = if self == TernaryType::I2S {
            (weights / 4).checked_add(I2_S_TAIL)
        } else {
            self.row_bytes(cols).and_then(|row| row.checked_mul(rows))
        };
        bytes.ok_or_else(overflow)
    }

    /// Decodes a tensor of `rows x cols` (M x K) weights; `tensor` is its name
    /// in errors. The scales become one a group of 256 (TQ1_0, TQ2_0) or 64
    /// (Q2_0), one a row (IQ1_BN, IQ2_BN) or one (I2_S).
    ///
    /// # Errors
    /// Those of [`TernaryType::tensor_bytes`]; [`FormatError::SizeMismatch`] if
    /// `bytes` has another length, before anything is allocated;
    /// [`FormatError::NotTernary`] at the first code 3; [`FormatError::Scale`]
    /// if a scale is NaN or infinite; [`FormatError::Matrix`] if K is more than
    /// [`MAX_COLS`](tritgemm::MAX_COLS).
    pub fn decode(
        self,
        bytes: &[u8],
        rows: usize,
        cols: usize,
        tensor: &str,
    ) -> Result<TernaryMatrix> {
        self.check_len(bytes, rows, cols, tensor)?;
        let (packed, scales) = match self {
            TernaryType::I2S => self.decode_flat(bytes, rows, cols, tensor)?,
            _ => self.decode_rows(bytes, rows, cols, tensor)?,
        };
        check_scales(&scales, cols, tensor)?;
        TernaryMatrix::from_packed(packed, rows, cols, scales).map_err(|source| {
            FormatError::Matrix {
                tensor: tensor.into(),
                source,
            }
        })
    }

    /// Decodes a tensor straight into a packed layer, in one pass and on the threads of a
    /// workspace: what [`Linear::new`] makes of what [`Self::decode`] and
    /// [`simplify`](crate::simplify) do.
    ///
    /// # Errors
    /// Those of [`TernaryType::decode`], of several faults that of the first row;
    /// [`FormatError::Matrix`] also if the workspace's
    /// backend is not available, its threads leave work out or memory runs out.
    pub fn linear(
        self,
        bytes: &[u8],
        rows: usize,
        cols: usize,
        tensor: &str,
        ws: &Workspace,
    ) -> Result<Linear> {
        self.check_len(bytes, rows, cols, tensor)?;
        let named = Named {
            tensor,
            format: self.name(),
        };
        let (weights, scales) = match (self, self.group()) {
            (TernaryType::I2S, _) if !cols.is_multiple_of(self.block()) => {
                // Blocks run across rows.
                let matrix = self.decode(bytes, rows, cols, tensor)?;
                let panels = Panels::pack_on(&matrix, ws);
                let scales = matrix.scales().clone();
                let layer = panels.and_then(|panels| Linear::from_parts(panels, scales, None));
                return layer.map_err(|e| named.matrix(e));
            }
            (TernaryType::I2S, _) => {
                let (weights, scale) = flat(bytes);
                (weights, Scales::per_tensor(scale))
            }
            (_, Some(group)) => {
                let count = rows.checked_mul(group.groups(cols));
                let count = count.ok_or_else(|| named.overflow(&[cols, rows]))?;
                (bytes, Scales::per_group(group, vec![0.0; count]))
            }
            (_, None) => (bytes, Scales::per_row(vec![0.0; rows])),
        };
        check_scales(&scales, cols, tensor)?;
        let (row_bytes, granularity) = (weights.len() / rows, scales.granularity());
        named.layer_of_rows([rows, cols], scales, ws, |row, packed, scales| {
            let bytes = &weights[row * row_bytes..][..row_bytes];
            if !decode::row(self, bytes, packed, scales) {
                return Err(self.not_ternary(bytes, 0..cols, |col| (row, col), tensor));
            }
            match scales.iter().position(|v| !v.is_finite()) {
                Some(index) => Err(FormatError::Scale {
                    tensor: tensor.into(),
                    row,
                    col: place(granularity, index, cols).1,
                    value: scales[index],
                }),
                None => Ok(()),
            }
        })
    }

    fn check_len(self, bytes: &[u8], rows: usize, cols: usize, tensor: &str) -> Result<()> {
        let expected = self.tensor_bytes(rows, cols, tensor)?;
        let format = self.name();
        Named { tensor, format }.len([rows, cols], expected, bytes.len())
    }

    /// Weights that share a scale, where those are fewer than a row's.
    const fn group(self) -> Option<GroupSize> {
        match self {
            TernaryType::Tq1_0 | TernaryType::Tq2_0 => Some(GroupSize::G256),
            TernaryType::Q2_0 => Some(GroupSize::G64),
            TernaryType::I2S | TernaryType::Iq2Bn | TernaryType::Iq1Bn => None,
        }
    }

    /// Encodes a matrix as TQ1_0 or TQ2_0; `tensor` is its name in errors. A
    /// scale a row or for the whole matrix is repeated in every block. The
    /// bytes are those that llama.cpp's own encoder makes of these trits.
    ///
    /// # Errors
    /// [`FormatError::Type`] if the type is not written ([`Self::is_written`]);
    /// those of [`TernaryType::tensor_bytes`];
    /// [`FormatError::ScaleRounding`] if `rounding` does not let a scale become
    /// an f16; [`FormatError::ScaleBlock`] if a block has several scales.
    pub fn encode(
        self,
        matrix: &TernaryMatrix,
        rounding: ScaleRounding,
        tensor: &str,
    ) -> Result<Vec<u8>> {
        let encode = match self {
            TernaryType::Tq1_0 => encode::tq1_0,
            TernaryType::Tq2_0 => encode::tq2_0,
            _ => {
                return Err(FormatError::Type {
                    tensor: tensor.into(),
                    type_id: self.id(),
                    type_name: self.name(),
                    expected: "TQ1_0 or TQ2_0, the types that are written",
                });
            }
        };
        let (rows, cols) = (matrix.rows(), matrix.cols());
        let len = self.tensor_bytes(rows, cols, tensor)?;
        let mut scales = block_scales(matrix, self.block(), rounding, self.name(), tensor)?;
        let mut bytes = vec![0; len];
        first_refused(
            parts(matrix.packed(), codec::row_bytes(cols)),
            parts(&mut bytes, len / rows),
            parts(&mut scales, cols / self.block()),
            |packed, out, scales| {
                encode(packed, scales, out);
                true
            },
        );
        Ok(bytes)
    }

    fn decode_rows(
        self,
        bytes: &[u8],
        rows: usize,
        cols: usize,
        tensor: &str,
    ) -> Result<(Vec<u8>, Scales)> {
        let row_bytes = bytes.len() / rows;
        let group = self.group();
        let groups = group.map_or(1, |group| group.groups(cols));
        let mut packed = vec![0; rows * codec::row_bytes(cols)];
        let mut scales = vec![0.0; rows * groups];
        let bad = first_refused(
            parts(bytes, row_bytes),
            parts(&mut packed, codec::row_bytes(cols)),
            parts(&mut scales, groups),
            |bytes, packed, scales| decode::row(self, bytes, packed, scales),
        );
        if let Some(row) = bad {
            let bytes = &bytes[row * row_bytes..][..row_bytes];
            return Err(self.not_ternary(bytes, 0..cols, |col| (row, col), tensor));
        }
        let scales = match group {
            Some(group) => Scales::per_group(group, scales),
            None => Scales::per_row(scales),
        };
        Ok((packed, scales))
    }

    fn decode_flat(
        self,
        bytes: &[u8],
        rows: usize,
        cols: usize,
        tensor: &str,
    ) -> Result<(Vec<u8>, Scales)> {
        let (weights, scale) = flat(bytes);
        let mut flat = vec![0; weights.len()];
        let bad = first_refused(
            parts(weights, I2_S_RUN / 4),
            parts(&mut flat, I2_S_RUN / 4),
            parts(&mut vec![(); weights.len().div_ceil(I2_S_RUN / 4)], 1),
            |bytes, packed, _| decode::row(self, bytes, packed, &mut []),
        );
        if let Some(run) = bad {
            let at = run * I2_S_RUN..(rows * cols).min((run + 1) * I2_S_RUN);
            return Err(self.not_ternary(weights, at, |at| (at / cols, at % cols), tensor));
        }
        if !cols.is_multiple_of(4) {
            flat = repack(&flat, cols);
        }
        Ok((flat, Scales::per_tensor(scale)))
    }

    /// The error of the first code 3 among the weights `at`.
    fn not_ternary(
        self,
        bytes: &[u8],
        at: core::ops::Range<usize>,
        place: impl Fn(usize) -> (usize, usize),
        tensor: &str,
    ) -> FormatError {
        let start = at.start;
        let first = { at }.find(|&at| decode::code(self, bytes, at) == 3);
        let (row, col) = place(first.unwrap_or(start));
        FormatError::NotTernary {
            tensor: tensor.into(),
            row,
            col,
            code: 3,
            format: self.name(),
        }
    }
}

impl fmt::Display for TernaryType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Bytes after the weights of I2_S: an f32 and 28 bytes without meaning.
const I2_S_TAIL: usize = 32;
/// Weights of I2_S that one piece of work decodes, whole blocks.
const I2_S_RUN: usize = 128 * 32;

/// The weights of I2_S and their scale.
fn flat(bytes: &[u8]) -> (&[u8], f32) {
    let (weights, tail) = bytes.split_at(bytes.len() - I2_S_TAIL);
    let scale = f32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]);
    (weights, scale)
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

fn check_scales(scales: &Scales, cols: usize, tensor: &str) -> Result<()> {
    let Some(index) = scales.values().iter().position(|v| !v.is_finite()) else {
        return Ok(());
    };
    let (row, col) = crate::scales::place(scales.granularity(), index, cols);
    Err(FormatError::Scale {
        tensor: tensor.into(),
        row,
        col,
        value: scales.values()[index],
    })
}
