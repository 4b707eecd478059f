//! Which machine a run was made on; a figure without it says nothing.

use serde::{Deserialize, Serialize};
use std::fs;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    pub cpu: String,
    pub arch: String,
    pub cores: usize,
    /// Bytes of L1 (for data), L2 and L3, as far as there are.
    pub caches: Vec<usize>,
    pub kernel: String,
    pub memory_bytes: u64,
    /// CPU features that decide which kernels and ceilings run.
    pub features: Vec<String>,
    /// Set when the CPU flag says so: figures of a virtual machine depend on
    /// its host's other guests.
    pub virtual_machine: bool,
}

/// Those of interest, as /proc/cpuinfo spells them.
const FEATURES: [&str; 10] = [
    "avx2",
    "fma",
    "f16c",
    "avx_vnni",
    "avx512f",
    "avx512bw",
    "avx512vl",
    "avx512_vnni",
    "avx512vbmi",
    "amx_int8",
];

impl Machine {
    pub fn detect() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let field = |name: &str| {
            cpuinfo
                .lines()
                .filter_map(|line| line.split_once(':'))
                .find(|(key, _)| key.trim() == name)
                .map(|(_, value)| value.trim().to_owned())
        };
        let mut cpu = field("model name").unwrap_or_else(|| "unknown CPU".to_owned());
        // Cloud machines mask the model name ("AMD EPYC"); family and model say
        // which core it really is.
        if let (Some(family), Some(model)) = (field("cpu family"), field("model")) {
            cpu += &format!(" (family {family} model {model})");
        }
        let flags = field("flags").unwrap_or_default();
        let has = |feature: &str| flags.split(' ').any(|flag| flag == feature);
        Self {
            cpu,
            arch: std::env::consts::ARCH.to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            caches: caches(),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").map_or_else(
                |_| std::env::consts::OS.to_owned(),
                |s| format!("Linux {}", s.trim()),
            ),
            memory_bytes: memory_bytes(),
            features: FEATURES
                .into_iter()
                .filter(|feature| has(feature))
                .map(str::to_owned)
                .collect(),
            virtual_machine: has("hypervisor"),
        }
    }

    /// One line for tables and plots.
    pub fn summary(&self) -> String {
        let caches: Vec<String> = (1..)
            .zip(&self.caches)
            .map(|(level, &size)| format!("L{level} {}", bytes(size)))
            .collect();
        format!(
            "{}, {} core{}{}, {}, {}",
            self.cpu,
            self.cores,
            if self.cores == 1 { "" } else { "s" },
            if self.virtual_machine { " (VM)" } else { "" },
            caches.join(" / "),
            self.kernel
        )
    }
}

/// A size in binary units, as caches are named.
fn bytes(n: usize) -> String {
    match n >> 20 {
        0 => format!("{} KiB", n >> 10),
        mebibytes => format!("{mebibytes} MiB"),
    }
}

fn caches() -> Vec<usize> {
    let size = |index: u32| {
        let read = |name: &str| {
            let path = format!("/sys/devices/system/cpu/cpu0/cache/index{index}/{name}");
            Some(fs::read_to_string(path).ok()?.trim().to_owned())
        };
        let kib: usize = read("size")?.strip_suffix('K')?.parse().ok()?;
        (read("type")? != "Instruction").then_some(kib << 10)
    };
    (0..8).filter_map(size).collect()
}

fn memory_bytes() -> u64 {
    fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| {
            let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        })
        .map_or(0, |kib| kib << 10)
}
