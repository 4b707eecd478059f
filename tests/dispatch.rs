//! Which kernels run: detection, `TRITGEMM_ISA`, pinning, and that no result
//! depends on it.

use std::process::Output;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tritgemm::codec::{self, CodecError, Mode};
use tritgemm::diagnostics::{cpu_features, kernels, registry};
use tritgemm::nn::{BitLinear, LayerError};
use tritgemm::{
    Backend, GemmError, Isa, IsaError, MatrixError, Options, Panels, PreparedActivations, Scales,
    TernaryMatrix, pin,
};
use tritgemm_testing::case::{Case, Shape, Values};
use tritgemm_testing::{backends, bits, child, view, view_mut, workspace};

/// Pinning is for the whole process, so its tests take turns.
fn pinning() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn case() -> Case {
    Case::new(Shape {
        values: Values::Wide,
        ..Shape::new(130, 500, 21)
    })
}

/// What the products of the active backend give, in one number.
fn digest() -> u64 {
    let (case, ws) = (case(), &mut workspace(Options::new()));
    let integers = case.gemm_i8(ws).into_iter().map(|v| v as u32);
    let floats = case
        .forward_f32(ws)
        .into_iter()
        .chain(case.forward_int8(ws));
    integers.chain(floats).fold(0, |digest: u64, v| {
        (digest.rotate_left(5) ^ u64::from(v)).wrapping_mul(0x517c_c1b7_2722_0a95)
    })
}

fn unavailable() -> impl Iterator<Item = (Isa, IsaError)> {
    let all = Isa::ALL.iter().copied();
    all.filter_map(|isa| Backend::for_isa(isa).err().map(|e| (isa, e)))
}

#[test]
fn names_parse_and_others_do_not() {
    for &isa in Isa::ALL {
        assert_eq!(isa.name().parse(), Ok(isa));
        assert_eq!(isa.to_string(), isa.name());
    }
    for name in [
        "",
        "AVX2",
        "avx-512",
        "avx512 ",
        "avx512-vnni",
        "avx2/zen4",
        "sse2",
        "native",
    ] {
        let error = name.parse::<Isa>().expect_err(name);
        let unknown = IsaError::Unknown { name: name.into() };
        assert_eq!(error, unknown);
        let text = error.to_string();
        assert!(text.contains(&format!("`{name}`")), "{text}");
        for isa in Isa::ALL {
            assert!(text.contains(isa.name()), "{text}");
        }
    }
}

#[test]
fn available_backends_are_in_order_and_have_their_features() {
    let backends = backends();
    // Those that suit this CPU come first, scalar last, else in the registry's order.
    let rows = registry();
    let rank = |backend: &Backend| {
        let found = rows.iter().position(|row| row.name == backend.name());
        let at = found.expect("a row");
        (backend.isa() == Isa::Scalar, !rows[at].suits, at)
    };
    assert!(backends.is_sorted_by_key(rank), "{backends:?}");
    assert_eq!(backends.first(), Some(&Backend::best()));
    assert_eq!(backends.last(), Some(&Backend::scalar()));
    assert_eq!(Backend::scalar().features().count(), 0);

    let features = cpu_features();
    for backend in backends {
        for feature in backend.features() {
            assert!(
                features.contains(&(feature, true)),
                "{backend:?}: {feature}"
            );
        }
        let name = [Some(backend.isa().name()), backend.tuning()];
        let name: Vec<_> = name.into_iter().flatten().collect();
        assert_eq!(backend.name(), name.join("/"));
        for kernel in kernels(backend) {
            let part = format!("-{}", kernel.operation);
            assert!(kernel.name.contains(&part), "{kernel:?}");
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn detection_agrees_with_the_standard_library() {
    let has = |isa| Backend::available().any(|b| b.isa() == isa);
    let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    let avx512 = avx2
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl");
    let vbmi = avx512 && is_x86_feature_detected!("avx512vbmi");
    let levels = [Isa::Avx2, Isa::Avx512, Isa::Avx512Vbmi].map(has);
    assert_eq!(levels, [avx2, avx512, vbmi]);
}

#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
#[test]
fn neon_is_always_there() {
    assert_eq!(Backend::best().isa(), Isa::Neon);
}

#[test]
fn asking_for_what_is_not_there_names_what_is_missing() {
    let mut count = 0;
    for (isa, error) in unavailable() {
        let text = error.to_string();
        assert!(text.contains(isa.name()), "{text}");
        match &error {
            IsaError::NotBuilt { .. } => {
                assert!(text.contains(std::env::consts::ARCH), "{text}");
            }
            IsaError::MissingFeatures { missing, .. } => {
                assert!(!missing.is_empty(), "{text}");
                for feature in missing {
                    assert!(text.contains(feature), "{text}");
                    assert!(cpu_features().contains(&(feature, false)), "{text}");
                }
            }
            other => panic!("{other:?}"),
        }
        count += 1;
    }
    // Another architecture's ISA is missing everywhere.
    assert!(count >= 1);
    let foreign = if cfg!(target_arch = "x86_64") {
        Isa::Neon
    } else {
        Isa::Avx2
    };
    assert_eq!(
        Backend::for_isa(foreign),
        Err(IsaError::NotBuilt { isa: foreign })
    );
}

#[test]
fn pins_hold_until_they_are_released() {
    let _turn = pinning();
    let before = Backend::active().expect("the default");
    for backend in backends() {
        pin(Some(backend.isa().name())).expect("available");
        assert_eq!(Backend::active(), Backend::for_isa(backend.isa()));
        pin(Some(backend.name())).expect("available");
        let active = Backend::active().expect("pinned");
        assert_eq!(active, backend);
        for (isa, error) in unavailable() {
            assert_eq!(pin(Some(isa.name())), Err(error));
            assert_eq!(
                Backend::active(),
                Ok(active),
                "a failed pin changes nothing"
            );
        }
    }
    pin(None).expect("released");
    assert_eq!(Backend::active(), Ok(before));
}

#[test]
fn results_are_the_same_under_every_pin() {
    let _turn = pinning();
    pin(Some("scalar")).expect("available");
    let wanted = digest();
    for backend in backends() {
        pin(Some(backend.name())).expect("available");
        assert_eq!(digest(), wanted, "pinned to {backend:?}");
    }
    pin(None).expect("released");
    assert_eq!(digest(), wanted, "not pinned");
}

/// Panels, prepared activations and products may come from different backends.
#[test]
fn backends_mix() {
    let case = case();
    let Shape { m, k, n, .. } = case.shape;
    let matrix = TernaryMatrix::from_trits(view(&case.trits, m, k), Scales::per_tensor(1.0));
    let matrix = matrix.expect("a matrix");
    let wanted = case.gemm_i8(&mut workspace(Options::new().backend(Backend::scalar())));
    for packer in backends() {
        let panels = Panels::pack_on(&matrix, &workspace(Options::new().backend(packer)));
        let panels = panels.expect("memory");
        assert_eq!(
            panels.as_bytes(),
            case.layer.panels().as_bytes(),
            "{packer:?}"
        );
        for preparer in backends() {
            let ws = &mut workspace(Options::new().backend(preparer));
            let x = view(&case.x_i8, n, k);
            let x = PreparedActivations::from_int8(x, vec![1.0; n], None, ws).expect("prepared");
            for backend in backends() {
                let ws = &mut workspace(Options::new().backend(backend));
                let mut y = vec![0; n * m];
                let out = view_mut(&mut y, n, m);
                panels.gemm_i8(&x, out, ws).expect("fits");
                assert_eq!(y, wanted, "{packer:?}, {preparer:?}, {backend:?}");
            }
        }
    }
}

/// Runs [`child`] in a process of its own, where `TRITGEMM_ISA` is `isa`.
fn child_with(isa: &str) -> (String, Output) {
    let mut command = child::child("child");
    let output = command
        .env("TRITGEMM_ISA", isa)
        .output()
        .expect("the child ran");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{isa}: {text}\n{output:?}");
    (text, output)
}

#[test]
#[ignore = "run by the tests of TRITGEMM_ISA, with the variable set"]
fn child() {
    match Backend::active() {
        Ok(active) => {
            println!("active={} digest={:x}", active.name(), digest());
            // A pin beats the variable.
            pin(Some("scalar")).expect("available");
            assert_eq!(Backend::active(), Ok(Backend::scalar()));
        }
        Err(error) => {
            println!("error={error}");
            every_operation_refuses(&error);
            let scalar = &mut workspace(Options::new().backend(Backend::scalar()));
            let (panels, mut y) = (panels(), [0; 2]);
            let (x, y) = (view(&[1, 2], 1, 2), view_mut(&mut y, 1, 2));
            panels.gemm_i8(x, y, scalar).expect("a backend of its own");
        }
    }
}

/// `[[1, 1], [1, 1]]`, packed by a backend that is named.
fn panels() -> Panels {
    let packed = vec![0b0101_0000; 2];
    let matrix = TernaryMatrix::from_packed(packed, 2, 2, Scales::per_tensor(1.0));
    let matrix = matrix.expect("a matrix");
    let panels = Panels::pack_on(
        &matrix,
        &workspace(Options::new().backend(Backend::scalar())),
    );
    panels.expect("memory")
}

/// With the variable wrong, whatever would use the default backend says so and
/// leaves its output alone.
fn every_operation_refuses(error: &IsaError) {
    let ws = &mut workspace(Options::new());
    let panels = panels();
    let layer = tritgemm::Linear::from_parts(panels.clone(), Scales::per_tensor(1.0), None);
    let layer = layer.expect("a layer");
    let mut integers = [7; 2];
    let mut floats = [7.0; 2];
    let x = view(&[1.0f32, 2.0], 1, 2);
    let refused = [
        panels.gemm_i8(view(&[1, 2], 1, 2), view_mut(&mut integers, 1, 2), ws),
        layer.forward_int8(x, view_mut(&mut floats, 1, 2), ws),
        layer.forward_f32(x, view_mut(&mut floats, 1, 2), ws),
    ];
    for result in refused {
        assert_eq!(result, Err(GemmError::Isa(error.clone())));
    }
    assert_eq!((integers, bits(&floats)), ([7; 2], bits(&[7.0; 2])));
    let refused = [
        layer.prepare_f32(x, ws),
        layer.prepare_int8(x, ws),
        PreparedActivations::from_int8(view(&[1, 2], 1, 2), vec![1.0], None, ws),
    ];
    for result in refused {
        assert_eq!(result.err(), Some(GemmError::Isa(error.clone())));
    }
    every_packing_refuses(error);
}

fn every_packing_refuses(error: &IsaError) {
    let (strict, refused) = (Mode::Strict, Err(CodecError::Isa(error.clone())));
    let (mut packed, mut trits, mut weights) = ([7], [7], [7.0]);
    let results = [
        codec::encode(view(&[1], 1, 1), view_mut(&mut packed, 1, 1), strict),
        codec::decode(view(&[0], 1, 1), view_mut(&mut trits, 1, 1), strict),
        codec::decode_f32(
            view(&[0], 1, 1),
            view_mut(&mut weights, 1, 1),
            &[1.0],
            strict,
        ),
    ];
    assert_eq!(results, [&refused; 3].map(Clone::clone));
    assert_eq!((packed, trits, bits(&weights)), ([7], [7], bits(&[7.0])));
    let mut layer = BitLinear::new(vec![1.0], 1, 1).expect("a layer");
    let refused = layer.prepare_for_inference().map(|_| ());
    assert_eq!(refused, Err(LayerError::Isa(error.clone())));
    #[cfg(feature = "train")]
    {
        let grads = tritgemm::nn::BitLinearGrads {
            weight: Some(&mut weights),
            ..Default::default()
        };
        let one = view(&[1.0], 1, 1);
        let refused = layer.backward(one, one, grads, &mut workspace(Options::new()));
        assert_eq!(refused, Err(LayerError::Isa(error.clone())));
    }

    let matrix = TernaryMatrix::from_packed(vec![0], 1, 1, Scales::per_tensor(1.0));
    let matrix = matrix.expect("a matrix");
    let error = Some(MatrixError::Codec(CodecError::Isa(error.clone())));
    assert_eq!(Panels::pack(&matrix).err(), error);
    assert_eq!(tritgemm::Linear::new(&matrix).err(), error);
    assert_eq!(Panels::from_packed(view(&[0], 1, 1), 1).err(), error);
}

#[test]
fn the_variable_chooses() {
    let wanted = format!("digest={:x}", digest());
    for backend in backends() {
        let best = Backend::for_isa(backend.isa()).expect("available");
        for (name, chosen) in [(backend.isa().name(), best), (backend.name(), backend)] {
            let (text, _) = child_with(name);
            let active = format!("active={} ", chosen.name());
            assert!(text.contains(&active), "{text}, expected {active}");
            assert!(text.contains(&wanted), "{text}, expected {wanted}");
        }
    }
    let (text, _) = child_with("");
    assert!(
        text.contains(&format!("active={} ", Backend::best().name())),
        "{text}"
    );
}

#[test]
fn the_variable_may_be_wrong() {
    let (text, _) = child_with("sse9");
    let unknown = IsaError::Unknown {
        name: "sse9".into(),
    };
    assert!(text.contains(&format!("error={unknown}")), "{text}");
    for (isa, error) in unavailable() {
        let (text, _) = child_with(isa.name());
        assert!(text.contains(&format!("error={error}")), "{text}");
    }
}
