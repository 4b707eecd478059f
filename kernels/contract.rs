//! What a kernel is given and what it may rely on.
//!
//! A kernel never sees a matrix, allocates, spawns or decides anything: it is
//! handed a fixed-size tile by raw pointers. The caller owes it the numbered
//! preconditions below; every `SAFETY` comment in `kernels/` cites them.
//!
//! # Preconditions
//!
//! 1. **Features.** The CPU has every feature that the kernel's [`KernelSet`] names.
//! 2. **Panels.** For every panel `p < panel_count`, the bytes
//!    `panels + p * panel_stride .. + units * unit_strips * 64` are readable
//!    (few) or `.. + strips * 64` (many). Any alignment.
//! 3. **Activations.** `x` has `units * unit_strips * 4` readable elements
//!    (few), or `xt` has `strips * 4 * tokens of a tile` (many).
//! 4. **Tables.** For every token `t`, `tables + t * table_stride` starts
//!    `units * table_bytes` bytes that `build` has filled for the same units,
//!    aligned to the largest power of two, at most 64, that divides
//!    `table_bytes`. Tables for many tokens are `table_bytes` for each `unit_strips`
//!    of the chunk, a part of them counted whole, aligned likewise to `entry_bytes`.
//! 5. **Outputs.** For every panel `p` (`finish` has one) and token `t` of the tile,
//!    `out + p * panel_sums + t * out_stride` is valid for 64 elements, initialised
//!    where the call accumulates. Aligned as its element type.
//! 6. **Accumulators.** `acc` and `total` each hold `panel_count * 64` rows of
//!    one table entry, aligned as its tables are; `acc` is initialised unless
//!    `first`, `total` if `fold` is `Fold::Add`, and both before `finish`. `tokens`
//!    is at least 1, at most the kernel's, and the same in all calls for a tile;
//!    what the places of the tokens after them hold is not specified.
//! 7. **Exclusive.** What is written overlaps nothing else that is passed.
//! 8. **Bounds on K.** `units <= max_units` (few); at most [`MANY_MAX_FOLDS`] folds
//!    between two `finish` calls, and between two folds at most [`BLOCK_STRIPS`]
//!    strips of f32, or int8 activations whose magnitudes add up to at most
//!    [`MANY_MAX_SUM`] for each token, which those of [`BLOCK_STRIPS`] strips never
//!    exceed (many).
//! 9. **Scaling.** If `fold` scales, `scales` has 64 readable f32 for each panel and
//!    `token_scales` one for each token of a whole tile; `sums` is valid for 64 f32 for each
//!    panel and token of a whole tile, aligned as tables are, and initialised unless `first`;
//!    `total` is initialised if `fold` is `Fold::ScaleTotals`.
//! 10. **Groups.** For a call that scales groups, panels and tables are those of all of K up to
//!     the end of its groups, none of which has more than [`FewScaled::most_strips`]. For each
//!     [`FewGroup`], panel `p` and token `t`, 64 scales are readable from its `scales` plus
//!     `p * panel_sums` on, and for int8 one at its `token_scale` plus `t * token_stride`.
//!     `units` of the call is not looked at.
//!
//! # The canonical f32 order
//!
//! For each byte (four weights) the value `((±x0 ± x1) + (±x2 ± x3))` with
//! absent terms `+0.0`, added in order of k into a block sum that starts at
//! `+0.0`; block sums of [`BLOCK_STRIPS`] strips added in order into the total
//! that starts at `+0.0`. An f32 call starts on a block boundary. A sum that
//! starts at `+0.0` is never `-0.0`, so the sign of a zero term is never seen,
//! and bytes of zero weights at the end change no bit.

use core::num::NonZero;
use core::ops::Range;

/// Rows in a panel.
pub const PANEL_ROWS: usize = 64;
/// Strips in a block of the canonical order (240 weights).
pub const BLOCK_STRIPS: usize = 60;
/// Panels are padded along K to a multiple of this many strips, so that a
/// kernel which reads 3 strips at a time never needs a tail.
pub const DEPTH_MULTIPLE: usize = 3;
/// Folds of an accumulator for many tokens before it must be finished: each carries
/// at most 127 + 1 into a 16-bit lane.
pub const MANY_MAX_FOLDS: usize = 240;
/// Magnitudes of a token's int8 activations that an accumulator for many tokens takes
/// between two folds, one of which leaves up to 255.
pub const MANY_MAX_SUM: u16 = i16::MAX as u16 - 255;
const _: () = assert!(4 * BLOCK_STRIPS * 128 <= MANY_MAX_SUM as usize);
/// Entries of a table for many tokens: the signed sums of four activations.
pub const MANY_ENTRIES: usize = 81;
/// Bytes of an entry of the largest tiles for many tokens: a cache line. Smaller tiles
/// have entries of one shorter vector.
pub const ENTRY: usize = 64;
/// int8 tokens of such a tile: 16-bit lanes of an entry.
pub const TOKENS_I8: usize = ENTRY / 2;
/// f32 tokens of such a tile.
pub const TOKENS_F32: usize = ENTRY / 4;

/// One call of a kernel for few tokens: `out[t][p][r] (+)= sum_k w[p][r][k] x[t][k]`.
#[derive(Clone, Copy)]
// Only tiles of several tokens or panels read the strides between them; not every
// target has them.
#[allow(dead_code)]
pub struct FewCall<Acc> {
    /// First byte of the first panel's range of K.
    pub panels: *const u8,
    /// Bytes from a panel to the next of the tile.
    pub panel_stride: usize,
    /// Table units (of `unit_strips` strips) to sum over.
    pub units: usize,
    /// Tables of the first token.
    pub tables: *const u8,
    /// Bytes from a token's tables to the next token's.
    pub table_stride: usize,
    /// Sums of the first token.
    pub out: *mut Acc,
    /// Elements from a panel's sums to those of the next one of the tile.
    pub panel_sums: usize,
    /// Elements from a token's sums to the next token's.
    pub out_stride: usize,
    /// Add to what `out` holds instead of overwriting it.
    pub accumulate: bool,
    /// Bytes from the end of a panel's range to the start of the one that the
    /// next call is likely to read, modulo 2^64. Only prefetches use it: no
    /// value is wrong.
    pub ahead: usize,
    /// The call before read the same panels, which are in a cache: prefetches
    /// would only take the place of loads.
    #[cfg_attr(not(kernels = "x86_64"), allow(dead_code))]
    pub read_before: bool,
}

impl<Acc> FewCall<Acc> {
    /// How far from the strip being read to prefetch, with `left` bytes of the
    /// panel to go: `distance` bytes along what this call and the next one read.
    ///
    /// Past its end a panel is followed in memory by another one. In a tile of neighbours
    /// that one is being read already: `ahead` leads to the next tile instead.
    ///
    /// The scalar and NEON kernels leave prefetching to the CPU.
    #[cfg_attr(not(kernels = "x86_64"), allow(dead_code))]
    #[inline(always)]
    pub fn prefetch(&self, distance: usize, left: usize) -> usize {
        if left > distance {
            distance
        } else {
            distance.wrapping_add(self.ahead)
        }
    }
}

/// Which groups of K a call sums, and what scales them.
#[cfg_attr(not(kernels = "x86_64"), allow(dead_code))]
#[derive(Clone)]
pub struct FewGroups {
    /// Strips of K.
    pub strips: usize,
    /// Strips of a group; the last one may have fewer.
    pub group_strips: usize,
    /// The groups of the call.
    pub groups: Range<usize>,
    /// The first one's tables are looked for from this strip's on.
    pub tables_at: usize,
    /// Strips that groups' tables are padded to, a multiple of the kernel's units: each starts
    /// as far behind a multiple of them as the group does.
    pub padded_to: NonZero<usize>,
    /// Scales of the first panel's rows in the first group of K.
    pub scales: ScalePointer,
    /// Scales from those of the rows in some groups to those in the next ones.
    pub scale_stride: usize,
    /// Groups that share a scale of a row.
    pub groups_per_scale: NonZero<usize>,
    /// Scales of the first token; f32 activations have none.
    pub token_scales: *const f32,
    /// Scales from a token's to the next token's.
    pub token_stride: usize,
    /// Groups that share a scale of a token.
    pub groups_per_token_scale: NonZero<usize>,
}

/// Scales of rows, as a layer keeps them.
#[cfg_attr(not(kernels = "x86_64"), allow(dead_code))]
#[derive(Clone, Copy)]
pub enum ScalePointer {
    /// As they are.
    F32(*const f32),
    /// Bits of finite f16.
    F16(*const u16),
}

/// A group of a call.
#[cfg_attr(not(kernels = "x86_64"), allow(dead_code))]
pub struct FewGroup {
    /// Its first table unit, counted from the start of K; it may be the last of the group
    /// before as well.
    pub first: usize,
    /// Its table units.
    pub units: usize,
    /// The first one's number among the tables.
    pub table: usize,
    /// Its first scale among those of rows.
    pub scales: usize,
    /// Its scale among those of the first token.
    pub token_scale: usize,
}

impl FewGroups {
    /// The call's first group that is left, taken out of it.
    #[inline(always)]
    pub fn next(&mut self, unit_strips: usize) -> Option<FewGroup> {
        let group = self.groups.start;
        if group >= self.groups.end {
            return None;
        }
        self.groups.start += 1;
        let start = group * self.group_strips;
        let end = self.strips.min(start + self.group_strips);
        let first = start / unit_strips;
        let padded_to = self.padded_to.get();
        let padded = start / self.padded_to..(end + padded_to - 1) / self.padded_to;
        let table = self.tables_at + start - padded_to * padded.start;
        self.tables_at += padded_to * (padded.end - padded.start);
        Some(FewGroup {
            first,
            units: end.div_ceil(unit_strips) - first,
            table: table / unit_strips,
            scales: group / self.groups_per_scale * self.scale_stride,
            token_scale: group / self.groups_per_token_scale,
        })
    }

    /// Table units of K up to the end of the call's groups.
    #[inline(always)]
    pub fn end(&self, unit_strips: usize) -> usize {
        let end = self.strips.min(self.groups.end * self.group_strips);
        end.div_ceil(unit_strips)
    }
}

/// The entry of a tile that scales the sums of groups: see [`FewScaled::run`].
pub type FewRunScaled = unsafe fn(&FewCall<f32>, &FewGroups);

/// What kernels for few tokens have that scale the sums of groups of K themselves.
#[derive(Clone, Copy)]
pub struct FewScaled {
    /// Strips that a group may have.
    pub most_strips: usize,
    /// For each of the kernel's tiles `out[t][p][r] += sum as f32 * (scale[p][r] *
    /// token_scale[t])`, group after group, without the token's scale for f32 activations; by
    /// the only multiplications. Preconditions 1, 2, 4, 5, 7, 8 and 10.
    pub run: &'static [FewRunScaled],
}

/// One tile shape of a kernel for few tokens.
pub struct FewTile<Acc> {
    /// Panels the tile covers at once.
    pub panels: usize,
    /// Tokens the tile covers at once.
    pub tokens: usize,
    /// The kernel. Preconditions 1, 2, 4, 5, 7 and 8.
    pub run: unsafe fn(&FewCall<Acc>),
}

impl<Acc> FewTile<Acc> {
    /// A tile of `panels` panels by `tokens` tokens.
    pub const fn new(panels: usize, tokens: usize, run: unsafe fn(&FewCall<Acc>)) -> Self {
        Self {
            panels,
            tokens,
            run,
        }
    }

    /// Tiles of 4, 2 and 1 panels by one token.
    pub const fn of_panels([four, two, one]: [unsafe fn(&FewCall<Acc>); 3]) -> [Self; 3] {
        [
            Self::new(4, 1, four),
            Self::new(2, 1, two),
            Self::new(1, 1, one),
        ]
    }
}

/// A kernel for few tokens: lanes are rows, the table sits in a register, and the
/// packed bits are the shuffle index.
pub struct FewKernel<X: 'static, Acc: 'static> {
    /// `{level}-few_{activation}`.
    pub name: &'static str,
    /// Strips that one table unit covers.
    pub unit_strips: usize,
    /// Bytes of table for one unit and one token.
    pub table_bytes: usize,
    /// Most units that one call may sum; the safe call cuts K there.
    pub max_units: usize,
    /// Builds `units` tables from `x`. Preconditions 1, 3, 4 (as output), 7.
    pub build: unsafe fn(x: *const X, units: usize, tables: *mut u8),
    /// Tile shapes, best first: the first that the panels and tokens left allow is
    /// taken. The last is one panel by one token, and each number of panels has one
    /// for one token.
    pub tiles: &'static [FewTile<Acc>],
    /// What scales the sums of groups, if it gains by that.
    pub scaled: Option<FewScaled>,
    /// The kernel that is faster for one token whose weights come from memory.
    pub from_memory: Option<&'static FewKernel<X, Acc>>,
}

/// What a call for many tokens does with a row's accumulator when it is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fold {
    /// Store it: the block goes on.
    Keep,
    /// End the first block: the totals start here.
    Start,
    /// End a block: add it to the totals.
    Add,
    /// End a group, which has no totals: scale the sums.
    Scale,
    /// End a group that has totals: scale them and the sums together.
    ScaleTotals,
}

/// Where sums of a group of K are scaled and added up:
/// `sums[t][r] += sum[r][t] as f32 * (scales[r] * token_scales[t])`, or without the token's
/// scale for f32 activations.
#[derive(Clone, Copy)]
pub struct Scaling {
    /// Scales of the rows, 64 a panel.
    pub scales: *const f32,
    /// Scales of all tokens of a whole tile.
    #[cfg_attr(not(any(kernels = "x86_64", kernels = "aarch64")), allow(dead_code))]
    pub token_scales: *const f32,
    /// Scaled sums, for each panel 64 of each token of a whole tile, in an order that only the
    /// kernel and its `finish_groups` know.
    pub sums: *mut f32,
    /// The sums start at zero.
    pub first: bool,
}

impl Scaling {
    /// For calls that scale nothing.
    pub const NONE: Self = Self {
        scales: core::ptr::null(),
        token_scales: core::ptr::null(),
        sums: core::ptr::null_mut(),
        first: false,
    };

    /// That of the panel number `panel`, for tiles of `tokens`.
    #[inline(always)]
    pub fn of_panel(self, panel: usize, tokens: usize) -> Self {
        Self {
            scales: self.scales.wrapping_add(PANEL_ROWS * panel),
            sums: self.sums.wrapping_add(PANEL_ROWS * tokens * panel),
            ..self
        }
    }

    /// That of row `row` of a panel whose entry of `entry_bytes` is number `place`, in kernels
    /// whose lanes are tokens.
    #[inline(always)]
    pub fn of_row(self, row: usize, place: usize, entry_bytes: usize) -> Self {
        Self {
            scales: self.scales.wrapping_add(row),
            sums: self
                .sums
                .wrapping_add(entry_bytes / size_of::<f32>() * place),
            ..self
        }
    }
}

/// One call that builds the tables of a chunk.
#[derive(Clone, Copy)]
pub struct BuildCall<X> {
    /// The activations, in the order that [`ManyKernel::token_major`] says.
    pub xt: *const X,
    /// Strips of the chunk, `1..=most_strips`.
    pub strips: usize,
    /// Tokens of the tile; those after them need no tables.
    #[cfg_attr(not(kernels = "x86_64"), allow(dead_code))]
    pub tokens: usize,
    /// The tables.
    pub tables: *mut u8,
}

/// One call of a kernel for many tokens: adds what the chunk's bytes select of the tables
/// to the accumulators of each row of the panels.
#[derive(Clone, Copy)]
pub struct ManyCall {
    /// First byte of the first panel's chunk.
    pub panels: *const u8,
    /// Bytes from a panel to the next.
    pub panel_stride: usize,
    /// Panels to run over.
    pub panel_count: usize,
    /// Strips of this chunk, `1..=most_strips`.
    pub strips: usize,
    /// Tokens of the tile; those after them need no sums.
    #[cfg_attr(not(kernels = "x86_64"), allow(dead_code))]
    pub tokens: usize,
    /// The chunk's tables, built for as many tokens.
    pub tables: *const u8,
    /// Block accumulators, one entry a row, in an order of each panel's rows and
    /// tokens that only the kernel and its `finish` know.
    pub acc: *mut u8,
    /// Totals, one entry a row, in the same order.
    pub total: *mut u8,
    /// The accumulators start at zero.
    pub first: bool,
    /// What happens after the chunk.
    pub fold: Fold,
    /// Where sums are scaled if they are.
    pub scaling: Scaling,
}

/// One call that turns a panel's accumulators into sums, token by token:
/// `out[t][r] (+)= sum[r][t]` for one panel.
#[derive(Clone, Copy)]
pub struct FinishCall<Acc> {
    /// Block accumulators of the panel.
    pub acc: *const u8,
    /// Totals of the panel.
    pub total: *const u8,
    /// Tokens of the tile; those after them need no sums.
    #[cfg_attr(not(kernels = "x86_64"), allow(dead_code))]
    pub tokens: usize,
    /// Sums of the first token.
    pub out: *mut Acc,
    /// Elements from a token's sums to the next token's.
    pub out_stride: usize,
    /// Add to what `out` holds instead of overwriting it.
    pub accumulate: bool,
}

/// A kernel for many tokens, which share tables in the cache and accumulators that live
/// from chunk to chunk. Most have tokens for lanes, and a panel byte costs them one
/// load-add; two have rows for lanes.
pub struct ManyKernel<X: 'static, Acc: 'static> {
    /// `{level}-many_{activation}`.
    pub name: &'static str,
    /// Tokens of a whole tile.
    pub tokens: usize,
    /// Bytes of one table entry, an accumulator for each token; a multiple of 32.
    pub entry_bytes: usize,
    /// Strips of a chunk; the last of a block has what is left of [`BLOCK_STRIPS`]. It
    /// divides them where activations are `token_major`: those are cut into chunks
    /// without regard to blocks. Calls may have [`ManyKernel::most_strips`].
    pub chunk_strips: usize,
    /// The activations of a chunk are `[token][4 * strips]`, not `[4 * strips][token]`;
    /// what the tokens after those of the call hold is not specified then.
    pub token_major: bool,
    /// Strips that one table unit covers.
    pub unit_strips: usize,
    /// Bytes of the tables of one unit for a whole tile.
    pub table_bytes: usize,
    /// Builds the tables of a chunk. Preconditions 1, 3, 4 (as output), 6 (tokens), 7.
    pub build: unsafe fn(&BuildCall<X>),
    /// The kernel, for folds that do not scale. Preconditions 1, 2, 4, 6, 7 and 8.
    pub run: unsafe fn(&ManyCall),
    /// The same for folds that scale, by the only multiplications. Precondition 9 as well.
    pub run_scaled: unsafe fn(&ManyCall),
    /// Transposes one panel's sums. Preconditions 1, 5 (all tokens of a tile), 6, 7.
    pub finish: unsafe fn(&FinishCall<Acc>),
    /// Transposes one panel's scaled sums, which are its `total`, of as many tokens as an entry
    /// has f32: part after part of a tile. Preconditions 1, 5, 7 and 9.
    pub finish_groups: unsafe fn(&FinishCall<f32>),
}

impl<X, Acc> ManyKernel<X, Acc> {
    /// A kernel of the generic source, whose tables have an entry for each signed sum of a
    /// strip's four activations.
    pub const fn generic(
        name: &'static str,
        [tokens, entry_bytes, chunk_strips]: [usize; 3],
        build: unsafe fn(&BuildCall<X>),
        [run, run_scaled]: [unsafe fn(&ManyCall); 2],
        finish: unsafe fn(&FinishCall<Acc>),
        finish_groups: unsafe fn(&FinishCall<f32>),
    ) -> Self {
        Self {
            name,
            tokens,
            entry_bytes,
            chunk_strips,
            token_major: false,
            unit_strips: 1,
            table_bytes: MANY_ENTRIES * entry_bytes,
            build,
            run,
            run_scaled,
            finish,
            finish_groups,
        }
    }

    /// Most strips of a chunk: a part of a unit more, which a group may have.
    pub const fn most_strips(&self) -> usize {
        self.chunk_strips + self.unit_strips - 1
    }

    /// Bytes of the tables of `strips` strips, for a whole tile.
    pub fn tables_len(&self, strips: usize) -> usize {
        strips.div_ceil(self.unit_strips) * self.table_bytes
    }
}

/// The encoding kernels of an ISA; each works on one row.
pub struct CodecKernel {
    /// `{level}-codec`.
    pub name: &'static str,
    /// Encodes `cols` trits into `ceil(cols / 4)` bytes; a value outside
    /// {-1, 0, 1} becomes 0. Returns whether all were legal. Precondition 1;
    /// `src` readable for `cols`, `dst` writable for `ceil(cols / 4)`, disjoint.
    pub encode: unsafe fn(src: *const i8, cols: usize, dst: *mut u8) -> bool,
    /// Decodes `cols` weights; code 11 becomes 0. Returns whether every code
    /// among the `cols` was legal. Precondition 1; `src` readable for
    /// `ceil(cols / 4)`, `dst` writable for `cols`, disjoint.
    pub decode_i8: unsafe fn(src: *const u8, cols: usize, dst: *mut i8) -> bool,
    /// As `decode_i8`, into `+scale`, `-scale` or `+0.0`.
    pub decode_f32: unsafe fn(src: *const u8, cols: usize, scale: f32, dst: *mut f32) -> bool,
    /// Transposes `rows <= 64` rows of `bytes` bytes, `stride` apart, into a
    /// panel `dst[depth][64]` with zeros beyond `rows` and `bytes`
    /// (`bytes <= depth`). Precondition 1; both disjoint and in bounds. Every byte
    /// of `dst` is written, none read: it need not be initialised.
    pub pack_panel: unsafe fn(
        src: *const u8,
        stride: usize,
        rows: usize,
        bytes: usize,
        dst: *mut u8,
        depth: usize,
    ),
}

/// A kernel for many tokens, and how many tokens it takes to be worth its tile.
pub struct ManyChoice<X: 'static, Acc: 'static> {
    /// The kernel.
    pub kernel: &'static ManyKernel<X, Acc>,
    /// From how many left-over tokens a tile of it is faster than kernels for few
    /// tokens, though a part of the tile may stay empty.
    pub least_tokens: usize,
}

impl<X, Acc> ManyChoice<X, Acc> {
    /// `kernel`, from so many left-over tokens.
    pub const fn new(kernel: &'static ManyKernel<X, Acc>, least_tokens: usize) -> Self {
        Self {
            kernel,
            least_tokens,
        }
    }
}

/// A row of the registry: the kernels of a level, chosen on one kind of CPU.
pub struct KernelSet {
    /// `level/tuning`, or the level alone where it has no tunings.
    pub name: &'static str,
    /// The CPUs it was measured on; `None` for all.
    pub tuning: Option<Tuning>,
    /// CPU features that every kernel of the set needs.
    pub features: &'static [Feature],
    /// Encoding, decoding, packing.
    pub codec: &'static CodecKernel,
    /// int8, few tokens.
    pub few_i8: &'static FewKernel<i8, i32>,
    /// f32, few tokens.
    pub few_f32: &'static FewKernel<f32, f32>,
    /// int8, many tokens: the largest tile first.
    pub many_i8: &'static [ManyChoice<i8, i32>],
    /// f32, many tokens: the largest tile first.
    pub many_f32: &'static [ManyChoice<f32, f32>],
}

impl KernelSet {
    /// What a CPU must have: the name before the slash.
    pub fn level(&self) -> &'static str {
        self.name
            .split_once('/')
            .map_or(self.name, |(level, _)| level)
    }

    /// Whether this CPU has every feature.
    pub fn runs_here(&self) -> bool {
        self.features.iter().all(|f| (f.detect)())
    }

    /// Whether this CPU is of the kind that the set was measured on.
    pub fn suits(&self) -> bool {
        self.tuning.as_ref().is_none_or(|tuning| (tuning.suits)())
    }
}

/// The kind of CPU that a choice of kernels was measured on. It decides what is tried
/// first, never what comes out.
#[derive(Clone, Copy)]
pub struct Tuning {
    /// What it looks for, in words.
    pub looks_for: &'static str,
    /// Whether this CPU is of the kind.
    pub suits: fn() -> bool,
}

/// A CPU feature and how to ask for it.
pub struct Feature {
    /// The compiler's name of the feature.
    pub name: &'static str,
    /// Whether this CPU (and operating system) has it.
    pub detect: fn() -> bool,
}

/// A kernel set whose features this CPU has. Holding one is the proof of precondition 1.
#[derive(Clone, Copy)]
pub struct Runnable(&'static KernelSet);

impl Runnable {
    /// The proof, if it holds.
    pub fn new(set: &'static KernelSet) -> Option<Self> {
        set.runs_here().then_some(Self(set))
    }

    /// The kernels.
    pub const fn set(self) -> &'static KernelSet {
        self.0
    }
}
