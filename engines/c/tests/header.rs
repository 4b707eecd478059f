//! `include/tritgemm.h` is what the sources say.
//!
//! After a change: `TRITGEMM_HEADER=write cargo test -p tritgemm-capi --test header`.

use std::path::Path;

/// In the order that the header has them.
const SOURCES: [&str; 17] = [
    "status",
    "product",
    "isa",
    "codec",
    "quant",
    "parallel_for",
    "team",
    "workspace",
    "matrix",
    "panels",
    "linear",
    "prepared",
    "outputs",
    "experts",
    "panel_file",
    "model_file",
    "model",
];

fn generated() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(root.join("cbindgen.toml")).expect("a configuration");
    let mut builder = cbindgen::Builder::new().with_config(config);
    for source in SOURCES {
        builder = builder.with_src(root.join(format!("src/{source}.rs")));
    }
    let mut header = Vec::new();
    builder.generate().expect("bindings").write(&mut header);
    String::from_utf8(header).expect("UTF-8")
}

#[test]
fn the_header_is_fresh() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("include/tritgemm.h");
    let wanted = generated();
    if std::env::var_os("TRITGEMM_HEADER").is_some_and(|v| v == "write") {
        std::fs::write(&path, &wanted).expect("written");
    }
    let header = std::fs::read_to_string(&path).expect("the header");
    let at = header.lines().zip(wanted.lines()).position(|(a, b)| a != b);
    assert!(
        header == wanted,
        "{} is stale from line {}: see the head of this test",
        path.display(),
        at.map_or(header.lines().count().min(wanted.lines().count()), |i| i) + 1
    );
}

/// Every function of the library is in the header, and only those.
#[test]
fn the_header_is_complete() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let header = std::fs::read_to_string(root.join("include/tritgemm.h")).expect("the header");
    let mut functions = 0;
    for entry in std::fs::read_dir(root.join("src")).expect("the sources") {
        let text = std::fs::read_to_string(entry.expect("a file").path()).expect("a source");
        let mut lines = text.lines();
        while lines.any(|line| line.contains("unsafe(no_mangle)")) {
            let line = lines.next().expect("a function");
            let name = line
                .split("fn ")
                .nth(1)
                .and_then(|rest| rest.split('(').next());
            let name = name.expect("a name");
            assert!(name.starts_with("tritgemm_"), "{name} has no prefix");
            assert!(
                header.contains(&format!("{name}(")),
                "{name} is not in the header"
            );
            functions += 1;
        }
    }
    // The two callback types end like functions.
    let code = header.lines().filter(|line| !line.starts_with("//"));
    let declared = code.filter(|line| line.ends_with(");")).count();
    assert_eq!(declared, functions + 2);
}
