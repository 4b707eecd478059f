//! Who answers to whom: each of our contenders against the ceiling and the peer
//! of its own arithmetic.

use crate::contender::{Arithmetic, Info, Role};
use crate::contender::{GEMM_CRATE, GGML, GGML_Q8K, LOOK_UPS, READ};
use crate::ours;
use crate::run::{CellResult, Measurement};
use serde::{Deserialize, Serialize};
use tritgemm::Isa;

/// Our speed over a rival's; where several rivals are named, over the fastest.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ratio {
    pub over: String,
    pub value: f64,
}

/// All ratios of a measurement that its cell has the rivals for.
pub fn ratios(m: &Measurement, cell: &CellResult) -> Vec<Ratio> {
    if m.info.role != Role::Ours {
        return Vec::new();
    }
    let mut ratios: Vec<Ratio> = rivals(&m.info)
        .into_iter()
        .filter_map(|(over, names)| {
            let rival = fastest(cell, &names)?;
            Some(Ratio {
                over: over.to_owned(),
                value: m.gmacs / rival,
            })
        })
        .collect();
    // With more than one token the weights' bandwidth is no longer what limits.
    if cell.cell.tokens == 1
        && let Some(read) = cell.find(READ)
    {
        ratios.push(Ratio {
            over: READ.to_owned(),
            value: m.gigabytes_per_second / read.gigabytes_per_second,
        });
    }
    ratios
}

fn fastest(cell: &CellResult, names: &[String]) -> Option<f64> {
    names
        .iter()
        .filter_map(|name| cell.gmacs(name))
        .max_by(f64::total_cmp)
}

fn rivals(info: &Info) -> Vec<(&'static str, Vec<String>)> {
    let backend = info.name.split_once('/').map_or("", |(_, backend)| backend);
    let avx2 = backend.split('/').next() == Some(Isa::Avx2.name());
    let one_scale = ours::name(info.arithmetic, None, backend);
    if one_scale != info.name {
        let contender = info.name.split('/').next().unwrap_or_default();
        let group = contender.rsplit('-').next().unwrap_or_default();
        let forms = ["onnxruntime", "onnxruntime-tables"].map(|form| format!("{form}-{group}"));
        let mut rivals = vec![("one scale", vec![one_scale])];
        if info.arithmetic == Arithmetic::W1a8 {
            rivals.push(("onnxruntime", forms.to_vec()));
        }
        return rivals;
    }
    let names = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect();
    match info.arithmetic {
        Arithmetic::Int8 if avx2 => vec![
            ("vpmaddubsw-ymm", names(&["vpmaddubsw-ymm"])),
            ("ggml", names(&[GGML, GGML_Q8K])),
        ],
        Arithmetic::Int8 => vec![
            ("vpdpbusd-zmm", names(&["vpdpbusd-zmm"])),
            (LOOK_UPS, names(&[LOOK_UPS])),
            ("ggml", names(&[GGML, GGML_Q8K])),
            ("litespark", names(&["litespark"])),
        ],
        Arithmetic::W1a8 => vec![
            ("ggml", names(&[GGML])),
            (
                "raw int8",
                vec![ours::name(Arithmetic::Int8, None, backend)],
            ),
        ],
        Arithmetic::F32 => {
            let fma = ["fma-zmm", "fma-ymm"][usize::from(avx2)];
            vec![(fma, names(&[fma])), ("gemm", names(&[GEMM_CRATE]))]
        }
        Arithmetic::Bytes => Vec::new(),
    }
}
