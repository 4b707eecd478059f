//! The plug-in as ggml sees it: a registry with one accelerator, whose streams are CPU backends
//! with another `graph_compute`.
//!
//! A scheduler gives all work of the host to an accelerator that can do it, and this one can do
//! what the CPU can. So a graph comes here as a whole, and its stream is in everything else the
//! CPU backend that it was made as: its device, its context, its threads.

use crate::graph::{Compute, ComputeGraph, Template, lock};
use crate::layers::Shared;
use crate::settings::{Activations, Settings};
use crate::stats::Stats;
use crate::sys::{
    ACCEL, Buffer, BufferType, Device, Ggml, Graph, Properties, Registry, Slot, Stream, Tensor,
    device, registry, stream,
};
use core::ffi::{c_char, c_int, c_void};
use core::ptr::null_mut;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tritgemm_formats::ggml::TernaryType;

const NAME: *const c_char = c"TRITGEMM".as_ptr();
const DESCRIPTION: *const c_char = c"ternary products by additions and subtractions".as_ptr();

/// All that the functions below need.
pub struct Plugin {
    pub ggml: Ggml,
    pub settings: Settings,
    pub activations: Activations,
    /// ggml's CPU device.
    pub cpu: *mut Device,
    /// Numbers of operations.
    pub mul_mat: c_int,
    pub mul_mat_id: c_int,
    /// The types whose layout this ggml shares.
    pub types: Vec<TernaryType>,
    pub template: Template,
    pub shared: Mutex<Shared>,
    pub stats: Stats,
}

// SAFETY: the CPU device lives as long as the process, and ggml lets any thread use it.
unsafe impl Send for Plugin {}
// SAFETY: as above.
unsafe impl Sync for Plugin {}

impl Plugin {
    /// What is handed to ggml. It keeps it for ever, and so is this kept.
    pub fn register(self, api_version: c_int) -> *mut Registry {
        let device = Box::into_raw(Box::new(Device {
            slots: device_slots(),
            registry: null_mut(),
            context: Box::into_raw(Box::new(self)).cast(),
        }));
        let registry = Box::into_raw(Box::new(Registry {
            api_version,
            slots: registry_slots(),
            context: device.cast(),
        }));
        // SAFETY: a device that nobody else has yet.
        unsafe { (*device).registry = registry };
        registry
    }
}

/// What stands behind each stream, by its address.
static STREAMS: Mutex<BTreeMap<usize, Arc<Behind>>> = Mutex::new(BTreeMap::new());

struct Behind {
    compute: Compute,
    free: Free,
}

type Free = unsafe extern "C" fn(*mut Stream);

/// A function as ggml's structures hold it.
macro_rules! slot {
    ($function:expr, $ty:ty) => {
        ($function as $ty) as Slot
    };
}

fn registry_slots() -> [Slot; registry::SLOTS] {
    let mut slots = [core::ptr::null(); registry::SLOTS];
    slots[registry::GET_NAME] = slot!(registry_name, unsafe extern "C" fn(_) -> _);
    slots[registry::DEVICE_COUNT] = slot!(device_count, unsafe extern "C" fn(_) -> _);
    slots[registry::DEVICE] = slot!(device_at, unsafe extern "C" fn(_, _) -> _);
    slots[registry::PROC_ADDRESS] = slot!(proc_address, unsafe extern "C" fn(_, _) -> _);
    slots
}

fn device_slots() -> [Slot; device::SLOTS] {
    let mut slots = [core::ptr::null(); device::SLOTS];
    slots[device::GET_NAME] = slot!(device_name, unsafe extern "C" fn(_) -> _);
    slots[device::DESCRIPTION] = slot!(description, unsafe extern "C" fn(_) -> _);
    slots[device::MEMORY] = slot!(memory, unsafe extern "C" fn(_, _, _));
    slots[device::TYPE] = slot!(device_type, unsafe extern "C" fn(_) -> _);
    slots[device::PROPERTIES] = slot!(properties, unsafe extern "C" fn(_, _));
    slots[device::INIT] = slot!(init, unsafe extern "C" fn(_, _) -> _);
    slots[device::BUFFER_TYPE] = slot!(buffer_type, unsafe extern "C" fn(_) -> _);
    slots[device::FROM_HOST_POINTER] =
        slot!(from_host_pointer, unsafe extern "C" fn(_, _, _, _) -> _);
    slots[device::SUPPORTS_OP] = slot!(supports_op, unsafe extern "C" fn(_, _) -> _);
    slots[device::SUPPORTS_BUFFER_TYPE] =
        slot!(supports_buffer_type, unsafe extern "C" fn(_, _) -> _);
    slots
}

/// # Safety
/// A device of [`Plugin::register`].
unsafe fn of_device<'a>(device: *mut Device) -> &'a Plugin {
    // SAFETY: its context is a plug-in that lives for ever.
    unsafe { &*(*device).context.cast::<Plugin>() }
}

/// The plug-in of a registry.
///
/// # Safety
/// A registry of [`Plugin::register`].
pub unsafe fn of_registry<'a>(registry: *mut Registry) -> &'a Plugin {
    // SAFETY: its context is a device that lives for ever.
    unsafe { of_device((*registry).context.cast()) }
}

/// Tells ggml of a registry.
///
/// # Safety
/// A registry of [`Plugin::register`].
pub unsafe fn register(registry: *mut Registry) {
    // SAFETY: the caller's promise; ggml's function.
    unsafe { (of_registry(registry).ggml.ggml_backend_register)(registry) };
}

// --- the registry -------------------------------------------------------------------
// ggml calls each with the structure that it found the function in.

unsafe extern "C" fn registry_name(_: *mut Registry) -> *const c_char {
    NAME
}

unsafe extern "C" fn device_count(_: *mut Registry) -> usize {
    1
}

unsafe extern "C" fn device_at(registry: *mut Registry, _: usize) -> *mut Device {
    // SAFETY: our registry.
    unsafe { (*registry).context.cast() }
}

/// The CPU's functions work on the streams, which are its backends.
unsafe extern "C" fn proc_address(registry: *mut Registry, name: *const c_char) -> *mut c_void {
    // SAFETY: our registry, the CPU's device, and ggml's string.
    unsafe {
        let Plugin { ggml, cpu, .. } = of_registry(registry);
        let registry = (ggml.ggml_backend_dev_backend_reg)(*cpu);
        (ggml.ggml_backend_reg_get_proc_address)(registry, name)
    }
}

// --- the device ---------------------------------------------------------------------

unsafe extern "C" fn device_name(_: *mut Device) -> *const c_char {
    NAME
}

unsafe extern "C" fn description(_: *mut Device) -> *const c_char {
    DESCRIPTION
}

/// None of its own.
unsafe extern "C" fn memory(_: *mut Device, free: *mut usize, total: *mut usize) {
    // SAFETY: ggml's out pointers.
    unsafe { (*free, *total) = (0, 0) };
}

unsafe extern "C" fn device_type(_: *mut Device) -> c_int {
    ACCEL
}

/// The CPU's, under another name.
unsafe extern "C" fn properties(device: *mut Device, into: *mut Properties) {
    // SAFETY: our device, and ggml's structure, which starts as ours does.
    unsafe {
        let Plugin { ggml, cpu, .. } = of_device(device);
        (ggml.ggml_backend_dev_get_props)(*cpu, into.cast());
        let head = &mut *into;
        (head.name, head.description, head.ty) = (NAME, DESCRIPTION, ACCEL);
        (head.memory_free, head.memory_total) = (0, 0);
    }
}

unsafe extern "C" fn buffer_type(device: *mut Device) -> *mut BufferType {
    // SAFETY: our device, and the CPU's.
    unsafe {
        let Plugin { ggml, cpu, .. } = of_device(device);
        (ggml.ggml_backend_dev_buffer_type)(*cpu)
    }
}

unsafe extern "C" fn from_host_pointer(
    device: *mut Device,
    pointer: *mut c_void,
    size: usize,
    max_tensor_size: usize,
) -> *mut Buffer {
    // SAFETY: our device, the CPU's, and what ggml asks of it.
    unsafe {
        let Plugin { ggml, cpu, .. } = of_device(device);
        (ggml.ggml_backend_dev_buffer_from_host_ptr)(*cpu, pointer, size, max_tensor_size)
    }
}

unsafe extern "C" fn supports_op(device: *mut Device, op: *const Tensor) -> bool {
    // SAFETY: our device, the CPU's, and what ggml asks of it.
    unsafe {
        let Plugin { ggml, cpu, .. } = of_device(device);
        (ggml.ggml_backend_dev_supports_op)(*cpu, op)
    }
}

unsafe extern "C" fn supports_buffer_type(device: *mut Device, ty: *mut BufferType) -> bool {
    // SAFETY: our device, the CPU's, and what ggml asks of it.
    unsafe {
        let Plugin { ggml, cpu, .. } = of_device(device);
        (ggml.ggml_backend_dev_supports_buft)(*cpu, ty)
    }
}

unsafe extern "C" fn init(device: *mut Device, params: *const c_char) -> *mut Stream {
    // SAFETY: our device, the CPU's, and what ggml asks of it; a stream that nobody else has yet.
    unsafe {
        let plugin = of_device(device);
        let made = (plugin.ggml.ggml_backend_dev_init)(plugin.cpu, params);
        let Some(it) = made.as_mut() else {
            return made;
        };
        let behind = Behind {
            compute: Compute::new(
                plugin,
                core::mem::transmute::<Slot, ComputeGraph>(it.slots[stream::GRAPH_COMPUTE]),
            ),
            free: core::mem::transmute::<Slot, Free>(it.slots[stream::FREE]),
        };
        it.slots[stream::GET_NAME] = slot!(stream_name, unsafe extern "C" fn(_) -> _);
        it.slots[stream::GRAPH_COMPUTE] = slot!(graph_compute, unsafe extern "C" fn(_, _) -> _);
        it.slots[stream::FREE] = slot!(free, unsafe extern "C" fn(_));
        lock(&STREAMS).insert(made as usize, Arc::new(behind));
        made
    }
}

// --- a stream -----------------------------------------------------------------------

unsafe extern "C" fn stream_name(_: *mut Stream) -> *const c_char {
    NAME
}

/// What stands behind a stream of [`init`].
fn behind(stream: *mut Stream) -> Arc<Behind> {
    lock(&STREAMS)[&(stream as usize)].clone()
}

/// The stream's products panic from now on.
#[cfg(test)]
pub fn break_team(stream: *mut Stream) {
    behind(stream).compute.team().lead(u64::MAX, || ());
}

unsafe extern "C" fn graph_compute(stream: *mut Stream, graph: *mut Graph) -> c_int {
    // SAFETY: a stream of `init` and a graph that ggml wants computed.
    unsafe { behind(stream).compute.graph(stream, graph) }
}

unsafe extern "C" fn free(stream: *mut Stream) {
    let removed = lock(&STREAMS).remove(&(stream as usize));
    let free = removed.expect("a stream of `init`").free;
    // SAFETY: the CPU backend's own function.
    unsafe { free(stream) };
}
