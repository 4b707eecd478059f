//! What a call said: the status and the message of the Rust interface's error.

use std::cell::RefCell;
use std::ffi::{CStr, CString};
use std::fmt::Display;
use tritgemm::codec::CodecError;
use tritgemm::quant::QuantError;
use tritgemm::{
    GemmError, IsaError, MatrixError, PanelFileError, PrepareError, SliceError, ViewError,
};
use tritgemm_capi::{Status, tritgemm_last_error};

/// The status that an error stands for, by the comments in the header.
pub trait Reason: Display {
    /// It.
    fn status(&self) -> Status;
}

macro_rules! reasons {
    ($($error:ty: $this:ident => $status:expr;)*) => {$(
        impl Reason for $error {
            fn status(&self) -> Status {
                let $this = self;
                $status
            }
        }
    )*};
}

const SIZE: Status = Status::TritgemmInvalidSize;
const VALUE: Status = Status::TritgemmInvalidValue;
const MEMORY: Status = Status::TritgemmOutOfMemory;

reasons! {
    IsaError: _this => Status::TritgemmUnsupportedIsa;
    ViewError: _this => SIZE;
    SliceError: error => match error {
        SliceError::OutOfRange { .. } | SliceError::Unaligned { .. } => SIZE,
        error => unknown(error),
    };
    CodecError: error => match error {
        CodecError::Length { .. } | CodecError::TooLarge { .. } => SIZE,
        CodecError::Trit { .. } | CodecError::Code { .. } | CodecError::Padding { .. } => VALUE,
        CodecError::Isa(error) => error.status(),
        error => unknown(error),
    };
    QuantError: error => match error {
        QuantError::Length { .. } | QuantError::TooLarge { .. } => SIZE,
        QuantError::Weight { .. } | QuantError::Activation { .. } => VALUE,
        QuantError::Alpha { .. } => VALUE,
        QuantError::Memory(_) => MEMORY,
        error => unknown(error),
    };
    MatrixError: error => match error {
        MatrixError::Codec(error) => error.status(),
        MatrixError::Quant(error) => error.status(),
        MatrixError::Scale { .. } => VALUE,
        MatrixError::Memory(_) => MEMORY,
        _ => SIZE,
    };
    PrepareError: error => match error {
        PrepareError::Quant(error) => error.status(),
        PrepareError::Isa(error) => error.status(),
        PrepareError::Incomplete(_) => Status::TritgemmIncomplete,
        PrepareError::TokenScales { .. } => SIZE,
        PrepareError::Memory(_) => MEMORY,
        error => unknown(error),
    };
    GemmError: error => match error {
        GemmError::Quant(error) => error.status(),
        GemmError::Isa(error) => error.status(),
        GemmError::Incomplete(_) => Status::TritgemmIncomplete,
        GemmError::PreparedType { .. } => Status::TritgemmInvalidArgument,
        GemmError::Memory(_) => MEMORY,
        _ => SIZE,
    };
    PanelFileError: error => match error {
        PanelFileError::Io { .. } => Status::TritgemmIo,
        PanelFileError::Memory(_) => MEMORY,
        PanelFileError::Matrix(MatrixError::Memory(_)) => MEMORY,
        _ => Status::TritgemmBadFile,
    };
}

fn unknown(error: &dyn Display) -> Status {
    panic!("an error that this target does not know: {error}")
}

thread_local! {
    static LAST: RefCell<CString> = RefCell::default();
}

/// This thread's message.
fn message() -> CString {
    // SAFETY: copied at once.
    unsafe { CStr::from_ptr(tritgemm_last_error()) }.to_owned()
}

/// The call worked; the message is still that of the last one that did not.
#[track_caller]
pub fn worked(status: Status) {
    let text = message();
    assert_eq!(status, Status::TritgemmOk, "{text:?}");
    LAST.with_borrow(|last| assert_eq!(text, *last, "without an error"));
}

/// The call failed; its message.
#[track_caller]
pub fn failed(status: Status) -> String {
    assert_ne!(status, Status::TritgemmOk);
    let text = message();
    LAST.replace(text.clone());
    let text = text.into_string().expect("UTF-8");
    assert_ne!(status, Status::TritgemmInternal, "{text}");
    text
}

/// The call failed for `reason`.
#[track_caller]
pub fn failed_as(status: Status, reason: &impl Reason) {
    let text = failed(status);
    assert_eq!((status, text), (reason.status(), reason.to_string()));
}

/// The outcome that the Rust interface has, which is handed on.
#[track_caller]
pub fn agree<T, E: Reason>(status: Status, want: Result<T, E>) -> Option<T> {
    match want {
        Ok(value) => {
            worked(status);
            Some(value)
        }
        Err(reason) => {
            failed_as(status, &reason);
            None
        }
    }
}
