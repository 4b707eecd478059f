//! What a case is made of, drawn from its seed.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Most multiply-adds of a usual case, and of one that threads are to share.
const USUAL_MACS: usize = 1 << 19;
const SHARED_MACS: usize = 5 << 20;
/// Longest K of a case that is long on purpose.
const LONG: usize = 1 << 20;

/// A source of everything random in a case.
pub struct Draw(StdRng);

/// How f32 values are distributed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Values {
    /// Uniform in -1..1.
    Uniform,
    /// Magnitudes from 2^-20 to 2^20: cancellation and absorption.
    Wide,
    /// Up to the largest float: sums overflow.
    Huge,
    /// Subnormals and zeros of both signs.
    Tiny,
    /// As `Wide`, with NaNs of several payloads and infinities strewn in.
    Special,
    /// Any 32 bits.
    Bits,
}

const VALUES: [Values; 6] = [
    Values::Uniform,
    Values::Wide,
    Values::Huge,
    Values::Tiny,
    Values::Special,
    Values::Bits,
];

impl Draw {
    /// All that follows depends on `seed` alone.
    pub fn new(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    /// `0..n`; 0 for an empty range.
    pub fn below(&mut self, n: usize) -> usize {
        self.0.random_range(0..n.max(1))
    }

    /// True once in `n` times.
    pub fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// One of them.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// Rows, columns and tokens of a product, more of them if it is to be
    /// `shared` among threads.
    pub fn sizes(&mut self, shared: bool) -> [usize; 3] {
        if shared {
            let (k, n) = (200 + self.below(1800), 1 + self.below(130));
            // Enough work to be shared: see what the library's threads do.
            let least = (1 << 21) / k / n + 1;
            let most = (SHARED_MACS / k / n).max(least + 1);
            return [least + self.below(most - least), k, n];
        }
        let k = match self.below(40) {
            0 => 0,
            1 => self.below(LONG),
            _ => self.near(&[4, 12, 60, 64, 128, 240, 256], 2600),
        };
        let n = self
            .near(&[1, 4, 8, 16, 32, 64], 140)
            .min(USUAL_MACS / k.max(1));
        let m = self
            .near(&[64, 256], 700)
            .min(USUAL_MACS / k.max(1) / n.max(1));
        // A single row of one token is always affordable.
        let one_at_least = k > USUAL_MACS && self.below(8) > 0;
        if one_at_least { [1, k, 1] } else { [m, k, n] }
    }

    /// Up to `max`, often small, often next to a multiple of one of `units`.
    fn near(&mut self, units: &[usize], max: usize) -> usize {
        match self.below(4) {
            0 => self.below(20),
            1 => self.below(max + 1),
            _ => {
                let unit = self.pick(units);
                let multiple = unit * self.below(max / unit + 1);
                (multiple + self.below(5)).saturating_sub(2).min(max)
            }
        }
    }

    /// `len` weights: any mixture of zeros and signs, or the same sign all over.
    pub fn trits(&mut self, len: usize) -> Vec<i8> {
        match self.below(6) {
            0 => vec![self.pick(&[-1, 0, 1]); len],
            1 => self.vec(len, |d| if d.once_in(12) { d.pick(&[-1, 1]) } else { 0 }),
            2 => self.vec(len, |d| d.pick(&[-1, 1])),
            _ => self.vec(len, |d| d.0.random_range(-1..=1)),
        }
    }

    /// `len` int8 activations, with the extremes all over now and then.
    pub fn i8s(&mut self, len: usize) -> Vec<i8> {
        match self.below(5) {
            0 => vec![self.pick(&[-128, 127]); len],
            1 => self.vec(len, |d| d.pick(&[-128, 127])),
            2 => self.vec(len, |d| d.0.random_range(-1..=1)),
            _ => self.vec(len, |d| d.0.random()),
        }
    }

    /// How a case's floats are distributed.
    pub fn values(&mut self) -> Values {
        self.pick(&VALUES)
    }

    /// `len` floats.
    pub fn floats(&mut self, len: usize, values: Values) -> Vec<f32> {
        self.vec(len, |d| d.float(values))
    }

    /// A finite scale.
    pub fn scale(&mut self) -> f32 {
        match self.below(30) {
            0 => self.pick(&[0.0, -0.0, 1.0, f32::MAX, f32::MIN_POSITIVE / 4.0]),
            _ => self.float(Values::Wide),
        }
    }

    fn float(&mut self, values: Values) -> f32 {
        let unit = |d: &mut Self| d.0.random_range(-1.0f32..1.0);
        let wide = |d: &mut Self| unit(d) * f32::powi(2.0, d.0.random_range(-20..=20));
        match values {
            Values::Uniform => unit(self),
            Values::Wide => wide(self),
            Values::Huge => unit(self) * f32::MAX,
            Values::Tiny if self.once_in(4) => self.pick(&[0.0, -0.0]),
            Values::Tiny => f32::from_bits(self.0.random::<u32>() & 0x807f_ffff),
            Values::Special if self.once_in(60) => f32::from_bits(self.pick(&SPECIAL)),
            Values::Special => wide(self),
            Values::Bits => f32::from_bits(self.0.random()),
        }
    }

    fn vec<T>(&mut self, len: usize, mut value: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..len).map(|_| value(self)).collect()
    }
}

/// Infinities, NaNs quiet and signalling, and the smallest subnormals.
const SPECIAL: [u32; 8] = [
    0x7f80_0000,
    0xff80_0000,
    0x7fc0_0000,
    0x7fc0_1234,
    0xffff_ffff,
    0x7f80_0001,
    0x0000_0001,
    0x8000_0001,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_says_it_all() {
        let draw = |seed| {
            let mut d = Draw::new(seed);
            (d.sizes(false), d.trits(50), d.i8s(50), d.below(1000))
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn sizes_reach_every_kind() {
        let mut draw = Draw::new(1);
        let sizes: Vec<[usize; 3]> = (0..4000).map(|_| draw.sizes(false)).collect();
        let any = |what: &str, is: &dyn Fn(&[usize; 3]) -> bool| {
            assert!(sizes.iter().any(is), "{what}");
        };
        any("no rows", &|s| s[0] == 0);
        any("no columns", &|s| s[1] == 0);
        any("no tokens", &|s| s[2] == 0);
        any("a long K with weights", &|s| {
            s[1] > LONG / 2 && s[0] > 0 && s[2] > 0
        });
        any("multiples", &|s| s[0] == 128 && s[1] % 240 == 0);
        any("tails", &|s| s[0] % 64 == 63 && s[1] % 4 == 1);
        for [m, k, n] in sizes {
            assert!(m * n * k <= LONG.max(USUAL_MACS), "{m} {k} {n}");
        }
        for _ in 0..200 {
            let [m, k, n] = draw.sizes(true);
            assert!((1 << 21..8 << 20).contains(&(m * k * n)), "{m} {k} {n}");
        }
    }
}
