//! One line of the table: weights, activations and what runs on them.

use super::{dense, measure, read::Reader};
use crate::args::{Act, Residency, Shape};
use crate::cpu;
use crate::output;
use anyhow::{Context, Result, ensure};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::fmt;
use tritgemm::{
    Backend, Lanes, Linear, MatMut, MatRef, Options, Panels, PreparedActivations, Scales,
    TernaryMatrix, Threads, Workspace,
};

/// Bytes that are touched before a cold weight is used again, at least.
const COLD: usize = 512 << 20;

/// Fewer weights than this would need more copies than is sensible.
const LEAST_COLD: usize = 4 << 10;

/// What is measured.
pub struct Case {
    pub backend: Backend,
    pub lanes: Lanes,
    pub act: Act,
    pub shape: Shape,
    pub tokens: usize,
    pub threads: usize,
    pub residency: Residency,
}

/// What came of it, with the fields that `--json` promises.
#[derive(serde::Serialize)]
pub struct Line {
    pub isa: &'static str,
    pub act: &'static str,
    pub kernel: String,
    pub m: usize,
    pub k: usize,
    pub n: usize,
    pub threads: usize,
    pub residency: &'static str,
    pub ns: f64,
    pub gmacs: f64,
    pub weight_gbs: f64,
    pub read_gbs: f64,
    pub dense_f32_gmacs: f64,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shape { m, k } = self.shape;
        let (act, backend) = (self.act.name(), self.backend.name());
        write!(
            f,
            "{act} {m}x{k}, N = {}, {}, {backend}",
            self.tokens,
            self.residency.name()
        )
    }
}

/// Sizes in bytes and how many copies of each weight matrix there are.
struct Plan {
    packed: usize,
    dense: usize,
    copies: usize,
    dense_copies: usize,
    buffer: usize,
}

impl Case {
    /// Measures.
    pub fn run(&self, repeats: usize) -> Result<Line> {
        let plan = self.plan()?;
        let (Shape { m, k }, n) = (self.shape, self.tokens);
        let mut random = SmallRng::seed_from_u64(1);
        let x: Vec<f32> = (0..n * k).map(|_| random.random_range(-1.0..1.0)).collect();
        let x_i8: Vec<i8> = (0..n * k).map(|_| random.random()).collect();
        // The same values; that they are other tokens makes no difference to time.
        let x_dense = &x[..];
        let (x, x_i8) = (MatRef::new(&x, n, k)?, MatRef::new(&x_i8, n, k)?);

        let matrix = random_matrix(m, k, &mut random)?;
        let layers: Vec<Linear> = (0..plan.copies)
            .map(|_| self.layer(&matrix))
            .collect::<Result<_>>()?;
        let mut ws = Workspace::with_options(self.options());
        let kernel = self.kernel(x, x_i8, &mut ws)?;
        let (mut y, mut y_i32) = (vec![0f32; n * m], vec![0i32; n * m]);
        let mut at = 0;
        let mut failed = None;
        let mut ours = || {
            let layer = &layers[at];
            at = (at + 1) % layers.len();
            let done = match self.act {
                Act::I8 => view(&mut y_i32, n, m)
                    .and_then(|y| Ok(layer.panels().gemm_i8(x_i8, y, &mut ws)?)),
                Act::F32 => view(&mut y, n, m).and_then(|y| Ok(layer.forward_f32(x, y, &mut ws)?)),
                Act::W1a8 => view(&mut y, n, m).and_then(|y| Ok(layer.forward(x, y, &mut ws)?)),
            };
            if let Err(error) = done {
                failed.get_or_insert(error);
            }
        };

        let mut reader = Reader::new(plan.packed, plan.buffer, self.threads);
        let read_bytes = reader.bytes();
        let mut read = || reader.read();

        let w: Vec<f32> = (0..m * k).map(|_| random.random_range(-1.0..1.0)).collect();
        let dense_weights = vec![w; plan.dense_copies];
        let mut dense_y = vec![0f32; n * m];
        let mut dense_at = 0;
        let mut dense = || {
            dense::multiply(
                [m, n, k],
                &dense_weights[dense_at],
                x_dense,
                &mut dense_y,
                self.threads,
            );
            dense_at = (dense_at + 1) % dense_weights.len();
        };

        let [ns, read_ns, dense_ns] = measure::medians([&mut ours, &mut read, &mut dense], repeats);
        if let Some(error) = failed {
            return Err(error);
        }
        let macs = m as f64 * k as f64 * n as f64;
        Ok(Line {
            isa: self.backend.isa().name(),
            act: self.act.name(),
            kernel,
            m,
            k,
            n,
            threads: self.threads,
            residency: self.residency.name(),
            ns,
            gmacs: macs / ns,
            weight_gbs: plan.packed as f64 / ns,
            read_gbs: read_bytes as f64 / read_ns,
            dense_f32_gmacs: macs / dense_ns,
        })
    }

    /// Sizes, or why they will not do.
    fn plan(&self) -> Result<Plan> {
        let (Shape { m, k }, n) = (self.shape, self.tokens);
        let (packed, dense, outside) =
            sizes(m, k, n).context("the shape does not fit in memory")?;
        let touched = match self.residency {
            Residency::Hot => 0,
            Residency::Cold => {
                ensure!(
                    packed >= LEAST_COLD,
                    "{packed} bytes of weights are too few to be cold, take {LEAST_COLD} or more"
                );
                let cache = cpu::last_level_bytes().and_then(|bytes| bytes.try_into().ok());
                COLD.max(cache.unwrap_or(0usize).saturating_mul(4)) + 1
            }
        };
        // All the others lie between two uses of a copy.
        let copies = |bytes: usize| {
            1 + if bytes > touched {
                0
            } else {
                touched.div_ceil(bytes)
            }
        };
        let plan = Plan {
            packed,
            dense,
            copies: copies(packed),
            dense_copies: copies(dense),
            buffer: packed + touched,
        };
        let needed = plan.needed().and_then(|bytes| bytes.checked_add(outside));
        let needed = needed.context("the shape does not fit in memory")? as u64;
        if let Some(free) = cpu::available_memory() {
            ensure!(
                needed < free,
                "needs {} of memory, {} are free",
                output::bytes(needed),
                output::bytes(free)
            );
        }
        Ok(plan)
    }

    fn options(&self) -> Options {
        let threads = if self.threads == 1 {
            Threads::Serial
        } else {
            Threads::Rayon
        };
        Options::new()
            .backend(self.backend)
            .lanes(self.lanes)
            .threads(threads)
    }

    fn layer(&self, matrix: &TernaryMatrix) -> Result<Linear> {
        let panels = Panels::pack_with(self.backend, Threads::Rayon, matrix)?;
        Ok(Linear::from_parts(panels, matrix.scales().clone(), None)?)
    }

    /// The kernels that this case runs: whole tiles of tokens may take the
    /// column lanes and the rest the row lanes.
    fn kernel(
        &self,
        x: MatRef<'_, f32>,
        x_i8: MatRef<'_, i8>,
        ws: &mut Workspace,
    ) -> Result<String> {
        let (prepared, element) = match self.act {
            Act::F32 => (PreparedActivations::float(x, None, ws)?, "f32"),
            _ => (
                PreparedActivations::int8(x_i8, vec![1.0; self.tokens], None, ws)?,
                "i8",
            ),
        };
        let (columns, narrow) = (prepared.many_tokens(), prepared.narrow_tokens());
        let runs = [
            ("column", columns > narrow),
            ("narrow", narrow > 0),
            ("row", columns < self.tokens),
        ];
        let name = |&(lanes, runs): &(&str, bool)| {
            let operation = format!("{element}-{lanes}");
            let kernel = self
                .backend
                .kernels()
                .into_iter()
                .find(|k| k.operation == operation);
            kernel.filter(|_| runs).map(|k| k.name)
        };
        Ok(runs.iter().filter_map(name).collect::<Vec<_>>().join("+"))
    }
}

impl Plan {
    fn needed(&self) -> Option<usize> {
        // Panels pad rows to 64 and have some bytes of their own.
        let ours = self.copies.checked_mul(self.packed.checked_add(1 << 10)?)?;
        let dense = self.dense_copies.checked_mul(self.dense)?;
        ours.checked_add(dense)?.checked_add(self.buffer)
    }
}

/// Bytes of the packed weights, of the dense ones, and of activations and
/// outputs of all kinds.
fn sizes(m: usize, k: usize, n: usize) -> Option<(usize, usize, usize)> {
    let packed = m.checked_mul(k.div_ceil(4))?;
    let dense = m.checked_mul(k)?.checked_mul(4)?;
    let tokens = m.checked_add(k)?.checked_mul(16)?.checked_mul(n)?;
    Some((packed, dense, tokens))
}

fn view<T>(y: &mut [T], n: usize, m: usize) -> Result<MatMut<'_, T>> {
    Ok(MatMut::new(y, n, m)?)
}

/// Weights with each value a third of the time, and a scale a row.
fn random_matrix(m: usize, k: usize, random: &mut SmallRng) -> Result<TernaryMatrix> {
    // The legal bytes: four codes of 00, 01 or 10.
    let legal: Vec<u8> = (0..=255u8).filter(|b| b & (b >> 1) & 0x55 == 0).collect();
    let per_row = k.div_ceil(4);
    let mut packed: Vec<u8> = (0..m * per_row)
        .map(|_| legal[random.random_range(0..legal.len())])
        .collect();
    if !k.is_multiple_of(4) {
        let used = 0xffu8 << (8 - 2 * (k % 4));
        for last in packed.iter_mut().skip(per_row - 1).step_by(per_row) {
            *last &= used;
        }
    }
    let scales = (0..m).map(|_| random.random_range(0.5..1.5)).collect();
    Ok(TernaryMatrix::from_packed(
        packed,
        m,
        k,
        Scales::per_row(scales),
    )?)
}
