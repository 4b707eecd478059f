//! Safe calls of kernels: each checks the preconditions of
//! [`crate::kernels::contract`] that a slice can show, and takes a kernel that
//! [`Runnable`] vouches for as the proof of the first.
//!
//! The checks are assertions, not errors: the shapes were validated where the
//! user gave them, so a failure here is a bug of this crate.

use crate::kernels::contract::{
    BuildCall, FewCall, FewGroups, FinishCall, Fold, ManyCall, PANEL_ROWS, Runnable, ScalePointer,
    Scaling,
};
use crate::kernels::element::{Element, Few, Many};
use core::mem::{MaybeUninit, size_of};
use core::num::NonZero;
use core::ops::Range;

/// Panels in memory: `bytes[panel][depth][64]`.
#[derive(Clone, Copy)]
pub struct PanelView<'a> {
    bytes: &'a [u8],
    depth: usize,
}

impl<'a> PanelView<'a> {
    /// Views `bytes` as panels of `depth` strips.
    ///
    /// # Panics
    /// If `bytes` is not a whole number of panels.
    pub fn new(bytes: &'a [u8], depth: usize) -> Self {
        assert!(bytes.is_empty() || bytes.len().is_multiple_of(PANEL_ROWS * depth));
        Self { bytes, depth }
    }

    /// Number of panels.
    pub fn panels(&self) -> usize {
        self.bytes.len().checked_div(self.stride()).unwrap_or(0)
    }

    /// Bytes from a panel to the next.
    pub fn stride(&self) -> usize {
        self.depth * PANEL_ROWS
    }

    /// First byte of `strips` strips from `start` on in `panels`.
    fn part(&self, panels: &Range<usize>, start: usize, strips: usize) -> *const u8 {
        assert!(
            panels.start <= panels.end && panels.end <= self.panels(),
            "panels out of range"
        );
        assert!(
            start
                .checked_add(strips)
                .is_some_and(|end| end <= self.depth),
            "strips out of range"
        );
        self.bytes[(panels.start * self.depth + start) * PANEL_ROWS..].as_ptr()
    }
}

/// The largest power of two, at most 64, that divides `bytes`.
fn alignment(bytes: usize) -> usize {
    1 << bytes.trailing_zeros().min(6)
}

fn assert_aligned_to(bytes: &[u8], align: usize) {
    assert!(
        bytes.is_empty() || bytes.as_ptr().addr().is_multiple_of(align),
        "scratch not aligned to {align}"
    );
}

/// Precondition 6.
fn assert_tokens<X: Element>(kernel: &Many<X>, tokens: usize) {
    assert!(
        (1..=kernel.tokens).contains(&tokens),
        "more tokens than a tile"
    );
}

/// Elements that `rows` rows of `len`, `stride` apart, reach.
fn reach(rows: usize, stride: usize, len: usize) -> Option<usize> {
    match rows.checked_sub(1) {
        None => Some(0),
        Some(last) => last.checked_mul(stride)?.checked_add(len),
    }
}

/// Builds the tables of one token for a kernel for few tokens.
pub fn few_build<X: Element>(kernel: Few<X>, x: &[X], units: usize, tables: &mut [u8]) {
    assert!(reach(2, units, 0).is_some() && x.len() / 4 / kernel.unit_strips >= units);
    assert!(
        tables.len() / kernel.table_bytes >= units,
        "tables too short"
    );
    assert_aligned_to(tables, alignment(kernel.table_bytes));
    // SAFETY: 1: the handle is the proof; 3, 4: asserted; 7: `tables` is `&mut`.
    unsafe { (kernel.build)(x.as_ptr(), units, tables.as_mut_ptr()) }
}

/// Where a call for few tokens reads its weights.
#[derive(Clone)]
pub struct FewPart<'a> {
    /// The panels.
    pub view: PanelView<'a>,
    /// First panel; the tile says how many.
    pub panel: usize,
    /// Panels from one of the tile to its next, at least 1; 1 if it has several tokens.
    pub panel_step: usize,
    /// First strip.
    pub start: usize,
    /// Table units from there.
    pub units: usize,
    /// First panel of the next call, over the same units; a hint.
    pub next: usize,
    /// The call before had the same panels and units; a hint.
    pub read_before: bool,
}

/// Runs tile shape `tile` of a kernel for few tokens: `out[t][64 p + r] (+)= ...`, p
/// counted from the first panel, the tables and sums of successive tokens `table_stride`
/// bytes and `out_stride` elements apart. K is cut here into what the kernel sums at once.
pub fn few_run<X: Element>(
    kernel: Few<X>,
    tile: usize,
    part: &FewPart<'_>,
    tables: (&[u8], usize),
    out: (&mut [X::Acc], usize),
    accumulate: bool,
) {
    let mut call = few_call(kernel, tile, part, part.units, tables, out);
    call.accumulate = accumulate;
    let ahead = core::mem::take(&mut call.ahead);
    let mut left = part.units;
    loop {
        call.units = left.min(kernel.max_units);
        left -= call.units;
        if left == 0 {
            call.ahead = ahead;
        }
        // SAFETY: 1: the handle is the proof; 2, 4, 5: asserted above for all of K, of
        // which this is a part; 8: cut above; the tables were filled by `few_build` or
        // are initialised bytes whatever they hold; 7: `out` is `&mut`.
        unsafe { (kernel.tiles[tile].run)(&call) }
        if left == 0 {
            return;
        }
        let part_strips = call.units * kernel.unit_strips;
        call.panels = call.panels.wrapping_add(PANEL_ROWS * part_strips);
        call.tables = call.tables.wrapping_add(call.units * kernel.table_bytes);
        call.accumulate = true;
    }
}

/// The call of tile shape `tile` over the units of `part`, with tables of so many; asserts
/// preconditions 2, 4 and 5.
fn few_call<X: Element, Acc>(
    kernel: Few<X>,
    tile: usize,
    part: &FewPart<'_>,
    table_units: usize,
    (tables, table_stride): (&[u8], usize),
    (out, out_stride): (&mut [Acc], usize),
) -> FewCall<Acc> {
    let tile = &kernel.tiles[tile];
    let strips = part
        .units
        .checked_mul(kernel.unit_strips)
        .expect("units fit the address space");
    // From the first panel of the tile to behind its last.
    let reached = part
        .panel_step
        .saturating_mul(tile.panels - 1)
        .saturating_add(1);
    let end = part.panel.saturating_add(reached);
    let panels = part.view.part(&(part.panel..end), part.start, strips);
    let table_bytes = table_units.checked_mul(kernel.table_bytes);
    let needed = table_bytes.and_then(|len| reach(tile.tokens, table_stride, len));
    assert!(
        needed.is_some_and(|n| n <= tables.len()),
        "tables too short"
    );
    assert!(table_stride.is_multiple_of(64), "tables not aligned to 64");
    assert_aligned_to(tables, alignment(kernel.table_bytes));
    let needed = reached
        .checked_mul(PANEL_ROWS)
        .and_then(|len| reach(tile.tokens, out_stride, len));
    assert!(needed.is_some_and(|n| n <= out.len()), "output too short");
    let side_by_side = part.panel_step == 1 && out_stride >= tile.panels * PANEL_ROWS;
    assert!(
        side_by_side || tile.tokens == 1 && part.panel_step > 0,
        "outputs overlap"
    );
    FewCall {
        panels,
        panel_stride: part.view.stride().wrapping_mul(part.panel_step),
        units: part.units,
        tables: tables.as_ptr(),
        table_stride,
        out: out.as_mut_ptr(),
        panel_sums: part.panel_step.wrapping_mul(PANEL_ROWS),
        out_stride,
        accumulate: true,
        ahead: (part.next.wrapping_sub(part.panel))
            .wrapping_mul(part.view.stride())
            .wrapping_sub(PANEL_ROWS * strips),
        read_before: part.read_before,
    }
}

/// Scales of rows in groups of K.
#[derive(Clone, Copy)]
pub struct GroupScales<'a> {
    /// From the first row's in the first group on; 64 for each panel are readable.
    pub values: ScaleValues<'a>,
    /// Values from those of the rows in some groups to those in the next ones.
    pub stride: usize,
    /// Groups that share one.
    pub groups_per_scale: usize,
}

/// Scales as a layer keeps them.
#[derive(Clone, Copy)]
pub enum ScaleValues<'a> {
    /// As they are.
    F32(&'a [f32]),
    /// Bits of finite f16.
    F16(&'a [u16]),
}

/// Scales of tokens in groups of K.
#[derive(Clone, Copy)]
pub struct TokenScales<'a> {
    /// `[token][scale]`, for each of the tokens.
    pub values: &'a [f32],
    /// Values from a token's to the next token's.
    pub stride: usize,
    /// Groups that share one.
    pub groups_per_scale: usize,
}

/// Groups of K whose sums a kernel for few tokens scales.
pub struct FewScaling<'a> {
    groups: FewGroups,
    rows: GroupScales<'a>,
    tokens: Option<TokenScales<'a>>,
    /// The last of their scales among those of a row and of a token.
    last: [usize; 2],
    /// Table units of the panels and of the tables up to the groups' end.
    units: [usize; 2],
}

impl<'a> FewScaling<'a> {
    /// `groups` of `group_strips` of `strips` strips. The tables of the first one are looked
    /// for from those of strip `tables_at` on; those of each are padded to `padded_to` strips.
    pub fn new<X: Element>(
        kernel: Few<X>,
        [strips, group_strips]: [usize; 2],
        groups: Range<usize>,
        [tables_at, padded_to]: [usize; 2],
        (rows, tokens): (GroupScales<'a>, Option<TokenScales<'a>>),
    ) -> Self {
        let scaled = kernel.scaled.expect("a kernel that scales groups");
        assert!(group_strips <= scaled.most_strips, "groups too long");
        assert!(groups.start < groups.end && groups.end <= strips.div_ceil(group_strips));
        assert!(
            padded_to.is_multiple_of(kernel.unit_strips) && tables_at.is_multiple_of(padded_to)
        );
        let not_zero = |count| NonZero::new(count).expect("at least one");
        assert!(!X::EXACT || tokens.is_some(), "tokens have scales");
        let groups = FewGroups {
            strips,
            group_strips,
            groups,
            tables_at,
            padded_to: not_zero(padded_to),
            scales: ScalePointer::F32(core::ptr::null()),
            scale_stride: rows.stride,
            groups_per_scale: not_zero(rows.groups_per_scale),
            token_scales: core::ptr::null(),
            token_stride: tokens.map_or(0, |tokens| tokens.stride),
            groups_per_token_scale: not_zero(tokens.map_or(1, |tokens| tokens.groups_per_scale)),
        };
        let mut units = [groups.end(kernel.unit_strips), 0];
        let mut last = [0, 0];
        let mut left = groups.clone();
        while let Some(group) = left.next(kernel.unit_strips) {
            units[1] = group.table + group.units;
            last = [group.scales, group.token_scale];
        }
        Self {
            groups,
            rows,
            tokens,
            last,
            units,
        }
    }
}

/// As [`few_run`] for the groups of a `scaling`, whose scaled sums are added to `out`. The part
/// starts where K does and `units` of it is not looked at; its rows are those from number `row`
/// of the scales on, its first token is number `token` of theirs.
pub fn few_run_scaled<X: Element>(
    kernel: Few<X>,
    tile: usize,
    part: &FewPart<'_>,
    tables: (&[u8], usize),
    out: (&mut [f32], usize),
    (scaling, [row, token]): (&FewScaling<'_>, [usize; 2]),
) {
    let scaled = kernel.scaled.expect("a kernel that scales groups");
    let [units, table_units] = scaling.units;
    assert_eq!(part.start, 0);
    let part = FewPart {
        units,
        ..part.clone()
    };
    let call = few_call(kernel, tile, &part, table_units, tables, out);
    let mut groups = scaling.groups.clone();
    let [last_scale, last_token_scale] = scaling.last;
    let panels = kernel.tiles[tile].panels;
    let needed = (panels - 1) * call.panel_sums + PANEL_ROWS + last_scale;
    groups.scales = match scaling.rows.values {
        ScaleValues::F32(values) => ScalePointer::F32(values[row..][..needed].as_ptr()),
        ScaleValues::F16(values) => ScalePointer::F16(values[row..][..needed].as_ptr()),
    };
    if let Some(tokens) = scaling.tokens {
        let needed = reach(
            kernel.tiles[tile].tokens,
            tokens.stride,
            last_token_scale + 1,
        );
        let needed = needed.expect("scales fit the address space");
        groups.token_scales = tokens.values[token * tokens.stride..][..needed].as_ptr();
    }
    // SAFETY: 1: the handle is the proof; 2, 4, 5, 8, 10: asserted; 7: `out` is `&mut`.
    unsafe { (scaled.run[tile])(&call, &groups) }
}

/// Builds the tables of `strips` strips for `tokens` tokens from activations in the order
/// that its `token_major` says.
pub fn many_build<X: Element>(
    kernel: Many<X>,
    xt: &[X],
    [strips, tokens]: [usize; 2],
    tables: &mut [u8],
) {
    assert!(
        (1..=kernel.most_strips()).contains(&strips),
        "chunk too long"
    );
    assert_tokens(&kernel, tokens);
    assert!(
        xt.len() / 4 / kernel.tokens >= strips,
        "activations too short"
    );
    assert!(
        tables.len() >= kernel.tables_len(strips),
        "tables too short"
    );
    assert_aligned_to(tables, alignment(kernel.entry_bytes));
    // SAFETY: 1: the handle is the proof; 3, 4, 6: asserted; 7: `tables` is `&mut`.
    unsafe {
        (kernel.build)(&BuildCall {
            xt: xt.as_ptr(),
            strips,
            tokens,
            tables: tables.as_mut_ptr(),
        })
    }
}

/// Where a call for many tokens reads its weights.
#[derive(Clone)]
pub struct ManyPart<'a> {
    /// The panels.
    pub view: PanelView<'a>,
    /// Which of them.
    pub panels: Range<usize>,
    /// First strip of the chunk.
    pub start: usize,
    /// Strips of the chunk.
    pub strips: usize,
    /// Tokens of the tile, as many as the tables were built for.
    pub tokens: usize,
}

/// The scales of a group, and where the scaled sums are added up.
pub struct ManyScaling<'a> {
    /// 64 for each panel of the part.
    pub scales: &'a [f32],
    /// One for each token of a whole tile.
    pub token_scales: &'a [f32],
    /// For each panel 64 of each token of a whole tile.
    pub sums: &'a mut [f32],
    /// They start at zero.
    pub first: bool,
}

/// Runs a kernel for many tokens over one chunk of the panels of `part`; with a `scaling` if
/// `fold` asks for one.
pub fn many_run<X: Element>(
    kernel: Many<X>,
    part: &ManyPart<'_>,
    tables: &[u8],
    (acc, total): (&mut [u8], &mut [u8]),
    (first, fold): (bool, Fold),
    scaling: Option<ManyScaling<'_>>,
) {
    assert!(
        (1..=kernel.most_strips()).contains(&part.strips),
        "chunk too long"
    );
    let panels = part.view.part(&part.panels, part.start, part.strips);
    assert_tokens(&kernel, part.tokens);
    assert!(
        tables.len() >= kernel.tables_len(part.strips),
        "tables too short"
    );
    let entries = part.panels.len() * PANEL_ROWS;
    assert!(
        acc.len() / kernel.entry_bytes >= entries,
        "accumulators too short"
    );
    assert!(
        total.len() / kernel.entry_bytes >= entries,
        "totals too short"
    );
    assert_aligned_to(tables, alignment(kernel.entry_bytes));
    assert_aligned_to(acc, alignment(kernel.entry_bytes));
    assert_aligned_to(total, alignment(kernel.entry_bytes));
    let scales = matches!(fold, Fold::Scale | Fold::ScaleTotals);
    assert_eq!(scales, scaling.is_some(), "scales are for folds that scale");
    let scaling = scaling.map_or(Scaling::NONE, |scaling| {
        let ManyScaling {
            scales,
            token_scales,
            sums,
            first,
        } = scaling;
        assert!(
            scales.len() >= entries && token_scales.len() >= kernel.tokens,
            "scales too short"
        );
        assert!(sums.len() / kernel.tokens >= entries, "sums too short");
        assert_aligned_to(bytemuck::cast_slice(sums), alignment(kernel.entry_bytes));
        Scaling {
            scales: scales.as_ptr(),
            token_scales: token_scales.as_ptr(),
            sums: sums.as_mut_ptr(),
            first,
        }
    });
    let call = ManyCall {
        panels,
        panel_stride: part.view.stride(),
        panel_count: part.panels.len(),
        strips: part.strips,
        tokens: part.tokens,
        tables: tables.as_ptr(),
        acc: acc.as_mut_ptr(),
        total: total.as_mut_ptr(),
        first,
        fold,
        scaling,
    };
    // SAFETY: 1: the handle is the proof; 2, 4, 6, 9: asserted; 7: `&mut`.
    unsafe {
        match scales {
            true => (kernel.run_scaled)(&call),
            false => (kernel.run)(&call),
        }
    }
}

/// Transposes the sums of `tokens` tokens of one panel into `out[token][64]`, tokens
/// `out_stride` elements apart; what the tokens after them get is not specified.
pub fn many_finish<X: Element>(
    kernel: Many<X>,
    tokens: usize,
    (acc, total): (&[u8], &[u8]),
    (out, out_stride): (&mut [X::Acc], usize),
    accumulate: bool,
) {
    assert_tokens(&kernel, tokens);
    let needed = PANEL_ROWS * kernel.entry_bytes;
    assert!(
        acc.len() >= needed && total.len() >= needed,
        "accumulators too short"
    );
    let needed = reach(kernel.tokens, out_stride, PANEL_ROWS);
    assert!(needed.is_some_and(|n| n <= out.len()), "output too short");
    assert!(out_stride >= PANEL_ROWS, "outputs overlap");
    assert_aligned_to(acc, alignment(kernel.entry_bytes));
    assert_aligned_to(total, alignment(kernel.entry_bytes));
    let call = FinishCall {
        acc: acc.as_ptr(),
        total: total.as_ptr(),
        tokens,
        out: out.as_mut_ptr(),
        out_stride,
        accumulate,
    };
    // SAFETY: 1: the handle is the proof; 5, 6: asserted; 7: `out` is `&mut`.
    unsafe { (kernel.finish)(&call) }
}

/// Transposes the scaled sums of `tokens` tokens of one panel into `out[token][64]`, tokens
/// `out_stride` elements apart; what the tokens after them get is not specified.
pub fn many_finish_groups<X: Element>(
    kernel: Many<X>,
    tokens: usize,
    sums: &[f32],
    (out, out_stride): (&mut [f32], usize),
) {
    assert_tokens(&kernel, tokens);
    assert!(sums.len() >= PANEL_ROWS * kernel.tokens, "sums too short");
    let needed = reach(kernel.tokens, out_stride, PANEL_ROWS);
    assert!(needed.is_some_and(|n| n <= out.len()), "output too short");
    assert!(out_stride >= PANEL_ROWS, "outputs overlap");
    assert_aligned_to(bytemuck::cast_slice(sums), alignment(kernel.entry_bytes));
    let part = kernel.entry_bytes / size_of::<f32>();
    for first in (0..tokens).step_by(part) {
        let total = sums[PANEL_ROWS * first..].as_ptr().cast();
        let call = FinishCall {
            // f32 sums are all in the totals, but portable code reads both.
            acc: total,
            total,
            tokens: part.min(tokens - first),
            out: out[out_stride * first..].as_mut_ptr(),
            out_stride,
            accumulate: false,
        };
        // SAFETY: 1: the handle is the proof; 5, 9: asserted, of which this is a part; 7:
        // `out` is `&mut`.
        unsafe { (kernel.finish_groups)(&call) }
    }
}

/// Encodes one row; returns whether every trit was legal.
pub fn encode_row(kernels: Runnable, trits: &[i8], packed: &mut [u8]) -> bool {
    assert_eq!(packed.len(), trits.len().div_ceil(4));
    // SAFETY: 1: the handle is the proof; the lengths are asserted.
    unsafe { (kernels.set().codec.encode)(trits.as_ptr(), trits.len(), packed.as_mut_ptr()) }
}

/// Decodes one row; returns whether every code was legal.
pub fn decode_row_i8(kernels: Runnable, packed: &[u8], trits: &mut [i8]) -> bool {
    assert_eq!(packed.len(), trits.len().div_ceil(4));
    // SAFETY: 1: the handle is the proof; the lengths are asserted.
    unsafe { (kernels.set().codec.decode_i8)(packed.as_ptr(), trits.len(), trits.as_mut_ptr()) }
}

/// Decodes one row into `±scale` and `+0.0`; returns whether every code was legal.
pub fn decode_row_f32(kernels: Runnable, packed: &[u8], scale: f32, weights: &mut [f32]) -> bool {
    assert_eq!(packed.len(), weights.len().div_ceil(4));
    let (src, dst) = (packed.as_ptr(), weights.as_mut_ptr());
    // SAFETY: 1: the handle is the proof; the lengths are asserted.
    unsafe { (kernels.set().codec.decode_f32)(src, weights.len(), scale, dst) }
}

/// Transposes up to 64 rows of `row_bytes` bytes into one panel.
pub fn pack_panel(kernels: Runnable, packed: &[u8], row_bytes: usize, panel: &mut [u8]) {
    let (start, len) = (panel.as_mut_ptr().cast(), panel.len());
    // SAFETY: the same bytes under the same exclusive borrow; `pack_new_panel`
    // writes them all, so none is left uninitialised.
    let panel = unsafe { core::slice::from_raw_parts_mut(start, len) };
    pack_new_panel(kernels, (packed, row_bytes), row_bytes, panel);
}

/// As [`pack_panel`], from rows that start `stride` bytes apart, into a panel
/// that nothing was written to. When this returns, every byte of it is.
pub fn pack_new_panel(
    kernels: Runnable,
    (packed, stride): (&[u8], usize),
    row_bytes: usize,
    panel: &mut [MaybeUninit<u8>],
) {
    // The last row ends where its bytes do.
    let rows = match packed.len().checked_sub(row_bytes) {
        Some(before_last) if row_bytes > 0 => before_last / stride + 1,
        _ => 0,
    };
    // A single row may have any stride.
    let stride = if rows > 1 { stride } else { row_bytes };
    let depth = panel.len() / PANEL_ROWS;
    assert!(rows <= PANEL_ROWS && row_bytes <= depth && panel.len().is_multiple_of(PANEL_ROWS));
    assert!(row_bytes <= stride);
    let (src, dst) = (packed.as_ptr(), panel.as_mut_ptr().cast());
    // SAFETY: 1: the handle is the proof; the rest is asserted, and `rows`
    // whole rows lie in `packed`.
    unsafe { (kernels.set().codec.pack_panel)(src, stride, rows, row_bytes, dst, depth) }
}

/// Bytes of scratch that `count` values of `T` take, rounded up to whole cache
/// lines.
pub fn lines<T>(count: usize) -> usize {
    (count * size_of::<T>()).next_multiple_of(64)
}
