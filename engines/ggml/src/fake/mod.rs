//! A ggml for the tests: as much of one as the plug-in calls, with faults that can be chosen.
//!
//! Its structures are those of `sys`. One that is laid out otherwise is made by functions that
//! look for a field at another place. It is strict: what ggml asserts is asserted here.

mod backend;
mod model;
mod tensors;

use backend::Control;
pub use backend::{ABORTED, buffer};
pub use model::{Backend, Model, loaded, plugin, read, state, stats, write};
pub use tensors::{MARK, reference};

use crate::settings::{Activations, Settings};
use crate::sys::{Device, Ggml, Registry};
use core::cell::RefCell;
use core::ffi::{CStr, c_char, c_int, c_void};
use core::ptr::null_mut;
use std::sync::{Arc, Mutex};

/// Numbers of its operations.
pub mod op {
    use core::ffi::c_int;

    pub const NONE: c_int = 0;
    pub const MUL_MAT: c_int = 31;
    pub const MUL_MAT_ID: c_int = 32;
    pub const CUSTOM: c_int = 91;
    /// Doubles its source where it is.
    pub const DOUBLE: c_int = 92;
}

/// What of a tensor is not where it is expected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Field {
    Size,
    Shape,
    Strides,
    Op,
    Flags,
    Sources,
    Data,
    /// The parameters of a custom node.
    Custom,
}

/// How a fake differs from the ggml that is known.
#[derive(Clone, Debug)]
pub struct Faults {
    pub version: &'static CStr,
    pub api_version: c_int,
    /// A function that it has not.
    pub missing: Option<&'static str>,
    pub no_cpu: bool,
    /// Words that the functions of a structure lie further on.
    pub registry: usize,
    pub device: usize,
    pub stream: usize,
    /// Words that the type of a device lies further on in its properties.
    pub properties: usize,
    pub tensor: Option<Field>,
    /// Types that it has not, by their numbers.
    pub no_types: &'static [c_int],
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            version: c"0.26.0",
            api_version: 3,
            missing: None,
            no_cpu: false,
            registry: 0,
            device: 0,
            stream: 0,
            properties: 0,
            tensor: None,
            no_types: &[],
        }
    }
}

/// A ggml in the process.
pub struct Fake {
    pub faults: Faults,
    cpu: *mut Device,
    pub registered: Mutex<Vec<usize>>,
    pub control: Control,
}

// SAFETY: the device is never changed.
unsafe impl Send for Fake {}
// SAFETY: as above.
unsafe impl Sync for Fake {}

thread_local! {
    /// The ggml that the functions below are those of, on this thread.
    static HERE: RefCell<Option<Arc<Fake>>> = const { RefCell::new(None) };
}

/// The fake of this thread.
fn here() -> Arc<Fake> {
    HERE.with_borrow(|here| here.clone().expect("a thread that has entered a fake"))
}

impl Fake {
    pub fn new(faults: Faults) -> Arc<Self> {
        let fake = Arc::new(Self {
            cpu: backend::cpu_device(faults.api_version),
            faults,
            registered: Mutex::default(),
            control: Control::default(),
        });
        fake.enter();
        fake
    }

    /// Makes this the fake of the calling thread.
    pub fn enter(self: &Arc<Self>) {
        HERE.set(Some(self.clone()));
    }

    /// Its functions, as the process would find them.
    pub fn find(&self, name: &CStr) -> *mut c_void {
        let name = name.to_str().expect("a name of C");
        match self.faults.missing == Some(name) {
            true => null_mut(),
            false => address(name).unwrap_or(null_mut()),
        }
    }

    /// Loads the plug-in, registered as ggml registers it; `None` if it is off.
    pub fn load(self: &Arc<Self>, settings: Settings) -> Result<Option<*mut Registry>, String> {
        // SAFETY: functions of these signatures, by the type of `GGML`.
        let prepared = unsafe { crate::prepare(&|name| self.find(name), settings) };
        Ok(prepared?.map(|(plugin, api_version)| {
            let registry = plugin.register(api_version);
            // SAFETY: a registry of `register`.
            unsafe { crate::plugin::register(registry) };
            registry
        }))
    }
}

/// Settings that nobody has changed.
pub fn settings() -> Settings {
    Settings {
        activations: Some(Activations::F32),
        stats: false,
        force: false,
        any: false,
    }
}

macro_rules! functions {
    ($($module:ident: $($name:ident)*;)*) => {
        /// All functions, of the types that the plug-in calls them by.
        pub const GGML: Ggml = Ggml { $($($name: $module::$name,)*)* };

        /// Their names.
        pub const NAMES: &[&str] = &[$($(stringify!($name),)*)*];

        fn address(name: &str) -> Option<*mut c_void> {
            match name {
                $($(stringify!($name) => Some(GGML.$name as *mut c_void),)*)*
                _ => None,
            }
        }
    };
}

functions! {
    tensors: ggml_type_name ggml_type_size ggml_blck_size ggml_init ggml_free
        ggml_tensor_overhead ggml_graph_overhead ggml_new_tensor_2d ggml_new_tensor_3d
        ggml_nbytes ggml_mul_mat ggml_mul_mat_id ggml_custom_4d ggml_new_graph
        ggml_build_forward_expand ggml_graph_n_nodes ggml_graph_node;
    backend: ggml_version ggml_backend_name ggml_backend_free ggml_backend_synchronize
        ggml_backend_graph_compute ggml_backend_buffer_get_usage ggml_backend_buffer_get_type
        ggml_backend_buft_is_host ggml_backend_dev_by_type ggml_backend_dev_name
        ggml_backend_dev_description ggml_backend_dev_memory ggml_backend_dev_type
        ggml_backend_dev_get_props ggml_backend_dev_backend_reg ggml_backend_dev_init
        ggml_backend_dev_buffer_type ggml_backend_dev_buffer_from_host_ptr
        ggml_backend_dev_supports_op ggml_backend_dev_supports_buft ggml_backend_reg_name
        ggml_backend_reg_dev_count ggml_backend_reg_dev_get ggml_backend_reg_get_proc_address
        ggml_backend_register;
}

/// A string of C's, for comparison.
///
/// # Safety
/// A string that ends in zero.
pub unsafe fn text<'a>(string: *const c_char) -> &'a str {
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(string) }.to_str().expect("ASCII")
}
