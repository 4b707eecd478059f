//! The float types of activations, converted by `half`.

use half::{bf16, f16};
use tritgemm::Activation;

pub trait Float: Activation {
    /// The nearest value, halves to even.
    fn narrow(value: f32) -> Self;
    /// The same value.
    fn widen(self) -> f32;
}

impl Float for f32 {
    fn narrow(value: f32) -> Self {
        value
    }

    fn widen(self) -> f32 {
        self
    }
}

impl Float for f16 {
    fn narrow(value: f32) -> Self {
        Self::from_f32(value)
    }

    fn widen(self) -> f32 {
        self.to_f32()
    }
}

impl Float for bf16 {
    fn narrow(value: f32) -> Self {
        Self::from_f32(value)
    }

    fn widen(self) -> f32 {
        self.to_f32()
    }
}

pub fn narrowed<T: Float>(values: &[f32]) -> Vec<T> {
    values.iter().map(|&v| T::narrow(v)).collect()
}

pub fn widened<T: Float>(values: &[T]) -> Vec<f32> {
    values.iter().map(|v| v.widen()).collect()
}
