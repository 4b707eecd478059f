//! Which nodes of a graph are products that the plug-in takes.

use crate::layers::{self, Weights};
use crate::plugin::Plugin;
use crate::stats::Left;
use crate::sys::{COMPUTE, F32, I32, Tensor};
use core::ops::Range;

/// The bytes from a tensor's first value to the end of its last one, if they are f32 that lie
/// one after the other, in rows at one distance.
fn rows(tensor: &Tensor) -> Option<Range<usize>> {
    let [n0, n1, n2, n3] = tensor.ne.map(|n| usize::try_from(n).unwrap_or(0));
    let [size, row, matrix, batch] = tensor.nb;
    let values = n0.checked_mul(size)?;
    let even = tensor.ty == F32
        && size == size_of::<f32>()
        && row.is_multiple_of(size)
        && row >= values
        && Some(matrix) == row.checked_mul(n1)
        && Some(batch) == matrix.checked_mul(n2);
    let start = tensor.data as usize;
    let whole = start.is_multiple_of(size) && start > 0;
    let count = n1.checked_mul(n2)?.checked_mul(n3)?;
    // Of no rows at all, too.
    let before = count.checked_sub(1)?.checked_mul(row)?;
    let end = start.checked_add(before)?.checked_add(values)?;
    let fits = values > 0 && isize::try_from(end - start).is_ok();
    (even && whole && fits).then_some(start..end)
}

/// Whether ranges of bytes have one in common.
pub fn overlap(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.start < b.end && b.start < a.end
}

/// Whether a product's activations and outputs lie as `Leader::run` takes them.
fn plain(weights: &Weights, node: &Tensor, x: &Tensor, ids: Option<&Tensor>) -> bool {
    let (k, m) = (weights.cols() as i64, weights.rows() as i64);
    let shaped = x.ne[0] == k && node.ne[0] == m && node.nb[1] as i64 == 4 * m;
    // What is read and what is written are borrowed at a time.
    let Some((xs, ys)) = rows(x).zip(rows(node)) else {
        return false;
    };
    let apart = !overlap(&xs, &ys);
    let tokens = match ids {
        None => x.ne[1..] == node.ne[1..],
        Some(ids) => {
            let [used, tokens, ..] = ids.ne;
            let start = ids.data as usize;
            let end = ids.nb[1].checked_mul(tokens as usize);
            let end = end.and_then(|len| start.checked_add(len));
            ids.ty == I32
                && start > 0
                && end.is_some_and(|end| !overlap(&(start..end), &ys))
                && ids.nb[0] == 4
                && ids.nb[1].is_multiple_of(4)
                && ids.ne[2..] == [1, 1]
                && node.ne[1..] == [used, tokens, 1]
                && x.ne[2..] == [tokens, 1]
                && used.checked_rem(x.ne[1]) == Some(0)
        }
    };
    shaped && apart && tokens
}

/// Whether a node is a ternary product, and of which weights: `Err` of one that is not taken.
///
/// # Safety
/// A node of a graph of ggml's.
pub unsafe fn eligible(plugin: &Plugin, node: &Tensor) -> Option<Result<Weights, Left>> {
    let routed = node.op == plugin.mul_mat_id;
    let computed = node.flags & COMPUTE != 0 && !node.ne.contains(&0);
    if !routed && node.op != plugin.mul_mat || !computed {
        return None;
    }
    // SAFETY: a product has two sources, and a routed one three.
    let (w, x, ids) = unsafe { (&*node.src[0], &*node.src[1], node.src[2].as_ref()) };
    if !plugin.types.iter().any(|ty| ty.id() as i32 == w.ty) {
        return None;
    }
    // SAFETY: a tensor of the graph.
    let weights = unsafe { Weights::of(w, &plugin.types, routed) };
    let weights = weights.filter(|it| plain(it, node, x, ids) && routed == ids.is_some());
    let Some(weights) = weights else {
        return Some(Err(Left::Layout));
    };
    // SAFETY: a tensor of the graph.
    let taken = plugin.settings.any || unsafe { layers::in_weights(&plugin.ggml, w) };
    Some(if taken {
        Ok(weights)
    } else {
        Err(Left::Buffer)
    })
}
