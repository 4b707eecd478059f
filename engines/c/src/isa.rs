//! Versions, backends, CPU features.

use crate::handle::put;
use crate::status::{Error, Status, guard, guard_value};
use core::ffi::{CStr, c_char};
use core::ptr::null;
use std::ffi::CString;
use std::sync::OnceLock;
use tritgemm::{Backend, diagnostics};

/// The backend of a name; `None` for NULL.
///
/// # Safety
/// Precondition 4 of the crate's documentation.
pub(crate) unsafe fn backend(name: *const c_char) -> Result<Option<Backend>, Error> {
    if name.is_null() {
        return Ok(None);
    }
    // SAFETY: by precondition 4. No backend has a name that is not UTF-8.
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
    Ok(Some(Backend::by_name(&name)?))
}

/// Names with a zero at their end, made once.
struct Names {
    backends: Vec<CString>,
    features: Vec<(CString, bool)>,
}

fn names() -> &'static Names {
    static NAMES: OnceLock<Names> = OnceLock::new();
    let c = |name: &str| CString::new(name).unwrap_or_default();
    NAMES.get_or_init(|| Names {
        backends: Backend::available().map(|b| c(b.name())).collect(),
        features: diagnostics::cpu_features()
            .into_iter()
            .map(|(name, present)| (c(name), present))
            .collect(),
    })
}

fn version() -> &'static CStr {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    CStr::from_bytes_with_nul(VERSION.as_bytes()).unwrap_or_default()
}

/// The library's version, such as "0.1.0".
#[unsafe(no_mangle)]
pub extern "C" fn tritgemm_version() -> *const c_char {
    guard_value(null(), || version().as_ptr())
}

/// The version of this interface. It grows by one with every change that breaks
/// programs built with an older header; additions leave it alone.
#[unsafe(no_mangle)]
pub extern "C" fn tritgemm_abi_version() -> u32 {
    1
}

/// Number of backends that can run on this CPU, at least one.
#[unsafe(no_mangle)]
pub extern "C" fn tritgemm_backend_count() -> usize {
    guard_value(0, || names().backends.len())
}

/// The name of a backend that can run on this CPU, best first: a level with the CPU that
/// its choice of kernels was measured on, such as "avx512-vbmi/zen5" or "avx2/intel", or
/// the level alone, "neon" and "scalar". Each can be pinned by this name. NULL if there
/// are not that many.
#[unsafe(no_mangle)]
pub extern "C" fn tritgemm_backend_name(index: usize) -> *const c_char {
    let name = || names().backends.get(index).map_or(null(), |n| n.as_ptr());
    guard_value(null(), name)
}

/// The name of the backend that products run with when their workspace pins none. NULL
/// if TRITGEMM_ISA names one that cannot run, of which tritgemm_last_error() says more.
#[unsafe(no_mangle)]
pub extern "C" fn tritgemm_active_backend() -> *const c_char {
    let mut name = null();
    guard(|| {
        let active = Backend::active()?.name();
        let names = &names().backends;
        let known = names.iter().find(|n| n.to_bytes() == active.as_bytes());
        name = known.map_or(null(), |n| n.as_ptr());
        Ok(())
    });
    name
}

/// Number of CPU features that the kernels know of.
#[unsafe(no_mangle)]
pub extern "C" fn tritgemm_cpu_feature_count() -> usize {
    guard_value(0, || names().features.len())
}

/// The name of a CPU feature that the kernels know of, and, where `present` is not NULL,
/// whether this CPU has it. NULL if there are not that many.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_cpu_feature(index: usize, present: *mut bool) -> *const c_char {
    guard_value(null(), || {
        let Some((name, has)) = names().features.get(index) else {
            return null();
        };
        // SAFETY: precondition 3; null is an error that does not matter here.
        let _ = unsafe { put("present", present, *has) };
        name.as_ptr()
    })
}

/// Pins the backend of the whole process by its name: that of a backend as
/// tritgemm_backend_name() gives it, or a level ("scalar", "avx2", "avx512",
/// "avx512-vbmi", "neon"), whose best backend it takes. NULL returns to what the
/// environment variable TRITGEMM_ISA names, else the best of this CPU. Only speed depends
/// on it. Fails and changes nothing if this CPU lacks it; tritgemm_last_error() names
/// what is missing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_pin(name: *const c_char) -> Status {
    guard(|| {
        // SAFETY: precondition 4.
        let backend = unsafe { backend(name) }?;
        Ok(tritgemm::pin(backend.map(Backend::name))?)
    })
}
