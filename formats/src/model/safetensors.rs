//! Safetensors files, one or the shards of a model: our own matrices and those of HF BitNet,
//! side by side if need be.

use super::config::{self, Config};
use super::files::{Files, Part, foreign, in_file, refused, unknown};
use super::ours::{self, HF_KEY, HfInfo, PackedInfo};
use super::rotation::{Hadamard, Rotated, RotationInfo};
use super::tensors::{HF, Matrix, Source, Tensor};
use super::unrecognised;
use super::weight_map::WeightMap;
use super::{Contents, OpenOptions, header};
use crate::error::{FormatError, Result};
use crate::hf::{self, LinearClass};
use safetensors::Dtype;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

/// The tensors of all shards, and what their headers say.
pub(super) struct Shards<'a> {
    /// In the order of their bytes.
    pub(super) tensors: Vec<Tensor<'a>>,
    index: HashMap<String, usize>,
    metadata: BTreeMap<String, String>,
    pub(super) packed: BTreeMap<String, PackedInfo>,
    /// What HF files of ours say of themselves.
    noted: Option<HfInfo>,
    notes: Vec<String>,
}

impl<'a> Shards<'a> {
    pub(super) fn get(&self, name: &str) -> Option<&Tensor<'a>> {
        self.index.get(name).map(|&i| &self.tensors[i])
    }

    fn read(parts: &'a [Part], map: Option<&WeightMap>) -> Result<Self> {
        let mut all = Self {
            tensors: Vec::new(),
            index: HashMap::new(),
            metadata: BTreeMap::new(),
            packed: BTreeMap::new(),
            noted: None,
            notes: Vec::new(),
        };
        let files: Vec<&str> = map.map_or(Vec::new(), |map| map.files().into_iter().collect());
        for (i, part) in parts.iter().enumerate() {
            let wanted = |name: &str| match map {
                Some(map) => map
                    .0
                    .get(name)
                    .is_some_and(|file| files.get(i) == Some(&file.as_str())),
                None => true,
            };
            all.add(part, wanted).map_err(|e| match e {
                e if parts.len() == 1 && map.is_none() => e,
                e @ FormatError::Part { .. } => e,
                e => in_file(&part.path, e),
            })?;
        }
        let listed = map.iter().flat_map(|map| &map.0);
        for (name, file) in listed {
            if !all.index.contains_key(name) {
                let at = files.iter().position(|f| f == file).unwrap_or(0);
                let what = format!("has no tensor `{name}`, which the index says it has");
                return Err(FormatError::Part {
                    path: parts[at].path.clone(),
                    what,
                });
            }
        }
        Ok(all)
    }

    /// Adds the tensors of a shard that are `wanted`.
    fn add(&mut self, part: &'a Part, wanted: impl Fn(&str) -> bool) -> Result<()> {
        let bytes: &'a [u8] = &part.bytes;
        let read = header::read(bytes);
        let (header, start) = read.map_err(|e| foreign(bytes).map_or(e, unknown))?;
        let data = bytes.get(start..).unwrap_or_default();
        let mut found = HashSet::new();
        for name in header.offset_keys() {
            if !wanted(&name) {
                continue;
            }
            let beyond = || refused(format!("tensor `{name}` beyond the end of the file"));
            let info = header.info(&name).ok_or_else(beyond)?;
            let (start, end) = info.data_offsets;
            let data = data.get(start..end).ok_or_else(beyond)?;
            let tensor = Tensor::new(name.clone(), info.dtype, info.shape.clone(), data);
            if self
                .index
                .insert(name.clone(), self.tensors.len())
                .is_some()
            {
                return Err(FormatError::Part {
                    path: part.path.clone(),
                    what: format!("has a tensor `{name}`, and so has another shard"),
                });
            }
            self.tensors.push(tensor);
            found.insert(name);
        }
        let metadata = header.metadata().clone().unwrap_or_default();
        let mut metadata: BTreeMap<String, String> = metadata.into_iter().collect();
        let packed = ours::packed(&mut metadata)?.unwrap_or_default();
        // A stale entry of a tensor that another shard has.
        self.packed
            .extend(packed.into_iter().filter(|(name, _)| wanted(name)));
        if let Some(json) = metadata.remove(HF_KEY) {
            let mut noted: HfInfo = ours::json_value(HF_KEY, &json)?;
            noted.tensors.retain(|name, _| wanted(name));
            match &mut self.noted {
                None => self.noted = Some(noted),
                Some(first) if first.linear_class == noted.linear_class => {
                    first.tensors.extend(noted.tensors);
                }
                Some(first) => {
                    return Err(refused(format!(
                        "says linear_class {}, another shard says {}",
                        noted.linear_class, first.linear_class
                    )));
                }
            }
        }
        for (key, value) in metadata {
            match self.metadata.get(&key) {
                Some(first) if *first != value => self.notes.push(format!(
                    "Shards differ in metadata `{key}`: that of the first one is taken."
                )),
                Some(_) => {}
                None => {
                    self.metadata.insert(key, value);
                }
            }
        }
        Ok(())
    }
}

/// Reads the headers of all shards.
pub(super) fn read<'a>(
    files: &'a Files,
    map: Option<&WeightMap>,
    path: &Path,
    options: &OpenOptions,
) -> Result<Contents<'a>> {
    let shards = Shards::read(&files.parts, map)?;
    let mut notes = shards.notes.clone();
    let mut hf = hf_matrices(&shards);
    let noted = |name: &str| {
        shards
            .noted
            .as_ref()
            .is_some_and(|n| n.tensors.contains_key(name))
    };
    let config = match !hf.is_empty() && hf.iter().all(|m| noted(&m.name)) {
        true => Ok(Config::default()),
        false => Config::beside(path),
    };
    let method = match &config {
        Ok(config) => config.other_method(),
        Err(_) => None,
    };
    let class = match config::linear_class(options, shards.noted.as_ref(), config) {
        _ if hf.is_empty() => LinearClass::default(),
        _ if method.is_some() && options.tolerant => {
            hf.retain(|m| noted(&m.name));
            LinearClass::default()
        }
        _ if method.is_some() => return Err(refused(method.unwrap_or_default())),
        Ok(class) => class,
        Err(error) if options.tolerant => {
            notes.push(format!(
                "Scales of HF BitNet are taken as stored: the file {error}."
            ));
            LinearClass::AutoBitLinear
        }
        Err(error) => return Err(error),
    };
    let rotations = Rotations::beside(path)?;
    if let Some(rows) = options.rows {
        let fits = |m: &HfMatrix<'_>| m.packed_rows == rows.div_ceil(4);
        if !hf.is_empty() && !hf.iter().any(fits) {
            return Err(refused(format!(
                "no HF BitNet matrix has the {} packed rows of {rows} rows",
                rows.div_ceil(4)
            )));
        }
    }
    let mut taken: HashSet<String> = HashSet::new();
    let mut matrices = Vec::new();
    for m in hf {
        taken.extend(m.stored.iter().map(|t| t.name.clone()));
        let info = shards.noted.as_ref().and_then(|n| n.tensors.get(&m.name));
        let mut matrix = m.matrix(options, class, info.cloned())?;
        matrix.rotation = rotations.of(&matrix.name, matrix.shape[1])?;
        matrices.push(matrix);
    }
    for (name, info) in &shards.packed {
        let parts = [name.clone(), ours::scales_name(name)];
        let stored: Vec<Tensor<'a>> = parts
            .iter()
            .filter_map(|n| shards.get(n).cloned())
            .collect();
        taken.extend(parts);
        let [rows, cols] = info.shape;
        let product = |stack: &Vec<usize>| {
            let (last, rest) = stack.split_last()?;
            let all = rest.iter().try_fold(1usize, |all, &n| all.checked_mul(n))?;
            Some([all, *last])
        };
        if info
            .stack
            .as_ref()
            .is_some_and(|s| product(s) != Some([rows, cols]))
        {
            let what = format!(
                "is a stack of shape {:?}, but of [{rows}, {cols}]",
                info.stack
            );
            return Err(ours::in_tensor(name, what));
        }
        let rotation = match &info.rotation {
            Some(rotation) => Some(rotation.rotated(name, cols)?),
            None => rotations.of(name, cols)?,
        };
        let info = PackedInfo {
            rotation: rotation.as_ref().map(RotationInfo::new),
            ..info.clone()
        };
        matrices.push(Matrix {
            name: name.clone(),
            format: "tritgemm",
            shape: info.shape,
            bytes: stored.iter().map(|t| t.bytes().len()).sum(),
            info: Some(info.clone()),
            stack: info.stack.clone(),
            rotation,
            stored,
            source: Source::Ours,
        });
    }
    let mut others = shards.tensors;
    others.retain(|t| !taken.contains(&t.name));
    let unrecognised = unrecognised::mark(&mut others);
    let unread = others.iter().any(|t| t.unread.is_some());
    notes.extend(method.iter().filter(|_| unread).map(|m| format!("{m}.")));
    notes.extend(unrecognised);
    for tensor in &mut others {
        let floats = tensor.dtype.and_then(hf::float_type).is_some();
        if let (true, Some(&cols)) = (floats, tensor.shape.last()) {
            tensor.rotation = rotations.of(&tensor.name, cols)?;
        }
    }
    let rotated = rotations.unread(&others);
    if let Some(refusal) = rotated.clone().filter(|_| !options.tolerant) {
        return Err(refused(refusal));
    }
    notes.extend(rotated.iter().map(|rotated| format!("{rotated}.")));
    Ok(Contents {
        container: "safetensors",
        others,
        metadata: shards.metadata,
        gguf: Vec::new(),
        notes,
        matrices,
        unsupported: method.or(rotated),
    })
}

/// What a `hadamard.json` beside the model says.
struct Rotations(Option<(PathBuf, Hadamard)>);

impl Rotations {
    fn beside(path: &Path) -> Result<Self> {
        let path = config::beside(path, "hadamard.json");
        let Some(json) = config::json(&path)? else {
            return Ok(Self(None));
        };
        match Hadamard::from_json(&json) {
            Ok(hadamard) => Ok(Self(Some((path, hadamard)))),
            Err(error) => Err(in_file(&path, error)),
        }
    }

    fn of(&self, name: &str, cols: usize) -> Result<Option<Rotated>> {
        match &self.0 {
            None => Ok(None),
            Some((path, hadamard)) => hadamard.of(name, cols).map_err(|e| in_file(path, e)),
        }
    }

    /// What to say if tensors are rotated whose width is not known, since they are packed.
    fn unread(&self, others: &[Tensor<'_>]) -> Option<String> {
        let (path, hadamard) = self.0.as_ref()?;
        let floats = |t: &Tensor<'_>| t.dtype.and_then(hf::float_type).is_some();
        let mut packed = others
            .iter()
            .filter(|t| !floats(t) && hadamard.names(&t.name));
        let first = packed.next()?;
        Some(format!(
            "`{}` says that `{}` is rotated{}, which is packed by a method that is not read",
            path.display(),
            first.name,
            match packed.count() {
                0 => String::new(),
                1 => ", and 1 tensor more".to_owned(),
                n => format!(", and {n} tensors more"),
            }
        ))
    }
}

/// A matrix of HF BitNet.
struct HfMatrix<'a> {
    name: String,
    packed_rows: usize,
    cols: usize,
    weight_scale: f32,
    /// The weights and their scale.
    stored: Vec<Tensor<'a>>,
}

impl<'a> HfMatrix<'a> {
    fn matrix(
        self,
        options: &OpenOptions,
        class: LinearClass,
        info: Option<PackedInfo>,
    ) -> Result<Matrix<'a>> {
        let fits = |rows: &usize| rows.div_ceil(4) == self.packed_rows;
        let rows = options
            .rows
            .filter(fits)
            .or(info.as_ref().map(|i| i.shape[0]));
        let all = self.packed_rows.checked_mul(4);
        let all = all.ok_or_else(|| ours::in_tensor(&self.name, "is too large"))?;
        Ok(Matrix {
            format: HF,
            shape: [rows.unwrap_or(all), self.cols],
            bytes: self.stored.iter().map(|t| t.bytes().len()).sum(),
            info,
            stack: None,
            rotation: None,
            source: Source::Hf {
                packed_rows: self.packed_rows,
                weight_scale: self.weight_scale,
                class,
                rows,
            },
            stored: self.stored,
            name: self.name,
        })
    }
}

/// What has a `_scale` of one number beside it and is not one of ours.
fn hf_matrices<'a>(shards: &Shards<'a>) -> Vec<HfMatrix<'a>> {
    let matrix = |t: &Tensor<'a>| {
        let (Some(Dtype::U8), &[packed_rows, cols]) = (t.dtype, &t.shape[..]) else {
            return None;
        };
        if shards.packed.contains_key(&t.name) {
            return None;
        }
        let scale = shards.get(&hf::scale_name(&t.name))?;
        let ty = scale.dtype.and_then(hf::float_type)?;
        // Not decoded before it is known to be one number.
        let one = scale.bytes().len() == ty.size();
        let [weight_scale] = ty.decode(if one { scale.bytes() } else { &[] })[..] else {
            return None;
        };
        Some(HfMatrix {
            name: t.name.clone(),
            packed_rows,
            cols,
            weight_scale,
            stored: vec![t.clone(), scale.clone()],
        })
    };
    shards.tensors.iter().filter_map(matrix).collect()
}
