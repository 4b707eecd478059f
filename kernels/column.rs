//! Column lanes: many tokens, one load-add per panel byte.
//!
//! # The idea
//! Lanes are tokens. A group of four activations (one panel byte) has 81
//! signed sums; each is computed once as a vector over the tile's tokens:
//! 9 + 9 pair sums, then 81 additions. After that a weight byte costs one
//! addition of the table entry it selects, whatever its weights are:
//!
//! ```text
//! for chunk of G bytes along K:
//!     T[b][i] = the 81 signed sums of the chunk's b-th group      (L1 and L2)
//!     for panel, for row r:
//!         acc = A[r]                                               (L2 cache)
//!         for b in 0..G:  acc += T[b][index(panel[b][r])]          (load-add)
//!         A[r] = acc
//! ```
//!
//! One 64-byte entry is 32 int8 tokens (sums of four need 11 bits, so the
//! lanes are 16 bits wide) or 16 f32 tokens: 128 or 64 MACs an instruction.
//!
//! # Width of the accumulators
//! f32 follows the canonical order of [`super::contract`]: `A` holds block
//! sums, `total` the totals. int8 needs more than 16 bits, and widening every
//! accumulator to 32 bits would double the traffic. Instead a fold splits `A`:
//! its high part (`A >> 8`) is added to `total`, its low byte stays. The sum
//! is `256 * total + A`. With `0 <= A <= 255` after a fold, the next
//! [`BLOCK_BYTES`] bytes keep `-30720 <= A <= 30975`; a fold moves at most 128
//! in magnitude, so `total` holds [`COLUMN_MAX_BLOCKS`] folds.
//!
//! [`BLOCK_BYTES`]: super::contract::BLOCK_BYTES
//! [`COLUMN_MAX_BLOCKS`]: super::contract::COLUMN_MAX_BLOCKS
//!
//! # One source
//! The functions below are generic over the pulp token and inlined into one
//! `#[target_feature]` function per ISA, which is what the kernel table lists.
//! None of them takes or holds a closure: what the compiler decides not to inline
//! is compiled without the features, and takes vectors through memory.

use super::contract::{COLUMN_ENTRIES, ColumnCall, FinishCall, Fold, PANEL_ROWS};
use super::generated::BYTE_INDEX;
use core::mem::size_of;
use pulp::Simd;

/// Bytes of a table entry of the wide kernels: a cache line. Narrow kernels have
/// entries of one shorter vector; below, an entry is `VECTORS` vectors.
pub const ENTRY: usize = 64;
/// int8 tokens of a wide tile: 16-bit lanes of an entry.
pub const LANES_I8: usize = ENTRY / 2;
/// f32 tokens of a wide tile.
pub const LANES_F32: usize = ENTRY / 4;

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
        index << entry.trailing_zeros()
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
/// depends on the vector's number of 128-bit lanes, `LANES`, and on the words in
/// each, `W`: row `16 (LANES part + lane) + W j + h`, with h < W, is word
/// `16 LANES part + W (LANES j + lane) + h`.
#[repr(C, align(64))]
pub struct Quad<W>([W; PANEL_ROWS]);

impl<W> Quad<W> {
    /// The words, as an array to write. The scalar kernels need no pointer.
    #[cfg_attr(not(any(kernels = "x86_64", kernels = "aarch64")), allow(dead_code))]
    pub fn as_mut_ptr(&mut self) -> *mut W {
        self.0.as_mut_ptr()
    }
}

/// Turns panel bytes into places of table entries.
pub trait Expand {
    /// What a row's places are written as.
    type Word: Word;
    /// 128-bit lanes of the vectors that wrote a [`Quad`]: 1, 2 or 4.
    const LANES: usize;
    /// Bytes of an entry, a power of two.
    const ENTRY: usize;

    /// Writes the words of four strips, in the order of [`Quad`]: their
    /// [`Word::next`] gives [`Expand::ENTRY`] times the `BYTE_INDEX`, at most 80, of
    /// a strip's byte after the other. [`look_up`] reads where they say.
    ///
    /// # Safety
    /// Precondition 1 of [`super::contract`]; `panel` has 256 readable bytes.
    unsafe fn quad(panel: *const u8, quad: &mut Quad<Self::Word>);

    /// Asks for the cache line at `panel`, which need not be readable.
    #[inline(always)]
    fn prefetch(_panel: *const u8) {}
}

/// The expansion by the generated table, for entries of [`ENTRY`] bytes.
pub struct ByTable;

impl Expand for ByTable {
    type Word = u32;
    const LANES: usize = 1;
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

/// The vector operations of one accumulator type.
trait Lanes<S: Simd>: Copy + bytemuck::Pod {
    /// `a + b`.
    fn add(simd: S, a: Self, b: Self) -> Self;
    /// `0 - a`. The sign of a zero or a NaN is never seen in a result.
    fn neg(simd: S, a: Self) -> Self;
    /// Turns a finished accumulator and the total before it, none at first, into
    /// what is stored of each.
    fn fold<const N: usize>(
        simd: S,
        sum: [Self; N],
        total: Option<[Self; N]>,
    ) -> ([Self; N], [Self; N]);
}

/// The i16 vectors of a token.
#[repr(transparent)]
struct I16s<S: Simd>(S::i16s);
/// The f32 vectors of a token.
#[repr(transparent)]
struct F32s<S: Simd>(S::f32s);

macro_rules! lanes {
    ($name:ident, $vector:ident, $zero:expr, $splat:ident, $add:ident, $sub:ident, $fold:ident) => {
        impl<S: Simd> Clone for $name<S> {
            #[inline(always)]
            fn clone(&self) -> Self {
                *self
            }
        }
        impl<S: Simd> Copy for $name<S> {}
        // SAFETY: a transparent wrapper of a type that is Pod.
        unsafe impl<S: Simd> bytemuck::Zeroable for $name<S> {}
        // SAFETY: as above.
        unsafe impl<S: Simd> bytemuck::Pod for $name<S> {}
        impl<S: Simd> Lanes<S> for $name<S> {
            #[inline(always)]
            fn add(simd: S, a: Self, b: Self) -> Self {
                Self(simd.$add(a.0, b.0))
            }
            #[inline(always)]
            fn neg(simd: S, a: Self) -> Self {
                Self(simd.$sub(simd.$splat($zero), a.0))
            }
            #[inline(always)]
            fn fold<const N: usize>(
                simd: S,
                sum: [Self; N],
                total: Option<[Self; N]>,
            ) -> ([Self; N], [Self; N]) {
                $fold(simd, sum, total)
            }
        }
    };
}
lanes!(I16s, i16s, 0i16, splat_i16s, add_i16s, sub_i16s, fold_i16s);
lanes!(F32s, f32s, 0f32, splat_f32s, add_f32s, sub_f32s, fold_f32s);

/// Moves the high part of `sum` to `total`: see the module.
#[inline(always)]
fn fold_i16s<S: Simd, const N: usize>(
    _simd: S,
    sum: [I16s<S>; N],
    total: Option<[I16s<S>; N]>,
) -> ([I16s<S>; N], [I16s<S>; N]) {
    let mut low = sum;
    let mut high = match total {
        Some(total) => total,
        None => [bytemuck::Zeroable::zeroed(); N],
    };
    let lows: &mut [i16] = bytemuck::cast_slice_mut(&mut low);
    let highs: &mut [i16] = bytemuck::cast_slice_mut(&mut high);
    for (low, high) in lows.iter_mut().zip(highs) {
        *high = high.wrapping_add(*low >> 8);
        *low &= 0xff;
    }
    (low, high)
}

/// Adds `sum` to `total`.
#[inline(always)]
fn fold_f32s<S: Simd, const N: usize>(
    simd: S,
    sum: [F32s<S>; N],
    total: Option<[F32s<S>; N]>,
) -> ([F32s<S>; N], [F32s<S>; N]) {
    let Some(mut total) = total else {
        return (sum, sum);
    };
    for (total, sum) in total.iter_mut().zip(sum) {
        *total = F32s::add(simd, *total, sum);
    }
    (sum, total)
}

/// The activations of a tile.
trait Activations<V>: Copy {
    /// Vector `v` of row `k`, in a tile whose rows have `vectors` of them: that many
    /// times the lanes of V.
    ///
    /// # Safety
    /// `v < vectors`, and precondition 3 of [`super::contract`] for row k.
    unsafe fn load(self, k: usize, v: usize, vectors: usize) -> V;
}

impl<S: Simd> Activations<I16s<S>> for *const i8 {
    #[inline(always)]
    unsafe fn load(self, k: usize, v: usize, vectors: usize) -> I16s<S> {
        let width = size_of::<I16s<S>>() / 2;
        let mut wide = I16s::<S>(bytemuck::Zeroable::zeroed());
        let lanes: &mut [i16] = bytemuck::cast_slice_mut(core::slice::from_mut(&mut wide));
        // SAFETY: precondition 3: row k holds a value for each lane; v < vectors.
        let x = unsafe { core::slice::from_raw_parts(self.add((k * vectors + v) * width), width) };
        for (lane, &x) in lanes.iter_mut().zip(x) {
            *lane = i16::from(x);
        }
        wide
    }
}

impl<S: Simd> Activations<F32s<S>> for *const f32 {
    #[inline(always)]
    unsafe fn load(self, k: usize, v: usize, vectors: usize) -> F32s<S> {
        let width = size_of::<F32s<S>>() / 4;
        // SAFETY: precondition 3: row k holds a value for each lane; v < vectors.
        unsafe {
            let x = self.add((k * vectors + v) * width);
            x.cast::<F32s<S>>().read_unaligned()
        }
    }
}

/// Builds the tables of `bytes` groups.
///
/// # Safety
/// Preconditions 1, 3, 4 (as output) and 7 of [`super::contract`] for entries of
/// `VECTORS` vectors.
#[inline(always)]
unsafe fn build<S: Simd, V: Lanes<S>, X: Activations<V>, const VECTORS: usize>(
    simd: S,
    x: X,
    bytes: usize,
    tables: *mut u8,
) {
    let zero = V::zeroed();
    let mut table = tables.cast::<V>();
    for b in 0..bytes {
        for v in 0..VECTORS {
            let mut terms = [[zero; 3]; 4];
            for (j, term) in terms.iter_mut().enumerate() {
                // SAFETY: precondition 3: four rows a group; v < VECTORS.
                let x = unsafe { x.load(4 * b + j, v, VECTORS) };
                *term = [zero, x, V::neg(simd, x)];
            }
            let mut low = [zero; 9];
            let mut i = 0;
            for t2 in terms[2] {
                for t3 in terms[3] {
                    low[i] = V::add(simd, t2, t3);
                    i += 1;
                }
            }
            // SAFETY: v < VECTORS, within the first entry of group b.
            let mut entry = unsafe { table.add(v) };
            for t0 in terms[0] {
                for t1 in terms[1] {
                    let high = V::add(simd, t0, t1);
                    for low in low {
                        // SAFETY: 81 entries a group, precondition 4.
                        unsafe { entry.write(V::add(simd, high, low)) };
                        // Wrapping: after the last entry it may be v vectors
                        // beyond one past the end of the tables.
                        entry = entry.wrapping_add(VECTORS);
                    }
                }
            }
        }
        // SAFETY: one past group b's entries; b < bytes.
        table = unsafe { table.add(COLUMN_ENTRIES * VECTORS) };
    }
}

/// int8 tables: see [`super::contract::ColumnKernel::build`].
///
/// # Safety
/// Preconditions 1, 3, 4 (as output) and 7 of [`super::contract`].
#[inline(always)]
pub unsafe fn build_i8<S: Simd, const VECTORS: usize>(
    simd: S,
    xt: *const i8,
    bytes: usize,
    tables: *mut u8,
) {
    // SAFETY: the caller's preconditions, handed on unchanged.
    unsafe { build::<S, I16s<S>, _, VECTORS>(simd, xt, bytes, tables) }
}

/// f32 tables: see [`super::contract::ColumnKernel::build`].
///
/// # Safety
/// Preconditions 1, 3, 4 (as output) and 7 of [`super::contract`].
#[inline(always)]
pub unsafe fn build_f32<S: Simd, const VECTORS: usize>(
    simd: S,
    xt: *const f32,
    bytes: usize,
    tables: *mut u8,
) {
    // SAFETY: the caller's preconditions, handed on unchanged.
    unsafe { build::<S, F32s<S>, _, VECTORS>(simd, xt, bytes, tables) }
}

/// Adds to the sums of two rows what `words` say of the next `strips` tables, and
/// returns the table after them.
///
/// # Safety
/// Precondition 4 of [`super::contract`] for `strips` tables at `table`, at most
/// four; `X::quad` wrote the words.
#[inline(always)]
unsafe fn look_up<S: Simd, V: Lanes<S>, X: Expand, const VECTORS: usize>(
    simd: S,
    sums: &mut [[V; VECTORS]; 2],
    mut words: [X::Word; 2],
    strips: usize,
    mut table: *const u8,
) -> *const u8 {
    for _ in 0..strips {
        for (sum, word) in sums.iter_mut().zip(&mut words) {
            // SAFETY: precondition 4; at most the entry 80.
            let entry = unsafe { &*table.add(word.next(X::ENTRY)).cast::<[V; VECTORS]>() };
            for (sum, &entry) in sum.iter_mut().zip(entry) {
                *sum = V::add(simd, *sum, entry);
            }
        }
        // SAFETY: at most one past the tables of the chunk.
        table = unsafe { table.add(COLUMN_ENTRIES * X::ENTRY) };
    }
    table
}

/// Stores the sum of one row as `fold` says.
///
/// # Safety
/// Precondition 6 of [`super::contract`], for the row's entries at `acc` and
/// `total`.
#[inline(always)]
unsafe fn store<S: Simd, V: Lanes<S>, const VECTORS: usize>(
    simd: S,
    fold: Fold,
    sum: [V; VECTORS],
    acc: *mut [V; VECTORS],
    total: *mut [V; VECTORS],
) {
    // SAFETY: the caller's word for both.
    unsafe {
        match fold {
            Fold::Keep => *acc = sum,
            Fold::Start => (*acc, *total) = V::fold(simd, sum, None),
            Fold::Add => (*acc, *total) = V::fold(simd, sum, Some(*total)),
        }
    }
}

/// The loop over panels and rows, for both accumulator types. `FULL` chunks have
/// `4 * QUADS` strips, a constant that unrolls the look-ups.
///
/// # Safety
/// Preconditions 1, 2, 4, 6, 7 and 8 of [`super::contract`]; `VECTORS` vectors
/// of type `V` make one entry, which `acc`, `total` and `tables` are aligned to.
#[inline(always)]
unsafe fn run<
    S: Simd,
    V: Lanes<S>,
    X: Expand,
    const VECTORS: usize,
    const QUADS: usize,
    const FULL: bool,
>(
    simd: S,
    call: &ColumnCall,
) {
    const { assert!(VECTORS * size_of::<V>() == X::ENTRY) };
    const { assert!(X::ENTRY.is_power_of_two()) };
    let (quads, rest) = if FULL {
        (QUADS, 0)
    } else {
        (call.bytes / 4, call.bytes % 4)
    };
    let mut panel = call.panels;
    let mut acc = call.acc.cast::<[V; VECTORS]>();
    let mut total = call.total.cast::<[V; VECTORS]>();
    let mut expanded = [const { Quad([X::Word::ZERO; PANEL_ROWS]) }; QUADS];
    for _ in 0..call.panel_count {
        let mut strip = panel;
        for quad in expanded.iter_mut().take(quads) {
            // The next panel is a page or more away: no hardware prefetcher
            // sees it coming.
            for line in 0..4 {
                X::prefetch(
                    strip
                        .wrapping_add(call.panel_stride)
                        .wrapping_add(64 * line),
                );
            }
            // SAFETY: precondition 2: four more strips of 64 bytes.
            unsafe {
                X::quad(strip, quad);
                strip = strip.add(4 * PANEL_ROWS);
            }
        }
        if !FULL && rest > 0 {
            let mut strips = [[0u8; PANEL_ROWS]; 4];
            for to in strips.iter_mut().take(rest) {
                // SAFETY: precondition 2: `rest` more strips of 64 bytes.
                unsafe {
                    *to = *strip.cast::<[u8; PANEL_ROWS]>();
                    strip = strip.add(PANEL_ROWS);
                }
            }
            // SAFETY: four strips.
            unsafe { X::quad(strips.as_ptr().cast(), &mut expanded[quads]) };
        }
        let words_in_lane = 16 / size_of::<X::Word>();
        for group in 0..PANEL_ROWS / 16 {
            let (part, lane) = (group / X::LANES, group % X::LANES);
            for pair in 0..8 {
                // Two rows of a 128-bit lane: `W j + h` and the one after.
                let (j, h) = (2 * pair / words_in_lane, 2 * pair % words_in_lane);
                let word = 16 * X::LANES * part + words_in_lane * (X::LANES * j + lane) + h;
                // Two rows at a time: two chains of additions.
                let mut sums = [[V::zeroed(); VECTORS]; 2];
                if !call.first {
                    // SAFETY: precondition 6: acc holds 64 entries a panel.
                    sums = unsafe { [*acc, *acc.add(1)] };
                }
                let mut table = call.tables;
                // SAFETY: precondition 4: tables for all strips of the chunk.
                unsafe {
                    for quad in expanded.iter().take(quads) {
                        let words = [quad.0[word], quad.0[word + 1]];
                        table = look_up::<S, V, X, VECTORS>(simd, &mut sums, words, 4, table);
                    }
                    if !FULL && rest > 0 {
                        let words = [expanded[quads].0[word], expanded[quads].0[word + 1]];
                        look_up::<S, V, X, VECTORS>(simd, &mut sums, words, rest, table);
                    }
                }
                // Not a loop: it would be one, and index the sums in memory.
                let [first_sum, second_sum] = sums;
                // SAFETY: precondition 6: 64 entries a panel, for acc and total.
                unsafe {
                    store(simd, call.fold, first_sum, acc, total);
                    store(simd, call.fold, second_sum, acc.add(1), total.add(1));
                    acc = acc.add(2);
                    total = total.add(2);
                }
            }
        }
        panel = panel.wrapping_add(call.panel_stride);
    }
}

/// The int8 kernel: see [`super::contract::ColumnKernel::run`].
///
/// # Safety
/// Preconditions 1, 2, 4, 6, 7 and 8 of [`super::contract`].
#[inline(always)]
pub unsafe fn run_i8<S: Simd, X: Expand, const VECTORS: usize, const QUADS: usize>(
    simd: S,
    call: &ColumnCall,
) {
    // SAFETY: the caller's preconditions, handed on unchanged.
    unsafe {
        if call.bytes == 4 * QUADS {
            run::<S, I16s<S>, X, VECTORS, QUADS, true>(simd, call)
        } else {
            run::<S, I16s<S>, X, VECTORS, QUADS, false>(simd, call)
        }
    }
}

/// The f32 kernel: see [`super::contract::ColumnKernel::run`].
///
/// # Safety
/// Preconditions 1, 2, 4, 6, 7 and 8 of [`super::contract`].
#[inline(always)]
pub unsafe fn run_f32<S: Simd, X: Expand, const VECTORS: usize, const QUADS: usize>(
    simd: S,
    call: &ColumnCall,
) {
    // SAFETY: the caller's preconditions, handed on unchanged.
    unsafe {
        if call.bytes == 4 * QUADS {
            run::<S, F32s<S>, X, VECTORS, QUADS, true>(simd, call)
        } else {
            run::<S, F32s<S>, X, VECTORS, QUADS, false>(simd, call)
        }
    }
}

/// The portable [`super::contract::ColumnKernel::finish`] for int8:
/// `out[t][r] (+)= 256 * total[r][t] + acc[r][t]`, by shift and addition.
///
/// # Safety
/// Preconditions 1, 5, 6 and 7 of [`super::contract`].
#[inline(never)]
pub unsafe fn finish_i8(call: &FinishCall<i32>) {
    let acc = call.acc.cast::<[i16; LANES_I8]>();
    let total = call.total.cast::<[i16; LANES_I8]>();
    let mut column = call.out;
    for t in 0..LANES_I8 {
        for r in 0..PANEL_ROWS {
            // SAFETY: preconditions 5 and 6: 64 rows, LANES_I8 tokens.
            unsafe {
                let (low, high) = ((*acc.add(r))[t], (*total.add(r))[t]);
                let sum = (i32::from(high) << 8) + i32::from(low);
                let out = column.add(r);
                out.write(if call.accumulate {
                    out.read() + sum
                } else {
                    sum
                });
            }
        }
        // Not dereferenced after the last token. Opaque, or the compiler
        // multiplies the stride to learn where the last token ends.
        column = core::hint::black_box(column.wrapping_add(call.out_stride));
    }
}

/// The portable [`super::contract::ColumnKernel::finish`] for f32:
/// `out[t][r] (+)= total[r][t]`.
///
/// # Safety
/// Preconditions 1, 5, 6 and 7 of [`super::contract`].
#[inline(never)]
pub unsafe fn finish_f32(call: &FinishCall<f32>) {
    let total = call.total.cast::<[f32; LANES_F32]>();
    let mut column = call.out;
    for t in 0..LANES_F32 {
        for r in 0..PANEL_ROWS {
            // SAFETY: preconditions 5 and 6: 64 rows, LANES_F32 tokens.
            unsafe {
                let sum = (*total.add(r))[t];
                let out = column.add(r);
                out.write(if call.accumulate {
                    out.read() + sum
                } else {
                    sum
                });
            }
        }
        // Not dereferenced after the last token. Opaque, or the compiler
        // multiplies the stride to learn where the last token ends.
        column = core::hint::black_box(column.wrapping_add(call.out_stride));
    }
}
