//! What can be timed on architectures other than x86-64: reading, by a loop that LLVM
//! vectorises. Their multiply-accumulate peaks are not written yet.

use crate::{Peak, Reader};
use std::hint::black_box;

/// None.
pub fn peaks() -> Vec<Peak> {
    Vec::new()
}

/// The one loop.
pub fn readers() -> Vec<Reader> {
    vec![Reader {
        name: "u64 loop".to_owned(),
        ahead: 0,
        read: |bytes, _| {
            let mut acc = [0u64; 8];
            for line in bytes.as_chunks::<64>().0 {
                for (a, word) in acc.iter_mut().zip(line.as_chunks::<8>().0) {
                    *a ^= u64::from_ne_bytes(*word);
                }
            }
            black_box(acc);
        },
    }]
}
