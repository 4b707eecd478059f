//! The f32 sections of a panel file: little-endian, whatever the CPU is.

use crate::memory::{self, OutOfMemory};
use core::convert::Infallible;
use std::io::{self, Write};

/// Values converted at a time: they fit the stack, so that saving needs no
/// memory that could run out.
const PIECE: usize = 4096;

/// The checksum of the section.
pub(super) fn crc(values: impl Iterator<Item = f32>) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    let Ok(()) = in_pieces(values, |bytes| {
        hasher.update(bytes);
        Ok::<_, Infallible>(())
    });
    hasher.finalize()
}

/// Writes the section.
pub(super) fn write(values: impl Iterator<Item = f32>, out: &mut impl Write) -> io::Result<()> {
    in_pieces(values, |bytes| out.write_all(bytes))
}

/// The values of a section, a whole number of them.
pub(super) fn read(bytes: &[u8]) -> Result<Vec<f32>, OutOfMemory> {
    let (floats, _) = bytes.as_chunks::<{ size_of::<f32>() }>();
    memory::collected(floats.iter().map(|&b| f32::from_le_bytes(b)))
}

/// Hands the section's bytes to `take`.
fn in_pieces<E>(
    values: impl Iterator<Item = f32>,
    mut take: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut values = values.fuse();
    let mut piece = [[0; size_of::<f32>()]; PIECE];
    loop {
        let mut len = 0;
        for (bytes, value) in piece.iter_mut().zip(&mut values) {
            *bytes = value.to_le_bytes();
            len += 1;
        }
        if len == 0 {
            return Ok(());
        }
        take(piece[..len].as_flattened())?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_give_little_endian_bytes() {
        for len in [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 7] {
            let values: Vec<f32> = (0..len).map(|i| (i as f32 - 300.5) * 1.37).collect();
            let expected: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            let mut bytes = Vec::new();
            write(values.iter().copied(), &mut bytes).expect("memory");
            assert_eq!(bytes, expected, "{len} written");
            assert_eq!(
                crc(values.iter().copied()),
                crc32fast::hash(&expected),
                "{len}"
            );
            assert_eq!(read(&bytes).expect("memory"), values);
        }
    }

    #[test]
    fn the_first_error_ends_it() {
        let mut calls = 0;
        let result = in_pieces([1.0; 2 * PIECE].into_iter(), |_| {
            calls += 1;
            Err(calls)
        });
        assert_eq!(result, Err(1));
    }
}
