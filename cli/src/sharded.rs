//! The files of an output: one, or shards and the index that names them.

use crate::atomic::{AtomicFile, Written, checked, commit, same_file};
use crate::format::{Layout, Planned, byte_len, entry_len};
use anyhow::{Context, Result, bail, ensure};
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
        "t" | "tb" => 1_000_000_000_000,
        "tib" => 1 << 40,
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

/// The numbers of consecutive items in files of at most `most` bytes, or of one item. Items
/// take `lens`, and what else is in the first file and in the others takes `heads`.
pub fn runs(lens: &[u64], heads: [u64; 2], most: Option<u64>) -> Vec<usize> {
    let [first, later] = heads;
    let (mut runs, mut len, mut count) = (Vec::new(), first, 0);
    for &next in lens {
        if count > 0 && most.is_some_and(|most| len.saturating_add(next) > most) {
            runs.push(count);
            (len, count) = (later, 0);
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

/// Gives files their names; what went wrong is said of the path in `paths`.
pub fn commit_as(paths: &[PathBuf], files: Vec<Written>) -> Result<()> {
    commit(files).map_err(|(at, error)| error.context(format!("`{}`", paths[at].display())))
}

/// What our own keys say of tensors of some names.
type Own<'a> = &'a dyn Fn(&[&str]) -> Result<BTreeMap<String, String>>;

/// The metadata of safetensors files that are written.
pub struct Metadata<'a> {
    /// In every file.
    pub all: &'a BTreeMap<String, String>,
    /// What our own keys say of tensors of these names.
    pub own: Own<'a>,
}

impl Metadata<'_> {
    fn of(&self, names: &[&str]) -> Result<BTreeMap<String, String>> {
        let mut metadata = self.all.clone();
        metadata.extend((self.own)(names)?);
        Ok(metadata)
    }

    /// Bytes that it takes in a header, of our own keys alone.
    fn own_len(&self, names: &[&str]) -> Result<u64> {
        Ok(serde_json::to_string(&(self.own)(names)?)?.len() as u64)
    }
}

/// Safetensors files being written, one after the other.
pub struct Shards {
    paths: Vec<PathBuf>,
    layouts: Vec<Layout>,
    /// Which file each tensor is in.
    place: HashMap<String, usize>,
    /// The path of the index, if there are several files.
    index: Option<PathBuf>,
    force: bool,
    written: Vec<Written>,
    /// The file after those that are written.
    file: Option<AtomicFile>,
}

impl Shards {
    /// Lays out `tensors` in `path`, or in shards of at most `most` bytes.
    pub fn create(
        path: &Path,
        tensors: Vec<Planned>,
        most: Option<u64>,
        metadata: &Metadata<'_>,
        (model, input, force, command): (&Model, &Path, bool, &str),
    ) -> Result<Self> {
        let in_output = || format!("`{}`", path.display());
        let mut names = HashSet::new();
        if let Some(twice) = tensors.iter().find(|t| !names.insert(t.name.as_str())) {
            bail!("two tensors of the output would be called `{}`", twice.name);
        }
        let runs = match most {
            None => vec![tensors.len()],
            Some(_) => {
                let none = metadata.own_len(&[])?;
                let len = |t: &Planned| -> Result<u64> {
                    let own = metadata.own_len(&[&t.name])?.saturating_sub(none);
                    let bytes = byte_len(t.dtype, &t.shape).unwrap_or(u64::MAX);
                    // A comma between entries, which one alone has none of.
                    Ok(bytes.saturating_add(own + 1 + entry_len(t)?))
                };
                let lens: Vec<u64> = tensors.iter().map(len).collect::<Result<_>>()?;
                let head = Layout::new(Vec::new(), &metadata.of(&[])?)?.len;
                runs(&lens, [head + 8; 2], most)
            }
        };
        let paths = part_paths(path, runs.len()).with_context(in_output)?;
        let index = match runs.len() {
            1 => None,
            _ => Some(index_path(path)?),
        };
        let all: Vec<PathBuf> = paths.iter().cloned().chain(index.clone()).collect();
        apart(model, input, &all, command)?;
        for path in &all {
            // Before the work, not after it.
            checked(path, force).with_context(|| format!("`{}`", path.display()))?;
        }
        let (mut layouts, mut place) = (Vec::new(), HashMap::new());
        let mut tensors = tensors.into_iter();
        for run in runs {
            let planned: Vec<Planned> = tensors.by_ref().take(run).collect();
            let names: Vec<&str> = planned.iter().map(|t| t.name.as_str()).collect();
            let metadata = metadata.of(&names)?;
            for tensor in &planned {
                place.insert(tensor.name.clone(), layouts.len());
            }
            layouts.push(Layout::new(planned, &metadata)?);
        }
        Ok(Self {
            paths,
            layouts,
            place,
            index,
            force,
            written: Vec::new(),
            file: None,
        })
    }

    /// Writes the bytes of a tensor. Tensors of a file come before those of the next.
    pub fn put(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let shard = *self.place.get(name).context("a tensor not laid out")?;
        let at = self.layouts[shard].offsets.get(name);
        let at = *at.context("a tensor not laid out")?;
        let file = self.open(shard)?;
        file.write_at(at, bytes)
            .with_context(|| format!("`{}`", self.paths[shard].display()))
    }

    /// File `shard`, after those before it are closed.
    fn open(&mut self, shard: usize) -> Result<&mut AtomicFile> {
        if shard > self.written.len() {
            self.close()?;
        }
        ensure!(shard == self.written.len(), "a tensor out of turn");
        if self.file.is_none() {
            let in_path = || format!("`{}`", self.paths[shard].display());
            let mut file =
                AtomicFile::create(&self.paths[shard], self.force).with_context(in_path)?;
            let header = &self.layouts[shard].header;
            file.write_at(0, header).with_context(in_path)?;
            self.file = Some(file);
        }
        self.file.as_mut().context("a file that is open")
    }

    /// Closes the file that is open: no more than one is.
    fn close(&mut self) -> Result<()> {
        if let Some(file) = self.file.take() {
            let path = &self.paths[self.written.len()];
            let written = file.close();
            self.written
                .push(written.with_context(|| format!("`{}`", path.display()))?);
        }
        Ok(())
    }

    /// Gives all files their names, the index last; returns their paths and how many bytes
    /// they are together.
    pub fn commit(mut self) -> Result<(Vec<PathBuf>, u64)> {
        self.open(self.layouts.len() - 1)?;
        self.close()?;
        let mut weight_map: BTreeMap<&str, String> = BTreeMap::new();
        for (name, &shard) in &self.place {
            let file = self.paths[shard].file_name().unwrap_or_default();
            weight_map.insert(name, file.to_string_lossy().into_owned());
        }
        let total: u64 = self.layouts.iter().map(|layout| layout.len).sum();
        let index = serde_json::json!({
            "metadata": { "total_size": total },
            "weight_map": weight_map,
        });
        let index = serde_json::to_string_pretty(&index)?;
        let mut paths = self.paths;
        if let Some(path) = self.index {
            let in_path = || format!("`{}`", path.display());
            let mut file = AtomicFile::create(&path, self.force).with_context(in_path)?;
            file.write_at(0, index.as_bytes()).with_context(in_path)?;
            self.written.push(file.close().with_context(in_path)?);
            paths.push(path);
        }
        commit_as(&paths, self.written)?;
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
        assert_eq!(parse_size("2TB"), Ok(2_000_000_000_000));
        assert_eq!(parse_size("1TiB"), Ok(1 << 40));
        for wrong in ["", "GB", "0", "-1", "2XB", "1e300GB", "nan", "0.5"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn runs_hold_at_most_so_many_bytes() {
        assert_eq!(runs(&[5, 5, 5], [0; 2], None), [3]);
        assert_eq!(runs(&[5, 5, 5], [0; 2], Some(10)), [2, 1]);
        assert_eq!(runs(&[50, 1, 1, 50], [0; 2], Some(10)), [1, 2, 1]);
        assert_eq!(runs(&[], [0; 2], Some(10)), [0]);
        assert_eq!(runs(&[5, 5, 5, 5], [4, 0], Some(10)), [1, 2, 1]);
        assert_eq!(runs(&[5, 5], [u64::MAX; 2], Some(10)), [1, 1]);
    }

    #[test]
    fn names_of_parts() {
        let paths = part_paths(Path::new("d/m.gguf"), 2).unwrap();
        assert_eq!(paths[1], Path::new("d/m-00002-of-00002.gguf"));
        assert!(part_paths(Path::new("d/m"), 2).is_err());
    }
}
