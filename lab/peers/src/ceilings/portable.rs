//! What can be timed on other architectures: reading, by a loop that LLVM
//! vectorises. Their multiply-accumulate peaks are not written yet.

use super::{Peak, Reader};

pub fn peaks() -> Vec<Peak> {
    Vec::new()
}

pub fn readers() -> Vec<Reader> {
    vec![Reader {
        name: "u64 loop".to_owned(),
        ahead: 0,
        read: |bytes, _| {
            let (words, _) = bytes.as_chunks::<64>();
            let mut acc = [0u64; 8];
            for line in words {
                let (lanes, _) = line.as_chunks::<8>();
                for (a, lane) in acc.iter_mut().zip(lanes) {
                    *a ^= u64::from_ne_bytes(*lane);
                }
            }
            acc.iter().fold(0, |a, b| a ^ b)
        },
    }]
}
