//! `Model`: a model of any format. `ModelFile` and `save_model`: the layers of a model in one
//! panel file.

use crate::arrays::{Output, describe};
use crate::errors::Error;
use crate::files::open_model;
use crate::linear::Linear;
use crate::options;
use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyIterator, PyList};
use std::path::PathBuf;
use tritgemm::{ModelFile as Core, Workspace};
use tritgemm_formats::ggml::I2sLayout;
use tritgemm_formats::gguf::Value;
use tritgemm_formats::{OpenOptions, open_with};

/// A model of GGUF, safetensors, ONNX or panel files, of one or of many: its ternary
/// matrices by their names, each read as a Linear when it is taken.
#[pyclass(frozen, module = "tritgemm")]
pub struct Model {
    core: tritgemm_formats::Model,
}

#[pymethods]
impl Model {
    /// Opens a model and maps its files, which nobody may change or truncate while it lives.
    /// `path` is a GGUF file or the first of its parts, a safetensors file or the .index.json
    /// of its shards, an ONNX or a panel file, or a folder with one of these. What a file does
    /// not say: `linear_class` ('bitlinear' or 'autobitlinear') and `rows` of HF BitNet,
    /// `i2s_layout` ('x86', which is the default, 'rows4' or 'arm') of I2_S.
    ///
    /// What a model of tritgemm.hf wrote by save_pretrained is read by
    /// tritgemm.hf.from_pretrained alone: here it has no matrices, and notes says so.
    #[staticmethod]
    #[pyo3(signature = (path, *, linear_class = None, rows = None, i2s_layout = None))]
    fn open(
        py: Python<'_>,
        path: PathBuf,
        linear_class: Option<&str>,
        rows: Option<usize>,
        i2s_layout: Option<&str>,
    ) -> Result<Self, Error> {
        let linear_class = linear_class.map(options::linear_class);
        let i2s_layout = i2s_layout.map(|name| {
            let layout = I2sLayout::from_name(name);
            layout.ok_or_else(|| {
                Error::other(format!(
                    "i2s_layout: expected 'x86', 'rows4' or 'arm', got '{name}'"
                ))
            })
        });
        let options = OpenOptions {
            linear_class: linear_class.transpose()?,
            rows,
            i2s_layout: i2s_layout.transpose()?,
            tolerant: false,
        };
        let core = py.detach(|| open_with(path, &options))?;
        Ok(Self { core })
    }

    /// The names of its ternary matrices.
    #[getter]
    fn names(&self) -> Vec<&str> {
        let matrices = self.core.matrices().iter();
        matrices.map(|m| m.name.as_str()).collect()
    }

    /// The names of its other tensors, as of norms and embeddings.
    #[getter]
    fn other_names(&self) -> Vec<&str> {
        let others = self.core.others().iter();
        others.map(|t| t.name.as_str()).collect()
    }

    /// The values of another tensor, float32 in its shape: of float32, float16, bfloat16
    /// and, in GGUF files, of Q4_0, Q8_0, Q4_K, Q5_K and Q6_K. KeyError if there is none.
    fn tensor<'py>(&self, py: Python<'py>, name: &str) -> Result<Bound<'py, PyAny>, Error> {
        let tensor = self.core.tensor(name)?;
        let values = py.detach(|| tensor.to_f32())?;
        let mut array = Output::<f32>::fresh(py, &tensor.shape)?;
        array.slice_mut()?.copy_from_slice(&values);
        Ok(array.into_object())
    }

    /// The format of a ternary matrix in its file: 'TQ2_0', 'HF BitNet', 'tritgemm' and so
    /// on. KeyError if there is none.
    fn format(&self, name: &str) -> Result<&'static str, Error> {
        Ok(self.core.matrix(name)?.format)
    }

    /// What the file says of itself, by its keys: numbers, strings, booleans and lists of a
    /// GGUF file, strings of a safetensors file. A string that is not UTF-8 is bytes.
    #[getter]
    fn metadata<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let metadata = PyDict::new(py);
        for (key, value) in self.core.metadata() {
            metadata.set_item(key, value)?;
        }
        for (key, value) in self.core.gguf_metadata() {
            metadata.set_item(key, object(py, value)?)?;
        }
        Ok(metadata)
    }

    /// What a reader has to know: assumptions that no file states, and matrices that look
    /// packed and were not recognised.
    #[getter]
    fn notes(&self) -> Vec<String> {
        self.core.notes().to_vec()
    }

    fn __len__(&self) -> usize {
        self.core.matrices().len()
    }

    fn __contains__(&self, name: &str) -> bool {
        self.core.matrix(name).is_ok()
    }

    /// The layer of a name, read now. KeyError if there is none.
    fn __getitem__(&self, py: Python<'_>, name: &str) -> Result<Linear, Error> {
        let core = py.detach(|| self.core.linear(name, &Workspace::new()))?;
        Ok(Linear { core })
    }

    /// The names.
    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyIterator>> {
        PyList::new(py, self.names())?.try_iter()
    }

    fn __repr__(&self) -> String {
        let (kind, len) = (self.core.container(), self.__len__());
        format!("tritgemm.Model({kind}, {len} matrices)")
    }
}

/// A value of GGUF metadata.
fn object<'py>(py: Python<'py>, value: &Value<'_>) -> PyResult<Bound<'py, PyAny>> {
    Ok(match *value {
        Value::U8(v) => v.into_bound_py_any(py)?,
        Value::I8(v) => v.into_bound_py_any(py)?,
        Value::U16(v) => v.into_bound_py_any(py)?,
        Value::I16(v) => v.into_bound_py_any(py)?,
        Value::U32(v) => v.into_bound_py_any(py)?,
        Value::I32(v) => v.into_bound_py_any(py)?,
        Value::U64(v) => v.into_bound_py_any(py)?,
        Value::I64(v) => v.into_bound_py_any(py)?,
        Value::F32(v) => v.into_bound_py_any(py)?,
        Value::F64(v) => v.into_bound_py_any(py)?,
        Value::Bool(v) => v.into_bound_py_any(py)?,
        Value::String(bytes) => match value.as_str() {
            Some(text) => text.into_bound_py_any(py)?,
            None => PyBytes::new(py, bytes).into_any(),
        },
        Value::Array(array) => {
            let list = PyList::empty(py);
            for value in array.iter() {
                list.append(object(py, &value)?)?;
            }
            list.into_any()
        }
    })
}

/// The layers of a model by their names, in one panel file: made by load, written by
/// save_model. A file of one matrix has the name ''.
#[pyclass(frozen, module = "tritgemm")]
pub struct ModelFile {
    core: Core,
}

#[pymethods]
impl ModelFile {
    /// Opens a panel file. `mmap` and `verify` as in Packed.load: nobody may change or
    /// truncate a mapped file. Its index is checked now, each layer when it is taken.
    #[staticmethod]
    #[pyo3(signature = (path, *, mmap = false, verify = true))]
    fn load(py: Python<'_>, path: PathBuf, mmap: bool, verify: bool) -> Result<Self, Error> {
        let core = open_model(py, path, mmap, verify)?;
        Ok(Self { core })
    }

    /// The names, in the order of the file.
    #[getter]
    fn names(&self) -> Vec<&str> {
        self.core.names().collect()
    }

    fn __len__(&self) -> usize {
        self.core.names().len()
    }

    fn __contains__(&self, name: &str) -> bool {
        self.core.names().any(|its| its == name)
    }

    /// The layer of a name, which shares the file's memory. KeyError if there is none.
    fn __getitem__(&self, py: Python<'_>, name: &str) -> Result<Linear, Error> {
        let core = py.detach(|| self.core.linear(name))?;
        Ok(Linear { core })
    }

    /// The names.
    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyIterator>> {
        PyList::new(py, self.core.names())?.try_iter()
    }

    fn __repr__(&self) -> String {
        format!("tritgemm.ModelFile({} layers)", self.__len__())
    }
}

/// Writes a panel file of layers by their names ({name: Linear}), in their order,
/// atomically: see ModelFile.
#[pyfunction]
pub fn save_model(py: Python<'_>, path: PathBuf, layers: &Bound<'_, PyDict>) -> Result<(), Error> {
    let mut all = Vec::<(String, Bound<'_, Linear>)>::new();
    for (name, layer) in layers {
        let name = name.extract::<String>().map_err(|_| {
            let got = describe(&name);
            Error::wrong_type(format!("layers: expected names of type str, got {got}"))
        })?;
        let layer = layer.cast_into::<Linear>().map_err(|e| {
            let got = describe(&e.into_inner());
            Error::wrong_type(format!("layers['{name}']: expected Linear, got {got}"))
        })?;
        all.push((name, layer));
    }
    let all: Vec<_> = all
        .iter()
        .map(|(n, l)| (n.as_str(), &l.get().core))
        .collect();
    Ok(py.detach(|| Core::save(path, all))?)
}
