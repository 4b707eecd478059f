//! Which ggml is taken and which is refused.

use crate::fake::{Backend, Fake, Faults, Field, GGML, Model, NAMES, settings, text};
use crate::settings::Settings;
use crate::sys::{ACCEL, CPU, Properties, Registry, SUCCESS};
use core::mem::MaybeUninit;
use std::sync::Arc;
use tritgemm_formats::ggml::TernaryType;

fn load(faults: &Faults, settings: Settings) -> (Arc<Fake>, Result<Option<*mut Registry>, String>) {
    let fake = Fake::new(faults.clone());
    let loaded = fake.load(settings);
    (fake, loaded)
}

/// Why a ggml of these faults is refused, with nothing registered.
fn refusal(faults: &Faults) -> String {
    let (fake, loaded) = load(faults, settings());
    assert!(fake.registered.lock().unwrap().is_empty(), "{faults:?}");
    match loaded {
        Err(why) => why,
        Ok(_) => panic!("loaded: {faults:?}"),
    }
}

#[test]
fn a_known_ggml_is_taken() {
    for (version, api_version) in [(c"0.25.3", 2), (c"0.26.0", 3), (c"0.26.1-dirty", 3)] {
        let faults = Faults {
            version,
            api_version,
            ..Faults::default()
        };
        let (fake, loaded) = load(&faults, settings());
        let registry = loaded.unwrap().expect("not off");
        assert_eq!(*fake.registered.lock().unwrap(), [registry as usize]);
        // SAFETY: a registry and a device of the plug-in's, and the fake's functions.
        unsafe {
            assert_eq!((*registry).api_version, api_version);
            assert_eq!(text((GGML.ggml_backend_reg_name)(registry)), "TRITGEMM");
            assert_eq!((GGML.ggml_backend_reg_dev_count)(registry), 1);
            let device = (GGML.ggml_backend_reg_dev_get)(registry, 0);
            assert_eq!((GGML.ggml_backend_dev_backend_reg)(device), registry);
            assert_eq!(text((GGML.ggml_backend_dev_name)(device)), "TRITGEMM");
            assert_eq!((GGML.ggml_backend_dev_type)(device), ACCEL);
            let mut properties = MaybeUninit::<[usize; 64]>::zeroed();
            (GGML.ggml_backend_dev_get_props)(device, properties.as_mut_ptr().cast());
            let head = properties.as_ptr().cast::<Properties>();
            assert_eq!((text((*head).name), (*head).ty), ("TRITGEMM", ACCEL));
            assert_eq!(((*head).memory_free, (*head).memory_total), (0, 0));
            // The CPU's capabilities.
            assert_eq!(properties.assume_init()[6], 5);
        }
    }
}

/// A stream is the CPU's in all but its name and its graphs.
#[test]
fn a_stream_is_a_cpu_backend() {
    let (fake, registry) = crate::fake::loaded();
    let backend = Backend::new(registry);
    // SAFETY: a stream, and the CPU's device.
    unsafe {
        let device = (*backend.0).device;
        assert_eq!((GGML.ggml_backend_dev_type)(device), CPU);
        assert_eq!(device, (GGML.ggml_backend_dev_by_type)(CPU));
        assert_eq!(text((GGML.ggml_backend_name)(backend.0)), "TRITGEMM");
        let name = c"ggml_backend_set_n_threads".as_ptr();
        let found = (GGML.ggml_backend_reg_get_proc_address)(registry, name);
        assert_eq!(found, name.cast_mut().cast());
    }
    assert_eq!(backend.compute(Model::new().graph(&[])), SUCCESS);
    // It holds the fake as long as it lives.
    let held = Arc::strong_count(&fake);
    drop(backend);
    assert_eq!(Arc::strong_count(&fake), held - 1);
}

#[test]
fn off_is_nothing() {
    let off = Settings {
        activations: None,
        ..settings()
    };
    // Not even a ggml that would be refused is a reason to say anything.
    for version in [c"0.26.0", c"0.1.0"] {
        let faults = Faults {
            version,
            missing: Some("ggml_mul_mat"),
            ..Faults::default()
        };
        let (fake, loaded) = load(&faults, off);
        assert!(matches!(loaded, Ok(None)));
        assert!(fake.registered.lock().unwrap().is_empty());
    }
}

#[test]
fn an_unknown_version_is_refused_unless_forced() {
    let faults = Faults {
        version: c"0.27.0",
        ..Faults::default()
    };
    let why = refusal(&faults);
    assert!(
        why.contains("ggml 0.27.0") && why.contains("TRITGEMM_GGML_FORCE"),
        "{why}"
    );
    let force = Settings {
        force: true,
        ..settings()
    };
    let (fake, loaded) = load(&faults, force);
    assert!(loaded.unwrap().is_some());
    assert_eq!(fake.registered.lock().unwrap().len(), 1);
    // What lies elsewhere is refused nevertheless.
    let faults = Faults {
        stream: 1,
        ..faults
    };
    assert!(load(&faults, force).1.is_err());
}

#[test]
fn a_missing_function_is_named() {
    for &name in NAMES {
        let faults = Faults {
            missing: Some(name),
            ..Faults::default()
        };
        let why = refusal(&faults);
        assert!(why.starts_with(&format!("{name} is not")), "{why}");
    }
}

#[test]
fn a_ggml_without_a_cpu_backend_is_refused() {
    let faults = Faults {
        no_cpu: true,
        ..Faults::default()
    };
    let why = refusal(&faults);
    assert!(why.contains("no CPU backend yet"), "{why}");
}

#[test]
fn structures_that_are_laid_out_otherwise_are_refused() {
    for words in 1..=4 {
        let as_known = Faults::default();
        let shifted = [
            (
                "a registry",
                Faults {
                    registry: words,
                    ..as_known
                },
            ),
            (
                "a device",
                Faults {
                    device: words,
                    ..as_known
                },
            ),
            (
                "a backend",
                Faults {
                    stream: words,
                    ..as_known
                },
            ),
            (
                "the properties of a device",
                Faults {
                    properties: words,
                    ..as_known
                },
            ),
        ];
        for (what, faults) in shifted {
            let why = refusal(&faults);
            assert!(why.contains(what), "{words} words: {why}");
            assert!(why.ends_with("laid out otherwise"), "{why}");
        }
    }
}

#[test]
fn tensors_that_are_laid_out_otherwise_are_refused() {
    let fields = [
        Field::Size,
        Field::Shape,
        Field::Strides,
        Field::Op,
        Field::Flags,
        Field::Sources,
        Field::Data,
    ];
    let faults = |tensor| Faults {
        tensor: Some(tensor),
        ..Faults::default()
    };
    for field in fields {
        let why = refusal(&faults(field));
        assert!(why.ends_with("tensors are laid out otherwise"), "{why}");
    }
    let why = refusal(&faults(Field::Custom));
    assert!(
        why.ends_with("custom nodes are laid out otherwise"),
        "{why}"
    );
}

/// Products of a type that this ggml has under another name are no business of the plug-in's.
#[test]
fn types_are_taken_that_the_ggml_has() {
    let faults = Faults {
        no_types: &[34, 35, 42],
        ..Faults::default()
    };
    let why = refusal(&faults);
    assert!(why.ends_with("none of TQ1_0, TQ2_0 and Q2_0"), "{why}");
    let faults = Faults {
        no_types: &[35],
        ..Faults::default()
    };
    let (_, loaded) = load(&faults, settings());
    let registry = loaded.unwrap().expect("not off");
    let types = &crate::fake::plugin(registry).types;
    assert_eq!(*types, [TernaryType::Tq1_0, TernaryType::Q2_0]);
}

/// Another ggml that comes to the process does not get the first one's backends.
#[test]
fn a_registry_is_of_one_ggml() {
    let (fake, registry) = crate::fake::loaded();
    let another = |_: &core::ffi::CStr| core::ptr::dangling_mut();
    let several = |_: &core::ffi::CStr| core::ptr::null_mut();
    // SAFETY: a registry of the plug-in's.
    unsafe {
        assert!(crate::is_of(registry, &|name| fake.find(name)));
        assert!(!crate::is_of(registry, &another));
        assert!(!crate::is_of(registry, &several));
    }
}

#[test]
#[ignore = "a process of its own"]
fn say() {
    crate::say(format_args!("a line"));
}

/// A line that nobody can read is lost, and the process goes on.
#[test]
fn standard_error_may_be_closed() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = tritgemm_testing::child::child("tests::border::say");
    let output = command.stderr(writer).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}
