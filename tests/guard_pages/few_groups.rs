//! Kernels for few tokens that scale the sums of groups, beside guard pages.

use super::{Values, random, reference};
use crate::isa::Backend;
use crate::kernels::auto::float::widen_f16;
use crate::kernels::call::{
    FewPart, FewScaling, GroupScales, PanelView, ScaleValues, TokenScales, few_build,
    few_run_scaled,
};
use crate::kernels::contract::PANEL_ROWS;
use crate::kernels::element::Few;
use tritgemm_testing::Rng;
use tritgemm_testing::guarded::{Guarded, Place};

/// How groups are cut and padded, and how many share a scale of a row and of a token.
#[derive(Clone, Copy, Debug)]
struct Cut {
    group_strips: usize,
    strips: usize,
    padded_to: usize,
    shared: [usize; 2],
    halves: bool,
}

impl Cut {
    fn groups(self) -> usize {
        self.strips.div_ceil(self.group_strips)
    }

    fn group(self, group: usize) -> std::ops::Range<usize> {
        let start = group * self.group_strips;
        start..self.strips.min(start + self.group_strips)
    }

    /// A token's activations as tables are built from them, and where each group's begin.
    fn padded<X: Values>(self, x: &[X]) -> (Vec<X>, Vec<usize>) {
        let (mut row, mut starts) = (Vec::new(), Vec::new());
        for group in (0..self.groups()).map(|group| self.group(group)) {
            starts.push(row.len() / 4);
            let before = 4 * (group.start % self.padded_to);
            row.resize(row.len() + before, X::zeroed());
            row.extend_from_slice(&x[4 * group.start..4 * group.end]);
            row.resize(row.len().next_multiple_of(4 * self.padded_to), X::zeroed());
        }
        (row, starts)
    }
}

/// Tile shape `tile`, its panels `panel_step` panels from one another; all groups in one call,
/// and the first of them in one before the others.
fn check<X: Values>(kernel: Few<X>, tile: usize, panel_step: usize, cut: Cut, place: Place) {
    let shape = &kernel.tiles[tile];
    let reached = panel_step * (shape.panels - 1) + 1;
    let rows = reached * PANEL_ROWS;
    let what = format!(
        "{}, tile {tile}, panels {panel_step} apart, {cut:?} at {place:?}",
        kernel.name
    );
    let mut rng = Rng::new(cut.strips as u64);
    let depth = cut.strips.next_multiple_of(kernel.unit_strips);
    let panels: Vec<u8> = (0..depth * rows).map(|_| rng.i8() as u8).collect();
    let panels = Guarded::new(&panels, place);
    let view = PanelView::new(panels.get(), depth);
    let xs: Vec<Vec<X>> = (0..shape.tokens)
        .map(|_| random(4 * cut.strips, &mut rng))
        .collect();

    let (row, starts) = cut.padded(&xs[0]);
    let last = cut.group(cut.groups() - 1);
    let end = starts[cut.groups() - 1] + last.start % cut.padded_to + last.len();
    let table_bytes = end.div_ceil(kernel.unit_strips) * kernel.table_bytes;
    let stride = (row.len() / 4 / kernel.unit_strips * kernel.table_bytes).next_multiple_of(64);
    let side = place.tight_side();
    let mut tables = Guarded::<u8>::filled(stride * (shape.tokens - 1) + table_bytes, side);
    for (x, tables) in xs.iter().zip(tables.get_mut().chunks_mut(stride)) {
        let units = tables.len().min(table_bytes) / kernel.table_bytes;
        let (row, _) = cut.padded(x);
        few_build(kernel, &row, units, tables);
    }

    let [of_rows, of_tokens] = cut.shared.map(|shared| cut.groups().div_ceil(shared));
    let scale_stride = rows + 5;
    let scale_count = (of_rows - 1) * scale_stride + rows;
    let halves: Vec<u16> = (0..scale_count)
        .map(|_| rng.i8() as u16 & 0x83ff | 0x2c00)
        .collect();
    let floats: Vec<f32> = match cut.halves {
        true => halves.iter().map(|&bits| widen_f16(bits)).collect(),
        false => (0..scale_count).map(|_| rng.unit()).collect(),
    };
    let token_scales: Vec<f32> = (0..shape.tokens * of_tokens).map(|_| rng.unit()).collect();
    let guarded_halves = Guarded::new(&halves, place.of_operand(1));
    let guarded_floats = Guarded::new(&floats, place.of_operand(1));
    let guarded_tokens = Guarded::new(&token_scales, place.of_operand(2));
    let scales = GroupScales {
        values: match cut.halves {
            true => ScaleValues::F16(guarded_halves.get()),
            false => ScaleValues::F32(guarded_floats.get()),
        },
        stride: scale_stride,
        groups_per_scale: cut.shared[0],
    };
    let tokens = X::EXACT.then_some(TokenScales {
        values: guarded_tokens.get(),
        stride: of_tokens,
        groups_per_scale: cut.shared[1],
    });

    let out_stride = rows + 3;
    let start = vec![1.5_f32; out_stride * (shape.tokens - 1) + rows];
    let mut out = Guarded::new(&start, place.of_operand(2));
    let first = usize::from(cut.groups() > 1 && panel_step == 1);
    for groups in [0..first, first..cut.groups()] {
        if groups.is_empty() {
            continue;
        }
        let shape = [cut.strips, cut.group_strips];
        let at = [starts[groups.start], cut.padded_to];
        let scaling = FewScaling::new(kernel, shape, groups, at, (scales, tokens));
        let part = FewPart {
            view,
            panel: 0,
            panel_step,
            start: 0,
            units: 0,
            next: 1,
            read_before: first > 0,
        };
        let out = (out.get_mut(), out_stride);
        let tables = (tables.get(), stride);
        few_run_scaled(kernel, tile, &part, tables, out, (&scaling, [0, 0]));
    }
    let out = out.take(&what);
    for (t, x) in xs.iter().enumerate() {
        let mut wanted = vec![1.5_f32; rows];
        for index in 0..cut.groups() {
            let group = cut.group(index);
            let bytes: Vec<u8> = panels
                .get()
                .chunks(depth * PANEL_ROWS)
                .flat_map(|panel| &panel[group.start * PANEL_ROWS..group.end * PANEL_ROWS])
                .copied()
                .collect();
            let view = PanelView::new(&bytes, group.len());
            let x = &x[4 * group.start..4 * group.end];
            let sums = reference(view, (reached, group.len()), x, None);
            let scales = &floats[index / cut.shared[0] * scale_stride..];
            let token_scale = token_scales[t * of_tokens + index / cut.shared[1]];
            for ((wanted, sum), &scale) in wanted.iter_mut().zip(sums).zip(scales) {
                *wanted += X::scaled(sum, scale, token_scale);
            }
        }
        for (row, wanted) in wanted.into_iter().enumerate() {
            // Panels between those of the tile are nobody's.
            let wanted = match row / PANEL_ROWS % panel_step {
                0 => wanted,
                _ => 1.5,
            };
            let got = out[t * out_stride + row];
            assert_eq!(got.to_bits(), wanted.to_bits(), "{what}, row {row}");
        }
    }
    tables.take(&what);
}

fn check_all<X: Values>(backend: Backend, cut: Cut, place: Place) {
    for from_memory in [false, true] {
        let kernel = Few::<X>::new(backend.runnable(), from_memory);
        let Some(scaled) = kernel.scaled else {
            continue;
        };
        if cut.group_strips > scaled.most_strips {
            continue;
        }
        for (tile, shape) in kernel.tiles.iter().enumerate() {
            check(kernel, tile, 1, cut, place);
            if shape.tokens == 1 && shape.panels > 1 {
                check(kernel, tile, 3, cut, place);
            }
        }
    }
}

#[test]
fn kernels_for_few_tokens_that_scale_groups() {
    for backend in Backend::available() {
        for group_strips in [1, 8, 16, 32, 60, 63, 64, 125] {
            for strips in [group_strips, 2 * group_strips + 1, 4 * group_strips] {
                for (i, place) in Place::tight().into_iter().enumerate() {
                    let cut = Cut {
                        group_strips,
                        strips,
                        padded_to: 3,
                        shared: if i % 2 == 0 { [1, 2] } else { [usize::MAX, 1] },
                        halves: strips % 2 == 0,
                    };
                    check_all::<i8>(backend, cut, place);
                    check_all::<f32>(backend, cut, place);
                }
            }
        }
    }
}

/// Sums as large as int8 has them, of either sign, in the longest groups: see `MOST_STRIPS`.
#[test]
fn kernels_for_few_tokens_scale_the_largest_sums() {
    for backend in Backend::available() {
        for from_memory in [false, true] {
            let kernel = Few::<i8>::new(backend.runnable(), from_memory);
            let Some(scaled) = kernel.scaled else {
                continue;
            };
            let strips = scaled.most_strips;
            let depth = strips.next_multiple_of(kernel.unit_strips);
            let row = vec![-128_i8; 4 * depth];
            let units = depth / kernel.unit_strips;
            let mut tables =
                Guarded::<u8>::filled(units * kernel.table_bytes, Place::tight()[0].tight_side());
            few_build(kernel, &row, units, tables.get_mut());
            for (byte, sign) in [(0x55_u8, -1.0_f32), (0xaa, 1.0)] {
                let mut panel = vec![0; depth * PANEL_ROWS];
                panel[..strips * PANEL_ROWS].fill(byte);
                let scales = GroupScales {
                    values: ScaleValues::F32(&[1.0; PANEL_ROWS]),
                    stride: 0,
                    groups_per_scale: 1,
                };
                let tokens = TokenScales {
                    values: &[1.0],
                    stride: 0,
                    groups_per_scale: 1,
                };
                let at = [0, kernel.unit_strips];
                let scales = (scales, Some(tokens));
                let scaling = FewScaling::new(kernel, [strips, strips], 0..1, at, scales);
                let part = FewPart {
                    view: PanelView::new(&panel, depth),
                    panel: 0,
                    panel_step: 1,
                    start: 0,
                    units: 0,
                    next: 0,
                    read_before: false,
                };
                let mut out = [0.0; PANEL_ROWS];
                let tile = kernel.tiles.len() - 1;
                let tables = (
                    tables.get(),
                    (units * kernel.table_bytes).next_multiple_of(64),
                );
                few_run_scaled(
                    kernel,
                    tile,
                    &part,
                    tables,
                    (&mut out, PANEL_ROWS),
                    (&scaling, [0, 0]),
                );
                assert_eq!(
                    out,
                    [sign * (4 * 128 * strips) as f32; PANEL_ROWS],
                    "{}",
                    kernel.name
                );
            }
        }
    }
}
