//! Rotated matrices in the metadata of a GGUF file that is written.

use super::Job;
use anyhow::{Result, bail};
use std::collections::BTreeMap;
use tritgemm_formats::gguf::{GgufWriter, Value, ValueType};
use tritgemm_formats::model::rotation::{AXIS, PREFIX, Rotated, TRANSFORM};

/// Writes the keys of rotated matrices, unless the metadata of the input has them.
pub fn write(job: &Job<'_>, writer: &mut GgufWriter) -> Result<()> {
    let kept = job.model.gguf_metadata();
    let rotated: Vec<(&str, usize, &Rotated)> = (job.matrices.iter())
        .filter_map(|m| Some((m.name.as_str(), m.shape[1], m.rotation.as_ref()?)))
        .collect();
    let Some(&(_, _, first)) = rotated.first() else {
        return Ok(());
    };
    if kept.iter().any(|(key, _)| key.starts_with(PREFIX)) {
        return Ok(());
    }
    let block = first.rotation.block();
    let mut signs: BTreeMap<usize, Option<Vec<i8>>> = BTreeMap::new();
    for &(name, cols, rotated) in &rotated {
        let own: Option<Vec<i8>> = rotated.rotation.signs().map(Iterator::collect);
        if rotated.rotation.block() != block || *signs.entry(cols).or_insert(own.clone()) != own {
            bail!(
                "tensor `{name}` is rotated otherwise than another of its width: GGUF has one \
                 block and one run of signs for each"
            );
        }
    }
    let explicit = signs.values().any(Option::is_some);
    let key = |name: &str| format!("{PREFIX}{name}");
    writer.metadata(&key("version"), Value::U32(1))?;
    writer.metadata(&key("block_size"), Value::U32(u32::try_from(block)?))?;
    writer.metadata(&key("transform"), Value::from(TRANSFORM))?;
    writer.metadata(&key("axis"), Value::from(AXIS))?;
    let mode = if explicit { "explicit" } else { "identity" };
    writer.metadata(&key("sign_mode"), Value::from(mode))?;
    if explicit {
        let mut widths = Vec::new();
        for &width in signs.keys() {
            widths.push(Value::I32(i32::try_from(width)?));
        }
        writer.metadata_array(&key("sign_widths"), ValueType::I32, widths)?;
        let values = signs.iter().flat_map(|(&width, signs)| match signs {
            Some(signs) => signs.clone(),
            None => vec![1; width],
        });
        let values = values.map(|sign| Value::I32(sign.into()));
        writer.metadata_array(&key("sign_values"), ValueType::I32, values)?;
    }
    let grouped = rotated.iter().filter(|(_, _, r)| r.gdn_v_grouped).count();
    if grouped > 0 {
        if grouped < rotated.len() {
            bail!("matrices differ in gdn_v_grouped, of which GGUF has one for all");
        }
        writer.metadata(&key("gdn_v_grouped"), Value::Bool(true))?;
    }
    for (name, of) in [
        (
            "weight_names",
            (|r: &Rotated| r.input) as fn(&Rotated) -> bool,
        ),
        ("inverse_weight_names", |r: &Rotated| r.rows),
    ] {
        let names = rotated.iter().filter(|(_, _, rotated)| of(rotated));
        let names = names.map(|&(name, _, _)| Value::from(name));
        writer.metadata_array(&key(name), ValueType::String, names)?;
    }
    Ok(())
}
