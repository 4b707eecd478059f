//! The types: their numbers, names and sizes.

use crate::error::{FormatError, Result};
use core::fmt;
use tritgemm::GroupSize;

/// A ternary tensor type of ggml or one of its forks.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TernaryType {
    /// llama.cpp, 1.69 bits a weight: five trits a byte.
    Tq1_0,
    /// llama.cpp, 2.06 bits a weight.
    Tq2_0,
    /// llama.cpp, 2.25 bits a weight. Its code 3 is +2: such a tensor is not
    /// ternary and is refused. Older files of PrismML's have blocks of
    /// [`Pq2_0`](Self::Pq2_0) under the same number: the reader of GGUF tells
    /// them by their size.
    Q2_0,
    /// PrismML, 2.125 bits a weight: Q2_0 in blocks of 128. Code 3 is +2 here
    /// too, and refused.
    Pq2_0,
    /// PrismML, 1.75 bits a weight: five trits a byte.
    Ptq1_0,
    /// bitnet.cpp, 2 bits a weight. Three layouts share the number
    /// ([`I2sLayout`](super::I2sLayout)); what takes no layout reads the first.
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
        TernaryType::Pq2_0,
        TernaryType::Ptq1_0,
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
            TernaryType::Pq2_0 => 142,
            TernaryType::Ptq1_0 => 143,
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
            TernaryType::Pq2_0 => "PQ2_0",
            TernaryType::Ptq1_0 => "PTQ1_0",
            TernaryType::I2S => "I2_S",
            TernaryType::Iq2Bn => "IQ2_BN",
            TernaryType::Iq1Bn => "IQ1_BN",
        }
    }

    /// Weights in a block. K is a multiple of it; for I2_S M*K is.
    pub const fn block(self) -> usize {
        match self {
            TernaryType::Tq1_0 | TernaryType::Tq2_0 => 256,
            TernaryType::I2S | TernaryType::Pq2_0 | TernaryType::Ptq1_0 => 128,
            TernaryType::Q2_0 | TernaryType::Iq2Bn | TernaryType::Iq1Bn => 64,
        }
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> usize {
        match self {
            TernaryType::Tq1_0 => 54,
            TernaryType::Tq2_0 => 66,
            TernaryType::Q2_0 => 18,
            TernaryType::Pq2_0 => 34,
            TernaryType::Ptq1_0 => 28,
            TernaryType::I2S => 32,
            TernaryType::Iq2Bn => 16,
            TernaryType::Iq1Bn => 13,
        }
    }

    /// Bytes before the blocks of each row: its scale.
    pub(super) const fn row_header(self) -> usize {
        match self {
            TernaryType::Iq2Bn => 4,
            TernaryType::Iq1Bn => 2,
            _ => 0,
        }
    }

    /// Whether [`TernaryType::encode`] can write it.
    pub const fn is_written(self) -> bool {
        matches!(
            self,
            TernaryType::Tq1_0
                | TernaryType::Tq2_0
                | TernaryType::Q2_0
                | TernaryType::Pq2_0
                | TernaryType::Ptq1_0
        )
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

    /// Weights that share a scale, where those are fewer than a row's.
    pub(super) const fn group(self) -> Option<GroupSize> {
        match self {
            TernaryType::Tq1_0 | TernaryType::Tq2_0 => Some(GroupSize::G256),
            TernaryType::Pq2_0 | TernaryType::Ptq1_0 => Some(GroupSize::G128),
            TernaryType::Q2_0 => Some(GroupSize::G64),
            TernaryType::I2S | TernaryType::Iq2Bn | TernaryType::Iq1Bn => None,
        }
    }
}

impl fmt::Display for TernaryType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Bytes after the weights of I2_S: an f32 and 28 bytes without meaning.
pub(crate) const I2_S_TAIL: usize = 32;
