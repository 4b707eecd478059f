//! What a product runs in: the memory it reuses, and the options it runs with.

use crate::isa::{Backend, IsaError};
use crate::kernels::call::PanelView;
use crate::kernels::environment::in_default;
use crate::kernels::memory::tile_set::TileStore;
use crate::options::Options;
use crate::product::folds::Folded;
use crate::product::operands::Product;
use crate::product::prepare::Prepared;
use crate::product::scratch::Slots;
use crate::product::sink::Sink;
use crate::product::stretches::TileSums;
use crate::product::{Room, Run};
use crate::scales::GroupSize;
use crate::threads::{LentPool, ParallelFor, Stopped, Threads};
use crate::view::MatMut;
use core::{fmt, mem};
use std::sync::Arc;

/// Scratch memory that products reuse, and the [`Options`] they run with.
///
/// After the first product of a shape, further ones of that shape allocate
/// nothing, nor do smaller ones of the same [`Family`](crate::Family). In a pool, each
/// worker's scratch is allocated when it first takes a share of a product, and room for the
/// sums of a tile when workers first share it.
///
/// One workspace serves one product at a time; threads that work on different
/// products need one each.
#[derive(Default)]
pub struct Workspace {
    options: Options,
    /// Where [`Self::with_pool`] puts a pool, to be used again.
    lent_pool: Option<Arc<LentPool>>,
    slots: Slots,
    tiles: TileStore,
    sums: TileSums,
    /// int8 values of tokens that were quantised for this product alone.
    pub(crate) values: Vec<i8>,
    /// Activations that were rotated for this product alone.
    pub(crate) rotated: Vec<f32>,
    /// Rows of experts that are not yet where they belong, and the rows of an output that
    /// are taken.
    pub(crate) staged: Vec<f32>,
    pub(crate) taken: Vec<bool>,
    pub(crate) quantized: Quantized,
    pub(crate) prepared_i8: Prepared<i8>,
    pub(crate) prepared_f32: Prepared<f32>,
}

/// int8 activations made ready, and what turns each token back into floats.
#[derive(Debug, Default)]
pub struct Quantized {
    pub(crate) prepared: Prepared<i8>,
    /// `[tokens][groups]`, one group without [`Self::group`].
    pub(crate) token_scales: Vec<f32>,
    /// Activations of a token that share a scale, if not all do.
    pub(crate) group: Option<GroupSize>,
}

/// Panels, and how many of their rows there are.
pub(crate) type Weights<'a> = (PanelView<'a>, usize);

impl Workspace {
    /// A workspace with default [`Options`]; allocates nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A workspace that runs products with `options`.
    pub fn with_options(options: Options) -> Self {
        Self {
            options,
            ..Self::default()
        }
    }

    /// The options.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Replaces the options; the memory stays.
    pub fn set_options(&mut self, options: Options) {
        self.options = options;
    }

    /// Runs `work` with this workspace on a pool that is borrowed for as long, in place of the
    /// [`Threads`] of its options: every product and preparation in `work`, and whatever else
    /// takes a workspace. The options are afterwards what they were before, also if `work`
    /// panics.
    ///
    /// Options that `work` clones and keeps run products on the calling thread once it has ended.
    /// A loop of them that runs on another thread at that moment is waited for. The first call
    /// allocates a few bytes.
    ///
    /// ```
    /// use std::sync::atomic::{AtomicUsize, Ordering};
    /// use tritgemm::{ParallelFor, Workspace};
    ///
    /// /// An engine's pool, or a part of it that lives for one request.
    /// struct Counting<'a>(&'a AtomicUsize);
    ///
    /// impl ParallelFor for Counting<'_> {
    ///     fn workers(&self) -> usize {
    ///         2
    ///     }
    ///     fn run(&self, items: usize, work: &(dyn Fn(usize) + Sync)) {
    ///         self.0.fetch_add(items, Ordering::Relaxed);
    ///         (0..items).for_each(work);
    ///     }
    /// }
    ///
    /// # use tritgemm::{MatMut, MatRef, Panels, Scales, TernaryMatrix};
    /// # fn main() -> Result<(), tritgemm::Error> {
    /// # let (x, mut y) = (vec![1; 512 * 512], vec![0; 512 * 512]);
    /// # let matrix = TernaryMatrix::from_trits(MatRef::new(&x, 512, 512)?, Scales::per_tensor(1.0))?;
    /// # let panels = Panels::pack(&matrix)?;
    /// # let (x, y) = (MatRef::new(&x, 512, 512)?, MatMut::new(&mut y, 512, 512)?);
    /// let (items, mut ws) = (AtomicUsize::new(0), Workspace::new());
    /// ws.with_pool(&Counting(&items), |ws| panels.gemm_i8(x, y, ws))?;
    /// assert!(items.into_inner() > 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn with_pool<R>(&mut self, pool: &dyn ParallelFor, work: impl FnOnce(&mut Self) -> R) -> R {
        // One that somebody still has, by options that were cloned in an earlier call, stays
        // theirs.
        let lent_pool = self.lent_pool.take();
        let lent_pool = lent_pool.filter(|it| Arc::strong_count(it) == 1);
        let lent_pool = lent_pool.unwrap_or_default();
        let on_pool = Threads::Pool(lent_pool.clone());
        let on_pool = self.options.clone().threads(on_pool);
        let restore = Restore {
            options: mem::replace(&mut self.options, on_pool),
            lent_pool: Some(lent_pool.clone()),
            ws: self,
        };
        let result = lent_pool.lend(pool, || work(restore.ws));
        drop(restore);
        result.expect("nothing else is lent by this call's own")
    }

    pub(crate) fn backend(&self) -> Result<Backend, IsaError> {
        self.options.backend.map_or_else(Backend::active, Ok)
    }

    /// Runs products, which have one K, in one loop: the weights, the activations and what
    /// becomes of the sums of each, by its number, its output, and the loop.
    pub(crate) fn run<'a, 'y, X: Folded, S: Sink<X>>(
        &mut self,
        operands: impl Fn(usize) -> (Weights<'a>, &'a Prepared<X>, S) + Sync,
        mut ys: impl ExactSizeIterator<Item = MatMut<'y, S::Out>>,
        run: Run<Product<'a, X, S>, S::Out>,
    ) -> Result<(), Stopped>
    where
        S::Out: 'y,
    {
        let weights_in_cache = self.options.weights_in_cache;
        let product = |i| {
            let ((view, rows), prepared, sink) = operands(i);
            Product {
                view,
                rows,
                prepared,
                few: prepared.few(weights_in_cache),
                weights_in_cache,
                sink,
            }
        };
        let room = Room {
            threads: self.options.workers(),
            slots: &mut self.slots,
            tiles: &mut self.tiles,
            sums: &mut self.sums,
        };
        in_default(|| run(&product, &mut ys, room))
    }
}

/// Gives a workspace back what [`Workspace::with_pool`] took from it.
struct Restore<'a> {
    ws: &'a mut Workspace,
    options: Options,
    lent_pool: Option<Arc<LentPool>>,
}

impl Drop for Restore<'_> {
    fn drop(&mut self) {
        self.ws.options = mem::take(&mut self.options);
        self.ws.lent_pool = self.lent_pool.take();
    }
}

impl fmt::Debug for Workspace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workspace")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
