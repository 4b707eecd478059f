//! `tritgemm_model`: models as other projects store them.

use crate::buffer::reserve;
use crate::handle::{borrow, destroy, give, size};
use crate::linear::Linear;
use crate::model_file::name;
use crate::panel_file::path;
use crate::status::{Error, Status, guard, guard_value};
use core::ffi::c_char;
use core::ptr;
use std::ffi::{CStr, CString};
use tritgemm::Workspace;
use tritgemm_formats::OpenOptions;
use tritgemm_formats::ggml::I2sLayout;
use tritgemm_formats::hf::LinearClass;

/// A model of GGUF, safetensors, ONNX or panel files, of one or of many: its ternary
/// matrices, by their names.
pub struct Model {
    model: tritgemm_formats::Model,
    names: Vec<CString>,
    notes: Vec<CString>,
}

impl Model {
    fn new(model: tritgemm_formats::Model) -> Result<Self, Error> {
        let mut names = Vec::new();
        reserve(&mut names, model.matrices().len())?;
        for matrix in model.matrices() {
            names.push(CString::new(matrix.name.as_str()).map_err(|_| {
                let text = "a matrix has a zero byte in its name";
                Error::new(Status::TritgemmBadFile, text)
            })?);
        }
        let mut notes = Vec::new();
        reserve(&mut notes, model.notes().len())?;
        for note in model.notes() {
            // They may quote names.
            let text = note.replace('\0', "\\0");
            notes.extend(CString::new(text));
        }
        Ok(Self {
            model,
            names,
            notes,
        })
    }
}

/// The value of a name that may be NULL; an error if it has none.
unsafe fn named<T>(
    argument: &str,
    text: *const c_char,
    value: impl FnOnce(&str) -> Option<T>,
    expected: &str,
) -> Result<Option<T>, Error> {
    if text.is_null() {
        return Ok(None);
    }
    // SAFETY: by precondition 4.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    value(&text).map(Some).ok_or_else(|| {
        let text = format!("`{argument}` is {text:?}, expected {expected}");
        Error::new(Status::TritgemmInvalidArgument, text)
    })
}

/// Opens a model and maps all of its files into memory: a GGUF file or the first of its
/// parts, a safetensors file or the .index.json of its shards, an ONNX or a panel file, or a
/// folder with one of these. Headers are checked now, weights when they are read. The files
/// are neither changed nor truncated while the handle lives.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_model_open(path: *const c_char, out: *mut *mut Model) -> Status {
    // SAFETY: preconditions 3, 4 and 6.
    guard(|| unsafe {
        give(out, || {
            Model::new(tritgemm_formats::open(self::path(path)?)?)
        })
    })
}

/// tritgemm_model_open() with what files do not say of themselves: what `weight_scale` means
/// in HF BitNet files, "bitlinear" or "autobitlinear", or NULL for what a config.json says;
/// the rows of HF BitNet matrices, or 0 for 4 times their packed ones; the layout of I2_S
/// matrices, "x86", "rows4" or "arm", or NULL for x86. What the model has no use for is an
/// error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_model_open_with(
    path: *const c_char,
    linear_class: *const c_char,
    rows: usize,
    i2s_layout: *const c_char,
    out: *mut *mut Model,
) -> Status {
    // SAFETY: preconditions 3, 4 and 6.
    guard(|| unsafe {
        give(out, || {
            let options = OpenOptions {
                linear_class: named(
                    "linear_class",
                    linear_class,
                    LinearClass::from_name,
                    "bitlinear or autobitlinear",
                )?,
                rows: (rows > 0).then_some(rows),
                i2s_layout: named(
                    "i2s_layout",
                    i2s_layout,
                    I2sLayout::from_name,
                    "x86, rows4 or arm",
                )?,
                tolerant: false,
            };
            let path = self::path(path)?;
            Model::new(tritgemm_formats::open_with(path, &options)?)
        })
    })
}

/// Number of notes: what a reader has to know, assumptions that no file states and matrices
/// that look packed and were not recognised. 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_model_note_count(model: *const Model) -> usize {
    // SAFETY: precondition 2.
    unsafe { size(model, |model| model.notes.len()) }
}

/// A note, one or more sentences; it lives as long as the handle. NULL if there are not that
/// many.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_model_note(model: *const Model, index: usize) -> *const c_char {
    guard_value(ptr::null(), || {
        // SAFETY: precondition 2.
        let model = unsafe { borrow("model", model) };
        let note = model.ok().and_then(|model| model.notes.get(index));
        note.map_or(ptr::null(), |note| note.as_ptr())
    })
}

/// Number of ternary matrices, or 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_model_count(model: *const Model) -> usize {
    // SAFETY: precondition 2.
    unsafe { size(model, |model| model.names.len()) }
}

/// The name of a matrix; it lives as long as the handle. NULL if there are not that many.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_model_name(model: *const Model, index: usize) -> *const c_char {
    guard_value(ptr::null(), || {
        // SAFETY: precondition 2.
        let model = unsafe { borrow("model", model) };
        let name = model.ok().and_then(|model| model.names.get(index));
        name.map_or(ptr::null(), |name| name.as_ptr())
    })
}

/// Reads the matrix of a name as a layer, on the calling thread, with as few scales as say
/// the same. Rotated inputs (prism.hadamard) are a property of the layer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_model_linear(
    model: *const Model,
    name: *const c_char,
    out: *mut *mut Linear,
) -> Status {
    // SAFETY: preconditions 2, 3 and 4.
    guard(|| unsafe {
        give(out, || {
            let model = borrow("model", model)?;
            let name = self::name(name)?;
            Ok(Linear(model.model.linear(name, &Workspace::new())?))
        })
    })
}

/// Frees a model, or nothing for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tritgemm_model_destroy(model: *mut Model) {
    // SAFETY: precondition 2.
    unsafe { destroy(model) }
}
