//! Panel files: what is written comes back, and nothing else gets in.

mod hostile;
#[cfg(unix)]
mod killed;
mod model;
mod saving;
mod using;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use tritgemm::{PanelFile, PanelFileError, Verify};
use tritgemm_testing::case::{Case, Shape};

/// A directory of its own for each test, removed afterwards.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tritgemm-panel-file-{}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).expect("a new directory");
        Self(path)
    }

    fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).expect("the directory");
        let name = |e: std::io::Result<fs::DirEntry>| e.expect("an entry").file_name();
        let mut names: Vec<String> = entries
            .map(|e| name(e).to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn case(m: usize, k: usize, n: usize, granularity: usize, bias: bool) -> Case {
    Case::new(Shape {
        granularity,
        bias,
        seed: (m * 31 + k) as u64,
        ..Shape::new(m, k, n)
    })
}

/// One panel of 3 strips, per-row scales, bias: 128 + 192 + 8 + 8 bytes.
fn small() -> Vec<u8> {
    bytes(&PanelFile::from(&case(2, 9, 0, 2, true).layer))
}

fn bytes(file: &PanelFile) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.write_to(&mut bytes).expect("written to memory");
    bytes
}

fn parse(bytes: &[u8]) -> Result<PanelFile, PanelFileError> {
    PanelFile::from_bytes(bytes.to_vec(), Verify::Full)
}

fn assert_same(a: &PanelFile, b: &PanelFile) {
    let (x, y) = (a.panels(), b.panels());
    assert_eq!([x.rows(), x.cols()], [y.rows(), y.cols()]);
    assert_eq!(x.as_bytes(), y.as_bytes());
    assert_eq!(a.scales(), b.scales());
    assert_eq!(
        a.bias().map(tritgemm_testing::bits),
        b.bias().map(tritgemm_testing::bits)
    );
}

/// Through memory, through a file, and mapped.
fn assert_round_trip(file: &PanelFile, dir: &Dir) {
    let path = dir.join("round-trip.trit");
    file.save(&path).expect("saved");
    let written = fs::read(&path).expect("the file");
    assert_eq!(written, bytes(file), "save and write_to");
    for verify in [Verify::Full, Verify::Header] {
        let read = PanelFile::from_bytes(written.clone(), verify);
        assert_same(&read.expect("read"), file);
    }
    let loaded = PanelFile::load(&path).expect("loaded");
    assert_same(&loaded, file);
    let panels = loaded.panels().as_bytes();
    assert!(panels.as_ptr().addr().is_multiple_of(64), "loaded panels");
    mapped(&path, |mapped| {
        assert_same(mapped, file);
        let panels = mapped.panels().as_bytes();
        assert!(panels.as_ptr().addr().is_multiple_of(64), "mapped panels");
    });
}

#[cfg(feature = "mmap")]
fn mapped(path: &Path, check: impl Fn(&PanelFile)) {
    for verify in [Verify::Full, Verify::Header] {
        // SAFETY: the file is this test's, which does not change it in place.
        check(&unsafe { PanelFile::map(path, verify) }.expect("mapped"));
    }
}

#[cfg(not(feature = "mmap"))]
fn mapped(_: &Path, _: impl Fn(&PanelFile)) {}

/// CRC-32 by its definition, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    let bit = |crc: u32| (crc >> 1) ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 };
    let byte = |crc, &byte: &u8| (0..8).fold(crc ^ u32::from(byte), |crc, _| bit(crc));
    !bytes.iter().fold(!0, byte)
}
