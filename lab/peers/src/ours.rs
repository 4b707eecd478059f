//! tritgemm by its public API: the raw int8 GEMM, the W1.58A8 forward pass and
//! the f32 forward pass, on every backend of this CPU but the scalar one.

use crate::contender::{Arithmetic, Info, Library, Loaded, Output, Role, Run, Work};
use crate::pools::Pools;
use crate::problem::{Activations, Job, Shape, Weights, WeightsFrom};
use anyhow::Context;
use rayon::ThreadPool;
use std::sync::Arc;
use tritgemm::{Backend, Isa, Linear, MatMut, MatRef, Options, Panels, Scales, Threads};
use tritgemm::{TernaryMatrix, Workspace};

const ARITHMETICS: [Arithmetic; 3] = [Arithmetic::Int8, Arithmetic::W1a8, Arithmetic::F32];

/// The contender's name for an arithmetic on a backend, as `tritgemm-int8/avx2/zen4`.
pub fn name(arithmetic: Arithmetic, backend: &str) -> String {
    let arithmetic = match arithmetic {
        Arithmetic::Int8 => "int8",
        Arithmetic::W1a8 => "w1a8",
        Arithmetic::F32 => "f32",
        Arithmetic::Bytes => unreachable!("tritgemm has no product that only reads"),
    };
    format!("tritgemm-{arithmetic}/{backend}")
}

/// The backends measured, best first.
fn backends() -> impl Iterator<Item = Backend> {
    Backend::available().filter(|b| b.isa() != Isa::Scalar)
}

/// The name of the contender on the best backend, or on the best of one level.
pub fn best(arithmetic: Arithmetic, isa: Option<Isa>) -> String {
    let found = isa.map_or(Ok(Backend::best()), Backend::for_isa);
    let missing = isa.map_or("", Isa::name);
    name(arithmetic, found.map_or(missing, Backend::name))
}

/// How products run. The library is told where the weights are, as a caller who knows
/// would tell it.
pub fn options(backend: Backend, from: WeightsFrom) -> Options {
    Options::new()
        .backend(backend)
        .weights_in_cache(from == WeightsFrom::Cache)
}

pub fn matrix(weights: &Weights) -> anyhow::Result<TernaryMatrix> {
    let Shape { rows, cols } = weights.shape;
    let trits = MatRef::new(&weights.trits, rows, cols)?;
    TernaryMatrix::from_trits(trits, Scales::per_tensor(weights.scale))
        .with_context(|| format!("tritgemm refused a {} matrix", weights.shape))
}

/// On one thread, by the best backend.
pub fn pack(matrix: &TernaryMatrix) -> anyhow::Result<Panels> {
    let options = Options::new()
        .backend(Backend::best())
        .threads(Threads::Serial);
    Ok(Panels::pack_on(matrix, &Workspace::with_options(options))?)
}

pub struct Tritgemm {
    infos: Vec<Info>,
    kinds: Vec<(Arithmetic, Backend)>,
    pools: Arc<Pools>,
}

impl Tritgemm {
    pub fn new(pools: Arc<Pools>) -> Self {
        let kinds: Vec<(Arithmetic, Backend)> = ARITHMETICS
            .into_iter()
            .flat_map(|arithmetic| backends().map(move |b| (arithmetic, b)))
            .collect();
        let infos = kinds
            .iter()
            .map(|&(arithmetic, backend)| Info {
                on_request: Backend::for_isa(backend.isa()) != Ok(backend),
                ..Info::new(name(arithmetic, backend.name()), Role::Ours, arithmetic)
            })
            .collect();
        Self {
            infos,
            kinds,
            pools,
        }
    }
}

impl Library for Tritgemm {
    fn contenders(&self) -> &[Info] {
        &self.infos
    }

    fn load(
        &self,
        weights: &Weights,
        from: WeightsFrom,
        _wanted: &[usize],
    ) -> anyhow::Result<Box<dyn Loaded>> {
        let matrix = matrix(weights)?;
        // Panels are the same for every backend. Clones would share their
        // bytes, so each copy is packed by itself.
        let layers = (0..from.copies(weights.shape.packed_bytes())).map(|_| {
            let layer = Linear::from_parts(pack(&matrix)?, matrix.scales().clone(), None);
            anyhow::Ok(layer?)
        });
        Ok(Box::new(LoadedOurs {
            layers: layers.collect::<Result<_, _>>()?,
            from,
            kinds: self.kinds.clone(),
            pools: Arc::clone(&self.pools),
        }))
    }
}

struct LoadedOurs {
    layers: Vec<Linear>,
    from: WeightsFrom,
    kinds: Vec<(Arithmetic, Backend)>,
    pools: Arc<Pools>,
}

impl Loaded for LoadedOurs {
    fn start<'a>(&'a self, index: usize, job: &Job<'a>) -> anyhow::Result<Box<dyn Run + 'a>> {
        let (arithmetic, backend) = self.kinds[index];
        let outputs = job.activations.tokens * job.weights.shape.rows;
        let (exact, float) = match arithmetic {
            Arithmetic::Int8 => (outputs, 0),
            _ => (0, outputs),
        };
        Ok(Box::new(OurRun {
            layers: &self.layers,
            arithmetic,
            x: job.activations,
            exact: vec![0; exact],
            float: vec![0.0; float],
            workspace: Workspace::with_options(options(backend, self.from).threads(Threads::Rayon)),
            pool: self.pools.get(job.threads),
            next: 0,
        }))
    }
}

struct OurRun<'a> {
    layers: &'a [Linear],
    arithmetic: Arithmetic,
    x: &'a Activations,
    exact: Vec<i32>,
    float: Vec<f32>,
    workspace: Workspace,
    pool: Arc<ThreadPool>,
    next: usize,
}

impl Run for OurRun<'_> {
    fn work(&self) -> Work {
        let weights = self.layers[0].out_features() * self.layers[0].in_features();
        Work {
            macs: (weights * self.x.tokens) as f64,
            bytes: self.layers[0].panels().as_bytes().len() as f64,
        }
    }

    fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    fn run(&mut self, calls: usize) {
        let (layers, arithmetic, x) = (self.layers, self.arithmetic, self.x);
        let (exact, float, ws) = (&mut self.exact, &mut self.float, &mut self.workspace);
        let first = self.next;
        let (tokens, cols, rows) = (x.tokens, x.cols, layers[0].out_features());
        // A caller that runs a model is inside its pool already, so the pool is
        // entered once and not once a call.
        let result = self.pool.install(|| -> anyhow::Result<()> {
            let int8 = MatRef::new(&x.int8, tokens, cols)?;
            let f32s = MatRef::new(&x.f32s, tokens, cols)?;
            for call in 0..calls {
                let layer = &layers[(first + call) % layers.len()];
                match arithmetic {
                    Arithmetic::Int8 => {
                        let y = MatMut::new(exact, tokens, rows)?;
                        layer.panels().gemm_i8(int8, y, ws)?;
                    }
                    Arithmetic::W1a8 => {
                        layer.forward_int8(f32s, MatMut::new(float, tokens, rows)?, ws)?;
                    }
                    Arithmetic::F32 => {
                        layer.forward_f32(f32s, MatMut::new(float, tokens, rows)?, ws)?;
                    }
                    Arithmetic::Bytes => unreachable!("tritgemm has no product that only reads"),
                }
            }
            Ok(())
        });
        result.expect("shapes and backend were checked when the run was set up");
        self.next = (first + calls) % layers.len();
    }

    fn output(&self) -> Output<'_> {
        if self.exact.is_empty() {
            Output::Float(&self.float)
        } else {
            Output::Exact(&self.exact)
        }
    }
}
