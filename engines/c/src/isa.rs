//! Versions, instruction sets, CPU features.

use crate::handle::put;
use crate::status::{Error, Status, guard, guard_value};
use core::ffi::{CStr, c_char};
use core::ptr::null;
use std::ffi::CString;
use std::sync::OnceLock;
use tritgemm::Backend;

/// An instruction set to pin.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Isa {
    /// What the environment variable TRITGEMM_ISA names, else the best of this CPU.
    TritgemmIsaAuto = 0,
    /// The portable reference.
    TritgemmIsaScalar = 1,
    /// x86-64 with AVX2.
    TritgemmIsaAvx2 = 2,
    /// x86-64 with AVX-512 F, BW, CD, DQ and VL; VBMI is used where present.
    TritgemmIsaAvx512 = 3,
    /// AArch64 with NEON.
    TritgemmIsaNeon = 4,
}

/// The instruction set of a number; `None` for the automatic choice.
pub(crate) fn isa(number: i32) -> Result<Option<tritgemm::Isa>, Error> {
    const AUTO: i32 = Isa::TritgemmIsaAuto as i32;
    const SCALAR: i32 = Isa::TritgemmIsaScalar as i32;
    const AVX2: i32 = Isa::TritgemmIsaAvx2 as i32;
    const AVX512: i32 = Isa::TritgemmIsaAvx512 as i32;
    const NEON: i32 = Isa::TritgemmIsaNeon as i32;
    match number {
        AUTO => Ok(None),
        SCALAR => Ok(Some(tritgemm::Isa::Scalar)),
        AVX2 => Ok(Some(tritgemm::Isa::Avx2)),
        AVX512 => Ok(Some(tritgemm::Isa::Avx512)),
        NEON => Ok(Some(tritgemm::Isa::Neon)),
        _ => Err(Error::new(
            Status::TritgemmInvalidArgument,
            format!("instruction set {number}, expected a tritgemm_isa"),
        )),
    }
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
        features: tritgemm::cpu_features()
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

/// Number of kernel sets that can run on this CPU, at least one.
#[unsafe(no_mangle)]
pub extern "C" fn tritgemm_backend_count() -> usize {
    guard_value(0, || names().backends.len())
}

/// The name of a kernel set that can run on this CPU, best first: "avx512-vbmi",
/// "avx512", "avx2", "neon" or "scalar"; "avx512-zen5" comes before them on the CPUs it
/// was made for, right before "scalar" elsewhere. NULL if there are not that many.
#[unsafe(no_mangle)]
pub extern "C" fn tritgemm_backend_name(index: usize) -> *const c_char {
    let name = || names().backends.get(index).map_or(null(), |n| n.as_ptr());
    guard_value(null(), name)
}

/// The name of the kernel set that products run with when their workspace pins none.
/// NULL if TRITGEMM_ISA names an instruction set that cannot run, of which
/// tritgemm_last_error() says more.
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

/// TRITGEMM_OK if an instruction set (a tritgemm_isa) can run on this CPU; if not,
/// tritgemm_last_error() names what is missing.
#[unsafe(no_mangle)]
pub extern "C" fn tritgemm_isa_check(isa: i32) -> Status {
    guard(|| {
        if let Some(isa) = self::isa(isa)? {
            Backend::for_isa(isa)?;
        }
        Ok(())
    })
}

/// Pins the instruction set (a tritgemm_isa) of the whole process. Only speed depends on
/// it. Fails and changes nothing if this CPU lacks it.
#[unsafe(no_mangle)]
pub extern "C" fn tritgemm_pin(isa: i32) -> Status {
    guard(|| Ok(tritgemm::pin(self::isa(isa)?)?))
}
