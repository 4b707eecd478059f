//! The plug-in is never unloaded.

fn main() {
    // ggml can close a plug-in's library while streams of it live, and what it has of it, down to
    // the names of devices, is memory of the library.
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux") {
        println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
    }
    println!("cargo::rerun-if-changed=build.rs");
}
