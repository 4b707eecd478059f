//! A graph, computed on ggml's own CPU backend with its ternary products replaced.
//!
//! ggml's threads enter a node of `GGML_OP_CUSTOM` together. Such a node stands in the place of
//! every product that the plug-in takes: the first thread leads the product, and the others
//! help it. Products that follow it with the same activations, as those of keys and values or of
//! a gate, are computed with it, and ggml passes over their nodes. When ggml is done the nodes
//! are what they were.

use crate::eligible::{eligible, overlap};
use crate::layers::{self, Identity, Layers, Packed, Weights};
use crate::plugin::Plugin;
use crate::process::Mappings;
use crate::product::{Leader, Part, Product, Region};
use crate::stats::Left;
use crate::sys::{
    ALL_THREADS, Context, F32, FAILED, Ggml, Graph, OpParams, Params, SUCCESS, Stream, Tensor,
};
use core::ffi::{c_int, c_void};
use core::ops::Range;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, Ordering};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tritgemm::Team;

pub type ComputeGraph = unsafe extern "C" fn(*mut Stream, *mut Graph) -> c_int;

/// What stands behind a stream.
pub struct Compute {
    plugin: &'static Plugin,
    /// The CPU backend's own function.
    cpu: ComputeGraph,
    team: Team,
    layers: Mutex<Known>,
    leader: Mutex<Leader>,
    failed: AtomicBool,
}

/// What the thread knows that computes graphs.
#[derive(Default)]
struct Known {
    layers: Layers,
    /// The last region of the team.
    region: u64,
}

/// What a node of the plug-in's is to do. ggml's threads see it for as long as a graph is
/// computed.
struct Slot<'a> {
    compute: &'a Compute,
    region: u64,
    work: Work<'a>,
}

enum Work<'a> {
    Product(Product),
    Pack(&'a [Weights], &'a Mutex<Vec<Outcome>>),
}

/// What became of weights.
type Outcome = Result<Arc<Packed>, Left>;

/// A lock that nothing is left half done under.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A context of ggml's without memory for data.
pub struct Scratch<'a> {
    ggml: &'a Ggml,
    pub context: *mut Context,
}

impl<'a> Scratch<'a> {
    /// With room for that many tensors and graphs, or `None` if memory runs out.
    pub fn new(ggml: &'a Ggml, tensors: usize, graphs: usize) -> Option<Self> {
        // SAFETY: ggml's functions, which take any size.
        let context = unsafe {
            let of_tensors = tensors * (ggml.ggml_tensor_overhead)();
            (ggml.ggml_init)(Params {
                mem_size: of_tensors + graphs * (ggml.ggml_graph_overhead)(),
                mem_buffer: null_mut(),
                no_alloc: true,
            })
        };
        (!context.is_null()).then_some(Self { ggml, context })
    }
}

impl Drop for Scratch<'_> {
    fn drop(&mut self) {
        // SAFETY: made by `ggml_init`, and used no more.
        unsafe { (self.ggml.ggml_free)(self.context) };
    }
}

/// How a node becomes one of the plug-in's.
#[derive(Clone, Copy)]
pub struct Template {
    op: c_int,
    /// The operation of a node that ggml has nothing to do at.
    none: c_int,
    params: OpParams,
    /// Where a pointer to a [`Slot`] stands in the parameters.
    slot: usize,
}

/// Words of a pointer in parameters.
const POINTER: usize = size_of::<*const ()>() / size_of::<i32>();

fn words(pointer: *const c_void) -> [i32; POINTER] {
    let bytes = (pointer as usize).to_ne_bytes();
    let (words, _) = bytes.as_chunks();
    core::array::from_fn(|i| i32::from_ne_bytes(words[i]))
}

impl Template {
    /// As ggml itself makes a custom node. `None` if the parameters of one do not have its
    /// function and its pointer once each.
    pub fn new(ggml: &Ggml) -> Option<Self> {
        let scratch = Scratch::new(ggml, 2, 0)?;
        let marker = 0x5A17_u16;
        let pointer = (&raw const marker).cast::<c_void>();
        // SAFETY: a context with room for a tensor, no arguments, and a function that nobody
        // calls.
        let node = unsafe {
            let (context, pointer) = (scratch.context, pointer.cast_mut());
            let make = ggml.ggml_custom_4d;
            make(
                context,
                F32,
                1,
                1,
                1,
                1,
                null_mut(),
                0,
                custom,
                ALL_THREADS,
                pointer,
            )
            .as_ref()?
        };
        let places = |pointer: *const c_void| {
            let wanted = words(pointer);
            let windows = node.op_params.windows(POINTER).enumerate();
            let found: Vec<_> = windows
                .filter(|(_, it)| *it == wanted)
                .map(|(i, _)| i)
                .collect();
            <[usize; 1]>::try_from(found).ok()
        };
        places(custom as *const c_void)?;
        let [slot] = places(pointer)?;
        let (op, params) = (node.op, node.op_params);
        // SAFETY: the context has room for one more.
        let leaf = unsafe { (ggml.ggml_new_tensor_2d)(scratch.context, F32, 1, 1).as_ref()? };
        let none = leaf.op;
        Some(Self {
            op,
            none,
            params,
            slot,
        })
    }

    fn params(&self, slot: &Slot<'_>) -> OpParams {
        let mut params = self.params;
        let pointer = words((&raw const *slot).cast());
        params[self.slot..][..POINTER].copy_from_slice(&pointer);
        params
    }
}

/// Puts nodes back as they were, whatever happens.
struct Restore(Vec<(*mut Tensor, c_int, OpParams)>);

impl Restore {
    /// # Safety
    /// A node that lives until this is dropped and that nobody uses now.
    unsafe fn replace(&mut self, node: *mut Tensor, op: c_int, params: OpParams) {
        // SAFETY: the caller's promise.
        let node = unsafe { &mut *node };
        self.0.push((node, node.op, node.op_params));
        (node.op, node.op_params) = (op, params);
    }
}

impl Drop for Restore {
    fn drop(&mut self) {
        for &(node, op, params) in &self.0 {
            // SAFETY: by the promise of `replace`. ggml has returned, so that its threads are
            // done with the graph.
            unsafe { ((*node).op, (*node).op_params) = (op, params) };
        }
    }
}

impl Compute {
    pub fn new(plugin: &'static Plugin, cpu: ComputeGraph) -> Self {
        Self {
            plugin,
            cpu,
            team: Team::new(usize::MAX),
            layers: Mutex::default(),
            leader: Mutex::new(Leader::new(plugin.activations)),
            failed: AtomicBool::new(false),
        }
    }

    /// Whoever leads a region of a number that has ended panics: so tests have it.
    #[cfg(test)]
    pub fn team(&self) -> &Team {
        &self.team
    }

    /// Computes a graph on the CPU backend `stream`, ternary products by the plug-in.
    ///
    /// # Safety
    /// A CPU backend whose own function this was made of, and a graph whose tensors are in
    /// memory that nobody else uses meanwhile.
    pub unsafe fn graph(&self, stream: *mut Stream, graph: *mut Graph) -> c_int {
        let plugin = self.plugin;
        let ggml = &plugin.ggml;
        let mut known = lock(&self.layers);
        // SAFETY: the caller's graph.
        let nodes: Vec<*mut Tensor> = unsafe {
            let count = (ggml.ggml_graph_n_nodes)(graph);
            (0..count)
                .map(|i| (ggml.ggml_graph_node)(graph, i))
                .collect()
        };
        let mut taken = Vec::new();
        for (index, &node) in nodes.iter().enumerate() {
            // SAFETY: a node of the graph.
            match unsafe { eligible(plugin, &*node) } {
                Some(Ok(weights)) => taken.push((index, weights)),
                Some(Err(why)) => plugin.stats.left(why),
                None => (),
            }
        }
        if taken.is_empty() {
            // SAFETY: the caller's promise.
            return unsafe { (self.cpu)(stream, graph) };
        }
        let weights: Vec<Weights> = taken.iter().map(|(_, weights)| *weights).collect();
        // SAFETY: weights of the graph, in memory, and the caller's stream.
        let packed = unsafe { self.packed(&weights, &mut known, stream) };

        let mut slots: Vec<(usize, Slot<'_>)> = Vec::new();
        for ((index, weights), packed) in taken.iter().zip(packed) {
            let packed = match packed {
                Ok(packed) => packed,
                Err(why) => {
                    plugin.stats.left(why);
                    continue;
                }
            };
            let ty = weights.ty();
            let part = Part {
                node: nodes[*index],
                packed,
            };
            let mut prepared = false;
            if let Some((before, slot)) = slots.last_mut()
                && let Work::Product(last) = &mut slot.work
                && last.ty == ty
            {
                let between = &nodes[*before..=*index];
                // SAFETY: nodes of the graph.
                prepared =
                    unsafe { same_activations(ggml, &last.parts[0].packed, &part.packed, between) };
                let matrix = matches!(*part.packed, Packed::Matrix(_));
                // SAFETY: as above.
                if prepared && matrix && unsafe { may_come_first(ggml, between) } {
                    last.parts.push(part);
                    continue;
                }
            }
            known.region += 1;
            let work = Work::Product(Product {
                parts: vec![part],
                ty,
                prepared,
            });
            let (compute, region) = (self, known.region);
            slots.push((
                *index,
                Slot {
                    compute,
                    region,
                    work,
                },
            ));
        }
        self.failed.store(false, Ordering::Relaxed);
        let mut restore = Restore(Vec::with_capacity(taken.len()));
        let template = &plugin.template;
        for (_, slot) in &slots {
            let Work::Product(product) = &slot.work else {
                continue;
            };
            for (i, part) in product.parts.iter().enumerate() {
                let (op, params) = match i {
                    0 => (template.op, template.params(slot)),
                    _ => (template.none, OpParams::default()),
                };
                // SAFETY: a node of the graph, which only this thread uses until ggml has it.
                unsafe { restore.replace(part.node, op, params) };
            }
        }
        // SAFETY: the caller's promise. The slots are there until ggml returns.
        let status = unsafe { (self.cpu)(stream, graph) };
        drop(restore);
        match status {
            SUCCESS if self.failed.load(Ordering::Relaxed) => FAILED,
            status => status,
        }
    }

    /// Packs what of `weights` is not known yet, on ggml's threads: a graph of one node.
    ///
    /// # Safety
    /// Weights in memory, and a CPU backend as in [`Self::graph`].
    unsafe fn packed(
        &self,
        weights: &[Weights],
        known: &mut Known,
        stream: *mut Stream,
    ) -> Vec<Outcome> {
        let plugin = self.plugin;
        if plugin.settings.any {
            known.layers.clear();
        }
        // SAFETY: weights in memory.
        let here = |known: &Known, it: &Weights| unsafe { known.layers.get(it) };
        let found: Vec<_> = weights.iter().map(|it| here(known, it)).collect();
        if let Some(found) = found.iter().cloned().collect::<Option<_>>() {
            return found;
        }
        let mut missing: Vec<(Identity, Weights)> = Vec::new();
        for (&weights, _) in weights.iter().zip(found).filter(|(_, it)| it.is_none()) {
            // SAFETY: weights in memory.
            let identity = unsafe { weights.identity() };
            if missing.iter().all(|(it, _)| *it != identity) {
                missing.push((identity, weights));
            }
        }
        // Held while this stream packs: another one that wants the same weights waits.
        let mut shared = lock(&plugin.shared);
        missing.retain(|(identity, weights)| {
            // SAFETY: weights in memory.
            let packed = unsafe { shared.get(weights) }.filter(|_| !plugin.settings.any);
            let found = packed.map(|packed| known.layers.insert(*identity, Ok(packed)));
            found.is_none()
        });
        let wanted: Vec<_> = missing.iter().map(|(_, weights)| *weights).collect();
        // SAFETY: the caller's promise.
        let new = unsafe { self.pack(&wanted, known, stream) };
        for ((identity, _), packed) in missing.into_iter().zip(new) {
            if let Ok(packed) = &packed {
                shared.insert(identity, packed);
            }
            known.layers.insert(identity, packed);
        }
        let known = |it| here(known, it).unwrap_or(Err(Left::Memory));
        weights.iter().map(known).collect()
    }

    /// Nothing if ggml did not run it.
    ///
    /// # Safety
    /// As [`Self::packed`].
    unsafe fn pack(
        &self,
        wanted: &[Weights],
        known: &mut Known,
        stream: *mut Stream,
    ) -> Vec<Outcome> {
        if wanted.is_empty() {
            return Vec::new();
        }
        let (plugin, start) = (self.plugin, Instant::now());
        let ggml = &plugin.ggml;
        known.region += 1;
        let results = Mutex::new(Vec::new());
        let slot = Slot {
            compute: self,
            region: known.region,
            work: Work::Pack(wanted, &results),
        };
        if let Some(scratch) = Scratch::new(ggml, 1, 1) {
            // SAFETY: a context with room for them; a slot that is there until ggml returns.
            unsafe {
                let pointer = (&raw const slot).cast::<c_void>().cast_mut();
                let (context, make) = (scratch.context, ggml.ggml_custom_4d);
                let node = make(
                    context,
                    F32,
                    1,
                    1,
                    1,
                    1,
                    null_mut(),
                    0,
                    custom,
                    ALL_THREADS,
                    pointer,
                );
                let graph = (ggml.ggml_new_graph)(context);
                (ggml.ggml_build_forward_expand)(graph, node);
                (self.cpu)(stream, graph);
            }
        }
        plugin.stats.packing(start.elapsed());
        results.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does a slot's work as its leader.
    ///
    /// # Safety
    /// ggml has come to the slot's node.
    unsafe fn lead(&self, slot: &Slot<'_>, nth: usize) {
        let leader = &mut *lock(&self.leader);
        let region = Region {
            team: &self.team,
            nth,
        };
        // Two looks at the clock are half a percent of a token of the smallest models.
        let start = self.plugin.settings.stats.then(Instant::now);
        match &slot.work {
            Work::Pack(weights, results) => {
                let (mappings, stats) = (Mappings::shared(), &self.plugin.stats);
                let pack = |ws: &mut tritgemm::Workspace| {
                    // SAFETY: weights of the graph that waits for them.
                    let one = |it| unsafe { layers::pack(it, ws, &mappings, stats) };
                    weights.iter().map(one).collect()
                };
                *lock(results) = leader.on(&region, pack);
            }
            Work::Product(product) => {
                // SAFETY: a node that ggml has come to: its sources are there.
                let done = unsafe { leader.run(product, &region) };
                let count = product.parts.len() as u64;
                let time = start.map(|it| it.elapsed()).unwrap_or_default();
                self.plugin.stats.products_in(count, time);
                if let Err(why) = done {
                    self.failed.store(true, Ordering::Relaxed);
                    crate::say(format_args!("a product failed: {why}"));
                }
            }
        }
    }
}

/// Whether the last of `nodes` finds activations prepared that the first one had prepared, and
/// that no node between them has overwritten.
///
/// # Safety
/// Nodes of a graph; the first and the last are products.
unsafe fn same_activations(
    ggml: &Ggml,
    first: &Packed,
    last: &Packed,
    nodes: &[*mut Tensor],
) -> bool {
    let groups = match (first, last) {
        (Packed::Matrix(a), Packed::Matrix(b)) => a.group() == b.group(),
        (Packed::Experts(a), Packed::Experts(b)) => {
            a.group() == b.group() && a.layers().len() == b.layers().len()
        }
        _ => false,
    };
    let [a, .., b] = nodes else {
        return false;
    };
    // SAFETY: the caller's nodes.
    let [a, b] = [a, b].map(|it| unsafe { [(**it).src[1], (**it).src[2]] });
    // SAFETY: tensors of the graph.
    let overwrites = |node, input| unsafe { overlap(&range(ggml, node), &range(ggml, input)) };
    let before_last = &nodes[..nodes.len() - 1];
    groups && a == b && {
        let mut inputs = a.into_iter().filter(|it| !it.is_null());
        inputs.all(|input| before_last.iter().all(|&node| !overwrites(node, input)))
    }
}

/// Whether the last of `nodes` may write its output when the first one does: none of them before
/// it reads or writes there.
///
/// # Safety
/// Nodes of a graph.
unsafe fn may_come_first(ggml: &Ggml, nodes: &[*mut Tensor]) -> bool {
    let Some((&last, before)) = nodes.split_last() else {
        return false;
    };
    // SAFETY: tensors of the graph.
    let touches = |it: *mut Tensor| unsafe { overlap(&range(ggml, it), &range(ggml, last)) };
    before.iter().all(|&node| {
        // SAFETY: a node of the graph.
        let sources = unsafe { (*node).src };
        let read = sources.into_iter().filter(|it| !it.is_null());
        !read.chain([node]).any(touches)
    })
}

/// The bytes of a tensor.
///
/// # Safety
/// A tensor of a graph.
unsafe fn range(ggml: &Ggml, tensor: *const Tensor) -> Range<usize> {
    // SAFETY: the caller's tensor.
    let (start, len) = unsafe { ((*tensor).data as usize, (ggml.ggml_nbytes)(tensor)) };
    start..start + len
}

/// What ggml's threads call for a node of the plug-in's: `slot` is its [`Slot`].
unsafe extern "C" fn custom(_: *mut Tensor, ith: c_int, nth: c_int, slot: *mut c_void) {
    // SAFETY: the pointer in the node's parameters, to a slot that is there while ggml computes.
    let slot = unsafe { &*slot.cast::<Slot<'_>>() };
    let compute = slot.compute;
    if ith != 0 {
        return compute.team.help(slot.region);
    }
    let lead = || {
        compute.team.lead(slot.region, || {
            // SAFETY: ggml has come to this node.
            unsafe { compute.lead(slot, nth.max(1) as usize) };
        });
    };
    // ggml's frames are not to be unwound.
    if catch_unwind(AssertUnwindSafe(lead)).is_err() {
        compute.failed.store(true, Ordering::Relaxed);
    }
}
