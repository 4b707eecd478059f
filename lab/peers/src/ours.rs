//! tritgemm by its public API: the raw int8 GEMM, the W1.58A8 forward pass and
//! the f32 forward pass, on every backend of this CPU but the scalar one.

use crate::contender::{Family, Info, Loaded, Output, Path, Role, Run, Work};
use crate::pools::Pools;
use crate::problem::{Activations, Job, Residency, Shape, Weights};
use anyhow::Context;
use rayon::ThreadPool;
use std::sync::Arc;
use tritgemm::{Backend, Isa, Linear, MatMut, MatRef, Options, Panels, Scales, Threads};
use tritgemm::{TernaryMatrix, Workspace};

/// The contender's name for a path on a backend, as `tritgemm-int8/avx2`.
pub fn name(path: Path, backend: &str) -> String {
    let path = match path {
        Path::Int8 => "int8",
        Path::W1a8 => "w1a8",
        Path::F32 => "f32",
        Path::Bytes => unreachable!("tritgemm has no path that only reads"),
    };
    format!("tritgemm-{path}/{backend}")
}

/// The backends measured, best first.
pub fn backends() -> Vec<Backend> {
    Backend::available()
        .filter(|b| b.isa() != Isa::Scalar)
        .collect()
}

pub fn matrix(weights: &Weights) -> anyhow::Result<TernaryMatrix> {
    let Shape { rows, cols } = weights.shape;
    let trits = MatRef::new(&weights.trits, rows, cols)?;
    TernaryMatrix::from_trits(trits, Scales::per_tensor(weights.scale))
        .with_context(|| format!("tritgemm refused a {} matrix", weights.shape))
}

const PATHS: [Path; 3] = [Path::Int8, Path::W1a8, Path::F32];

pub struct OurFamily {
    infos: Vec<Info>,
    kinds: Vec<(Path, Backend)>,
    pools: Arc<Pools>,
}

impl OurFamily {
    pub fn new(pools: Arc<Pools>) -> Self {
        let kinds: Vec<(Path, Backend)> = PATHS
            .into_iter()
            .flat_map(|path| backends().into_iter().map(move |b| (path, b)))
            .collect();
        let infos = kinds
            .iter()
            .map(|&(path, backend)| Info::new(name(path, backend.name()), Role::Ours, path))
            .collect();
        Self {
            infos,
            kinds,
            pools,
        }
    }
}

impl Family for OurFamily {
    fn contenders(&self) -> &[Info] {
        &self.infos
    }

    fn load(
        &self,
        weights: &Weights,
        residency: Residency,
        _wanted: &[usize],
    ) -> anyhow::Result<Box<dyn Loaded>> {
        let matrix = matrix(weights)?;
        let copies = residency.copies(weights.shape.packed_bytes());
        // Panels are the same for every backend. Clones would share their
        // bytes, so each copy is packed by itself.
        let layers = (0..copies).map(|_| {
            let panels = Panels::pack_with(Backend::best(), Threads::Serial, &matrix)?;
            Linear::from_parts(panels, matrix.scales().clone(), None)
        });
        Ok(Box::new(LoadedOurs {
            layers: layers.collect::<Result<_, _>>()?,
            kinds: self.kinds.clone(),
            pools: Arc::clone(&self.pools),
        }))
    }
}

struct LoadedOurs {
    layers: Vec<Linear>,
    kinds: Vec<(Path, Backend)>,
    pools: Arc<Pools>,
}

impl Loaded for LoadedOurs {
    fn start<'a>(&'a self, index: usize, job: &Job<'a>) -> anyhow::Result<Box<dyn Run + 'a>> {
        let (path, backend) = self.kinds[index];
        let outputs = job.activations.tokens * job.weights.shape.rows;
        let (exact, float) = if path == Path::Int8 {
            (outputs, 0)
        } else {
            (0, outputs)
        };
        Ok(Box::new(OurRun {
            layers: &self.layers,
            path,
            x: job.activations,
            exact: vec![0; exact],
            float: vec![0.0; float],
            workspace: Workspace::with_options(
                Options::new().backend(backend).threads(Threads::Rayon),
            ),
            pool: self.pools.get(job.threads),
            next: 0,
        }))
    }
}

struct OurRun<'a> {
    layers: &'a [Linear],
    path: Path,
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
        let Self {
            layers,
            path,
            x,
            exact,
            float,
            workspace,
            pool,
            next,
        } = self;
        let (layers, path, x) = (*layers, *path, *x);
        let first = *next;
        let (tokens, cols, rows) = (x.tokens, x.cols, layers[0].out_features());
        // A caller that runs a model is inside its pool already, so the pool is
        // entered once and not once a call.
        let result = pool.install(|| -> anyhow::Result<()> {
            for call in 0..calls {
                let layer = &layers[(first + call) % layers.len()];
                match path {
                    Path::Int8 => layer.panels().gemm_i8(
                        MatRef::new(&x.int8, tokens, cols)?,
                        MatMut::new(exact, tokens, rows)?,
                        workspace,
                    )?,
                    Path::W1a8 => layer.forward(
                        MatRef::new(&x.f32s, tokens, cols)?,
                        MatMut::new(float, tokens, rows)?,
                        workspace,
                    )?,
                    Path::F32 => layer.forward_f32(
                        MatRef::new(&x.f32s, tokens, cols)?,
                        MatMut::new(float, tokens, rows)?,
                        workspace,
                    )?,
                    Path::Bytes => unreachable!("tritgemm has no path that only reads"),
                }
            }
            Ok(())
        });
        result.expect("shapes and backend were checked when the run was set up");
        *next = (first + calls) % layers.len();
    }

    fn output(&self) -> Output<'_> {
        if self.exact.is_empty() {
            Output::Float(&self.float)
        } else {
            Output::Exact(&self.exact)
        }
    }
}
