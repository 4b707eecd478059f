//! Backends: which there are, which runs.

use crate::errors::Error;
use pyo3::prelude::*;
use std::collections::BTreeMap;
use tritgemm::{Backend, diagnostics};

/// The backend that products run on, by its name, as 'avx512-vbmi/zen5' or
/// 'scalar'. The pinned one, else that of the environment variable TRITGEMM_ISA,
/// else the best there is.
#[pyfunction]
pub fn backend() -> Result<&'static str, Error> {
    Ok(Backend::active()?.name())
}

/// The backends that this CPU and this build have, best first, by the names that
/// pin takes.
#[pyfunction]
pub fn available() -> Vec<&'static str> {
    Backend::available().map(Backend::name).collect()
}

/// Pins the backend of the whole process by its name, a level ('avx2', whose best
/// backend it takes) or a level with its tuning ('avx2/zen4'); None returns to
/// the default. Results never depend on it. Raises IsaError, naming the missing
/// CPU feature, if it is not available; nothing changes then.
#[pyfunction]
#[pyo3(signature = (name))]
pub fn pin(name: Option<&str>) -> Result<(), Error> {
    Ok(tritgemm::pin(name)?)
}

/// The kernels of each operation that products run on, by name.
#[pyfunction]
pub fn kernels() -> Result<BTreeMap<&'static str, Vec<&'static str>>, Error> {
    let mut names = BTreeMap::<_, Vec<_>>::new();
    for kernel in diagnostics::kernels(Backend::active()?) {
        names.entry(kernel.operation).or_default().push(kernel.name);
    }
    Ok(names)
}

/// The CPU features that kernels ask for, and whether this CPU has each.
#[pyfunction]
pub fn cpu_features() -> BTreeMap<&'static str, bool> {
    diagnostics::cpu_features().into_iter().collect()
}
