//! `tritgemm_panel_file`.

use crate::buffer::owned;
use crate::handle::{borrow, destroy, give, null, put};
use crate::linear::Linear;
use crate::matrix::with_granularity;
use crate::panels::{Panels, lasting};
use crate::quant::number;
use crate::status::{Error, Status, choose, guard};
use core::ffi::{CStr, c_char};
use std::borrow::Cow;
use std::path::Path;
use tritgemm::PanelFileError;

/// A panel file: one matrix in panels with its scales and bias, versioned and
/// checksummed, the same on every CPU.
pub struct PanelFile(tritgemm::PanelFile);

/// How much of a panel file is checked against its checksums.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verify {
    /// Everything; reads every byte once.
    TritgemmVerifyFull = 0,
    /// All but the panels, so that opening a large mapped file takes no time; damaged
    /// panels give wrong products and nothing worse.
    TritgemmVerifyHeader = 1,
}

pub(crate) fn verify(number: i32) -> Result<tritgemm::Verify, Error> {
    use tritgemm::Verify::{Full, Header};
    let all = [
        (Verify::TritgemmVerifyFull as i32, Full),
        (Verify::TritgemmVerifyHeader as i32, Header),
    ];
    choose("verify", number, &all)
}

/// A path of the caller's: bytes as they are on Unix, else UTF-8.
///
/// # Safety
/// Precondition 4 of the crate's documentation.
pub(crate) unsafe fn path<'a>(ptr: *const c_char) -> Result<Cow<'a, Path>, Error> {
    if ptr.is_null() {
        return Err(null("path"));
    }
    // SAFETY: by precondition 4.
    let bytes = unsafe { CStr::from_ptr(ptr) };
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt;
        let path = std::ffi::OsStr::from_bytes(bytes.to_bytes());
        Ok(Cow::Borrowed(Path::new(path)))
    }
    #[cfg(not(unix))]
    match bytes.to_str() {
        Ok(path) => Ok(Cow::Borrowed(Path::new(path))),
        Err(_) => {
            let text = "`path` is not UTF-8";
            Err(Error::new(Status::TritgemmInvalidArgument, text))
        }
    }
}

/// Maps a panel file into memory: panels are read from the disk when they are first used,
/// and shared with every process that maps them; nothing is copied. Nobody may change or
/// truncate the file until every handle that was made of it is destroyed; replacing it
/// by tritgemm_linear_save() is fine. `verify` is a tritgemm_verify.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_panel_file_map(
    path: *const c_char,
    verify: i32,
    out: *mut *mut PanelFile,
) -> Status {
    // SAFETY: preconditions 3, 4 and 6.
    guard(|| unsafe {
        give(out, || {
            let verify = self::verify(verify)?;
            Ok(PanelFile(tritgemm::PanelFile::map(
                self::path(path)?,
                verify,
            )?))
        })
    })
}

/// Reads a panel file into memory and checks all of it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_panel_file_load(
    path: *const c_char,
    out: *mut *mut PanelFile,
) -> Status {
    // SAFETY: preconditions 3 and 4.
    guard(|| unsafe {
        give(out, || {
            Ok(PanelFile(tritgemm::PanelFile::load(self::path(path)?)?))
        })
    })
}

/// A panel file that is in memory already, mapped by the caller or part of a larger file:
/// the panels are used where they are. `bytes` must stay valid and unchanged until every
/// handle that was made of it is destroyed. Any alignment works, 64 bytes is fastest.
/// `verify` is a tritgemm_verify.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_panel_file_from_memory(
    bytes: *const u8,
    bytes_len: usize,
    verify: i32,
    out: *mut *mut PanelFile,
) -> Status {
    // SAFETY: preconditions 1, 3 and 5.
    guard(|| unsafe {
        give(out, || {
            let bytes = lasting("bytes", bytes, bytes_len)?;
            let verify = self::verify(verify)?;
            Ok(PanelFile(tritgemm::PanelFile::from_bytes(bytes, verify)?))
        })
    })
}

/// What a file holds: M, K, what a scale covers (a tritgemm_granularity, 0 if it has no
/// scales) and whether there is a bias.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_panel_file_info(
    file: *const PanelFile,
    rows: *mut usize,
    cols: *mut usize,
    granularity: *mut i32,
    has_bias: *mut bool,
) -> Status {
    // SAFETY: preconditions 2 and 3.
    guard(|| unsafe {
        let file = &borrow("file", file)?.0;
        let kind = file
            .scales()
            .map_or(0, |scales| number(scales.granularity()));
        put("rows", rows, file.panels().rows())?;
        put("cols", cols, file.panels().cols())?;
        put("granularity", granularity, kind)?;
        put("has_bias", has_bias, file.bias().is_some())
    })
}

/// The file's panels; they share its memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_panel_file_panels(
    file: *const PanelFile,
    out: *mut *mut Panels,
) -> Status {
    // SAFETY: preconditions 2 and 3.
    guard(|| unsafe { give(out, || Ok(Panels(borrow("file", file)?.0.panels().clone()))) })
}

/// The file's layer; it shares the panels. An error if the file has no scales.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_panel_file_linear(
    file: *const PanelFile,
    out: *mut *mut Linear,
) -> Status {
    // SAFETY: preconditions 2 and 3.
    guard(|| unsafe {
        give(out, || {
            let file = &borrow("file", file)?.0;
            let scales = file.scales().ok_or(PanelFileError::NoScales)?;
            let values = owned(Cow::Borrowed(scales.values()))?;
            let scales = with_granularity(scales.granularity(), values)?;
            let bias = file.bias().map(|bias| owned(Cow::Borrowed(bias)));
            let panels = file.panels().clone();
            let layer = tritgemm::Linear::from_parts(panels, scales, bias.transpose()?);
            let layer = layer.map_err(PanelFileError::Matrix)?;
            Ok(Linear(match file.rotation() {
                Some(rotation) => layer.with_rotation(rotation.clone())?,
                None => layer,
            }))
        })
    })
}

/// Writes a layer as a panel file, atomically: whoever opens `path` sees the old file or
/// the whole new one, and what was mapped stays as it was.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_linear_save(
    linear: *const Linear,
    path: *const c_char,
) -> Status {
    // SAFETY: preconditions 2 and 4.
    guard(|| unsafe { Ok(borrow("linear", linear)?.0.save(self::path(path)?)?) })
}

/// Frees a panel file, or nothing for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_panel_file_destroy(file: *mut PanelFile) {
    // SAFETY: precondition 2.
    unsafe { destroy(file) }
}
