//! How layers run.

use crate::Parallelism;
use tritgemm::{GroupSize, Options, Workspace};

/// What activations are multiplied as.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ActivationMode {
    /// W1.58A8, as BitNet b1.58 infers (arXiv:2402.17764): every token is
    /// quantised to int8 by its absolute maximum, the product is exact. Or every
    /// group of a token: [`BitLinear::with_activation_group`](crate::BitLinear::with_activation_group).
    #[default]
    Int8,
    /// f32 throughout; f16 and bf16 are widened.
    F32,
}

/// How a layer runs. Layers that run alike share preparations and loops.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Settings {
    pub(crate) mode: ActivationMode,
    /// Of int8 activations.
    pub(crate) activation_group: Option<GroupSize>,
    pub(crate) parallelism: Parallelism,
    pub(crate) weights_in_cache: bool,
}

impl Settings {
    /// Runs `work`, a product of so many multiply-accumulates.
    pub(crate) fn run<R: Send>(
        self,
        macs: usize,
        work: impl FnOnce(&mut Workspace) -> R + Send,
    ) -> R {
        let options = Options::new().weights_in_cache(self.weights_in_cache);
        self.parallelism.run(macs, options, work)
    }
}

/// The multiply-accumulates of a product of tokens, columns and rows.
pub(crate) fn macs(shape: [usize; 3]) -> usize {
    shape.into_iter().fold(1, usize::saturating_mul)
}
