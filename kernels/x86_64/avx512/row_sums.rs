//! What the int8 kernels for many tokens with rows for lanes share: accumulators of 16 bits
//! of the even and the odd rows of a panel, and the totals that they are folded into.
//!
//! `acc` and `total` are `[panel][token][even rows, odd rows]`, 32 words each.

use crate::kernels::contract::{FinishCall, Fold, PANEL_ROWS, Scaling};
use core::arch::x86_64::*;

/// Something of the even and of the odd rows.
pub(super) type Pair = [__m512i; 2];
/// Pairs from a panel's accumulators to the next one's.
pub(super) const PANEL: usize = PANEL_ROWS / 2;

/// Moves the high parts of a token's and panel's sums to the totals, where a block ends, and
/// returns the low ones.
///
/// # Safety
/// Precondition 6 of [`crate::kernels::contract`] for this pair.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn fold([even, odd]: Pair, fold: Fold, total: *mut Pair) -> Pair {
    let (mut even_high, mut odd_high) = (_mm512_srai_epi16(even, 8), _mm512_srai_epi16(odd, 8));
    // SAFETY: the caller's word.
    unsafe {
        if fold == Fold::Add {
            let [even, odd] = total.read();
            even_high = _mm512_add_epi16(even_high, even);
            odd_high = _mm512_add_epi16(odd_high, odd);
        }
        total.write([even_high, odd_high]);
    }
    let low = _mm512_set1_epi16(0xff);
    [_mm512_and_si512(even, low), _mm512_and_si512(odd, low)]
}

/// `out[t][r] (+)= 256 * total[t][r] + acc[t][r]`. See
/// [`ManyKernel::finish`](crate::kernels::contract::ManyKernel::finish).
///
/// # Safety
/// Preconditions 1, 5, 6 and 7 of [`crate::kernels::contract`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[inline(never)]
pub(super) unsafe fn finish(call: &FinishCall<i32>) {
    let (mut acc, mut total) = (call.acc.cast::<Pair>(), call.total.cast::<Pair>());
    let mut out = call.out;
    for _ in 0..call.tokens {
        // SAFETY: preconditions 5 and 6: 64 rows of each token.
        unsafe { finish_token(acc.read(), total.read(), out, call.accumulate) };
        (acc, total) = (acc.wrapping_add(1), total.wrapping_add(1));
        out = out.wrapping_add(call.out_stride);
    }
}

/// Writes the sums of one token's 64 rows.
///
/// # Safety
/// Precondition 1 of [`crate::kernels::contract`]; `out` is valid for 64
/// values, initialised if `accumulate`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn finish_token(acc: Pair, total: Pair, out: *mut i32, accumulate: bool) {
    // In each 128-bit lane L, rows `16 L ..+ 8` and the 8 after.
    let rows = |[even, odd]: Pair| {
        [
            _mm512_unpacklo_epi16(even, odd),
            _mm512_unpackhi_epi16(even, odd),
        ]
    };
    let (low, high) = (rows(acc), rows(total));
    macro_rules! lane {
        ($lane:literal) => {{
            let wide = |[first, second]: Pair| {
                let first = _mm512_extracti32x4_epi32::<$lane>(first);
                let second = _mm512_extracti32x4_epi32::<$lane>(second);
                _mm512_cvtepi16_epi32(_mm256_set_m128i(second, first))
            };
            let mut sum = _mm512_add_epi32(wide(low), _mm512_slli_epi32(wide(high), 8));
            // SAFETY: the caller's word for 64 values; the lane is below 4.
            unsafe {
                let out = out.add(16 * $lane);
                if accumulate {
                    sum = _mm512_add_epi32(sum, _mm512_loadu_si512(out.cast()));
                }
                _mm512_storeu_si512(out.cast(), sum);
            }
        }};
    }
    lane!(0);
    lane!(1);
    lane!(2);
    lane!(3);
}

/// Scaled sums of one token: of the even rows and of the odd ones, each in two vectors.
pub(super) type Scaled = [[__m512; 2]; 2];

/// The scales of a panel's rows, in the order of [`Scaled`].
///
/// # Safety
/// Precondition 1 of [`crate::kernels::contract`]; `scales` has 64 values.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn scales(scales: *const f32) -> Scaled {
    // SAFETY: the caller's word.
    let [a, b, c, d] = unsafe {
        [
            _mm512_loadu_ps(scales),
            _mm512_loadu_ps(scales.add(16)),
            _mm512_loadu_ps(scales.add(32)),
            _mm512_loadu_ps(scales.add(48)),
        ]
    };
    [
        [alternate::<0>(a, b), alternate::<0>(c, d)],
        [alternate::<1>(a, b), alternate::<1>(c, d)],
    ]
}

/// Adds the sums of a panel and its tile's token number `t`, and the totals before them if
/// there are any, to the scaled sums.
///
/// # Safety
/// Preconditions 1 and 9 of [`crate::kernels::contract`], for this panel and token.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn add_scaled(
    sums: Pair,
    totals: Option<Pair>,
    (scaling, scales): (Scaling, &Scaled),
    t: usize,
) {
    let mut values = [wide(sums[0]), wide(sums[1])];
    if let Some([even, odd]) = totals {
        let totals = [wide(even), wide(odd)];
        for (values, totals) in values.iter_mut().zip(&totals) {
            for (value, &total) in values.iter_mut().zip(totals) {
                *value = _mm512_add_epi32(*value, _mm512_slli_epi32(total, 8));
            }
        }
    }
    // SAFETY: the caller's word.
    unsafe {
        let token_scale = _mm512_set1_ps(scaling.token_scales.add(t).read());
        let to = scaling.sums.cast::<Scaled>().add(t);
        let mut scaled = match scaling.first {
            true => [[_mm512_setzero_ps(); 2]; 2],
            false => to.read(),
        };
        for half in 0..2 {
            for i in 0..2 {
                let scale = _mm512_mul_ps(scales[half][i], token_scale);
                let sum = _mm512_mul_ps(_mm512_cvtepi32_ps(values[half][i]), scale);
                scaled[half][i] = _mm512_add_ps(scaled[half][i], sum);
            }
        }
        to.write(scaled);
    }
}

/// Words as values of 32 bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn wide(words: __m512i) -> [__m512i; 2] {
    [
        _mm512_cvtepi16_epi32(_mm512_castsi512_si256(words)),
        _mm512_cvtepi16_epi32(_mm512_extracti64x4_epi64::<1>(words)),
    ]
}

/// Every second value of both, from number `FIRST` on.
#[inline]
#[target_feature(enable = "avx512f")]
fn alternate<const FIRST: i32>(a: __m512, b: __m512) -> __m512 {
    let indices = _mm512_add_epi32(
        _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0),
        _mm512_set1_epi32(FIRST),
    );
    _mm512_permutex2var_ps(a, indices, b)
}

/// See [`ManyKernel::finish_groups`](crate::kernels::contract::ManyKernel::finish_groups).
///
/// # Safety
/// Preconditions 1, 5, 7 and 9 of [`crate::kernels::contract`].
#[target_feature(enable = "avx512f")]
#[inline(never)]
pub(super) unsafe fn finish_groups(call: &FinishCall<f32>) {
    let from = call.total.cast::<[[f32; PANEL]; 2]>();
    for t in 0..call.tokens {
        // SAFETY: precondition 9: scaled sums of each token; 5: outputs of 64 rows.
        unsafe {
            let [even, odd] = from.add(t).read();
            let out = call.out.add(t * call.out_stride);
            for i in 0..PANEL {
                out.add(2 * i).write(even[i]);
                out.add(2 * i + 1).write(odd[i]);
            }
        }
    }
}
