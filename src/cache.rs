//! The CPU's caches, as the operating system describes them.

use crate::recent::Limits;
use std::sync::OnceLock;

/// Sizes of the data caches in bytes, which block sizes are derived from.
///
/// Read once a process from Linux' sysfs; elsewhere, and where it says nothing,
/// the default stands: the smallest common sizes of current CPUs.
///
/// ```
/// let caches = tritgemm::CacheSizes::detect();
/// assert!(caches.l1d > 0 && caches.l2 > 0 && caches.l3 > 0);
/// ```
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct CacheSizes {
    /// First level, data: of one core.
    pub l1d: usize,
    /// Second level: of one core, or of the few that share it.
    pub l2: usize,
    /// Last level: of all cores that share it.
    pub l3: usize,
}

impl Default for CacheSizes {
    fn default() -> Self {
        Self {
            l1d: 32 << 10,
            l2: 512 << 10,
            l3: 8 << 20,
        }
    }
}

/// Sizes outside are some hypervisor's fiction. In u64: on 32 bits the upper end
/// would be 0 as a usize.
const PLAUSIBLE: core::ops::RangeInclusive<u64> = 8 << 10..=4 << 30;

impl CacheSizes {
    /// The sizes of the first CPU's caches.
    pub fn detect() -> Self {
        static SIZES: OnceLock<CacheSizes> = OnceLock::new();
        *SIZES.get_or_init(|| {
            let file = |index: usize, name: &str| {
                let path = format!("/sys/devices/system/cpu/cpu0/cache/index{index}/{name}");
                std::fs::read_to_string(path).ok()
            };
            // No file system to ask: miri stops at one.
            if cfg!(miri) || !cfg!(target_os = "linux") {
                return Self::default();
            }
            Self::read((0..8).map_while(|index| {
                Some([
                    file(index, "level")?,
                    file(index, "type")?,
                    file(index, "size")?,
                ])
            }))
        })
    }

    /// From the texts `[level, type, size]` of each cache.
    fn read(caches: impl Iterator<Item = [String; 3]>) -> Self {
        let mut sizes = Self::default();
        for [level, kind, size] in caches {
            let Some(size) = parse(&size).filter(|&size| PLAUSIBLE.contains(&(size as u64))) else {
                continue;
            };
            match (level.trim(), kind.trim()) {
                ("1", "Data" | "Unified") => sizes.l1d = size,
                ("2", "Data" | "Unified") => sizes.l2 = size,
                ("3", "Data" | "Unified") => sizes.l3 = size,
                _ => {}
            }
        }
        sizes
    }

    /// From how many bytes of panels on they are taken to be streamed: other data and
    /// other cores have their share.
    pub(crate) fn streamed_from(self) -> Limits {
        Limits {
            alone: self.l3 / 8,
            together: self.l3 / 2,
        }
    }
}

/// `512K`, `32M`, or plain bytes.
fn parse(size: &str) -> Option<usize> {
    let size = size.trim();
    let (digits, shift) = match size.as_bytes().last()? {
        b'K' => (&size[..size.len() - 1], 10),
        b'M' => (&size[..size.len() - 1], 20),
        b'G' => (&size[..size.len() - 1], 30),
        _ => (size, 0),
    };
    digits.parse::<usize>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(caches: &[[&str; 3]]) -> CacheSizes {
        CacheSizes::read(caches.iter().map(|c| c.map(str::to_owned)))
    }

    #[test]
    fn sysfs_texts() {
        let sizes = read(&[
            ["1\n", "Data\n", "48K\n"],
            ["1\n", "Instruction\n", "64K\n"],
            ["2\n", "Unified\n", "2048K\n"],
            ["3\n", "Unified\n", "36M\n"],
        ]);
        let (l1d, l2, l3) = (48 << 10, 2 << 20, 36 << 20);
        assert_eq!(sizes, CacheSizes { l1d, l2, l3 });
        let (alone, together) = (36 << 17, 36 << 19);
        assert_eq!(sizes.streamed_from(), Limits { alone, together });
    }

    #[test]
    fn nonsense_leaves_the_default() {
        let nonsense = [
            ["1", "Data", ""],
            ["2", "Unified", "0K"],
            ["3", "Unified", "99999999999999999999G"],
            ["3", "Unified", "-1M"],
            ["4", "Unified", "64M"],
            ["x", "Unified", "1M"],
        ];
        assert_eq!(read(&nonsense), CacheSizes::default());
        assert_eq!(parse("18446744073709551615K"), None);
        assert_eq!(parse("é"), None);
    }
}
