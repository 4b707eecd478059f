//! Every kernel of the registry beside guard pages: a part of the crate's unit
//! tests, because only the crate can call kernels. Of `tritgemm_testing` it uses
//! what knows no type of this crate: those are another copy's in a unit test.
//!
//! Panels, tables, accumulators, totals, sums and tiles of activations each
//! end at a page that nobody may touch, or start after one, at every alignment
//! that the contract allows them. Sums are compared with the scalar reference
//! in ordinary memory. Encoding and packing, whose slices are the caller's, are
//! placed by `tests/guard_pages/codec.rs`.

use crate::isa::Backend;
use crate::kernels::call::{
    FewPart, ManyPart, ManyScaling, PanelView, few_build, few_run, many_build, many_finish,
    many_finish_groups, many_run,
};
use crate::kernels::contract::{BLOCK_STRIPS, Fold, PANEL_ROWS};
use crate::kernels::element::{Element, Few, Many};
use aligned_vec::avec;
use bytemuck::Zeroable;
use tritgemm_testing::guarded::{Guarded, Place};
use tritgemm_testing::{Rng, quick};

#[path = "few_groups.rs"]
mod few_groups;

/// Activations, sums and their bits.
trait Values: Element<Acc: std::fmt::Debug> {
    fn random(rng: &mut Rng) -> Self;
    fn bits(acc: Self::Acc) -> u32;
    /// A sum of these bits, scaled.
    fn scaled(bits: u32, scale: f32, token_scale: f32) -> f32;
}

impl Values for i8 {
    fn random(rng: &mut Rng) -> Self {
        rng.i8()
    }
    fn bits(acc: i32) -> u32 {
        acc as u32
    }
    fn scaled(bits: u32, scale: f32, token_scale: f32) -> f32 {
        bits as i32 as f32 * (scale * token_scale)
    }
}

impl Values for f32 {
    fn random(rng: &mut Rng) -> Self {
        rng.unit()
    }
    fn bits(acc: f32) -> u32 {
        acc.to_bits()
    }
    fn scaled(bits: u32, scale: f32, _: f32) -> f32 {
        f32::from_bits(bits) * scale
    }
}

fn random<X: Values>(len: usize, rng: &mut Rng) -> Vec<X> {
    (0..len).map(|_| X::random(rng)).collect()
}

/// The sum of each row of each panel, by the scalar kernel for few tokens, added to what
/// `start` gives if it gives something.
fn reference<X: Values>(
    view: PanelView<'_>,
    (panels, bytes): (usize, usize),
    x: &[X],
    start: Option<X::Acc>,
) -> Vec<u32> {
    let scalar = Few::<X>::new(Backend::scalar().runnable(), false);
    let mut tables = avec![[64]| 0u8; (4 * size_of_val(x)).next_multiple_of(64)];
    few_build(scalar, x, bytes, &mut tables);
    let mut sums = vec![start.unwrap_or(X::Acc::zeroed()); panels * PANEL_ROWS];
    for (panel, sums) in sums.chunks_mut(PANEL_ROWS).enumerate() {
        let part = FewPart {
            view,
            panel,
            start: 0,
            units: bytes,
            panel_step: 1,
            next: panel + 1,
            read_before: false,
        };
        let (tables, sums) = ((&tables[..], 64), (sums, PANEL_ROWS));
        few_run(scalar, 0, &part, tables, sums, start.is_some());
    }
    sums.into_iter().map(X::bits).collect()
}

/// Every tile over `units` units of a row's kernel for few tokens, and of that for weights
/// from memory.
fn check_few<X: Values>(backend: Backend, units: usize, place: Place) {
    for from_memory in [false, true] {
        let kernel = Few::<X>::new(backend.runnable(), from_memory);
        for (tile, shape) in kernel.tiles.iter().enumerate() {
            check_tile(kernel, tile, 1, units, place);
            if shape.tokens == 1 && shape.panels > 1 {
                for panel_step in [2, 3] {
                    check_tile(kernel, tile, panel_step, units, place);
                }
            }
        }
    }
}

/// Tile shape `tile`, its panels `apart` panels from one another.
fn check_tile<X: Values>(
    kernel: Few<X>,
    tile: usize,
    panel_step: usize,
    units: usize,
    place: Place,
) {
    let shape = &kernel.tiles[tile];
    let reached = panel_step * (shape.panels - 1) + 1;
    let mut rng = Rng::new(units as u64);
    let bytes = units * kernel.unit_strips;
    let what = format!(
        "{}, tile {tile}, {panel_step} panel_step, {units} units at {place:?}",
        kernel.name
    );
    let panels: Vec<u8> = (0..reached * bytes * PANEL_ROWS)
        .map(|_| rng.i8() as u8)
        .collect();
    let panels = Guarded::new(&panels, place);
    let view = PanelView::new(panels.get(), bytes);
    let xs: Vec<Vec<X>> = (0..shape.tokens)
        .map(|_| random(4 * bytes, &mut rng))
        .collect();

    // One token's tables by themselves, as tight as their size allows.
    let table_bytes = units * kernel.table_bytes;
    let stride = table_bytes.next_multiple_of(64);
    let len = stride * (shape.tokens - 1) + table_bytes;
    let mut all = Guarded::<u8>::filled(len, place.tight_side());
    for (x, all) in xs.iter().zip(all.get_mut().chunks_mut(stride)) {
        let x = Guarded::new(x, place.of_operand(1));
        let mut tables = Guarded::<u8>::filled(table_bytes, place.tight_side());
        few_build(kernel, x.get(), units, tables.get_mut());
        all[..table_bytes].copy_from_slice(&tables.take(&what));
    }
    for (accumulate, gap) in [(false, 0), (true, 3), (false, 3), (true, 0)] {
        let rows = reached * PANEL_ROWS;
        let out_stride = rows + gap;
        let mut out = vec![X::Acc::zeroed(); out_stride * (shape.tokens - 1) + rows];
        // Panels between those of the tile are nobody's.
        let mut between = [X::Acc::zeroed(); PANEL_ROWS];
        bytemuck::cast_slice_mut::<_, u8>(&mut between).fill(0x11);
        for (i, out) in out.chunks_exact_mut(PANEL_ROWS).enumerate() {
            if i % panel_step != 0 {
                out.copy_from_slice(&between);
            }
        }
        let between = between.map(X::bits);
        let mut out = Guarded::new(&out, place.of_operand(2));
        let part = FewPart {
            view,
            panel: 0,
            start: 0,
            units,
            panel_step,
            next: 1,
            read_before: gap > 0,
        };
        let tables = (all.get(), stride);
        let sums = (out.get_mut(), out_stride);
        few_run(kernel, tile, &part, tables, sums, accumulate);
        let out = out.take(&what);
        for (x, out) in xs.iter().zip(out.chunks(out_stride)) {
            let start = accumulate.then(X::Acc::zeroed);
            let wanted = reference(view, (reached, bytes), x, start);
            let got: Vec<u32> = out[..rows].iter().map(|&v| X::bits(v)).collect();
            for (i, got) in got.chunks(PANEL_ROWS).enumerate() {
                let wanted = match i % panel_step {
                    0 => &wanted[i * PANEL_ROWS..][..PANEL_ROWS],
                    _ => &between,
                };
                assert!(got == wanted, "{what}, accumulate {accumulate}");
            }
        }
    }
}

/// A row's kernels for many tokens over `strips` strips of `panels` panels: blocks,
/// chunks and folds as a product has them.
///
/// As many tokens as a tile has, or fewer.
fn check_many<X: Values>(backend: Backend, shape: [usize; 2], strips: usize, place: Place) {
    for choice in 0..X::many(backend.runnable().set()).len() {
        let kernel = Many::<X>::new(backend.runnable(), choice);
        check_chunks(kernel, shape, strips, place);
    }
}

fn check_chunks<X: Values>(
    kernel: Many<X>,
    [panels, tokens]: [usize; 2],
    strips: usize,
    place: Place,
) {
    let tokens = tokens.min(kernel.tokens);
    let what = format!(
        "{}, {panels} panels of {strips} for {tokens} tokens at {place:?}",
        kernel.name
    );
    let mut rng = Rng::new(strips as u64);
    let data: Vec<u8> = (0..panels * strips * PANEL_ROWS)
        .map(|_| rng.i8() as u8)
        .collect();
    let data = Guarded::new(&data, place);
    let view = PanelView::new(data.get(), strips);
    let xs: Vec<Vec<X>> = (0..kernel.tokens)
        .map(|_| random(4 * strips, &mut rng))
        .collect();
    let side = place.tight_side();
    let acc_len = panels * PANEL_ROWS * kernel.entry_bytes;
    let mut acc = Guarded::<u8>::filled(acc_len, side);
    let mut total = Guarded::<u8>::filled(acc_len, side);
    let float = size_of::<X>() > 1;
    for block in (0..strips).step_by(BLOCK_STRIPS) {
        let block_end = strips.min(block + BLOCK_STRIPS);
        for start in (block..block_end).step_by(kernel.chunk_strips) {
            let chunk = kernel.chunk_strips.min(block_end - start);
            let k = 4 * start..4 * (start + chunk);
            let x: Vec<X> = if kernel.token_major {
                xs.iter().flat_map(|x| &x[k.clone()]).copied().collect()
            } else {
                k.flat_map(|k| xs.iter().map(move |x| x[k])).collect()
            };
            let x = Guarded::new(&x, place.of_operand(1));
            let mut tables = Guarded::<u8>::filled(kernel.tables_len(chunk), side);
            many_build(kernel, x.get(), [chunk, tokens], tables.get_mut());
            let fold = match (start + chunk == block_end, block) {
                (false, _) => Fold::Keep,
                (true, 0) => Fold::Start,
                (true, _) => Fold::Add,
            };
            let part = ManyPart {
                view,
                panels: 0..panels,
                start,
                strips: chunk,
                tokens,
            };
            let first = start == if float { block } else { 0 };
            let accs = (acc.get_mut(), total.get_mut());
            many_run(kernel, &part, tables.get(), accs, (first, fold), None);
            tables.take(&what);
        }
    }
    let panel_acc = PANEL_ROWS * kernel.entry_bytes;
    let mut sums = vec![Vec::new(); kernel.tokens];
    for (panel, gap) in (0..panels).zip([0, 3].into_iter().cycle()) {
        let out_stride = PANEL_ROWS + gap;
        let len = out_stride * (kernel.tokens - 1) + PANEL_ROWS;
        let mut out = Guarded::new(&vec![X::Acc::zeroed(); len], place.of_operand(2));
        let place_of_panel = panel * panel_acc;
        // The last panel's end where the buffers end.
        let accs = (
            &acc.get()[place_of_panel..][..panel_acc],
            &total.get()[place_of_panel..][..panel_acc],
        );
        let accumulate = panel % 2 == 1;
        let out_and_stride = (out.get_mut(), out_stride);
        many_finish(kernel, tokens, accs, out_and_stride, accumulate);
        for (sums, out) in sums.iter_mut().zip(out.take(&what).chunks(out_stride)) {
            sums.extend(out[..PANEL_ROWS].iter().map(|&v| X::bits(v)));
        }
    }
    acc.take(&what);
    total.take(&what);
    for token in [0, tokens / 2, tokens.saturating_sub(2), tokens - 1] {
        let wanted = reference(view, (panels, strips), &xs[token], None);
        assert!(sums[token] == wanted, "{what}, token {token}");
    }
}

/// Two groups of `strips` strips each of `panels` panels, scaled and added up. Where a group
/// has several chunks the first one folds, which ends in totals, or it does not.
fn check_groups<X: Values>(
    kernel: Many<X>,
    [panels, tokens]: [usize; 2],
    strips: usize,
    place: Place,
) {
    let tokens = tokens.min(kernel.tokens);
    let what = format!(
        "{}, groups of {strips} for {tokens} tokens at {place:?}",
        kernel.name
    );
    let mut rng = Rng::new(strips as u64);
    let side = place.tight_side();
    let data: Vec<u8> = (0..panels * 2 * strips * PANEL_ROWS)
        .map(|_| rng.i8() as u8)
        .collect();
    let data = Guarded::new(&data, place);
    let view = PanelView::new(data.get(), 2 * strips);
    let xs: Vec<Vec<X>> = (0..kernel.tokens)
        .map(|_| random(8 * strips, &mut rng))
        .collect();
    let rows = panels * PANEL_ROWS;
    let scales: Vec<f32> = (0..2 * rows).map(|_| rng.unit()).collect();
    let token_scales: Vec<f32> = (0..2 * kernel.tokens).map(|_| rng.unit()).collect();
    let acc_len = rows * kernel.entry_bytes;
    for folds in [false, true] {
        let mut sums = Guarded::<f32>::filled(rows * kernel.tokens, side);
        for group in 0..2 {
            let mut acc = Guarded::<u8>::filled(acc_len, side);
            let mut total = Guarded::<u8>::filled(acc_len, side);
            let of_rows = Guarded::new(&scales[group * rows..][..rows], place.of_operand(1));
            let of_tokens = &token_scales[group * kernel.tokens..][..kernel.tokens];
            let of_tokens = Guarded::new(of_tokens, place.of_operand(2));
            let mut fold = Fold::Start;
            let mut first = true;
            let mut end = 0;
            while end < strips {
                // f32 chunks end where blocks do.
                let block = match X::EXACT {
                    true => strips,
                    false => strips.min((end / BLOCK_STRIPS + 1) * BLOCK_STRIPS),
                };
                let chunk = kernel.chunk_strips.min(block - end);
                let start = group * strips + end;
                end += chunk;
                let k = 4 * start..4 * (start + chunk);
                let x: Vec<X> = if kernel.token_major {
                    xs.iter().flat_map(|x| &x[k.clone()]).copied().collect()
                } else {
                    k.flat_map(|k| xs.iter().map(move |x| x[k])).collect()
                };
                let mut tables = Guarded::<u8>::filled(kernel.tables_len(chunk), side);
                many_build(kernel, &x, [chunk, tokens], tables.get_mut());
                let part = ManyPart {
                    view,
                    panels: 0..panels,
                    start,
                    strips: chunk,
                    tokens,
                };
                let accs = (acc.get_mut(), total.get_mut());
                if end < strips {
                    // f32 sums fold where blocks end, and nowhere else.
                    let ends = match X::EXACT {
                        true => folds,
                        false => end.is_multiple_of(BLOCK_STRIPS),
                    };
                    let now = if ends { fold } else { Fold::Keep };
                    many_run(kernel, &part, tables.get(), accs, (first, now), None);
                    first = ends && !X::EXACT;
                    if ends {
                        fold = Fold::Add;
                    }
                    continue;
                }
                let now = match fold {
                    Fold::Start => Fold::Scale,
                    _ => Fold::ScaleTotals,
                };
                let scaling = ManyScaling {
                    scales: of_rows.get(),
                    token_scales: of_tokens.get(),
                    sums: sums.get_mut(),
                    first: group == 0,
                };
                many_run(
                    kernel,
                    &part,
                    tables.get(),
                    accs,
                    (first, now),
                    Some(scaling),
                );
            }
            acc.take(&what);
            total.take(&what);
        }
        let group = |x: &[X], group: usize| {
            let bytes: Vec<u8> =
                data.get()
                    .chunks(2 * strips * PANEL_ROWS)
                    .fold(Vec::new(), |mut bytes, panel| {
                        let half = strips * PANEL_ROWS;
                        bytes.extend_from_slice(&panel[group * half..][..half]);
                        bytes
                    });
            let x = &x[4 * strips * group..][..4 * strips];
            reference(PanelView::new(&bytes, strips), (panels, strips), x, None)
        };
        for panel in 0..panels {
            let len = PANEL_ROWS * kernel.tokens;
            let mut out = Guarded::new(&vec![0.0_f32; len], place.of_operand(2));
            let sums = &sums.get()[panel * len..][..len];
            many_finish_groups(kernel, tokens, sums, (out.get_mut(), PANEL_ROWS));
            let out = out.take(&what);
            for token in [0, tokens / 2, tokens - 1] {
                let [first, second] = [0, 1].map(|g| group(&xs[token], g));
                for row in 0..PANEL_ROWS {
                    let at = panel * PANEL_ROWS + row;
                    let scaled = |sums: &[u32], g: usize| {
                        let token_scale = token_scales[g * kernel.tokens + token];
                        X::scaled(sums[at], scales[g * rows + at], token_scale)
                    };
                    let wanted = 0.0 + scaled(&first, 0) + scaled(&second, 1);
                    let got = out[token * PANEL_ROWS + row];
                    let what = format!("{what}, token {token}, row {at}, folds {folds}");
                    assert_eq!(got.to_bits(), wanted.to_bits(), "{what}");
                }
            }
        }
        sums.take(&what);
    }
}

#[test]
fn kernels_for_many_tokens_that_scale_groups() {
    for backend in Backend::available() {
        for strips in [8, 16, 30, 32, 33, 64] {
            for place in Place::tight() {
                for shape in [[2, usize::MAX], [1 + strips % 5, 1 + strips / 8]] {
                    for choice in 0..i8::many(backend.runnable().set()).len() {
                        let kernel = Many::<i8>::new(backend.runnable(), choice);
                        check_groups(kernel, shape, strips, place);
                    }
                    for choice in 0..f32::many(backend.runnable().set()).len() {
                        let kernel = Many::<f32>::new(backend.runnable(), choice);
                        check_groups(kernel, shape, strips, place);
                    }
                }
            }
        }
    }
}

/// Unit and strip counts around every block, chunk and unrolled loop.
fn counts() -> impl Iterator<Item = usize> {
    let step = if quick() { 7 } else { 1 };
    (1..=26).step_by(step).chain([59, 60, 61, 80, 120, 121])
}

#[test]
fn kernels_for_few_tokens_at_every_tail() {
    for backend in Backend::available() {
        for units in counts() {
            for place in Place::tight() {
                check_few::<i8>(backend, units, place);
                check_few::<f32>(backend, units, place);
            }
        }
    }
}

#[test]
fn kernels_for_few_tokens_at_every_alignment() {
    for backend in Backend::available() {
        for place in Place::all() {
            check_few::<i8>(backend, 7, place);
            check_few::<f32>(backend, 7, place);
        }
    }
}

#[test]
fn kernels_for_many_tokens_at_every_tail() {
    for backend in Backend::available() {
        for strips in counts() {
            for place in Place::tight() {
                // Small tiles of every kind: up to 3 panels by 4 tokens, four panels as two
                // and two, five tokens as three and two.
                let small = [1 + strips % 5, 1 + strips / 2 % 8];
                for shape in [[1 + strips % 2, usize::MAX], small] {
                    check_many::<i8>(backend, shape, strips, place);
                    check_many::<f32>(backend, shape, strips, place);
                }
            }
        }
    }
}

#[test]
fn kernels_for_many_tokens_at_every_alignment() {
    for backend in Backend::available() {
        for place in Place::all() {
            for shape in [[2, usize::MAX], [3, 5]] {
                check_many::<i8>(backend, shape, 5, place);
                check_many::<f32>(backend, shape, 5, place);
            }
        }
    }
}

/// The dense product of training: strided operands that end where their last
/// row does. Not under an emulator: see `gradients_of_a_layer` in `layers.rs`.
#[cfg(feature = "train")]
#[test]
fn the_dense_product() {
    if quick() {
        return;
    }
    use crate::kernels::memory::dense::transposed_product;
    let mut rng = Rng::new(1);
    for [n, m, k] in [[1, 1, 1], [3, 5, 7], [9, 17, 33], [16, 64, 48], [2, 130, 3]] {
        for gap in [0, 5] {
            let strides = [m + gap, k + gap];
            let a: Vec<f32> = random((n - 1) * strides[0] + m, &mut rng);
            let b: Vec<f32> = random((n - 1) * strides[1] + k, &mut rng);
            for place in Place::all() {
                let (a, b) = (
                    Guarded::new(&a, place),
                    Guarded::new(&b, place.of_operand(1)),
                );
                let mut out = Guarded::<f32>::filled(m * k, place.of_operand(2));
                let operands = (a.get(), b.get());
                transposed_product([n, m, k], operands, strides, out.get_mut(), 1);
                let out = out.take(&([n, m, k], place));
                for (i, &out) in out.iter().enumerate() {
                    let term = |t: usize| {
                        let (a, b) = (
                            a.get()[t * strides[0] + i / k],
                            b.get()[t * strides[1] + i % k],
                        );
                        f64::from(a) * f64::from(b)
                    };
                    let wanted: f64 = (0..n).map(term).sum();
                    assert!((f64::from(out) - wanted).abs() < 1e-4, "{place:?}");
                }
            }
        }
    }
}
