//! Models in several files, through every command.

mod common;

use common::models::{convert, ours, refusal};
use common::{Dir, f32_tensor, matrix, read, tritgemm, weights};
use predicates::prelude::*;
use safetensors::Dtype;
use std::fs;
use std::path::{Path, PathBuf};
use tritgemm_formats::gguf::Gguf;
use tritgemm_formats::open;

fn inspect(path: &Path, args: &[&str]) -> String {
    let mut command = tritgemm();
    let done = command
        .arg("inspect")
        .arg(path)
        .args(args)
        .assert()
        .success();
    String::from_utf8(done.get_output().stdout.clone()).unwrap()
}

/// Every byte of two models' tensors, by their names.
fn assert_equal(a: &Path, b: &Path) {
    let (a, b) = (open(a).unwrap(), open(b).unwrap());
    assert_eq!(a.matrices().len(), b.matrices().len());
    for (a, b) in a.matrices().iter().zip(b.matrices()) {
        assert_eq!((&a.name, a.read().unwrap()), (&b.name, b.read().unwrap()));
    }
    for other in a.others() {
        assert_eq!(b.tensor(&other.name).unwrap().bytes(), other.bytes());
    }
    assert_eq!(a.metadata(), b.metadata());
}

#[test]
fn shards_are_written_and_read_by_every_command() {
    let dir = Dir::new();
    let whole = ours(&dir, "tensor", &[[4, 256], [8, 256], [4, 512]]);
    let sharded = dir.path("sharded.safetensors");
    convert(&whole, &sharded, &["--shard-size", "600"]);
    assert!(!sharded.exists());
    let index = dir.path("sharded.safetensors.index.json");
    let parts = dir
        .names()
        .into_iter()
        .filter(|n| n.starts_with("sharded-"));
    assert!(parts.count() > 1, "{:?}", dir.names());
    assert_equal(&whole, &index);
    tritgemm().arg("verify").arg(&index).assert().success();
    assert!(inspect(&index, &[]).contains("3 ternary matrices"));
    // To split GGUF, and back to one file.
    let split = dir.path("m.gguf");
    let args = ["--shard-size", "500", "--round-scales"];
    convert(&index, &split, &args);
    let first = dir
        .names()
        .into_iter()
        .find(|n| n.starts_with("m-00001-of-"));
    let first = dir.path(&first.unwrap());
    tritgemm().arg("verify").arg(&first).assert().success();
    assert!(inspect(&first, &[]).contains(" files, "));
    let (back, again) = (dir.path("back.safetensors"), dir.path("again.gguf"));
    convert(&first, &back, &[]);
    convert(&back, &again, &[]);
    assert_equal(&first, &again);
    let bytes = fs::read(&again).unwrap();
    let gguf = Gguf::parse(&bytes).unwrap();
    assert!(gguf.metadata().all(|(key, _)| !key.starts_with("split.")));
    // HF BitNet in shards says what it is in each.
    let hf = dir.path("hf.safetensors");
    let args = ["--to", "hf", "--scale-type", "f32", "--shard-size", "500"];
    convert(&whole, &hf, &args);
    let from_hf = dir.path("from_hf.safetensors");
    convert(&dir.path("hf.safetensors.index.json"), &from_hf, &[]);
    assert_equal(&whole, &from_hf);
    // What fits into one file is one.
    let one = dir.path("one.safetensors");
    convert(&whole, &one, &["--shard-size", "1GB"]);
    assert_eq!(fs::read(&one).unwrap(), fs::read(&whole).unwrap());
    let text = refusal(
        &dir,
        &whole,
        &["--to", "panels", "--skip-others", "--shard-size", "1GB"],
    );
    assert!(text.contains("a panel file is one file"), "{text}");
}

#[test]
fn quantize_reads_and_writes_shards() {
    let dir = Dir::new();
    let tensors = [
        ("a.weight", matrix(8, 64)),
        ("b.weight", matrix(8, 64)),
        ("norm", f32_tensor(&weights(5), &[5])),
    ];
    let latent = dir.write("latent.safetensors", &tensors, &[("format", "pt")]);
    let (one, two) = (dir.path("one.safetensors"), dir.path("two.safetensors"));
    let quantize = |input: &Path, output: &Path, args: &[&str]| {
        let mut command = tritgemm();
        command.arg("quantize").args([input, output]).args(args);
        command.assert()
    };
    quantize(&latent, &one, &[]).success();
    quantize(&latent, &two, &["--shard-size", "150"]).success();
    let index = dir.path("two.safetensors.index.json");
    assert_equal(&one, &index);
    // Shards of floats, by their folder.
    fs::create_dir(dir.path("f")).unwrap();
    for (i, pair) in [&tensors[..1], &tensors[1..]].into_iter().enumerate() {
        dir.write(
            &format!("f/m-0000{}-of-00002.safetensors", i + 1),
            pair,
            &[],
        );
    }
    let three = dir.path("three.safetensors");
    quantize(&dir.path("f"), &three, &[]).success();
    assert_eq!(read(&three).0, read(&one).0);
    // No output is a file of the input.
    let part = dir.path("f/m-00001-of-00002.safetensors");
    let refused = predicate::str::contains("is the input file");
    quantize(&dir.path("f"), &part, &["--force"])
        .code(1)
        .stderr(refused);
    let needs = predicate::str::contains("ending .safetensors");
    quantize(&latent, &dir.path("x.bin"), &["--shard-size", "150"])
        .code(1)
        .stderr(needs);
}

/// No file is larger than was asked for, whatever its header takes, unless it is of one tensor.
#[test]
fn shards_are_no_larger_than_asked_for() {
    let dir = Dir::new();
    let names: Vec<String> = (0..40)
        .map(|i| format!("a.name.that.is.longer.than.its.weights.{i}.weight"))
        .collect();
    let tensors: Vec<_> = names.iter().map(|n| (n.as_str(), matrix(2, 64))).collect();
    let long = "metadata ".repeat(100);
    let latent = dir.write("latent", &tensors, &[("about", &long)]);
    let packed = dir.path("packed");
    let mut command = tritgemm();
    command
        .arg("quantize")
        .args([&latent, &packed])
        .assert()
        .success();
    for (format, ending) in [
        ("safetensors", "safetensors"),
        ("hf", "safetensors"),
        ("q2_0", "gguf"),
    ] {
        for most in [2000u64, 7000, 9000] {
            // The metadata of a split GGUF stands in its first part, whole.
            if format == "q2_0" && most < 6000 {
                continue;
            }
            let dir = Dir::new();
            let out = dir.path(&format!("m.{ending}"));
            let size = most.to_string();
            let args = ["--to", format, "--round-scales", "--shard-size", &size];
            if format == "hf" {
                // One scale a tensor.
                let mut command = tritgemm();
                let command = command.arg("quantize").args([&latent, &packed]);
                command
                    .args(["--granularity", "tensor", "--force"])
                    .assert()
                    .success();
            }
            convert(&packed, &out, &args);
            let parts = dir.names().into_iter().filter(|n| n.ends_with(ending));
            let lens: Vec<u64> = parts
                .map(|name| fs::metadata(dir.path(&name)).unwrap().len())
                .collect();
            assert!(lens.len() > 1, "{format} {most}: {lens:?}");
            assert!(
                lens.iter().all(|&len| len <= most),
                "{format} {most}: {lens:?}"
            );
            // Nor is room wasted: the files are more than half full.
            let least = lens.iter().sum::<u64>().div_ceil(most);
            assert!(lens.len() as u64 <= 2 * least, "{format} {most}: {lens:?}");
        }
    }
}

/// Of many files no more than one is open.
#[cfg(target_os = "linux")]
#[test]
fn more_shards_are_written_than_may_be_open() {
    let dir = Dir::new();
    let names: Vec<String> = (0..60).map(|i| format!("l.{i}.weight")).collect();
    let tensors: Vec<_> = names.iter().map(|n| (n.as_str(), matrix(2, 64))).collect();
    dir.write("latent", &tensors, &[]);
    for command in [
        "quantize latent q.safetensors --shard-size 300",
        "convert q.safetensors.index.json o.safetensors --shard-size 300",
        "convert q.safetensors.index.json o.gguf --to q2_0 --round-scales --shard-size 300",
    ] {
        let script = format!("ulimit -n 24; exec \"$0\" {command} --threads 1");
        let done = std::process::Command::new("sh")
            .current_dir(dir.path(""))
            .args(["-c", &script, env!("CARGO_BIN_EXE_tritgemm")])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{command}: {text}");
    }
    for ending in [".gguf", ".safetensors"] {
        let files = dir.names().into_iter();
        let files = files.filter(|n| n.starts_with("o-") && n.ends_with(ending));
        assert!(files.count() >= 60, "{:?}", dir.names());
    }
}

/// Ternary matrices of gigabytes are counted only if asked: the report says so.
#[cfg(unix)]
#[test]
fn gigabytes_of_ternary_zeros_are_not_read_unasked() {
    let dir = Dir::new();
    let (rows, packed) = (1u64 << 21, 512u64);
    let len = rows * packed;
    let info = format!(
        "{{\\\"w\\\":{{\\\"dtype\\\":\\\"F32\\\",\\\"shape\\\":[{rows},{}],\\\"granularity\\\":\\\"tensor\\\"}}}}",
        4 * packed
    );
    let header = format!(
        "{{\"__metadata__\":{{\"tritgemm.version\":\"1\",\"tritgemm.tensors\":\"{info}\"}},\
         \"w\":{{\"dtype\":\"U8\",\"shape\":[{rows},{packed}],\"data_offsets\":[4,{}]}},\
         \"w.scales\":{{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}}}",
        len + 4
    );
    let path = dir.path("zeros.safetensors");
    let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat();
    fs::write(&path, &bytes).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(bytes.len() as u64 + len + 4).unwrap();
    let inspect = |more: &[&str]| {
        let done = tritgemm().arg("inspect").arg(&path).args(more).assert();
        String::from_utf8(done.success().get_output().stdout.clone()).unwrap()
    };
    let text = inspect(&[]);
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let unread = "4294967296 weights, 2.000 bits each, not read: --count reads so many too";
    assert!(text.contains(unread), "{text}");
    let report: serde_json::Value = serde_json::from_str(&inspect(&["--json"])).unwrap();
    let m = &report["matrices"][0];
    assert_eq!(m["shape"], serde_json::json!([rows, 4 * packed]));
    assert!(m["zero"].is_null() && m["scale_count"].is_null(), "{m}");
}

/// The index of a folder is a file of the input, and so is everything beside it.
#[test]
fn nothing_in_the_folder_of_the_input_is_replaced() {
    let dir = Dir::new();
    let latent = dir.write("latent", &[("a", matrix(4, 64)), ("b", matrix(4, 64))], &[]);
    let folder = dir.path("shards");
    fs::create_dir(&folder).unwrap();
    let folder = std::path::Path::new(&folder);
    let shards = folder.join("model.safetensors");
    let mut command = tritgemm();
    command.arg("quantize").arg(&latent).arg(&shards);
    command.args(["--shard-size", "100"]).assert().success();
    let index = folder.join("model.safetensors.index.json");
    let before = fs::read(&index).unwrap();
    let refused = predicate::str::contains("needs another name to write to");
    for (command, more) in [
        ("quantize", ["--threads", "1"]),
        ("convert", ["--to", "safetensors"]),
        ("quantize", ["--shard-size", "100"]),
    ] {
        for output in [
            &index,
            &shards,
            &folder.join("model-00001-of-00004.safetensors"),
        ] {
            // One file of another name would be new; several have an index, which is not.
            if *output == shards && more[0] != "--shard-size" {
                continue;
            }
            let mut run = tritgemm();
            run.arg(command)
                .arg(folder)
                .arg(output)
                .args(more)
                .arg("--force");
            run.assert().code(1).stderr(refused.clone());
            assert_eq!(fs::read(&index).unwrap(), before, "{command} {output:?}");
        }
    }
    let mut draw = tritgemm();
    draw.arg("inspect")
        .arg(folder)
        .arg("--svg")
        .arg(&index)
        .arg("--force");
    draw.assert().code(1).stderr(refused);
    assert_eq!(fs::read(&index).unwrap(), before);
}

/// A name that a target cannot hold, a stack and a rotation that it cannot say.
#[test]
fn what_a_target_cannot_say_is_refused_by_name() {
    let dir = Dir::new();
    let long = "x".repeat(64);
    let latent = dir.write("latent", &[(long.as_str(), matrix(2, 256))], &[]);
    let packed = dir.path("packed");
    let mut command = tritgemm();
    command
        .arg("quantize")
        .args([&latent, &packed])
        .assert()
        .success();
    for target in ["tq1_0", "q2_0", "pq2_0"] {
        let text = refusal(&dir, &packed, &["--to", target, "--round-scales"]);
        assert!(text.contains("64 bytes") && text.contains(&long), "{text}");
    }
    let stack = stack(&dir);
    for target in ["hf", "panels"] {
        let text = refusal(&dir, &stack, &["--to", target, "--skip-others"]);
        assert!(
            text.contains("`e`") && text.contains("[3, 4, 512]"),
            "{text}"
        );
    }
}

/// A GGUF file of a stack of three matrices.
fn stack(dir: &Dir) -> PathBuf {
    use tritgemm_formats::ggml::TernaryType;
    let shape: &[u64] = &[512, 4, 3];
    common::models::gguf(dir, "stack", &[("e", shape, TernaryType::Tq2_0, None)])
}

#[test]
fn stacks_keep_their_shape_through_every_format() {
    let dir = Dir::new();
    let (ours, back) = (dir.path("ours.safetensors"), dir.path("back.gguf"));
    convert(&stack(&dir), &ours, &["--skip-others"]);
    for target in ["tq2_0", "tq1_0", "q2_0", "pq2_0", "ptq1_0"] {
        convert(&ours, &back, &["--to", target, "--force"]);
        let bytes = fs::read(&back).unwrap();
        let gguf = Gguf::parse(&bytes).unwrap();
        assert_eq!(gguf.tensor("e").unwrap().shape(), [512, 4, 3], "{target}");
    }
    tritgemm().arg("verify").arg(&ours).assert().success();
    assert!(inspect(&ours, &[]).contains("3 x 4 x 512"));
    // A stack that contradicts its matrix.
    let bytes = fs::read(&ours).unwrap();
    let at = bytes.windows(9).position(|w| w == b"[3,4,512]").unwrap();
    let mut spoiled = bytes;
    spoiled[at + 1] = b'2';
    fs::write(dir.path("spoiled.safetensors"), spoiled).unwrap();
    let text = refusal(&dir, &dir.path("spoiled.safetensors"), &["--to", "tq2_0"]);
    assert!(
        text.contains("`e`") && text.contains("is a stack"),
        "{text}"
    );
}

#[test]
fn every_new_type_comes_back_byte_for_byte() {
    let dir = Dir::new();
    let start = ours(&dir, "group128", &[[5, 256], [64, 768]]);
    let exact = dir.path("exact.safetensors");
    let first = dir.path("first.gguf");
    convert(&start, &first, &["--to", "pq2_0", "--round-scales"]);
    convert(&first, &exact, &[]);
    for format in ["q2_0", "pq2_0", "ptq1_0"] {
        let (there, back) = (dir.path("there.gguf"), dir.path("back.safetensors"));
        convert(&exact, &there, &["--to", format, "--force"]);
        convert(&there, &back, &["--force"]);
        assert_eq!(
            fs::read(&back).unwrap(),
            fs::read(&exact).unwrap(),
            "{format}"
        );
        tritgemm().arg("verify").arg(&there).assert().success();
    }
    // From one runtime's type to the other's.
    let (q2_0, again) = (dir.path("q2_0.gguf"), dir.path("pq2_0.gguf"));
    convert(&first, &q2_0, &["--to", "q2_0"]);
    convert(&q2_0, &again, &["--to", "pq2_0"]);
    assert_equal(&first, &again);
}

/// From one runtime's type to the other's and back: the metadata gains no key.
#[test]
fn metadata_gains_nothing_on_the_way() {
    let dir = Dir::new();
    let (there, back) = (dir.path("there.gguf"), dir.path("back.gguf"));
    let shape: &[u64] = &[256, 4];
    let tensors = [("w", shape, tritgemm_formats::ggml::TernaryType::Pq2_0, None)];
    let start = common::models::gguf(&dir, "start.gguf", &tensors);
    convert(&start, &there, &["--to", "q2_0"]);
    convert(&there, &back, &["--to", "pq2_0"]);
    let keys = |path: &Path| {
        let bytes = fs::read(path).unwrap();
        let gguf = Gguf::parse(&bytes).unwrap();
        let keys = gguf.metadata().map(|(key, _)| key.to_owned());
        // The number of the file's type is that of its own.
        keys.filter(|key| key != "general.file_type")
            .collect::<Vec<_>>()
    };
    assert_eq!(keys(&back), keys(&start));
    assert_equal(&start, &back);
}

#[test]
fn twenty_thousand_tensors_take_one_look_each() {
    let dir = Dir::new();
    let count = 20_000;
    let names: Vec<String> = (0..count).map(|i| format!("l.{i}.w")).collect();
    let tensors: Vec<_> = names
        .iter()
        .map(|name| (name.as_str(), (Dtype::F32, vec![1, 64], vec![1; 256])))
        .collect();
    let latent = dir.write("latent", &tensors, &[]);
    let packed = dir.path("packed");
    // Quadratic work would be 400 million comparisons of names in each command.
    let mut command = tritgemm();
    command.arg("quantize").args([&latent, &packed]);
    command
        .timeout(std::time::Duration::from_secs(60))
        .assert()
        .success();
    let gguf = dir.path("q.gguf");
    convert(&packed, &gguf, &["--to", "q2_0", "--round-scales"]);
    let text = inspect(&gguf, &[]);
    assert!(text.contains("l.*.w (20000)"), "{text}");
    let lines = inspect(&gguf, &["--all"]).lines().count();
    assert!(lines > count, "{lines}");
}
