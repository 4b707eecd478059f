//! Panel files whose checksums are right whatever else they say, so that the
//! fuzzer gets past them. Written from the table of the format's documentation,
//! not with the crate's code.

use std::ops::Range;
use tritgemm::{MatRef, Panels};

/// Bytes of the header.
const HEADER: usize = 128;
/// Bytes of the header of a model's file.
const START: usize = 64;
/// Longest file that [`derive`] makes.
const MAX_FILE: u64 = 1 << 17;

/// Makes the sections' checksums and the header's right, where the header
/// says that the sections are.
pub fn repair(file: &mut [u8]) {
    if file.len() < HEADER {
        return;
    }
    let [panels, scales, bias, count, end] = [48, 56, 72, 80, 88].map(|at| word(file, at));
    let signs = count.saturating_mul(4).saturating_add(bias);
    for (at, [start, end]) in [
        (96, [panels, scales]),
        (100, [scales, bias]),
        (104, [bias, signs]),
        (108, [signs, end]),
    ] {
        let range = usize::try_from(start).ok().zip(usize::try_from(end).ok());
        let section = range.and_then(|(start, end)| file.get(start..end));
        if let Some(crc) = section.map(crc32fast::hash) {
            file[at..at + 4].copy_from_slice(&crc.to_le_bytes());
        }
    }
    let crc = crc32fast::hash(&file[..124]);
    file[124..128].copy_from_slice(&crc.to_le_bytes());
}

/// As [`repair`], for each matrix of a model's file, for its index and its header. If `derive`,
/// lengths are put right first.
pub fn repair_model(file: &mut [u8], derive: bool) {
    if file.len() < START || file[8..12] == [1, 0, 0, 0] {
        return repair(file);
    }
    let len = file.len() as u64;
    if derive {
        file[..8].copy_from_slice(b"TRITPANL");
        file[8..16].copy_from_slice(&[2, 0, 0, 0, 64, 0, 0, 0]);
        file[52..60].fill(0);
        let index = word(file, 24) % (len + 1);
        for (at, value) in [(24, index), (32, len - index), (40, len)] {
            file[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
    }
    if let Some(index) = range([word(file, 24), word(file, 32)], file.len()) {
        let mut at = index.start;
        while let Some(name) = file[at..index.end].first_chunk::<4>() {
            let name = u32::from_le_bytes(*name) as usize;
            let Some(place) = file[at + 4..index.end].get(name..) else {
                break;
            };
            let Some(&place) = place.first_chunk::<16>() else {
                break;
            };
            if let Some(matrix) = range([0, 8].map(|at| word(&place, at)), file.len()) {
                repair(&mut file[matrix]);
            }
            at += 4 + name + place.len();
        }
        let crc = crc32fast::hash(&file[index]);
        file[48..52].copy_from_slice(&crc.to_le_bytes());
    }
    let crc = crc32fast::hash(&file[..60]);
    file[60..64].copy_from_slice(&crc.to_le_bytes());
}

/// So many bytes from a place on, if they are in a file.
fn range([at, bytes]: [u64; 2], len: usize) -> Option<Range<usize>> {
    let end = usize::try_from(at.checked_add(bytes)?).ok()?;
    (end <= len).then_some(at as usize..end)
}

/// Makes everything right that follows from rows, columns, granularity and
/// flags, if the file does not become too long for that.
pub fn derive(file: &mut Vec<u8>) {
    if file.len() < HEADER {
        file.resize(HEADER, 0);
    }
    file[..8].copy_from_slice(b"TRITPANL");
    let [rows, cols] = [16, 24].map(|at| word(file, at));
    let [granularity, flags] = [word(file, 40) as u32, word(file, 44) as u32];
    let Some([depth, panels, scales, bias]) = counts([rows, cols], granularity, flags) else {
        return;
    };
    let starts = [128, 128 + panels, 128 + panels + 4 * scales];
    let signs = if flags & 6 == 6 { cols.div_ceil(8) } else { 0 };
    let end = starts[2] + 4 * bias + signs;
    if end > MAX_FILE {
        return;
    }
    file.resize(end as usize, 0);
    file[8..16].copy_from_slice(&[1, 0, 0, 0, 128, 0, 0, 0]);
    file[116..124].fill(0);
    if flags & 2 == 0 {
        file[112..116].fill(0);
    }
    let words = [starts[0], starts[1], scales, starts[2], bias, end];
    for (at, value) in [(32, depth)]
        .into_iter()
        .chain((48..).step_by(8).zip(words))
    {
        file[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
    repair(file);
}

/// No code 11, zeros where there is no weight: products are the same on every
/// kernel.
pub fn is_legal(panels: &Panels) -> bool {
    let (packed, cols) = (panels.to_packed(), panels.cols());
    let packed = MatRef::new(&packed, panels.rows(), cols.div_ceil(4)).expect("all rows");
    let again = Panels::from_packed(packed, cols);
    again.is_ok_and(|again| again.as_bytes() == panels.as_bytes())
}

/// Depth, bytes of the panels, scales, bias values.
fn counts([rows, cols]: [u64; 2], granularity: u32, flags: u32) -> Option<[u64; 4]> {
    let depth = cols.div_ceil(4).checked_next_multiple_of(3)?;
    let panels = rows.div_ceil(64).checked_mul(depth)?.checked_mul(64)?;
    let scales = match granularity {
        0 => 0,
        1 => 1,
        2 => rows,
        group => rows.checked_mul(cols.div_ceil(group.into()))?,
    };
    let bias = if flags & 1 == 1 { rows } else { 0 };
    let fits = [panels, scales, bias].iter().all(|&n| n <= MAX_FILE);
    fits.then_some([depth, panels, scales, bias])
}

/// The number of eight bytes at `at`.
pub fn word(file: &[u8], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&file[at..at + 8]);
    u64::from_le_bytes(bytes)
}
