//! tritgemm by its public API: the raw int8 GEMM, the W1.58A8 forward pass and
//! the f32 forward pass, on every backend of this CPU but the scalar one. The forward
//! passes also with a scale for each group of weights of a row.

use crate::contender::{Arithmetic, Info, Library, Loaded, Output, Role, Run, Work};
use crate::pools::Pools;
use crate::problem::{Activations, Job, Shape, Weights, WeightsFrom};
use anyhow::Context;
use rayon::ThreadPool;
use std::sync::Arc;
use tritgemm::{Backend, GroupSize, Isa, Linear, MatMut, MatRef, Options, Panels, Scales, Threads};
use tritgemm::{TernaryMatrix, Workspace};

const ARITHMETICS: [Arithmetic; 3] = [Arithmetic::Int8, Arithmetic::W1a8, Arithmetic::F32];

/// The group sizes that models have; `None` is one scale for the matrix.
const GROUPS: [Option<GroupSize>; 3] = [None, Some(GroupSize::G128), Some(GroupSize::G64)];

/// The contender's name for an arithmetic on a backend, as `tritgemm-int8/avx2/zen4`, or
/// with a scale for each group of so many weights, as `tritgemm-w1a8-g64/avx2/zen4`.
pub fn name(arithmetic: Arithmetic, group: Option<GroupSize>, backend: &str) -> String {
    let arithmetic = match arithmetic {
        Arithmetic::Int8 => "int8",
        Arithmetic::W1a8 => "w1a8",
        Arithmetic::F32 => "f32",
        Arithmetic::Bytes => unreachable!("tritgemm has no product that only reads"),
    };
    let group = group.map_or(String::new(), |group| format!("-g{}", group.len()));
    format!("tritgemm-{arithmetic}{group}/{backend}")
}

/// The backends measured, best first.
fn backends() -> impl Iterator<Item = Backend> {
    Backend::available().filter(|b| b.isa() != Isa::Scalar)
}

/// The name of the contender on the best backend, or on the best of one level.
pub fn best(arithmetic: Arithmetic, group: Option<GroupSize>, isa: Option<Isa>) -> String {
    let found = isa.map_or(Ok(Backend::best()), Backend::for_isa);
    let missing = isa.map_or("", Isa::name);
    name(arithmetic, group, found.map_or(missing, Backend::name))
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

#[derive(Clone, Copy)]
struct Kind {
    arithmetic: Arithmetic,
    /// Its place in [`GROUPS`].
    group: usize,
    backend: Backend,
}

pub struct Tritgemm {
    infos: Vec<Info>,
    kinds: Vec<Kind>,
    pools: Arc<Pools>,
}

impl Tritgemm {
    pub fn new(pools: Arc<Pools>) -> Self {
        let mut kinds = Vec::new();
        for arithmetic in ARITHMETICS {
            for group in 0..GROUPS.len() {
                // Raw sums have no scales.
                if group == 0 || arithmetic != Arithmetic::Int8 {
                    kinds.extend(backends().map(|backend| Kind {
                        arithmetic,
                        group,
                        backend,
                    }));
                }
            }
        }
        let infos = kinds.iter().map(|kind| {
            let (group, backend) = (GROUPS[kind.group], kind.backend);
            let name = name(kind.arithmetic, group, backend.name());
            Info {
                on_request: group.is_some() || Backend::for_isa(backend.isa()) != Ok(backend),
                ..Info::new(name, Role::Ours, kind.arithmetic)
            }
        });
        let infos = infos.collect();
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
        wanted: &[usize],
    ) -> anyhow::Result<Box<dyn Loaded>> {
        let matrix = matrix(weights)?;
        let mut layers = GROUPS.map(|_| Vec::new());
        for _ in 0..from.copies(weights.shape.packed_bytes()) {
            // Panels are the same for every backend and for any scales, and their clones
            // share the bytes. So each copy is packed by itself.
            let panels = pack(&matrix)?;
            for (place, (layers, group)) in layers.iter_mut().zip(GROUPS).enumerate() {
                if wanted.iter().any(|&i| self.kinds[i].group == place) {
                    let scales = scales(weights, group)?;
                    layers.push(Linear::from_parts(panels.clone(), scales, None)?);
                }
            }
        }
        Ok(Box::new(LoadedOurs {
            layers,
            from,
            kinds: self.kinds.clone(),
            pools: Arc::clone(&self.pools),
        }))
    }
}

/// The matrix's scale, as often as there are groups: one reference serves all.
fn scales(weights: &Weights, group: Option<GroupSize>) -> anyhow::Result<Scales> {
    let Some(group) = group else {
        return Ok(Scales::per_tensor(weights.scale));
    };
    let Shape { rows, cols } = weights.shape;
    let all = vec![weights.scale; rows * group.groups(cols)];
    Ok(Scales::per_group(group, all))
}

struct LoadedOurs {
    /// The copies, by the place in [`GROUPS`].
    layers: [Vec<Linear>; GROUPS.len()],
    from: WeightsFrom,
    kinds: Vec<Kind>,
    pools: Arc<Pools>,
}

impl Loaded for LoadedOurs {
    fn start<'a>(&'a self, index: usize, job: &Job<'a>) -> anyhow::Result<Box<dyn Run + 'a>> {
        let Kind {
            arithmetic,
            group,
            backend,
        } = self.kinds[index];
        let outputs = job.activations.tokens * job.weights.shape.rows;
        let (exact, float) = match arithmetic {
            Arithmetic::Int8 => (outputs, 0),
            _ => (0, outputs),
        };
        Ok(Box::new(OurRun {
            layers: &self.layers[group],
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
