//! What the target of the C interface is made of: calls with arguments that may be wrong, and
//! what their handles stand for.

mod call;
mod model;

pub use call::{Buffer, Call, Kept, Op, Step, pick};
pub use model::{Activations, Weights};

/// Most tokens that differ.
pub const DISTINCT: usize = 3;
/// Rows from which a matrix is large.
pub const LARGE: usize = 257;
/// Most multiply-adds of a product with a small matrix and with a large one, which
/// are enough to be shared among workers.
pub const MACS: [usize; 2] = [1 << 15, 3 << 20];
/// What a scale covers.
pub const GRANULARITIES: [i32; 6] = [1, 2, 32, 64, 128, 256];
/// Most handles of a kind.
pub const HANDLES: usize = 6;
