//! `tritgemm_experts` and `tritgemm_routed`.

use crate::buffer::{Number, Span, input, reads, reads_slice, reserve};
use crate::handle::{Shared, borrow, destroy, give, size};
use crate::linear::Linear;
use crate::outputs::{Output, Ys, array, into_outputs, rows};
use crate::prepared::{Activations, Path, prepare};
use crate::product::{self, Float, Raw, of_float};
use crate::status::{Error, Status, guard};
use crate::workspace::Workspace;
use core::ffi::c_void;
use tritgemm::{GemmError, MatMut, RoutedActivations, Routes};

/// The experts of a mixture: layers with one M, one K and one tritgemm_linear_group().
pub struct Experts(tritgemm::Experts);

/// Activations made ready for the experts that their tokens were sent to, again and again
/// in the same memory. Rows of products are those of the first expert's tokens, then those
/// of the second's, and so on.
pub struct Routed(Shared<RoutedActivations>);

impl Number for usize {}

/// Experts of `count` layers, in the order of the router's numbers; they share the layers'
/// panels.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_experts_create(
    layers: *const *const Linear,
    count: usize,
    out: *mut *mut Experts,
) -> Status {
    // SAFETY: preconditions 1, 2 and 3.
    guard(|| unsafe {
        give(out, || {
            let mut all = Vec::new();
            reserve(&mut all, count)?;
            for &layer in array("layers", layers, count)? {
                // A copy that says so where memory runs out.
                let layer = &borrow("layers", layer)?.0;
                all.push(layer.slice_rows(0..layer.out_features())?);
            }
            Ok(Experts(tritgemm::Experts::new(all)?))
        })
    })
}

/// Frees experts, or nothing for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_experts_destroy(experts: *mut Experts) {
    // SAFETY: precondition 2.
    unsafe { destroy(experts) }
}

/// Routed activations of no tokens yet.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_routed_create(out: *mut *mut Routed) -> Status {
    // SAFETY: precondition 3.
    guard(|| unsafe { give(out, || Ok(Routed(Shared::default()))) })
}

/// Frees routed activations, or nothing for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_routed_destroy(routed: *mut Routed) {
    // SAFETY: precondition 2.
    unsafe { destroy(routed) }
}

/// Rows of a product: the tokens of all experts. 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_routed_rows(routed: *const Routed) -> usize {
    // SAFETY: precondition 2.
    unsafe {
        size(routed, |r| {
            r.0.read("routed").map_or(0, |ready| ready.rows())
        })
    }
}

/// Makes activations ready for experts.
///
/// # Safety
/// Preconditions 1 and 2 of the crate's documentation.
unsafe fn route(
    experts: *const Experts,
    activations: Activations,
    [sent, counts]: [(*const usize, usize); 2],
    workspace: *mut Workspace,
    routed: *mut Routed,
) -> Status {
    // SAFETY: the caller's preconditions.
    guard(|| unsafe {
        let experts = &borrow("experts", experts)?.0;
        let tokens = input("sent", sent.0, sent.1)?;
        let counts = input("counts", counts.0, counts.1)?;
        let routes = Routes {
            tokens: &tokens,
            counts: &counts,
        };
        let routed = &mut *borrow("routed", routed)?.0.write("routed")?;
        prepare!(
            activations,
            experts.in_features(),
            workspace,
            |x, ws| experts.prepare_int8_into(x, routes, routed, ws),
            experts.prepare_f32_into(x, routes, routed, ws)
        )
    })
}

/// Quantises each of `tokens` rows of `x` (K values of the tritgemm_float `x_type`,
/// `x_stride` apart) to int8 by its absolute maximum, or each `x_group`
/// values by their own as in tritgemm_linear_prepare_int8(), once, and makes ready in `routed` what
/// each expert gets of them: expert 0 the first `counts[0]` of the numbers in `sent`, expert
/// 1 those after them, and so on, a count for each of the experts. A token may be sent to
/// any number of experts. While another call uses `routed` it fails with TRITGEMM_BUSY.
/// Where the arguments do not fit `routed` stays as it is; after any other error it may have
/// no rows.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_experts_prepare_int8(
    experts: *const Experts,
    tokens: usize,
    x_type: i32,
    x: *const c_void,
    x_len: usize,
    x_stride: usize,
    x_group: usize,
    sent: *const usize,
    sent_len: usize,
    counts: *const usize,
    counts_len: usize,
    workspace: *mut Workspace,
    routed: *mut Routed,
) -> Status {
    let x = Activations::int8(tokens, x_type, (x, x_len, x_stride), x_group);
    let sent = [(sent, sent_len), (counts, counts_len)];
    // SAFETY: preconditions 1 and 2.
    unsafe { route(experts, x, sent, workspace, routed) }
}

/// As tritgemm_experts_prepare_int8(), for the f32 pass.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_experts_prepare_f32(
    experts: *const Experts,
    tokens: usize,
    x: *const f32,
    x_len: usize,
    x_stride: usize,
    sent: *const usize,
    sent_len: usize,
    counts: *const usize,
    counts_len: usize,
    workspace: *mut Workspace,
    routed: *mut Routed,
) -> Status {
    let x = Activations::f32(tokens, (x, x_len, x_stride));
    let sent = [(sent, sent_len), (counts, counts_len)];
    // SAFETY: preconditions 1 and 2.
    unsafe { route(experts, x, sent, workspace, routed) }
}

/// Every expert's forward pass on its tokens, by int8 or by f32 as they were prepared, in one
/// loop, into tritgemm_routed_rows() rows of `output`: the bits of each layer by itself.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_experts_forward(
    experts: *const Experts,
    x: *const Routed,
    output: *const Output,
    workspace: *mut Workspace,
) -> Status {
    // SAFETY: preconditions 1 and 2.
    guard(|| unsafe {
        let experts = &borrow("experts", experts)?.0;
        let x = &*borrow("x", x)?.0.read("x")?;
        // Not through `borrow`: it is no handle of ours.
        let outputs = array("output", output, 1)?;
        let shape = [x.rows(), experts.out_features()];
        of_float!(outputs[0].r#type, T => {
            check_apart::<T>(&outputs[0], shape, experts, &[])?;
            into_outputs::<T>(outputs, |_| shape, workspace, |ys, ws| match ys {
                Ys::Replaced([y]) => experts.forward(x, y.reborrow(), ws),
                Ys::Added([y]) => experts.forward(x, tritgemm::Added(y.0.reborrow()), ws),
                _ => unreachable!("one output"),
            })
        })
    })
}

/// Runs products of experts into `tokens` rows of `y`, which are kept.
///
/// # Safety
/// Preconditions 1 and 2 of the crate's documentation.
unsafe fn combine(
    experts: &tritgemm::Experts,
    tokens: usize,
    (data, len, stride): Raw<*mut f32>,
    inputs: &[(&str, Span)],
    workspace: *mut Workspace,
    run: impl FnOnce(MatMut<'_, f32>, &mut tritgemm::Workspace) -> Result<(), GemmError>,
) -> Result<(), Error> {
    let output = Output {
        data: data.cast(),
        len,
        stride,
        r#type: Float::TritgemmF32 as i32,
        add: 1,
    };
    let shape = [tokens, experts.out_features()];
    // SAFETY: the caller's preconditions; the output overlaps nothing that is read.
    unsafe {
        check_apart::<f32>(&output, shape, experts, inputs)?;
        into_outputs::<f32>(
            &[output],
            |_| shape,
            workspace,
            |ys, ws| match ys {
                Ys::Added([y]) => run(y.0.reborrow(), ws),
                _ => unreachable!("one output that is kept"),
            },
        )
    }
}

/// Fails if the output overlaps an input or the experts' weights.
fn check_apart<T: product::Output>(
    output: &Output,
    shape: [usize; 2],
    experts: &tritgemm::Experts,
    inputs: &[(&str, Span)],
) -> Result<(), Error> {
    let y = rows::<T>(output, shape)?;
    inputs
        .iter()
        .try_for_each(|read| y.check_apart_from(read))?;
    let mut layers = experts.layers().iter();
    layers.try_for_each(|l| y.check_apart_from(&reads_slice("experts", l.panels().as_bytes())))
}

/// As tritgemm_experts_forward(), row `i` into row `to[i]` of the `tokens` rows of `y` (M
/// values, `y_stride` apart), a number for each row and none twice. Other rows stay as they
/// are.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_experts_scatter(
    experts: *const Experts,
    x: *const Routed,
    to: *const usize,
    to_len: usize,
    tokens: usize,
    y: *mut f32,
    y_len: usize,
    y_stride: usize,
    workspace: *mut Workspace,
) -> Status {
    // SAFETY: preconditions 1 and 2.
    guard(|| unsafe {
        let experts = &borrow("experts", experts)?.0;
        let x = &*borrow("x", x)?.0.read("x")?;
        let inputs = [reads("to", to, to_len)?];
        let to = input("to", to, to_len)?;
        let y = (y, y_len, y_stride);
        combine(experts, tokens, y, &inputs, workspace, |y, ws| {
            experts.scatter(x, &to, y, ws)
        })
    })
}

/// As tritgemm_experts_forward(), row `i` times `weights[i]` added to row `to[i]` of the
/// `tokens` rows of `y` (M values, `y_stride` apart), one after the other, rounded after the
/// product and after the sum.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_experts_add_weighted(
    experts: *const Experts,
    x: *const Routed,
    to: *const usize,
    to_len: usize,
    weights: *const f32,
    weights_len: usize,
    tokens: usize,
    y: *mut f32,
    y_len: usize,
    y_stride: usize,
    workspace: *mut Workspace,
) -> Status {
    // SAFETY: preconditions 1 and 2.
    guard(|| unsafe {
        let experts = &borrow("experts", experts)?.0;
        let x = &*borrow("x", x)?.0.read("x")?;
        let inputs = [
            reads("to", to, to_len)?,
            reads("weights", weights, weights_len)?,
        ];
        let to = input("to", to, to_len)?;
        let weights = input("weights", weights, weights_len)?;
        let y = (y, y_len, y_stride);
        combine(experts, tokens, y, &inputs, workspace, |y, ws| {
            experts.add_weighted(x, &to, &weights, y, ws)
        })
    })
}
