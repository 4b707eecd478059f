//! The files of an output: one, or shards and the index that names them.

use crate::atomic::{AtomicFile, same_file};
use crate::format::{Layout, Planned, byte_len};
use anyhow::{Context, Result, bail};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use tritgemm_formats::Model;

/// A number of bytes: `2GB`, `500MB`, `1.5GiB`.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let expected = || format!("`{text}` is no size from 1 byte up, for example 2GB or 500MiB");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 1u64,
        "k" | "kb" => 1000,
        "m" | "mb" => 1_000_000,
        "g" | "gb" => 1_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        _ => return Err(expected()),
    };
    let number: f64 = digits.trim().parse().map_err(|_| expected())?;
    let size = number * unit as f64;
    // 2^63 and more are no sizes of files.
    match size.is_finite() && (1.0..9e18).contains(&size) {
        true => Ok(size as u64),
        false => Err(expected()),
    }
}

/// The sizes of consecutive runs of `lens`, none of which is more than `most` in all unless it
/// is of one.
pub fn runs(lens: &[u64], most: Option<u64>) -> Vec<usize> {
    let (mut runs, mut len, mut count) = (Vec::new(), 0u64, 0);
    for &next in lens {
        if count > 0 && most.is_some_and(|most| len.saturating_add(next) > most) {
            runs.push(count);
            (len, count) = (0, 0);
        }
        len = len.saturating_add(next);
        count += 1;
    }
    runs.push(count);
    runs
}

/// The paths of `count` files instead of `path`: `NAME-00001-of-00003.EXTENSION` and so on.
pub fn part_paths(path: &Path, count: usize) -> Result<Vec<PathBuf>> {
    if count <= 1 {
        return Ok(vec![path.to_owned()]);
    }
    let stem = path.file_stem().and_then(|s| s.to_str());
    let extension = path.extension().and_then(|s| s.to_str());
    let (Some(stem), Some(extension)) = (stem, extension) else {
        bail!("needs an ending, as .gguf or .safetensors, to be written in several files");
    };
    let name = |part| format!("{stem}-{part:05}-of-{count:05}.{extension}");
    Ok((1..=count)
        .map(|part| path.with_file_name(name(part)))
        .collect())
}

/// That no output is one of the files of the input. Whatever is in the folder of a model is: its
/// index and configuration too.
pub fn apart(model: &Model, input: &Path, outputs: &[PathBuf], command: &str) -> Result<()> {
    let inputs: Vec<&Path> = model.files().map(|(path, _)| path).chain([input]).collect();
    let folder = input.is_dir().then(|| input.canonicalize()).transpose()?;
    for output in outputs {
        // Few files exist on both sides, and neither is opened.
        if output.exists() && inputs.iter().any(|input| same_file(input, output)) {
            bail!(
                "`{}`: is the input file; {command} needs another name to write to",
                output.display()
            );
        }
        let parent = || output.canonicalize().ok()?.parent().map(Path::to_owned);
        if folder.is_some() && parent() == folder {
            bail!(
                "`{}`: is a file of the input's folder; {command} needs another name to write to",
                output.display()
            );
        }
    }
    Ok(())
}

/// Safetensors files being written.
pub struct Shards {
    files: Vec<(PathBuf, AtomicFile, Layout)>,
    /// Which file each tensor is in.
    place: HashMap<String, usize>,
    /// The path of the index, if there are several files.
    index: Option<(PathBuf, AtomicFile)>,
}

impl Shards {
    /// Lays out `tensors` in `path`, or in shards of at most `most` bytes. `metadata` is that
    /// of a shard with those tensors.
    pub fn create(
        path: &Path,
        tensors: Vec<Planned>,
        most: Option<u64>,
        metadata: impl Fn(&HashSet<&str>) -> Result<BTreeMap<String, String>>,
        (model, input, force, command): (&Model, &Path, bool, &str),
    ) -> Result<Self> {
        let in_output = || format!("`{}`", path.display());
        let len = |t: &Planned| byte_len(t.dtype, &t.shape).unwrap_or(u64::MAX);
        let lens: Vec<u64> = tensors.iter().map(len).collect();
        let mut names = HashSet::new();
        if let Some(twice) = tensors.iter().find(|t| !names.insert(t.name.as_str())) {
            bail!("two tensors of the output would be called `{}`", twice.name);
        }
        let runs = runs(&lens, most);
        let paths = part_paths(path, runs.len()).with_context(in_output)?;
        let index = match runs.len() {
            1 => None,
            _ => Some(index_path(path)?),
        };
        let all: Vec<PathBuf> = paths.iter().cloned().chain(index.clone()).collect();
        apart(model, input, &all, command)?;
        let (mut files, mut place) = (Vec::new(), HashMap::new());
        let mut tensors = tensors.into_iter();
        for (path, run) in paths.into_iter().zip(runs) {
            let planned: Vec<Planned> = tensors.by_ref().take(run).collect();
            let names: HashSet<&str> = planned.iter().map(|t| t.name.as_str()).collect();
            let metadata = metadata(&names)?;
            for tensor in &planned {
                place.insert(tensor.name.clone(), files.len());
            }
            let layout = Layout::new(planned, &metadata)?;
            let in_path = || format!("`{}`", path.display());
            let mut file = AtomicFile::create(&path, force).with_context(in_path)?;
            file.write_at(0, &layout.header).with_context(in_path)?;
            files.push((path, file, layout));
        }
        let index = match index {
            None => None,
            Some(path) => {
                let in_path = || format!("`{}`", path.display());
                let file = AtomicFile::create(&path, force).with_context(in_path)?;
                Some((path, file))
            }
        };
        Ok(Self {
            files,
            place,
            index,
        })
    }

    /// Writes the bytes of a tensor.
    pub fn put(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let shard = self.place.get(name).context("a tensor not laid out")?;
        let (path, file, layout) = &mut self.files[*shard];
        let at = layout.offsets.get(name).context("a tensor not laid out")?;
        file.write_at(*at, bytes)
            .with_context(|| format!("`{}`", path.display()))
    }

    /// Gives all files their names, the index last; returns their paths and how many bytes
    /// they are together.
    pub fn commit(self) -> Result<(Vec<PathBuf>, u64)> {
        let mut weight_map: BTreeMap<&str, String> = BTreeMap::new();
        for (name, &shard) in &self.place {
            let file = self.files[shard].0.file_name().unwrap_or_default();
            weight_map.insert(name, file.to_string_lossy().into_owned());
        }
        let total: u64 = self.files.iter().map(|(_, _, layout)| layout.len).sum();
        let index = serde_json::json!({
            "metadata": { "total_size": total },
            "weight_map": weight_map,
        });
        let index = serde_json::to_string_pretty(&index)?;
        let mut paths = Vec::new();
        for (path, file, _) in self.files {
            file.commit()
                .with_context(|| format!("`{}`", path.display()))?;
            paths.push(path);
        }
        if let Some((path, mut file)) = self.index {
            let in_path = || format!("`{}`", path.display());
            file.write_at(0, index.as_bytes()).with_context(in_path)?;
            file.commit().with_context(in_path)?;
            paths.push(path);
        }
        Ok((paths, total))
    }
}

/// `NAME.safetensors.index.json` for `NAME.safetensors`.
fn index_path(path: &Path) -> Result<PathBuf> {
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.filter(|name| name.ends_with(".safetensors"));
    let name = name.with_context(|| {
        format!(
            "`{}`: several safetensors files need the ending .safetensors",
            path.display()
        )
    })?;
    Ok(path.with_file_name(format!("{name}.index.json")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(parse_size("2GB"), Ok(2_000_000_000));
        assert_eq!(parse_size("1.5kib"), Ok(1536));
        assert_eq!(parse_size("7"), Ok(7));
        for wrong in ["", "GB", "0", "-1", "2XB", "1e300GB", "nan", "0.5"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn runs_hold_at_most_so_many_bytes() {
        assert_eq!(runs(&[5, 5, 5], None), [3]);
        assert_eq!(runs(&[5, 5, 5], Some(10)), [2, 1]);
        assert_eq!(runs(&[50, 1, 1, 50], Some(10)), [1, 2, 1]);
        assert_eq!(runs(&[], Some(10)), [0]);
    }

    #[test]
    fn names_of_parts() {
        let paths = part_paths(Path::new("d/m.gguf"), 2).unwrap();
        assert_eq!(paths[1], Path::new("d/m-00002-of-00002.gguf"));
        assert!(part_paths(Path::new("d/m"), 2).is_err());
    }
}
