//! The layer: int8 inside, scales per tensor, row or group, bias, activations
//! of every float type, prepared once, and slices of its rows.
#![no_main]

use arbitrary::Arbitrary;
use half::{bf16, f16};
use libfuzzer_sys::fuzz_target;
use tritgemm::quant::QuantError;
use tritgemm::{Activation, GemmError, GroupSize, PreparedActivations, Workspace};
use tritgemm_fuzz::common::case::{Case, assert_same};
use tritgemm_fuzz::common::{bits, oracle, view, view_mut};
use tritgemm_fuzz::draw::Draw;
use tritgemm_fuzz::fill::{Fill, Style};
use tritgemm_fuzz::way::Way;

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Float {
    F32,
    F16,
    Bf16,
}

fuzz_target!(|input: (Draw, Fill, Style, Float, u8, Way)| {
    let (draw, x, style, float, cut, way) = input;
    let mut case = draw.f32(&x, style);
    match float {
        Float::F32 => {
            let x = case.x_f32.clone();
            check(&case, &x, cut, way);
        }
        Float::F16 => {
            let x: Vec<f16> = case.x_f32.iter().map(|&v| f16::from_f32(v)).collect();
            case.x_f32 = x.iter().map(|v| v.to_f32()).collect();
            check(&case, &x, cut, way);
        }
        Float::Bf16 => {
            let x: Vec<bf16> = case.x_f32.iter().map(|&v| bf16::from_f32(v)).collect();
            case.x_f32 = x.iter().map(|v| v.to_f32()).collect();
            check(&case, &x, cut, way);
        }
    }
});

/// The output by definition, or the first value that is not finite.
fn expected(case: &Case) -> Result<Vec<u32>, (usize, usize)> {
    let (k, n) = (case.shape.k, case.shape.n);
    if let Some(at) = case.x_f32.iter().position(|v| !v.is_finite()) {
        return Err((at / k, at % k));
    }
    let (mut q, mut token_scales) = (Vec::new(), Vec::new());
    for token in 0..n {
        let (values, scale) = oracle::quantize(&case.x_f32[token * k..][..k]);
        q.extend(values);
        token_scales.push(scale);
    }
    Ok(bits(&case.affine(|a| {
        oracle::scaled_integers(case.operands(&q), &token_scales, a)
    })))
}

fn check<T: Activation>(case: &Case, x: &[T], cut: u8, way: Way) {
    let (m, k, n) = (case.shape.m, case.shape.k, case.shape.n);
    let want = expected(case);
    way.on_every_backend(|ws| {
        let what = format!("{:?} {:?}", case.shape, ws.options());
        let mut y = case.output(-12345.678f32);
        let done = case.layer.forward(view(x, n, k), y.view(), ws);
        let y = bits(&y.take(&what));
        let prepared = prepare(case, x, ws);
        match (&want, done) {
            (Ok(want), Ok(())) => {
                assert_same("forward", &what, &y, want);
                let prepared = prepared.expect("finite");
                let got = case.forward_prepared(&prepared, ws);
                assert_same("forward_prepared", &what, &got, want);
                slice(case, x, cut, want, ws);
            }
            (Err(at), Err(GemmError::Quant(QuantError::Activation { token, index, .. }))) => {
                assert_eq!(*at, (token, index), "{what}");
                let untouched = vec![(-12345.678f32).to_bits(); m * n];
                assert_same("untouched", &what, &y, &untouched);
                assert!(matches!(prepared, Err(GemmError::Quant(_))), "{what}");
            }
            (want, done) => panic!("{done:?}, expected {want:?}: {what}"),
        }
    });
}

fn prepare<T: Activation>(
    case: &Case,
    x: &[T],
    ws: &mut Workspace,
) -> Result<PreparedActivations, GemmError> {
    let group = case.group().and_then(GroupSize::from_len);
    PreparedActivations::quantize(view(x, case.shape.n, case.shape.k), group, ws)
}

/// The rows from panel `cut` on are those outputs.
fn slice<T: Activation>(case: &Case, x: &[T], cut: u8, want: &[u32], ws: &mut Workspace) {
    let (m, k, n) = (case.shape.m, case.shape.k, case.shape.n);
    let start = (usize::from(cut) * 64).min(m / 64 * 64);
    let layer = case.layer.slice_rows(start..m).expect("at a panel");
    let mut y = vec![0.0; n * (m - start)];
    let out = view_mut(&mut y, n, m - start);
    layer.forward(view(x, n, k), out, ws).expect("finite");
    let rows = (0..n).flat_map(|t| &want[t * m..][start..m]);
    let want: Vec<u32> = rows.copied().collect();
    assert_same(
        "slice",
        &format!("from {start}: {:?}", case.shape),
        &bits(&y),
        &want,
    );
}
