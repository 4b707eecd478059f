//! Rotated matrices and tables, through every command.

mod common;

use common::models::{convert, refusal};
use common::{Dir, tritgemm};
use std::fs;
use std::path::{Path, PathBuf};
use tritgemm::{MatRef, Scales, TernaryMatrix};
use tritgemm_formats::ggml::TernaryType;
use tritgemm_formats::gguf::{Gguf, GgufWriter, TensorType, Value, ValueType};
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

/// A matrix with rotated inputs, in GGUF, with a table of rotated rows if `table`.
fn rotated(dir: &Dir, grouped: bool, table: bool) -> PathBuf {
    let mut writer = GgufWriter::new();
    let key = |name: &str| format!("prism.hadamard.{name}");
    writer.metadata(&key("version"), Value::U32(1)).unwrap();
    writer.metadata(&key("block_size"), Value::U32(64)).unwrap();
    for (name, text) in [
        ("transform", "normalized-sylvester-walsh-hadamard"),
        ("axis", "input-last-dimension"),
        ("sign_mode", "explicit"),
    ] {
        writer.metadata(&key(name), Value::from(text)).unwrap();
    }
    let signs = (0..128).map(|i| Value::I32(if i % 5 == 0 { -1 } else { 1 }));
    let array = writer.metadata_array(&key("sign_values"), ValueType::I32, signs);
    array.unwrap();
    let widths = [Value::I32(128)];
    let array = writer.metadata_array(&key("sign_widths"), ValueType::I32, widths);
    array.unwrap();
    let names = [Value::from("w")];
    let array = writer.metadata_array(&key("weight_names"), ValueType::String, names);
    array.unwrap();
    if grouped {
        let grouped = writer.metadata(&key("gdn_v_grouped"), Value::Bool(true));
        grouped.unwrap();
    }
    let rows = ["t"].into_iter().filter(|_| table).map(Value::from);
    let array = writer.metadata_array(&key("inverse_weight_names"), ValueType::String, rows);
    array.unwrap();
    let ty = TernaryType::Pq2_0;
    writer.tensor("w", &[128, 4], ty.into()).unwrap();
    if table {
        writer.tensor("t", &[128, 2], TensorType::F32).unwrap();
    }
    let mut out = writer.start(Vec::new()).unwrap();
    let bytes = ty.encode(&zeros(4, 128), ScaleRounding::Exact, "w");
    out.write(&bytes.unwrap()).unwrap();
    if table {
        out.write(&[0; 1024]).unwrap();
    }
    let path = dir.path("rotated.gguf");
    fs::write(&path, out.finish().unwrap()).unwrap();
    path
}

#[test]
fn rotations_are_shown_kept_and_refused() {
    let dir = Dir::new();
    let start = rotated(&dir, false, false);
    assert!(inspect(&start).contains("inputs by 64, signs"));
    let of = |path: &Path| {
        let model = open(path).unwrap();
        let rotation = model.matrices()[0].rotation.clone();
        rotation.expect("a rotation").rotation
    };
    let want = of(&start);
    let [ours, panels, gguf] = ["o.safetensors", "p.panels", "g.gguf"].map(|n| dir.path(n));
    convert(&start, &ours, &[]);
    convert(&start, &panels, &[]);
    for path in [&ours, &panels] {
        assert_eq!(of(path), want);
        tritgemm().arg("verify").arg(path).assert().success();
        convert(path, &gguf, &["--to", "q2_0", "--tensor", "*", "--force"]);
        assert!(inspect(&gguf).contains("inputs by 64, signs"));
    }
    convert(&start, &gguf, &["--to", "q2_0", "--force"]);
    assert_eq!(of(&gguf), want);
    let text = refusal(&dir, &start, &["--to", "hf"]);
    assert!(text.contains("`w` has rotated inputs"), "{text}");
}

/// `gdn_v_grouped` says how inputs of some matrices are ordered: it goes wherever they go.
#[test]
fn value_heads_in_groups_are_kept_or_refused() {
    let dir = Dir::new();
    let start = rotated(&dir, true, false);
    let (ours, back) = (dir.path("o.safetensors"), dir.path("b.gguf"));
    convert(&start, &ours, &[]);
    convert(&ours, &back, &["--to", "pq2_0"]);
    let bytes = fs::read(&back).unwrap();
    let gguf = Gguf::parse(&bytes).unwrap();
    let key = "prism.hadamard.gdn_v_grouped";
    assert_eq!(gguf.value(key), Some(Value::Bool(true)));
    let text = refusal(&dir, &start, &["--to", "panels"]);
    assert!(
        text.contains("`w`") && text.contains("gdn_v_grouped"),
        "{text}"
    );
}

/// A table of rotated rows that is not ternary: shown, kept where there is a place for it, and
/// left out where there is none if that is wished.
#[test]
fn rotated_tables_of_floats_are_shown_and_can_be_left_out() {
    let dir = Dir::new();
    let start = rotated(&dir, false, true);
    let text = inspect(&start);
    assert!(text.contains("rows by 64, signs"), "{text}");
    let json = tritgemm().arg("inspect").arg(&start).arg("--json").assert();
    let json: serde_json::Value = serde_json::from_slice(&json.get_output().stdout).unwrap();
    assert_eq!(json["others"][0]["rotation"], "rows by 64, signs");
    for target in ["safetensors", "panels"] {
        let text = refusal(&dir, &start, &["--to", target]);
        assert!(
            text.contains("`t`") && text.contains("is rotated"),
            "{text}"
        );
        let out = dir.path("out");
        convert(&start, &out, &["--to", target, "--skip-others", "--force"]);
        let model = open(&out).unwrap();
        assert!(model.matrices()[0].rotation.is_some() && model.others().is_empty());
    }
    let out = dir.path("out.gguf");
    convert(&start, &out, &["--to", "q2_0"]);
    assert!(open(&out).unwrap().tensor("t").unwrap().rotation.is_some());
}
