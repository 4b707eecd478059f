//! From panel bytes to places in the tables.

use crate::kernels::contract::ENTRY;
use crate::kernels::contract::PANEL_ROWS;
use crate::kernels::generated::BYTE_INDEX;
use core::mem::size_of;

/// Where the entries of one row in the tables of four strips are: one word, the
/// first strip's in its low bits, so that one load serves four look-ups (a load
/// for each would compete with the tables' for the load ports).
pub trait Word: Copy {
    /// What a quad holds before it is written.
    const ZERO: Self;
    /// The byte offset of the first strip's entry in its table, for entries of
    /// `entry` bytes; the word is then that of the strips after it.
    fn next(&mut self, entry: usize) -> usize;
}

/// Four base-3 indices of 8 bits: quickly made, and an instruction more a
/// look-up, which hides behind the load of a whole line.
impl Word for u32 {
    const ZERO: Self = 0;

    #[inline(always)]
    fn next(&mut self, entry: usize) -> usize {
        let index = (*self & 0xff) as usize;
        *self >>= 8;
        index * entry
    }
}

/// Four byte offsets of 16 bits, where the instructions of a look-up count: for
/// entries of half a line, and where a line takes four registers.
impl Word for u64 {
    const ZERO: Self = 0;

    #[inline(always)]
    fn next(&mut self, _entry: usize) -> usize {
        let offset = (*self & 0xffff) as usize;
        *self >>= 16;
        offset
    }
}

/// The words of 64 rows.
///
/// Interleaving the strips' vectors by unpacking leaves the rows in an order that
/// depends on the vector's number of 128-bit lanes and on the words in each:
/// `place` says where. The accumulators of a panel keep that order until they
/// are finished, so that the loop over rows needs no arithmetic for it.
#[repr(C, align(64))]
pub struct Quad<W>(pub [W; PANEL_ROWS]);

impl<W> Quad<W> {
    /// The words, as an array to write. The scalar kernels need no pointer.
    #[cfg_attr(not(any(kernels = "x86_64", kernels = "aarch64")), allow(dead_code))]
    pub fn as_mut_ptr(&mut self) -> *mut W {
        self.0.as_mut_ptr()
    }
}

/// Which word of a [`Quad`], and which entry of a panel's accumulators, is `row`'s:
/// the same, where vectors have one lane. For 8 rows from a multiple of 8, or 16
/// from one of 16, it is the first one's place and `place(0..8)` or `place(0..16)`:
/// constants, which stay out of the arithmetic.
#[cfg(kernels = "x86_64")]
#[inline(always)]
pub const fn place<X: Expand>(row: usize) -> usize {
    let words = 16 / size_of::<X::Word>();
    let (part, lane) = (row / 16 / X::PARTS, row / 16 % X::PARTS);
    let (j, h) = (row % 16 / words, row % words);
    16 * X::PARTS * part + words * (X::PARTS * j + lane) + h
}

/// The row whose word, and entry, is number `word`.
#[inline(always)]
pub const fn row_of<X: Expand>(word: usize) -> usize {
    let words = 16 / size_of::<X::Word>();
    let (part, rest) = (word / (16 * X::PARTS), word % (16 * X::PARTS));
    let (j, lane, h) = (
        rest / (words * X::PARTS),
        rest / words % X::PARTS,
        rest % words,
    );
    16 * (X::PARTS * part + lane) + words * j + h
}

/// Turns panel bytes into places of table entries.
pub trait Expand {
    /// What a row's places are written as.
    type Word: Word;
    /// 128-bit lanes of the vectors that wrote a [`Quad`]: 1, 2 or 4.
    const PARTS: usize;
    /// Bytes of an entry, a power of two.
    const ENTRY: usize;

    /// Writes the words of four strips, in the order of [`Quad`]: their
    /// [`Word::next`] gives [`Expand::ENTRY`] times the `BYTE_INDEX`, at most 80, of
    /// a strip's byte after the other. [`crate::kernels::many::look_up`] reads where they say.
    ///
    /// # Safety
    /// Precondition 1 of [`crate::kernels::contract`]; `panel` has 256 readable bytes.
    unsafe fn quad(panel: *const u8, quad: &mut Quad<Self::Word>);
}

/// The expansion by the generated table, for entries of [`ENTRY`] bytes.
pub struct ByTable;

impl Expand for ByTable {
    type Word = u32;
    const PARTS: usize = 1;
    const ENTRY: usize = ENTRY;

    #[inline(always)]
    unsafe fn quad(panel: *const u8, quad: &mut Quad<u32>) {
        // SAFETY: the caller's word for 256 readable bytes.
        let strips = unsafe { &*panel.cast::<[[u8; PANEL_ROWS]; 4]>() };
        for (r, word) in quad.0.iter_mut().enumerate() {
            let mut indices = [0; 4];
            for (index, strip) in indices.iter_mut().zip(strips) {
                *index = BYTE_INDEX[strip[r] as usize];
            }
            *word = u32::from_le_bytes(indices);
        }
    }
}
