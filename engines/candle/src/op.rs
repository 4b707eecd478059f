//! Outputs as candle's custom ops: computed before, several of them in one loop
//! maybe, each an op of its own that gradients pass.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Error, Layout, Result, Shape, Tensor};
use std::sync::{Mutex, PoisonError};

const NAME: &str = "tritgemm";

/// An op whose output is there already, and its gradients.
pub(crate) struct Computed<B> {
    output: Mutex<Option<(CpuStorage, Shape)>>,
    backward: B,
}

impl<B> Computed<B> {
    pub(crate) fn new(output: CpuStorage, shape: impl Into<Shape>, backward: B) -> Self {
        Self {
            output: Mutex::new(Some((output, shape.into()))),
            backward,
        }
    }

    /// The output, moved out: an op runs once.
    fn take(&self) -> Result<(CpuStorage, Shape)> {
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        output
            .take()
            .ok_or_else(|| Error::msg("an op that ran already"))
    }
}

/// `backward` makes the argument's gradient of the argument and the output's.
impl<B: Fn(&Tensor, &Tensor) -> Result<Tensor>> CustomOp1 for Computed<B> {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.take()
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad_y: &Tensor) -> Result<Option<Tensor>> {
        (self.backward)(x, grad_y).map(Some)
    }
}

type Gradients = (Option<Tensor>, Option<Tensor>);

/// As [`CustomOp1`], of two arguments.
impl<B: Fn([&Tensor; 2], &Tensor) -> Result<Gradients>> CustomOp2 for Computed<B> {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.take()
    }

    fn bwd(&self, a: &Tensor, b: &Tensor, _: &Tensor, grad_y: &Tensor) -> Result<Gradients> {
        (self.backward)([a, b], grad_y)
    }
}
