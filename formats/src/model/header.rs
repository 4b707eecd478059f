//! Headers of safetensors files, also with a byte-order mark before their JSON.

use super::BOM;
use super::files::refused;
use super::ours::MAX_HEADER;
use crate::error::Result;
use safetensors::SafeTensors;
use safetensors::tensor::Metadata;

/// Bytes of the length of a header.
const LEN: usize = 8;

/// The length that the first bytes say, if it is one of a header.
fn len(bytes: &[u8]) -> Option<usize> {
    let len = u64::from_le_bytes(*bytes.first_chunk()?);
    usize::try_from(len).ok().filter(|&len| len <= MAX_HEADER)
}

/// Whether a file begins as safetensors files do.
pub(super) fn begins(bytes: &[u8]) -> bool {
    let json = bytes.get(LEN..).unwrap_or_default();
    let json = json.strip_prefix(BOM).unwrap_or(json);
    len(bytes).is_some() && json.starts_with(b"{")
}

/// The header of a file and where its tensors start.
pub(super) fn read(bytes: &[u8]) -> Result<(Metadata, usize)> {
    let not = |e: &dyn std::fmt::Display| refused(format!("not a valid safetensors file: {e}"));
    let marked = bytes.get(LEN..).is_some_and(|json| json.starts_with(BOM));
    let Some(len) = len(bytes).filter(|_| marked) else {
        let read = SafeTensors::read_metadata(bytes);
        return read
            .map(|(len, header)| (header, LEN + len))
            .map_err(|e| not(&e));
    };
    // The crate takes no mark, and its checks of a header are not to be had apart.
    let json = bytes.get(LEN + BOM.len()..LEN + len);
    let json = json.ok_or_else(|| not(&"the header ends after the file"))?;
    let header: Metadata = serde_json::from_slice(json).map_err(|e| not(&e))?;
    let mut end = 0;
    for name in header.offset_keys() {
        let info = header.info(&name).ok_or_else(|| not(&"a tensor is lost"))?;
        let (start, stop) = info.data_offsets;
        let bits = (info.shape.iter())
            .try_fold(info.dtype.bitsize(), |bits, &n| bits.checked_mul(n))
            .filter(|bits| bits.is_multiple_of(8));
        if start != end || stop.checked_sub(start) != bits.map(|bits| bits / 8) {
            return Err(not(&format!("the place of tensor `{name}` is wrong")));
        }
        end = stop;
    }
    match LEN.checked_add(len).and_then(|all| all.checked_add(end)) == Some(bytes.len()) {
        true => Ok((header, LEN + len)),
        false => Err(not(&"its tensors do not take all of it")),
    }
}
