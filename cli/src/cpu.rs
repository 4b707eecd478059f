//! What the operating system says about the CPU. Linux says it in files; what
//! others say is not asked, and unknown.

use crate::output;
use anyhow::{Context, ensure};
use std::fs;
use std::path::Path;

/// A cache as the first CPU sees it.
#[derive(Clone, PartialEq, Debug, serde::Serialize)]
pub struct Cache {
    /// 1, 2, 3.
    pub level: u32,
    /// `data`, `instruction` or `unified`.
    pub kind: String,
    /// Its size.
    pub bytes: u64,
    /// The CPUs that share it, e.g. `0-3`.
    pub shared_by: String,
}

/// The CPU's name, if known.
pub fn model() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    model_in(&text).or_else(|| {
        // Boards of ARM machines name themselves here, their CPUs nowhere.
        let board = fs::read_to_string("/proc/device-tree/model").ok()?;
        Some(board.trim_end_matches('\0').to_owned())
    })
}

fn model_in(cpuinfo: &str) -> Option<String> {
    let line = cpuinfo
        .lines()
        .find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// The caches of the first CPU; empty where unknown.
pub fn caches() -> Vec<Cache> {
    let base = Path::new("/sys/devices/system/cpu/cpu0/cache");
    let mut caches: Vec<Cache> = (0..16)
        .filter_map(|i| cache(&base.join(format!("index{i}"))))
        .collect();
    caches.sort_by(|a, b| (a.level, &a.kind).cmp(&(b.level, &b.kind)));
    caches
}

fn cache(dir: &Path) -> Option<Cache> {
    let read = |name| {
        fs::read_to_string(dir.join(name))
            .ok()
            .map(|s| s.trim().to_owned())
    };
    Some(Cache {
        level: read("level")?.parse().ok()?,
        kind: read("type")?.to_lowercase(),
        bytes: size(&read("size")?)?,
        shared_by: read("shared_cpu_list").unwrap_or_default(),
    })
}

/// `32K`, `1024K`, `32M`.
fn size(text: &str) -> Option<u64> {
    let (digits, unit) = match text.strip_suffix(['K', 'M', 'G']) {
        Some(digits) => (digits, &text[digits.len()..]),
        None => (text, ""),
    };
    let shift = match unit {
        "K" => 10,
        "M" => 20,
        "G" => 30,
        _ => 0,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// Size of the last-level cache, if known.
pub fn last_level_bytes() -> Option<u64> {
    caches()
        .into_iter()
        .filter(|c| c.kind != "instruction")
        .map(|c| c.bytes)
        .max()
}

/// Bytes of memory that can be had without swapping, if known.
pub fn available_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// Fails where products of an `m x k` matrix by so many tokens, in all types, and so many bytes
/// of panels do not fit in memory: an allocation that is promised and not there ends the process.
pub fn check_memory(
    [m, k]: [usize; 2],
    tokens: usize,
    panels: Option<usize>,
) -> anyhow::Result<()> {
    let sum = || {
        // Activations and outputs of all kinds, and the trits to be packed.
        let tokens = m.checked_add(k)?.checked_mul(16)?.checked_mul(tokens)?;
        m.checked_mul(k)?.checked_add(tokens)?.checked_add(panels?)
    };
    let needed = sum().context("more bytes than there are addresses")? as u64;
    if let Some(free) = available_memory() {
        ensure!(
            needed < free,
            "needs {} of memory, {} are free",
            output::bytes(needed),
            output::bytes(free)
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(size("32K"), Some(32768));
        assert_eq!(size("2M"), Some(2 << 20));
        assert_eq!(size("512"), Some(512));
        assert_eq!(size(""), None);
        assert_eq!(size("K"), None);
    }

    #[test]
    fn the_model_is_found_among_the_rest() {
        let text = "processor\t: 0\nmodel\t\t: 17\nmodel name\t: AMD EPYC 9999\n";
        assert_eq!(model_in(text).as_deref(), Some("AMD EPYC 9999"));
        assert_eq!(model_in("processor : 0"), None);
    }
}
