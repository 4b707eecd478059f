//! The loop over one output tile for few tokens.
//!
//! ```text
//! for part of the panels               sums stay in L2
//!   for group, for chunk along K       the chunk's tables stay in L2
//!     for tile's panels                they stay in L1 / L2 ...
//!       for tile's tokens              ... while the tokens pass over them
//!         sums[token][row] += kernel
//!     emit the group's sums
//! ```
//! With one token there is nothing to keep: panels stream by once, in one chunk. The
//! panels of the largest tile are then not neighbours but `panels / width` apart, and the
//! next tile takes the one after each: as many streams, each of which goes on where it
//! ended. (With scales by group it does so within a panel alone.)
//!
//! A kernel that [scales](crate::kernels::contract::FewScaled) the sums of groups itself has the
//! loop over them, a chunk of which is one call for a tile: [`run_groups`].

use crate::kernels::call::{self, FewPart, FewScaling};
use crate::kernels::contract::PANEL_ROWS;
use crate::kernels::element::{Element, Few};
use crate::kernels::memory::tile_set::{Division, Job};
use crate::kernels::memory::tiles::Tile;
use crate::memory::{OutOfMemory, reserve};
use crate::product::operands::Product;
use crate::product::plan::{self, groups};
use crate::product::scratch::Scratch;
use crate::product::sink::{Place, Sink, part_of};
use crate::product::stretches::{self, Outcome, TileSums};
use bytemuck::Zeroable;
use core::mem::size_of;

/// Computes one tile of `y`.
pub(crate) fn run_tile<X: Element, S: Sink<X>>(
    product: &Product<'_, X, S>,
    y: &mut Tile<'_, S::Out>,
    scratch: &mut Scratch,
) -> Result<(), OutOfMemory> {
    let (prepared, kernel) = (product.prepared, product.few);
    let group_strips = prepared.group_strips();
    if let Some(scaled) = kernel.scaled
        && group_strips < prepared.strips()
        && group_strips <= scaled.most_strips
    {
        return run_groups(product, y, scratch);
    }
    let Scratch {
        few_tables,
        sums,
        scales,
        staged,
        ..
    } = scratch;
    let tables = prepared.tables(product.weights_in_cache, (0..1, 1), few_tables)?;
    let (tokens, rows) = (y.rows(), y.cols());
    let panels = rows.start / PANEL_ROWS..rows.end.div_ceil(PANEL_ROWS);
    let chunk = plan::table_units(&kernel, tokens.len());
    // Saturated, it is more than can be reserved below.
    let panel_bytes = (PANEL_ROWS * size_of::<X::Acc>()).saturating_mul(tokens.len());
    let part_panels = plan::panels_of_sums(panel_bytes);
    let all_groups = groups(prepared.strips(), prepared.group_strips());
    let group_count = all_groups.len();

    for first_panel in panels.clone().step_by(part_panels) {
        let part_panels = part_panels.min(panels.end - first_panel);
        let stride = part_panels * PANEL_ROWS;
        let sums = reserve(sums, panel_bytes.saturating_mul(part_panels))?;
        let sums: &mut [X::Acc] = bytemuck::cast_slice_mut(sums);
        let staged: &mut [f32] = match product.sink.stages() {
            true => bytemuck::cast_slice_mut(reserve(staged, size_of_val(sums))?),
            false => &mut [],
        };
        let scales: &mut [f32] = match product.sink.scales_need_room() {
            true => bytemuck::cast_slice_mut(reserve(scales, stride * size_of::<f32>())?),
            false => &mut [],
        };
        for (index, (group, place)) in all_groups.clone().zip(prepared.places()).enumerate() {
            let unit = kernel.unit_strips;
            let table_unit = place.start / unit;
            let units = place.end.div_ceil(unit) - table_unit;
            for done in (0..units).step_by(chunk) {
                let part = FewPart {
                    view: product.view,
                    panel: first_panel,
                    panel_step: 1,
                    start: (group.start / unit + done) * unit,
                    units: chunk.min(units - done),
                    next: first_panel,
                    read_before: false,
                };
                let offset = (table_unit + done) * kernel.table_bytes;
                let tables = |token: usize| tables.from(tokens.start + token, offset);
                let shape = [part_panels, tokens.len()];
                let run = |tile: usize, part: &FewPart<'_>, token: usize, panel: usize| {
                    let sums = &mut sums[token * stride + panel * PANEL_ROWS..];
                    let out = (sums, stride);
                    call::few_run(kernel, tile, part, tables(token), out, done > 0);
                };
                run_chunk(kernel, part, shape, run);
            }
            let row = first_panel * PANEL_ROWS;
            let end = rows.end.min(row + stride);
            let scales = product
                .sink
                .scales(index, row..end, part_of(scales, 0, end - row));
            for (t, sums) in sums.chunks(stride).enumerate() {
                let place = Place {
                    group: (index, group_count),
                    token: prepared.split().many() + tokens.start + t,
                    row,
                };
                let out = y.row_mut(tokens.start + t, row..end);
                let staged = part_of(staged, t * stride, end - row);
                product
                    .sink
                    .emit(place, &sums[..end - row], scales, staged, out);
            }
        }
    }
    Ok(())
}

/// Computes one tile of `y` whose scales change along K, by a kernel that scales sums itself.
fn run_groups<X: Element, S: Sink<X>>(
    product: &Product<'_, X, S>,
    y: &mut Tile<'_, S::Out>,
    scratch: &mut Scratch,
) -> Result<(), OutOfMemory> {
    let (prepared, kernel) = (product.prepared, product.few);
    let Scratch {
        few_tables,
        sums,
        scales,
        ..
    } = scratch;
    let tables = prepared.tables(product.weights_in_cache, (0..1, 1), few_tables)?;
    let (tokens, rows) = (y.rows(), y.cols());
    let first_token = prepared.split().many() + tokens.start;
    let panels = rows.start / PANEL_ROWS..rows.end.div_ceil(PANEL_ROWS);
    // Saturated, it is more than can be reserved below.
    let panel_bytes = (PANEL_ROWS * size_of::<f32>()).saturating_mul(tokens.len());
    let part_panels = plan::panels_of_sums(panel_bytes);
    let shape = [prepared.strips(), prepared.group_strips()];
    let all_groups = shape[0].div_ceil(shape[1]);
    let chunk = plan::table_groups(&kernel, tokens.len(), shape[1]);

    for first_panel in panels.clone().step_by(part_panels) {
        let part_panels = part_panels.min(panels.end - first_panel);
        let stride = part_panels * PANEL_ROWS;
        let sums = reserve(sums, panel_bytes.saturating_mul(part_panels))?;
        let sums: &mut [f32] = bytemuck::cast_slice_mut(sums);
        sums.fill(0.0);
        let room: &mut [f32] = match product.sink.scales_need_room() {
            true => bytemuck::cast_slice_mut(reserve(scales, stride * size_of::<f32>())?),
            false => &mut [],
        };
        let row = first_panel * PANEL_ROWS;
        let scales = product.sink.group_scales(row, room);
        for start in (0..all_groups).step_by(chunk) {
            let groups = start..all_groups.min(start.saturating_add(chunk));
            let scaling = FewScaling::new(kernel, shape, groups, prepared.padding(start), scales);
            let part = FewPart {
                view: product.view,
                panel: first_panel,
                panel_step: 1,
                start: 0,
                units: 0,
                next: first_panel,
                read_before: false,
            };
            run_chunk(
                kernel,
                part,
                [part_panels, tokens.len()],
                |tile, part, token, panel| {
                    let tables = tables.from(tokens.start + token, 0);
                    let out = (&mut sums[token * stride + panel * PANEL_ROWS..], stride);
                    let of = [panel * PANEL_ROWS, first_token + token];
                    call::few_run_scaled(kernel, tile, part, tables, out, (&scaling, of));
                },
            );
        }
        let end = rows.end.min(row + stride);
        for (t, sums) in sums.chunks_exact_mut(stride).enumerate() {
            let out = y.row_mut(tokens.start + t, row..end);
            product.sink.finish(row, &mut sums[..end - row], out);
        }
    }
    Ok(())
}

/// Goes on with `job` by at most `count` of its units. Returns it if it goes on after that,
/// unless `count` is 0, else all is done; and how many it began. All panels of the tile are one
/// part. A unit is one of `k_parts` parts of K by a few panels; those of a part follow each other.
pub(crate) fn run_job<'s, 'a, X: Element, S: Sink<X>>(
    product: &Product<'_, X, S>,
    (mut job, count): (Job<'s, 'a, S::Out>, usize),
    all_sums: &TileSums,
    scratch: &mut Scratch,
) -> Result<Outcome<'s, 'a, S::Out>, OutOfMemory> {
    let (prepared, kernel) = (product.prepared, product.few);
    let (_, tokens, rows) = job.place();
    let panels = rows.start / PANEL_ROWS..rows.end.div_ceil(PANEL_ROWS);
    let width = plan::few_unit_panels(&kernel, tokens.len());
    let Division { units, across, .. } = job.division();
    let k_parts = units / across;
    let chunk = plan::table_units(&kernel, tokens.len());
    // The last table unit may be padding, for another kernel's sake.
    let all_units = prepared.strips().div_ceil(kernel.unit_strips);
    let Scratch {
        few_tables,
        sums,
        panel_sums,
        ..
    } = scratch;
    // `[unit across][token][row]`.
    let unit_len = (PANEL_ROWS * width).saturating_mul(tokens.len());
    let bytes = (across * size_of::<X::Acc>()).saturating_mul(unit_len);
    let sums: &mut [X::Acc] = bytemuck::cast_slice_mut(reserve(sums, bytes)?);
    let before = job.begun();
    let taken = (count > 0).then(|| job.next_units(count)).flatten();
    for unit in taken.unwrap_or_default() {
        let (part, at) = (unit / across, unit % across);
        let tables = (part..part + 1, k_parts);
        let tables = prepared.tables(product.weights_in_cache, tables, few_tables)?;
        let units = plan::part(all_units, part..part + 1, k_parts);
        let first = panels.start + at * width;
        // A tile at the end of the rows may have fewer.
        let width = width.min(panels.end.saturating_sub(first));
        let mut accumulate = unit - before.start >= across;
        for start in units.clone().step_by(chunk) {
            let part = FewPart {
                view: product.view,
                panel: first,
                panel_step: 1,
                start: start * kernel.unit_strips,
                units: chunk.min(units.end - start),
                next: first,
                read_before: false,
            };
            let tables =
                |token: usize| tables.from(tokens.start + token, start * kernel.table_bytes);
            let (sums, stride) = (&mut sums[at * unit_len..], width * PANEL_ROWS);
            run_chunk(
                kernel,
                part,
                [width, tokens.len()],
                |tile, part, token, panel| {
                    let sums = &mut sums[token * stride + panel * PANEL_ROWS..];
                    let out = (sums, stride);
                    call::few_run(kernel, tile, part, tables(token), out, accumulate);
                },
            );
            accumulate = true;
        }
    }
    let begun = job.begun();
    let done = begun.len() - before.len();
    if count > 0 && job.goes_on() {
        return Ok((Some(job), done));
    }
    if begun.is_empty() {
        return Ok((None, 0));
    }
    let panel = |i: usize, out: &mut [X::Acc], adds: bool| {
        let (at, stride) = (
            i / width,
            PANEL_ROWS * width.min(panels.len() - i / width * width),
        );
        // Units begun follow each other.
        let is_begun = (at + across - begun.start % across) % across < begun.len();
        for (t, out) in out.chunks_exact_mut(PANEL_ROWS).enumerate() {
            let sums = &sums[at * unit_len + t * stride + i % width * PANEL_ROWS..][..PANEL_ROWS];
            match (is_begun, adds) {
                (true, true) => out.iter_mut().zip(sums).for_each(|(out, &sum)| *out += sum),
                (true, false) => out.copy_from_slice(sums),
                (false, true) => {}
                (false, false) => out.fill(X::Acc::zeroed()),
            }
        }
    };
    let tokens = [prepared.split().many(), tokens.len()];
    stretches::hand_in(&product.sink, job, tokens, (all_sums, panel_sums), panel)?;
    Ok((None, done))
}

/// One chunk along K: all panels of the part by all tokens, in kernel tiles, of which `run` is
/// given the shape, what to read, the first token and the first panel counted from the part's.
fn run_chunk<'v, X: Element>(
    kernel: Few<X>,
    mut part: FewPart<'v>,
    [panels, tokens]: [usize; 2],
    mut run: impl FnMut(usize, &FewPart<'v>, usize, usize),
) {
    let shapes = kernel.tiles;
    let (first_panel, mut panel) = (part.panel, 0);
    // Each panel of the largest tile goes on where it ended: streams of reads that begin with
    // every tile anew wait for memory each time.
    let largest = shapes.iter().position(|s| s.tokens == 1);
    if let (1, Some(tile)) = (tokens, largest) {
        let width = shapes[tile].panels;
        part.panel_step = panels / width;
        for i in 0..part.panel_step {
            part.panel = first_panel + i;
            part.next = if i + 1 < part.panel_step {
                part.panel + 1
            } else {
                // Where the streams of a part of the same size begin.
                first_panel + width * part.panel_step
            };
            run(tile, &part, 0, i);
        }
        panel = part.panel_step * width;
        part.panel_step = 1;
    }
    while panel < panels {
        let width = shapes
            .iter()
            .find(|s| s.panels <= panels - panel && s.tokens <= tokens)
            .map_or(1, |s| s.panels);
        part.panel = first_panel + panel;
        part.next = part.panel + width;
        let mut token = 0;
        while token < tokens {
            part.read_before = token > 0;
            let tile = shapes
                .iter()
                .position(|s| s.panels == width && s.tokens <= tokens - token)
                .expect("every width has a shape for one token");
            run(tile, &part, token, panel);
            token += shapes[tile].tokens;
        }
        panel += width;
    }
}
