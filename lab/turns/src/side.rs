//! One build of the library behind the calls that are timed.

use clap::ValueEnum;

/// What is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Call {
    /// `Linear` with activations that it quantises to int8.
    Int8,
    /// `Linear` in f32.
    F32,
    /// `Panels::gemm_i8`, int8 in and i32 out.
    Raw,
}

/// A build of the library, its matrices and its memory.
pub trait Side {
    /// Calls the library once, on the next matrix of the ring.
    fn call(&mut self, call: Call) -> anyhow::Result<()>;
}

/// The module of one build. Both are written once: `$first` is how the calls are spelled
/// that the commits before `Linear::forward_int8` have otherwise.
macro_rules! side {
    ($build:ident, $pack:expr, $resident:expr, $forward:ident) => {
        pub mod $build {
            use super::{Call, Side};
            use crate::Problem;
            use $build::{Backend, Linear, MatMut, MatRef, Options, Panels, Workspace};

            struct Build {
                layers: Vec<Linear>,
                next: usize,
                ws: Workspace,
                shape: [usize; 3],
                x: Vec<f32>,
                values: Vec<i8>,
                y: Vec<f32>,
                sums: Vec<i32>,
            }

            /// Their names, those that suit this CPU first.
            pub fn backends() -> Vec<String> {
                Backend::available().map(|b| b.name().to_owned()).collect()
            }

            /// The matrices of `problem`, on the backend of this name.
            pub fn make(problem: &Problem, backend: &str) -> anyhow::Result<Box<dyn Side>> {
                let found = Backend::available().find(|b| b.name() == backend);
                let Some(backend) = found else {
                    anyhow::bail!(
                        "no backend {backend}, expected one of {}",
                        backends().join(", ")
                    );
                };
                let [m, n, k] = [problem.shape.rows, problem.tokens, problem.shape.cols];
                let pack: fn(&[i8], usize, usize) -> anyhow::Result<(Panels, $build::Scales)> =
                    $pack;
                let mut layers = Vec::with_capacity(problem.copies);
                for _ in 0..problem.copies {
                    let (panels, scales) = pack(&problem.trits, m, k)?;
                    layers.push(Linear::from_parts(panels, scales, None)?);
                }
                let resident: fn(Options, bool) -> Options = $resident;
                let options = resident(Options::new().backend(backend), problem.hot);
                Ok(Box::new(Build {
                    layers,
                    next: 0,
                    ws: Workspace::with_options(options),
                    shape: [m, n, k],
                    x: problem.x.clone(),
                    values: problem.values.clone(),
                    y: vec![0.0; n * m],
                    sums: vec![0; n * m],
                }))
            }

            impl Side for Build {
                fn call(&mut self, call: Call) -> anyhow::Result<()> {
                    let [m, n, k] = self.shape;
                    let layer = &self.layers[self.next];
                    self.next = (self.next + 1) % self.layers.len();
                    match call {
                        Call::Int8 => {
                            let y = MatMut::new(&mut self.y, n, m)?;
                            layer.$forward(MatRef::new(&self.x, n, k)?, y, &mut self.ws)?;
                        }
                        Call::F32 => {
                            let y = MatMut::new(&mut self.y, n, m)?;
                            layer.forward_f32(MatRef::new(&self.x, n, k)?, y, &mut self.ws)?;
                        }
                        Call::Raw => {
                            let y = MatMut::new(&mut self.sums, n, m)?;
                            let x = MatRef::new(&self.values, n, k)?;
                            layer.panels().gemm_i8(x, y, &mut self.ws)?;
                        }
                    }
                    Ok(())
                }
            }
        }
    };
}

/// Today's spelling.
macro_rules! today {
    ($build:ident) => {
        side!(
            $build,
            |trits, m, k| {
                use $build::{Options, Scales, TernaryMatrix, Threads, Workspace};
                let scales = Scales::per_tensor(0.5);
                let matrix = TernaryMatrix::from_trits(MatRef::new(trits, m, k)?, scales)?;
                let serial = Workspace::with_options(Options::new().threads(Threads::Serial));
                Ok((Panels::pack_on(&matrix, &serial)?, matrix.scales().clone()))
            },
            |options, hot| options.weights_in_cache(hot),
            forward_int8
        );
    };
}

today!(new);

#[cfg(not(feature = "first-api"))]
today!(old);

#[cfg(feature = "first-api")]
side!(
    old,
    |trits, m, k| {
        use old::{Scales, TernaryMatrix, Threads};
        let matrix = TernaryMatrix::from_trits(trits, m, k, Scales::per_tensor(0.5))?;
        let panels = Panels::pack_with(Backend::best(), Threads::Serial, &matrix)?;
        Ok((panels, matrix.scales().clone()))
    },
    |options, hot| {
        use old::Residency::{Cache, Memory};
        options.residency(if hot { Cache } else { Memory })
    },
    forward
);
