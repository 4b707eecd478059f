//! Counts of weights, and where scales lie.

use rayon::prelude::*;
use serde::Serialize;
use tritgemm::TernaryMatrix;
use tritgemm_formats::model::Matrix;
use tritgemm_formats::model::ours::granularity_name;
use tritgemm_formats::model::rotation::Rotated;

/// What there is to know of one matrix.
#[derive(Serialize)]
pub struct MatrixStats {
    pub name: String,
    pub format: &'static str,
    /// `[M, K]`.
    pub shape: [usize; 2],
    /// The shape of a stack of matrices, slowest dimension first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stack: Option<Vec<usize>>,
    /// What is rotated, and in blocks of how many values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotation: Option<String>,
    /// In the file, scales included.
    pub bytes: usize,
    /// Weights of -1, of 0 and of +1, if they were counted.
    #[serde(flatten)]
    pub counts: Counts,
    /// What a scale covers, if the scales were read.
    pub granularity: Option<&'static str>,
    pub scale_count: Option<usize>,
    pub scale_min: Option<f32>,
    /// The lower of the two in the middle, if there are two.
    pub scale_median: Option<f32>,
    pub scale_max: Option<f32>,
    /// All scales, ascending.
    #[serde(skip)]
    pub values: Vec<f32>,
}

/// Weights of each value; none where they were not counted.
#[derive(Clone, Copy, Default, Serialize)]
pub struct Counts {
    pub minus: Option<u64>,
    pub zero: Option<u64>,
    pub plus: Option<u64>,
}

impl MatrixStats {
    /// What is known of `source` without reading its weights and scales.
    pub fn unread(source: &Matrix<'_>) -> Self {
        Self {
            name: source.name.clone(),
            format: source.format,
            shape: source.shape,
            stack: source.stack.clone(),
            rotation: source.rotation.as_ref().map(rotation),
            bytes: source.bytes,
            counts: Counts::default(),
            granularity: None,
            scale_count: None,
            scale_min: None,
            scale_median: None,
            scale_max: None,
            values: Vec::new(),
        }
    }

    /// Counts the weights of `matrix`, which is what `source` holds.
    pub fn new(source: &Matrix<'_>, matrix: &TernaryMatrix) -> Self {
        // +1 has the low bit of its code set, -1 the high one; padding is 0.
        let ones = |mask: u8| -> u64 {
            let bytes = matrix.packed().par_iter().with_min_len(1 << 16);
            bytes.map(|b| u64::from((b & mask).count_ones())).sum()
        };
        let (plus, minus) = (ones(0x55), ones(0xaa));
        let all = (matrix.rows() as u64).saturating_mul(matrix.cols() as u64);
        let mut values = matrix.scales().values().to_vec();
        values.par_sort_unstable_by(f32::total_cmp);
        Self {
            counts: Counts {
                minus: Some(minus),
                zero: Some(all - plus - minus),
                plus: Some(plus),
            },
            granularity: Some(granularity_name(matrix.scales().granularity())),
            scale_count: Some(values.len()),
            scale_min: values.first().copied(),
            scale_median: values.get(values.len().saturating_sub(1) / 2).copied(),
            scale_max: values.last().copied(),
            values,
            ..Self::unread(source)
        }
    }

    /// Weights in all.
    pub fn weights(&self) -> u64 {
        (self.shape[0] as u64).saturating_mul(self.shape[1] as u64)
    }

    /// The share of weights that are 0, if they were counted.
    pub fn zeros(&self) -> Option<f64> {
        Some(self.counts.zero? as f64 / self.weights().max(1) as f64)
    }
}

/// What of a tensor is rotated, and how.
pub fn rotation(rotated: &Rotated) -> String {
    let what = match (rotated.input, rotated.rows) {
        (true, true) => "inputs, rows",
        (true, false) => "inputs",
        (false, _) => "rows",
    };
    let signs = match rotated.rotation.signs() {
        Some(_) => ", signs",
        None => "",
    };
    format!("{what} by {}{signs}", rotated.rotation.block())
}

/// All matrices together.
#[derive(Serialize)]
pub struct Totals {
    pub weights: u64,
    /// Bytes of the matrices in the file, scales included.
    pub bytes: u64,
    pub bits_per_weight: f64,
    /// The share of weights that are 0, if they were counted.
    pub zeros: Option<f64>,
}

impl Totals {
    /// The sums.
    pub fn new(matrices: &[MatrixStats]) -> Self {
        let sum = |of: fn(&MatrixStats) -> u64| {
            let all = matrices.iter().map(of);
            all.fold(0u64, u64::saturating_add)
        };
        let (weights, bytes) = (sum(MatrixStats::weights), sum(|m| m.bytes as u64));
        let share = |n: u64| n as f64 / weights.max(1) as f64;
        Self {
            weights,
            bytes,
            bits_per_weight: 8.0 * share(bytes),
            zeros: matrices
                .iter()
                .map(|m| m.counts.zero)
                .sum::<Option<u64>>()
                .map(share),
        }
    }
}

/// How many values lie between each two edges; the last bin has its upper edge.
#[derive(Serialize, Debug, PartialEq)]
pub struct Histogram {
    /// Whether the edges are in equal ratios and not in equal steps.
    pub log: bool,
    pub edges: Vec<f32>,
    pub counts: Vec<u64>,
}

/// From this ratio of the largest to the smallest, equal steps would put nearly
/// everything into one bin.
const LOG_RATIO: f64 = 50.0;

impl Histogram {
    /// The histogram of finite values; none where there are none.
    pub fn new(values: &[f32], bins: usize) -> Option<Self> {
        let low = f64::from(values.iter().copied().min_by(f32::total_cmp)?);
        let high = f64::from(values.iter().copied().max_by(f32::total_cmp)?);
        if low == high {
            return Some(Self {
                log: false,
                edges: vec![low as f32, high as f32],
                counts: vec![values.len() as u64],
            });
        }
        let log = low > 0.0 && high / low >= LOG_RATIO;
        let map = |v: f64| if log { v.ln() } else { v };
        let unmap = |v: f64| if log { v.exp() } else { v };
        let (start, span) = (map(low), map(high) - map(low));
        let mut counts = vec![0; bins];
        for &value in values {
            let at = (map(f64::from(value)) - start) / span * bins as f64;
            counts[(at as usize).min(bins - 1)] += 1;
        }
        let edge = |i: usize| unmap(start + span * i as f64 / bins as f64) as f32;
        let mut edges: Vec<f32> = (0..=bins).map(edge).collect();
        (edges[0], edges[bins]) = (low as f32, high as f32);
        Some(Self { log, edges, counts })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins() {
        assert_eq!(Histogram::new(&[], 4), None);
        let one = Histogram::new(&[0.5; 3], 4).unwrap();
        assert_eq!((one.edges, one.counts), (vec![0.5, 0.5], vec![3]));
        let even = Histogram::new(&[0.0, 1.0, 2.0, 3.0, 4.0, 4.0], 4).unwrap();
        assert_eq!(even.edges, [0.0, 1.0, 2.0, 3.0, 4.0]);
        assert_eq!(even.counts, [1, 1, 1, 3]);
        let wide = Histogram::new(&[1e-3, 2e-2, 1.0], 3).unwrap();
        assert!(wide.log);
        assert_eq!(wide.counts, [1, 1, 1]);
        let signs = Histogram::new(&[-1.0, 100.0], 2).unwrap();
        assert!(!signs.log);
        let extremes = Histogram::new(&[f32::MIN, f32::MAX], 2).unwrap();
        assert_eq!(extremes.counts, [1, 1]);
        // Equal as numbers, not in their bits.
        assert_eq!(Histogram::new(&[-0.0, 0.0], 2).unwrap().counts, [2]);
    }
}
