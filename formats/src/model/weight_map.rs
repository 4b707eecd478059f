//! `model.safetensors.index.json`: which file each tensor of a sharded model is in.

use super::BOM;
use super::files::refused;
use crate::error::Result;
use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// The tensors of a sharded model and their files.
#[derive(Debug)]
pub(super) struct WeightMap(pub(super) BTreeMap<String, String>);

#[derive(Deserialize)]
struct Index {
    weight_map: WeightMap,
}

impl WeightMap {
    pub(super) fn parse(json: &[u8]) -> Result<Self> {
        let json = json.strip_prefix(BOM).unwrap_or(json);
        let index: Index = serde_json::from_slice(json).map_err(|e| {
            refused(format!(
                "is no index of safetensors shards, JSON with a `weight_map`: {e}"
            ))
        })?;
        if index.weight_map.0.is_empty() {
            return Err(refused(
                "is an index of no tensors: its `weight_map` is empty",
            ));
        }
        Ok(index.weight_map)
    }

    /// The files, each once, sorted.
    pub(super) fn files(&self) -> BTreeSet<&str> {
        self.0.values().map(String::as_str).collect()
    }
}

/// A tensor that is listed twice has two files, or is damage: either way an error.
impl<'de> Deserialize<'de> for WeightMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = WeightMap;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors and their files")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<WeightMap, A::Error> {
                let mut all = BTreeMap::new();
                while let Some((tensor, file)) = map.next_entry::<String, String>()? {
                    if all.contains_key(&tensor) {
                        return Err(A::Error::custom(format!(
                            "tensor `{tensor}` is listed twice"
                        )));
                    }
                    all.insert(tensor, file);
                }
                Ok(WeightMap(all))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}
