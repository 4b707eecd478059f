//! Whether ggml's structures lie where `sys` says: tried on the ggml in the process, before
//! anything is registered.
//!
//! Structures of functions are filled with probes, each of which notes its place, and ggml's own
//! functions are made to call them. Tensors are made by ggml and read here.

use crate::graph::Scratch;
use crate::sys::{
    self, COMPUTE, CPU, Device, F32, Ggml, I32, Properties, Registry, Slot, Stream, Tensor, device,
    registry, stream,
};
use core::cell::Cell;
use core::ffi::{CStr, c_int, c_void};
use core::mem::MaybeUninit;
use core::ptr::{null, null_mut};
use tritgemm_formats::ggml::TernaryType;

/// What was found out on the way.
pub struct Found {
    pub cpu: *mut Device,
    pub api_version: c_int,
    pub mul_mat: c_int,
    pub mul_mat_id: c_int,
    pub types: Vec<TernaryType>,
}

/// # Errors
/// What lies elsewhere.
pub fn probe(ggml: &Ggml) -> Result<Found, &'static str> {
    let [mul_mat, mul_mat_id] = tensors(ggml)?;
    structures(ggml)?;
    // SAFETY: ggml's functions, on the CPU's device where there is one.
    unsafe {
        let cpu = (ggml.ggml_backend_dev_by_type)(CPU);
        if cpu.is_null() {
            return Err("there is no CPU backend yet, load it before this one");
        }
        properties(ggml, cpu)?;
        let types = types(ggml);
        if types.is_empty() {
            return Err("it has none of TQ1_0, TQ2_0 and Q2_0");
        }
        let registry = (ggml.ggml_backend_dev_backend_reg)(cpu);
        Ok(Found {
            cpu,
            // The first field, which has to be where ggml compares it with ours.
            api_version: (*registry).api_version,
            mul_mat,
            mul_mat_id,
            types,
        })
    }
}

/// The types of this ggml that are what they are here.
fn types(ggml: &Ggml) -> Vec<TernaryType> {
    let all = [TernaryType::Tq1_0, TernaryType::Tq2_0, TernaryType::Q2_0];
    let same = |ty: &TernaryType| {
        let id = ty.id() as c_int;
        // SAFETY: numbers that no version of ggml gave to more types than it has, from 0.25 on;
        // one that it has not has no name.
        unsafe {
            let name = (ggml.ggml_type_name)(id);
            !name.is_null()
                && CStr::from_ptr(name)
                    .to_bytes()
                    .eq_ignore_ascii_case(ty.name().as_bytes())
                && (ggml.ggml_type_size)(id) == ty.block_bytes()
                && (ggml.ggml_blck_size)(id) as usize == ty.block()
        }
    };
    all.into_iter().filter(same).collect()
}

/// Reads tensors that ggml has made. Gives the numbers of two operations.
fn tensors(ggml: &Ggml) -> Result<[c_int; 2], &'static str> {
    const ELSEWHERE: &str = "tensors are laid out otherwise";
    let scratch = Scratch::new(ggml, 8, 1).ok_or("a context cannot be made")?;
    let context = scratch.context;
    // SAFETY: ggml's functions on a context with room for six tensors and a graph. Their fields
    // are read as numbers, from memory of the size that ggml says a tensor has.
    unsafe {
        if (ggml.ggml_tensor_overhead)() < size_of::<Tensor>() {
            return Err(ELSEWHERE);
        }
        let w = (ggml.ggml_new_tensor_2d)(context, F32, 32, 5);
        let x = (ggml.ggml_new_tensor_2d)(context, F32, 32, 7);
        let y = (ggml.ggml_mul_mat)(context, w, x);
        let stack = (ggml.ggml_new_tensor_3d)(context, F32, 32, 5, 3);
        let rows = (ggml.ggml_new_tensor_3d)(context, F32, 32, 1, 7);
        let ids = (ggml.ggml_new_tensor_2d)(context, I32, 2, 7);
        let routed = (ggml.ggml_mul_mat_id)(context, stack, rows, ids);
        let shape = |tensor: *mut Tensor| ((*tensor).ty, (*tensor).ne, (*tensor).nb);
        let sources_of = |tensor: *mut Tensor| (*tensor).src;
        let expected = [
            (w, (F32, [32, 5, 1, 1], [4, 128, 640, 640])),
            (x, (F32, [32, 7, 1, 1], [4, 128, 896, 896])),
            (y, (F32, [5, 7, 1, 1], [4, 20, 140, 140])),
            (stack, (F32, [32, 5, 3, 1], [4, 128, 640, 1920])),
            (ids, (I32, [2, 7, 1, 1], [4, 8, 56, 56])),
            (routed, (F32, [5, 2, 7, 1], [4, 20, 40, 280])),
        ];
        let shapes = expected
            .iter()
            .all(|&(tensor, expected)| shape(tensor) == expected);
        let sources = sources_of(y)[..3] == [w, x, null_mut()] && sources_of(y)[9].is_null();
        let routed_sources = sources_of(routed)[..4] == [stack, rows, ids, null_mut()];
        let empty = (*w).buffer.is_null() && (*w).data.is_null() && (*w).view_src.is_null();
        let graph = (ggml.ggml_new_graph)(context);
        (ggml.ggml_build_forward_expand)(graph, y);
        let marked = (*y).flags & COMPUTE != 0
            && (ggml.ggml_graph_n_nodes)(graph) == 1
            && (ggml.ggml_graph_node)(graph, 0) == y;
        let ops = [(*y).op, (*routed).op];
        let named = ops[0] != ops[1] && ops.iter().all(|op| (1..1000).contains(op));
        match shapes && sources && routed_sources && empty && marked && named {
            true => Ok(ops),
            false => Err(ELSEWHERE),
        }
    }
}

thread_local! {
    /// The place of the probe that this thread called last.
    static CALLED: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// A function of any signature of ggml's: what it is called with is not looked at, and what it
/// gives is 0.
unsafe extern "C" fn called<const PLACE: usize>() -> usize {
    CALLED.set(PLACE);
    0
}

macro_rules! probes {
    ($($place:literal)*) => {
        [$((called::<$place> as unsafe extern "C" fn() -> usize) as Slot),*]
    };
}

const PROBES: [Slot; 16] = probes!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);

fn first<const N: usize>() -> [Slot; N] {
    *PROBES
        .first_chunk()
        .expect("no structure has more functions")
}

/// Whether `call` calls the function at that place, and none after it.
fn calls(place: usize, call: impl FnOnce()) -> bool {
    CALLED.set(usize::MAX);
    call();
    CALLED.get() == place
}

/// A structure and what a ggml finds behind it whose own is longer: a probe of no place.
#[repr(C)]
struct Ahead<T>(T, [Slot; 16]);

const NOWHERE: Slot = (called::<{ usize::MAX - 1 }> as unsafe extern "C" fn() -> usize) as Slot;

impl<T> Ahead<T> {
    fn of(structure: T) -> Self {
        Self(structure, [NOWHERE; 16])
    }
}

/// Has ggml call every function that the plug-in fills in or replaces.
fn structures(ggml: &Ggml) -> Result<(), &'static str> {
    let context = NOWHERE.cast_mut();
    let mut all = Ahead::of(Registry {
        api_version: 0,
        slots: first(),
        context,
    });
    let mut one = Ahead::of(Device {
        slots: first(),
        registry: (&raw mut all).cast(),
        context,
    });
    let mut it = Ahead::of(Stream {
        guid: &[0; 16],
        slots: first(),
        device: (&raw mut one).cast(),
        context,
    });
    // Room for the properties of any version.
    let mut room = [0_u64; 64];
    let (mut free, mut total) = (0, 0);
    let (all, one, it): (*mut Registry, *mut Device, *mut Stream) = (
        (&raw mut all).cast(),
        (&raw mut one).cast(),
        (&raw mut it).cast(),
    );
    // SAFETY: ggml's functions on structures that are there and that have a function at every
    // place and behind them, which takes anything. A place that lies further on is another of
    // these functions.
    let (registry, device, stream) = unsafe {
        (
            calls(registry::GET_NAME, || _ = (ggml.ggml_backend_reg_name)(all))
                && calls(registry::DEVICE_COUNT, || {
                    _ = (ggml.ggml_backend_reg_dev_count)(all)
                })
                && calls(registry::DEVICE, || {
                    _ = (ggml.ggml_backend_reg_dev_get)(all, 0)
                })
                && calls(registry::PROC_ADDRESS, || {
                    let name = c"".as_ptr();
                    _ = (ggml.ggml_backend_reg_get_proc_address)(all, name);
                }),
            calls(device::GET_NAME, || _ = (ggml.ggml_backend_dev_name)(one))
                && calls(device::DESCRIPTION, || {
                    _ = (ggml.ggml_backend_dev_description)(one)
                })
                && calls(device::MEMORY, || {
                    (ggml.ggml_backend_dev_memory)(one, &raw mut free, &raw mut total);
                })
                && calls(device::TYPE, || _ = (ggml.ggml_backend_dev_type)(one))
                && calls(device::PROPERTIES, || {
                    (ggml.ggml_backend_dev_get_props)(one, (&raw mut room).cast());
                })
                && calls(device::INIT, || {
                    _ = (ggml.ggml_backend_dev_init)(one, null())
                })
                && calls(device::BUFFER_TYPE, || {
                    _ = (ggml.ggml_backend_dev_buffer_type)(one)
                })
                && calls(device::FROM_HOST_POINTER, || {
                    _ = (ggml.ggml_backend_dev_buffer_from_host_ptr)(one, null_mut(), 0, 0);
                })
                && calls(device::SUPPORTS_OP, || {
                    _ = (ggml.ggml_backend_dev_supports_op)(one, null());
                })
                && calls(device::SUPPORTS_BUFFER_TYPE, || {
                    _ = (ggml.ggml_backend_dev_supports_buft)(one, null_mut());
                })
                && (ggml.ggml_backend_dev_backend_reg)(one) == all,
            calls(stream::GET_NAME, || _ = (ggml.ggml_backend_name)(it))
                && calls(stream::FREE, || (ggml.ggml_backend_free)(it))
                && calls(stream::SYNCHRONIZE, || (ggml.ggml_backend_synchronize)(it))
                && {
                    // Called alone: what follows it is another function's place.
                    (*it).slots[stream::SYNCHRONIZE] = null();
                    calls(stream::GRAPH_COMPUTE, || {
                        _ = (ggml.ggml_backend_graph_compute)(it, null_mut());
                    })
                },
        )
    };
    match (registry, device, stream) {
        (false, ..) => Err("a registry is laid out otherwise"),
        (_, false, _) => Err("a device is laid out otherwise"),
        (.., false) => Err("a backend is laid out otherwise"),
        _ => Ok(()),
    }
}

/// Whether the CPU's properties start with its name and have its type where ours do.
///
/// # Safety
/// The CPU's device.
unsafe fn properties(ggml: &Ggml, cpu: *mut Device) -> Result<(), &'static str> {
    let mut room = MaybeUninit::<[u64; 64]>::zeroed();
    // SAFETY: zeros are properties; there is room for those of any version. Strings are compared
    // by their addresses, before which nothing is read.
    let same = unsafe {
        let mut free_total = [0; 2];
        let [free, total] = &mut free_total;
        (ggml.ggml_backend_dev_memory)(cpu, free, total);
        (ggml.ggml_backend_dev_get_props)(cpu, room.as_mut_ptr().cast::<c_void>());
        let head = &*room.as_ptr().cast::<Properties>();
        head.name == (ggml.ggml_backend_dev_name)(cpu)
            && head.description == (ggml.ggml_backend_dev_description)(cpu)
            && head.memory_total == free_total[1]
            && head.ty == (ggml.ggml_backend_dev_type)(cpu)
    };
    let cpu_type = sys::CPU;
    // SAFETY: the CPU's device.
    let is_cpu = unsafe { (ggml.ggml_backend_dev_type)(cpu) } == cpu_type;
    match same && is_cpu {
        true => Ok(()),
        false => Err("the properties of a device are laid out otherwise"),
    }
}
