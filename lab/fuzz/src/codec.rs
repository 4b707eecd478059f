//! The encoding by definition, one weight at a time, and its errors.

use crate::fill::Fill;
use arbitrary::{Arbitrary, Result, Unstructured};
use tritgemm::codec::{CodecError, Mode};

/// Most weights of a case.
const WEIGHTS: usize = 1 << 13;

/// Rows and columns of a small matrix.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
}

impl<'a> Arbitrary<'a> for Size {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let cols = u.int_in_range(0..=1100)?;
        let rows = u.int_in_range(0..=130)?.min(WEIGHTS / cols.max(1));
        Ok(Self { rows, cols })
    }
}

/// Strict or lenient.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum ModeChoice {
    /// [`Mode::Strict`].
    Strict,
    /// [`Mode::Lenient`].
    Lenient,
}

impl From<ModeChoice> for Mode {
    fn from(choice: ModeChoice) -> Mode {
        match choice {
            ModeChoice::Strict => Mode::Strict,
            ModeChoice::Lenient => Mode::Lenient,
        }
    }
}

/// What stands where nothing was written.
pub const CANARY: u8 = 0xa5;

/// Encodes row by row into bytes that held [`CANARY`].
pub fn encode(
    trits: &[i8],
    size: Size,
    mode: Mode,
) -> (Vec<u8>, std::result::Result<(), CodecError>) {
    let Size { rows, cols } = size;
    let row_bytes = cols.div_ceil(4);
    let mut packed = vec![CANARY; rows * row_bytes];
    for row in 0..rows {
        packed[row * row_bytes..][..row_bytes].fill(0);
        let mut wrong = None;
        for col in 0..cols {
            let value = trits[row * cols + col];
            let code = match value {
                1 => 0b01,
                -1 => 0b10,
                _ => 0b00,
            };
            if !(-1..=1).contains(&value) && wrong.is_none() {
                wrong = Some(CodecError::Trit { row, col, value });
            }
            packed[row * row_bytes + col / 4] |= code << (6 - 2 * (col % 4));
        }
        if let (Some(error), Mode::Strict) = (wrong, mode) {
            return (packed, Err(error));
        }
    }
    (packed, Ok(()))
}

/// Decodes row by row into weights that held [`CANARY`].
pub fn decode(
    packed: &[u8],
    size: Size,
    mode: Mode,
) -> (Vec<i8>, std::result::Result<(), CodecError>) {
    let Size { rows, cols } = size;
    let row_bytes = cols.div_ceil(4);
    let mut trits = vec![CANARY as i8; rows * cols];
    for row in 0..rows {
        let bytes = &packed[row * row_bytes..][..row_bytes];
        let mut wrong = None;
        for col in 0..4 * row_bytes {
            let code = bytes[col / 4] >> (6 - 2 * (col % 4)) & 3;
            if col >= cols {
                if code != 0 && wrong.is_none() {
                    wrong = Some(CodecError::Padding { row });
                }
                continue;
            }
            if code == 3 && wrong.is_none() {
                wrong = Some(CodecError::Code { row, col });
            }
            trits[row * cols + col] = [0, 1, -1, 0][usize::from(code)];
        }
        if let (Some(error), Mode::Strict) = (wrong, mode) {
            return (trits, Err(error));
        }
    }
    (trits, Ok(()))
}

/// The bits of `trit * scale` as the decoder has them; what was not decoded
/// keeps its canary.
pub fn scaled(trits: &[i8], size: Size, scales: &[f32]) -> Vec<u32> {
    let bits = |(i, &trit): (usize, &i8)| match trit {
        0 => 0,
        1 => scales[i / size.cols].to_bits(),
        -1 => (-scales[i / size.cols]).to_bits(),
        _ => u32::from(CANARY),
    };
    trits.iter().enumerate().map(bits).collect()
}

/// Memory for `len` elements at an odd address, with canaries around it.
pub struct Guarded<T> {
    data: Vec<T>,
    canary: T,
}

impl<T: Copy + PartialEq + std::fmt::Debug> Guarded<T> {
    const MARGIN: usize = 67;

    /// All canaries.
    pub fn new(len: usize, canary: T) -> Self {
        let data = vec![canary; len + 2 * Self::MARGIN];
        Self { data, canary }
    }

    /// What may be written.
    pub fn inside(&mut self) -> &mut [T] {
        let len = self.data.len();
        &mut self.data[Self::MARGIN..len - Self::MARGIN]
    }

    /// What was written, after checking that nothing around it was.
    pub fn take(mut self, what: &str) -> Vec<T> {
        let inside = self.inside().to_vec();
        let (before, after) = (Self::MARGIN, Self::MARGIN + inside.len());
        let around = self.data[..before].iter().chain(&self.data[after..]);
        for value in around {
            // NaN canaries are not used.
            assert_eq!(*value, self.canary, "around the output: {what}");
        }
        inside
    }
}

/// Trits, or what is mostly trits.
#[derive(Arbitrary, Clone, Debug)]
pub enum Trits {
    /// Legal ones.
    Legal(Fill),
    /// Any bytes.
    Any(Fill),
    /// Legal but for one.
    But(Fill, u16, i8),
}

impl Trits {
    /// `len` of them.
    pub fn values(&self, len: usize) -> Vec<i8> {
        match self {
            Trits::Legal(fill) => fill.trits(len),
            Trits::Any(fill) => fill.i8s(len),
            Trits::But(fill, at, value) => {
                let mut trits = fill.trits(len);
                if len > 0 {
                    trits[usize::from(*at) % len] = *value;
                }
                trits
            }
        }
    }
}
