//! The scales of a layer, once, in the order that outputs take them.

use crate::kernels::auto::float::{narrow_f16, widen_f16};
use crate::kernels::auto::scale;
use crate::kernels::call::{GroupScales, ScaleValues};
use crate::kernels::contract::PANEL_ROWS;
use crate::memory::{self, OutOfMemory};
use crate::scales::{Granularity, GroupSize, Scales};
use core::ops::Range;

/// Scales of `rows` rows, `[groups][rows]`: the rows of an output are neighbours there.
#[derive(Clone, Debug)]
pub(crate) struct RowScales {
    granularity: Granularity,
    rows: usize,
    /// How many there are; zeros follow them, so that the rows of the last panel have scales as
    /// many as any.
    len: usize,
    values: Values,
}

#[derive(Clone, Debug)]
enum Values {
    F32(Vec<f32>),
    /// Bits of f16: scales of groups that are f16 exactly, as those of most files are.
    F16(Vec<u16>),
}

/// Values `[rows][groups]` as `[groups][rows]`.
fn by_group<T>(
    values: &[f32],
    rows: usize,
    value: impl Fn(f32) -> T,
) -> Result<Vec<T>, OutOfMemory> {
    let groups = values.len().checked_div(rows).unwrap_or(0);
    // A division for each value would take longer than all the rest.
    let (mut row, mut group) = (0, 0);
    memory::collected((0..values.len()).map(|_| {
        let next = value(values[row * groups + group]);
        row += 1;
        if row == rows {
            (row, group) = (0, group + 1);
        }
        next
    }))
}

impl RowScales {
    /// Of as many scales as the granularity has in `rows` rows.
    pub(crate) fn new(scales: Scales, rows: usize) -> Result<Self, OutOfMemory> {
        let (granularity, values) = scales.into_parts();
        let len = values.len();
        let values = match granularity {
            Granularity::PerTensor | Granularity::PerRow => Values::F32(values),
            Granularity::PerGroup(_) => {
                let exact = |&v: &f32| widen_f16(narrow_f16(v)).to_bits() == v.to_bits();
                match values.iter().all(exact) {
                    true => Values::F16(by_group(&values, rows, narrow_f16)?),
                    false => Values::F32(by_group(&values, rows, |v| v)?),
                }
            }
        };
        Self {
            granularity,
            rows,
            len,
            values,
        }
        .padded()
    }

    /// With zeros behind the scales.
    fn padded(mut self) -> Result<Self, OutOfMemory> {
        let len = self.len + PANEL_ROWS - 1;
        match &mut self.values {
            Values::F32(values) => memory::resize(values, len, 0.0)?,
            Values::F16(values) => memory::resize(values, len, 0)?,
        }
        Ok(self)
    }

    pub(crate) fn granularity(&self) -> Granularity {
        self.granularity
    }

    /// The group size, of scales per group.
    pub(crate) fn group(&self) -> Option<GroupSize> {
        match self.granularity {
            Granularity::PerGroup(size) => Some(size),
            _ => None,
        }
    }

    fn get(&self, index: usize) -> f32 {
        match &self.values {
            Values::F32(values) => values[index],
            Values::F16(values) => widen_f16(values[index]),
        }
    }

    /// Those of some rows, as of a matrix of these rows.
    pub(crate) fn slice_rows(&self, rows: Range<usize>) -> Result<Self, OutOfMemory> {
        fn part<T: Copy>(
            all: &[T],
            (groups, all_rows): (usize, usize),
            rows: &Range<usize>,
        ) -> Result<Vec<T>, OutOfMemory> {
            let values = (0..groups * rows.len())
                .map(|i| all[i / rows.len() * all_rows + rows.start + i % rows.len()]);
            memory::collected(values)
        }
        let groups = self.len.checked_div(self.rows).unwrap_or(0);
        let shape = (groups, self.rows);
        let (len, values) = match (&self.values, self.granularity) {
            (Values::F32(values), Granularity::PerTensor) => {
                (1, Values::F32(memory::copied(&values[..1])?))
            }
            (Values::F32(values), _) => (
                groups * rows.len(),
                Values::F32(part(values, shape, &rows)?),
            ),
            (Values::F16(values), _) => (
                groups * rows.len(),
                Values::F16(part(values, shape, &rows)?),
            ),
        };
        Self {
            granularity: self.granularity,
            rows: rows.len(),
            len,
            values,
        }
        .padded()
    }

    /// In the order of [`Scales`].
    pub(crate) fn values(&self) -> impl ExactSizeIterator<Item = f32> {
        let groups = match self.granularity {
            Granularity::PerGroup(_) => self.len.checked_div(self.rows).unwrap_or(0),
            _ => 1,
        };
        (0..self.len).map(move |i| match groups {
            1 => self.get(i),
            _ => self.get(i % groups * self.rows + i / groups),
        })
    }

    pub(crate) fn to_scales(&self) -> Result<Scales, OutOfMemory> {
        let values = memory::collected(self.values())?;
        Ok(Scales::with(self.granularity, values))
    }

    /// The scale of one weight.
    pub(crate) fn at(&self, row: usize, col: usize) -> f32 {
        match self.granularity {
            Granularity::PerTensor => self.get(0),
            Granularity::PerRow => self.get(row),
            Granularity::PerGroup(size) => self.get(col / size.len() * self.rows + row),
        }
    }

    /// Whether [`Self::of_rows`] needs room.
    pub(crate) fn need_room(&self) -> bool {
        matches!(self.values, Values::F16(_)) || self.granularity == Granularity::PerTensor
    }

    /// The scales of rows from `first` on in all groups: as they are kept, or put into `room`, 64
    /// for each panel.
    pub(crate) fn of_groups<'a>(
        &'a self,
        first: usize,
        groups_per_scale: usize,
        room: &'a mut [f32],
    ) -> GroupScales<'a> {
        let (values, stride) = match &self.values {
            Values::F32(values) if self.granularity == Granularity::PerTensor => {
                room.fill(values[0]);
                (ScaleValues::F32(room), 0)
            }
            Values::F32(values) => (ScaleValues::F32(&values[first..]), self.rows),
            Values::F16(values) => (ScaleValues::F16(&values[first..]), self.rows),
        };
        GroupScales {
            values,
            stride,
            groups_per_scale,
        }
    }

    /// A group's scales of some rows: as they are kept, or put into `room`, which is as long.
    pub(crate) fn of_rows<'a>(
        &'a self,
        group: usize,
        rows: Range<usize>,
        room: &'a mut [f32],
    ) -> &'a [f32] {
        let at = group * self.rows + rows.start;
        match &self.values {
            Values::F32(values) if self.granularity == Granularity::PerTensor => {
                room.fill(values[0]);
                room
            }
            Values::F32(values) => &values[at..][..rows.len()],
            Values::F16(values) => {
                scale::widen(&values[at..][..rows.len()], room);
                room
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every finite f16, of as many groups as rows and of one.
    #[test]
    fn scales_come_back_and_f16_are_kept_as_such() {
        let halves = (0..=u16::MAX).filter(|bits| bits & 0x7c00 != 0x7c00);
        let values: Vec<f32> = halves.map(widen_f16).collect();
        let (rows, group) = (248, GroupSize::G32);
        for inexact in [false, true] {
            let mut values = values.clone();
            if inexact {
                *values.last_mut().expect("some") = 1.0 + f32::EPSILON;
            }
            let scales = Scales::per_group(group, values.clone());
            let kept = RowScales::new(scales, rows).expect("little memory");
            assert_eq!(matches!(kept.values, Values::F16(_)), !inexact);
            let back = kept.to_scales().expect("little memory");
            let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(back.values()), bits(&values));

            let groups = values.len() / rows;
            let part = kept.slice_rows(100..200).expect("little memory");
            let mut room = vec![f32::NAN; 50];
            for index in 0..groups {
                let expected: Vec<f32> = (150..200).map(|r| values[r * groups + index]).collect();
                assert_eq!(
                    bits(part.of_rows(index, 50..100, &mut room)),
                    bits(&expected)
                );
                let col = index * group.len() + 31;
                assert_eq!(part.at(99, col).to_bits(), expected[49].to_bits());
            }
        }
    }

    #[test]
    fn scales_of_rows_and_of_the_matrix() {
        let rows = RowScales::new(Scales::per_row(vec![1.0, 2.0, 3.0]), 3).expect("memory");
        assert_eq!(rows.of_rows(0, 1..3, &mut []), [2.0, 3.0]);
        assert_eq!(rows.slice_rows(2..3).expect("memory").at(0, 7), 3.0);
        let one = RowScales::new(Scales::per_tensor(0.5), 3).expect("memory");
        let one = one.slice_rows(1..3).expect("memory");
        assert!(one.need_room() && !rows.need_room());
        assert_eq!(one.of_rows(0, 0..2, &mut [0.0; 2]), [0.5, 0.5]);
    }
}
