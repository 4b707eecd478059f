//! Random numbers by position: value i depends on the seed and on i alone, so
//! that any thread can make any part, again and again.
//!
//! The bits come from SplitMix64 (Steele, Lea and Flood, "Fast Splittable
//! Pseudorandom Number Generators", 2014); normal values by Box and Muller's
//! transform with logarithm, sine and cosine as short series of plain f32
//! operations, the same on every instruction set.

use multiversion::multiversion;

/// Normal values come in batches of this many.
pub const BATCH: usize = 64;

const HALF: usize = BATCH / 2;

#[inline(always)]
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ bits >> 31
}

/// The 64 random bits of position `i`. The seed is mixed first: seeds that are
/// close give streams that are not shifts of one another.
#[inline(always)]
fn random(seed: u64, i: u64) -> u64 {
    mix(mix(seed).wrapping_add(i.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15)))
}

/// Natural logarithm of a normal, positive x: `2^e m` with m in
/// `[sqrt(1/2), sqrt(2))`, and the logarithm of m as `2 atanh((m - 1) / (m + 1))`
/// to the ninth power of its argument, at most 0.172: an error below 1e-8.
#[inline(always)]
fn ln(x: f32) -> f32 {
    const SQRT_HALF: i32 = 0x3f35_04f3;
    let bits = x.to_bits() as i32;
    let e = (bits - SQRT_HALF) >> 23;
    let m = f32::from_bits((bits - (e << 23)) as u32);
    let s = (m - 1.0) / (m + 1.0);
    let s2 = s * s;
    let series = 1.0 + s2 * (1.0 / 3.0 + s2 * (1.0 / 5.0 + s2 * (1.0 / 7.0 + s2 * (1.0 / 9.0))));
    e as f32 * core::f32::consts::LN_2 + 2.0 * s * series
}

/// Sine and cosine of `turns` whole turns, `|turns| <= 1/2`: reduced to an
/// eighth of a turn around a quarter, then Taylor series to the ninth and
/// eighth power, an error below 1e-7.
#[inline(always)]
fn sin_cos(turns: f32) -> (f32, f32) {
    const ROUND: f32 = 12_582_912.0;
    let quarters = 4.0 * turns + ROUND;
    let angle = (4.0 * turns - (quarters - ROUND)) * core::f32::consts::FRAC_PI_2;
    let a2 = angle * angle;
    let sin = angle
        * (1.0 + a2 * (-1.0 / 6.0 + a2 * (1.0 / 120.0 + a2 * (-1.0 / 5040.0 + a2 / 362_880.0))));
    let cos = 1.0 + a2 * (-0.5 + a2 * (1.0 / 24.0 + a2 * (-1.0 / 720.0 + a2 / 40_320.0)));
    let quadrant = quarters.to_bits();
    let (s, c) = if quadrant & 1 == 0 {
        (sin, cos)
    } else {
        (cos, sin)
    };
    let negative = |bit: u32| (bit & 2) << 30;
    (
        f32::from_bits(s.to_bits() ^ negative(quadrant)),
        f32::from_bits(c.to_bits() ^ negative(quadrant.wrapping_add(1))),
    )
}

/// The standard normal values of batch `batch`: pair j makes values j and
/// j + 32.
#[inline(always)]
fn normal_batch(seed: u64, batch: u64) -> [f32; BATCH] {
    const STEP: f32 = 1.0 / (1_u32 << 24) as f32;
    let mut z = [0.0; BATCH];
    let (left, right) = z.split_at_mut(HALF);
    let first = batch.wrapping_mul(HALF as u64);
    for j in 0..HALF {
        let bits = random(seed, first.wrapping_add(j as u64));
        // In (0, 1], so that the logarithm exists.
        let uniform = ((bits >> 40) as i32 + 1) as f32 * STEP;
        let turns = ((bits & 0xff_ffff) as i32 - (1 << 23)) as f32 * STEP;
        let radius = (-2.0 * ln(uniform)).max(0.0).sqrt();
        let (sin, cos) = sin_cos(turns);
        left[j] = radius * cos;
        right[j] = radius * sin;
    }
    z
}

/// `values[i] += scale * z[i]`, z the standard normal values of `seed` from
/// batch `batch` on.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
pub fn add_normal(values: &mut [f32], seed: u64, batch: u64, scale: f32) {
    for (i, values) in values.chunks_mut(BATCH).enumerate() {
        let z = normal_batch(seed, batch.wrapping_add(i as u64));
        for (value, z) in values.iter_mut().zip(z) {
            *value += scale * z;
        }
    }
}

/// `values[i]` uniform in `[-bound, bound)`, by position `first + i`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
pub fn fill_uniform(values: &mut [f32], seed: u64, first: u64, bound: f32) {
    const STEP: f32 = 1.0 / (1_u32 << 23) as f32;
    for (i, value) in values.iter_mut().enumerate() {
        let bits = random(seed, first.wrapping_add(i as u64)) >> 40;
        *value = (bits as i32 - (1 << 23)) as f32 * STEP * bound;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithm_sine_and_cosine_are_close_to_f64() {
        for i in 1..=1_u32 << 16 {
            let x = i as f32 / (1 << 16) as f32;
            let exact = f64::from(x).ln();
            let error = (f64::from(ln(x)) - exact).abs();
            assert!(
                error <= 3e-7 * exact.abs().max(1.0),
                "ln {x}: off by {error}"
            );
            let turns = x - 0.5;
            let (sin, cos) = sin_cos(turns);
            let (s, c) = (f64::from(turns) * core::f64::consts::TAU).sin_cos();
            let error = (f64::from(sin) - s).abs().max((f64::from(cos) - c).abs());
            assert!(
                error <= 3e-7,
                "sin and cos of {turns} turns: off by {error}"
            );
        }
    }

    #[test]
    fn normal_values_have_the_moments_of_a_normal_distribution() {
        let count = 1 << 20;
        let mut z = vec![0.0; count];
        add_normal(&mut z, 7, 0, 1.0);
        let moment = |p: i32| z.iter().map(|&z| f64::from(z).powi(p)).sum::<f64>() / count as f64;
        // Standard deviations of the sample moments: sqrt(var(z^p) / count),
        // with var(z^p) = 1, 2, 15, 96. Five of them.
        for (p, expected, variance) in
            [(1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0)]
        {
            let bound = 5.0 * f64::sqrt(variance / count as f64);
            let found = moment(p);
            assert!((found - expected).abs() < bound, "moment {p} is {found}");
        }
        let next: f64 = z
            .windows(2)
            .map(|w| f64::from(w[0]) * f64::from(w[1]))
            .sum();
        assert!((next / count as f64).abs() < 5.0 / f64::sqrt(count as f64));
    }

    #[test]
    fn a_part_is_the_same_as_in_the_whole() {
        let mut whole = vec![1.0; 5 * BATCH + 7];
        let mut parts = whole.clone();
        add_normal(&mut whole, 3, 10, 0.5);
        let (head, tail) = parts.split_at_mut(2 * BATCH);
        add_normal(tail, 3, 12, 0.5);
        add_normal(head, 3, 10, 0.5);
        assert_eq!(whole, parts);
    }
}
