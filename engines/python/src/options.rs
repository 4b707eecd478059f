//! Arguments that are one of a few words.

use crate::errors::Error;
use pyo3::prelude::*;
use tritgemm::{Granularity, GroupSize, NonFinite};
use tritgemm_formats::hf::LinearClass;

/// Which path the activations take.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub enum Path {
    /// f32 throughout.
    F32,
    /// Quantised to int8, token by token (W1.58A8).
    #[default]
    Int8,
    /// The same with the scales that torch computes.
    Int8Torch,
}

impl Path {
    /// From `"f32"`, `"int8"` or `"int8_torch"`.
    pub fn parse(name: &str) -> Result<Self, Error> {
        match name {
            "f32" => Ok(Self::F32),
            "int8" => Ok(Self::Int8),
            "int8_torch" => Ok(Self::Int8Torch),
            _ => Err(Error::other(format!(
                "activations: expected 'f32', 'int8' or 'int8_torch', got '{name}'"
            ))),
        }
    }

    /// The name it is parsed from.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Int8 => "int8",
            Self::Int8Torch => "int8_torch",
        }
    }
}

/// A group size: 32, 64, 128 or 256. `name` is the argument's.
pub fn group_size(name: &str, len: usize) -> Result<GroupSize, Error> {
    GroupSize::from_len(len)
        .ok_or_else(|| Error::other(format!("{name}: expected 32, 64, 128 or 256, got {len}")))
}

/// The group size `x_group`, if there is one.
pub fn group(x_group: Option<usize>) -> Result<Option<GroupSize>, Error> {
    x_group.map(|len| group_size("x_group", len)).transpose()
}

/// How activations become int8.
#[derive(Clone, Copy, Default)]
pub struct Quantization {
    /// Values of a token that share a scale, if not all do.
    pub group: Option<GroupSize>,
    /// What becomes of a NaN or an infinity.
    pub non_finite: NonFinite,
    /// Whether scales are those that torch computes.
    pub as_torch: bool,
}

impl Quantization {
    /// From `x_group` and `"error"` or `"propagate"`.
    pub fn parse(x_group: Option<usize>, non_finite: &str) -> Result<Self, Error> {
        let group = group(x_group)?;
        let non_finite = match non_finite {
            "error" => NonFinite::Error,
            "propagate" => NonFinite::Propagate,
            _ => {
                return Err(Error::other(format!(
                    "non_finite: expected 'error' or 'propagate', got '{non_finite}'"
                )));
            }
        };
        Ok(Self {
            group,
            non_finite,
            as_torch: false,
        })
    }
}

/// What a scale covers: `"tensor"`, `"row"` or a group size.
pub fn granularity(object: &Bound<'_, PyAny>) -> Result<Granularity, Error> {
    if let Ok(len) = object.extract::<usize>() {
        return Ok(Granularity::PerGroup(group_size("granularity", len)?));
    }
    match object.extract::<String>().as_deref() {
        Ok("tensor") => Ok(Granularity::PerTensor),
        Ok("row") => Ok(Granularity::PerRow),
        _ => Err(Error::other(format!(
            "granularity: expected 'tensor', 'row', 32, 64, 128 or 256, got {}",
            object.repr()?
        ))),
    }
}

/// Whether the weights are made 2:4 sparse: `None` or `"2:4"`.
pub fn is_2_4(sparsity: Option<&str>) -> Result<bool, Error> {
    match sparsity {
        None => Ok(false),
        Some("2:4") => Ok(true),
        Some(other) => Err(Error::other(format!(
            "sparsity: expected None or '2:4', got '{other}'"
        ))),
    }
}

/// What `weight_scale` means: `"bitlinear"` or `"autobitlinear"`.
pub fn linear_class(name: &str) -> Result<LinearClass, Error> {
    LinearClass::from_name(name).ok_or_else(|| {
        Error::other(format!(
            "linear_class: expected 'bitlinear' or 'autobitlinear', got '{name}'"
        ))
    })
}
