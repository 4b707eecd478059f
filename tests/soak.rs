//! Random products on every kernel against the oracle, for as long as one likes:
//!
//! ```text
//! cargo test --release --test soak -- --ignored
//! ```
//! `TRITGEMM_SOAK_SECONDS` says how long, 60 unless set. A failure prints the
//! command that repeats its case. Seeds are good for the version that printed them.
#![cfg(feature = "rayon")]

use half::{bf16, f16};
use rayon::ThreadPoolBuilder;
use std::env;
use std::ops::Range;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tritgemm::codec::Mode;
use tritgemm::{Linear, Options, PanelFile, Threads, Verify};
use tritgemm_testing::case::{Case, Expected, Shape, assert_same};
use tritgemm_testing::{FAMILIES, Rng, backends, bits, dense, oracle, view_mut, workspace};

/// All backends encode and decode alike, to trits and to floats.
fn codecs(case: &Case, mode: Mode) {
    let (Shape { m, k, .. }, trits) = (case.shape, &case.trits);
    let scales = Rng::new(case.shape.seed).vec(m, Rng::unit);
    let weight = |(i, &t): (usize, &i8)| match t {
        0 => 0.0,
        1 => scales[i / k],
        _ => -scales[i / k],
    };
    let weights: Vec<f32> = trits.iter().enumerate().map(weight).collect();
    let wanted = oracle::encode(trits, k);
    for backend in backends() {
        let what = format!("{backend:?} {mode:?} {:?}", case.shape);
        let mut packed = vec![0xa5; wanted.len()];
        dense::encode(backend, trits, [m, k], &mut packed, mode).expect("trits");
        assert_same("encode", &what, &packed, &wanted);
        let (mut back, mut floats) = (vec![77; trits.len()], vec![7.0; trits.len()]);
        dense::decode(backend, &packed, [m, k], &mut back, mode).expect("codes");
        assert_same("decode", &what, &back, trits);
        dense::decode_f32(backend, &packed, (&mut floats, [m, k]), &scales, mode).expect("codes");
        assert_same("decode_f32", &what, &bits(&floats), &bits(&weights));
    }
}

/// The layer, written as a panel file and read again.
fn through_a_file(layer: &Linear, verify: Verify) -> Linear {
    let mut bytes = Vec::new();
    PanelFile::from(layer).write_to(&mut bytes).expect("memory");
    Linear::try_from(PanelFile::from_bytes(bytes, verify).expect("a file")).expect("a layer")
}

/// A slice of the rows gives those rows of the result.
fn slice(case: &Case, rows: Range<usize>, expected: &Expected, options: &Options) {
    let Shape { m, n, .. } = case.shape;
    let layer = case.layer.slice_rows(rows.clone()).expect("at panels");
    let x = case.strided(&case.x_f32, f32::NAN);
    let mut y = vec![7.0; n * rows.len()];
    let out = view_mut(&mut y, n, rows.len());
    let ws = &mut workspace(options);
    layer
        .forward_f32(case.strided_view(&x), out, ws)
        .expect("fits");
    let wanted: Vec<u32> = (0..n)
        .flat_map(|token| &expected.float[token * m..][rows.clone()])
        .copied()
        .collect();
    assert_same(
        "slice",
        &format!("{rows:?} {:?} {options:?}", case.shape),
        &bits(&y),
        &wanted,
    );
}

/// The case of a seed, by every backend.
fn run(seed: u64) {
    let mut rng = Rng::new(seed);
    let shared = rng.below(6) == 0;
    let mut case = Case::new(Shape::draw(&mut rng, shared));
    let (expected, int8) = (case.expected(), case.expected_int8());
    codecs(&case, [Mode::Strict, Mode::Lenient][rng.below(2)]);
    if rng.below(4) == 0 {
        let verify = [Verify::Full, Verify::Header][rng.below(2)];
        case.layer = through_a_file(&case.layer, verify);
    }
    let x16: Vec<f16> = case.x_f32.iter().map(|&v| f16::from_f32(v)).collect();
    let xb16: Vec<bf16> = case.x_f32.iter().map(|&v| bf16::from_f32(v)).collect();
    let expected16 = case.quantized(&x16.iter().map(|v| v.to_f32()).collect::<Vec<_>>());
    let expected_b16 = case.quantized(&xb16.iter().map(|v| v.to_f32()).collect::<Vec<_>>());
    let m = case.shape.m;
    // Rows are cut where panels are, and at the end.
    let mut cut = || (64 * rng.below(m / 64 + 2)).min(m);
    let (a, b) = (cut(), cut());
    let pool = ThreadPoolBuilder::new()
        .num_threads([1, 2, 3, 8][rng.below(4)])
        .build();
    let pool = pool.expect("threads");
    // Every backend takes a family and threads by chance: more cases for the time.
    for backend in backends() {
        let family = FAMILIES[rng.below(FAMILIES.len())];
        let threads = [Threads::Serial, Threads::Rayon][rng.below(2)].clone();
        let options = Options::new()
            .backend(backend)
            .family(family)
            .threads(threads);
        let options = &options.weights_in_cache(rng.below(2) == 0);
        pool.install(|| {
            case.check(options, &expected);
            case.check_prepared(options, &expected, &int8);
            case.check_quantized(&x16, f16::NAN, &expected16, &mut workspace(options));
            case.check_quantized(&xb16, bf16::NAN, &expected_b16, &mut workspace(options));
            slice(&case, a.min(b)..a.max(b), &expected, options);
        });
    }
}

/// Prints how to repeat the case if it fails.
struct Repeat(u64);

impl Drop for Repeat {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let command = "cargo test --release --test soak -- --ignored";
            println!("to repeat it: TRITGEMM_SOAK_SEED={} {command}", self.0);
        }
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|e| panic!("{variable}={text}: {e}")),
    )
}

#[test]
#[ignore = "runs for TRITGEMM_SOAK_SECONDS"]
fn random_products() {
    let time = Duration::from_secs(number("TRITGEMM_SOAK_SECONDS").unwrap_or(60));
    let only = number("TRITGEMM_SOAK_SEED");
    let clock = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970");
    let (first, start) = (clock.as_nanos() as u64, Instant::now());
    let mut cases = 0;
    while cases == 0 || (only.is_none() && start.elapsed() < time) {
        let seed = only.unwrap_or(first.wrapping_add(cases));
        let repeat = Repeat(seed);
        run(seed);
        drop(repeat);
        cases += 1;
    }
    println!("{cases} cases agree on {:?}", backends());
}
