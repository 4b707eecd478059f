//! Status codes, the message of the last error, and the wall that no panic
//! passes.

use core::ffi::{CStr, c_char};
use std::cell::RefCell;
use std::ffi::CString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use tritgemm::codec::CodecError;
use tritgemm::quant::QuantError;
use tritgemm::{
    GemmError, Incomplete, IsaError, MatrixError, OutOfMemory, PanelFileError, ViewError,
};
use tritgemm_formats::FormatError;

/// What a function returns.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    /// It worked.
    TritgemmOk = 0,
    /// A pointer is NULL that must not be, or a handle is none.
    TritgemmNullPointer = 1,
    /// A length, shape, stride or range does not fit the others, or the address space.
    TritgemmInvalidSize = 2,
    /// A number or string that stands for a choice is none of the choices.
    TritgemmInvalidArgument = 3,
    /// A value in a buffer is illegal: a code 11, a trit outside of -1, 0, 1, a NaN.
    TritgemmInvalidValue = 4,
    /// Input and output overlap.
    TritgemmOverlap = 5,
    /// The CPU or the build lacks the instruction set, or TRITGEMM_ISA names none.
    TritgemmUnsupportedIsa = 6,
    /// The operating system could not read or write a file.
    TritgemmIo = 7,
    /// A panel file or a model is damaged, of another version, or none.
    TritgemmBadFile = 8,
    /// The caller's parallel-for did not run every item; part of the output may be
    /// written.
    TritgemmIncomplete = 9,
    /// The workspace is in use by another call.
    TritgemmBusy = 10,
    /// A defect of this library; the handles stay usable. Please report it.
    TritgemmInternal = 11,
    /// Memory ran out; the handles stay usable.
    TritgemmOutOfMemory = 12,
}

pub(crate) struct Error {
    status: Status,
    message: String,
}

impl Error {
    pub(crate) fn new(status: Status, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { status, message }
    }
}

macro_rules! from_errors {
    ($($error:ty: $status:expr;)*) => {$(
        impl From<$error> for Error {
            fn from(error: $error) -> Self {
                let status: fn(&$error) -> Status = $status;
                Self::new(status(&error), error.to_string())
            }
        }
    )*};
}

from_errors! {
    OutOfMemory: |_| Status::TritgemmOutOfMemory;
    IsaError: isa;
    ViewError: |_| Status::TritgemmInvalidSize;
    Incomplete: |_| Status::TritgemmIncomplete;
    CodecError: codec;
    QuantError: quant;
    MatrixError: matrix;
    GemmError: gemm;
    PanelFileError: panel_file;
    FormatError: format;
}

fn format(error: &FormatError) -> Status {
    match error {
        FormatError::InFile { error, .. } => format(error),
        FormatError::Panels(error) => panel_file(error),
        FormatError::Matrix { source, .. } => matrix(source),
        FormatError::Open(_) | FormatError::File { .. } | FormatError::Io(_) => Status::TritgemmIo,
        FormatError::NoTensor { .. } => Status::TritgemmInvalidArgument,
        FormatError::NotTernary { .. }
        | FormatError::Scale { .. }
        | FormatError::PaddingRow { .. } => Status::TritgemmInvalidValue,
        _ => Status::TritgemmBadFile,
    }
}

fn isa(error: &IsaError) -> Status {
    match error {
        IsaError::Unknown { .. } => Status::TritgemmInvalidArgument,
        _ => Status::TritgemmUnsupportedIsa,
    }
}

fn codec(error: &CodecError) -> Status {
    match error {
        CodecError::Isa(_) => Status::TritgemmUnsupportedIsa,
        CodecError::Trit { .. } | CodecError::Code { .. } | CodecError::Padding { .. } => {
            Status::TritgemmInvalidValue
        }
        _ => Status::TritgemmInvalidSize,
    }
}

fn quant(error: &QuantError) -> Status {
    match error {
        QuantError::Memory(_) => Status::TritgemmOutOfMemory,
        QuantError::Weight { .. } | QuantError::Activation { .. } | QuantError::Alpha { .. } => {
            Status::TritgemmInvalidValue
        }
        _ => Status::TritgemmInvalidSize,
    }
}

fn matrix(error: &MatrixError) -> Status {
    match error {
        MatrixError::Scale { .. } | MatrixError::RotationSign { .. } => {
            Status::TritgemmInvalidValue
        }
        MatrixError::Codec(e) => codec(e),
        MatrixError::Quant(e) => quant(e),
        MatrixError::Memory(_) => Status::TritgemmOutOfMemory,
        _ => Status::TritgemmInvalidSize,
    }
}

fn gemm(error: &GemmError) -> Status {
    match error {
        GemmError::PreparedType { .. } | GemmError::NoRow { .. } | GemmError::RowTwice { .. } => {
            Status::TritgemmInvalidArgument
        }
        GemmError::Quant(e) => quant(e),
        GemmError::Memory(_) => Status::TritgemmOutOfMemory,
        GemmError::Isa(_) => Status::TritgemmUnsupportedIsa,
        GemmError::Incomplete(_) => Status::TritgemmIncomplete,
        _ => Status::TritgemmInvalidSize,
    }
}

fn panel_file(error: &PanelFileError) -> Status {
    match error {
        PanelFileError::Io { .. } | PanelFileError::Write { .. } => Status::TritgemmIo,
        PanelFileError::NoMatrix { .. } | PanelFileError::NameTwice { .. } => {
            Status::TritgemmInvalidArgument
        }
        PanelFileError::Memory(_) | PanelFileError::Matrix(MatrixError::Memory(_)) => {
            Status::TritgemmOutOfMemory
        }
        _ => Status::TritgemmBadFile,
    }
}

thread_local! {
    static LAST_ERROR: RefCell<CString> = RefCell::default();
}

fn fail(error: Error) -> Status {
    let mut message = error.message.into_bytes();
    message.retain(|&byte| byte != 0);
    let message = CString::new(message).unwrap_or_default();
    // A thread on its way out has no message any more.
    let _ = LAST_ERROR.try_with(|last| last.replace(message));
    error.status
}

/// Runs the body of a function: no panic leaves it, and its error becomes the
/// last one of this thread.
pub(crate) fn guard(body: impl FnOnce() -> Result<(), Error>) -> Status {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => Status::TritgemmOk,
        Ok(Err(error)) => fail(error),
        Err(payload) => {
            let text = payload.downcast_ref::<&str>().map(|s| (*s).to_owned());
            let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
            // Dropping what was thrown could panic again.
            core::mem::forget(payload);
            let text = text.unwrap_or_default();
            fail(Error::new(
                Status::TritgemmInternal,
                format!("panic: {text}"),
            ))
        }
    }
}

/// What `number`, a value of the C enum `kind`, stands for.
pub(crate) fn choose<T: Copy>(kind: &str, number: i32, all: &[(i32, T)]) -> Result<T, Error> {
    let chosen = all.iter().find(|(value, _)| *value == number);
    chosen.map(|(_, meaning)| *meaning).ok_or_else(|| {
        let text = format!("{kind} {number}, expected a tritgemm_{kind}");
        Error::new(Status::TritgemmInvalidArgument, text)
    })
}

/// As [`guard`], for functions that cannot fail: `or` after a panic.
pub(crate) fn guard_value<T>(or: T, body: impl FnOnce() -> T) -> T {
    let mut value = or;
    guard(|| {
        value = body();
        Ok(())
    });
    value
}

/// What the last function that failed on this thread had to say: what was wrong, and
/// what was expected. Empty before the first failure. Valid until the next failure on
/// this thread, and no longer than the thread.
#[unsafe(no_mangle)]
pub extern "C" fn tritgemm_last_error() -> *const c_char {
    let pointer = LAST_ERROR.try_with(|last| last.borrow().as_ptr());
    pointer.unwrap_or(c"".as_ptr())
}

/// The name of a status, such as "TRITGEMM_OK"; NULL if there is no such status.
#[unsafe(no_mangle)]
pub extern "C" fn tritgemm_status_name(status: i32) -> *const c_char {
    const NAMES: [&CStr; 13] = [
        c"TRITGEMM_OK",
        c"TRITGEMM_NULL_POINTER",
        c"TRITGEMM_INVALID_SIZE",
        c"TRITGEMM_INVALID_ARGUMENT",
        c"TRITGEMM_INVALID_VALUE",
        c"TRITGEMM_OVERLAP",
        c"TRITGEMM_UNSUPPORTED_ISA",
        c"TRITGEMM_IO",
        c"TRITGEMM_BAD_FILE",
        c"TRITGEMM_INCOMPLETE",
        c"TRITGEMM_BUSY",
        c"TRITGEMM_INTERNAL",
        c"TRITGEMM_OUT_OF_MEMORY",
    ];
    let name = usize::try_from(status).ok().and_then(|i| NAMES.get(i));
    name.map_or(core::ptr::null(), |name| name.as_ptr())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last() -> String {
        // SAFETY: this thread's message, not replaced while it is read.
        let text = unsafe { CStr::from_ptr(tritgemm_last_error()) };
        text.to_str().expect("UTF-8").to_owned()
    }

    #[test]
    fn panics_stop_at_the_wall() {
        let status = guard(|| panic!("with {}", "text"));
        assert_eq!(
            (status, last().as_str()),
            (Status::TritgemmInternal, "panic: with text")
        );

        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("again");
            }
        }
        let status = guard(|| std::panic::panic_any(Bomb));
        assert_eq!(
            (status, last().as_str()),
            (Status::TritgemmInternal, "panic: ")
        );
        assert_eq!(guard_value(7, || panic!("no value")), 7);
    }

    #[test]
    fn messages_have_no_zero_inside() {
        guard(|| Err(Error::new(Status::TritgemmIo, "a\0b")));
        assert_eq!(last(), "ab");
    }
}
