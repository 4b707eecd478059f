//! `ModelFile` and `save_model`: the layers of a model in one panel file.

use crate::arrays::describe;
use crate::errors::Error;
use crate::files::open_model;
use crate::linear::Linear;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyIterator, PyList};
use std::path::PathBuf;
use tritgemm::ModelFile as Core;

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
