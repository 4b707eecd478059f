//! Layers of ternary networks.
//!
//! | item | what it is |
//! |---|---|
//! | [`BitLinear`] | the trainable ternary layer |
//! | [`ste`] | the straight-through estimator on slices |
//! | [`RmsNorm`] | root mean square normalisation, forward and backward |

mod bit_linear;
mod error;
mod rms_norm;
pub mod ste;

pub use bit_linear::BitLinear;
#[cfg(feature = "train")]
pub use bit_linear::BitLinearGrads;
pub use error::LayerError;
pub use rms_norm::RmsNorm;
