//! `tritgemm_model`: models as other projects store them.

use crate::buffer::reserve;
use crate::handle::{borrow, destroy, give, size};
use crate::linear::Linear;
use crate::model_file::name;
use crate::panel_file::path;
use crate::status::{Error, Status, guard, guard_value};
use core::ffi::c_char;
use core::ptr;
use std::ffi::CString;
use tritgemm::Workspace;

/// A model of GGUF, safetensors, ONNX or panel files, of one or of many: its ternary
/// matrices, by their names.
pub struct Model {
    model: tritgemm_formats::Model,
    names: Vec<CString>,
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
        Ok(Self { model, names })
    }
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
