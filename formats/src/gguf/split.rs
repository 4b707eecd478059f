//! Models in several files: `NAME-00001-of-00003.gguf` and so on.
//!
//! | key | type | value |
//! |---|---|---|
//! | `split.no` | u16 | the part, from 0 |
//! | `split.count` | u16 | how many parts there are |
//! | `split.tensors.count` | i32 | tensors of all parts together |
//!
//! Metadata of the model stands in the first part only; each part has a list of its own
//! tensors.

use super::Gguf;
use super::cursor::corrupt;
use crate::error::Result;

/// The keys of parts, which are no metadata of the model.
pub(crate) const KEYS: [&str; 3] = ["split.no", "split.count", "split.tensors.count"];

/// Which part of a model a file is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Split {
    /// The part, from 0.
    pub no: u64,
    /// How many parts there are.
    pub count: u64,
    /// Tensors of all parts together, if the file says.
    pub tensors: Option<u64>,
}

impl Gguf<'_> {
    /// Which part of a model the file is; `None` for a model in one file.
    ///
    /// # Errors
    /// [`FormatError::Container`](crate::FormatError::Container) if a number is none or they
    /// contradict each other.
    pub fn split(&self) -> Result<Option<Split>> {
        let [no, count, tensors] = KEYS.map(|key| self.number(key));
        let (no, count, tensors) = (no?, count?, tensors?);
        let Some(count) = count else {
            return match no {
                None => Ok(None),
                Some(no) => Err(corrupt(0, format!("split.no is {no} without split.count"))),
            };
        };
        match (no, count) {
            (_, 0) => Err(corrupt(0, "split.count is 0, expected 1 or more")),
            (None, _) => Err(corrupt(
                0,
                format!("split.count is {count} without split.no"),
            )),
            (Some(no), _) if no >= count => {
                let what = format!("split.no is {no}, expected less than split.count, {count}");
                Err(corrupt(0, what))
            }
            (Some(no), _) => Ok(Some(Split { no, count, tensors })),
        }
    }

    fn number(&self, key: &str) -> Result<Option<u64>> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        let number = value.as_u64().map(Some);
        number.ok_or_else(|| corrupt(0, format!("{key} is {value}, expected a number from 0 up")))
    }
}

/// The file name of part `no` (from 0) of `count`, if `first` is that of the first part.
///
/// ```
/// use tritgemm_formats::gguf::part_name;
/// let name = part_name("m-00001-of-00003.gguf", 1, 3);
/// assert_eq!(name.as_deref(), Some("m-00002-of-00003.gguf"));
/// assert_eq!(part_name("m.gguf", 1, 3), None);
/// ```
pub fn part_name(first: &str, no: u64, count: u64) -> Option<String> {
    let stem = first.strip_suffix(&format!("-00001-of-{count:05}.gguf"))?;
    Some(format!("{stem}-{:05}-of-{count:05}.gguf", no + 1))
}
