//! What the results should be, from the definitions: loops over trits, one
//! output at a time, with nothing of the library but its types' values.

/// The operands of a product and what is done with its sums.
pub struct Problem<'a> {
    /// Weights `[m][k]`: -1, 0, 1.
    pub trits: &'a [i8],
    /// Rows, columns, tokens.
    pub sizes: [usize; 3],
    /// Scales `[m][segments]`: one for each segment of K.
    pub scales: &'a [f32],
    /// Weights in a segment; the last one may be short.
    pub segment: usize,
    /// One a row.
    pub bias: Option<&'a [f32]>,
}

impl Problem<'_> {
    /// Bits of the exact sums of int8 activations `[n][k]`, by token, by row;
    /// `None` where one is no int32.
    pub fn integers(&self, x: &[i8]) -> Option<Vec<u32>> {
        let bits = |sum: i64| i32::try_from(sum).ok().map(|sum| sum as u32);
        self.each(x, |w, x| bits(exact(w, x))).into_iter().collect()
    }

    /// Bits of the layer's output for int8 activations and a scale a token.
    pub fn quantized(&self, x: &[i8], token_scales: &[f32]) -> Vec<u32> {
        self.layer(x, |token, scale| {
            let scale = scale * token_scales[token];
            move |w: &[i8], x: &[i8]| exact(w, x) as f32 * scale
        })
    }

    /// Bits of the layer's output for f32 activations in the canonical order.
    pub fn float(&self, x: &[f32]) -> Vec<u32> {
        self.layer(x, |_, scale| {
            move |w: &[i8], x: &[f32]| canonical(w, x) * scale
        })
    }

    /// `output(weights of the row, activations of the token)` for all of them.
    fn each<X, Y>(&self, x: &[X], output: impl Fn(&[i8], &[X]) -> Y) -> Vec<Y> {
        let [m, k, n] = self.sizes;
        let pairs = (0..n).flat_map(|token| (0..m).map(move |row| (token, row)));
        pairs
            .map(|(token, row)| output(&self.trits[row * k..][..k], &x[token * k..][..k]))
            .collect()
    }

    /// `scaled(token, scale)` gives the function that turns a segment into its
    /// scaled sum. Scaled sums of several segments are added in order to +0.0.
    fn layer<X, F: Fn(&[i8], &[X]) -> f32>(
        &self,
        x: &[X],
        scaled: impl Fn(usize, f32) -> F,
    ) -> Vec<u32> {
        let [m, k, n] = self.sizes;
        let segments = k.div_ceil(self.segment.max(1));
        let mut outputs = Vec::with_capacity(m * n);
        for token in 0..n {
            for row in 0..m {
                let part = |i: usize| {
                    let (start, end) = (i * self.segment, k.min((i + 1) * self.segment));
                    let weights = &self.trits[row * k + start..row * k + end];
                    let x = &x[token * k + start..token * k + end];
                    scaled(token, self.scales[row * segments + i])(weights, x)
                };
                let mut y = match segments {
                    0 => 0.0,
                    1 => part(0),
                    _ => (0..segments).fold(0.0, |sum, i| sum + part(i)),
                };
                if let Some(bias) = self.bias {
                    y += bias[row];
                }
                // Which NaN it is depends on the CPU, so there is only one.
                outputs.push(if y.is_nan() { 0x7fc0_0000 } else { y.to_bits() });
            }
        }
        outputs
    }
}

/// The sum of products of a segment.
fn exact(weights: &[i8], x: &[i8]) -> i64 {
    // 4096 products of 128 at most fit an i32 well, which makes it faster.
    let parts = weights.chunks(4096).zip(x.chunks(4096));
    let sum = |(w, x): (&[i8], &[i8])| -> i32 {
        let products = w.iter().zip(x).map(|(&w, &x)| i32::from(w) * i32::from(x));
        products.sum()
    };
    parts.map(sum).map(i64::from).sum()
}

/// The sum of a segment in the canonical order: four weights in two pairs,
/// fours in order in a block of 240, blocks in order, all from +0.0.
fn canonical(weights: &[i8], x: &[f32]) -> f32 {
    // A weight of 0 does not touch its activation, whatever that is.
    let term = |(&w, &x): (&i8, &f32)| match w {
        1 => x,
        -1 => -x,
        _ => 0.0,
    };
    let mut total = 0.0;
    for (weights, x) in weights.chunks(240).zip(x.chunks(240)) {
        let mut block = 0.0;
        for (weights, x) in weights.chunks(4).zip(x.chunks(4)) {
            let mut four = [0.0f32; 4];
            for (four, pair) in four.iter_mut().zip(weights.iter().zip(x)) {
                *four = term(pair);
            }
            block += (four[0] + four[1]) + (four[2] + four[3]);
        }
        total += block;
    }
    total
}

/// Quantises a token by its absolute maximum: int8 values and their scale.
pub fn quantize(x: &[f32]) -> (Vec<i8>, f32) {
    let absmax = x.iter().fold(1e-5f32, |max, v| max.max(v.abs()));
    let factor = 127.0 / absmax;
    let round = |v: &f32| (v * factor).round_ties_even().clamp(-128.0, 127.0) as i8;
    (x.iter().map(round).collect(), absmax / 127.0)
}

/// Packed rows: four weights a byte, the first in the top bits, zeros after
/// the last.
pub fn encode(trits: &[i8], cols: usize) -> Vec<u8> {
    let code = |trit: &i8| [0b10, 0b00, 0b01][(trit + 1) as usize];
    let byte = |four: &[i8]| {
        let codes = four.iter().map(code).chain([0; 3]).take(4);
        codes.fold(0, |byte, code: u8| byte << 2 | code)
    };
    let rows = trits.chunks(cols.max(1));
    rows.flat_map(|row| row.chunks(4).map(byte)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Worked out by hand.
    #[test]
    fn small_products() {
        let problem = Problem {
            trits: &[1, 0, -1, -1, 1, 1],
            sizes: [2, 3, 1],
            scales: &[0.5, 2.0],
            segment: 3,
            bias: Some(&[1.0, -1.0]),
        };
        let integers = problem.integers(&[-128, 7, 127]).expect("in range");
        assert_eq!(integers, [-255i32 as u32, 262]);
        let float = problem.float(&[1.5, f32::NAN, 4.0]);
        assert_eq!(float, [(-0.25f32).to_bits(), 0x7fc0_0000]);
        let quantized = problem.quantized(&[1, 2, 3], &[0.25]);
        assert_eq!(quantized, [0.75f32, 1.0].map(f32::to_bits));
    }

    #[test]
    fn groups_are_scaled_one_by_one() {
        let problem = Problem {
            trits: &[1, 1, 1],
            sizes: [1, 3, 1],
            scales: &[2.0, 0.5],
            segment: 2,
            bias: None,
        };
        let float = problem.float(&[1.0, 2.0, 4.0]);
        assert_eq!(float, [8.0f32.to_bits()]);
    }

    #[test]
    fn sums_stay_in_the_canonical_order() {
        // 2^24 + 1 is no f32: pairs first keep the two ones, a running sum
        // would lose them.
        let x = [16_777_216.0, 0.0, 1.0, 1.0];
        assert_eq!(canonical(&[1; 4], &x), 16_777_218.0);
        // A block ends after 240.
        let mut x = vec![0.0; 242];
        (x[0], x[240], x[241]) = (16_777_216.0, 1.0, 1.0);
        assert_eq!(canonical(&[1; 242], &x), 16_777_218.0);
    }

    #[test]
    fn codes() {
        assert_eq!(
            encode(&[1, 0, -1, 0, 1, -1, -1, 0, 1, 0], 5),
            [0b01_00_10_00, 0b01_00_00_00, 0b10_10_00_01, 0]
        );
        assert_eq!(encode(&[], 0), [0; 0]);
    }

    #[test]
    fn quantised_half_to_even() {
        assert_eq!(
            quantize(&[1.0, -2.0, 0.5, 0.0]),
            (vec![64, -127, 32, 0], 2.0 / 127.0)
        );
    }
}
