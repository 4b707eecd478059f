//! The scales of a ternary matrix, and what each of them covers.

use crate::memory::{self, OutOfMemory};
use core::fmt;

/// Values along K that share a scale: weights of a row ([`Granularity::PerGroup`]), or int8
/// activations of a token ([`Grouped`](crate::Grouped)).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum GroupSize {
    /// 32.
    G32 = 32,
    /// 64.
    G64 = 64,
    /// 128.
    G128 = 128,
    /// 256.
    G256 = 256,
}

impl GroupSize {
    /// Every group size.
    pub const ALL: &'static [GroupSize] = &[
        GroupSize::G32,
        GroupSize::G64,
        GroupSize::G128,
        GroupSize::G256,
    ];

    /// Values in a full group.
    #[allow(clippy::len_without_is_empty)]
    pub const fn len(self) -> usize {
        self as usize
    }

    /// Groups in a row of `cols` weights; the last one may be short.
    pub const fn groups(self, cols: usize) -> usize {
        cols.div_ceil(self.len())
    }

    /// The group size of `len` weights, if there is one.
    ///
    /// ```
    /// use tritgemm::GroupSize;
    /// assert_eq!(GroupSize::from_len(128), Some(GroupSize::G128));
    /// assert_eq!(GroupSize::from_len(100), None);
    /// ```
    pub const fn from_len(len: usize) -> Option<GroupSize> {
        match len {
            32 => Some(GroupSize::G32),
            64 => Some(GroupSize::G64),
            128 => Some(GroupSize::G128),
            256 => Some(GroupSize::G256),
            _ => None,
        }
    }
}

impl fmt::Display for GroupSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.len())
    }
}

/// What one scale of a `[rows, cols]` ternary matrix covers.
///
/// ```
/// use tritgemm::{Granularity, GroupSize};
/// assert_eq!(Granularity::PerTensor.scales(3, 100), Some(1));
/// assert_eq!(Granularity::PerRow.scales(3, 100), Some(3));
/// // Row-major [3, 2]: a row of 100 is a full group of 64 and one of 36.
/// assert_eq!(Granularity::PerGroup(GroupSize::G64).scales(3, 100), Some(6));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Granularity {
    /// One scale for the whole matrix.
    PerTensor,
    /// One scale a row, the reference's choice.
    PerRow,
    /// One scale for every group of columns of every row, row-major
    /// `[rows, groups]`.
    PerGroup(GroupSize),
}

impl Granularity {
    /// How many scales a `[rows, cols]` matrix has; `None` if that overflows.
    pub const fn scales(self, rows: usize, cols: usize) -> Option<usize> {
        match self {
            Granularity::PerTensor => Some(1),
            Granularity::PerRow => Some(rows),
            Granularity::PerGroup(group) => rows.checked_mul(group.groups(cols)),
        }
    }
}

impl fmt::Display for Granularity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Granularity::PerTensor => f.write_str("per tensor"),
            Granularity::PerRow => f.write_str("per row"),
            Granularity::PerGroup(group) => write!(f, "per group of {group}"),
        }
    }
}

/// Scales of a ternary matrix: f32 values and what each covers.
///
/// Per group, the scales of a row are consecutive: `values[row][group]`.
#[derive(Clone, PartialEq, Debug)]
pub struct Scales {
    granularity: Granularity,
    values: Vec<f32>,
}

impl Scales {
    /// One scale for the whole matrix.
    pub fn per_tensor(scale: f32) -> Self {
        Self {
            granularity: Granularity::PerTensor,
            values: vec![scale],
        }
    }

    /// One scale a row.
    pub fn per_row(scales: Vec<f32>) -> Self {
        Self {
            granularity: Granularity::PerRow,
            values: scales,
        }
    }

    /// `[rows][ceil(cols / size)]` scales.
    pub fn per_group(size: GroupSize, scales: Vec<f32>) -> Self {
        Self {
            granularity: Granularity::PerGroup(size),
            values: scales,
        }
    }

    /// Scales of a granularity, not checked against a shape yet.
    pub(crate) fn with(granularity: Granularity, values: Vec<f32>) -> Self {
        Self {
            granularity,
            values,
        }
    }

    /// What one scale covers.
    pub fn granularity(&self) -> Granularity {
        self.granularity
    }

    /// The scales, in the order of [`Scales::per_group`].
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    pub(crate) fn values_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }

    pub(crate) fn into_parts(self) -> (Granularity, Vec<f32>) {
        (self.granularity, self.values)
    }

    pub(crate) fn try_clone(&self) -> Result<Self, OutOfMemory> {
        let values = memory::copied(&self.values)?;
        Ok(Self::with(self.granularity, values))
    }

    /// The scale of one weight of a matrix of `cols` columns.
    pub(crate) fn at(&self, row: usize, col: usize, cols: usize) -> f32 {
        match self.granularity {
            Granularity::PerTensor => self.values[0],
            Granularity::PerRow => self.values[row],
            Granularity::PerGroup(size) => self.values[row * size.groups(cols) + col / size.len()],
        }
    }
}
