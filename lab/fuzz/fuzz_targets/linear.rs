//! The layer: int8 inside, scales per tensor, row or group, bias, activations
//! of every float type, prepared once, and slices of its rows.
#![no_main]

use arbitrary::Arbitrary;
use half::{bf16, f16};
use libfuzzer_sys::fuzz_target;
use tritgemm::{Activation, GemmError, Workspace};
use tritgemm_fuzz::draw::Draw;
use tritgemm_fuzz::fill::{Fill, Style};
use tritgemm_fuzz::way::Way;
use tritgemm_testing::case::{Case, assert_same};
use tritgemm_testing::{bits, view, view_mut};

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
            check(&case, &x, f32::NAN, cut, way);
        }
        Float::F16 => {
            let x: Vec<f16> = case.x_f32.iter().map(|&v| f16::from_f32(v)).collect();
            case.x_f32 = x.iter().map(|v| v.to_f32()).collect();
            check(&case, &x, f16::NAN, cut, way);
        }
        Float::Bf16 => {
            let x: Vec<bf16> = case.x_f32.iter().map(|&v| bf16::from_f32(v)).collect();
            case.x_f32 = x.iter().map(|v| v.to_f32()).collect();
            check(&case, &x, bf16::NAN, cut, way);
        }
    }
});

fn check<T: Activation>(case: &Case, x: &[T], poison: T, cut: u8, way: Way) {
    let (k, n) = (case.shape.k, case.shape.n);
    let want = case.quantized(&case.x_f32);
    way.on_every_backend(|ws| {
        case.check_quantized(x, poison, &want, ws);
        let prepared = case.layer.prepare_int8(view(x, n, k), ws);
        match &want {
            Ok(want) => {
                let got = case.prepared_int8(&prepared.expect("finite"), ws);
                let what = format!("{:?} {:?}", case.shape, ws.options());
                assert_same("prepared", &what, &got, want);
                slice(case, x, cut, want, ws);
            }
            Err(_) => assert!(matches!(prepared, Err(GemmError::Quant(_)))),
        }
    });
}

/// The rows from panel `cut` on are those outputs.
fn slice<T: Activation>(case: &Case, x: &[T], cut: u8, want: &[u32], ws: &mut Workspace) {
    let (m, k, n) = (case.shape.m, case.shape.k, case.shape.n);
    let start = (usize::from(cut) * 64).min(m / 64 * 64);
    let layer = case.layer.slice_rows(start..m).expect("at a panel");
    let mut y = vec![0.0; n * (m - start)];
    let out = view_mut(&mut y, n, m - start);
    layer.forward_int8(view(x, n, k), out, ws).expect("finite");
    let rows = (0..n).flat_map(|t| &want[t * m..][start..m]);
    let want: Vec<u32> = rows.copied().collect();
    assert_same(
        "slice",
        &format!("from {start}: {:?}", case.shape),
        &bits(&y),
        &want,
    );
}
