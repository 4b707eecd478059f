//! int8 products of every kernel equal the mathematical sum, and touch nothing
//! around the output.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tritgemm_fuzz::draw::Draw;
use tritgemm_fuzz::fill::Fill;
use tritgemm_fuzz::way::Way;
use tritgemm_testing::case::assert_same;
use tritgemm_testing::oracle;

fuzz_target!(|input: (Draw, Fill, Way)| {
    let (draw, x, way) = input;
    let case = draw.i8(&x);
    let sums = oracle::integers(case.operands(&case.x_i8));
    let fits = |sum| i32::try_from(sum).expect("fits int32");
    let want: Vec<i32> = sums.into_iter().map(fits).collect();
    way.on_every_backend(|ws| {
        let what = format!("{:?} {:?}", case.shape, ws.options());
        // Twice: a workspace that was used must not show.
        for _ in 0..2 {
            assert_same("gemm_i8", &what, &case.gemm_i8(ws), &want);
        }
    });
});
