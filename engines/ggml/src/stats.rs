//! What the plug-in did, counted over the life of the process.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use core::time::Duration;

/// Why a ternary product was left to ggml.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Left {
    /// The matrix is in no buffer of weights, or in one that is not plain memory.
    Buffer,
    /// Strides, a batch of matrices, or activations or outputs that are not f32.
    Layout,
    /// A weight that is not -1, 0 or +1, or a scale that is not finite.
    NotTernary,
    /// There was no memory to pack it, or ggml did not run what packs it.
    Memory,
}

#[derive(Default)]
pub struct Stats {
    products: AtomicU64,
    left: [AtomicU64; 4],
    packed_bytes: AtomicU64,
    packing: Nanoseconds,
    computing: Nanoseconds,
}

#[derive(Default)]
struct Nanoseconds(AtomicU64);

impl Nanoseconds {
    fn add(&self, time: Duration) {
        self.0.fetch_add(time.as_nanos() as u64, Relaxed);
    }

    fn seconds(&self) -> f64 {
        self.0.load(Relaxed) as f64 / 1e9
    }
}

impl Stats {
    /// So many products that were computed together.
    pub fn products_in(&self, count: u64, time: Duration) {
        self.products.fetch_add(count, Relaxed);
        self.computing.add(time);
    }

    pub fn left(&self, why: Left) {
        self.left[why as usize].fetch_add(1, Relaxed);
    }

    pub fn packed(&self, bytes: usize) {
        self.packed_bytes.fetch_add(bytes as u64, Relaxed);
    }

    /// Products that were taken.
    pub fn products(&self) -> u64 {
        self.products.load(Relaxed)
    }

    /// Products that were left, for that reason.
    pub fn left_for(&self, why: Left) -> u64 {
        self.left[why as usize].load(Relaxed)
    }

    /// Bytes that were packed, whether they are still there or not.
    pub fn packed_bytes(&self) -> u64 {
        self.packed_bytes.load(Relaxed)
    }

    pub fn packing(&self, time: Duration) {
        self.packing.add(time);
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [buffer, layout, ternary, memory] =
            [Left::Buffer, Left::Layout, Left::NotTernary, Left::Memory]
                .map(|why| self.left_for(why));
        write!(
            f,
            "{} products in {:.3} s; {} left to ggml ({buffer} by their buffer, {layout} by their \
             layout, {ternary} not ternary, {memory} for want of memory); packed {:.1} MB in {:.3} s",
            self.products(),
            self.computing.seconds(),
            buffer + layout + ternary + memory,
            self.packed_bytes() as f64 / 1e6,
            self.packing.seconds(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::{Left, Stats};
    use core::time::Duration;

    #[test]
    fn the_line_says_what_was_counted() {
        let stats = Stats::default();
        stats.products_in(1, Duration::from_millis(20));
        stats.products_in(2, Duration::from_millis(22));
        stats.left(Left::Layout);
        stats.left(Left::NotTernary);
        stats.left(Left::NotTernary);
        stats.packed(1_500_000);
        stats.packing(Duration::from_millis(7));
        assert_eq!(
            stats.to_string(),
            "3 products in 0.042 s; 3 left to ggml (0 by their buffer, 1 by their layout, \
             2 not ternary, 0 for want of memory); packed 1.5 MB in 0.007 s"
        );
    }
}
