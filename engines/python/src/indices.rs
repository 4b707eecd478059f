//! Lists of numbers: which tokens, how many, into which rows.

use crate::arrays::{borrow_error, describe};
use crate::errors::Error;
use numpy::{
    Element, PyArrayDescrMethods, PyArrayDyn, PyArrayMethods, PyUntypedArray, PyUntypedArrayMethods,
};
use pyo3::prelude::*;
use std::fmt::Display;

/// A vector of any integer type, converted. `shape` is its shape in words.
pub fn indices(name: &str, shape: &str, object: &Bound<'_, PyAny>) -> Result<Vec<usize>, Error> {
    let wrong = || {
        format!(
            "{name}: expected integers {shape}, got {}",
            describe(object)
        )
    };
    let array = object.cast::<PyUntypedArray>();
    let array = array.map_err(|_| Error::wrong_type(wrong()))?;
    let kind = array.dtype().kind();
    if !matches!(kind, b'i' | b'u') {
        return Err(Error::wrong_type(wrong()));
    }
    if array.ndim() != 1 {
        return Err(Error::shape(wrong()));
    }
    match kind {
        b'i' => converted::<i64>(name, array),
        _ => converted::<u64>(name, array),
    }
}

/// By way of the widest type of their kind, which holds each of them.
fn converted<T: Element + Copy + Display + TryInto<usize>>(
    name: &str,
    array: &Bound<'_, PyUntypedArray>,
) -> Result<Vec<usize>, Error> {
    let wide = array.call_method1("astype", (numpy::dtype::<T>(array.py()),))?;
    let wide = wide.cast_into::<PyArrayDyn<T>>().map_err(PyErr::from)?;
    let wide = wide.try_readonly().map_err(|e| borrow_error(name, e))?;
    let numbers = wide.as_array();
    let checked = numbers.iter().enumerate().map(|(i, &number)| {
        number.try_into().map_err(|_| {
            let most = usize::MAX;
            Error::other(format!(
                "{name}: number {i} is {number}, expected 0 to {most}"
            ))
        })
    });
    checked.collect()
}
