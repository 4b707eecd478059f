//! The reference implementation's inputs and outputs.

use safetensors::{Dtype, SafeTensors};

/// The 8 cases.
pub const CASES: std::ops::Range<usize> = 0..8;

pub struct Golden {
    bytes: Vec<u8>,
}

impl Golden {
    pub fn open() -> Self {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../tests/data/seed_reference.safetensors"
        );
        let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("reading {path}: {e}"));
        Self { bytes }
    }

    pub fn case(&self, index: usize) -> Case<'_> {
        let tensors = SafeTensors::deserialize(&self.bytes).expect("a safetensors file");
        Case { tensors, index }
    }
}

pub struct Case<'a> {
    tensors: SafeTensors<'a>,
    index: usize,
}

impl Case<'_> {
    fn raw(&self, name: &str, dtype: Dtype) -> Vec<u8> {
        let name = format!("{}.{name}", self.index);
        let tensor = self
            .tensors
            .tensor(&name)
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(tensor.dtype(), dtype, "{name}");
        tensor.data().to_vec()
    }

    pub fn has(&self, name: &str) -> bool {
        self.tensors
            .tensor(&format!("{}.{name}", self.index))
            .is_ok()
    }

    /// Rows and columns of a matrix.
    pub fn shape(&self, name: &str) -> [usize; 2] {
        let name = format!("{}.{name}", self.index);
        let tensor = self.tensors.tensor(&name).expect("a tensor of the file");
        tensor.shape().try_into().expect("a matrix")
    }

    pub fn f32(&self, name: &str) -> Vec<f32> {
        let raw = self.raw(name, Dtype::F32);
        let (words, rest) = raw.as_chunks();
        assert!(rest.is_empty());
        words.iter().copied().map(f32::from_le_bytes).collect()
    }

    pub fn f64(&self, name: &str) -> Vec<f64> {
        let raw = self.raw(name, Dtype::F64);
        let (words, rest) = raw.as_chunks();
        assert!(rest.is_empty());
        words.iter().copied().map(f64::from_le_bytes).collect()
    }

    pub fn i8(&self, name: &str) -> Vec<i8> {
        let raw = self.raw(name, Dtype::I8);
        raw.into_iter().map(|b| b as i8).collect()
    }

    pub fn u8(&self, name: &str) -> Vec<u8> {
        self.raw(name, Dtype::U8)
    }

    /// Whether the case has 2:4 sparsity.
    pub fn sparse(&self) -> bool {
        self.u8("nm_2_4") == [1]
    }
}
