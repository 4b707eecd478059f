//! The packed uint8 layout of Hugging Face BitNet checkpoints (safetensors).
//!
//! A layer's `weight` of M x K is a U8 tensor `[R, K]`, R = ceil(M / 4), and
//! its scale a tensor `weight_scale` of one element. Row `r` lies in packed row
//! `r mod R` at bits `2 (r div R)`: a byte holds one column of four rows a
//! quarter of the matrix apart, the first quarter in the lowest bits.
//!
//! | code | weight |
//! |---|---|
//! | `00` | -1 |
//! | `01` | 0 |
//! | `10` | +1 |
//! | `11` | none |
//!
//! **Rows.** The file does not say M where it is no multiple of 4: M is then
//! the caller's to give, and [`decode`] takes 4 R for it otherwise. The rows
//! beyond M hold code `00`, as transformers packs them; anything else there is
//! an error, so that an M too small cannot drop weights.
//!
//! **Scales.** What `weight_scale` means is up to the model's
//! `quantization_config.linear_class` ([`LinearClass`]): `autobitlinear`
//! multiplies by it, so it is the scale, bit for bit; `bitlinear` divides by
//! it. The scale is then the f32 next to its reciprocal, the only rounding
//! there is; it tells every bf16 and f16 apart from its neighbours, so
//! [`encode_scale`] finds the stored value again. There is one scale a tensor:
//! others cannot be written.
//!
//! The tensor is of the model's own type, bf16 in what is published, and
//! transformers converts it to that type when it loads a file.

use crate::error::{FormatError, Result};
use crate::float::FloatType;
use crate::rows::Named;
use crate::scales::ScaleRounding;
#[cfg(feature = "rayon")]
use rayon::prelude::*;
use safetensors::{Dtype, SafeTensors};
use tritgemm::{Granularity, Linear, Scales, TernaryMatrix, Workspace, codec};

const FORMAT: &str = "HF BitNet";

/// Rows in a byte.
const ROWS_PER_BYTE: usize = 4;

/// What divides or multiplies by `weight_scale`: the class of a model's linear
/// layers, `quantization_config.linear_class` of its `config.json`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum LinearClass {
    /// `bitlinear`: outputs are divided by it. What transformers assumes where
    /// a configuration names none. The reciprocal is rounded as the calling thread's
    /// floating-point environment says.
    #[default]
    BitLinear,
    /// `autobitlinear`: outputs are multiplied by it.
    AutoBitLinear,
}

impl LinearClass {
    /// Both.
    pub const ALL: [LinearClass; 2] = [LinearClass::BitLinear, LinearClass::AutoBitLinear];

    /// The name that a `config.json` has for it.
    pub const fn name(self) -> &'static str {
        match self {
            LinearClass::BitLinear => "bitlinear",
            LinearClass::AutoBitLinear => "autobitlinear",
        }
    }

    /// The class of that name.
    ///
    /// ```
    /// use tritgemm_formats::hf::LinearClass;
    /// assert_eq!(LinearClass::from_name("autobitlinear"), Some(LinearClass::AutoBitLinear));
    /// ```
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.name() == name)
    }

    /// What a stored value multiplies weights by, and the other way round.
    fn swap(self, value: f32) -> f32 {
        match self {
            LinearClass::BitLinear => 1.0 / value,
            LinearClass::AutoBitLinear => value,
        }
    }
}

/// A packed matrix as it lies in a file.
#[derive(Clone, Copy, Debug)]
pub struct Packed<'a> {
    /// Name of the tensor, for messages.
    pub tensor: &'a str,
    /// `[packed_rows][cols]`.
    pub bytes: &'a [u8],
    /// R = ceil(M / 4).
    pub packed_rows: usize,
    /// K.
    pub cols: usize,
    /// `weight_scale`, as stored.
    pub weight_scale: f32,
}

/// Reads a packed matrix of `rows` rows (M), or of `4 R`.
///
/// ```
/// use tritgemm::Scales;
/// use tritgemm_formats::hf::{self, LinearClass, Packed};
///
/// // Four rows of one column: -1, 0, +1, 0, from the low bits up.
/// let bytes = [0b01_10_01_00];
/// let packed = Packed { tensor: "w", bytes: &bytes, packed_rows: 1, cols: 1, weight_scale: 4.0 };
/// let matrix = hf::decode(&packed, LinearClass::BitLinear, None)?;
/// assert_eq!(matrix.to_trits()?, [-1, 0, 1, 0]);
/// assert_eq!(matrix.scales(), &Scales::per_tensor(0.25));
/// assert_eq!(hf::encode(&matrix), bytes);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// If a code is `11` (named with its row and column), a row beyond M holds
/// anything but code `00`, R is not `ceil(rows / 4)`, the length does not fit
/// the shape, or the scale is not finite.
pub fn decode(
    packed: &Packed<'_>,
    class: LinearClass,
    rows: Option<usize>,
) -> Result<TernaryMatrix> {
    let source = packed.source(class, rows)?;
    source.named.matrix_of_rows(
        [source.rows, packed.cols],
        Scales::per_tensor(source.scale),
        |row, trits| source.fill(row, trits),
    )
}

/// Reads a packed matrix straight into a packed layer, in one pass and on the threads of a
/// workspace: what [`Linear::new`] makes of what [`decode`] does.
///
/// # Errors
/// Those of [`decode`]; [`FormatError::Matrix`] also if the workspace's backend is not
/// available, its threads leave work out or memory runs out.
pub fn linear(
    packed: &Packed<'_>,
    class: LinearClass,
    rows: Option<usize>,
    ws: &Workspace,
) -> Result<Linear> {
    let source = packed.source(class, rows)?;
    source.named.layer_of_rows(
        [source.rows, packed.cols],
        Scales::per_tensor(source.scale),
        ws,
        |row, packed, _| {
            let mut trits = vec![0; source.packed.cols];
            source.fill(row, &mut trits)?;
            source.named.encode(&trits, packed)
        },
    )
}

/// A packed matrix that was checked, but for the codes of its rows.
struct Source<'a> {
    packed: Packed<'a>,
    named: Named<'a>,
    rows: usize,
    scale: f32,
}

impl Source<'_> {
    fn codes(&self, row: usize) -> impl Iterator<Item = u8> {
        let Packed {
            bytes,
            packed_rows,
            cols,
            ..
        } = self.packed;
        let (line, shift) = (row % packed_rows, 2 * (row / packed_rows));
        let line = &bytes[line * cols..][..cols];
        line.iter().map(move |byte| byte >> shift & 3)
    }

    fn fill(&self, row: usize, trits: &mut [i8]) -> Result<()> {
        for (col, (trit, code)) in trits.iter_mut().zip(self.codes(row)).enumerate() {
            if code == 3 {
                return Err(self.named.not_ternary([row, col], code));
            }
            *trit = code as i8 - 1;
        }
        Ok(())
    }
}

impl<'a> Packed<'a> {
    fn source(&self, class: LinearClass, rows: Option<usize>) -> Result<Source<'a>> {
        let &Packed {
            tensor,
            bytes,
            packed_rows,
            cols,
            weight_scale,
        } = self;
        let named = Named {
            tensor,
            format: FORMAT,
        };
        let stored = [packed_rows, cols];
        let (Some(len), Some(all_rows)) = (
            packed_rows.checked_mul(cols),
            packed_rows.checked_mul(ROWS_PER_BYTE),
        ) else {
            return Err(named.overflow(&stored));
        };
        let rows = rows.unwrap_or(all_rows);
        if rows.div_ceil(ROWS_PER_BYTE) != packed_rows {
            return Err(FormatError::Rows {
                tensor: tensor.to_owned(),
                rows,
                packed_rows,
            });
        }
        named.len([rows, cols], len, bytes.len())?;
        let scale = class.swap(weight_scale);
        for value in [weight_scale, scale] {
            if !value.is_finite() {
                return Err(FormatError::Scale {
                    tensor: tensor.to_owned(),
                    row: 0,
                    col: 0,
                    value,
                });
            }
        }
        let source = Source {
            packed: *self,
            named,
            rows,
            scale,
        };
        for row in rows..all_rows {
            if let Some((col, code)) = source.codes(row).enumerate().find(|&(_, code)| code != 0) {
                return Err(FormatError::PaddingRow {
                    tensor: tensor.to_owned(),
                    row,
                    col,
                    code,
                    rows,
                });
            }
        }
        Ok(source)
    }
}

/// The packed bytes of a matrix, `[ceil(M / 4)][K]`. Its scale is
/// [`encode_scale`]'s.
///
/// transformers loads layers whose M is a multiple of 4 only.
pub fn encode(matrix: &TernaryMatrix) -> Vec<u8> {
    let (rows, cols) = (matrix.rows(), matrix.cols());
    let packed_rows = rows.div_ceil(ROWS_PER_BYTE);
    // No more bytes than weights, and those can be addressed; but a shape
    // without columns may claim any number of rows.
    let mut bytes = vec![0; packed_rows * cols];
    if cols == 0 {
        return bytes;
    }
    let row_bytes = codec::row_bytes(cols);
    let fill = |(line, out): (usize, &mut [u8])| {
        let rows = matrix.packed().chunks_exact(row_bytes);
        for (quarter, row) in rows.skip(line).step_by(packed_rows).enumerate() {
            for (col, byte) in out.iter_mut().enumerate() {
                // 00, 01 and 10 are 0, +1 and -1 here, and there 01, 10 and 00.
                let code = row[col / 4] >> (6 - 2 * (col % 4)) & 3;
                *byte |= ((code + 1) % 3) << (2 * quarter);
            }
        }
    };
    #[cfg(feature = "rayon")]
    if crate::parallel::in_pool() {
        bytes.par_chunks_mut(cols).enumerate().for_each(fill);
        return bytes;
    }
    bytes.chunks_mut(cols).enumerate().for_each(fill);
    bytes
}

/// The bytes of `weight_scale` for a matrix.
///
/// # Errors
/// If the matrix has not one scale for all of it; if no value of the type
/// stands for just that scale, unless `rounding` allows the nearest; if there
/// is no finite one at all.
pub fn encode_scale(
    tensor: &str,
    matrix: &TernaryMatrix,
    class: LinearClass,
    stored: FloatType,
    rounding: ScaleRounding,
) -> Result<Vec<u8>> {
    let scales = matrix.scales();
    let (Granularity::PerTensor, &[scale]) = (scales.granularity(), scales.values()) else {
        return Err(FormatError::ScaleLayout {
            tensor: tensor.to_owned(),
            granularity: scales.granularity(),
            expected: "one scale a tensor",
            format: FORMAT,
        });
    };
    let value = stored.nearest(class.swap(scale));
    let read_back = class.swap(value);
    let kept = read_back.to_bits() == scale.to_bits();
    // As in the other formats, a scale does not become 0 by rounding either.
    let usable = value.is_finite() && read_back.is_finite() && (read_back != 0.0 || scale == 0.0);
    if !usable || !kept && rounding == ScaleRounding::Exact {
        return Err(FormatError::ScaleRounding {
            tensor: tensor.to_owned(),
            row: 0,
            col: 0,
            value: scale,
            nearest: read_back,
            stored: match class {
                LinearClass::AutoBitLinear => stored.name(),
                LinearClass::BitLinear => match stored {
                    FloatType::F32 => "the reciprocal of an f32",
                    FloatType::F16 => "the reciprocal of an f16",
                    FloatType::Bf16 => "the reciprocal of a bf16",
                },
            },
            format: FORMAT,
        });
    }
    Ok(stored.encode(value))
}

/// The name of the scale of the tensor `name`.
pub fn scale_name(name: &str) -> String {
    format!("{name}_scale")
}

/// The [`FloatType`] of a safetensors type, if it is one.
pub fn float_type(dtype: Dtype) -> Option<FloatType> {
    match dtype {
        Dtype::F32 => Some(FloatType::F32),
        Dtype::F16 => Some(FloatType::F16),
        Dtype::BF16 => Some(FloatType::Bf16),
        _ => None,
    }
}

/// Names of the packed matrices of a file, sorted: every U8 tensor of two
/// dimensions that has a floating-point `_scale` of one element.
pub fn matrices<'a>(file: &'a SafeTensors<'_>) -> Vec<&'a str> {
    let is_scale = |name: &str| {
        file.tensor(&scale_name(name)).is_ok_and(|scale| {
            float_type(scale.dtype()).is_some() && scale.shape().iter().product::<usize>() == 1
        })
    };
    let mut names: Vec<&str> = file
        .iter()
        .filter(|(name, t)| t.dtype() == Dtype::U8 && t.shape().len() == 2 && is_scale(name))
        .map(|(name, _)| name)
        .collect();
    names.sort_unstable();
    names
}

/// Reads the packed matrix `name` of a file: see [`decode`].
///
/// # Errors
/// As [`decode`]; if the tensor or its scale is missing or not of the right
/// type or shape.
pub fn read(
    file: &SafeTensors<'_>,
    name: &str,
    class: LinearClass,
    rows: Option<usize>,
) -> Result<TernaryMatrix> {
    let tensor = |name: &str| {
        let tensor = name.to_owned();
        let found = file.tensor(name);
        found.map_err(|_| FormatError::NoTensor { tensor })
    };
    let shape_error = |name: &str, shape: &[usize], expected| FormatError::Shape {
        tensor: name.to_owned(),
        shape: shape.iter().map(|&n| n as u64).collect(),
        expected,
    };
    let weight = tensor(name)?;
    let (Dtype::U8, &[packed_rows, cols]) = (weight.dtype(), weight.shape()) else {
        return Err(shape_error(name, weight.shape(), "U8 [ceil(M / 4), K]"));
    };
    let scale_name = scale_name(name);
    let scale = tensor(&scale_name)?;
    let values = float_type(scale.dtype()).map(|t| t.decode(scale.data()));
    let Some([weight_scale]) = values.as_deref() else {
        let expected = "one BF16, F16 or F32";
        return Err(shape_error(&scale_name, scale.shape(), expected));
    };
    let packed = Packed {
        tensor: name,
        bytes: weight.data(),
        packed_rows,
        cols,
        weight_scale: *weight_scale,
    };
    decode(&packed, class, rows)
}
