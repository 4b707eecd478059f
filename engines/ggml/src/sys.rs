//! What is assumed of ggml's memory: the layouts of its structures and the functions that
//! are called, found by name in the process.
//!
//! | here | in ggml |
//! |---|---|
//! | [`Tensor`] | `ggml_tensor`, ggml.h |
//! | [`Params`] | `ggml_init_params`, ggml.h |
//! | [`Registry`], [`Device`], [`Stream`] | `ggml_backend_reg`, `_device` and `ggml_backend`, ggml-backend-impl.h |
//! | [`Properties`] | the head of `ggml_backend_dev_props`, ggml-backend.h |
//!
//! They are those of backend API 2 and 3 (ggml 0.25 and 0.26). `probe` compares each with
//! what the functions of the ggml in the process do before anything is registered.

use core::ffi::{CStr, c_char, c_int, c_void};

pub const F32: c_int = 0;
pub const I32: c_int = 26;

/// `GGML_BACKEND_BUFFER_USAGE_WEIGHTS`.
pub const WEIGHTS: c_int = 1;
/// `GGML_TENSOR_FLAG_COMPUTE`.
pub const COMPUTE: i32 = 16;
/// `GGML_BACKEND_DEVICE_TYPE_CPU`.
pub const CPU: c_int = 0;
/// `GGML_BACKEND_DEVICE_TYPE_ACCEL`.
pub const ACCEL: c_int = 3;
/// `GGML_STATUS_FAILED`.
pub const FAILED: c_int = -1;
/// `GGML_STATUS_SUCCESS`.
pub const SUCCESS: c_int = 0;
/// `GGML_N_TASKS_MAX`.
pub const ALL_THREADS: c_int = -1;

/// `op_params` of a tensor.
pub type OpParams = [i32; 16];

#[repr(C)]
pub struct Tensor {
    pub ty: c_int,
    pub buffer: *mut Buffer,
    pub ne: [i64; 4],
    pub nb: [usize; 4],
    pub op: c_int,
    pub op_params: OpParams,
    pub flags: i32,
    pub src: [*mut Tensor; 10],
    pub view_src: *mut Tensor,
    pub view_offs: usize,
    pub data: *mut u8,
    pub name: [c_char; 64],
    pub extra: *mut c_void,
    pub padding: [u8; 8],
}

pub enum Context {}
pub enum Graph {}
pub enum Buffer {}
pub enum BufferType {}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Params {
    pub mem_size: usize,
    pub mem_buffer: *mut c_void,
    pub no_alloc: bool,
}

/// A function of a structure of ggml's; each is called by its own signature.
pub type Slot = *const c_void;

/// Functions of a [`Registry`], by their place.
pub mod registry {
    pub const GET_NAME: usize = 0;
    pub const DEVICE_COUNT: usize = 1;
    pub const DEVICE: usize = 2;
    pub const PROC_ADDRESS: usize = 3;
    pub const SLOTS: usize = 4;
}

#[repr(C)]
pub struct Registry {
    pub api_version: c_int,
    pub slots: [Slot; registry::SLOTS],
    pub context: *mut c_void,
}

/// Functions of a [`Device`], by their place.
pub mod device {
    pub const GET_NAME: usize = 0;
    pub const DESCRIPTION: usize = 1;
    pub const MEMORY: usize = 2;
    pub const TYPE: usize = 3;
    pub const PROPERTIES: usize = 4;
    pub const INIT: usize = 5;
    pub const BUFFER_TYPE: usize = 6;
    pub const FROM_HOST_POINTER: usize = 8;
    pub const SUPPORTS_OP: usize = 9;
    pub const SUPPORTS_BUFFER_TYPE: usize = 10;
    pub const SLOTS: usize = 15;
}

#[repr(C)]
pub struct Device {
    pub slots: [Slot; device::SLOTS],
    pub registry: *mut Registry,
    pub context: *mut c_void,
}

/// Functions of a [`Stream`], by their place.
pub mod stream {
    pub const GET_NAME: usize = 0;
    pub const FREE: usize = 1;
    pub const SYNCHRONIZE: usize = 7;
    pub const GRAPH_COMPUTE: usize = 12;
    pub const SLOTS: usize = 16;
}

/// A backend of ggml's, which its headers call a stream too.
#[repr(C)]
pub struct Stream {
    pub guid: *const [u8; 16],
    pub slots: [Slot; stream::SLOTS],
    pub device: *mut Device,
    pub context: *mut c_void,
}

/// As far as the plug-in changes them; what follows is the CPU's.
#[repr(C)]
pub struct Properties {
    pub name: *const c_char,
    pub description: *const c_char,
    pub memory_free: usize,
    pub memory_total: usize,
    pub ty: c_int,
}

/// What the threads of ggml call for a node of the plug-in's.
pub type Custom = unsafe extern "C" fn(*mut Tensor, c_int, c_int, *mut c_void);

/// Where the address of a name is found, or null.
pub type Lookup<'a> = &'a dyn Fn(&CStr) -> *mut c_void;

macro_rules! functions {
    ($($name:ident: fn($($arg:ty),*) $(-> $ret:ty)?;)*) => {
        /// ggml's functions, by the names that they have in C.
        #[derive(Clone, Copy)]
        pub struct Ggml {
            $(pub $name: unsafe extern "C" fn($($arg),*) $(-> $ret)?,)*
        }

        impl Ggml {
            /// The functions, or the name of one that is missing.
            ///
            /// # Safety
            /// What `lookup` finds under a name is the function that ggml's headers declare.
            pub unsafe fn find(lookup: Lookup<'_>) -> Result<Self, &'static str> {
                Ok(Self {
                    $($name: {
                        let name = concat!(stringify!($name), "\0");
                        let name = CStr::from_bytes_with_nul(name.as_bytes()).expect("a zero ends it");
                        let found = lookup(name);
                        if found.is_null() {
                            return Err(stringify!($name));
                        }
                        // SAFETY: the function that the headers declare, whose types these are.
                        unsafe {
                            core::mem::transmute::<
                                *mut c_void,
                                unsafe extern "C" fn($($arg),*) $(-> $ret)?,
                            >(found)
                        }
                    },)*
                })
            }
        }
    };
}

functions! {
    ggml_version: fn() -> *const c_char;
    ggml_type_name: fn(c_int) -> *const c_char;
    ggml_type_size: fn(c_int) -> usize;
    ggml_blck_size: fn(c_int) -> i64;
    ggml_init: fn(Params) -> *mut Context;
    ggml_free: fn(*mut Context);
    ggml_tensor_overhead: fn() -> usize;
    ggml_graph_overhead: fn() -> usize;
    ggml_new_tensor_2d: fn(*mut Context, c_int, i64, i64) -> *mut Tensor;
    ggml_new_tensor_3d: fn(*mut Context, c_int, i64, i64, i64) -> *mut Tensor;
    ggml_nbytes: fn(*const Tensor) -> usize;
    ggml_mul_mat: fn(*mut Context, *mut Tensor, *mut Tensor) -> *mut Tensor;
    ggml_mul_mat_id: fn(*mut Context, *mut Tensor, *mut Tensor, *mut Tensor) -> *mut Tensor;
    ggml_custom_4d: fn(*mut Context, c_int, i64, i64, i64, i64, *mut *mut Tensor, c_int, Custom, c_int, *mut c_void) -> *mut Tensor;
    ggml_new_graph: fn(*mut Context) -> *mut Graph;
    ggml_build_forward_expand: fn(*mut Graph, *mut Tensor);
    ggml_graph_n_nodes: fn(*mut Graph) -> c_int;
    ggml_graph_node: fn(*mut Graph, c_int) -> *mut Tensor;
    ggml_backend_name: fn(*mut Stream) -> *const c_char;
    ggml_backend_free: fn(*mut Stream);
    ggml_backend_synchronize: fn(*mut Stream);
    ggml_backend_graph_compute: fn(*mut Stream, *mut Graph) -> c_int;
    ggml_backend_buffer_get_usage: fn(*mut Buffer) -> c_int;
    ggml_backend_buffer_get_type: fn(*mut Buffer) -> *mut BufferType;
    ggml_backend_buft_is_host: fn(*mut BufferType) -> bool;
    ggml_backend_dev_by_type: fn(c_int) -> *mut Device;
    ggml_backend_dev_name: fn(*mut Device) -> *const c_char;
    ggml_backend_dev_description: fn(*mut Device) -> *const c_char;
    ggml_backend_dev_memory: fn(*mut Device, *mut usize, *mut usize);
    ggml_backend_dev_type: fn(*mut Device) -> c_int;
    ggml_backend_dev_get_props: fn(*mut Device, *mut c_void);
    ggml_backend_dev_backend_reg: fn(*mut Device) -> *mut Registry;
    ggml_backend_dev_init: fn(*mut Device, *const c_char) -> *mut Stream;
    ggml_backend_dev_buffer_type: fn(*mut Device) -> *mut BufferType;
    ggml_backend_dev_buffer_from_host_ptr: fn(*mut Device, *mut c_void, usize, usize) -> *mut Buffer;
    ggml_backend_dev_supports_op: fn(*mut Device, *const Tensor) -> bool;
    ggml_backend_dev_supports_buft: fn(*mut Device, *mut BufferType) -> bool;
    ggml_backend_reg_name: fn(*mut Registry) -> *const c_char;
    ggml_backend_reg_dev_count: fn(*mut Registry) -> usize;
    ggml_backend_reg_dev_get: fn(*mut Registry, usize) -> *mut Device;
    ggml_backend_reg_get_proc_address: fn(*mut Registry, *const c_char) -> *mut c_void;
    ggml_backend_register: fn(*mut Registry);
}
