//! Panel files, of one matrix or of a model.

use super::{Matrix, Model, Other};
use anyhow::{Context, Result, ensure};
use safetensors::Dtype;
use std::collections::BTreeMap;
use std::path::Path;
use tritgemm::{ModelFile, Panels, Scales, TernaryMatrix, Verify};

/// Reads a panel file. The matrix of a file of one is named after the file.
pub fn open<'a>(bytes: &'a [u8], path: &Path) -> Result<Model<'a>> {
    let file = ModelFile::from_bytes(bytes.to_vec(), Verify::Full)?;
    let (mut matrices, mut others) = (Vec::new(), Vec::new());
    for name in file.names() {
        let (panels, scales, bias, rotation) = file.get(name)?.into_parts();
        ensure!(
            rotation.is_none(),
            "matrix `{name}` has a rotated input, which no other format here can say"
        );
        let scales = scales.context("the panel file holds no scales")?;
        let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned());
        let name = match name {
            "" => stem.unwrap_or_else(|| "matrix".to_owned()),
            name => name.to_owned(),
        };
        others.extend(bias.map(|bias| Other {
            name: bias_name(&name),
            type_name: Dtype::F32.to_string(),
            gguf_type: None,
            dtype: Some(Dtype::F32),
            shape: vec![bias.len()],
            data: &[],
            owned: Some(bias.iter().flat_map(|v| v.to_le_bytes()).collect()),
        }));
        matrices.push(matrix(name, panels, scales));
    }
    Ok(Model {
        container: "panel file",
        matrices,
        others,
        metadata: BTreeMap::new(),
        gguf: Vec::new(),
        note: None,
    })
}

fn matrix<'a>(name: String, panels: Panels, scales: Scales) -> Matrix<'a> {
    let shape = [panels.rows(), panels.cols()];
    Matrix {
        format: "panels",
        shape,
        bytes: panels.as_bytes().len() + 4 * scales.values().len(),
        info: None,
        gguf_shape: None,
        read: Box::new({
            let name = name.clone();
            move || {
                let packed = panels.to_packed();
                let matrix = TernaryMatrix::from_packed(packed, shape[0], shape[1], scales.clone());
                matrix.with_context(|| format!("tensor `{name}`"))
            }
        }),
        name,
    }
}

/// The name of the bias of the weights `name`: `x.bias` of `x.weight`.
pub fn bias_name(name: &str) -> String {
    format!("{}.bias", name.strip_suffix(".weight").unwrap_or(name))
}
