//! The list of tensors, and where in the file their bytes are.

use super::cursor::{Cursor, corrupt};
use super::shape::{MAX_DIMS, Shape};
use super::types::TensorType;
use super::{MAX_NAME, Tensor};
use crate::error::{FormatError, Result};
use crate::ggml::{I2sLayout, TernaryType};
use core::ops::Range;

/// What the list of tensors says of one.
pub(super) struct Info<'a> {
    pub(super) name: &'a str,
    shape: Shape,
    ty: TensorType,
    /// The number that the file has for its type.
    said: TensorType,
    /// From the start of the data.
    offset: u64,
    /// `None` if the type is unknown.
    bytes: Option<u64>,
    /// Where in the file this was said.
    said_at: usize,
}

impl<'a> Info<'a> {
    pub(super) fn read(cursor: &mut Cursor<'a>, alignment: u32) -> Result<Self> {
        let said_at = cursor.position();
        let name = cursor.name("a tensor's name", MAX_NAME)?;
        let at = cursor.position();
        let dims = cursor.u32("a tensor's dimensions")? as usize;
        if dims > MAX_DIMS {
            return Err(corrupt(
                at,
                format!("tensor `{name}` of {dims} dimensions, expected {MAX_DIMS} at most"),
            ));
        }
        let mut ne = [1; MAX_DIMS];
        for ne in &mut ne[..dims] {
            *ne = cursor.u64("a tensor's shape")?;
        }
        let shape = Shape { ne, dims };
        let ty = TensorType(cursor.u32("a tensor's type")?);
        let at = cursor.position();
        let offset = cursor.u64("a tensor's offset")?;
        if !offset.is_multiple_of(alignment.into()) {
            return Err(corrupt(
                at,
                format!("tensor `{name}` at {offset}, expected a multiple of {alignment}"),
            ));
        }
        let bytes = shape.bytes(ty, name)?;
        Ok(Self {
            name,
            shape,
            ty,
            said: ty,
            offset,
            bytes,
            said_at,
        })
    }
}

/// What the number of Q2_0 means in a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Groups {
    /// No tensor tells.
    Untold,
    /// So many tensors have room for either, and none tells.
    Either(usize),
    /// Groups of 64 weights, as llama.cpp has it.
    Of64,
    /// Groups of 128 weights, as older files of PrismML's have it.
    Of128,
}

/// Gives each tensor its bytes out of `data`, which starts at `data_start` of the
/// file: as many as its type needs, or up to the next tensor if the type is
/// unknown. `of_128` if other parts of the model have groups of 128.
pub(super) fn place<'a>(
    mut infos: Vec<Info<'a>>,
    data: &'a [u8],
    data_start: usize,
    alignment: u32,
    of_128: bool,
) -> Result<(Vec<Tensor<'a>>, Groups)> {
    // From the last one in the file to the first, empty ones after others.
    let mut order: Vec<usize> = (0..infos.len()).collect();
    let place = |i: usize| (infos[i].offset, infos[i].bytes != Some(0), infos[i].bytes);
    order.sort_unstable_by_key(|&i| core::cmp::Reverse(place(i)));
    let mut slices: Vec<&[u8]> = vec![&[]; infos.len()];
    let mut end = data.len() as u64;
    let mut next = "the end of the file";
    let groups = recognise(&mut infos, &order, data, alignment, of_128);
    for i in order {
        let info = &infos[i];
        // As long as the file has room for; usize suffices, as `end` is in it.
        let room = end.checked_sub(info.offset);
        let room = room.ok_or_else(|| {
            let what = format!(
                "tensor `{}` at {}, but there are {end} bytes of tensors",
                info.name, info.offset
            );
            corrupt(info.said_at, what)
        })?;
        let bytes = info.bytes.unwrap_or(room);
        let missing = info.bytes.is_none() && room == 0;
        if bytes > room || missing {
            return Err(info.too_long(room, next));
        }
        slices[i] = &data[info.offset as usize..][..bytes as usize];
        end = info.offset;
        next = info.name;
    }
    let tensor = |(info, data): (Info<'a>, &'a [u8])| Tensor {
        name: info.name,
        shape: info.shape,
        ty: info.ty,
        said: info.said,
        offset: data_start as u64 + info.offset,
        data,
        i2s: I2sLayout::default(),
    };
    let tensors = infos.into_iter().zip(slices).map(tensor).collect();
    Ok((tensors, groups))
}

/// PrismML's older files have groups of 128 weights in 34 bytes under the number
/// of Q2_0, which takes 36 bytes for them. The room that a tensor has tells: too
/// little for Q2_0, and just what the others take. Where one tensor is told so,
/// here or in another part of the model, small ones that would have room for either
/// are of its kind; where one is certainly Q2_0, none is.
fn recognise(
    infos: &mut [Info<'_>],
    order: &[usize],
    data: &[u8],
    alignment: u32,
    of_128: bool,
) -> Groups {
    let id = TernaryType::Q2_0.id();
    let (mut grouped, mut plain, mut told) = (Vec::new(), false, false);
    let mut end = data.len() as u64;
    for &i in order {
        let info = &infos[i];
        let Some(room) = end.checked_sub(info.offset) else {
            return Groups::Untold;
        };
        end = info.offset;
        if info.ty.0 != id || info.bytes == Some(0) {
            continue;
        }
        let pq2_0 = info.shape.bytes(TernaryType::Pq2_0.into(), info.name);
        let (Ok(Some(bytes)), Some(q2_0)) = (pq2_0, info.bytes) else {
            plain = true;
            continue;
        };
        // To the byte: a file that was cut short is not to be taken for one of these.
        let padded = bytes.checked_next_multiple_of(alignment.into());
        let fits = room == bytes || Some(room) == padded;
        match (fits, q2_0 <= room) {
            (true, false) => {
                grouped.push((i, bytes));
                told = true;
            }
            // Padding is zeros.
            (true, true) if behind(data, info.offset, bytes..q2_0) => grouped.push((i, bytes)),
            (_, true) => plain = true,
            // Cut short: what follows says so.
            (false, false) => return Groups::Untold,
        }
    }
    if plain {
        return Groups::Of64;
    }
    if !told && !of_128 {
        return match grouped.len() {
            0 => Groups::Untold,
            n => Groups::Either(n),
        };
    }
    for (i, bytes) in grouped {
        infos[i].ty = TernaryType::Pq2_0.into();
        infos[i].bytes = Some(bytes);
    }
    Groups::Of128
}

/// Whether the bytes `range` from `offset` on are zeros; there are as many.
fn behind(data: &[u8], offset: u64, range: Range<u64>) -> bool {
    let bytes = data.get(offset as usize..).unwrap_or_default();
    let bytes = bytes.get(range.start as usize..range.end as usize);
    bytes.is_some_and(|bytes| bytes.iter().all(|&byte| byte == 0))
}

impl Info<'_> {
    fn too_long(&self, room: u64, next: &str) -> FormatError {
        let (name, ty) = (self.name, self.ty);
        let bytes = self.bytes.map_or("some".into(), |bytes| bytes.to_string());
        let what = format!(
            "tensor `{name}` of type {ty} takes {bytes} bytes, but there are {room} up to {next}"
        );
        corrupt(self.said_at, what)
    }
}
