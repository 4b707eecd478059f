//! Sizes: small ones that end anywhere, large ones now and then.

use arbitrary::{Arbitrary, Result, Unstructured};

/// Most weights of a matrix, usually and now and then.
const WEIGHTS: [usize; 2] = [1 << 10, 1 << 12];
/// Most multiply-adds of a usual product, and of one of a large matrix, which is
/// enough to be shared among workers.
const MACS: [usize; 2] = [1 << 15, 3 << 20];
/// Rows from which a matrix is large.
const LARGE: usize = 257;

/// Rows and columns of a matrix.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// M.
    pub rows: usize,
    /// K.
    pub cols: usize,
}

impl<'a> Arbitrary<'a> for Shape {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        if u.ratio(1, 64)? {
            let rows = u.int_in_range(LARGE..=2 * LARGE)?;
            let cols = u.int_in_range(64..=128)?;
            return Ok(Self { rows, cols });
        }
        let weights = WEIGHTS[usize::from(u.ratio(1, 4)?)];
        let cols = u.int_in_range(0..=300)?;
        let rows = u.int_in_range(0..=200)?.min(weights / cols.max(1));
        Ok(Self { rows, cols })
    }
}

/// Tokens of a product.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Tokens {
    /// Less than a tile, mostly.
    Few(u8),
    /// As many as are not too slow.
    Many(u8),
    /// More than the buffers have, unless rows are empty.
    Claimed(usize),
}

impl Tokens {
    /// Tokens that there are, and those the call is told of, for a matrix.
    pub fn of(self, m: usize, k: usize) -> [usize; 2] {
        let most = |n: u8| {
            let macs = MACS[usize::from(m >= LARGE)];
            usize::from(n).min(macs / m.max(1) / k.max(1))
        };
        match self {
            Tokens::Few(n) => [most(n % 10); 2],
            Tokens::Many(n) => [most(n); 2],
            Tokens::Claimed(n) => [most(3), n],
        }
    }
}

/// A row where a slice begins or ends.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Cut {
    /// Where a panel does.
    Panel(u8),
    /// Anywhere.
    Row(usize),
    /// At the end.
    End,
}

impl Cut {
    /// Its number.
    pub fn of(self, rows: usize) -> usize {
        match self {
            Cut::Panel(panel) => 64 * usize::from(panel % 8),
            Cut::Row(row) => row,
            Cut::End => rows,
        }
    }
}
