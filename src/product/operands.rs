//! Everything that a work item reads.

use crate::kernels::call::PanelView;
use crate::kernels::element::{Element, Few};
use crate::product::prepare::Prepared;

/// A product `y[n][m]`: weights, activations, and what becomes of the sums.
pub struct Product<'a, X: Element, S> {
    pub(crate) view: PanelView<'a>,
    /// M: rows that exist; the last panel may be partly padding.
    pub(crate) rows: usize,
    pub(crate) prepared: &'a Prepared<X>,
    /// The kernel for few tokens, and what it was chosen for.
    pub(crate) few: Few<X>,
    pub(crate) weights_in_cache: bool,
    pub(crate) sink: S,
}
