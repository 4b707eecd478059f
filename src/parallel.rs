//! Rows in parallel, where that pays: inside the caller's rayon pool, never in
//! one of ours.

#[cfg(feature = "rayon")]
use crate::threads::Threads;

/// Values below which a task is not worth handing to another thread: about the
/// 15 us that entering a pool and waking a worker can cost.
#[cfg(feature = "rayon")]
const MIN_VALUES: usize = 1 << 16;

/// Most rows of no values for which a result of one value a row is allocated:
/// no input vouches for their number.
pub(crate) const MAX_EMPTY_ROWS: usize = 1 << 24;

/// Calls `f(row, input_row, output_row, one)` for the rows of `input` and `output`,
/// which are as wide as given, and the one value each row has in `ones`; in
/// the caller's rayon pool if it is in one and they are many. Returns whether every call did.
///
/// A width of zero means that there is nothing to do.
pub(crate) fn all_rows<A, B, C, F>(
    (input, input_width): (&[A], usize),
    (output, output_width): (&mut [B], usize),
    ones: &mut [C],
    f: F,
) -> bool
where
    A: Sync,
    B: Send,
    C: Send,
    F: Fn(usize, &[A], &mut [B], &mut C) -> bool + Sync,
{
    if input_width == 0 || output_width == 0 {
        return true;
    }
    #[cfg(feature = "rayon")]
    if let Some(rows) = rows_per_task(input.len(), input_width) {
        use rayon::prelude::*;
        return input
            .par_chunks(input_width)
            .zip(output.par_chunks_mut(output_width))
            .zip(ones)
            .enumerate()
            .with_min_len(rows)
            .map(|(row, ((input, output), one))| f(row, input, output, one))
            .reduce(|| true, |a, b| a & b);
    }
    input
        .chunks(input_width)
        .zip(output.chunks_mut(output_width))
        .zip(ones)
        .enumerate()
        .map(|(row, ((input, output), one))| f(row, input, output, one))
        .fold(true, |a, b| a & b)
}

/// Calls `f(row, values)` for the rows of `values`, as [`all_rows`].
pub(crate) fn each_row_mut<B, F>(values: &mut [B], width: usize, f: F)
where
    B: Send,
    F: Fn(usize, &mut [B]) + Send + Sync,
{
    if width == 0 {
        return;
    }
    #[cfg(feature = "rayon")]
    if let Some(rows) = rows_per_task(values.len(), width) {
        use rayon::prelude::*;
        values
            .par_chunks_mut(width)
            .enumerate()
            .with_min_len(rows)
            .for_each(|(row, values)| f(row, values));
        return;
    }
    values
        .chunks_mut(width)
        .enumerate()
        .for_each(|(row, values)| f(row, values));
}

/// Rows that make a task, or `None` if all of them should stay on this thread.
#[cfg(feature = "rayon")]
fn rows_per_task(values: usize, width: usize) -> Option<usize> {
    let parallel = values >= 2 * MIN_VALUES && Threads::Rayon.workers() > 1;
    parallel.then(|| MIN_VALUES.div_ceil(width))
}
