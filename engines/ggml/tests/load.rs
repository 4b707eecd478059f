//! The plug-in's library in processes that have no ggml.
#![cfg(target_os = "linux")]

use libc::{RTLD_LAZY, RTLD_LOCAL, dlclose, dlopen, dlsym};
use std::ffi::{CString, c_int, c_void};
use std::path::PathBuf;
use std::process::Command;
use tritgemm_testing::child::child;

/// Where cargo has built it, beside this test.
fn library() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let library = test.with_file_name("libtritgemm_ggml.so");
    assert!(library.exists(), "{}", library.display());
    library
}

#[test]
#[ignore = "a process of its own"]
fn open_and_close() {
    let path = CString::new(library().to_str().unwrap()).unwrap();
    for _ in 0..2 {
        // SAFETY: the plug-in's library, and its functions by their names and types.
        unsafe {
            let handle = dlopen(path.as_ptr(), RTLD_LAZY | RTLD_LOCAL);
            assert!(!handle.is_null());
            let score = dlsym(handle, c"ggml_backend_score".as_ptr());
            let init = dlsym(handle, c"ggml_backend_init".as_ptr());
            assert!(!score.is_null() && !init.is_null());
            let score: extern "C" fn() -> c_int = core::mem::transmute(score);
            let init: extern "C" fn() -> *mut c_void = core::mem::transmute(init);
            println!("score {} init {:?}", score(), init());
            assert_eq!(dlclose(handle), 0);
        }
    }
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    assert!(maps.contains("libtritgemm_ggml"), "it was unloaded");
}

fn opened(settings: &[(&str, &str)]) -> (String, String) {
    let output = child("open_and_close")
        .envs(settings.iter().copied())
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (out, err) = (text(output.stdout), text(output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    (out, err)
}

#[test]
fn it_is_no_plug_in_without_a_ggml_and_stays_in_memory() {
    let (out, err) = opened(&[]);
    assert_eq!(out.matches("score 1 init 0x0").count(), 2, "{out}");
    assert!(err.contains("tritgemm: not loaded: ggml_version"), "{err}");
}

#[test]
fn off_says_nothing() {
    let (out, err) = opened(&[("TRITGEMM_GGML", "off")]);
    assert_eq!(out.matches("score 0 init 0x0").count(), 2, "{out}");
    assert!(!err.contains("tritgemm"), "{err}");
}

#[test]
fn a_setting_that_is_none_is_named() {
    let (out, err) = opened(&[("TRITGEMM_GGML", "int4")]);
    assert_eq!(out.matches("score 1 init 0x0").count(), 2, "{out}");
    assert!(err.contains("TRITGEMM_GGML is \"int4\", expected f32, int8, int8g or off"));
}

#[test]
fn preloaded_programs_are_as_they_were() {
    for setting in ["f32", "off", "int4"] {
        let output = Command::new("echo")
            .arg("as it was")
            .env("LD_PRELOAD", library())
            .env("TRITGEMM_GGML", setting)
            .env("TRITGEMM_GGML_STATS", "1")
            .output()
            .unwrap();
        assert!(output.status.success());
        assert_eq!(output.stdout, b"as it was\n");
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    }
}
