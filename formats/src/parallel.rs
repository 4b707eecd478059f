//! Work on rows or blocks, shared among the threads of the caller's rayon pool. Outside of one
//! the calling thread works alone: rayon would start a pool of its own.

/// Bytes that a thread takes at least: less costs more to hand out than to do.
#[cfg(feature = "rayon")]
const MIN_BYTES: usize = 1 << 16;

/// One array cut into equal parts.
pub(crate) struct Parts<S> {
    all: S,
    part: usize,
}

/// `all` in parts of `part`, which is not 0; the last one may be short.
pub(crate) fn parts<S>(all: S, part: usize) -> Parts<S> {
    Parts { all, part }
}

/// Calls `work` with the parts of equal index of `from`, `to` and `extra`, and
/// gives the lowest index for which it says no.
pub(crate) fn first_refused<A: Sync, B: Send, C: Send>(
    from: Parts<&[A]>,
    to: Parts<&mut [B]>,
    extra: Parts<&mut [C]>,
    work: impl Fn(&[A], &mut [B], &mut [C]) -> bool + Sync,
) -> Option<usize> {
    #[cfg(feature = "rayon")]
    if in_pool() {
        use rayon::prelude::*;
        let least = MIN_BYTES.div_ceil(from.part.saturating_mul(size_of::<A>()));
        return (from.all.par_chunks(from.part))
            .zip(to.all.par_chunks_mut(to.part))
            .zip(extra.all.par_chunks_mut(extra.part))
            .enumerate()
            .with_min_len(least)
            .find_map_first(|(i, ((from, to), extra))| (!work(from, to, extra)).then_some(i));
    }
    (from.all.chunks(from.part))
        .zip(to.all.chunks_mut(to.part))
        .zip(extra.all.chunks_mut(extra.part))
        .position(|((from, to), extra)| !work(from, to, extra))
}

/// Whether the caller is in a rayon pool.
#[cfg(feature = "rayon")]
pub(crate) fn in_pool() -> bool {
    rayon::current_thread_index().is_some()
}
