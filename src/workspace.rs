//! What a product runs in: the memory it reuses, and the options it runs with.

use crate::isa::{Backend, IsaError};
use crate::kernels::call::PanelView;
use crate::kernels::environment::in_default;
use crate::kernels::memory::tiles::TileStore;
use crate::options::Options;
use crate::product::folds::Folded;
use crate::product::operands::Product;
use crate::product::prepare::Prepared;
use crate::product::scratch::Slots;
use crate::product::sink::Sink;
use crate::product::stretches::TileSums;
use crate::product::{self, Room};
use crate::scales::GroupSize;
use crate::threads::Stopped;
use crate::view::MatMut;
use core::fmt;

/// Scratch memory that products reuse, and the [`Options`] they run with.
///
/// After the first product of a shape, further ones of that shape allocate
/// nothing, nor do smaller ones of the same [`Family`](crate::Family). In a pool, each
/// worker's scratch is allocated when it first takes a share of a product.
///
/// One workspace serves one product at a time; threads that work on different
/// products need one each.
#[derive(Default)]
pub struct Workspace {
    options: Options,
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

    pub(crate) fn backend(&self) -> Result<Backend, IsaError> {
        self.options.backend.map_or_else(Backend::active, Ok)
    }

    /// Runs products, which have one K, in one loop: the weights, the activations and what
    /// becomes of the sums of each, by its number, and its output.
    pub(crate) fn run<'a, 'y, X: Folded, S: Sink<X>>(
        &mut self,
        operands: impl Fn(usize) -> (Weights<'a>, &'a Prepared<X>, S) + Sync,
        ys: impl ExactSizeIterator<Item = MatMut<'y, S::Out>>,
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
        in_default(|| product::run(product, ys, room))
    }
}

impl fmt::Debug for Workspace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workspace")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
