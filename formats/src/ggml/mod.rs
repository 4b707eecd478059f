//! The ternary tensor types of ggml and its forks: bytes of a tensor to a
//! [`TernaryMatrix`] and back.
//!
//! | type | number | of | block | bytes | scale |
//! |---|---|---|---|---|---|
//! | [`Tq1_0`](TernaryType::Tq1_0) | 34 | llama.cpp | 256 | 54 | f16 a block |
//! | [`Tq2_0`](TernaryType::Tq2_0) | 35 | llama.cpp | 256 | 66 | f16 a block |
//! | [`Q2_0`](TernaryType::Q2_0) | 42 | llama.cpp | 64 | 18 | f16 a block |
//! | [`Pq2_0`](TernaryType::Pq2_0) | 142 | PrismML | 128 | 34 | f16 a block |
//! | [`Ptq1_0`](TernaryType::Ptq1_0) | 143 | PrismML | 128 | 28 | f16 a block |
//! | [`I2S`](TernaryType::I2S) | 36 | bitnet.cpp | 128 | 32 | f32 a tensor |
//! | [`Iq1Bn`](TernaryType::Iq1Bn) | 134 | ik_llama.cpp | 64 | 13 | f16 a row |
//! | [`Iq2Bn`](TernaryType::Iq2Bn) | 135 | ik_llama.cpp | 64 | 16 | f32 a row |
//!
//! Scales keep their bits: an f16 becomes the f32 of the same value, a scale a
//! block becomes a scale a group ([`simplify`](crate::simplify) makes fewer of
//! equal ones). Negative scales are legal. Under a scale of 0 every weight is 0
//! whatever its trit: the trits are kept as stored.
//!
//! TQ1_0, PTQ1_0 and IQ1_BN store five trits in a byte. Only 243 of the 256 values are
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
mod i2s;
mod types;

pub use i2s::I2sLayout;
pub(crate) use types::I2_S_TAIL;
pub use types::TernaryType;

use crate::error::{FormatError, Result};
use crate::parallel::{first_refused, parts};
use crate::rows::Named;
use crate::scales::{ScaleRounding, block_scales, place};
use tritgemm::{Linear, Scales, TernaryMatrix, Workspace, codec};

impl TernaryType {
    /// Decodes a tensor of `rows x cols` (M x K) weights; `tensor` is its name
    /// in errors. The scales become one a group of 256 (TQ1_0, TQ2_0), 128
    /// (PQ2_0, PTQ1_0) or 64 (Q2_0), one a row (IQ1_BN, IQ2_BN) or one (I2_S,
    /// which is read as [`I2sLayout::X86`]).
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
        if self == TernaryType::I2S {
            return I2sLayout::X86.decode(bytes, rows, cols, tensor);
        }
        self.check_len(bytes, rows, cols, tensor)?;
        let (packed, scales) = self.decode_rows(bytes, rows, cols, tensor)?;
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
        if self == TernaryType::I2S {
            return I2sLayout::X86.linear(bytes, rows, cols, tensor, ws);
        }
        self.check_len(bytes, rows, cols, tensor)?;
        let named = Named {
            tensor,
            format: self.name(),
        };
        let scales = match self.group() {
            Some(group) => {
                let count = rows.checked_mul(group.groups(cols));
                let count = count.ok_or_else(|| named.overflow(&[cols, rows]))?;
                Scales::per_group(group, vec![0.0; count])
            }
            None => Scales::per_row(vec![0.0; rows]),
        };
        let (row_bytes, granularity) = (bytes.len() / rows, scales.granularity());
        named.layer_of_rows([rows, cols], scales, ws, |row, packed, scales| {
            let bytes = &bytes[row * row_bytes..][..row_bytes];
            if !decode::row(self, bytes, packed, scales) {
                return Err(self.not_ternary(bytes, row, cols, tensor));
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

    /// Encodes a matrix in a type that is written ([`Self::is_written`]);
    /// `tensor` is its name in errors. A scale that covers more than a block is
    /// repeated in each of its blocks: PQ2_0 becomes Q2_0 and comes back without
    /// loss. The bytes of TQ1_0 and TQ2_0 are those that llama.cpp's own encoder
    /// makes of these trits.
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
            TernaryType::Q2_0 => encode::q2_0::<16>,
            TernaryType::Pq2_0 => encode::q2_0::<32>,
            TernaryType::Ptq1_0 => encode::ptq1_0,
            _ => {
                return Err(FormatError::Type {
                    tensor: tensor.into(),
                    type_id: self.id(),
                    type_name: self.name(),
                    expected: "TQ1_0, TQ2_0, Q2_0, PQ2_0 or PTQ1_0, the types that are written",
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
            return Err(self.not_ternary(bytes, row, cols, tensor));
        }
        let scales = match group {
            Some(group) => Scales::per_group(group, scales),
            None => Scales::per_row(scales),
        };
        Ok((packed, scales))
    }

    /// The error of the first code 3 of a row.
    fn not_ternary(self, bytes: &[u8], row: usize, cols: usize, tensor: &str) -> FormatError {
        let col = (0..cols).find(|&col| decode::code(self, bytes, col) == 3);
        let format = self.name();
        Named { tensor, format }.not_ternary([row, col.unwrap_or(0)], 3)
    }
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
