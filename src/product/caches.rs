//! The CPU's second-level cache, as the operating system describes it.

use std::sync::OnceLock;

/// Where nothing is said: the smallest common size of current CPUs.
const DEFAULT: usize = 512 << 10;
/// Sizes outside are some hypervisor's fiction. In u64: on 32 bits the upper end
/// would be 0 as a usize.
const PLAUSIBLE: core::ops::RangeInclusive<u64> = 8 << 10..=4 << 30;

/// Bytes of the first CPU's second-level cache, of one core or of the few that share it:
/// read once a process from Linux' sysfs.
pub(crate) fn l2() -> usize {
    static SIZE: OnceLock<usize> = OnceLock::new();
    *SIZE.get_or_init(|| {
        // No file system to ask: miri stops at one.
        if cfg!(miri) || !cfg!(target_os = "linux") {
            return DEFAULT;
        }
        let file = |index: usize, name: &str| {
            let path = format!("/sys/devices/system/cpu/cpu0/cache/index{index}/{name}");
            std::fs::read_to_string(path).ok()
        };
        second_level((0..8).map_while(|index| {
            Some([
                file(index, "level")?,
                file(index, "type")?,
                file(index, "size")?,
            ])
        }))
    })
}

/// From the texts `[level, type, size]` of each cache.
fn second_level(caches: impl Iterator<Item = [String; 3]>) -> usize {
    let mut sizes = caches.filter_map(|[level, kind, size]| {
        let data = level.trim() == "2" && matches!(kind.trim(), "Data" | "Unified");
        parse(&size).filter(|&size| data && PLAUSIBLE.contains(&(size as u64)))
    });
    sizes.next().unwrap_or(DEFAULT)
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

    fn read(caches: &[[&str; 3]]) -> usize {
        second_level(caches.iter().map(|c| c.map(str::to_owned)))
    }

    #[test]
    fn sysfs_texts() {
        let size = read(&[
            ["1\n", "Data\n", "48K\n"],
            ["2\n", "Instruction\n", "64K\n"],
            ["2\n", "Unified\n", "2048K\n"],
            ["3\n", "Unified\n", "36M\n"],
        ]);
        assert_eq!(size, 2 << 20);
    }

    #[test]
    fn nonsense_leaves_the_default() {
        for size in ["", "0K", "99999999999999999999G", "-1M", "é", "1T"] {
            assert_eq!(read(&[["2", "Unified", size]]), DEFAULT, "{size}");
        }
        assert_eq!(read(&[["x", "Unified", "1M"]]), DEFAULT);
        assert_eq!(parse("18446744073709551615K"), None);
    }
}
