//! `run_command`: the command `tritgemm`.

use pyo3::prelude::*;
use std::ffi::OsString;

/// Runs the command `tritgemm` with its arguments, the first of which is its name, and returns
/// the exit code. It takes the process for its own: it heeds signals, and ends the process
/// where the arguments are wrong or ask for help.
#[pyfunction]
pub fn run_command(py: Python<'_>, args: Vec<OsString>) -> u8 {
    py.detach(|| tritgemm_cli::run(args))
}
