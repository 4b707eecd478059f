//! Tensors with data, as a test wants them.

use super::backend::buffer;
use super::tensors::{self, F16, new_node, new_tensor, nodes};
use super::{Fake, op};
use crate::plugin::{self, Plugin};
use crate::stats::Stats;
use crate::sys::{
    Buffer, Context, F32, Graph, I32, OpParams, Params, Registry, Stream, Tensor, WEIGHTS,
};
use core::ffi::c_int;
use core::ptr::null_mut;
use std::sync::Arc;
use tritgemm::{GroupSize, MatRef, Scales, TernaryMatrix};
use tritgemm_formats::ScaleRounding;
use tritgemm_formats::ggml::TernaryType;
use tritgemm_testing::Rng;

/// A context with tensors in memory.
pub struct Model {
    pub context: *mut Context,
    weights: *mut Buffer,
    memory: Vec<*mut [u128]>,
    rng: Rng,
    /// How many scales weights have, from 1 on.
    pub scales: usize,
}

impl Model {
    pub fn new() -> Self {
        let params = Params {
            mem_size: 1 << 20,
            mem_buffer: null_mut(),
            no_alloc: true,
        };
        Self {
            // SAFETY: the fake's function.
            context: unsafe { tensors::ggml_init(params) },
            weights: buffer(WEIGHTS, true),
            memory: Vec::new(),
            rng: Rng::new(25),
            scales: 64,
        }
    }

    /// Memory that lives as long as the model.
    pub fn allocate(&mut self, bytes: usize) -> *mut u8 {
        let memory = vec![u128::MAX; bytes.div_ceil(16)].into_boxed_slice();
        let memory = Box::into_raw(memory);
        self.memory.push(memory);
        memory.cast()
    }

    /// A tensor with memory for its data.
    pub fn tensor(&mut self, ty: c_int, ne: [i64; 4]) -> *mut Tensor {
        // SAFETY: the model's context, and a tensor that nobody else has.
        unsafe {
            let tensor = new_tensor(self.context, ty, ne);
            (*tensor).data = self.allocate(tensors::ggml_nbytes(tensor));
            tensor
        }
    }

    pub fn f32(&mut self, ne: [i64; 4]) -> *mut Tensor {
        let tensor = self.tensor(F32, ne);
        let len = ne.iter().product::<i64>() as usize;
        let values = self.rng.vec(len, |rng| rng.unit() * 2.0 - 1.0);
        write(tensor, &values);
        tensor
    }

    pub fn f16(&mut self, ne: [i64; 4]) -> *mut Tensor {
        self.tensor(F16, ne)
    }

    pub fn ids(&mut self, ne: [i64; 2], ids: &[i32]) -> *mut Tensor {
        let tensor = self.tensor(I32, [ne[0], ne[1], 1, 1]);
        write(tensor, ids);
        tensor
    }

    /// Bytes of `rows x cols` weights, with a scale a group of 256.
    fn encoded(&mut self, ty: TernaryType, [rows, cols]: [usize; 2]) -> Vec<u8> {
        let trits = self.rng.vec(rows * cols, Rng::trit);
        let groups = rows * cols.div_ceil(256);
        // Those that an f16 is.
        let among = self.scales;
        let scales = self
            .rng
            .vec(groups, |rng| (1 + rng.below(among)) as f32 / 64.0);
        let scales = Scales::per_group(GroupSize::G256, scales);
        let trits = MatRef::new(&trits, rows, cols).unwrap();
        let matrix = TernaryMatrix::from_trits(trits, scales).unwrap();
        ty.encode(&matrix, ScaleRounding::Exact, "").unwrap()
    }

    /// `[cols, rows, experts]` of random weights, in a buffer of weights.
    pub fn weights(&mut self, ty: TernaryType, ne: [i64; 3]) -> *mut Tensor {
        let [cols, rows, experts] = ne.map(|n| n as usize);
        let tensor = self.tensor(ty.id() as c_int, [ne[0], ne[1], ne[2], 1]);
        let stack: Vec<u8> = (0..experts)
            .flat_map(|_| self.encoded(ty, [rows, cols]))
            .collect();
        write(tensor, &stack);
        // SAFETY: a tensor that nobody else has.
        unsafe { (*tensor).buffer = self.weights };
        tensor
    }

    fn with_data(&mut self, node: *mut Tensor) -> *mut Tensor {
        // SAFETY: a node that nobody else has.
        unsafe {
            (*node).data = self.allocate(tensors::ggml_nbytes(node));
            // Not zeros: what has not been restored would show.
            (*node).op_params = core::array::from_fn(|i| i as i32 * 3 + 1);
        }
        node
    }

    pub fn mul_mat(&mut self, w: *mut Tensor, x: *mut Tensor) -> *mut Tensor {
        // SAFETY: the model's context and tensors.
        let node = unsafe { tensors::ggml_mul_mat(self.context, w, x) };
        self.with_data(node)
    }

    pub fn mul_mat_id(&mut self, w: *mut Tensor, x: *mut Tensor, ids: *mut Tensor) -> *mut Tensor {
        // SAFETY: the model's context and tensors.
        let node = unsafe { tensors::ggml_mul_mat_id(self.context, w, x, ids) };
        self.with_data(node)
    }

    /// Doubles `x` where it is. An `unseen` one has an output of its own, which no ggml does.
    pub fn double(&mut self, x: *mut Tensor, unseen: bool) -> *mut Tensor {
        // SAFETY: the model's context and a tensor of it.
        unsafe {
            let node = new_node(self.context, op::DOUBLE, (*x).ne, &[x]);
            (*node).data = match unseen {
                true => self.allocate(tensors::ggml_nbytes(node)),
                false => (*x).data,
            };
            node
        }
    }

    pub fn graph(&mut self, nodes: &[*mut Tensor]) -> *mut Graph {
        // SAFETY: the model's context and nodes of it.
        unsafe {
            let graph = tensors::ggml_new_graph(self.context);
            for &node in nodes {
                tensors::ggml_build_forward_expand(graph, node);
            }
            graph
        }
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        // SAFETY: what the model has made, and nobody uses any more.
        unsafe {
            tensors::ggml_free(self.context);
            drop(Box::from_raw(self.weights.cast::<super::backend::Buffer>()));
            self.memory.drain(..).for_each(|it| drop(Box::from_raw(it)));
        }
    }
}

/// Writes a tensor's data, which lies without gaps.
pub fn write<T: Copy>(tensor: *mut Tensor, values: &[T]) {
    // SAFETY: a tensor with memory for its data.
    unsafe {
        assert!(size_of_val(values) <= tensors::ggml_nbytes(tensor));
        let data = (*tensor).data.cast::<T>();
        data.copy_from_nonoverlapping(values.as_ptr(), values.len());
    }
}

/// A tensor's f32, which lie without gaps.
pub fn read(tensor: *mut Tensor) -> Vec<f32> {
    // SAFETY: a tensor with memory for its data.
    unsafe {
        let len = (*tensor).ne.iter().product::<i64>() as usize;
        core::slice::from_raw_parts((*tensor).data.cast::<f32>(), len).to_vec()
    }
}

/// Every node's operation and parameters.
pub fn state(graph: *mut Graph) -> Vec<(c_int, OpParams, i32)> {
    // SAFETY: a graph that nobody changes meanwhile.
    unsafe {
        let of = |&node: &*mut Tensor| ((*node).op, (*node).op_params, (*node).flags);
        nodes(graph).iter().map(of).collect()
    }
}

/// A stream of a plug-in.
pub struct Backend(pub *mut Stream);

impl Backend {
    pub fn new(registry: *mut Registry) -> Self {
        // SAFETY: a registry of the plug-in's.
        unsafe {
            let device = super::backend::ggml_backend_reg_dev_get(registry, 0);
            Self(super::backend::ggml_backend_dev_init(
                device,
                core::ptr::null(),
            ))
        }
    }

    pub fn compute(&self, graph: *mut Graph) -> c_int {
        // SAFETY: a stream, and a graph in memory.
        unsafe { super::backend::ggml_backend_graph_compute(self.0, graph) }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        // SAFETY: a stream that nobody uses any more.
        unsafe { super::backend::ggml_backend_free(self.0) };
    }
}

/// The plug-in of a registry.
pub fn plugin(registry: *mut Registry) -> &'static Plugin {
    // SAFETY: a registry of the plug-in's.
    unsafe { plugin::of_registry(registry) }
}

/// What a plug-in has counted.
pub fn stats(registry: *mut Registry) -> &'static Stats {
    &plugin(registry).stats
}

/// A fake with the plug-in loaded.
pub fn loaded() -> (Arc<Fake>, *mut Registry) {
    let fake = Fake::new(super::Faults::default());
    let registry = fake.load(super::settings()).unwrap().expect("not off");
    (fake, registry)
}
