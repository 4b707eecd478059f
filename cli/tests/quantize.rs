//! `tritgemm quantize` from end to end.

mod common;

use common::{Dir, f32_tensor, floats, matrix, read, tritgemm, weights};
use half::{bf16, f16};
use predicates::prelude::*;
use safetensors::Dtype;
use std::fs;
use tritgemm::{Granularity, GroupSize, MatRef, TernaryMatrix};

#[test]
fn matrices_become_packed_and_the_rest_is_copied() {
    let dir = Dir::new();
    let norm = f32_tensor(&weights(7), &[7]);
    let ids = (Dtype::I64, vec![1, 2], vec![9; 16]);
    let tensors = [
        ("a.weight", matrix(5, 7)),
        ("norm", norm.clone()),
        ("ids", ids.clone()),
    ];
    let input = dir.write("in", &tensors, &[("format", "pt"), ("who", "me")]);
    let output = dir.path("out");
    tritgemm()
        .arg("quantize")
        .args([&input, &output])
        .assert()
        .success()
        .stdout(predicate::str::contains("a.weight").and(predicate::str::contains("5 x 7")))
        .stdout(predicate::str::contains("1 tensor ternarised, 2 copied"))
        .stderr("");

    let (tensors, metadata) = read(&output);
    let want = TernaryMatrix::quantize(
        MatRef::new(&weights(35), 5, 7).unwrap(),
        Granularity::PerRow,
    )
    .unwrap();
    assert_eq!(
        tensors["a.weight"],
        (Dtype::U8, vec![5, 2], want.packed().to_vec())
    );
    assert_eq!(floats(&tensors["a.weight.scales"]), want.scales().values());
    assert_eq!(tensors["a.weight.scales"].1, [5]);
    assert_eq!((&tensors["norm"], &tensors["ids"]), (&norm, &ids));
    assert_eq!(tensors.len(), 4);

    assert_eq!(
        (metadata["format"].as_str(), metadata["who"].as_str()),
        ("pt", "me")
    );
    assert_eq!(metadata["tritgemm.version"], "1");
    let listed: serde_json::Value = serde_json::from_str(&metadata["tritgemm.tensors"]).unwrap();
    let want = serde_json::json!({
        "a.weight": {"dtype": "F32", "shape": [5, 7], "granularity": "row"}
    });
    assert_eq!(listed, want);
    assert_eq!(dir.names(), ["in", "out"]);
}

#[test]
fn every_granularity_has_the_scales_of_the_library() {
    let dir = Dir::new();
    let input = dir.write("in", &[("w", matrix(3, 130))], &[]);
    let group = |size| Granularity::PerGroup(size);
    for (name, granularity, shape) in [
        ("tensor", Granularity::PerTensor, vec![1]),
        ("row", Granularity::PerRow, vec![3]),
        ("group64", group(GroupSize::G64), vec![3, 3]),
        ("group128", group(GroupSize::G128), vec![3, 2]),
        ("group256", group(GroupSize::G256), vec![3, 1]),
    ] {
        let output = dir.path(name);
        tritgemm()
            .arg("quantize")
            .args([&input, &output])
            .args(["--granularity", name])
            .assert()
            .success();
        let want =
            TernaryMatrix::quantize(MatRef::new(&weights(390), 3, 130).unwrap(), granularity)
                .unwrap();
        let (tensors, _) = read(&output);
        assert_eq!(tensors["w"].2, want.packed(), "{name}");
        assert_eq!(tensors["w.scales"].1, shape, "{name}");
        assert_eq!(
            floats(&tensors["w.scales"]),
            want.scales().values(),
            "{name}"
        );
        tritgemm().arg("verify").arg(&output).assert().success();
    }
}

#[test]
fn half_precision_inputs_widen_first() {
    let dir = Dir::new();
    let halves: Vec<f16> = weights(33).into_iter().map(f16::from_f32).collect();
    let brains: Vec<bf16> = weights(33).into_iter().map(bf16::from_f32).collect();
    let bytes = |bits: Vec<u16>| bits.into_iter().flat_map(u16::to_le_bytes).collect();
    let tensors = [
        (
            "h",
            (
                Dtype::F16,
                vec![3, 11],
                bytes(halves.iter().map(|h| h.to_bits()).collect()),
            ),
        ),
        (
            "b",
            (
                Dtype::BF16,
                vec![3, 11],
                bytes(brains.iter().map(|b| b.to_bits()).collect()),
            ),
        ),
        // An odd byte before them, so that they lie at odd addresses.
        ("odd", (Dtype::U8, vec![1], vec![1])),
    ];
    let (input, output) = (dir.write("in", &tensors, &[]), dir.path("out"));
    tritgemm()
        .arg("quantize")
        .args([&input, &output])
        .assert()
        .success();
    let (tensors, metadata) = read(&output);
    let wide = |w: Vec<f32>| {
        TernaryMatrix::quantize(MatRef::new(&w, 3, 11).unwrap(), Granularity::PerRow).unwrap()
    };
    let h = wide(halves.iter().map(|h| h.to_f32()).collect());
    let b = wide(brains.iter().map(|b| b.to_f32()).collect());
    assert_eq!(tensors["h"].2, h.packed());
    assert_eq!(tensors["b"].2, b.packed());
    assert_eq!(floats(&tensors["b.scales"]), b.scales().values());
    assert!(metadata["tritgemm.tensors"].contains("BF16"));
}

#[test]
fn names_choose() {
    let dir = Dir::new();
    let tensors = [
        ("x.embed.w", matrix(2, 4)),
        ("x.a.w", matrix(2, 4)),
        ("y.a.w", matrix(2, 4)),
    ];
    let input = dir.write("in", &tensors, &[]);
    for (args, want) in [
        (&["--exclude", "*embed*"][..], &["x.a.w", "y.a.w"][..]),
        (&["--include", "x.*"], &["x.a.w", "x.embed.w"]),
        (&["--include", "x.*", "--exclude", "*embed*"], &["x.a.w"]),
        (
            &["--include", "x.a.w", "--include", "y.?.w"],
            &["x.a.w", "y.a.w"],
        ),
    ] {
        let output = dir.path("out");
        tritgemm()
            .arg("quantize")
            .args([&input, &output])
            .args(args)
            .arg("--force")
            .assert()
            .success();
        let (tensors, _) = read(&output);
        let packed: Vec<&str> = tensors
            .iter()
            .filter(|t| t.1.0 == Dtype::U8)
            .map(|t| t.0.as_str())
            .collect();
        assert_eq!(packed, want, "{args:?}");
    }
    tritgemm()
        .arg("quantize")
        .args([&input, &dir.path("other")])
        .args(["--include", "z*"])
        .assert()
        .code(1)
        .stderr(predicate::str::contains("no tensor of").and(predicate::str::contains("`z*`")));
    tritgemm()
        .arg("quantize")
        .args([&input, &dir.path("other")])
        .args(["--include", "["])
        .assert()
        .code(2);
    assert_eq!(dir.names(), ["in", "out"]);
}

#[test]
fn odd_and_empty_shapes_pass() {
    let dir = Dir::new();
    let shapes = [
        [1, 1],
        [1, 3],
        [2, 5],
        [65, 13],
        [0, 5],
        [5, 0],
        [0, 0],
        [1, 257],
    ];
    let names: Vec<String> = shapes
        .iter()
        .map(|s| format!("w{}x{}", s[0], s[1]))
        .collect();
    let mut tensors: Vec<_> = Vec::new();
    for (name, [rows, cols]) in names.iter().zip(shapes) {
        tensors.push((name.as_str(), matrix(rows, cols)));
    }
    tensors.push(("zeros", f32_tensor(&[0.0; 12], &[3, 4])));
    let input = dir.write("in", &tensors, &[]);
    for granularity in ["tensor", "row", "group64"] {
        let output = dir.path(granularity);
        tritgemm()
            .arg("quantize")
            .args([&input, &output])
            .args(["--granularity", granularity])
            .assert()
            .success();
        tritgemm().arg("verify").arg(&output).assert().success();
        let (tensors, _) = read(&output);
        assert_eq!(tensors["w2x5"].1, [2, 2]);
        assert_eq!(tensors["w0x5"].1, [0, 2]);
        assert_eq!(tensors["w5x0"].1, [5, 0]);
    }
}

#[test]
fn sparsity_leaves_two_of_four() {
    let dir = Dir::new();
    let (input, output) = (
        dir.write("in", &[("w", matrix(9, 31))], &[]),
        dir.path("out"),
    );
    tritgemm()
        .arg("quantize")
        .args([&input, &output])
        .arg("--sparsity-2-4")
        .assert()
        .success();
    let (tensors, metadata) = read(&output);
    assert!(tensors["w"].2.iter().all(|byte| byte.count_ones() <= 2));
    assert!(metadata["tritgemm.tensors"].contains("2:4"));
    tritgemm().arg("verify").arg(&output).assert().success();
}

#[test]
fn the_same_input_gives_the_same_bytes_and_a_second_run_keeps_what_is_packed() {
    let dir = Dir::new();
    let tensors = [("a", matrix(4, 9)), ("b", matrix(8, 300))];
    let input = dir.write(
        "in",
        &tensors,
        &[("one", "1"), ("two", "2"), ("three", "3")],
    );
    let (first, second) = (dir.path("first"), dir.path("second"));
    for (output, threads) in [(&first, "1"), (&second, "3")] {
        tritgemm()
            .arg("quantize")
            .args([&input, output])
            .args(["--granularity", "group64", "--threads", threads])
            .assert()
            .success();
    }
    assert_eq!(fs::read(&first).unwrap(), fs::read(&second).unwrap());

    // The scales [8, 5] look like a float matrix, but are not weights.
    let again = dir.path("again");
    tritgemm()
        .arg("quantize")
        .args([&first, &again])
        .assert()
        .success()
        .stdout(predicate::str::contains("No tensor to ternarise"));
    assert_eq!(fs::read(&first).unwrap(), fs::read(&again).unwrap());
}

#[test]
fn not_a_number_is_an_error_with_its_place_and_leaves_no_file() {
    let dir = Dir::new();
    for bad in [f32::NAN, f32::INFINITY] {
        let mut values = weights(3 * 6);
        values[2 * 6 + 4] = bad;
        let tensors = [
            ("fine", matrix(64, 64)),
            ("layer.3.w", f32_tensor(&values, &[3, 6])),
        ];
        let input = dir.write("in", &tensors, &[]);
        let place = predicate::str::contains("`layer.3.w`")
            .and(predicate::str::contains("row 2, column 4"))
            .and(predicate::str::starts_with("error: "));
        tritgemm()
            .arg("quantize")
            .args([&input, &dir.path("out")])
            .assert()
            .code(1)
            .stdout("")
            .stderr(place);
        assert_eq!(dir.names(), ["in"]);
    }
}

#[test]
fn outputs_that_are_in_the_way() {
    let dir = Dir::new();
    let input = dir.write("in", &[("w", matrix(2, 4))], &[]);
    let before = fs::read(&input).unwrap();
    let fails = |output: &std::path::Path, force: bool, message: &str| {
        let mut command = tritgemm();
        command.arg("quantize").args([&input, output]);
        if force {
            command.arg("--force");
        }
        let one_line = predicate::function(|text: &str| text.lines().count() == 1);
        command
            .assert()
            .code(1)
            .stderr(predicate::str::contains(message.to_owned()).and(one_line));
    };
    fails(&input, true, "is the input file");
    fs::create_dir(dir.path("folder")).unwrap();
    fails(&dir.path("folder"), true, "is a directory");
    fails(&dir.path("missing/out"), false, "cannot create a file in");
    fs::write(dir.path("taken"), b"precious").unwrap();
    fails(&dir.path("taken"), false, "exists already");
    assert_eq!(fs::read(dir.path("taken")).unwrap(), b"precious");
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(&input, dir.path("link")).unwrap();
        fails(&dir.path("link"), true, "is the input file");
        fs::hard_link(&input, dir.path("hard")).unwrap();
        fails(&dir.path("hard"), true, "is the input file");
        fs::remove_file(dir.path("hard")).unwrap();
        fs::remove_file(dir.path("link")).unwrap();
    }
    assert_eq!(fs::read(&input).unwrap(), before);
    assert_eq!(dir.names(), ["folder", "in", "taken"]);
    let taken = dir.path("taken");
    tritgemm()
        .arg("quantize")
        .args([&input, &taken])
        .arg("--force")
        .assert()
        .success();
    assert!(read(&taken).0.contains_key("w.scales"));
}

#[test]
fn names_that_collide() {
    let dir = Dir::new();
    let tensors = [("w", matrix(2, 4)), ("w.scales", f32_tensor(&[1.0], &[1]))];
    let input = dir.write("in", &tensors, &[]);
    tritgemm()
        .arg("quantize")
        .args([&input, &dir.path("out")])
        .assert()
        .code(1)
        .stderr(predicate::str::contains("`w.scales` is in the way"));
    assert_eq!(dir.names(), ["in"]);
}

#[test]
fn broken_inputs_are_one_line_and_no_file() {
    let dir = Dir::new();
    let good = fs::read(dir.write(
        "good",
        &[("w", matrix(6, 10)), ("v", matrix(1, 3))],
        &[("a", "b")],
    ))
    .unwrap();
    fs::remove_file(dir.path("good")).unwrap();
    let mut inputs: Vec<Vec<u8>> = (0..good.len())
        .step_by(7)
        .map(|len| good[..len].to_vec())
        .collect();
    let with_header = |json: &str, data: usize| {
        let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(json.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    };
    inputs.push([&u64::MAX.to_le_bytes()[..], b"{}"].concat());
    inputs.push([&(1u64 << 40).to_le_bytes()[..], b"{}"].concat());
    inputs.push([&4u64.to_le_bytes()[..], b"\xff\xfe{}"].concat());
    inputs.push(with_header("[1,2]", 0));
    let huge = r#"{"w":{"dtype":"F32","shape":[18446744073709551615,4],"data_offsets":[0,16]}}"#;
    inputs.push(with_header(huge, 16));
    let huge = r#"{"w":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}"#;
    inputs.push(with_header(huge, 0));
    let backwards = r#"{"w":{"dtype":"F32","shape":[1,1],"data_offsets":[4,0]}}"#;
    inputs.push(with_header(backwards, 4));
    let beyond = r#"{"w":{"dtype":"F32","shape":[2,2],"data_offsets":[16,32]}}"#;
    inputs.push(with_header(beyond, 16));
    let wide = r#"{"w":{"dtype":"F32","shape":[0,99999999],"data_offsets":[0,0]}}"#;
    inputs.push(with_header(wide, 0));
    let newer = r#"{"__metadata__":{"tritgemm.version":"9","tritgemm.tensors":"{}"}}"#;
    inputs.push(with_header(newer, 0));
    let garbled = r#"{"__metadata__":{"tritgemm.version":"1","tritgemm.tensors":"[3]"}}"#;
    inputs.push(with_header(garbled, 0));
    for (i, bytes) in inputs.iter().enumerate() {
        let input = dir.path("in");
        fs::write(&input, bytes).unwrap();
        for command in [vec!["quantize", "in", "out"], vec!["verify", "in"]] {
            let output = tritgemm()
                .current_dir(dir.path(""))
                .args(&command)
                .output()
                .unwrap();
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert_eq!(
                output.status.code(),
                Some(1),
                "input {i} {command:?}: {stderr}"
            );
            assert!(stderr.starts_with("error: `in`: "), "input {i}: {stderr}");
            assert_eq!(stderr.lines().count(), 1, "input {i}: {stderr}");
        }
        assert_eq!(dir.names(), ["in"], "input {i}");
    }
}

#[test]
fn inputs_that_are_no_files() {
    let dir = Dir::new();
    let out = dir.path("out");
    for (input, message) in [
        (dir.path(""), "is a folder without"),
        (dir.path("none"), "cannot open"),
    ] {
        tritgemm()
            .arg("quantize")
            .args([&input, &out])
            .assert()
            .code(1)
            .stderr(predicate::str::contains(message));
    }
    #[cfg(unix)]
    tritgemm()
        .args(["quantize", "/dev/zero"])
        .arg(&out)
        .timeout(std::time::Duration::from_secs(10))
        .assert()
        .code(1)
        .stderr(predicate::str::contains("not a regular file"));
    assert!(dir.names().is_empty());
}
