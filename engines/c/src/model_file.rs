//! `tritgemm_model_file`.

use crate::buffer::reserve;
use crate::handle::{borrow, destroy, give, null, size};
use crate::linear::Linear;
use crate::outputs::array;
use crate::panel_file::{path, verify};
use crate::panels::lasting;
use crate::status::{Error, Status, guard, guard_value};
use core::ffi::{CStr, c_char};
use core::ptr;
use std::ffi::CString;
use tritgemm::PanelFileError;

/// A panel file of a whole model: many matrices with their scales and biases, by their
/// names. A file of one matrix is a model of one without a name.
pub struct ModelFile {
    file: tritgemm::ModelFile,
    names: Vec<CString>,
}

impl ModelFile {
    fn new(file: Result<tritgemm::ModelFile, PanelFileError>) -> Result<Self, Error> {
        let file = file?;
        let mut names = Vec::new();
        reserve(&mut names, file.names().len())?;
        for name in file.names() {
            let mut bytes = Vec::new();
            reserve(&mut bytes, name.len() + 1)?;
            bytes.extend_from_slice(name.as_bytes());
            bytes.push(0);
            names.push(CString::from_vec_with_nul(bytes).map_err(|_| {
                let text = "a matrix has a zero byte in its name";
                Error::new(Status::TritgemmBadFile, text)
            })?);
        }
        Ok(Self { file, names })
    }
}

/// A name as the library has it.
///
/// # Safety
/// Precondition 4 of the crate's documentation.
pub(crate) unsafe fn name<'a>(name: *const c_char) -> Result<&'a str, Error> {
    if name.is_null() {
        return Err(null("name"));
    }
    // SAFETY: by precondition 4.
    unsafe { CStr::from_ptr(name) }.to_str().map_err(|_| {
        let text = "`name` is not UTF-8";
        Error::new(Status::TritgemmInvalidArgument, text)
    })
}

/// Maps a model's panel file into memory, as tritgemm_panel_file_map() does a matrix's.
/// `verify` says what is checked of each matrix when it is taken; with
/// TRITGEMM_VERIFY_HEADER a shard touches the pages of its own rows alone.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_model_file_map(
    path: *const c_char,
    verify: i32,
    out: *mut *mut ModelFile,
) -> Status {
    // SAFETY: preconditions 3, 4 and 6.
    guard(|| unsafe {
        give(out, || {
            let verify = self::verify(verify)?;
            ModelFile::new(tritgemm::ModelFile::map(self::path(path)?, verify))
        })
    })
}

/// Reads a model's panel file into memory; each matrix is checked when it is taken.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_model_file_load(
    path: *const c_char,
    out: *mut *mut ModelFile,
) -> Status {
    // SAFETY: preconditions 3 and 4.
    guard(|| unsafe {
        give(out, || {
            ModelFile::new(tritgemm::ModelFile::load(self::path(path)?))
        })
    })
}

/// A model's panel file that is in memory already: see tritgemm_panel_file_from_memory().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_model_file_from_memory(
    bytes: *const u8,
    bytes_len: usize,
    verify: i32,
    out: *mut *mut ModelFile,
) -> Status {
    // SAFETY: preconditions 1, 3 and 5.
    guard(|| unsafe {
        give(out, || {
            let bytes = lasting("bytes", bytes, bytes_len)?;
            ModelFile::new(tritgemm::ModelFile::from_bytes(
                bytes,
                self::verify(verify)?,
            ))
        })
    })
}

/// Number of matrices, or 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_model_file_count(model: *const ModelFile) -> usize {
    // SAFETY: precondition 2.
    unsafe { size(model, |model| model.names.len()) }
}

/// The name of a matrix, in the order of the file; it lives as long as the handle. NULL if
/// there are not that many.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_model_file_name(
    model: *const ModelFile,
    index: usize,
) -> *const c_char {
    guard_value(ptr::null(), || {
        // SAFETY: precondition 2.
        let model = unsafe { borrow("model", model) };
        let name = model.ok().and_then(|model| model.names.get(index));
        name.map_or(ptr::null(), |name| name.as_ptr())
    })
}

/// The layer of a name; it shares the file's panels. An error if there is none, it is damaged
/// or it has no scales.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_model_file_linear(
    model: *const ModelFile,
    name: *const c_char,
    out: *mut *mut Linear,
) -> Status {
    // SAFETY: preconditions 2, 3 and 4.
    guard(|| unsafe {
        give(out, || {
            let model = borrow("model", model)?;
            Ok(Linear(model.file.linear(self::name(name)?)?))
        })
    })
}

/// Writes `count` layers and their names as one panel file, atomically: see
/// tritgemm_linear_save().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_model_file_save(
    path: *const c_char,
    names: *const *const c_char,
    layers: *const *const Linear,
    count: usize,
) -> Status {
    // SAFETY: preconditions 1, 2 and 4.
    guard(|| unsafe {
        let path = self::path(path)?;
        let names = array("names", names, count)?;
        let mut all = Vec::new();
        reserve(&mut all, count)?;
        for (&n, &layer) in names.iter().zip(array("layers", layers, count)?) {
            all.push((name(n)?, &borrow("layers", layer)?.0));
        }
        Ok(tritgemm::ModelFile::save(path, all)?)
    })
}

/// Frees a model's panel file, or nothing for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_model_file_destroy(model: *mut ModelFile) {
    // SAFETY: precondition 2.
    unsafe { destroy(model) }
}
