//! `info`, `bench`, `demo`, and what all commands have in common.

mod common;

use common::{Dir, matrix, tritgemm};
use predicates::prelude::*;
use serde_json::Value;
use std::process::Stdio;

#[test]
fn info_tells_what_the_library_tells() {
    let output = tritgemm().args(["info", "--json"]).output().unwrap();
    assert!(output.status.success());
    let info: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(info["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(info["active"], tritgemm::Backend::best().name());
    let rows = info["registry"].as_array().unwrap();
    let names = |available: bool| {
        let rows = rows.iter().filter(move |row| row["available"] == available);
        rows.map(|row| row["name"].as_str().unwrap())
            .collect::<Vec<_>>()
    };
    let mut available = names(true);
    let mut want: Vec<&str> = tritgemm::Backend::available().map(|b| b.name()).collect();
    available.sort_unstable();
    want.sort_unstable();
    assert_eq!(available, want);
    // Of each row it is said why it does not run, feature by feature.
    let has = |feature: &Value| info["features"][feature.as_str().unwrap()] == true;
    for row in rows {
        let missing = row["missing"].as_array().unwrap();
        assert_eq!(missing.is_empty(), row["available"] == true, "{row}");
        if row["available"] == true && row["name"] != info["active"] {
            let looks_for = row["looks_for"].as_str().unwrap_or("another was chosen");
            let why = row["why"].as_str().unwrap();
            assert!(why.contains(looks_for) || why.contains("another"), "{row}");
        }
        let needs = row["needs"].as_array().unwrap();
        assert!(
            missing.iter().all(|f| needs.contains(f) && !has(f)),
            "{row}"
        );
        for feature in missing {
            assert!(
                row["why"]
                    .as_str()
                    .unwrap()
                    .contains(feature.as_str().unwrap())
            );
        }
    }
    let kernels = info["kernels"].as_array().unwrap();
    let want = tritgemm::diagnostics::kernels(tritgemm::Backend::best());
    assert_eq!(kernels.len(), want.len());
    for (kernel, want) in kernels.iter().zip(want) {
        assert_eq!(kernel["operation"], want.operation);
        assert_eq!(kernel["name"], want.name);
    }
    for (feature, has) in tritgemm::diagnostics::cpu_features() {
        assert_eq!(info["features"][feature], has);
    }
    let mut text = tritgemm().arg("info").assert().success();
    for row in rows {
        text = text.stdout(predicate::str::contains(row["name"].as_str().unwrap()));
    }
}

#[test]
fn the_isa_variable_is_obeyed_and_a_wrong_one_is_an_error() {
    tritgemm()
        .env("TRITGEMM_ISA", "scalar")
        .args(["info", "--json"])
        .assert()
        .success()
        .stdout(predicate::str::contains(r#""active":"scalar""#));
    tritgemm()
        .env("TRITGEMM_ISA", "mmx")
        .arg("info")
        .assert()
        .code(1)
        .stdout(predicate::str::contains("scalar"))
        .stderr(predicate::str::contains(
            "TRITGEMM_ISA: unknown instruction set `mmx`",
        ));
}

#[test]
fn bench_lines_have_exactly_the_fields_promised() {
    const FIELDS: [&str; 12] = [
        "backend",
        "act",
        "m",
        "k",
        "n",
        "threads",
        "weights_in_cache",
        "ns",
        "gmacs",
        "weight_gbs",
        "read_gbs",
        "spread",
    ];
    let output = tritgemm()
        .args([
            "bench", "--json", "--shape", "64x96", "--shape", "65x13", "--tokens", "1,9",
        ])
        .args(["--repeats", "1", "--threads", "2", "--residency", "hot"])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let lines = String::from_utf8(output.stdout).unwrap();
    assert_eq!(lines.lines().count(), 2 * 2 * 3);
    for line in lines.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let mut names: Vec<&str> = line
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        let mut want = FIELDS;
        names.sort_unstable();
        want.sort_unstable();
        assert_eq!(names, want);
        for number in ["ns", "gmacs", "weight_gbs", "read_gbs"] {
            assert!(line[number].as_f64().unwrap() > 0.0, "{number} in {line}");
        }
        assert_eq!(
            (&line["threads"], &line["weights_in_cache"]),
            (&2.into(), &true.into())
        );
        assert_eq!(line["backend"], tritgemm::Backend::best().name());
    }
}

#[test]
fn bench_prints_a_table_for_each_isa_asked_for() {
    tritgemm()
        .args([
            "bench",
            "--shape",
            "1024x1024",
            "--tokens",
            "1",
            "--act",
            "i8",
            "--repeats",
            "1",
        ])
        .args(["--isa", "scalar", "--residency", "hot,cold"])
        .assert()
        .success()
        .stdout(predicate::str::contains("1024x1024 weights from the cache"))
        .stdout(predicate::str::contains("1024x1024 weights from memory"))
        .stdout(
            predicate::str::is_match(r"(?m)^scalar +i8 +1 ")
                .unwrap()
                .count(2),
        );
}

#[test]
fn bench_refuses_what_it_cannot_do() {
    let cold = ["bench", "--shape", "4x4", "--residency", "cold"];
    tritgemm()
        .args(cold)
        .assert()
        .code(1)
        .stderr(predicate::str::contains("too few to be cold"));
    let large = ["bench", "--shape", "9000000000x9000000"];
    tritgemm()
        .args(large)
        .assert()
        .code(1)
        .stderr(predicate::str::contains("memory"));
    let large = [
        "bench",
        "--shape",
        "18446744073709551615x18446744073709551615",
    ];
    tritgemm()
        .args(large)
        .assert()
        .code(1)
        .stderr(predicate::str::contains("memory"));
    let foreign = if cfg!(target_arch = "x86_64") {
        "neon"
    } else {
        "avx2"
    };
    tritgemm()
        .args(["bench", "--isa", foreign])
        .assert()
        .code(1);
}

#[test]
fn usage_errors_have_their_own_exit_code() {
    for args in [
        &[][..],
        &["frobnicate"],
        &["quantize", "only-one"],
        &["quantize", "a", "b", "--granularity", "column"],
        &["bench", "--shape", "12"],
        &["bench", "--shape", "0x3"],
        &["bench", "--tokens", "0"],
        &["bench", "--threads", "0"],
        &["bench", "--isa", "mmx"],
        &["bench", "--isa", "scalar/zen4"],
        &["verify", "f", "--tokens", "x"],
    ] {
        tritgemm().args(args).assert().code(2).stdout("");
    }
    for args in [
        &["--help"][..],
        &["quantize", "--help"],
        &["bench", "--help"],
        &["--version"],
    ] {
        tritgemm().args(args).assert().success().stderr("");
    }
    tritgemm()
        .args(["quantize", "--help"])
        .assert()
        .stdout(predicate::str::contains("tritgemm.tensors"));
}

#[test]
fn demo_runs_without_any_file_and_fits_a_narrow_terminal() {
    let done = tritgemm()
        .arg("demo")
        .env("COLUMNS", "60")
        .assert()
        .success()
        .stdout(predicate::str::contains("12 tensors ternarised, 2 copied"))
        .stdout(predicate::str::contains("bit for bit"))
        // No name is torn apart.
        .stdout(predicate::str::contains("block.1.feed_forward.down"));
    let text = String::from_utf8(done.get_output().stdout.clone()).unwrap();
    // The path is as long as it is.
    for line in text.lines().filter(|line| !line.contains("Written to")) {
        assert!(line.chars().count() <= 60, "{line}");
    }
}

/// `tritgemm ... | head` is no failure.
#[test]
fn a_reader_that_leaves_is_no_error() {
    for args in [["bench", "--help"], ["info", "--json"]] {
        let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_tritgemm"))
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{args:?}");
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    }
}

/// Ctrl-C in the middle of a long run leaves no temporary file, nor does SIGTERM where
/// hang-ups are ignored, as under `nohup`, nor another signal that ends a process.
#[cfg(target_os = "linux")]
#[test]
fn a_signal_leaves_no_temporary_file() {
    interrupted("INT", 2, "");
    interrupted("TERM", 15, "trap '' HUP; ");
    for (signal, number) in [
        ("QUIT", 3),
        ("USR1", 10),
        ("ALRM", 14),
        ("XCPU", 24),
        // Those of faults, when they are sent.
        ("ILL", 4),
        ("FPE", 8),
        ("SEGV", 11),
        ("40", 40),
    ] {
        interrupted(signal, number, "");
    }
}

/// Starts a quantization from a shell, after `before`, and ends it by `signal`.
#[cfg(target_os = "linux")]
fn interrupted(signal: &str, number: i32, before: &str) {
    let dir = Dir::new();
    let names: Vec<String> = (0..40).map(|i| format!("w{i}")).collect();
    let tensors: Vec<_> = names
        .iter()
        .map(|n| (n.as_str(), matrix(512, 1024)))
        .collect();
    let input = dir.write("in", &tensors, &[]);
    let mut child = std::process::Command::new("sh")
        .args(["-c", &format!("{before}exec \"$0\" quantize \"$@\"")])
        .arg(env!("CARGO_BIN_EXE_tritgemm"))
        .args([&input, &dir.path("out")])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    while dir.names().len() < 2 {
        std::thread::sleep(std::time::Duration::from_micros(200));
    }
    let kill = format!("kill -{signal} {}", child.id());
    std::process::Command::new("sh")
        .args(["-c", &kill])
        .status()
        .unwrap();
    let status = child.wait().unwrap();
    let names = dir.names();
    // It may have been quicker than the signal.
    match status.code() {
        Some(code) if code == 128 + number => assert_eq!(names, ["in"]),
        Some(0) => assert_eq!(names, ["in", "out"]),
        _ => panic!("{status}"),
    }
}
