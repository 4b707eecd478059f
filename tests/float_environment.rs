//! Results are those of the default floating-point environment, whatever the caller's thread
//! or a pool's has, and both keep theirs.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tritgemm::nn::{BitLinear, BitLinearGrads, RmsNorm, ste};
use tritgemm::{
    Activation, Added, Experts, Granularity, GroupSize, Grouped, Linear, NonFinite, Options,
    ParallelFor, Rotation, Routes, Scales, TernaryMatrix, Threads, Workspace, quant,
};
use tritgemm_testing::environment::{ENVIRONMENTS, within, within_default};
use tritgemm_testing::{Rng, backends, view, view_mut};

/// Threads of their own, in an environment of their own.
struct Elsewhere(u32);

impl ParallelFor for Elsewhere {
    fn workers(&self) -> usize {
        3
    }

    fn run(&self, items: usize, work: &(dyn Fn(usize) + Sync)) {
        let next = AtomicUsize::new(0);
        let worker = || {
            within(self.0, || {
                let item = || Some(next.fetch_add(1, Ordering::Relaxed)).filter(|&i| i < items);
                while let Some(item) = item() {
                    work(item);
                }
            });
        };
        std::thread::scope(|scope| (0..3).for_each(|_| drop(scope.spawn(worker))));
    }
}

/// Enough to be shared among threads.
const SHAPE: [usize; 3] = [192, 512, 35];

/// Values around one, and around the least normal one.
fn floats(len: usize, seed: u64) -> Vec<f32> {
    let value = |rng: &mut Rng| rng.unit() * [1.0, 0.1, 8.0 * f32::MIN_POSITIVE][rng.below(3)];
    within_default(|| Rng::new(seed).vec(len, value))
}

#[derive(Default)]
struct Results(Vec<(String, Vec<u32>)>);

impl Results {
    fn push(&mut self, name: impl Into<String>, values: &[f32]) {
        let bits = values.iter().map(|v| v.to_bits()).collect();
        self.0.push((name.into(), bits));
    }

    fn push_ints(&mut self, name: &str, values: &[i8]) {
        let bits = values.iter().map(|&v| v as u32).collect();
        self.0.push((name.into(), bits));
    }
}

/// Everything that computes with floats, in products and outside of them.
fn products(results: &mut Results, options: &Options) {
    let [m, k, n] = SHAPE;
    let mut rng = Rng::new(3);
    let trits = rng.vec(m * k, Rng::trit);
    let trits = view(&trits, m, k);
    let (x, bias) = (floats(n * k, 4), floats(m, 5));
    let ws = &mut Workspace::with_options(options.clone());
    for scales in [
        Scales::per_tensor(1.7e-36),
        Scales::per_row(floats(m, 6)),
        Scales::per_group(GroupSize::G64, floats(m * k / 64, 7)),
        // f16, subnormal ones too.
        Scales::per_group(GroupSize::G64, vec![const { 3.0 / 16777216.0 }; m * k / 64]),
    ] {
        let matrix = TernaryMatrix::from_trits(trits, scales).expect("a matrix");
        let layer = Linear::new(&matrix).expect("a layer");
        let layer = layer.with_bias(bias.clone()).expect("a bias");
        let turned = layer
            .clone()
            .with_rotation(Rotation::new(32, None).expect("32"));
        for (name, layer) in [("plain", layer), ("rotated", turned.expect("whole blocks"))] {
            for tokens in [1, 3, n] {
                let x = view(&x[..tokens * k], tokens, k);
                let mut y = vec![0.5; tokens * m];
                layer
                    .forward_f32(x, view_mut(&mut y, tokens, m), ws)
                    .expect("fits");
                results.push(format!("{name} f32"), &y);
                layer
                    .forward_int8(x, view_mut(&mut y, tokens, m), ws)
                    .expect("fits");
                results.push(format!("{name} int8"), &y);
                let grouped = Grouped(x, GroupSize::G32);
                let added = Added(view_mut(&mut y, tokens, m));
                layer.forward_int8(grouped, added, ws).expect("fits");
                results.push(format!("{name} groups, added"), &y);
                #[cfg(feature = "half")]
                {
                    let mut y = vec![half::f16::ZERO; tokens * m];
                    layer
                        .forward_f32(x, view_mut(&mut y, tokens, m), ws)
                        .expect("fits");
                    let bits = y.iter().map(|v| v.to_bits().into()).collect();
                    results.0.push((format!("{name} into f16"), bits));
                }
            }
            let mut row = vec![0.0; k];
            layer.unpack_row(7, &mut row).expect("a row");
            results.push("row", &row);
            let experts = Experts::new(vec![layer.clone(), layer]).expect("alike");
            let routes = Routes {
                tokens: &[0, 1, 2, 2],
                counts: &[3, 1],
            };
            let routed = experts
                .prepare_f32(view(&x, n, k), routes, ws)
                .expect("fits");
            let mut y = vec![0.25; 3 * m];
            let weights = [0.3, 0.7, 0.1, 1e-3];
            experts
                .add_weighted(&routed, &[0, 1, 2, 2], &weights, view_mut(&mut y, 3, m), ws)
                .expect("fits");
            results.push("experts", &y);
        }
        results.push("to_f32", &matrix.to_f32().expect("memory"));
    }
}

fn activations<T: Activation>(results: &mut Results, x: &[T], n: usize, k: usize) {
    let (q, scales) = quant::quantize_activations(view(x, n, k)).expect("finite");
    results.push_ints("activations", &q);
    results.push("token scales", &scales);
    let mut q = vec![0; k];
    let scale = quant::quantize_token(&x[..k], &mut q).expect("finite");
    results.push_ints("a token", &q);
    results.push("its scale", &[scale]);
}

fn around(results: &mut Results, options: &Options) {
    let [m, k, n] = SHAPE;
    let (x, weights) = (floats(n * k, 8), floats(m * k, 9));
    activations(results, &x, n, k);
    #[cfg(feature = "half")]
    {
        let halves = || {
            x.iter()
                .map(|&v| half::f16::from_f32(v))
                .collect::<Vec<_>>()
        };
        activations(results, &within_default(halves), n, k);
    }
    for granularity in [
        Granularity::PerTensor,
        Granularity::PerRow,
        Granularity::PerGroup(GroupSize::G64),
    ] {
        let weights = view(&weights, m, k);
        let alphas = quant::absmean(weights, granularity).expect("finite");
        results.push("absmean", &alphas);
        let trits = quant::ternarize(weights, granularity, &alphas).expect("finite");
        results.push_ints("ternarize", &trits);
        let least = vec![const { f32::MIN_POSITIVE / 8.0 }; alphas.len()];
        let trits = quant::ternarize(weights, granularity, &least).expect("above 0");
        results.push_ints("ternarize by a subnormal alpha", &trits);
    }
    let mut sparse = weights.clone();
    quant::sparsify_2_4(view_mut(&mut sparse, m, k)).expect("finite");
    results.push("2:4", &sparse);

    let norm = RmsNorm::new(floats(k, 10)).expect("a gain");
    let norm = norm
        .with_eps(const { f32::MIN_POSITIVE / 2.0 })
        .expect("above 0");
    let (mut y, mut gains) = (vec![0.0; n * k], vec![0.0; k]);
    norm.forward(view(&x, n, k), view_mut(&mut y, n, k))
        .expect("fits");
    results.push("norm", &y);
    let grad_y = floats(n * k, 11);
    norm.backward(
        view(&x, n, k),
        view(&grad_y, n, k),
        view_mut(&mut y, n, k),
        &mut gains,
    )
    .expect("fits");
    results.push("norm, backward", &y);
    results.push("norm, gain", &gains);
    norm.forward_in_place(view_mut(&mut y, n, k)).expect("fits");
    results.push("norm in place", &y);

    ste::forward(&weights, &mut sparse).expect("as long");
    results.push("ste", &sparse);
    ste::backward(&weights, &x.repeat(m)[..m * k], &mut sparse).expect("as long");
    results.push("ste, backward", &sparse);
    let rotation = Rotation::new(512, None).expect("a power of two");
    let mut row = floats(k, 12);
    rotation.apply(&mut row).expect("whole blocks");
    results.push("rotation", &row);
    rotation.invert(&mut row).expect("whole blocks");
    results.push("rotation, inverted", &row);

    let mut layer = BitLinear::kaiming_uniform(m, k, 1).expect("small");
    layer.perturb(2, 1e-3);
    results.push("weights from a seed", layer.weight());
    let ws = &mut Workspace::with_options(options.clone());
    let mut y = vec![0.0; n * m];
    layer
        .forward_training(view(&x, n, k), view_mut(&mut y, n, m), ws)
        .expect("fits");
    results.push("training", &y);
    #[cfg(feature = "train")]
    {
        let grad_y = floats(n * m, 13);
        let (mut grad_x, mut bias) = (vec![0.0; n * k], vec![0.0; m]);
        let grads = BitLinearGrads {
            x: Some(view_mut(&mut grad_x, n, k)),
            bias: Some(&mut bias),
            ..BitLinearGrads::default()
        };
        layer
            .backward(view(&x, n, k), view(&grad_y, n, m), grads, ws)
            .expect("fits");
        results.push("gradient of the input", &grad_x);
        results.push("gradient of the bias", &bias);
    }
}

fn compare(found: &Results, wanted: &Results, what: &str) {
    assert_eq!(found.0.len(), wanted.0.len());
    for ((name, found), (_, wanted)) in found.0.iter().zip(&wanted.0) {
        let differ = found.iter().zip(wanted).filter(|(a, b)| a != b).count();
        assert_eq!(differ, 0, "{what}: {differ} of {} of {name}", found.len());
    }
}

#[test]
fn results_are_those_of_the_default_environment() {
    for backend in backends() {
        let options = Options::new().backend(backend).threads(Threads::Serial);
        let mut wanted = Results::default();
        products(&mut wanted, &options);
        around(&mut wanted, &options);
        for &(name, environment) in ENVIRONMENTS {
            let mut found = Results::default();
            within(environment, || {
                products(&mut found, &options);
                around(&mut found, &options);
            });
            compare(&found, &wanted, &format!("{name}, {}", backend.name()));
        }
    }
}

/// A layer made before, with scales of zero, and one made meanwhile are the same.
#[test]
fn scales_of_zero_keep_their_sign() {
    let trits = [1i8; 128];
    let scales = || Scales::per_group(GroupSize::G64, vec![0.0, 0.5]);
    let layer = || {
        let matrix = TernaryMatrix::from_trits(view(&trits, 1, 128), scales());
        Linear::new(&matrix.expect("a matrix")).expect("a layer")
    };
    let before = layer();
    let bits = |layer: &Linear| {
        let mut row = [f32::NAN; 128];
        layer.unpack_row(0, &mut row).expect("a row");
        let scales = layer.scales().expect("memory");
        let all = row.iter().chain(scales.values());
        all.map(|v| v.to_bits()).collect::<Vec<_>>()
    };
    let wanted = bits(&before);
    assert_eq!((wanted[0], wanted[128]), (0, 0));
    for &(name, environment) in ENVIRONMENTS {
        within(environment, || {
            assert_eq!(bits(&before), wanted, "{name}");
            assert_eq!(bits(&layer()), wanted, "{name}");
        });
    }
}

#[test]
fn threads_have_environments_of_their_own() {
    let mut wanted = Results::default();
    products(&mut wanted, &Options::new().threads(Threads::Serial));
    around(&mut wanted, &Options::new().threads(Threads::Serial));
    for &(name, environment) in ENVIRONMENTS {
        let pool = Threads::Pool(Arc::new(Elsewhere(environment)));
        let mut found = Results::default();
        products(&mut found, &Options::new().threads(pool.clone()));
        around(&mut found, &Options::new().threads(pool));
        compare(&found, &wanted, &format!("{name}, a pool of the caller's"));

        #[cfg(feature = "rayon")]
        {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(3)
                .start_handler(move |_| tritgemm_testing::environment::set(environment))
                .build()
                .expect("threads");
            let mut found = Results::default();
            pool.install(|| {
                products(&mut found, &Options::new());
                around(&mut found, &Options::new());
            });
            compare(&found, &wanted, &format!("{name}, rayon"));
        }
    }
}

/// An error and a panic leave the caller's environment as it was; `within` looks.
#[test]
fn the_environment_comes_back() {
    // Not to be moved out of the environment.
    let quotient = |a: f32, b: f32| black_box(black_box(a) / black_box(b));
    for &(name, environment) in ENVIRONMENTS {
        let [down, least] = within(environment, || {
            [quotient(1.0, 3.0), quotient(f32::MIN_POSITIVE, 2.0)]
        });
        let default = [quotient(1.0, 3.0), quotient(f32::MIN_POSITIVE, 2.0)];
        let differs = [down, least] != default
            || quotient(-1.0, 3.0) != within(environment, || quotient(-1.0, 3.0));
        assert!(differs, "{name} is no environment of its own");

        within(environment, || {
            let nan = [f32::NAN; 8];
            let error = quant::quantize_activations(view(&nan, 2, 4));
            assert!(error.is_err(), "{name}");
            let matrix = TernaryMatrix::from_trits(view(&[1i8; 8], 2, 4), Scales::per_tensor(1.0));
            let layer = Linear::new(&matrix.expect("a matrix")).expect("a layer");
            let options = Options::new().non_finite(NonFinite::Error);
            let (ws, mut y) = (&mut Workspace::with_options(options), [0.0; 4]);
            let error = layer.forward_int8(view(&nan, 2, 4), view_mut(&mut y, 2, 2), ws);
            assert!(error.is_err(), "{name}");
            assert!(std::panic::catch_unwind(panicking).is_err(), "{name}");
        });
    }
}

/// A pool that panics inside of a product.
struct Panicking;

impl ParallelFor for Panicking {
    fn workers(&self) -> usize {
        2
    }

    fn run(&self, _: usize, _: &(dyn Fn(usize) + Sync)) {
        panic!("on purpose");
    }
}

fn panicking() {
    let [m, k] = [2048, 2048];
    let trits = vec![1i8; m * k];
    let matrix = TernaryMatrix::from_trits(view(&trits, m, k), Scales::per_tensor(1.0));
    let layer = Linear::new(&matrix.expect("a matrix")).expect("a layer");
    let options = Options::new().threads(Threads::Pool(Arc::new(Panicking)));
    let (x, mut y, ws) = (
        vec![1.0; k],
        vec![0.0; m],
        &mut Workspace::with_options(options),
    );
    let done = layer.forward_f32(view(&x, 1, k), view_mut(&mut y, 1, m), ws);
    unreachable!("{done:?}");
}
