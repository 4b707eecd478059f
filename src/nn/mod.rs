//! Layers of ternary networks.
//!
//! | item | what it is |
//! |---|---|
//! | [`ste`] | the straight-through estimator on slices |
//! | [`RmsNorm`] | root mean square normalisation, forward and backward |

mod rms_norm;
pub mod ste;

pub use rms_norm::{RmsNorm, RmsNormError};
