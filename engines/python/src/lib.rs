//! The compiled half of the Python package `tritgemm`: numpy arrays in and out
//! without copies, the GIL released in every product.
//!
//! | module | what it holds |
//! |---|---|
//! | [`arrays`], [`indices`] | numpy arrays as the library's views and lists |
//! | [`pool`], [`openmp`] | the module's threads and torch's, and calls without the GIL |
//! | [`errors`] | exceptions |
//! | [`options`] | arguments that are one of a few words |
//! | [`codec`], [`quant`], [`reciprocal`], [`norm`] | functions on trits and floats |
//! | [`packed`], [`linear`], [`activations`], [`experts`], [`model`] | classes |
//! | [`latent`], [`hf`], [`scales`] | what weights are made of |
//! | [`files`] | panel files, mapped or read |
//! | [`shared`] | what running calls hold |
//! | [`product`], [`forward`] | the products behind them |
//! | [`outputs`] | what they write to |
//! | [`tensors`] | products on torch's tensors, by their addresses |
//! | [`backend`] | which kernels run |
//! | [`command`] | the command line |
#![deny(unsafe_code)]

mod activations;
mod arrays;
mod backend;
mod codec;
mod command;
mod errors;
mod experts;
#[allow(unsafe_code)] // Two calls: panel files mapped into memory.
mod files;
mod forward;
mod hf;
mod indices;
mod latent;
mod linear;
mod model;
mod norm;
#[allow(unsafe_code)] // Calls of the runtime.
mod openmp;
mod options;
mod outputs;
mod packed;
mod pool;
mod product;
mod quant;
mod reciprocal;
mod scales;
mod shared;
#[allow(unsafe_code)] // The memory of tensors.
mod tensors;

/// The module.
#[pyo3::pymodule]
mod _tritgemm {
    #[pymodule_export]
    use crate::activations::PreparedActivations;
    #[pymodule_export]
    use crate::backend::{available, backend, cpu_features, kernels, pin};
    #[pymodule_export]
    use crate::codec::{pack, unpack};
    #[pymodule_export]
    use crate::command::run_command;
    #[pymodule_export]
    use crate::errors::{
        EncodingError, IsaError, OverlapError, PanelFileError, QuantizationError, ShapeError,
        TritgemmError,
    };
    #[pymodule_export]
    use crate::experts::{Experts, RoutedActivations};
    #[pymodule_export]
    use crate::forward::{forward_many_f32, forward_many_int8, linear};
    #[pymodule_export]
    use crate::linear::Linear;
    #[pymodule_export]
    use crate::model::{Model, ModelFile, save_model};
    #[pymodule_export]
    use crate::norm::{rms_norm, rms_norm_backward};
    #[pymodule_export]
    use crate::packed::Packed;
    #[pymodule_export]
    use crate::pool::{get_num_threads, set_num_threads};
    #[pymodule_export]
    use crate::product::gemm_i8;
    #[pymodule_export]
    use crate::quant::{quantize_activations, ternarize};
    use crate::{pool, tensors};
    use pyo3::prelude::*;

    /// The version of the package.
    #[allow(non_upper_case_globals)]
    #[pymodule_export]
    const __version__: &str = env!("CARGO_PKG_VERSION");

    /// What is the package's own: not in `__all__`, where exports go.
    #[pymodule_init]
    fn add_private(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.setattr("_forward", wrap_pyfunction!(tensors::forward, module)?)?;
        let digits = wrap_pyfunction!(tensors::forward_digits, module)?;
        module.setattr("_forward_digits", digits)?;
        module.setattr("_use_openmp", wrap_pyfunction!(pool::use_openmp, module)?)?;
        module.setattr("_rms_norm", wrap_pyfunction!(tensors::rms_norm, module)?)
    }
}
