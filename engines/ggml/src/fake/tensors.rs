//! Contexts, tensors and graphs.

use super::{Field, here, op};
use crate::sys::{COMPUTE, Context, Custom, F32, Graph, I32, Params, Tensor};
use core::ffi::{CStr, c_char, c_int, c_void};
use core::ptr::{null, null_mut};
use tritgemm_formats::ggml::TernaryType;

pub const F16: c_int = 1;

/// What a product has in all its outputs if its weights or activations are none that
/// [`reference`] knows.
pub const MARK: f32 = 7777.0;

type Nodes = Vec<*mut Tensor>;

#[derive(Default)]
struct Contents {
    room: usize,
    tensors: Vec<*mut Tensor>,
    graphs: Vec<*mut Nodes>,
}

const TENSOR: usize = size_of::<Tensor>() + 32;
const GRAPH: usize = 4096;

/// Name, weights in a block and its bytes.
fn of_type(ty: c_int) -> Option<(&'static CStr, usize, usize)> {
    if here().faults.no_types.contains(&ty) {
        return None;
    }
    let ternary = |name, ty: TernaryType| (name, ty.block(), ty.block_bytes());
    match ty {
        F32 => Some((c"f32", 1, 4)),
        I32 => Some((c"i32", 1, 4)),
        F16 => Some((c"f16", 1, 2)),
        34 => Some(ternary(c"tq1_0", TernaryType::Tq1_0)),
        35 => Some(ternary(c"tq2_0", TernaryType::Tq2_0)),
        42 => Some(ternary(c"q2_0", TernaryType::Q2_0)),
        _ => None,
    }
}

pub unsafe extern "C" fn ggml_type_name(ty: c_int) -> *const c_char {
    of_type(ty).map_or(null(), |it| it.0.as_ptr())
}

pub unsafe extern "C" fn ggml_type_size(ty: c_int) -> usize {
    of_type(ty).expect("a type").2
}

pub unsafe extern "C" fn ggml_blck_size(ty: c_int) -> i64 {
    of_type(ty).expect("a type").1 as i64
}

pub unsafe extern "C" fn ggml_tensor_overhead() -> usize {
    match here().faults.tensor {
        Some(Field::Size) => size_of::<Tensor>() - 8,
        _ => TENSOR,
    }
}

pub unsafe extern "C" fn ggml_graph_overhead() -> usize {
    GRAPH
}

pub unsafe extern "C" fn ggml_init(params: Params) -> *mut Context {
    assert!(params.no_alloc && params.mem_buffer.is_null());
    let contents = Contents {
        room: params.mem_size,
        ..Contents::default()
    };
    Box::into_raw(Box::new(contents)).cast()
}

pub unsafe extern "C" fn ggml_free(context: *mut Context) {
    // SAFETY: a context of `ggml_init`, its tensors and its graphs, each a box.
    unsafe {
        let contents = Box::from_raw(context.cast::<Contents>());
        contents
            .tensors
            .iter()
            .for_each(|&it| drop(Box::from_raw(it)));
        contents
            .graphs
            .iter()
            .for_each(|&it| drop(Box::from_raw(it)));
    }
}

/// # Safety
/// A context of `ggml_init`.
unsafe fn take_room<'a>(context: *mut Context, bytes: usize) -> &'a mut Contents {
    // SAFETY: the caller's promise.
    let contents = unsafe { &mut *context.cast::<Contents>() };
    let left = contents.room.checked_sub(bytes);
    contents.room = left.expect("room in the context");
    contents
}

/// Words of an array, from the last one on.
fn turned<T: Copy, const N: usize>(mut array: [T; N]) -> [T; N] {
    array.rotate_right(1);
    array
}

/// # Safety
/// A context of `ggml_init`.
pub unsafe fn new_tensor(context: *mut Context, ty: c_int, ne: [i64; 4]) -> *mut Tensor {
    // SAFETY: the caller's promise.
    let contents = unsafe { take_room(context, TENSOR) };
    let (_, block, bytes) = of_type(ty).expect("a type");
    let [n0, n1, n2, _] = ne.map(|n| n as usize);
    assert!(n0.is_multiple_of(block), "whole blocks");
    let row = n0 / block * bytes;
    let nb = [bytes, row, row * n1, row * n1 * n2];
    let wrong = here().faults.tensor;
    let tensor = Box::into_raw(Box::new(Tensor {
        ty,
        buffer: null_mut(),
        ne: if wrong == Some(Field::Shape) {
            turned(ne)
        } else {
            ne
        },
        nb: if wrong == Some(Field::Strides) {
            turned(nb)
        } else {
            nb
        },
        op: op::NONE,
        op_params: [0; 16],
        flags: 0,
        src: [null_mut(); 10],
        view_src: null_mut(),
        view_offs: 0,
        data: match wrong {
            Some(Field::Data) => core::ptr::dangling_mut(),
            _ => null_mut(),
        },
        name: [0; 64],
        extra: null_mut(),
        padding: [0; 8],
    }));
    contents.tensors.push(tensor);
    tensor
}

/// # Safety
/// A context of `ggml_init` and tensors of it.
pub unsafe fn new_node(
    context: *mut Context,
    op: c_int,
    ne: [i64; 4],
    sources: &[*mut Tensor],
) -> *mut Tensor {
    // SAFETY: the caller's promise, and a tensor that nobody else has.
    unsafe {
        let node = new_tensor(context, F32, ne);
        (*node).op = op;
        let all = &mut (*node).src;
        all[..sources.len()].copy_from_slice(sources);
        match here().faults.tensor {
            Some(Field::Op) => core::mem::swap(&mut (*node).op, &mut (*node).flags),
            Some(Field::Sources) => (*node).src = turned((*node).src),
            _ => (),
        }
        node
    }
}

pub unsafe extern "C" fn ggml_new_tensor_2d(
    context: *mut Context,
    ty: c_int,
    n0: i64,
    n1: i64,
) -> *mut Tensor {
    // SAFETY: the caller's context.
    unsafe { new_tensor(context, ty, [n0, n1, 1, 1]) }
}

pub unsafe extern "C" fn ggml_new_tensor_3d(
    context: *mut Context,
    ty: c_int,
    n0: i64,
    n1: i64,
    n2: i64,
) -> *mut Tensor {
    // SAFETY: the caller's context.
    unsafe { new_tensor(context, ty, [n0, n1, n2, 1]) }
}

pub unsafe extern "C" fn ggml_nbytes(tensor: *const Tensor) -> usize {
    // SAFETY: the caller's tensor.
    let tensor = unsafe { &*tensor };
    if tensor.ne.contains(&0) {
        return 0;
    }
    let (_, block, bytes) = of_type(tensor.ty).expect("a type");
    let first = match block {
        1 => bytes + (tensor.ne[0] as usize - 1) * tensor.nb[0],
        _ => tensor.ne[0] as usize / block * tensor.nb[0],
    };
    (1..4).fold(first, |sum, i| {
        sum + (tensor.ne[i] as usize - 1) * tensor.nb[i]
    })
}

pub unsafe extern "C" fn ggml_mul_mat(
    context: *mut Context,
    w: *mut Tensor,
    x: *mut Tensor,
) -> *mut Tensor {
    // SAFETY: the caller's context and tensors.
    unsafe {
        let ([k, m, ..], n) = ((*w).ne, (*x).ne);
        if here().faults.tensor.is_none() {
            assert_eq!(k, n[0]);
        }
        new_node(context, op::MUL_MAT, [m, n[1], n[2], n[3]], &[w, x])
    }
}

pub unsafe extern "C" fn ggml_mul_mat_id(
    context: *mut Context,
    w: *mut Tensor,
    x: *mut Tensor,
    ids: *mut Tensor,
) -> *mut Tensor {
    // SAFETY: the caller's context and tensors.
    unsafe {
        let ne = [(*w).ne[1], (*ids).ne[0], (*x).ne[2], 1];
        new_node(context, op::MUL_MAT_ID, ne, &[w, x, ids])
    }
}

/// What a custom node has in its parameters, from their second word on.
#[repr(C, packed(4))]
#[derive(Clone, Copy)]
pub struct CustomParams {
    before: i32,
    pub function: Custom,
    tasks: c_int,
    pub argument: *mut c_void,
}

pub unsafe extern "C" fn ggml_custom_4d(
    context: *mut Context,
    ty: c_int,
    n0: i64,
    n1: i64,
    n2: i64,
    n3: i64,
    sources: *mut *mut Tensor,
    count: c_int,
    function: Custom,
    tasks: c_int,
    argument: *mut c_void,
) -> *mut Tensor {
    assert!(ty == F32 && sources.is_null() && count == 0 && tasks == -1);
    let params = CustomParams {
        before: 0x1234,
        function,
        tasks,
        argument,
    };
    // SAFETY: the caller's context, and a node that nobody else has, whose parameters are longer.
    unsafe {
        let node = new_node(context, op::CUSTOM, [n0, n1, n2, n3], &[]);
        if here().faults.tensor != Some(Field::Custom) {
            let at = (&raw mut (*node).op_params).cast::<CustomParams>();
            at.write_unaligned(params);
        }
        node
    }
}

pub unsafe extern "C" fn ggml_new_graph(context: *mut Context) -> *mut Graph {
    // SAFETY: the caller's context.
    let contents = unsafe { take_room(context, GRAPH) };
    let graph = Box::into_raw(Box::<Nodes>::default());
    contents.graphs.push(graph);
    graph.cast()
}

/// # Safety
/// A graph of `ggml_new_graph` that nobody changes meanwhile.
pub unsafe fn nodes<'a>(graph: *mut Graph) -> &'a [*mut Tensor] {
    // SAFETY: the caller's promise.
    unsafe { &*graph.cast::<Nodes>() }
}

pub unsafe extern "C" fn ggml_build_forward_expand(graph: *mut Graph, node: *mut Tensor) {
    // SAFETY: the caller's graph, and a tensor with its sources.
    unsafe {
        let known = nodes(graph).contains(&node);
        let sources = (*node).src;
        if known || (*node).op == op::NONE {
            return;
        }
        for source in sources.into_iter().filter(|it| !it.is_null()) {
            ggml_build_forward_expand(graph, source);
        }
        if here().faults.tensor != Some(Field::Flags) {
            (*node).flags |= COMPUTE;
        }
        (*graph.cast::<Nodes>()).push(node);
    }
}

pub unsafe extern "C" fn ggml_graph_n_nodes(graph: *mut Graph) -> c_int {
    // SAFETY: the caller's graph.
    unsafe { nodes(graph).len() as c_int }
}

pub unsafe extern "C" fn ggml_graph_node(graph: *mut Graph, index: c_int) -> *mut Tensor {
    // SAFETY: the caller's graph.
    unsafe { nodes(graph)[index as usize] }
}

/// Weights of a matrix of a stack, as f32.
///
/// # Safety
/// A tensor whose data is in memory.
unsafe fn weights(w: &Tensor, matrix: usize) -> Option<Vec<f32>> {
    let ty = TernaryType::from_id(w.ty as u32)?;
    let [cols, rows] = [w.ne[0], w.ne[1]].map(|n| n as usize);
    let len = rows * ty.row_bytes(cols)?;
    if [w.nb[0], w.nb[1] * rows] != [ty.block_bytes(), len] {
        return None;
    }
    // SAFETY: the caller's tensor, of whole rows.
    let bytes = unsafe { core::slice::from_raw_parts(w.data.add(matrix * w.nb[2]), len) };
    let matrix = ty.decode(bytes, rows, cols, "").ok()?;
    Some(matrix.to_f32().expect("memory"))
}

/// What a product's output is, in the order of its elements: summed in f64, rounded once.
///
/// # Safety
/// A MUL_MAT or MUL_MAT_ID node whose sources are in memory.
pub unsafe fn reference(node: &Tensor) -> Vec<f32> {
    // SAFETY: the caller's node; every element is read at its strides.
    unsafe {
        let (w, x, ids) = (&*node.src[0], &*node.src[1], node.src[2].as_ref());
        let [m, n1, n2, n3] = node.ne.map(|n| n as usize);
        let matrices = (0..w.ne[2] as usize)
            .map(|matrix| weights(w, matrix))
            .collect::<Option<Vec<_>>>()
            .filter(|_| x.ty == F32);
        let Some(matrices) = matrices else {
            return vec![MARK; m * n1 * n2 * n3];
        };
        let [k, x1, ..] = x.ne.map(|n| n as usize);
        let mut out = Vec::new();
        for (i3, i2, i1) in (0..n3 * n2 * n1).map(|i| (i / (n1 * n2), i / n1 % n2, i % n1)) {
            let (matrix, row) = match ids {
                Some(ids) => {
                    let at = ids.data.add(i1 * ids.nb[0] + i2 * ids.nb[1]);
                    (at.cast::<i32>().read() as usize, i1 % x1)
                }
                None => (i2 / (n2 / w.ne[2] as usize), i1),
            };
            let at = x.data.add(row * x.nb[1] + i2 * x.nb[2] + i3 * x.nb[3]);
            let value = |i: usize| at.add(i * x.nb[0]).cast::<f32>().read_unaligned();
            let x: Vec<f32> = (0..k).map(value).collect();
            for w in matrices[matrix].chunks(k) {
                let terms = w.iter().zip(&x).filter(|(w, _)| **w != 0.0);
                out.push(
                    terms
                        .map(|(&w, &x)| f64::from(w) * f64::from(x))
                        .sum::<f64>() as f32,
                );
            }
        }
        out
    }
}
