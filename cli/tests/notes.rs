//! What passes silently elsewhere: it is named here.

mod common;

use common::models::{convert, refusal};
use common::{Dir, f32_tensor, matrix, tritgemm};
use predicates::prelude::*;
use safetensors::Dtype;
use std::fs;
use std::path::{Path, PathBuf};
use tritgemm::{MatRef, Scales, TernaryMatrix};
use tritgemm_formats::ggml::TernaryType;
use tritgemm_formats::gguf::{Gguf, GgufWriter, TensorType, Value};
use tritgemm_formats::{ScaleRounding, open};

fn inspect(path: &Path) -> String {
    let done = tritgemm().arg("inspect").arg(path).assert().success();
    String::from_utf8(done.get_output().stdout.clone()).unwrap()
}

fn zeros(rows: usize, cols: usize) -> TernaryMatrix {
    let trits = vec![0; rows * cols];
    let trits = MatRef::new(&trits, rows, cols).unwrap();
    TernaryMatrix::from_trits(trits, Scales::per_tensor(0.5)).unwrap()
}

#[test]
fn the_layout_of_i2_s_is_said_and_chosen() {
    let dir = Dir::new();
    // Codes of four rows a byte: -1, 0, +1 and 0.
    let bytes = [vec![0b00_01_10_01u8; 32], vec![0; 32]].concat();
    let tensors: [common::models::GgufTensor<'_>; 1] =
        [("w", &[32, 4], TernaryType::I2S, Some(bytes))];
    let input = common::models::gguf(&dir, "in.gguf", &tensors);
    let mut wanted = Vec::new();
    for layout in ["x86", "rows4", "arm"] {
        let out = dir.path(&format!("{layout}.safetensors"));
        let text = convert(&input, &out, &["--skip-others", "--i2s-layout", layout]);
        assert!(text.contains(&format!("layout {layout}")), "{text}");
        wanted.push(
            open(&out)
                .unwrap()
                .ternary("w")
                .unwrap()
                .to_trits()
                .unwrap(),
        );
    }
    let rows: Vec<i8> = [-1, 0, 1, 0].iter().flat_map(|&t| [t; 32]).collect();
    assert_eq!(wanted[1], rows);
    assert!(inspect(&input).contains("in the layout x86"));
    let text = convert(&input, &dir.path("d.safetensors"), &["--skip-others"]);
    assert!(text.contains("in the layout x86"), "{text}");
}

fn packed(name: &'static str, scale: &[f32]) -> [(String, common::Tensor); 2] {
    let weights = (Dtype::U8, vec![2, 16], vec![0x15; 32]);
    [
        (name.to_owned(), weights),
        (format!("{name}_scale"), f32_tensor(scale, &[scale.len()])),
    ]
}

fn write(dir: &Dir, name: &str, tensors: &[(String, common::Tensor)]) -> PathBuf {
    let tensors: Vec<(&str, common::Tensor)> = tensors
        .iter()
        .map(|(name, tensor)| (name.as_str(), tensor.clone()))
        .collect();
    dir.write(name, &tensors, &[])
}

#[test]
fn another_quant_method_is_refused() {
    let dir = Dir::new();
    let input = write(&dir, "m.safetensors", &packed("l.weight", &[4.0]));
    for method in ["gptq", "awq", "compressed-tensors"] {
        let json = format!("{{\"quantization_config\":{{\"quant_method\":\"{method}\"}}}}");
        fs::write(dir.path("config.json"), json).unwrap();
        for class in [&[][..], &["--linear-class", "bitlinear"]] {
            let text = refusal(&dir, &input, &[&["--to", "safetensors"], class].concat());
            assert!(
                text.contains(method) && text.contains("config.json"),
                "{text}"
            );
        }
        let text = inspect(&input);
        assert!(
            text.contains(method) && text.contains("`l.weight`"),
            "{text}"
        );
    }
    let json = "\u{feff}{\"quantization_config\":{\"quant_method\":\"bitnet\"}}";
    fs::write(dir.path("config.json"), json).unwrap();
    convert(&input, &dir.path("out.safetensors"), &[]);
}

#[test]
fn packed_matrices_that_are_not_recognised_are_named() {
    let dir = Dir::new();
    let mut tensors = packed("l.weight", &[4.0]).to_vec();
    tensors.extend(packed("rows.weight", &[1.0; 8]));
    tensors.push(("lost.weight".into(), (Dtype::U8, vec![2, 16], vec![0; 32])));
    tensors.push(("odd.weight".into(), (Dtype::U8, vec![2, 16], vec![0; 32])));
    tensors.push(("odd.weight_scale".into(), (Dtype::I8, vec![1], vec![1])));
    tensors.push((
        "experts.weight".into(),
        (Dtype::U8, vec![3, 2, 8], vec![0; 48]),
    ));
    tensors.push(("experts.weight_scale".into(), f32_tensor(&[1.0], &[1])));
    tensors.push(("l.qweight".into(), (Dtype::I32, vec![2, 2], vec![0; 16])));
    // No weights, and no word about them.
    tensors.push(("ids".into(), (Dtype::U8, vec![2, 2], vec![0; 4])));
    let input = write(&dir, "m.safetensors", &tensors);
    let class = ["--linear-class", "autobitlinear"];
    let text = convert(&input, &dir.path("out.safetensors"), &class) + &inspect(&input);
    for name in [
        "rows.weight",
        "lost.weight",
        "odd.weight",
        "experts.weight",
        "l.qweight",
    ] {
        let named = text.matches(&format!("`{name}`")).count();
        assert_eq!(named, 2, "{name}: {text}");
    }
    assert!(!text.contains("`ids`"), "{text}");
}

#[test]
fn types_of_other_projects_are_named() {
    let dir = Dir::new();
    let mut writer = GgufWriter::new();
    let types = [
        (137, "IQ2_K"),
        (335, "IQ2_BN_R4"),
        (40, "NVFP4"),
        (999, "999"),
    ];
    for (id, name) in types {
        writer
            .tensor_of_len(name, &[32, 2], TensorType(id), 32)
            .unwrap();
    }
    writer
        .tensor("empty", &[256, 0], TernaryType::Tq2_0.into())
        .unwrap();
    let ty = TernaryType::Pq2_0;
    writer.tensor("w", &[128, 2], ty.into()).unwrap();
    let mut out = writer.start(Vec::new()).unwrap();
    for _ in types {
        out.write(&[0; 32]).unwrap();
    }
    out.write(&[]).unwrap();
    let bytes = ty.encode(&zeros(2, 128), ScaleRounding::Exact, "w");
    out.write(&bytes.unwrap()).unwrap();
    let input = dir.path("m.gguf");
    fs::write(&input, out.finish().unwrap()).unwrap();
    let text = inspect(&input);
    for (_, name) in types {
        assert!(text.contains(name), "{name}: {text}");
    }
    assert!(
        text.contains("PQ2_0") && text.contains("Not read"),
        "{text}"
    );
    assert!(
        text.contains("empty") && text.contains("1 ternary matrix"),
        "{text}"
    );
    let text = refusal(&dir, &input, &["--to", "safetensors"]);
    assert!(
        text.contains("has no place") && text.contains("--skip-others"),
        "{text}"
    );
    // An empty tensor keeps its place in GGUF.
    let out = dir.path("out.gguf");
    convert(&input, &out, &["--to", "q2_0"]);
    let bytes = fs::read(&out).unwrap();
    let gguf = Gguf::parse(&bytes).unwrap();
    assert_eq!(gguf.tensor("empty").unwrap().shape(), [256, 0]);
}

#[test]
fn scales_of_any_size_are_readable_and_advice_helps() {
    let dir = Dir::new();
    let tiny: Vec<f32> = (0..256).map(|i| 2e-5 * (i as f32).sin()).collect();
    let latent = dir.write("tiny", &[("w", f32_tensor(&tiny, &[4, 64]))], &[]);
    let mut command = tritgemm();
    command.arg("quantize").args([&latent, &dir.path("q")]);
    command
        .assert()
        .success()
        .stdout(predicate::str::contains("e-5").and(predicate::str::contains("0.0000").not()));
    // Beyond the largest f16: rounding is no way out.
    let large: Vec<f32> = vec![1e6; 256];
    let latent = dir.write("large", &[("w", f32_tensor(&large, &[1, 256]))], &[]);
    let mut command = tritgemm();
    command
        .arg("quantize")
        .args([&latent, &dir.path("l")])
        .assert()
        .success();
    for (args, advice) in [
        (&["--to", "tq2_0", "--round-scales"][..], "store any scale"),
        (&["--to", "tq2_0"], "--round-scales takes it"),
        (
            &["--to", "hf", "--scale-type", "f16", "--round-scales"],
            "--scale-type f32",
        ),
    ] {
        let text = refusal(&dir, &dir.path("l"), args);
        let wrong = args.contains(&"--round-scales") && text.contains("--round-scales takes it");
        assert!(text.contains(advice) && !wrong, "{text}");
    }
}

#[cfg(unix)]
#[test]
fn outputs_that_are_no_files_are_refused_before_they_are_opened() {
    let dir = Dir::new();
    let input = dir.write("in", &[("w", matrix(4, 256))], &[]);
    let packed = dir.path("packed");
    let mut command = tritgemm();
    command
        .arg("quantize")
        .args([&input, &packed])
        .assert()
        .success();
    let fifo = dir.path("fifo");
    let made = std::process::Command::new("mkfifo").arg(&fifo).status();
    assert!(made.unwrap().success());
    let socket = dir.path("socket");
    let _socket = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    for special in [fifo.as_path(), &socket, Path::new("/dev/null")] {
        let svg = ["--svg", special.to_str().unwrap()];
        let mut commands = [tritgemm(), tritgemm(), tritgemm()];
        commands[0].arg("quantize").arg(&input).arg(special);
        commands[1]
            .arg("convert")
            .arg(&packed)
            .arg(special)
            .args(["--to", "panels"]);
        commands[2].arg("inspect").arg(&packed).args(svg);
        for mut command in commands {
            command
                .arg("--force")
                .timeout(std::time::Duration::from_secs(20));
            let failed = command.assert().code(1);
            failed.stderr(predicate::str::contains("is not a regular file"));
        }
    }
}

#[cfg(unix)]
#[test]
fn a_replaced_file_keeps_its_mode() {
    use std::os::unix::fs::PermissionsExt;
    let dir = Dir::new();
    let input = dir.write("in", &[("w", matrix(4, 256))], &[]);
    let out = dir.path("out");
    for mode in [0o600, 0o640, 0o666, 0o444] {
        fs::write(&out, "old").unwrap();
        fs::set_permissions(&out, fs::Permissions::from_mode(mode)).unwrap();
        let mut command = tritgemm();
        command
            .arg("quantize")
            .args([&input, &out])
            .arg("--force")
            .assert()
            .success();
        assert_eq!(
            fs::metadata(&out).unwrap().permissions().mode() & 0o7777,
            mode
        );
    }
}

#[test]
fn messages_have_the_paths_that_were_given() {
    let dir = Dir::new();
    dir.write("in", &[("w", matrix(4, 256))], &[]);
    let text = tritgemm()
        .current_dir(dir.path(""))
        .args(["quantize", "in", "none/x.safetensors"])
        .assert()
        .code(1);
    let text = String::from_utf8(text.get_output().stderr.clone()).unwrap();
    assert!(text.starts_with("error: `none/x.safetensors`: "), "{text}");
    assert!(!text.contains(".part") && !text.contains("/tmp"), "{text}");
}

/// Nor is the temporary file named where it cannot be created: in a folder that takes no files,
/// and by a process that may open no more of them.
#[cfg(target_os = "linux")]
#[test]
fn no_message_names_a_temporary_file() {
    let dir = Dir::new();
    let input = dir.write("in", &[("w", matrix(4, 256))], &[]);
    let mut command = tritgemm();
    command
        .arg("quantize")
        .arg(&input)
        .arg("/proc/none.safetensors");
    let text = command.assert().code(1);
    let text = String::from_utf8(text.get_output().stderr.clone()).unwrap();
    assert!(
        text.starts_with("error: `/proc/none.safetensors`: cannot create a file in its folder"),
        "{text}"
    );
    assert!(!text.contains(".part"), "{text}");
    let mut refused = 0;
    for files in 4..16 {
        let script = format!("ulimit -n {files}; exec \"$0\" quantize in out --force --threads 1");
        let failed = std::process::Command::new("sh")
            .current_dir(dir.path(""))
            .args(["-c", &script, env!("CARGO_BIN_EXE_tritgemm")])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&failed.stderr);
        assert!(
            !text.contains(".part") && !text.contains(".tritgemm-"),
            "{files}: {text}"
        );
        refused += usize::from(text.contains("cannot create a file in its folder: Too many"));
    }
    assert!(refused > 0, "no limit that refuses the output alone");
}

#[test]
fn reports_fit_narrow_terminals_and_have_totals() {
    let dir = Dir::new();
    let names: Vec<String> = (0..3)
        .map(|i| format!("model.layers.{i}.mlp.experts.down_proj_with_a_long_name.weight"))
        .collect();
    let mut tensors: Vec<(&str, common::Tensor)> = names
        .iter()
        .map(|name| (name.as_str(), matrix(64, 256)))
        .collect();
    tensors.push(("model.norm.weight", f32_tensor(&[1.0; 4], &[4])));
    let latent = dir.write("latent", &tensors, &[]);
    let packed = dir.path("packed");
    let mut command = tritgemm();
    command
        .arg("quantize")
        .args([&latent, &packed])
        .assert()
        .success();
    for columns in ["80", "60", "40", "0"] {
        for args in [
            &["inspect"][..],
            &["inspect", "--all"],
            &["verify", "--tokens", "1"],
        ] {
            let mut command = tritgemm();
            let done = command
                .current_dir(dir.path(""))
                .env("COLUMNS", columns)
                .args(args)
                .arg("packed")
                .assert()
                .success();
            let text = String::from_utf8(done.get_output().stdout.clone()).unwrap();
            let width = columns.parse().unwrap();
            let fits = |line: &str| width == 0 || line.chars().count() <= width;
            assert!(text.lines().all(fits), "{columns}: {text}");
            // No word of a single letter, as of a name that was broken.
            assert!(!text.lines().any(|line| line.trim() == "d"), "{text}");
            assert!(!text.contains('\u{1b}'), "no colours in a pipe: {text}");
        }
    }
    // Metadata too, whose values are long.
    let mut writer = GgufWriter::new();
    let value = "a value of many words that go on and on ".repeat(9);
    let key = "tokenizer.chat_template.of_a_long_name_that_takes_most_of_a_line";
    writer.metadata(key, Value::from(value.as_str())).unwrap();
    let path = dir.path("metadata.gguf");
    fs::write(&path, writer.start(Vec::new()).unwrap().finish().unwrap()).unwrap();
    for width in [80, 61, 60, 59, 40] {
        let mut command = tritgemm();
        let command = command
            .current_dir(dir.path(""))
            .env("COLUMNS", width.to_string());
        let done = command
            .args(["inspect", "metadata.gguf"])
            .assert()
            .success();
        let text = String::from_utf8(done.get_output().stdout.clone()).unwrap();
        let fits = |line: &str| line.chars().count() <= width;
        assert!(text.lines().all(fits), "{width}: {text}");
    }
    let text = inspect(&packed);
    assert!(
        text.contains("Together 49152 weights, 2.125 bits each"),
        "{text}"
    );
    assert!(text.contains("model.layers.*.mlp"), "{text}");
}

#[test]
fn results_have_colours_where_they_are_wanted() {
    let dir = Dir::new();
    let latent = dir.write("latent", &[("w", matrix(4, 64))], &[]);
    let packed = dir.path("packed");
    let mut command = tritgemm();
    command
        .arg("quantize")
        .args([&latent, &packed])
        .assert()
        .success();
    let verify = |variables: &[(&str, &str)]| {
        let mut command = tritgemm();
        command.env_remove("NO_COLOR").env_remove("CLICOLOR_FORCE");
        command.envs(variables.iter().copied());
        let done = command.arg("verify").arg(&packed).assert().success();
        String::from_utf8(done.get_output().stdout.clone()).unwrap()
    };
    let green = "\u{1b}[32mequal\u{1b}[0m";
    assert!(verify(&[("CLICOLOR_FORCE", "1")]).contains(green));
    for variables in [&[][..], &[("NO_COLOR", "1")]] {
        assert!(!verify(variables).contains('\u{1b}'));
    }
    let mut command = tritgemm();
    command.env_remove("NO_COLOR").env("CLICOLOR_FORCE", "1");
    let failed = command.arg("verify").arg(&latent).assert().code(1);
    failed.stderr(predicate::str::contains("\u{1b}[31merror:").or(predicate::str::contains("31m")));
}

/// Embeddings and heads of GGUF files have types that safetensors lacks: their values are
/// written if that is wished.
#[test]
fn values_of_embeddings_are_written_as_floats() {
    let dir = Dir::new();
    let shape: &[u64] = &[256, 4];
    let tensors = [("w", shape, TernaryType::Tq2_0, None)];
    let input = common::models::gguf(&dir, "in.gguf", &tensors);
    let text = refusal(&dir, &input, &["--to", "safetensors"]);
    assert!(
        text.contains("`k_quant`") && text.contains("--dequantize"),
        "{text}"
    );
    for (target, name) in [("safetensors", "o.safetensors"), ("hf", "h.safetensors")] {
        let out = dir.path(name);
        convert(&input, &out, &["--to", target, "--dequantize"]);
        let values = |path: &Path| {
            let model = open(path).unwrap();
            let tensor = model.tensor("k_quant").unwrap();
            (tensor.shape.clone(), tensor.to_f32().unwrap())
        };
        let (shape, floats) = values(&out);
        assert_eq!((&shape[..], &floats), (&[256][..], &values(&input).1));
        assert!(floats.iter().any(|&v| v != 0.0));
    }
    // What no type is known for stays refused.
    let text = refusal(&dir, &input, &["--to", "panels", "--dequantize"]);
    assert!(text.contains("`k_quant`"), "{text}");
}

/// What is advised can be done: scales of 128 weights, which TQ2_0 has no place for.
#[test]
fn advice_names_types_that_hold_what_is_there() {
    let dir = Dir::new();
    let input = dir.write("in", &[("w", matrix(4, 256))], &[]);
    let [packed, start] = ["packed", "start.gguf"].map(|name| dir.path(name));
    let mut command = tritgemm();
    command.arg("quantize").args([&input, &packed]);
    command
        .args(["--granularity", "group128"])
        .assert()
        .success();
    convert(&packed, &start, &["--to", "pq2_0", "--round-scales"]);
    let text = refusal(&dir, &start, &["--to", "tq2_0"]);
    let types = "--to q2_0 or --to pq2_0 or --to ptq1_0 holds them";
    assert!(text.contains(types) && !text.contains("quantize"), "{text}");
    // K that no block of 256 fits, then none at all.
    for (cols, advice) in [(384, "--to q2_0 or --to pq2_0"), (100, "have any K")] {
        let input = dir.write("in", &[("w", matrix(4, cols))], &[]);
        let mut command = tritgemm();
        command
            .arg("quantize")
            .args([&input, &packed])
            .arg("--force");
        command.assert().success();
        let text = refusal(&dir, &packed, &["--to", "tq2_0", "--round-scales"]);
        assert!(text.contains(advice), "{text}");
        assert_eq!(text.contains("--to"), cols == 384, "{text}");
    }
    let text = refusal(&dir, &start, &["--to", "hf"]);
    assert!(
        text.contains("safetensors and panels store any scales"),
        "{text}"
    );
}
