//! Initialisers: their bytes, in the model or in files beside it, and their values.

use super::proto::{BFLOAT16, EXTERNAL, FLOAT, FLOAT16, Tensor, UINT8};
use crate::error::{FormatError, Result};
use crate::float::FloatType;
use safetensors::Dtype;
use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

/// The files of external data, by the names that the model has for them.
#[derive(Clone, Default)]
pub(super) struct External(pub(super) HashMap<String, Arc<dyn AsRef<[u8]> + Send + Sync>>);

impl fmt::Debug for External {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.keys()).finish()
    }
}

pub(super) fn wrong(
    tensor: &str,
    attribute: &'static str,
    value: &str,
    expected: &'static str,
) -> FormatError {
    FormatError::Attribute {
        tensor: tensor.to_owned(),
        attribute,
        value: value.to_owned(),
        expected,
    }
}

pub(super) fn type_error(name: &str, tensor: &Tensor, expected: &'static str) -> FormatError {
    let ty = tensor.data_type.to_string();
    wrong(name, "data_type", &ty, expected)
}

impl Tensor {
    fn entry(&self, key: &str) -> Option<&str> {
        let entry = self.external_data.iter().find(|e| e.key == key);
        entry.map(|e| e.value.as_str())
    }

    /// The file that its bytes are in, if they are not in the model.
    pub(super) fn location(&self) -> Result<Option<&str>> {
        if self.data_location != EXTERNAL {
            return Ok(None);
        }
        let location = self.entry("location");
        let expected = "the location of its file beside it";
        let missing = || wrong(&self.name, "data_location", "EXTERNAL", expected);
        location.map(Some).ok_or_else(missing)
    }

    /// Its bytes as they are stored; empty where typed fields have its values.
    fn raw<'a>(&'a self, external: &'a External) -> Result<&'a [u8]> {
        let Some(location) = self.location()? else {
            return Ok(&self.raw_data);
        };
        let Some(file) = external.0.get(location) else {
            let expected = "data in the model or in a file that is attached";
            return Err(wrong(&self.name, "data_location", "EXTERNAL", expected));
        };
        let file = (**file).as_ref();
        let number = |attribute, key, default: usize| match self.entry(key) {
            None => Ok(default),
            Some(text) => text
                .parse::<usize>()
                .map_err(|_| wrong(&self.name, attribute, text, "a number from 0 up")),
        };
        let offset = number("external offset", "offset", 0)?;
        let rest = file.get(offset..).ok_or_else(|| {
            let expected = "a place in the file";
            wrong(&self.name, "external offset", &offset.to_string(), expected)
        })?;
        let len = number("external length", "length", rest.len())?;
        rest.get(..len).ok_or_else(|| {
            let expected = "no more than the file has";
            wrong(&self.name, "external length", &len.to_string(), expected)
        })
    }

    /// The bytes of a uint8 tensor; one that `int32_data` holds must fit.
    pub(super) fn bytes<'a>(&'a self, external: &'a External) -> Result<Option<Cow<'a, [u8]>>> {
        if self.data_type != UINT8 {
            return Ok(None);
        }
        if self.data_location == EXTERNAL || !self.raw_data.is_empty() || self.int32_data.is_empty()
        {
            return Ok(Some(Cow::Borrowed(self.raw(external)?)));
        }
        let values = self.int32_data.iter().map(|&v| u8::try_from(v).ok());
        Ok(values.collect::<Option<Vec<u8>>>().map(Cow::Owned))
    }

    /// The values of a float tensor.
    pub(super) fn floats(&self, external: &External) -> Result<Option<Vec<f32>>> {
        let ty = match self.data_type {
            FLOAT => FloatType::F32,
            FLOAT16 => FloatType::F16,
            BFLOAT16 => FloatType::Bf16,
            _ => return Ok(None),
        };
        if self.data_location == EXTERNAL || !self.raw_data.is_empty() {
            return Ok(Some(ty.decode(self.raw(external)?)));
        }
        if ty == FloatType::F32 {
            return Ok(Some(self.float_data.clone()));
        }
        // The bits of 16-bit floats, one an int32.
        let halves = self.int32_data.iter().map(|&v| u16::try_from(v).ok());
        let halves = halves.collect::<Option<Vec<u16>>>();
        let bytes = |halves: Vec<u16>| -> Vec<u8> {
            halves.into_iter().flat_map(u16::to_le_bytes).collect()
        };
        Ok(halves.map(|halves| ty.decode(&bytes(halves))))
    }

    /// The same as a tensor of safetensors; `None` for types and fields that are not read.
    #[allow(clippy::type_complexity)] // Type, shape and bytes.
    pub(super) fn plain<'a>(
        &'a self,
        external: &'a External,
    ) -> Result<Option<(Dtype, Vec<usize>, Cow<'a, [u8]>)>> {
        let dtype = match self.data_type {
            1 => Dtype::F32,
            2 => Dtype::U8,
            3 => Dtype::I8,
            4 => Dtype::U16,
            5 => Dtype::I16,
            6 => Dtype::I32,
            7 => Dtype::I64,
            9 => Dtype::BOOL,
            10 => Dtype::F16,
            11 => Dtype::F64,
            12 => Dtype::U32,
            13 => Dtype::U64,
            16 => Dtype::BF16,
            _ => return Ok(None),
        };
        let shape = self.dims.iter().map(|&n| usize::try_from(n).ok());
        let Some(shape) = shape.collect::<Option<Vec<usize>>>() else {
            return Ok(None);
        };
        let len = shape
            .iter()
            .try_fold(dtype.bitsize() / 8, |all, &n| all.checked_mul(n));
        let raw = self.raw(external)?;
        let bytes = match self.float_data.is_empty() {
            false if raw.is_empty() && dtype == Dtype::F32 => {
                let bytes = self.float_data.iter().flat_map(|v| v.to_le_bytes());
                Cow::Owned(bytes.collect())
            }
            _ => Cow::Borrowed(raw),
        };
        Ok((len == Some(bytes.len())).then_some((dtype, shape, bytes)))
    }
}
