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

/// A number of protobuf's.
fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 128 {
        bytes.push(value as u8 | 128);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn int(field: u64, value: u64) -> Vec<u8> {
    [varint(field << 3), varint(value)].concat()
}

fn bytes(field: u64, value: &[u8]) -> Vec<u8> {
    [
        varint(field << 3 | 2),
        varint(value.len() as u64),
        value.to_vec(),
    ]
    .concat()
}

/// Three initialisers of floats, each in a file of its own (`TensorProto.external_data`).
fn onnx(dir: &Dir) {
    let tensor = |i: u32| {
        let file = format!("data{i}");
        sparse(&dir.path(&file), &[], LEN);
        let location = [bytes(1, b"location"), bytes(2, file.as_bytes())].concat();
        let name = format!("t{i}");
        let parts = [
            int(1, LEN / 4),
            int(2, 1),
            bytes(8, name.as_bytes()),
            bytes(13, &location),
            int(14, 1),
        ];
        bytes(5, &parts.concat())
    };
    let graph: Vec<u8> = (0..3).flat_map(tensor).collect();
    let model = [int(1, 10), bytes(7, &graph)].concat();
    fs::write(dir.path("m.onnx"), model).unwrap();
}

#[test]
fn three_gigabytes_of_zeros_are_not_read() {
    for (write, container) in [
        (safetensors as fn(&Dir), "safetensors of 3 files"),
        (gguf, "GGUF of 3 files"),
        (onnx, "ONNX"),
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
