//! What the int8 kernels by byte look-ups share: sums of bytes folded into 16 bits, and
//! the rows' sums put together from them.

use core::arch::x86_64::*;

/// Strips of a group whose sums 16 bits hold, with their sign.
pub(super) const MOST_STRIPS: usize = i16::MAX as usize / (4 * 128);

/// Sums of one half (low or high tables) of a panel.
#[derive(Clone, Copy)]
pub(super) struct Sum {
    /// `even + 256 * odd` modulo 2^16.
    pub(super) both: __m512i,
    /// `odd`.
    pub(super) odd: __m512i,
}

impl Sum {
    /// Adds u8 lanes.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn fold(&mut self, bytes: __m512i) {
        self.both = _mm512_add_epi16(self.both, bytes);
        self.odd = _mm512_add_epi16(self.odd, _mm512_srli_epi16(bytes, 8));
    }

    /// Rows in order: in each 128-bit lane L, rows `16 L ..+ 8` and the 8 after.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn rows(self) -> (__m512i, __m512i) {
        let even = _mm512_sub_epi16(self.both, _mm512_slli_epi16(self.odd, 8));
        (
            _mm512_unpacklo_epi16(even, self.odd),
            _mm512_unpackhi_epi16(even, self.odd),
        )
    }
}

/// Writes `low + 32 * high - bias` of 64 rows.
///
/// # Safety
/// Precondition 1 of [`crate::kernels::contract`]; `out` is valid for 64
/// values, initialised if `accumulate`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[inline]
pub(super) unsafe fn store(
    low: (__m512i, __m512i),
    high: (__m512i, __m512i),
    bias: __m512i,
    accumulate: bool,
    out: *mut i32,
) {
    macro_rules! lane {
        ($lane:literal) => {{
            let wide = |(first, second): (__m512i, __m512i)| {
                let first = _mm512_extracti32x4_epi32::<$lane>(first);
                let second = _mm512_extracti32x4_epi32::<$lane>(second);
                _mm512_cvtepu16_epi32(_mm256_set_m128i(second, first))
            };
            let sum = _mm512_add_epi32(wide(low), _mm512_slli_epi32(wide(high), 5));
            let mut sum = _mm512_sub_epi32(sum, bias);
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

/// Sums that `low + 32 * high` starts at, in 16 bits, to end at what is `bias` less.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn less(bias: usize) -> Sum {
    let bias = (bias as i16).wrapping_neg();
    Sum {
        both: _mm512_set1_epi16(bias.wrapping_mul(257)),
        odd: _mm512_set1_epi16(bias),
    }
}

/// `low + 32 * high` of 64 rows in their order, where it fits 16 bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn values(low: Sum, high: Sum) -> [__m512; 4] {
    let sum = Sum {
        both: _mm512_add_epi16(low.both, _mm512_slli_epi16(high.both, 5)),
        odd: _mm512_add_epi16(low.odd, _mm512_slli_epi16(high.odd, 5)),
    };
    let (first, second) = sum.rows();
    // The lanes of 8 rows by turns: rows 0 to 32, and 32 to 64.
    let in_order = |lanes| _mm512_permutex2var_epi64(first, lanes, second);
    let halves = [
        in_order(_mm512_set_epi64(11, 10, 3, 2, 9, 8, 1, 0)),
        in_order(_mm512_set_epi64(15, 14, 7, 6, 13, 12, 5, 4)),
    ];
    let wide = |words| _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(words));
    [
        wide(_mm512_castsi512_si256(halves[0])),
        wide(_mm512_extracti64x4_epi64::<1>(halves[0])),
        wide(_mm512_castsi512_si256(halves[1])),
        wide(_mm512_extracti64x4_epi64::<1>(halves[1])),
    ]
}
