//! Models of gigabytes are looked at in little memory. In a file of its own: what is measured is
//! the largest of all processes that this one has started.
#![cfg(unix)]

mod common;

use common::Dir;
use nix::sys::resource::{UsageWho, getrusage};
use std::fs;
use std::path::Path;
use std::process::Command;
use tritgemm_formats::gguf::{GgufWriter, TensorType, Value};

/// Bytes of each file of three.
const LEN: u64 = 1 << 30;

/// The most memory that a look may take, in KiB.
const MOST: i64 = 200_000;

/// Writes `header`, and zeros that take no room on the disk after it.
fn sparse(path: &Path, header: &[u8], zeros: u64) {
    fs::write(path, header).unwrap();
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(header.len() as u64 + zeros).unwrap();
}

/// Three shards of floats.
fn safetensors(dir: &Dir) {
    for i in 0..3 {
        let header = format!(
            "{{\"t{i}\":{{\"dtype\":\"F32\",\"shape\":[{}],\"data_offsets\":[0,{LEN}]}}}}",
            LEN / 4
        );
        let len = (header.len() as u64).to_le_bytes();
        let path = dir.path(&format!("m-0000{}-of-00003.safetensors", i + 1));
        sparse(&path, &[&len, header.as_bytes()].concat(), LEN);
    }
}

/// Three parts, each of a ternary matrix of 66 bytes a block of 256.
fn gguf(dir: &Dir) {
    let blocks = LEN / 66;
    for i in 0..3u16 {
        let mut writer = GgufWriter::new();
        writer.metadata("split.no", Value::U16(i)).unwrap();
        writer.metadata("split.count", Value::U16(3)).unwrap();
        let name = format!("t{i}");
        let shape = [256, blocks];
        writer.tensor(&name, &shape, TensorType(35)).unwrap();
        let mut out = Vec::new();
        // Cut short before the bytes of its tensor: what is written is the header.
        drop(writer.start(&mut out).unwrap());
        let path = dir.path(&format!("m-0000{}-of-00003.gguf", i + 1));
        sparse(&path, &out, (66 * blocks).next_multiple_of(32));
    }
}

#[test]
fn three_gigabytes_of_zeros_are_not_read() {
    for (write, container) in [
        (safetensors as fn(&Dir), "safetensors of 3 files"),
        (gguf, "GGUF of 3 files"),
    ] {
        let dir = Dir::new();
        write(&dir);
        let mut command = Command::new(env!("CARGO_BIN_EXE_tritgemm"));
        let done = command.arg("inspect").arg(dir.path("")).output().unwrap();
        let error = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{error}");
        let text = String::from_utf8(done.stdout).unwrap();
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            text.contains("3.22 GB") && text.contains(container),
            "{text}"
        );
        // Linux counts in KiB, macOS in bytes.
        let unit = if cfg!(target_vendor = "apple") {
            1024
        } else {
            1
        };
        let most = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap().max_rss() / unit;
        assert!((1..MOST).contains(&most), "{container}: {most} KiB");
        println!("{container}: {most} KiB");
    }
}
