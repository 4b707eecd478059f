//! A product as the input describes it.

use crate::fill::{Fill, Style};
use arbitrary::{Arbitrary, Result, Unstructured};
use tritgemm::{GroupSize, Linear, Scales, TernaryMatrix};
use tritgemm_testing::case::{Case, GRANULARITIES, Shape, Values};
use tritgemm_testing::view;

/// Most multiply-adds of a usual case: some ten thousand runs a minute, each on
/// every kernel.
const USUAL_MACS: usize = 1 << 15;
/// Most of a large one, enough to be shared among threads.
const LARGE_MACS: usize = 3 << 20;

/// M, K and N: anything small, or near where a tile ends.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    m: usize,
    k: usize,
    n: usize,
}

impl<'a> Arbitrary<'a> for Sizes {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        if u.ratio(1, 64)? {
            let k = u.int_in_range(100..=1500)?;
            let n = u.int_in_range(1..=80)?;
            let m = u.int_in_range(1..=(LARGE_MACS / k / n).min(1000))?;
            return Ok(Self { m, k, n });
        }
        let k = near(u, 12, 750)?;
        let n = near(u, 8, 70)?.min(USUAL_MACS / k.max(1));
        let m = near(u, 64, 330)?.min(USUAL_MACS / k.max(1) / n.max(1));
        Ok(Self { m, k, n })
    }
}

/// `0..=max`, half of the time next to a multiple of `unit`.
fn near(u: &mut Unstructured<'_>, unit: usize, max: usize) -> Result<usize> {
    if u.arbitrary()? {
        return u.int_in_range(0..=max);
    }
    let (times, off) = (u.int_in_range(0..=max / unit)?, u.int_in_range(0..=2)?);
    Ok((times * unit + off).saturating_sub(1).min(max))
}

/// The operands of a product, without activations.
#[derive(Arbitrary, Clone, Debug)]
pub struct Draw {
    sizes: Sizes,
    gaps: [u8; 2],
    weights: Fill,
    granularity: u8,
    scales: (Fill, Style),
    bias: Option<(Fill, Style)>,
}

impl Draw {
    fn build(&self, x_i8: Option<&Fill>, x_f32: Option<(&Fill, Style)>) -> Case {
        let Sizes { m, k, n } = self.sizes;
        let granularity = GRANULARITIES[usize::from(self.granularity) % GRANULARITIES.len()];
        let scale = |count: usize| finite(self.scales.0.floats(count, self.scales.1));
        let scales = match granularity {
            1 => Scales::per_tensor(scale(1)[0]),
            2 => Scales::per_row(scale(m)),
            group => {
                let size = GroupSize::from_len(group).expect("a group size");
                Scales::per_group(size, scale(m * size.groups(k)))
            }
        };
        let bias = self
            .bias
            .as_ref()
            .map(|(fill, style)| fill.floats(m, *style));
        let trits = self.weights.trits(m * k);
        let matrix =
            TernaryMatrix::from_trits(view(&trits, m, k), scales.clone()).expect("a matrix");
        let mut layer = Linear::new(&matrix).expect("a layer");
        if let Some(bias) = &bias {
            layer = layer.with_bias(bias.clone()).expect("a bias");
        }
        Case {
            shape: Shape {
                m,
                k,
                n,
                gaps: self.gaps.map(|gap| usize::from(gap % 9)),
                granularity,
                bias: bias.is_some(),
                values: Values::Special,
                seed: 0,
            },
            trits,
            scales,
            bias,
            layer,
            x_i8: x_i8.map_or_else(Vec::new, |fill| fill.i8s(n * k)),
            x_f32: x_f32.map_or_else(Vec::new, |(fill, style)| fill.floats(n * k, style)),
        }
    }

    /// With int8 activations.
    pub fn i8(&self, x: &Fill) -> Case {
        self.build(Some(x), None)
    }

    /// With f32 activations.
    pub fn f32(&self, x: &Fill, style: Style) -> Case {
        self.build(None, Some((x, style)))
    }
}

/// Scales must be finite: what is not becomes 1.
fn finite(mut values: Vec<f32>) -> Vec<f32> {
    for value in values.iter_mut().filter(|v| !v.is_finite()) {
        *value = 1.0;
    }
    values
}
