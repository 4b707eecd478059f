//! Devices, backends and buffers, and a graph computed.

use super::tensors::{CustomParams, nodes, reference};
use super::{Fake, here, op};
use crate::sys::{
    self, BufferType, COMPUTE, Device, FAILED, Graph, Registry, SUCCESS, Slot, Stream, Tensor,
    device, registry, stream,
};
use core::ffi::{c_char, c_int, c_void};
use core::ptr::{null, null_mut};
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Barrier};

/// `GGML_STATUS_ABORTED`.
pub const ABORTED: c_int = 1;

/// What a test asks of graphs that are computed, and what they did.
pub struct Control {
    pub threads: AtomicUsize,
    /// The abort callback says yes after that many nodes of a graph.
    pub abort_after: AtomicUsize,
    /// Graphs that fail after their nodes are computed, from the next one on.
    pub fail: AtomicBool,
    /// Graphs fail before any node is computed, as without memory.
    pub refuse: AtomicBool,
    /// Graphs computed, the plug-in's own among them.
    pub graphs: AtomicUsize,
    /// Products that it computed itself.
    pub products: AtomicUsize,
    /// Nodes of the plug-in's that it came to.
    pub customs: AtomicUsize,
}

impl Default for Control {
    fn default() -> Self {
        Self {
            threads: AtomicUsize::new(1),
            abort_after: AtomicUsize::new(usize::MAX),
            fail: AtomicBool::default(),
            refuse: AtomicBool::default(),
            graphs: AtomicUsize::default(),
            products: AtomicUsize::default(),
            customs: AtomicUsize::default(),
        }
    }
}

pub struct Buffer {
    pub usage: c_int,
    pub host: bool,
}

// --- the CPU's functions, in its structures -------------------------------------------

const CPU_NAME: *const c_char = c"CPU".as_ptr();
const CPU_DESCRIPTION: *const c_char = c"a fake".as_ptr();

unsafe extern "C" fn cpu_name(_: *mut c_void) -> *const c_char {
    CPU_NAME
}

unsafe extern "C" fn cpu_description(_: *mut c_void) -> *const c_char {
    CPU_DESCRIPTION
}

unsafe extern "C" fn one(_: *mut c_void) -> usize {
    1
}

unsafe extern "C" fn cpu_proc(_: *mut Registry, name: *const c_char) -> *mut c_void {
    name.cast_mut().cast()
}

unsafe extern "C" fn cpu_memory(_: *mut Device, free: *mut usize, total: *mut usize) {
    // SAFETY: the caller's out pointers.
    unsafe { (*free, *total) = (1 << 20, 1 << 30) };
}

unsafe extern "C" fn cpu_type(_: *mut Device) -> c_int {
    sys::CPU
}

unsafe extern "C" fn cpu_props(_: *mut Device, into: *mut c_void) {
    let shift = here().faults.properties;
    // SAFETY: room for properties of any version, which are words.
    unsafe {
        let words = into.cast::<usize>();
        words.write(CPU_NAME as usize);
        words.add(1).write(CPU_DESCRIPTION as usize);
        words.add(2).write(1 << 20);
        words.add(3).write(1 << 30);
        words.add(4).write(usize::from(shift > 0) * 77);
        words.add(4 + shift).write(sys::CPU as usize);
        // The CPU's capabilities.
        words.add(6).write(5);
    }
}

unsafe extern "C" fn cpu_init(device: *mut Device, _: *const c_char) -> *mut Stream {
    let mut slots = [null(); stream::SLOTS];
    slots[stream::GET_NAME] = cpu_name as *const c_void;
    slots[stream::FREE] = cpu_free as *const c_void;
    slots[stream::GRAPH_COMPUTE] = cpu_compute as *const c_void;
    let stream = Stream {
        guid: &[7; 16],
        slots,
        device,
        context: Arc::into_raw(here()).cast_mut().cast(),
    };
    Box::into_raw(Box::new(stream))
}

unsafe extern "C" fn cpu_free(stream: *mut Stream) {
    // SAFETY: a stream of `cpu_init`.
    unsafe {
        let stream = Box::from_raw(stream);
        drop(Arc::from_raw(stream.context.cast::<Fake>()));
    }
}

static HOST: bool = true;

unsafe extern "C" fn cpu_buffers(_: *mut Device) -> *mut BufferType {
    (&raw const HOST).cast_mut().cast()
}

unsafe extern "C" fn cpu_from_host(
    _: *mut Device,
    _: *mut c_void,
    _: usize,
    _: usize,
) -> *mut sys::Buffer {
    buffer(0, true)
}

unsafe extern "C" fn cpu_supports(_: *mut Device, _: *const c_void) -> bool {
    true
}

pub fn buffer(usage: c_int, host: bool) -> *mut sys::Buffer {
    Box::into_raw(Box::new(Buffer { usage, host })).cast()
}

/// Never freed, as ggml's is not.
pub fn cpu_device(api_version: c_int) -> *mut Device {
    let mut of_registry = [null(); registry::SLOTS];
    of_registry[registry::GET_NAME] = cpu_name as *const c_void;
    of_registry[registry::DEVICE_COUNT] = one as *const c_void;
    of_registry[registry::PROC_ADDRESS] = cpu_proc as *const c_void;
    let registry = Box::into_raw(Box::new(Registry {
        api_version,
        slots: of_registry,
        context: null_mut(),
    }));
    let mut slots = [null(); device::SLOTS];
    slots[device::GET_NAME] = cpu_name as *const c_void;
    slots[device::DESCRIPTION] = cpu_description as *const c_void;
    slots[device::MEMORY] = cpu_memory as *const c_void;
    slots[device::TYPE] = cpu_type as *const c_void;
    slots[device::PROPERTIES] = cpu_props as *const c_void;
    slots[device::INIT] = cpu_init as *const c_void;
    slots[device::BUFFER_TYPE] = cpu_buffers as *const c_void;
    slots[device::FROM_HOST_POINTER] = cpu_from_host as *const c_void;
    slots[device::SUPPORTS_OP] = cpu_supports as *const c_void;
    slots[device::SUPPORTS_BUFFER_TYPE] = cpu_supports as *const c_void;
    Box::into_raw(Box::new(Device {
        slots,
        registry,
        context: null_mut(),
    }))
}

// --- a graph computed ---------------------------------------------------------------

/// A graph while threads compute it.
pub struct Running<'a> {
    fake: &'a Fake,
    nodes: &'a [*mut Tensor],
    nth: usize,
    barrier: Barrier,
    /// The node before which threads stop.
    stop: AtomicUsize,
}

// SAFETY: threads write to what ggml has them write to, between barriers.
unsafe impl Sync for Running<'_> {}

unsafe extern "C" fn cpu_compute(stream: *mut Stream, graph: *mut Graph) -> c_int {
    // SAFETY: a stream of `cpu_init` and the caller's graph.
    let (fake, nodes) = unsafe { (&*(*stream).context.cast::<Fake>(), nodes(graph)) };
    let control = &fake.control;
    control.graphs.fetch_add(1, SeqCst);
    if control.refuse.load(SeqCst) {
        return FAILED;
    }
    let nth = control.threads.load(SeqCst);
    let running = Running {
        fake,
        nodes,
        nth,
        barrier: Barrier::new(nth),
        stop: AtomicUsize::new(usize::MAX),
    };
    std::thread::scope(|threads| {
        for ith in 1..nth {
            let running = &running;
            threads.spawn(move || running.thread(ith));
        }
        running.thread(0);
    });
    match running.stop.into_inner() {
        usize::MAX if control.fail.load(SeqCst) => FAILED,
        usize::MAX => SUCCESS,
        _ => ABORTED,
    }
}

impl Running<'_> {
    /// One of ggml's threads.
    fn thread(&self, ith: usize) {
        for (i, &node) in self.nodes.iter().enumerate() {
            if self.stop.load(SeqCst) == i {
                break;
            }
            // SAFETY: a node of the graph, whose sources have been computed.
            unsafe { self.node(node, ith) };
            if ith == 0 && i + 1 == self.fake.control.abort_after.load(SeqCst) {
                self.stop.store(i + 1, SeqCst);
            }
            self.barrier.wait();
        }
    }

    /// # Safety
    /// A node whose sources are in memory.
    unsafe fn node(&self, node: *mut Tensor, ith: usize) {
        // SAFETY: the caller's node. It is read by all threads, and its data is written by one.
        unsafe {
            let (op, flags) = ((*node).op, (*node).flags);
            if flags & COMPUTE == 0 {
                return;
            }
            match op {
                op::NONE => (),
                op::CUSTOM => {
                    if ith == 0 {
                        self.fake.control.customs.fetch_add(1, SeqCst);
                    }
                    let at = (&raw const (*node).op_params).cast::<CustomParams>();
                    let CustomParams {
                        function, argument, ..
                    } = at.read_unaligned();
                    function(node, ith as c_int, self.nth as c_int, argument);
                }
                op::MUL_MAT | op::MUL_MAT_ID if ith == 0 => {
                    self.fake.control.products.fetch_add(1, SeqCst);
                    let [m, n1, n2, _] = (*node).ne.map(|n| n as usize);
                    for (i, value) in reference(&*node).into_iter().enumerate() {
                        let at = [i % m, i / m % n1, i / m / n1 % n2, i / m / n1 / n2];
                        let at = at.iter().zip((*node).nb).map(|(i, nb)| i * nb).sum();
                        (*node).data.add(at).cast::<f32>().write_unaligned(value);
                    }
                }
                op::DOUBLE if ith == 0 => {
                    let x = (*node).src[0];
                    let len = (*node).ne.iter().product::<i64>() as usize;
                    for i in 0..len {
                        *(*x).data.cast::<f32>().add(i) *= 2.0;
                    }
                }
                op::MUL_MAT | op::MUL_MAT_ID | op::DOUBLE => (),
                other => panic!("operation {other}"),
            }
        }
    }
}

// --- ggml's functions -----------------------------------------------------------------

/// The function of a structure at a place, `shift` words further on.
///
/// # Safety
/// The functions of a structure that is there, and a place in it of a function of type `F`.
unsafe fn function<F: Copy>(slots: *const Slot, place: usize, shift: usize) -> Option<F> {
    assert_eq!(size_of::<F>(), size_of::<Slot>());
    // SAFETY: the caller's promise.
    unsafe {
        let slot = slots.add(place + shift).read();
        (!slot.is_null()).then(|| core::mem::transmute_copy(&slot))
    }
}

macro_rules! dispatch {
    ($($name:ident($of:ident, $place:ident): fn($it:ident: $ty:ty $(, $arg:ident: $arg_ty:ty)*) $(-> $ret:ty)?;)*) => {$(
        pub unsafe extern "C" fn $name($it: *mut $ty $(, $arg: $arg_ty)*) $(-> $ret)? {
            type Function = unsafe extern "C" fn(*mut $ty $(, $arg_ty)*) $(-> $ret)?;
            // SAFETY: the caller's structure, and its own function.
            unsafe {
                let slots = (&raw const (*$it).slots).cast();
                let found = function::<Function>(slots, $of::$place, here().faults.$of);
                found.expect("a function that is not optional")($it $(, $arg)*)
            }
        }
    )*};
}

dispatch! {
    ggml_backend_reg_name(registry, GET_NAME): fn(it: Registry) -> *const c_char;
    ggml_backend_reg_dev_count(registry, DEVICE_COUNT): fn(it: Registry) -> usize;
    ggml_backend_reg_dev_get(registry, DEVICE): fn(it: Registry, index: usize) -> *mut Device;
    ggml_backend_reg_get_proc_address(registry, PROC_ADDRESS): fn(it: Registry, name: *const c_char) -> *mut c_void;
    ggml_backend_dev_name(device, GET_NAME): fn(it: Device) -> *const c_char;
    ggml_backend_dev_description(device, DESCRIPTION): fn(it: Device) -> *const c_char;
    ggml_backend_dev_memory(device, MEMORY): fn(it: Device, free: *mut usize, total: *mut usize);
    ggml_backend_dev_type(device, TYPE): fn(it: Device) -> c_int;
    ggml_backend_dev_get_props(device, PROPERTIES): fn(it: Device, into: *mut c_void);
    ggml_backend_dev_init(device, INIT): fn(it: Device, params: *const c_char) -> *mut Stream;
    ggml_backend_dev_buffer_type(device, BUFFER_TYPE): fn(it: Device) -> *mut BufferType;
    ggml_backend_dev_buffer_from_host_ptr(device, FROM_HOST_POINTER): fn(it: Device, at: *mut c_void, size: usize, most: usize) -> *mut sys::Buffer;
    ggml_backend_dev_supports_op(device, SUPPORTS_OP): fn(it: Device, op: *const Tensor) -> bool;
    ggml_backend_dev_supports_buft(device, SUPPORTS_BUFFER_TYPE): fn(it: Device, ty: *mut BufferType) -> bool;
    ggml_backend_name(stream, GET_NAME): fn(it: Stream) -> *const c_char;
    ggml_backend_free(stream, FREE): fn(it: Stream);
}

pub unsafe extern "C" fn ggml_backend_synchronize(it: *mut Stream) {
    type Function = unsafe extern "C" fn(*mut Stream);
    // SAFETY: the caller's backend; its own function, if it has one.
    unsafe {
        let slots = (&raw const (*it).slots).cast();
        let shift = here().faults.stream;
        if let Some(synchronize) = function::<Function>(slots, stream::SYNCHRONIZE, shift) {
            synchronize(it);
        }
    }
}

pub unsafe extern "C" fn ggml_backend_graph_compute(it: *mut Stream, graph: *mut Graph) -> c_int {
    type Function = unsafe extern "C" fn(*mut Stream, *mut Graph) -> c_int;
    // SAFETY: the caller's backend and graph; its own function.
    unsafe {
        let slots = (&raw const (*it).slots).cast();
        let shift = here().faults.stream;
        let compute = function::<Function>(slots, stream::GRAPH_COMPUTE, shift);
        let status = compute.expect("a function that is not optional")(it, graph);
        ggml_backend_synchronize(it);
        status
    }
}

pub unsafe extern "C" fn ggml_version() -> *const c_char {
    here().faults.version.as_ptr()
}

pub unsafe extern "C" fn ggml_backend_buffer_get_usage(buffer: *mut sys::Buffer) -> c_int {
    // SAFETY: a buffer of `buffer`.
    unsafe { (*buffer.cast::<Buffer>()).usage }
}

pub unsafe extern "C" fn ggml_backend_buffer_get_type(buffer: *mut sys::Buffer) -> *mut BufferType {
    // SAFETY: a buffer of `buffer`.
    unsafe { (&raw mut (*buffer.cast::<Buffer>()).host).cast() }
}

pub unsafe extern "C" fn ggml_backend_buft_is_host(ty: *mut BufferType) -> bool {
    // SAFETY: a type of `ggml_backend_buffer_get_type` or the CPU's.
    unsafe { *ty.cast::<bool>() }
}

pub unsafe extern "C" fn ggml_backend_dev_by_type(ty: c_int) -> *mut Device {
    let fake = here();
    match ty == sys::CPU && !fake.faults.no_cpu {
        true => fake.cpu,
        false => null_mut(),
    }
}

pub unsafe extern "C" fn ggml_backend_dev_backend_reg(device: *mut Device) -> *mut Registry {
    let shift = here().faults.device;
    // SAFETY: the caller's device, which is longer.
    unsafe { (&raw const (*device).registry).add(shift).read().cast() }
}

pub unsafe extern "C" fn ggml_backend_register(registry: *mut Registry) {
    let fake = here();
    // SAFETY: the caller's registry.
    assert_eq!(unsafe { (*registry).api_version }, fake.faults.api_version);
    fake.registered.lock().unwrap().push(registry as usize);
}
