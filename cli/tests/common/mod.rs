//! Files to try the program on, and the program.
#![allow(dead_code)] // Each test file uses its part.

pub mod models;

use assert_cmd::Command;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// The program, with nothing pinned from outside.
pub fn tritgemm() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tritgemm"));
    command.env_remove("TRITGEMM_ISA");
    command
}

/// A tensor's type, shape and bytes.
pub type Tensor = (Dtype, Vec<usize>, Vec<u8>);

/// A directory with what a test needs.
pub struct Dir(TempDir);

impl Dir {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Names of everything in it, sorted.
    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<String> = entries
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    pub fn write(
        &self,
        name: &str,
        tensors: &[(&str, Tensor)],
        metadata: &[(&str, &str)],
    ) -> PathBuf {
        let views = tensors.iter().map(|(name, (dtype, shape, data))| {
            (
                name.to_string(),
                TensorView::new(*dtype, shape.clone(), data).unwrap(),
            )
        });
        let metadata: HashMap<String, String> = metadata
            .iter()
            .map(|(k, v)| (k.to_string(), v.to_string()))
            .collect();
        let metadata = (!metadata.is_empty()).then_some(metadata);
        let path = self.path(name);
        fs::write(&path, safetensors::serialize(views, metadata).unwrap()).unwrap();
        path
    }
}

/// Weights that are no round numbers, in a fixed order.
pub fn weights(len: usize) -> Vec<f32> {
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

pub fn f32_tensor(values: &[f32], shape: &[usize]) -> Tensor {
    (
        Dtype::F32,
        shape.to_vec(),
        values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    )
}

/// An f32 matrix of [`weights`].
pub fn matrix(rows: usize, cols: usize) -> Tensor {
    f32_tensor(&weights(rows * cols), &[rows, cols])
}

/// A file's tensors and metadata.
pub fn read(path: &Path) -> (BTreeMap<String, Tensor>, HashMap<String, String>) {
    let bytes = fs::read(path).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let tensors = tensors
        .iter()
        .map(|(name, t)| {
            (
                name.to_owned(),
                (t.dtype(), t.shape().to_vec(), t.data().to_vec()),
            )
        })
        .collect();
    (tensors, header.metadata().clone().unwrap_or_default())
}

/// The f32 values of a tensor.
pub fn floats(tensor: &Tensor) -> Vec<f32> {
    assert_eq!(tensor.0, Dtype::F32);
    tensor
        .2
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
        .collect()
}
