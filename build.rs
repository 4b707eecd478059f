//! Generates the decode and index tables and declares the crate's cfgs. It never
//! looks at the host CPU: everything it writes depends on the target alone.

use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Which folder of kernels the target has, decided once: `cfg(kernels = "...")`.
    println!("cargo::rustc-check-cfg=cfg(kernels, values(\"x86_64\", \"aarch64\"))");
    println!("cargo::rustc-check-cfg=cfg(loom)");
    let target = |key: &str| env::var(format!("CARGO_CFG_TARGET_{key}")).unwrap_or_default();
    match (target("ARCH").as_str(), target("ENDIAN").as_str()) {
        ("x86_64", _) => println!("cargo::rustc-cfg=kernels=\"x86_64\""),
        // The lanes of a NEON vector are numbered the other way on big-endian.
        ("aarch64", "little") => println!("cargo::rustc-cfg=kernels=\"aarch64\""),
        _ => {}
    }
    let out = Path::new(&env::var("OUT_DIR").expect("cargo sets OUT_DIR")).join("tables.rs");
    fs::write(&out, tables()).unwrap_or_else(|e| panic!("writing {}: {e}", out.display()));
}

/// The trit of a two-bit code; the unused code 11 decodes to 0.
fn trit(code: usize) -> i8 {
    [0, 1, -1, 0][code]
}

/// The base-3 digit of a two-bit code; the unused code 11 counts as 0.
fn digit(code: usize) -> usize {
    [0, 1, 2, 0][code]
}

fn codes(byte: usize) -> [usize; 4] {
    [byte >> 6, (byte >> 4) & 3, (byte >> 2) & 3, byte & 3]
}

fn tables() -> String {
    let mut s = String::new();
    let decode: Vec<[i8; 4]> = (0..256).map(|b| codes(b).map(trit)).collect();
    let legal: Vec<u8> = (0..256)
        .map(|b| (0..4).map(|j| u8::from(codes(b)[j] != 3) << j).sum())
        .collect();
    let index: Vec<u8> = (0..256)
        .map(|b| codes(b).iter().fold(0, |i, &c| 3 * i + digit(c)) as u8)
        .collect();
    let nibble: Vec<u8> = (0..16)
        .map(|n| (3 * digit(n >> 2) + digit(n & 3)) as u8)
        .collect();
    let nibble_high: Vec<u8> = nibble.iter().map(|i| 9 * i).collect();
    let mut put = |doc: &str, name: &str, ty: &str, value: String| {
        writeln!(s, "/// {doc}\npub static {name}: {ty} = {value};").expect("writing to a String");
    };
    put(
        "The four weights of a byte, first weight first; code 11 is 0.",
        "DECODE",
        "[[i8; 4]; 256]",
        format!("{decode:?}"),
    );
    put(
        "Bit j is set where weight j of a byte has a legal code.",
        "CODE_LEGAL",
        "[u8; 256]",
        format!("{legal:?}"),
    );
    put(
        "Base-3 index (0..81) of a byte's four weights, first weight most significant, digits 0, +1, -1 -> 0, 1, 2.",
        "BYTE_INDEX",
        "[u8; 256]",
        format!("{index:?}"),
    );
    put(
        "Base-3 index (0..9) of a nibble's two weights: the low nibble's share of `BYTE_INDEX`.",
        "NIBBLE_INDEX",
        "[u8; 16]",
        format!("{nibble:?}"),
    );
    put(
        "Nine times `NIBBLE_INDEX`: the high nibble's share of `BYTE_INDEX`.",
        "NIBBLE_INDEX_HIGH",
        "[u8; 16]",
        format!("{nibble_high:?}"),
    );
    s
}
