//! The 2-bit weights of ONNX Runtime's `com.microsoft.MatMulNBits`.
//!
//! The operator's input `B` is uint8 `[N][blocks][block_size / 4]` with
//! `blocks = ceil(K / block_size)`: N is the number of rows (M everywhere else
//! here), and a block is `block_size` weights along K that share a scale.
//! Element `j` of a block lies in byte `j / 4` at bits `2 (j mod 4)`, the first
//! in the lowest. A weight is worth `(code - zero point) * scale`; it is
//! ternary where the code is at most one from the zero point. With the zero
//! point 1 that is -1 = `00`, 0 = `01`, +1 = `10`, and `11` is an error; with 2,
//! the operator's default for 2 bits, -1 = `01`, 0 = `10`, +1 = `11`, and `00`
//! is one.
//!
//! ```
//! use tritgemm_formats::onnx::{MatMulNBits, ZeroPoints};
//!
//! let node = MatMulNBits {
//!     tensor: "B",
//!     n: 1,
//!     k: 4,
//!     block_size: 16,
//!     b: &[0b01_10_01_00, 0, 0, 0],
//!     scales: &[0.5],
//!     zero_points: ZeroPoints::Same(1),
//! };
//! assert_eq!(node.decode()?.to_f32()?, [-0.5, 0.0, 0.5, 0.0]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`MatMulNBits`] takes the tensors of a node, wherever they came from;
//! [`OnnxModel`] finds them in a file. Blocks that the matrix ends within may
//! hold anything after its last column.

mod model;
mod proto;
mod tensor;

pub(crate) use model::Initialiser;
pub use model::OnnxModel;

use crate::error::{FormatError, Result};
use crate::rows::Named;
use tritgemm::{GroupSize, Linear, Scales, TernaryMatrix, Workspace};

const FORMAT: &str = "ONNX MatMulNBits";

/// Weights in a byte.
const PER_BYTE: usize = 4;

/// What a node's zero points are.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum ZeroPoints<'a> {
    /// The node has none: 2, half of the range of codes.
    Omitted,
    /// One for all of them.
    Same(u8),
    /// uint8 `[N][ceil(blocks / 4)]`, four a byte, the first in the lowest bits;
    /// every row starts a byte.
    Packed(&'a [u8]),
    /// `[N][blocks]` numbers of the type of the scales.
    PerBlock(&'a [f32]),
}

/// The weights of a `MatMulNBits` node with `bits = 2`.
#[derive(Clone, Copy, Debug)]
pub struct MatMulNBits<'a> {
    /// Name of the tensor `B`, for messages.
    pub tensor: &'a str,
    /// The attribute `N`: rows of the matrix (M, outputs).
    pub n: usize,
    /// The attribute `K`: columns (inputs).
    pub k: usize,
    /// The attribute `block_size`: a power of two from 16 up, or `N * K`, with
    /// one scale for all of them.
    pub block_size: usize,
    /// The input `B`, `[n][blocks][block_size / 4]`.
    pub b: &'a [u8],
    /// The input `scales`, `[n][blocks]`; [`FloatType::decode`] has them from
    /// bytes.
    ///
    /// [`FloatType::decode`]: crate::FloatType::decode
    pub scales: &'a [f32],
    /// The input `zero_points`.
    pub zero_points: ZeroPoints<'a>,
}

/// Where the blocks of a node are.
#[derive(Clone, Copy)]
struct Blocks {
    /// Weights in a block, along one row.
    len: usize,
    per_row: usize,
    bytes: usize,
}

impl MatMulNBits<'_> {
    /// The matrix and its scales:
    ///
    /// | blocks | scales |
    /// |---|---|
    /// | `N * K` | per tensor |
    /// | K or longer | per row |
    /// | 32, 64, 128, 256 | per group |
    /// | longer | per group of 256, each block's scale repeated |
    /// | 16 | per group of 32, if both blocks of a group have the same scale |
    ///
    /// # Errors
    /// If a code is no ternary weight (named with its row and column), blocks
    /// of 16 within a group of 32 have different scales, a scale is not
    /// finite, a zero point is not 0, 1, 2 or 3, or a size does not fit the
    /// shape.
    pub fn decode(&self) -> Result<TernaryMatrix> {
        let blocks = self.blocks()?;
        let scales = self.matrix_scales(blocks)?;
        let fill = self.rows(blocks)?;
        self.named().matrix_of_rows([self.n, self.k], scales, fill)
    }

    /// Decodes the weights straight into a packed layer, in one pass and on the threads of a
    /// workspace: what [`Linear::new`] makes of what [`Self::decode`] and
    /// [`simplify`](crate::simplify) do.
    ///
    /// # Errors
    /// Those of [`Self::decode`]; [`FormatError::Matrix`] also if the workspace's backend is
    /// not available, its threads leave work out or memory runs out.
    pub fn linear(&self, ws: &Workspace) -> Result<Linear> {
        let blocks = self.blocks()?;
        let scales = self.matrix_scales(blocks)?;
        let fill = self.rows(blocks)?;
        let named = self.named();
        named.layer_of_rows([self.n, self.k], scales, ws, |row, packed, _| {
            let mut trits = vec![0; self.k];
            fill(row, &mut trits)?;
            named.encode(&trits, packed)
        })
    }

    /// What writes the trits of a row.
    fn rows(&self, blocks: Blocks) -> Result<impl Fn(usize, &mut [i8]) -> Result<()> + Sync + '_> {
        let zero = self.zero_points(blocks)?;
        let named = self.named();
        Ok(move |row: usize, trits: &mut [i8]| {
            let bytes = &self.b[row * blocks.per_row * blocks.bytes..];
            for (block, trits) in trits.chunks_mut(blocks.len).enumerate() {
                let bytes = &bytes[block * blocks.bytes..][..blocks.bytes];
                let zero = zero(row, block) as i8;
                for (j, trit) in trits.iter_mut().enumerate() {
                    let code = bytes[j / PER_BYTE] >> (2 * (j % PER_BYTE)) & 3;
                    *trit = code as i8 - zero;
                    if !(-1..=1).contains(trit) {
                        return Err(named.not_ternary([row, block * blocks.len + j], code));
                    }
                }
            }
            Ok(())
        })
    }

    fn named(&self) -> Named<'_> {
        Named {
            tensor: self.tensor,
            format: FORMAT,
        }
    }

    fn attribute(
        &self,
        attribute: &'static str,
        value: impl ToString,
        expected: &'static str,
    ) -> FormatError {
        FormatError::Attribute {
            tensor: self.tensor.to_owned(),
            attribute,
            value: value.to_string(),
            expected,
        }
    }

    fn one_scale(&self) -> bool {
        self.scales.len() == 1 && self.n.checked_mul(self.k) == Some(self.block_size)
    }

    fn blocks(&self) -> Result<Blocks> {
        let (n, k, size) = (self.n, self.k, self.block_size);
        let len = if self.one_scale() { k } else { size };
        if !self.one_scale() && (size < 16 || !size.is_power_of_two()) {
            return Err(self.attribute("block_size", size, "a power of two from 16 up, or N * K"));
        }
        let blocks = Blocks {
            len: len.max(1),
            per_row: k.div_ceil(len.max(1)),
            bytes: len.div_ceil(PER_BYTE),
        };
        let all = n.checked_mul(blocks.per_row);
        let (Some(all), Some(bytes)) = (all, all.and_then(|all| all.checked_mul(blocks.bytes)))
        else {
            return Err(self.named().overflow(&[n, k, size]));
        };
        self.named().len([n, k], bytes, self.b.len())?;
        if self.scales.len() != all && !self.one_scale() {
            let len = self.scales.len();
            return Err(self.attribute("the number of scales", len, "one for every block"));
        }
        Ok(blocks)
    }

    fn zero_points(&self, blocks: Blocks) -> Result<impl Fn(usize, usize) -> u8 + Sync> {
        let zero_points = self.zero_points;
        let packed_per_row = blocks.per_row.div_ceil(PER_BYTE);
        // No overflow: there is at least as much of `b`.
        let (len, expected) = match zero_points {
            ZeroPoints::Packed(bytes) => (bytes.len(), self.n * packed_per_row),
            ZeroPoints::PerBlock(values) => (values.len(), self.n * blocks.per_row),
            ZeroPoints::Omitted | ZeroPoints::Same(_) => (0, 0),
        };
        if len != expected {
            let expected = "N times ceil(blocks / 4) bytes or N times blocks numbers";
            return Err(self.attribute("the length of zero_points", len, expected));
        }
        let odd = match zero_points {
            ZeroPoints::Same(zero) => (zero > 3).then(|| zero.to_string()),
            ZeroPoints::PerBlock(values) => values
                .iter()
                .find(|v| ![0.0, 1.0, 2.0, 3.0].contains(*v))
                .map(f32::to_string),
            _ => None,
        };
        if let Some(value) = odd {
            return Err(self.attribute("a zero point", value, "0, 1, 2 or 3"));
        }
        Ok(move |row: usize, block: usize| match zero_points {
            ZeroPoints::Omitted => 2,
            ZeroPoints::Same(zero) => zero,
            ZeroPoints::Packed(bytes) => {
                bytes[row * packed_per_row + block / PER_BYTE] >> (2 * (block % PER_BYTE)) & 3
            }
            ZeroPoints::PerBlock(values) => values[row * blocks.per_row + block] as u8,
        })
    }

    fn matrix_scales(&self, blocks: Blocks) -> Result<Scales> {
        let scales = self.scales;
        if let Some(at) = scales.iter().position(|s| !s.is_finite()) {
            return Err(FormatError::Scale {
                tensor: self.tensor.to_owned(),
                row: at / blocks.per_row.max(1),
                col: at % blocks.per_row.max(1) * blocks.len,
                value: scales[at],
            });
        }
        if self.one_scale() {
            return Ok(Scales::per_tensor(scales[0]));
        }
        if blocks.per_row == 1 {
            return Ok(Scales::per_row(scales.to_vec()));
        }
        if let Some(size) = GroupSize::from_len(blocks.len) {
            return Ok(Scales::per_group(size, scales.to_vec()));
        }
        let size = if blocks.len > GroupSize::G256.len() {
            GroupSize::G256
        } else {
            GroupSize::G32
        };
        let mut merged = Vec::new();
        for (row, scales) in scales.chunks(blocks.per_row.max(1)).enumerate() {
            for group in 0..size.groups(self.k) {
                let start = group * size.len() / blocks.len;
                let end = ((group + 1) * size.len()).div_ceil(blocks.len);
                let scales = &scales[start..end.min(scales.len())];
                let first = scales[0];
                if let Some(at) = scales.iter().position(|s| s.to_bits() != first.to_bits()) {
                    return Err(FormatError::ScaleGroup {
                        tensor: self.tensor.to_owned(),
                        row,
                        col: (start + at) * blocks.len,
                        block: blocks.len,
                        group: size.len(),
                        value: scales[at],
                        first,
                    });
                }
                merged.push(first);
            }
        }
        Ok(Scales::per_group(size, merged))
    }
}
