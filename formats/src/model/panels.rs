//! Panel files, of one matrix or of a model.

use super::Contents;
use super::files::{Part, refused};
use super::rotation::Rotated;
use super::tensors::{Matrix, Source, Tensor};
use crate::error::Result;
use safetensors::Dtype;
use std::collections::BTreeMap;
use std::sync::Arc;
use tritgemm::{ModelFile, PanelBytes, Verify};

/// Reads a panel file. The matrix of a file of one is named after the file. Headers are checked
/// now, and where there is a bias or a rotation all but the panels. The rest, which may be
/// hundreds of megabytes of scales, is held against its checksums when a matrix is read.
pub(super) fn read<'a>(part: &Part) -> Result<Contents<'a>> {
    let len = part.bytes.len();
    let open = |verify| -> Result<ModelFile> {
        let bytes = PanelBytes::shared(Arc::new(part.bytes.clone()), 0..len);
        let bytes = bytes.map_err(|e| refused(e.to_string()))?;
        Ok(ModelFile::from_bytes(bytes, verify)?)
    };
    let (file, checked) = (
        Arc::new(open(Verify::Header)?),
        Arc::new(open(Verify::Full)?),
    );
    let (mut matrices, mut others) = (Vec::new(), Vec::new());
    for stored in file.names() {
        let header = file.header(stored)?;
        let (bias, rotation) = match header.has_bias || header.is_rotated {
            true => {
                let (_, _, bias, rotation) = file.get(stored)?.into_parts();
                (bias, rotation)
            }
            false => (None, None),
        };
        let name = match stored {
            "" => {
                let stem = part
                    .path
                    .file_stem()
                    .map(|s| s.to_string_lossy().into_owned());
                stem.unwrap_or_else(|| "matrix".to_owned())
            }
            name => name.to_owned(),
        };
        if header.granularity.is_none() {
            return Err(refused("the panel file holds no scales"));
        }
        others.extend(bias.map(|bias| {
            let bytes: Vec<u8> = bias.iter().flat_map(|v| v.to_le_bytes()).collect();
            Tensor::new(bias_name(&name), Dtype::F32, vec![bias.len()], bytes)
        }));
        matrices.push(Matrix {
            name,
            format: "panels",
            shape: [header.rows, header.cols],
            bytes: header.panel_bytes + header.scale_bytes,
            info: None,
            stack: None,
            rotation: rotation.map(|rotation| Rotated {
                rotation,
                input: true,
                rows: false,
                gdn_v_grouped: false,
            }),
            stored: Vec::new(),
            source: Source::Panels {
                checked: Arc::clone(&checked),
                mapped: Arc::clone(&file),
                name: stored.to_owned(),
            },
        });
    }
    Ok(Contents {
        unsupported: None,
        container: "panel file",
        matrices,
        others,
        metadata: BTreeMap::new(),
        gguf: Vec::new(),
        notes: Vec::new(),
    })
}

/// The name of the bias of the weights `name`: `x.bias` of `x.weight`.
pub fn bias_name(name: &str) -> String {
    format!("{}.bias", name.strip_suffix(".weight").unwrap_or(name))
}
