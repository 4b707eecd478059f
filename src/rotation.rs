//! Rotated inputs: weights that were trained or folded behind a Walsh-Hadamard transform.

use crate::activation::Activation;
use crate::kernels::auto::hadamard;
use crate::kernels::environment::in_default;
use crate::matrix::{MAX_COLS, MatrixError};
use crate::memory;
use crate::mismatch::check_length;
use std::sync::Arc;

/// A blockwise normalised Walsh-Hadamard transform with signs: `H (s * x)` of each `block`
/// values along K, `H` in Sylvester's order and scaled by `1 / sqrt(block)`. It spreads
/// outliers over their block, and is its own inverse but for the signs.
///
/// As a property of a [`Linear`](crate::Linear) it is applied to activations when they are
/// prepared, in f32, by additions in one order and one scaling: the same bits on every
/// instruction set. The rotation of PrismML's Bonsai models is one.
///
/// ```
/// use tritgemm::{Linear, MatMut, MatRef, Rotation, Scales, TernaryMatrix, Workspace};
/// let trits = MatRef::new(&[1, 0, 0, 0], 1, 4)?; // the first value of H (s * x)
/// let layer = Linear::new(&TernaryMatrix::from_trits(trits, Scales::per_tensor(1.0))?)?;
/// let layer = layer.with_rotation(Rotation::new(4, Some(&[1, 1, -1, 1]))?)?;
/// let (mut y, mut ws) = ([0.0], Workspace::new());
/// let x = MatRef::new(&[1.0, 2.0, 3.0, 4.0], 1, 4)?;
/// layer.forward_f32(x, MatMut::new(&mut y, 1, 1)?, &mut ws)?;
/// assert_eq!(y, [(1.0 + 2.0 - 3.0 + 4.0) / 2.0]);
/// # Ok::<(), tritgemm::Error>(())
/// ```
#[derive(Clone, PartialEq, Debug)]
pub struct Rotation {
    block: usize,
    /// The sign bit where a value's sign is turned; all are kept without.
    signs: Option<Arc<Vec<u32>>>,
}

/// The sign bit of an f32.
const SIGN: u32 = 1 << 31;

impl Rotation {
    /// Of blocks of a power of two values, with a sign (1 or -1) for each value of K, or none.
    ///
    /// # Errors
    /// If `block` is no power of two up to 2^23, a sign is another number, or there are no
    /// whole blocks of signs.
    pub fn new(block: usize, signs: Option<&[i8]>) -> Result<Self, MatrixError> {
        if !block.is_power_of_two() || block > MAX_COLS {
            return Err(MatrixError::RotationBlock { block, cols: None });
        }
        let Some(signs) = signs else {
            return Ok(Self { block, signs: None });
        };
        if let Some(index) = signs.iter().position(|s| !matches!(s, 1 | -1)) {
            let value = signs[index];
            return Err(MatrixError::RotationSign { index, value });
        }
        let mut bits = Vec::new();
        memory::extend(
            &mut bits,
            signs.iter().map(|&s| if s < 0 { SIGN } else { 0 }),
        )?;
        let rotation = Self {
            block,
            signs: Some(Arc::new(bits)),
        };
        rotation.check(signs.len())?;
        Ok(rotation)
    }

    /// Values of a block.
    pub fn block(&self) -> usize {
        self.block
    }

    /// The signs, 1 or -1, if there are any.
    pub fn signs(&self) -> Option<impl ExactSizeIterator<Item = i8> + '_> {
        let signs = self.signs.as_ref()?.iter();
        Some(signs.map(|&sign| if sign == 0 { 1 } else { -1 }))
    }

    /// Rotates a token: `x = H (s * x)`.
    ///
    /// # Errors
    /// If `x` is not whole blocks, or there are more or fewer signs.
    pub fn apply(&self, x: &mut [f32]) -> Result<(), MatrixError> {
        in_default(|| {
            self.check(x.len())?;
            self.turn(x);
            hadamard::transform(x, self.block, self.scale());
            Ok(())
        })
    }

    /// Rotates back: `x = s * H x`. What a row that was looked up in a table with rotated rows
    /// needs ([`Linear::unpack_row`](crate::Linear::unpack_row)).
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub fn invert(&self, x: &mut [f32]) -> Result<(), MatrixError> {
        in_default(|| {
            self.check(x.len())?;
            hadamard::transform(x, self.block, self.scale());
            self.turn(x);
            Ok(())
        })
    }

    fn turn(&self, x: &mut [f32]) {
        for (x, &sign) in x
            .iter_mut()
            .zip(self.signs.as_deref().map_or(&[][..], Vec::as_slice))
        {
            *x = f32::from_bits(x.to_bits() ^ sign);
        }
    }

    /// Exact where the block is a power of four.
    fn scale(&self) -> f32 {
        (1.0 / (self.block as f64).sqrt()) as f32
    }

    /// Hands the signs to `take` a piece at a time, a bit each, set for -1.
    pub(crate) fn sign_bits<E>(
        &self,
        mut take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut piece = [0; 1024];
        let signs = self.signs.as_deref().map_or(&[][..], Vec::as_slice);
        for signs in signs.chunks(8 * piece.len()) {
            let piece = &mut piece[..signs.len().div_ceil(8)];
            for (byte, eight) in piece.iter_mut().zip(signs.chunks(8)) {
                let bits = eight.iter().enumerate();
                *byte = bits.fold(0, |byte, (i, &sign)| byte | u8::from(sign != 0) << i);
            }
            take(piece)?;
        }
        Ok(())
    }

    /// As [`Self::sign_bits`] gives them, for `cols` values.
    pub(crate) fn from_sign_bits(
        block: usize,
        bits: Option<&[u8]>,
        cols: usize,
    ) -> Result<Self, MatrixError> {
        let Some(bits) = bits else {
            return Self::new(block, None);
        };
        let mut signs = Vec::new();
        let sign = |j: usize| {
            if bits[j / 8] >> (j % 8) & 1 == 1 {
                -1
            } else {
                1
            }
        };
        memory::extend(&mut signs, (0..cols).map(sign))?;
        Self::new(block, Some(&signs))
    }

    /// Whether it can be that of so many columns.
    pub(crate) fn check(&self, cols: usize) -> Result<(), MatrixError> {
        if !cols.is_multiple_of(self.block) {
            let (block, cols) = (self.block, Some(cols));
            return Err(MatrixError::RotationBlock { block, cols });
        }
        let signs = self.signs.as_deref();
        Ok(signs.map_or(Ok(()), |signs| check_length("signs", signs.len(), cols))?)
    }

    /// `y = H (s * x)`, of a token whose length was checked.
    pub(crate) fn rotate<T: Activation>(&self, x: &[T], y: &mut [f32]) {
        match &self.signs {
            Some(signs) => T::signed(x, signs, y),
            None => T::widen(x, y),
        }
        hadamard::transform(y, self.block, self.scale());
    }
}
