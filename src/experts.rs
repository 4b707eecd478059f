//! Mixtures of experts: several layers of one shape, each on tokens of its own.

use crate::activation::Activation;
use crate::activations::{Wanted, group_strips, quantize_rows, rotated};
use crate::gemm_error::GemmError;
use crate::isa::Backend;
use crate::kernels::auto::scale;
use crate::kernels::element::Element;
use crate::kernels::memory::tiles::TileGrid;
use crate::linear::Linear;
use crate::memory::{self, OutOfMemory};
use crate::mismatch::check_length;
use crate::options::Family;
use crate::output::Output;
use crate::product::compiled::Compiled;
use crate::product::layout::TokenRows;
use crate::product::plan;
use crate::product::prepare::Prepared;
use crate::rotation::Rotation;
use crate::scales::GroupSize;
use crate::threads::{Stopped, Threads};
use crate::tokens::Tokens;
use crate::view::{MatMut, MatRef};
use crate::workspace::{Quantized, Workspace};

/// The experts of a mixture: linear layers with one M, one K, the same groups and the same
/// rotation.
///
/// A router sends each token to some of them. [`prepare_int8`](Self::prepare_int8)
/// quantises every token once and gathers for each expert those that it gets; the products
/// of all experts then run in one loop. What the experts compute is, bit for bit, what
/// each layer computes of its tokens by itself.
///
/// ```
/// use tritgemm::{Experts, Linear, MatMut, MatRef, Routes, Scales, TernaryMatrix, Workspace};
/// let expert = |trits: [i8; 4]| {
///     let trits = MatRef::new(&trits, 2, 2).expect("2 x 2");
///     let matrix = TernaryMatrix::from_trits(trits, Scales::per_tensor(1.0));
///     Linear::new(&matrix.expect("trits")).expect("a layer")
/// };
/// let experts = Experts::new(vec![expert([1, 0, 0, 1]), expert([-1, 0, 0, 0])])?;
/// let (x, mut ws) = ([1.0, 2.0, 3.0, 4.0], Workspace::new());
/// // Token 1 goes to both experts, token 0 to the first one.
/// let routes = Routes { tokens: &[0, 1, 1], counts: &[2, 1] };
/// let routed = experts.prepare_f32(MatRef::new(&x, 2, 2)?, routes, &mut ws)?;
/// let mut y = [0.0; 4];
/// // Rows of the first expert, then of the second: back to their tokens, by weight.
/// let y_view = MatMut::new(&mut y, 2, 2)?;
/// experts.add_weighted(&routed, &[0, 1, 1], &[1.0, 0.75, 0.25], y_view, &mut ws)?;
/// assert_eq!(y, [1.0, 2.0, 0.75 * 3.0 - 0.25 * 3.0, 0.75 * 4.0]);
/// # Ok::<(), tritgemm::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Experts {
    layers: Vec<Linear>,
}

/// Which tokens each expert gets: the first `counts[0]` of `tokens` go to expert 0, those
/// after them to expert 1, and so on. A token may go to any number of experts, and an
/// expert may get none.
#[derive(Clone, Copy, Debug)]
pub struct Routes<'a> {
    /// Numbers of tokens, expert after expert.
    pub tokens: &'a [usize],
    /// How many of them each expert gets.
    pub counts: &'a [usize],
}

impl<'a> Routes<'a> {
    /// Whose counts were checked.
    fn tokens_of(&self, expert: usize) -> &'a [usize] {
        let start: usize = self.counts[..expert].iter().sum();
        &self.tokens[start..][..self.counts[expert]]
    }
}

/// Activations made ready for the experts that their tokens were sent to, by
/// [`Experts::prepare_int8`] or [`Experts::prepare_f32`]. The products' rows are those of
/// the first expert's tokens, then those of the second's, and so on.
#[derive(Debug, Default)]
pub struct RoutedActivations {
    group: Option<GroupSize>,
    rotation: Option<Rotation>,
    cols: usize,
    /// Tokens of each expert.
    counts: Vec<usize>,
    float: bool,
    /// Of each expert; there may be more of them than experts.
    int8: Vec<Quantized>,
    f32: Vec<Prepared<f32>>,
}

impl RoutedActivations {
    /// Rows of a product: the tokens of all experts.
    pub fn rows(&self) -> usize {
        self.counts.iter().sum()
    }

    /// Activations of a token (K).
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The number of tokens that each expert got.
    pub fn counts(&self) -> &[usize] {
        &self.counts
    }

    /// Prepares anew by `fill`; without experts after an error.
    fn refill(
        &mut self,
        experts: &Experts,
        routes: Routes<'_>,
        float: bool,
        fill: impl FnOnce(&mut Self) -> Result<(), GemmError>,
    ) -> Result<(), GemmError> {
        // None until all is well, whatever fails or panics.
        let mut counts = core::mem::take(&mut self.counts);
        counts.clear();
        memory::extend(&mut counts, routes.counts.iter().copied())?;
        (self.group, self.cols, self.float) = (experts.group(), experts.in_features(), float);
        self.rotation = experts.wanted().rotation.cloned();
        fill(self)?;
        self.counts = counts;
        Ok(())
    }
}

impl Experts {
    /// Of layers, in the order of the router's numbers.
    ///
    /// # Errors
    /// If they differ in M, K, the groups of their scales or the rotation of their inputs.
    pub fn new(layers: Vec<Linear>) -> Result<Self, GemmError> {
        if let Some(first) = layers.first() {
            for layer in &layers {
                check_length("out_features", layer.out_features(), first.out_features())?;
                check_length("in_features", layer.in_features(), first.in_features())?;
                first.wanted().check(layer.wanted())?;
            }
        }
        Ok(Self { layers })
    }

    /// The layers.
    pub fn layers(&self) -> &[Linear] {
        &self.layers
    }

    /// K, the inputs; 0 without experts.
    pub fn in_features(&self) -> usize {
        self.layers.first().map_or(0, Linear::in_features)
    }

    /// M, the outputs; 0 without experts.
    pub fn out_features(&self) -> usize {
        self.layers.first().map_or(0, Linear::out_features)
    }

    fn wanted(&self) -> Wanted<'_> {
        self.layers.first().map(Linear::wanted).unwrap_or_default()
    }

    /// The group size of the scales, if they are per group.
    pub fn group(&self) -> Option<GroupSize> {
        self.layers.first().and_then(Linear::group)
    }

    /// Quantises each token of `x` (`[N][K]`, f32, f16 or bf16) to int8 by its absolute
    /// maximum and gathers for each expert the tokens that it gets.
    ///
    /// # Errors
    /// If there is not one count an expert, or not as many tokens as they say, a number is not
    /// of a token, `x` is not as wide
    /// as the experts, an activation is NaN or infinite, the backend that was asked for is
    /// not available, a [`ParallelFor`](crate::ParallelFor) left work out, or memory runs
    /// out.
    pub fn prepare_int8<'x, T: Activation>(
        &self,
        x: impl Tokens<'x, T>,
        routes: Routes<'_>,
        ws: &mut Workspace,
    ) -> Result<RoutedActivations, GemmError> {
        let mut routed = RoutedActivations::default();
        self.prepare_int8_into(x, routes, &mut routed, ws)?;
        Ok(routed)
    }

    /// As [`prepare_int8`](Self::prepare_int8), in the memory of activations that were
    /// prepared before. Where the shapes or routes do not fit those stay as they are; after any
    /// other error they have no experts.
    ///
    /// # Errors
    /// As [`prepare_int8`](Self::prepare_int8).
    pub fn prepare_int8_into<'x, T: Activation>(
        &self,
        x: impl Tokens<'x, T>,
        routes: Routes<'_>,
        routed: &mut RoutedActivations,
        ws: &mut Workspace,
    ) -> Result<(), GemmError> {
        let x = x.grouped();
        self.check_routes([x.x.rows(), x.x.cols()], routes)?;
        routed.refill(self, routes, false, |routed| {
            let (k, rows) = (self.in_features(), routes.tokens.len());
            let (gather, group) = (self.gather(x.group, ws)?, x.group);
            let of_token = group.map_or(1, |group| group.groups(k));
            let mut scales = core::mem::take(&mut ws.quantized.token_scales);
            let mut values = core::mem::take(&mut ws.values);
            let done = quantize_rows(x, self.wanted().rotation, (&mut values, &mut scales), ws)
                .and_then(|()| {
                    more(&mut routed.int8, routes.counts.len())?;
                    let x = MatRef::dense(&values, x.x.rows(), k);
                    each(
                        &mut routed.int8,
                        routes,
                        (ws.options().workers(), rows.saturating_mul(k)),
                        |one, tokens| {
                            one.group = group;
                            one.token_scales.clear();
                            for &token in tokens.iter().filter(|_| k > 0) {
                                let scales = &scales[token * of_token..][..of_token];
                                memory::extend(&mut one.token_scales, scales.iter().copied())?;
                            }
                            gather.run(&mut one.prepared, TokenRows::chosen(x, tokens))
                        },
                    )
                });
            (ws.values, ws.quantized.token_scales) = (values, scales);
            done
        })
    }

    /// As [`prepare_int8`](Self::prepare_int8), for the f32 pass: nothing is quantised.
    ///
    /// # Errors
    /// As [`prepare_int8`](Self::prepare_int8), but for NaN and infinity, which stay what
    /// they are.
    pub fn prepare_f32(
        &self,
        x: MatRef<'_, f32>,
        routes: Routes<'_>,
        ws: &mut Workspace,
    ) -> Result<RoutedActivations, GemmError> {
        let mut routed = RoutedActivations::default();
        self.prepare_f32_into(x, routes, &mut routed, ws)?;
        Ok(routed)
    }

    /// As [`prepare_f32`](Self::prepare_f32), in the memory of activations that were
    /// prepared before. Where the shapes or routes do not fit those stay as they are; after any
    /// other error they have no experts.
    ///
    /// # Errors
    /// As [`prepare_f32`](Self::prepare_f32).
    pub fn prepare_f32_into(
        &self,
        x: MatRef<'_, f32>,
        routes: Routes<'_>,
        routed: &mut RoutedActivations,
        ws: &mut Workspace,
    ) -> Result<(), GemmError> {
        self.check_routes([x.rows(), x.cols()], routes)?;
        routed.refill(self, routes, true, |routed| {
            let gather = self.gather(None, ws)?;
            let bytes = size_of::<f32>().saturating_mul(routes.tokens.len());
            let bytes = bytes.saturating_mul(routed.cols);
            more(&mut routed.f32, routes.counts.len())?;
            rotated(x, self.wanted().rotation, ws, |x, ws| {
                let how = (ws.options().workers(), bytes);
                each(&mut routed.f32, routes, how, |one, tokens| {
                    gather.run(one, TokenRows::chosen(x, tokens))
                })
            })
        })
    }

    /// Every expert's forward pass on its tokens, by int8 or by f32 as they were prepared,
    /// in one loop: `y` is `[rows][M]`, the rows of the first expert's tokens first.
    ///
    /// # Errors
    /// If the activations were prepared for other experts or groups, `y` has another shape,
    /// a [`ParallelFor`](crate::ParallelFor) left work out, or memory runs out.
    pub fn forward<O: Output>(
        &self,
        x: &RoutedActivations,
        y: O,
        ws: &mut Workspace,
    ) -> Result<(), GemmError> {
        Self::forward_many(&[self], x, &mut [y], ws)
    }

    /// [`forward`](Self::forward) of several matrices of each expert on one input, such as
    /// its gate and up: the same bits, in one loop. `ys[i]` is the output of `experts[i]`.
    ///
    /// # Errors
    /// As [`forward`](Self::forward), or if there are more or fewer outputs than experts.
    pub fn forward_many<O: Output>(
        experts: &[&Experts],
        x: &RoutedActivations,
        ys: &mut [O],
        ws: &mut Workspace,
    ) -> Result<(), GemmError> {
        check_length("outputs", ys.len(), experts.len())?;
        for (experts, y) in experts.iter().zip(&*ys) {
            experts.check_routed(x)?;
            let ([rows, cols], expected_cols) = (y.shape(), experts.out_features());
            if [rows, cols] != [x.rows(), expected_cols] {
                return Err(GemmError::OutputShape {
                    rows,
                    cols,
                    tokens: x.rows(),
                    expected_cols,
                });
            }
        }
        // All experts of the first matrix, then all of the second.
        let count = x.counts.len();
        let (mut ys, mut rest) = (ys.iter_mut(), None);
        let parts = (0..experts.len() * count).map(|i| {
            let all = match i % count {
                0 => ys.next().map(O::matrix),
                _ => rest.take(),
            };
            let (y, after) = all.expect("one for each").split_at_row(x.counts[i % count]);
            rest = Some(after);
            y
        });
        let layer = |i: usize| &experts[i / count].layers[i % count];
        Ok(match x.float {
            false => ws.run(
                |i| layer(i).int8_operands::<O>(&x.int8[i % count]),
                parts,
                O::Element::run_int8,
            ),
            true => ws.run(
                |i| layer(i).f32_operands::<O>(&x.f32[i % count]),
                parts,
                O::Element::run_f32,
            ),
        }?)
    }

    /// As [`forward`](Self::forward), row `i` into row `to[i]` of `y` (`[tokens][M]`). Rows
    /// that are not in `to` stay as they are.
    ///
    /// # Errors
    /// As [`forward`](Self::forward), or if there is not one number a row, or one is not of
    /// a row of `y` or is there twice.
    pub fn scatter(
        &self,
        x: &RoutedActivations,
        to: &[usize],
        y: MatMut<'_, f32>,
        ws: &mut Workspace,
    ) -> Result<(), GemmError> {
        self.check_targets(x, to, [y.rows(), y.cols()])?;
        let mut taken = core::mem::take(&mut ws.taken);
        taken.clear();
        memory::resize(&mut taken, y.rows(), false)?;
        let repeated = to
            .iter()
            .position(|&row| core::mem::replace(&mut taken[row], true));
        ws.taken = taken;
        if let Some(index) = repeated {
            return Err(GemmError::RowTwice {
                argument: "to",
                index,
                row: to[index],
            });
        }
        self.combine(x, to, y, ws, |_, row, y| y.copy_from_slice(row))
    }

    /// As [`forward`](Self::forward), row `i` times `weights[i]` added to row `to[i]` of `y`
    /// (`[tokens][M]`), one after the other: products and sums are rounded to f32.
    ///
    /// # Errors
    /// As [`forward`](Self::forward), or if there is not one number and one weight a row, or
    /// a number is not of a row of `y`.
    pub fn add_weighted(
        &self,
        x: &RoutedActivations,
        to: &[usize],
        weights: &[f32],
        y: MatMut<'_, f32>,
        ws: &mut Workspace,
    ) -> Result<(), GemmError> {
        self.check_targets(x, to, [y.rows(), y.cols()])?;
        check_length("weights", weights.len(), x.rows())?;
        self.combine(x, to, y, ws, |i, row, y| {
            scale::add_weighted(row, weights[i], y);
        })
    }

    /// Runs the forward pass into memory of the workspace, and `combine` on a part of each
    /// row, by its number, and of the row of `y` that it goes to, in order.
    fn combine(
        &self,
        x: &RoutedActivations,
        to: &[usize],
        y: MatMut<'_, f32>,
        ws: &mut Workspace,
        combine: impl Fn(usize, &[f32], &mut [f32]) + Sync,
    ) -> Result<(), GemmError> {
        let (rows, cols) = (x.rows(), self.out_features());
        let len = rows.checked_mul(cols);
        let len = len.ok_or(OutOfMemory { bytes: usize::MAX })?;
        let mut staged = core::mem::take(&mut ws.staged);
        let done = (|| {
            memory::resize(&mut staged, len, 0.0)?;
            self.forward(x, MatMut::dense(&mut staged, rows, cols), ws)?;
            // Columns are shared, so that the rows that one row of `y` takes keep their order.
            let threads = ws.options().workers();
            let workers = plan::layout_workers(threads, size_of_val(&staged[..]));
            let width = cols.div_ceil(workers).next_multiple_of(16).max(16);
            let (shape, stride) = ([y.rows(), cols], y.stride());
            let tile = [shape[0].max(1), width];
            let grid = TileGrid::new(y.into_data(), shape, stride, tile);
            threads.for_each(workers, grid.len(), |i| {
                let Some(mut tile) = grid.claim(i) else {
                    return Ok(false);
                };
                let part = tile.cols();
                for (i, (&row, staged)) in to.iter().zip(staged.chunks_exact(cols)).enumerate() {
                    combine(i, &staged[part.clone()], tile.row_mut(row, part.clone()));
                }
                Ok(true)
            })?;
            Ok(())
        })();
        ws.staged = staged;
        done
    }

    fn gather(&self, group: Option<GroupSize>, ws: &Workspace) -> Result<Gather, GemmError> {
        Ok(Gather {
            backend: ws.backend()?,
            family: ws.options().family,
            group_strips: group_strips([self.group(), group]),
        })
    }

    fn check_routes(&self, [rows, cols]: [usize; 2], routes: Routes<'_>) -> Result<(), GemmError> {
        check_length("counts", routes.counts.len(), self.layers.len())?;
        let sent = routes
            .counts
            .iter()
            .fold(0_usize, |sum, &count| sum.saturating_add(count));
        check_length("tokens", routes.tokens.len(), sent)?;
        let expected = self.in_features();
        if cols != expected && !self.layers.is_empty() {
            return Err(GemmError::InputWidth { cols, expected });
        }
        check_rows("tokens", routes.tokens, rows)
    }

    fn check_routed(&self, x: &RoutedActivations) -> Result<(), GemmError> {
        check_length(
            "counts of the activations",
            x.counts.len(),
            self.layers.len(),
        )?;
        let (cols, expected) = (x.cols, self.in_features());
        if cols != expected {
            return Err(GemmError::InputWidth { cols, expected });
        }
        let prepared = Wanted {
            group: x.group,
            rotation: x.rotation.as_ref(),
        };
        prepared.check(self.wanted())
    }

    fn check_targets(
        &self,
        x: &RoutedActivations,
        to: &[usize],
        [rows, cols]: [usize; 2],
    ) -> Result<(), GemmError> {
        self.check_routed(x)?;
        let expected_cols = self.out_features();
        if cols != expected_cols {
            return Err(GemmError::OutputShape {
                rows,
                cols,
                tokens: rows,
                expected_cols,
            });
        }
        check_length("to", to.len(), x.rows())?;
        check_rows("to", to, rows)
    }
}

/// How the tokens of an expert are made ready: by the thread that has it.
struct Gather {
    backend: Backend,
    family: Family,
    group_strips: usize,
}

impl Gather {
    fn run<X: Element>(
        &self,
        prepared: &mut Prepared<X>,
        x: TokenRows<'_, X>,
    ) -> Result<(), OutOfMemory> {
        let how = (self.family, &Threads::Serial);
        let built = prepared.build(x, self.group_strips, self.backend, how);
        built.map_err(|stopped| match stopped {
            Stopped::Memory(e) => e,
            Stopped::Incomplete(_) => unreachable!("one thread leaves nothing out"),
        })
    }
}

/// All numbers are of one of so many rows.
fn check_rows(argument: &'static str, numbers: &[usize], rows: usize) -> Result<(), GemmError> {
    match numbers.iter().position(|&row| row >= rows) {
        Some(index) => Err(GemmError::NoRow {
            argument,
            index,
            row: numbers[index],
            rows,
        }),
        None => Ok(()),
    }
}

/// At least `len` of them.
fn more<T: Default>(all: &mut Vec<T>, len: usize) -> Result<(), OutOfMemory> {
    let missing = len.saturating_sub(all.len());
    memory::extend(all, (0..missing).map(|_| T::default()))
}

/// Runs `prepare` for each expert with its tokens, which take so many bytes.
fn each<T: Send>(
    all: &mut [T],
    routes: Routes<'_>,
    (threads, bytes): (&Threads, usize),
    prepare: impl Fn(&mut T, &[usize]) -> Result<(), OutOfMemory> + Sync,
) -> Result<(), GemmError> {
    let count = routes.counts.len();
    let workers = plan::layout_workers(threads, bytes);
    let item = plan::per_item(count, workers);
    let grid = TileGrid::new(all, [count, 1], 1, [item, 1]);
    threads.for_each(workers, grid.len(), |i| {
        let Some(mut tile) = grid.claim(i) else {
            return Ok(false);
        };
        for expert in tile.rows() {
            prepare(&mut tile.row_mut(expert, 0..1)[0], routes.tokens_of(expert))?;
        }
        Ok(true)
    })?;
    Ok(())
}
