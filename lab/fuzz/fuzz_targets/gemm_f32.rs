//! f32 products of every kernel have the bits of the canonical order, NaNs,
//! infinities and subnormals included.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tritgemm_fuzz::draw::Draw;
use tritgemm_fuzz::fill::{Fill, Style};
use tritgemm_fuzz::way::Way;
use tritgemm_testing::case::assert_same;
use tritgemm_testing::{bits, oracle};

fuzz_target!(|input: (Draw, Fill, Style, Way)| {
    let (draw, x, style, way) = input;
    let case = draw.f32(&x, style);
    let want = case.affine(|a| oracle::canonical(case.operands(&case.x_f32), a));
    let want = bits(&want);
    way.on_every_backend(|ws| {
        let what = format!("{:?} {:?}", case.shape, ws.options());
        for _ in 0..2 {
            assert_same("forward_f32", &what, &case.forward_f32(ws), &want);
        }
    });
});
