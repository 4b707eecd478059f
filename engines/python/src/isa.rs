//! Instruction sets: which there are, which runs.

use crate::errors::Error;
use pyo3::prelude::*;
use std::collections::BTreeMap;
use tritgemm::{Backend, Isa};

/// The instruction set that products run on: 'scalar', 'avx2', 'avx512' or
/// 'neon'. The pinned one, else that of the environment variable TRITGEMM_ISA,
/// else the best there is.
#[pyfunction]
pub fn isa() -> Result<&'static str, Error> {
    Ok(Backend::active()?.isa().name())
}

/// The instruction sets that this CPU and this build have, best first.
#[pyfunction]
pub fn available() -> Vec<&'static str> {
    let mut names: Vec<_> = Backend::available().map(|b| b.isa().name()).collect();
    names.dedup();
    names
}

/// Pins the instruction set of the whole process; None returns to the default.
/// Results never depend on it. Raises IsaError, naming the missing CPU feature,
/// if it is not available; nothing changes then.
#[pyfunction]
#[pyo3(signature = (isa))]
pub fn pin(isa: Option<&str>) -> Result<(), Error> {
    let isa = isa.map(str::parse::<Isa>).transpose()?;
    Ok(tritgemm::pin(isa)?)
}

/// The kernel of each operation that products run on, by name.
#[pyfunction]
pub fn kernels() -> Result<BTreeMap<&'static str, &'static str>, Error> {
    let kernels = Backend::active()?.kernels();
    Ok(kernels
        .iter()
        .map(|kernel| (kernel.operation, kernel.name))
        .collect())
}

/// The CPU features that kernels ask for, and whether this CPU has each.
#[pyfunction]
pub fn cpu_features() -> BTreeMap<&'static str, bool> {
    tritgemm::cpu_features().into_iter().collect()
}
