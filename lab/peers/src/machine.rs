//! Which machine a run was made on; a figure without it says nothing.

use serde::{Deserialize, Serialize};
use std::fs;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    pub cpu: String,
    pub arch: String,
    pub cores: usize,
    pub caches: Vec<Cache>,
    pub kernel: String,
    pub memory_bytes: u64,
    /// CPU features that decide which kernels and ceilings run.
    pub features: Vec<String>,
    /// Set when the CPU flag says so: figures of a virtual machine depend on
    /// its host's other guests.
    pub virtual_machine: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cache {
    pub level: u32,
    pub kind: String,
    pub bytes: usize,
}

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
            features: features(),
            virtual_machine: field("flags")
                .is_some_and(|flags| flags.split(' ').any(|f| f == "hypervisor")),
        }
    }

    /// Size of the data or unified cache of a level.
    fn cache_bytes(&self, level: u32) -> Option<usize> {
        self.caches
            .iter()
            .find(|c| c.level == level && c.kind != "Instruction")
            .map(|c| c.bytes)
    }

    /// One line for tables and plots.
    pub fn summary(&self) -> String {
        let caches: Vec<String> = (1..=3)
            .filter_map(|l| Some(format!("L{l} {}", bytes(self.cache_bytes(l)?))))
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
pub fn bytes(n: usize) -> String {
    if n >= 1 << 30 {
        format!("{:.1} GiB", n as f64 / f64::from(1 << 30))
    } else if n >= 1 << 20 {
        format!("{} MiB", n >> 20)
    } else {
        format!("{} KiB", n >> 10)
    }
}

fn caches() -> Vec<Cache> {
    let mut found = Vec::new();
    for index in 0..8 {
        let read = |name| {
            fs::read_to_string(format!(
                "/sys/devices/system/cpu/cpu0/cache/index{index}/{name}"
            ))
            .map(|s| s.trim().to_owned())
        };
        let (Ok(level), Ok(kind), Ok(size)) = (read("level"), read("type"), read("size")) else {
            break;
        };
        let bytes = size
            .strip_suffix('K')
            .and_then(|k| k.parse::<usize>().ok())
            .map(|k| k << 10);
        if let (Ok(level), Some(bytes)) = (level.parse(), bytes) {
            found.push(Cache { level, kind, bytes });
        }
    }
    found
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

#[cfg(target_arch = "x86_64")]
fn features() -> Vec<String> {
    macro_rules! detect {
        ($($name:tt),*) => { [$(($name, is_x86_feature_detected!($name))),*] };
    }
    detect!(
        "avx2",
        "fma",
        "f16c",
        "avxvnni",
        "avx512f",
        "avx512bw",
        "avx512vl",
        "avx512vnni",
        "avx512vbmi"
    )
    .into_iter()
    .filter(|(_, present)| *present)
    .map(|(name, _)| name.to_owned())
    .collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn features() -> Vec<String> {
    Vec::new()
}
