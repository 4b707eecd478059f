//! What the products should be, by definition and by nothing of the crate:
//! plain loops over trits and activations, never over packed bytes.

/// One product's operands, all dense and row-major.
#[derive(Clone, Copy)]
pub struct Operands<'a, X> {
    /// `[m][k]`.
    pub trits: &'a [i8],
    /// `[n][k]`.
    pub x: &'a [X],
    pub m: usize,
    pub n: usize,
    pub k: usize,
}

/// Scales as a closure of (row, column), what they cover along K, and bias.
pub struct Affine<'a> {
    pub scale: &'a dyn Fn(usize, usize) -> f32,
    /// Weights in a group; `None` for a single scale along K.
    pub group: Option<usize>,
    pub bias: Option<&'a [f32]>,
}

/// `y[n][m]` in 64 bits.
pub fn integers(a: Operands<'_, i8>) -> Vec<i64> {
    let mut y = Vec::with_capacity(a.n * a.m);
    for token in 0..a.n {
        for row in 0..a.m {
            y.push(dot(a, token, row, 0, a.k));
        }
    }
    y
}

fn dot(a: Operands<'_, i8>, token: usize, row: usize, start: usize, end: usize) -> i64 {
    let mut sum = 0;
    for i in start..end {
        sum += i64::from(a.trits[row * a.k + i]) * i64::from(a.x[token * a.k + i]);
    }
    sum
}

/// The ranges of K that have a scale of their own.
fn segments(k: usize, group: Option<usize>) -> Vec<(usize, usize)> {
    let group = group.unwrap_or(k).max(1);
    (0..k)
        .step_by(group)
        .map(|s| (s, k.min(s + group)))
        .collect()
}

/// One output from its sums per segment: times the scale, plus the bias; group
/// after group where there is more than one.
fn combine(terms: &[(f32, f32)], bias: Option<f32>) -> f32 {
    let sum = match *terms {
        [] => 0.0,
        [(sum, scale)] => sum * scale,
        _ => terms.iter().fold(0.0, |y, (sum, scale)| y + sum * scale),
    };
    let y = bias.map_or(sum, |bias| sum + bias);
    if y.is_nan() {
        f32::from_bits(0x7fc0_0000)
    } else {
        y
    }
}

/// The W1.58A8 output for int8 activations; `token_scale` is that of a token and of the
/// group which starts at a column.
pub fn scaled_integers(
    a: Operands<'_, i8>,
    token_scale: impl Fn(usize, usize) -> f32,
    affine: &Affine<'_>,
) -> Vec<f32> {
    outputs(a, affine, |token, row, (start, end)| {
        let sum = dot(a, token, row, start, end) as f32;
        (sum, (affine.scale)(row, start) * token_scale(token, start))
    })
}

/// The f32 output in the canonical order.
pub fn canonical(a: Operands<'_, f32>, affine: &Affine<'_>) -> Vec<f32> {
    outputs(a, affine, |token, row, (start, end)| {
        let term = |i: usize| match a.trits.get(row * a.k + i) {
            Some(1) if i < end => a.x[token * a.k + i],
            Some(-1) if i < end => -a.x[token * a.k + i],
            _ => 0.0,
        };
        let mut total = 0.0f32;
        for block in (start..end).step_by(240) {
            let mut sum = 0.0f32;
            for i in (block..end.min(block + 240)).step_by(4) {
                sum += (term(i) + term(i + 1)) + (term(i + 2) + term(i + 3));
            }
            total += sum;
        }
        (total, (affine.scale)(row, start))
    })
}

fn outputs<X>(
    a: Operands<'_, X>,
    affine: &Affine<'_>,
    term: impl Fn(usize, usize, (usize, usize)) -> (f32, f32),
) -> Vec<f32> {
    let segments = segments(a.k, affine.group);
    let mut y = Vec::with_capacity(a.n * a.m);
    for token in 0..a.n {
        for row in 0..a.m {
            let terms: Vec<_> = segments.iter().map(|&s| term(token, row, s)).collect();
            y.push(combine(&terms, affine.bias.map(|bias| bias[row])));
        }
    }
    y
}

/// The output in f64, and how far a correct f32 output may be from it.
///
/// A term passes through at most 2 additions in its byte, 60 in its block, one
/// for each block, a multiplication, one addition a group and that of the bias;
/// each errs by at most 2^-24 of the sum of magnitudes (of subnormals: not at
/// all when adding, by 2^-150 when multiplying).
pub fn reals(a: Operands<'_, f32>, affine: &Affine<'_>) -> Vec<(f64, f64)> {
    let groups = affine.group.map_or(1, |group| a.k.div_ceil(group));
    let roundings = (2 + 60 + a.k.div_ceil(240) + 1 + groups + 1) as f64;
    let mut y = Vec::with_capacity(a.n * a.m);
    for token in 0..a.n {
        for row in 0..a.m {
            let bias = affine.bias.map_or(0.0, |bias| f64::from(bias[row]));
            let (mut sum, mut magnitude) = (bias, bias.abs());
            for i in 0..a.k {
                let w = f64::from(a.trits[row * a.k + i]);
                let scale = f64::from((affine.scale)(row, i));
                let term = w * scale * f64::from(a.x[token * a.k + i]);
                sum += term;
                magnitude += term.abs();
            }
            // (1 + u)^n - 1 <= 1.01 n u while n u < 0.01.
            let bound = 1.01 * roundings * f64::exp2(-24.0) * magnitude;
            y.push((sum, bound + groups as f64 * f64::exp2(-150.0)));
        }
    }
    y
}

/// Quantises one token: int8 values and the scale that turns them back.
pub fn quantize(x: &[f32]) -> (Vec<i8>, f32) {
    let mut absmax = 1e-5f32;
    for &v in x {
        if v.abs() > absmax {
            absmax = v.abs();
        }
    }
    let s = 127.0 / absmax;
    let q = x.iter().map(|&v| {
        // Half to even, in exact arithmetic.
        let scaled = f64::from(v * s);
        let floor = scaled.floor();
        let up = match scaled - floor {
            d if d < 0.5 => 0.0,
            d if d > 0.5 => 1.0,
            _ => floor.rem_euclid(2.0),
        };
        (floor + up).clamp(-128.0, 127.0) as i8
    });
    (q.collect(), absmax / 127.0)
}

/// Packed rows: four weights a byte, the first in the top bits, zeros after the
/// last.
pub fn encode(trits: &[i8], cols: usize) -> Vec<u8> {
    let byte = |four: &[i8]| {
        let codes = four
            .iter()
            .map(|&trit| [0b10, 0b00, 0b01][(trit + 1) as usize]);
        let codes = codes.chain([0; 3]).take(4);
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
        let operands = Operands {
            trits: &[1, 0, -1, -1, 1, 1],
            x: &[-128, 7, 127],
            m: 2,
            n: 1,
            k: 3,
        };
        assert_eq!(integers(operands), [-255, 262]);
        let affine = Affine {
            scale: &|row, _| [0.5, 2.0][row],
            group: None,
            bias: Some(&[1.0, -1.0]),
        };
        let x = &[1, 2, 3];
        let y = scaled_integers(Operands { x, ..operands }, |_, _| 0.25, &affine);
        assert_eq!(y, [0.75, 1.0]);
        let (x, trits) = (&[1.5, f32::NAN, 4.0][..], operands.trits);
        let y = canonical(
            Operands {
                trits,
                x,
                m: 2,
                n: 1,
                k: 3,
            },
            &affine,
        );
        assert_eq!((y[0], y[1].to_bits()), (-0.25, 0x7fc0_0000));
    }

    /// One output of weights that are all 1.
    fn sum(x: &[f32], group: Option<usize>, scale: &dyn Fn(usize, usize) -> f32) -> f32 {
        let (trits, k) = (&vec![1; x.len()][..], x.len());
        let affine = Affine {
            scale,
            group,
            bias: None,
        };
        canonical(
            Operands {
                trits,
                x,
                m: 1,
                n: 1,
                k,
            },
            &affine,
        )[0]
    }

    #[test]
    fn groups_are_scaled_one_by_one() {
        let scale = |_, col: usize| [2.0, 0.5][col / 2];
        assert_eq!(sum(&[1.0, 2.0, 4.0], Some(2), &scale), 8.0);
    }

    #[test]
    fn sums_stay_in_the_canonical_order() {
        // 2^24 + 1 is no f32: pairs first keep the two ones, a running sum
        // would lose them.
        let x = [16_777_216.0, 0.0, 1.0, 1.0];
        assert_eq!(sum(&x, None, &|_, _| 1.0), 16_777_218.0);
        // A block ends after 240.
        let mut x = vec![0.0; 242];
        (x[0], x[240], x[241]) = (16_777_216.0, 1.0, 1.0);
        assert_eq!(sum(&x, None, &|_, _| 1.0), 16_777_218.0);
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
        let quantised = (vec![64, -127, 32, 0], 2.0 / 127.0);
        assert_eq!(quantize(&[1.0, -2.0, 0.5, 0.0]), quantised);
    }
}
