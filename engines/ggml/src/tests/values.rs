//! Right values, the same ones for any number of threads.

use crate::fake::{Backend, Fake, Faults, Model, loaded, read, reference, settings, stats, write};
use crate::settings::{Activations, Settings};
use crate::sys::{SUCCESS, Tensor};
use core::sync::atomic::Ordering::SeqCst;
use tritgemm_formats::ggml::TernaryType;
use tritgemm_testing::bits;

pub const TYPES: [TernaryType; 3] = [TernaryType::Tq1_0, TernaryType::Tq2_0, TernaryType::Q2_0];

/// The largest difference of two results, as a part of the largest value.
fn difference(got: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(got.len(), expected.len());
    let largest = expected.iter().fold(0.0_f32, |most, v| most.max(v.abs()));
    assert!(largest > 0.0);
    // A NaN is no number that is smaller.
    got.iter().zip(expected).fold(0.0_f32, |most, (a, b)| {
        let difference = (a - b).abs();
        if difference <= most { most } else { difference }
    }) / largest
}

/// Whether f32 products are what they are but for rounding.
pub fn near(got: &[f32], expected: &[f32]) -> bool {
    difference(got, expected) < 1e-5
}

/// Computes a product on 1, 2 and 3 threads: its values.
fn computed(settings: Settings, make: impl Fn(&mut Model) -> *mut Tensor) -> (Vec<f32>, Vec<f32>) {
    let mut first: Option<Vec<f32>> = None;
    let fake = Fake::new(Faults::default());
    let registry = fake.load(settings).unwrap().expect("not off");
    let mut model = Model::new();
    let product = make(&mut model);
    let graph = model.graph(&[product]);
    for threads in [1, 2, 3] {
        let backend = Backend::new(registry);
        fake.control.threads.store(threads, SeqCst);
        for _ in 0..2 {
            assert_eq!(backend.compute(graph), SUCCESS);
            let got = read(product);
            write(product, &vec![f32::NAN; got.len()]);
            let first = first.get_or_insert_with(|| got.clone());
            assert_eq!(bits(&got), bits(first), "{threads} threads");
        }
    }
    assert_eq!(fake.control.products.load(SeqCst), 0);
    assert_eq!(stats(registry).products(), 6);
    // SAFETY: a product.
    let expected = unsafe { reference(&*product) };
    (first.unwrap(), expected)
}

fn with(activations: Activations) -> Settings {
    Settings {
        activations: Some(activations),
        ..settings()
    }
}

/// Largest errors: that of rounding, and those of int8 for one scale a token and for groups.
const HOW: [(Activations, f32); 3] = [
    (Activations::F32, 1e-5),
    (Activations::Int8, 2e-2),
    (Activations::Int8Grouped, 2e-2),
];

#[test]
fn products_are_right() {
    for (how, most) in HOW {
        for ty in TYPES {
            // One token, many, rows that fill no panel, and batches of activations.
            for (k, m, tokens) in [
                (256, 1, [1, 1, 1]),
                (512, 70, [1, 1, 1]),
                (1024, 200, [33, 1, 1]),
                (256, 65, [3, 2, 2]),
            ] {
                let (got, expected) = computed(with(how), |model| {
                    let w = model.weights(ty, [k, m, 1]);
                    let x = model.f32([k, tokens[0], tokens[1], tokens[2]]);
                    model.mul_mat(w, x)
                });
                let found = difference(&got, &expected);
                assert!(
                    found < most,
                    "{how:?} {ty:?} {k} x {m} x {tokens:?}: {found}"
                );
            }
        }
    }
}

/// A view of rows that lie further apart, as of one head among others.
#[test]
fn rows_may_lie_apart() {
    for ty in TYPES {
        let (got, expected) = computed(settings(), |model| {
            let w = model.weights(ty, [256, 65, 1]);
            let x = model.f32([300, 5, 2, 1]);
            // SAFETY: a view of the first 256 of each 300.
            unsafe { (*x).ne[0] = 256 };
            model.mul_mat(w, x)
        });
        assert!(near(&got, &expected));
    }
}

#[test]
fn routed_products_are_right() {
    for (how, most) in HOW {
        for ty in TYPES {
            // A row for each token or for each expert that it uses; experts that nobody uses.
            for (x_used, used, ids) in [
                (1, 2, &[0, 3, 3, 1, 0, 3][..]),
                (2, 2, &[4, 3, 3, 1, 0, 3]),
                (1, 1, &[2, 2, 2]),
                (2, 4, &[0, 1, 2, 3, 4, 3, 2, 1, 1, 2, 4, 0]),
            ] {
                let (got, expected) = computed(with(how), |model| {
                    let w = model.weights(ty, [256, 70, 5]);
                    let x = model.f32([256, x_used, 3, 1]);
                    let ids = model.ids([used, 3], ids);
                    model.mul_mat_id(w, x, ids)
                });
                let found = difference(&got, &expected);
                assert!(found < most, "{how:?} {ty:?} {x_used} of {used}: {found}");
            }
        }
    }
}

/// Experts of one scale among others of many.
#[test]
fn experts_may_have_their_scales_otherwise() {
    for ty in TYPES {
        for one_scale in [
            [true, false, false],
            [false, true, false],
            [true, true, true],
        ] {
            let (got, expected) = computed(settings(), |model| {
                let w = model.weights(ty, [512, 70, 3]);
                for (expert, one_scale) in one_scale.into_iter().enumerate() {
                    model.scales = if one_scale { 1 } else { 64 };
                    // SAFETY: one of three matrices.
                    unsafe {
                        let one = &*model.weights(ty, [512, 70, 1]);
                        let to = (*w).data.add(expert * one.nb[2]);
                        to.copy_from_nonoverlapping(one.data, one.nb[2]);
                    }
                }
                let x = model.f32([512, 1, 3, 1]);
                let ids = model.ids([2, 3], &[0, 1, 2, 1, 0, 2]);
                model.mul_mat_id(w, x, ids)
            });
            assert!(near(&got, &expected), "{ty:?} {one_scale:?}");
        }
    }
}

/// The numbers of experts are a view of the first ones of a sorted row.
#[test]
fn numbers_of_experts_may_lie_apart() {
    let (got, expected) = computed(settings(), |model| {
        let w = model.weights(TernaryType::Tq2_0, [256, 70, 5]);
        let x = model.f32([256, 1, 3, 1]);
        let ids = model.ids([4, 3], &[0, 1, -9, -9, 2, 3, -9, -9, 4, 0, -9, -9]);
        // SAFETY: a view of the first two of each four.
        unsafe { (*ids).ne[0] = 2 };
        model.mul_mat_id(w, x, ids)
    });
    assert!(near(&got, &expected));
}

/// The bits of a product of weights of a type, with a scale a tensor or a block of 256.
fn bits_of(ty: TernaryType, scales: usize) -> Vec<u32> {
    let (fake, registry) = loaded();
    let (backend, mut model) = (Backend::new(registry), Model::new());
    model.scales = scales;
    let w = model.weights(ty, [512, 70, 1]);
    let x = model.f32([512, 4, 1, 1]);
    let product = model.mul_mat(w, x);
    fake.control.threads.store(2, SeqCst);
    assert_eq!(backend.compute(model.graph(&[product])), SUCCESS);
    bits(&read(product))
}

/// The three types hold the same trits and scales. Sums end at a scale, and Q2_0 has more of
/// them where a tensor has several.
#[test]
fn types_have_the_same_bits() {
    let [tq1, tq2, q2] = TYPES.map(|ty| bits_of(ty, 1));
    assert_eq!(tq1, tq2);
    assert_eq!(tq1, q2);
    assert_eq!(
        bits_of(TernaryType::Tq1_0, 64),
        bits_of(TernaryType::Tq2_0, 64)
    );
}

/// An activation that is not finite reaches the outputs that use it where activations are f32,
/// and all outputs of its token where they are int8. Other tokens are what they were.
#[test]
fn what_is_not_finite_stays_in_its_token() {
    for (how, _) in HOW {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let fake = Fake::new(Faults::default());
            let registry = fake.load(with(how)).unwrap().expect("not off");
            let (backend, mut model) = (Backend::new(registry), Model::new());
            let w = model.weights(TernaryType::Tq2_0, [256, 64, 1]);
            let x = model.f32([256, 3, 1, 1]);
            let product = model.mul_mat(w, x);
            let graph = model.graph(&[product]);
            fake.control.threads.store(2, SeqCst);
            assert_eq!(backend.compute(graph), SUCCESS);
            let finite = read(product);
            let mut values = read(x);
            values[256 + 17] = value;
            write(x, &values);
            assert_eq!(backend.compute(graph), SUCCESS);
            let got = read(product);
            assert_eq!(bits(&got[..64]), bits(&finite[..64]));
            assert_eq!(bits(&got[128..]), bits(&finite[128..]));
            // SAFETY: a product.
            let expected = unsafe { reference(&*product) };
            let used = |v: &f32| !v.is_finite();
            let count = expected.iter().filter(|v| used(v)).count();
            assert!((1..64).contains(&count), "{count} of 64 use it");
            for i in 64..128 {
                match how {
                    Activations::F32 if !used(&expected[i]) => {
                        assert_eq!(got[i].to_bits(), finite[i].to_bits());
                    }
                    Activations::F32 => {
                        let same = got[i] == expected[i] || expected[i].is_nan();
                        assert!(same && got[i].is_nan() == expected[i].is_nan());
                    }
                    _ => assert!(got[i].is_nan(), "{how:?} {value}"),
                }
            }
        }
    }
}
