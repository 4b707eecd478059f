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

/// Byte offsets of table entries, for four strips of 64 rows: of each row four
/// 16-bit offsets in one word, the first strip's in the low bits, so that one
/// load serves four look-ups (a load for each would compete with the tables'
/// for the load ports).
///
/// Interleaving four vectors by unpacking leaves the rows in an order that
/// depends on the vector's number of 128-bit lanes, `LANES`: row
/// `16 (LANES part + lane) + 2 j + h` is word `16 LANES part + 2 LANES j + 2 lane + h`.
#[repr(C, align(64))]
pub struct Quad([u64; PANEL_ROWS]);

impl Quad {
    /// The words, as an array to write. The scalar kernels need no pointer.
    #[cfg_attr(not(any(kernels = "x86_64", kernels = "aarch64")), allow(dead_code))]
    pub fn as_mut_ptr(&mut self) -> *mut u64 {
        self.0.as_mut_ptr()
    }
}

/// Turns panel bytes into byte offsets of table entries.
pub trait Expand {
    /// 128-bit lanes of the vectors that wrote a [`Quad`]: 1, 2 or 4.
    const LANES: usize;
    /// Bytes of an entry, what offsets are multiples of.
    const ENTRY: usize;

    /// Offsets of four strips: `BYTE_INDEX[byte]` times the bytes of an entry.
    ///
    /// # Safety
    /// Precondition 1 of [`super::contract`]; `panel` has 256 readable bytes.
    unsafe fn quad(panel: *const u8, quad: &mut Quad);

    /// Asks for the cache line at `panel`, which need not be readable.
    #[inline(always)]
    fn prefetch(_panel: *const u8) {}
}

/// The expansion by the generated table, for entries of [`ENTRY`] bytes.
pub struct ByTable;

impl Expand for ByTable {
    const LANES: usize = 1;
    const ENTRY: usize = ENTRY;

    #[inline(always)]
    unsafe fn quad(panel: *const u8, quad: &mut Quad) {
        // SAFETY: the caller's word for 256 readable bytes.
        let strips = unsafe { &*panel.cast::<[[u8; PANEL_ROWS]; 4]>() };
        for (r, word) in quad.0.iter_mut().enumerate() {
            let offset = |strip: usize| u64::from(BYTE_INDEX[strips[strip][r] as usize]) << 6;
            *word = offset(0) | offset(1) << 16 | offset(2) << 32 | offset(3) << 48;
        }
    }
}

/// The vector operations of one accumulator type.
trait Lanes<S: Simd>: Copy + bytemuck::Pod {
    /// `a + b`.
    fn add(simd: S, a: Self, b: Self) -> Self;
    /// `0 - a`. The sign of a zero or a NaN is never seen in a result.
    fn neg(simd: S, a: Self) -> Self;
}

/// The i16 vectors of a token.
#[repr(transparent)]
struct I16s<S: Simd>(S::i16s);
/// The f32 vectors of a token.
#[repr(transparent)]
struct F32s<S: Simd>(S::f32s);

macro_rules! lanes {
    ($name:ident, $vector:ident, $zero:expr, $splat:ident, $add:ident, $sub:ident) => {
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
        }
    };
}
lanes!(I16s, i16s, 0i16, splat_i16s, add_i16s, sub_i16s);
lanes!(F32s, f32s, 0f32, splat_f32s, add_f32s, sub_f32s);

/// Builds the tables of `bytes` groups whose activations are already vectors
/// of the accumulator type: `x(4 * b + j)` points at one entry.
///
/// # Safety
/// `load(i, v)` must be callable for `i < 4 * bytes`; `tables` holds
/// `bytes * COLUMN_ENTRIES` entries, aligned to one.
#[inline(always)]
unsafe fn build<S: Simd, V: Lanes<S>, const VECTORS: usize>(
    simd: S,
    mut load: impl FnMut(usize, usize) -> V,
    bytes: usize,
    tables: *mut u8,
) {
    let zero = V::zeroed();
    let mut table = tables.cast::<V>();
    for b in 0..bytes {
        for v in 0..VECTORS {
            let mut terms = [[zero; 3]; 4];
            for (j, term) in terms.iter_mut().enumerate() {
                let x = load(4 * b + j, v);
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
    let width = size_of::<I16s<S>>() / 2;
    let lanes_of_tile = VECTORS * width;
    let load = |k: usize, v: usize| {
        let mut wide = I16s::<S>(bytemuck::Zeroable::zeroed());
        let lanes: &mut [i16] = bytemuck::cast_slice_mut(core::slice::from_mut(&mut wide));
        // SAFETY: precondition 3: row k < 4 * bytes holds a value for each lane.
        let x =
            unsafe { core::slice::from_raw_parts(xt.add(k * lanes_of_tile + v * width), width) };
        for (lane, &x) in lanes.iter_mut().zip(x) {
            *lane = i16::from(x);
        }
        wide
    };
    // SAFETY: preconditions 3 and 4 as stated.
    unsafe { build::<S, I16s<S>, VECTORS>(simd, load, bytes, tables) }
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
    let width = size_of::<F32s<S>>() / 4;
    // SAFETY: precondition 3: row k < 4 * bytes holds a value for each lane.
    let load = |k: usize, v: usize| unsafe {
        xt.add(k * VECTORS * width + v * width)
            .cast::<F32s<S>>()
            .read_unaligned()
    };
    // SAFETY: preconditions 3 and 4 as stated.
    unsafe { build::<S, F32s<S>, VECTORS>(simd, load, bytes, tables) }
}

/// The loop over panels and rows, for both accumulator types. `fold` turns a
/// finished accumulator and the total before it into what is stored of each.
/// `FULL` chunks have `4 * QUADS` strips, a constant that unrolls the look-ups.
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
    fold: impl Fn([V; VECTORS], Option<[V; VECTORS]>) -> ([V; VECTORS], [V; VECTORS]),
) {
    const { assert!(VECTORS * size_of::<V>() == X::ENTRY) };
    let (quads, rest) = if FULL {
        (QUADS, 0)
    } else {
        (call.bytes / 4, call.bytes % 4)
    };
    let mut panel = call.panels;
    let mut acc = call.acc.cast::<[V; VECTORS]>();
    let mut total = call.total.cast::<[V; VECTORS]>();
    let mut offsets = [const { Quad([0; PANEL_ROWS]) }; QUADS];
    for _ in 0..call.panel_count {
        let mut strip = panel;
        for quad in offsets.iter_mut().take(quads) {
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
            unsafe { X::quad(strips.as_ptr().cast(), &mut offsets[quads]) };
        }
        for group in 0..PANEL_ROWS / 16 {
            let (part, lane) = (group / X::LANES, group % X::LANES);
            let first = 16 * X::LANES * part + 2 * lane;
            for j in 0..8 {
                let word = first + 2 * X::LANES * j;
                // Two rows at a time: two chains of additions.
                let mut sums = [[V::zeroed(); VECTORS]; 2];
                if !call.first {
                    // SAFETY: precondition 6: acc holds 64 entries a panel.
                    sums = unsafe { [*acc, *acc.add(1)] };
                }
                let mut table = call.tables;
                let mut look_up = |quad: &Quad, strips: usize| {
                    let mut words = [quad.0[word], quad.0[word + 1]];
                    for _ in 0..strips {
                        for (sum, word) in sums.iter_mut().zip(&mut words) {
                            let offset = (*word & 0xffff) as usize;
                            // SAFETY: precondition 4; at most the entry 80.
                            let entry = unsafe { &*table.add(offset).cast::<[V; VECTORS]>() };
                            for (sum, &entry) in sum.iter_mut().zip(entry) {
                                *sum = V::add(simd, *sum, entry);
                            }
                            *word >>= 16;
                        }
                        // SAFETY: at most one past the tables of the chunk.
                        table = unsafe { table.add(COLUMN_ENTRIES * X::ENTRY) };
                    }
                };
                if FULL {
                    for quad in &offsets {
                        look_up(quad, 4);
                    }
                } else {
                    for quad in offsets.iter().take(quads) {
                        look_up(quad, 4);
                    }
                    if rest > 0 {
                        look_up(&offsets[quads], rest);
                    }
                }
                // SAFETY: precondition 6, for acc and total alike.
                let mut store = |sum| unsafe {
                    match call.fold {
                        Fold::Keep => *acc = sum,
                        Fold::Start => (*acc, *total) = fold(sum, None),
                        Fold::Add => (*acc, *total) = fold(sum, Some(*total)),
                    }
                    acc = acc.add(1);
                    total = total.add(1);
                };
                // Not a loop: it would be one, and index the sums in memory.
                let [first_sum, second_sum] = sums;
                store(first_sum);
                store(second_sum);
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
    let fold = |sum: [I16s<S>; VECTORS], total: Option<[I16s<S>; VECTORS]>| {
        let mut low = sum;
        let mut high = total.unwrap_or([bytemuck::Zeroable::zeroed(); VECTORS]);
        let lows: &mut [i16] = bytemuck::cast_slice_mut(&mut low);
        let highs: &mut [i16] = bytemuck::cast_slice_mut(&mut high);
        for (low, high) in lows.iter_mut().zip(highs) {
            *high = high.wrapping_add(*low >> 8);
            *low &= 0xff;
        }
        (low, high)
    };
    // SAFETY: the caller's preconditions, handed on unchanged.
    unsafe {
        if call.bytes == 4 * QUADS {
            run::<S, I16s<S>, X, VECTORS, QUADS, true>(simd, call, fold)
        } else {
            run::<S, I16s<S>, X, VECTORS, QUADS, false>(simd, call, fold)
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
    let fold = |sum: [F32s<S>; VECTORS], total: Option<[F32s<S>; VECTORS]>| {
        let total = total.map_or(sum, |mut total| {
            for (total, sum) in total.iter_mut().zip(sum) {
                *total = F32s::add(simd, *total, sum);
            }
            total
        });
        (sum, total)
    };
    // SAFETY: the caller's preconditions, handed on unchanged.
    unsafe {
        if call.bytes == 4 * QUADS {
            run::<S, F32s<S>, X, VECTORS, QUADS, true>(simd, call, fold)
        } else {
            run::<S, F32s<S>, X, VECTORS, QUADS, false>(simd, call, fold)
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
