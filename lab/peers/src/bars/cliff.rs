//! The shape of time over N: one token more never makes a product faster by more
//! than a little, or the caller would have to pad.

use super::threads::find;
use super::{Context, Sense, Verdict};
use crate::ceilings::LOOK_UPS;
use crate::contender::{Output, Run, Work};
use crate::host::Host;
use crate::ours;
use crate::problem::{Activations, Job, Residency, Shape, Weights};
use crate::timing::{Protocol, interleaved};
use std::cell::RefCell;
use std::hint::black_box;
use tritgemm::{Backend, MatMut, MatRef, Options, Panels, Threads, Workspace};

const SHAPE: Shape = Shape::new(4096, 4096);
/// The largest N that is compared with N + 1.
const LAST: usize = 512;

/// Steps from N to N + 1 that are measured again: those that looked worst.
const CONFIRMED: usize = 16;

/// What all numbers of tokens share, as an engine would: separate buffers lie in
/// other pages, which alone makes 5 % of difference in the L2 cache.
struct Shared {
    panels: Panels,
    x: Vec<i8>,
    y: Vec<i32>,
    workspace: Workspace,
}

/// The product of the first `tokens` tokens.
struct Tokens<'a> {
    tokens: usize,
    shared: &'a RefCell<Shared>,
}

impl Run for Tokens<'_> {
    fn work(&self) -> Work {
        Work {
            macs: (SHAPE.weights() * self.tokens) as f64,
            bytes: SHAPE.packed_bytes() as f64,
        }
    }

    fn threads(&self) -> usize {
        1
    }

    fn run(&mut self, calls: usize) {
        let Shared {
            panels,
            x,
            y,
            workspace,
        } = &mut *self.shared.borrow_mut();
        let n = self.tokens;
        for _ in 0..calls {
            let x = MatRef::new(&x[..n * SHAPE.cols], n, SHAPE.cols).expect("n tokens");
            let y = MatMut::new(&mut y[..n * SHAPE.rows], n, SHAPE.rows).expect("n tokens");
            panels.gemm_i8(x, y, workspace).expect("shapes that fit");
        }
        black_box(y);
    }

    fn output(&self) -> Output<'_> {
        Output::None
    }
}

pub fn check(context: &Context<'_>) -> anyhow::Result<Verdict> {
    let backend = Backend::best();
    let matrix = ours::matrix(&Weights::random(SHAPE))?;
    let options = Options::new().backend(backend).threads(Threads::Serial);
    let shared = RefCell::new(Shared {
        panels: Panels::pack_with(backend, Threads::Serial, &matrix)?,
        x: Activations::random(LAST + 1, SHAPE.cols).int8,
        y: vec![0; (LAST + 1) * SHAPE.rows],
        workspace: Workspace::with_options(options),
    });
    let run = |tokens: usize| {
        let shared = &shared;
        Box::new(Tokens { tokens, shared }) as Box<dyn Run>
    };
    let protocol = Protocol {
        repeats: 2 * context.protocol.repeats + 1,
        ..context.protocol
    };
    let mut runs: Vec<_> = (1..=LAST + 1).map(run).collect();
    let samples = interleaved(&mut runs, protocol);
    let mut steps: Vec<(f64, usize)> = samples
        .windows(2)
        .zip(1..)
        .map(|(pair, n)| (pair[0].median / pair[1].median, n))
        .collect();
    steps.sort_by(|a, b| b.0.total_cmp(&a.0));

    // The worst of 512 ratios is mostly the noisiest, and all of them together take
    // minutes, in which the host is not always the same. So those that look worst
    // are measured again, two neighbours at a time; what that says counts.
    steps.truncate(CONFIRMED);
    let weights = Weights::random(SHAPE);
    let witness = find(context.families, LOOK_UPS, &weights, Residency::Hot)?;
    let activations = Activations::random(1, SHAPE.cols);
    let job = Job {
        weights: &weights,
        activations: &activations,
        threads: 1,
    };
    let mut host = Host::new(protocol.look_ups);
    for (ratio, n) in &mut steps {
        let mut runs = vec![run(*n), run(*n + 1)];
        if let Some(found) = &witness {
            runs.push(found.loaded.start(found.index, &job)?);
        }
        let macs = runs.get(2).map(|witness| witness.work().macs);
        let samples = host.calm(
            |samples| macs.map(|macs| macs / samples[2].median / 1e9),
            || interleaved(&mut runs, protocol),
        );
        *ratio = samples[0].median / samples[1].median;
    }
    steps.sort_by(|a, b| b.0.total_cmp(&a.0));
    Ok(Verdict {
        case: format!("int8 N=1..{LAST}, {SHAPE}: time(N)"),
        over: "time(N+1)".to_owned(),
        sense: Sense::AtMost,
        bar: 1.05,
        aim: None,
        ratio: steps.first().map(|s| s.0),
        note: steps
            .iter()
            .take(3)
            .map(|(ratio, n)| format!("N={n}: {ratio:.3}"))
            .collect::<Vec<_>>()
            .join(", "),
    })
}
