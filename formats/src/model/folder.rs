//! The one model that a folder holds.

use super::files::{Files, Kind, Part, refused};
use super::mapped::{Mapped, cannot_open};
use super::weight_map::WeightMap;
use crate::error::{FormatError, Result};
use std::fs;
use std::path::Path;

/// `NAME`, I and N of `NAME-0000I-of-0000N`.
pub(super) fn numbered(stem: &str) -> Option<(&str, u64, u64)> {
    let (rest, count) = stem.rsplit_once("-of-")?;
    let (name, part) = rest.rsplit_once('-')?;
    let number = |text: &str| {
        let digits = text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
        text.parse().ok().filter(|_| digits)
    };
    Some((name, number(part)?, number(count)?))
}

/// The files of the only model in `folder`.
pub(super) fn find(folder: &Path) -> Result<Files> {
    let mut names: Vec<String> = Vec::new();
    for entry in fs::read_dir(folder).map_err(cannot_open)? {
        let name = entry.map_err(cannot_open)?.file_name();
        names.extend(name.into_string());
    }
    names.sort_unstable();
    let ending = |ending: &str| -> Vec<&str> {
        let has = |name: &&String| name.len() > ending.len() && name.ends_with(ending);
        names.iter().filter(has).map(String::as_str).collect()
    };
    let indexes = ending(".safetensors.index.json");
    let tensors = ending(".safetensors");
    let mut models: Vec<&str> = Vec::new();
    models.extend(ending(".gguf").iter().filter(|name| {
        let part = numbered(name.trim_end_matches(".gguf"));
        part.is_none_or(|(_, part, _)| part == 1)
    }));
    models.extend(ending(".onnx"));
    models.extend(ending(".panels"));
    models.extend(&indexes);
    // An index says which of the safetensors files are the model.
    let shards = match indexes.is_empty() {
        true => shards(&tensors),
        false => None,
    };
    if indexes.is_empty() && shards.is_none() {
        models.extend(&tensors);
    }
    match (&models[..], shards) {
        ([], Some(count)) => folder_of_shards(folder, &tensors, count),
        ([name], None) => {
            let path = folder.join(name);
            let Some(stem) = name.strip_suffix(".safetensors.index.json") else {
                return Files::find(&path).map_err(|e| super::files::in_file(&path, e));
            };
            let found = Mapped::open(&path)
                .and_then(|bytes| WeightMap::parse(&bytes))
                .and_then(|map| Files::shards(&path, map));
            let mut files = found.map_err(|e| super::files::in_file(&path, e))?;
            let whole = format!("{stem}.safetensors");
            if tensors.contains(&whole.as_str()) {
                files.notes.push(format!(
                    "`{whole}` is not read: `{name}` says which files are the model."
                ));
            }
            Ok(files)
        }
        ([], None) => Err(match ending(".gguf")[..] {
            [] => refused("is a folder without GGUF, safetensors, ONNX or panel files"),
            [part, ..] => refused(format!("is a folder with `{part}`, but not its first part")),
        }),
        (models, shards) => {
            let more = shards.map(|_| "a set of safetensors shards".to_owned());
            let names = models.iter().map(|name| format!("`{name}`")).chain(more);
            let names: Vec<String> = names.collect();
            Err(refused(format!(
                "is a folder of several models, of which one is to be named: {}",
                names.join(", ")
            )))
        }
    }
}

/// How many shards there are to be, if all files are shards of one model.
fn shards(tensors: &[&str]) -> Option<u64> {
    fn part(name: &str) -> Option<(&str, u64, u64)> {
        numbered(name.strip_suffix(".safetensors")?)
    }
    let (first, rest) = tensors.split_first()?;
    let (stem, _, count) = part(first)?;
    let same = |name: &&str| part(name).is_some_and(|(s, _, n)| (s, n) == (stem, count));
    rest.iter().all(same).then_some(count)
}

/// Shards without an index: all of them must be there.
fn folder_of_shards(folder: &Path, tensors: &[&str], count: u64) -> Result<Files> {
    let mut parts = Vec::new();
    let mut names = tensors.iter();
    for part in 1..=count {
        let found = names.clone().next().filter(|name| {
            let number = numbered(name.trim_end_matches(".safetensors"));
            number.is_some_and(|(_, number, _)| number == part)
        });
        let Some(name) = found else {
            return Err(FormatError::Part {
                path: folder.into(),
                what: format!("safetensors shard {part} of {count} is missing"),
            });
        };
        names.next();
        parts.push(Part::open(folder.join(name))?);
    }
    if let Some(name) = names.next() {
        return Err(FormatError::Part {
            path: folder.join(name),
            what: format!("is no shard of {count}"),
        });
    }
    Ok(Files {
        parts,
        kind: Kind::Safetensors(None),
        notes: Vec::new(),
    })
}
