//! What is written, and what it can hold.

use super::{Job, panels};
use crate::args::{ConvertArgs, Target};
use crate::output::count;
use anyhow::{Result, bail};
use safetensors::Dtype;
use std::collections::HashSet;
use tritgemm_formats::ggml::TernaryType;
use tritgemm_formats::gguf::{TensorType, check_tensor_name};
use tritgemm_formats::hf::LinearClass;
use tritgemm_formats::model::Tensor;

/// The target that is asked for, or that OUT's ending stands for.
pub fn target(args: &ConvertArgs) -> Result<Target> {
    if let Some(target) = args.to {
        return Ok(target);
    }
    match args.output.extension().and_then(|e| e.to_str()) {
        Some("safetensors") => Ok(Target::Safetensors),
        Some("panels") => Ok(Target::Panels),
        Some("gguf") => Ok(Target::Tq2_0),
        _ => bail!(
            "`{}`: its ending names no format; --to does",
            args.output.display()
        ),
    }
}

impl Target {
    /// The ggml type, for GGUF.
    pub fn ggml(self) -> Option<TernaryType> {
        match self {
            Target::Tq1_0 => Some(TernaryType::Tq1_0),
            Target::Tq2_0 => Some(TernaryType::Tq2_0),
            Target::Q2_0 => Some(TernaryType::Q2_0),
            Target::Pq2_0 => Some(TernaryType::Pq2_0),
            Target::Ptq1_0 => Some(TernaryType::Ptq1_0),
            Target::Safetensors | Target::Panels | Target::Hf | Target::HfBitlinear => None,
        }
    }

    /// The linear class, for HF.
    pub fn class(self) -> Option<LinearClass> {
        match self {
            Target::Hf => Some(LinearClass::AutoBitLinear),
            Target::HfBitlinear => Some(LinearClass::BitLinear),
            _ => None,
        }
    }

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Target::Safetensors => "tritgemm",
            Target::Panels => "panels",
            Target::Hf => "HF autobitlinear",
            Target::HfBitlinear => "HF bitlinear",
            ggml => ggml.ggml().map_or("GGUF", TernaryType::name),
        }
    }
}

/// The type that a tensor keeps in a GGUF file.
pub fn tensor_type(other: &Tensor<'_>) -> Option<TensorType> {
    let shared = other.dtype.and_then(TensorType::from_safetensors);
    let ty = other.gguf_type.map(TensorType).or(shared);
    ty.filter(|_| other.shape.len() <= 4)
}

impl Job<'_> {
    /// Deals with tensors that the target cannot hold.
    pub fn leave_out(&mut self) -> Result<()> {
        let biases = panels::biases(&self.matrices);
        let typed = |other: &Tensor<'_>| other.dtype.or_else(|| self.dequantized(other)).is_some();
        let holds = |other: &Tensor<'_>| match self.target {
            Target::Safetensors => typed(other) && other.rotation.is_none(),
            // What its packed weights mean would be read out of OUT's config.json.
            Target::Hf | Target::HfBitlinear => {
                typed(other) && other.rotation.is_none() && other.unread.is_none()
            }
            Target::Panels => panels::is_bias(other, &biases) && other.rotation.is_none(),
            _ => tensor_type(other).is_some(),
        };
        let others = self.others.iter().copied();
        let (held, refused): (Vec<&Tensor<'_>>, Vec<_>) = others.partition(|o| holds(o));
        if let Some(first) = refused.first().filter(|_| !self.args.skip_others) {
            let more = match refused.len() - 1 {
                0 => String::new(),
                n => format!(" (and {})", count(n, "tensor more", "tensors more")),
            };
            let safetensors = self.target.ggml().is_none() && self.target != Target::Panels;
            let has_values =
                |o: &&Tensor<'_>| o.gguf_type.is_some_and(|ty| TensorType(ty).has_values());
            let values = match safetensors && refused.iter().any(has_values) {
                true if !self.args.dequantize => ", --dequantize writes the values of some",
                _ => "",
            };
            let why = match (&first.unread, &first.rotation) {
                (_, Some(_)) => ", which is rotated,".to_owned(),
                (Some(why), _) => format!(", which {why},"),
                _ => String::new(),
            };
            bail!(
                "tensor `{}` of type {} {:?}{why} has no place in a file of {}{more}; \
                 --skip-others leaves such tensors out{values}",
                first.name,
                first.type_name,
                first.shape,
                self.target.name()
            );
        }
        self.skipped = refused.iter().map(|o| o.name.clone()).collect();
        self.others = held;
        Ok(())
    }

    /// The type that a tensor gets which safetensors has none for, if it is to have one.
    pub fn dequantized(&self, other: &Tensor<'_>) -> Option<Dtype> {
        let ty = other.gguf_type.map(TensorType)?;
        (self.args.dequantize && ty.has_values()).then_some(Dtype::F32)
    }

    /// That names, stacks and rotations have a place in the target.
    pub fn check_places(&self) -> Result<()> {
        let name = self.target.name();
        let gguf = self.target.ggml().is_some();
        if gguf {
            for name in self.names() {
                check_tensor_name(name)?;
            }
        }
        for m in &self.matrices {
            let stack = m.stack.as_ref().filter(|stack| stack.len() > 2);
            if let Some(stack) = stack.filter(|_| !gguf && self.target != Target::Safetensors) {
                bail!(
                    "tensor `{}` is a stack of matrices, {stack:?}, which {name} has no place \
                     for; GGUF and safetensors of ours have",
                    m.name
                );
            }
            let Some(rotated) = &m.rotation else { continue };
            let held = match self.target {
                Target::Safetensors => true,
                Target::Panels => rotated.input && !rotated.rows && !rotated.gdn_v_grouped,
                Target::Hf | Target::HfBitlinear => false,
                _ => true,
            };
            if !held {
                bail!(
                    "tensor `{}` has rotated {}{}, which {name} has no place for; GGUF and \
                     safetensors of ours have",
                    m.name,
                    if rotated.rows { "rows" } else { "inputs" },
                    match rotated.gdn_v_grouped {
                        true => " of value heads in groups (gdn_v_grouped)",
                        false => "",
                    }
                );
            }
        }
        Ok(())
    }

    /// The names of everything that is written.
    fn names(&self) -> HashSet<&str> {
        let matrices = self.matrices.iter().map(|m| m.name.as_str());
        matrices
            .chain(self.others.iter().map(|o| o.name.as_str()))
            .collect()
    }
}
