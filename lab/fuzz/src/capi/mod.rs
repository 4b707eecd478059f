//! The C interface as programs use it: any handles in any legal order of life,
//! arguments of any size, one of them wrong now and then. Beside every handle
//! lives what it stands for in Rust, on the scalar kernels where that is not too
//! slow; calls must give its results, its errors and its messages.
//!
//! | module | what it has |
//! |---|---|
//! | [`call`] | arguments, one of which may be wrong, and the error that asks for |
//! | [`outcome`] | statuses and messages |
//! | [`handle`] | handles beside what they stand for |
//! | [`schedule`] | the caller's parallel-for |
//! | [`shape`] | sizes, small ones mostly |
//! | [`lookup`], [`convert`] | functions without handles |
//! | [`matrix`], [`layer`], [`activations`], [`file`], [`workspace`] | handles made |
//! | [`product`], [`shared`] | products, in buffers of their own or in one |

pub mod activations;
pub mod call;
pub mod convert;
pub mod file;
pub mod handle;
pub mod layer;
pub mod lookup;
pub mod matrix;
pub mod outcome;
pub mod product;
pub mod schedule;
pub mod shape;
pub mod shared;
pub mod workspace;

use arbitrary::Arbitrary;
use handle::Kept;
use shape::Shape;
use tritgemm::{Backend, Options, Threads, Workspace};
use tritgemm_capi as c;

/// Most steps of a program.
const STEPS: usize = 16;
/// Multiply-adds that the scalar kernels get.
const SCALAR_MACS: usize = 1 << 14;

/// What a program does after it made a matrix and a layer of it.
#[derive(Arbitrary, Debug)]
pub struct Program {
    shape: Shape,
    matrix: matrix::Make,
    steps: Vec<Step>,
}

#[derive(Arbitrary, Debug)]
enum Step {
    Lookup(lookup::Lookup),
    Convert(Shape, convert::Convert),
    Matrix(Option<Shape>, matrix::Make),
    Layer(layer::Make),
    Prepare(activations::Prepare),
    Workspace(workspace::Set),
    Product(product::Product),
    Shared(shared::Shared),
    File(file::Step),
    Destroy(Kind, u8),
}

#[derive(Arbitrary, Debug)]
enum Kind {
    Matrix,
    Panels,
    Linear,
    Prepared,
    File,
    Workspace,
}

/// Everything that lives.
pub struct World {
    matrices: Vec<Kept<c::Matrix, tritgemm::TernaryMatrix>>,
    panels: Vec<Kept<c::Panels, tritgemm::Panels>>,
    linears: Vec<Kept<c::Linear, tritgemm::Linear>>,
    prepared: Vec<Kept<c::Prepared, tritgemm::PreparedActivations>>,
    files: Vec<Kept<c::PanelFile, tritgemm::PanelFile>>,
    teams: Vec<workspace::Team>,
    shape: Shape,
    disk: file::Disk,
    models: Models,
}

/// How the Rust interface computes the same.
struct Models {
    scalar: Workspace,
    best: Workspace,
}

impl Models {
    fn new() -> Self {
        let serial = Options::new().threads(Threads::Serial);
        let with = |backend| Workspace::with_options(serial.backend(backend));
        Self {
            scalar: with(Backend::scalar()),
            best: with(Backend::best()),
        }
    }

    fn of(&mut self, macs: usize) -> &mut Workspace {
        if macs <= SCALAR_MACS {
            &mut self.scalar
        } else {
            &mut self.best
        }
    }
}

impl World {
    fn new(shape: Shape) -> Self {
        Self {
            matrices: Vec::new(),
            panels: Vec::new(),
            linears: Vec::new(),
            prepared: Vec::new(),
            files: Vec::new(),
            teams: Vec::new(),
            shape,
            disk: file::Disk::default(),
            models: Models::new(),
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Lookup(lookup) => lookup.run(),
            Step::Convert(shape, convert) => convert.run(*shape),
            Step::Matrix(shape, make) => make.run(self, shape.unwrap_or(self.shape)),
            Step::Layer(make) => make.run(self),
            Step::Prepare(prepare) => prepare.run(self),
            Step::Workspace(set) => set.run(self),
            Step::Product(product) => product.run(self),
            Step::Shared(shared) => shared.run(self),
            Step::File(step) => step.run(self),
            Step::Destroy(Kind::Matrix, which) => destroy(&mut self.matrices, *which),
            Step::Destroy(Kind::Panels, which) => destroy(&mut self.panels, *which),
            Step::Destroy(Kind::Linear, which) => destroy(&mut self.linears, *which),
            Step::Destroy(Kind::Prepared, which) => destroy(&mut self.prepared, *which),
            Step::Destroy(Kind::File, which) => destroy(&mut self.files, *which),
            Step::Destroy(Kind::Workspace, which) => destroy(&mut self.teams, *which),
        }
    }
}

fn destroy<T>(all: &mut Vec<T>, which: u8) {
    if !all.is_empty() {
        all.swap_remove(usize::from(which) % all.len());
    }
}

/// Runs a program; what is left of it is destroyed.
pub fn run(program: &Program) {
    let mut world = World::new(program.shape);
    workspace::Set::create(&mut world);
    program.matrix.run(&mut world, program.shape);
    layer::Make::all(&mut world);
    for step in program.steps.iter().take(STEPS) {
        world.step(step);
    }
}
