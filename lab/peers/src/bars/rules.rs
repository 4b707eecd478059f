//! The goals that compare contenders within one interleaved cell.

use super::{Sense, Verdict};
use crate::ceilings::READ;
use crate::contender::Path;
use crate::problem::{Cell, Residency, Shape};
use crate::run::{CellResult, Measurement};
use crate::{dense, ggml, ours};

/// What a ratio compares.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Quantity {
    /// Products a second; over the fastest rival.
    Products,
    /// Bytes of weights a second; over the fastest rival.
    Bytes,
    /// Seconds a call.
    Seconds,
}

pub struct Rule {
    case: String,
    /// Contender measured.
    subject: String,
    rivals: Vec<String>,
    over: &'static str,
    quantity: Quantity,
    sense: Sense,
    bar: f64,
    aim: Option<f64>,
    pub cells: Vec<Cell>,
}

const SQUARE: Shape = Shape::new(4096, 4096);
const SMALL: Shape = Shape::new(2560, 2560);
const MANY_TOKENS: [usize; 4] = [64, 128, 256, 512];

fn hot(shape: Shape, tokens: usize) -> Cell {
    Cell {
        shape,
        residency: Residency::Hot,
        threads: 1,
        tokens,
    }
}

fn cold(threads: usize) -> Cell {
    Cell {
        shape: SQUARE,
        residency: Residency::Cold,
        threads,
        tokens: 1,
    }
}

fn sweep(shapes: &[Shape], tokens: &[usize]) -> Vec<Cell> {
    shapes
        .iter()
        .flat_map(|&shape| tokens.iter().map(move |&n| hot(shape, n)))
        .collect()
}

/// The goals, in the order of their table. `shapes` are those that the lines
/// about "all shapes" cover.
pub fn rules(shapes: &[Shape]) -> Vec<Rule> {
    let best = ours::backends().first().map_or("none", |b| b.name());
    let contender = |path| ours::name(path, best);
    let avx2 = |path| ours::name(path, "avx2");
    let one = |name: &str| vec![name.to_owned()];
    let ggml = || vec![ggml::FULL.to_owned(), ggml::BARE.to_owned()];
    let mut rules = Vec::new();
    let mut add = |case: &str,
                   subject: String,
                   (over, rivals): (&'static str, Vec<String>),
                   (bar, aim): (f64, Option<f64>),
                   cells: Vec<Cell>| {
        let quantity = if over == "read bandwidth" {
            Quantity::Bytes
        } else {
            Quantity::Products
        };
        rules.push(Rule {
            case: case.to_owned(),
            subject,
            rivals,
            over,
            quantity,
            sense: Sense::AtLeast,
            bar,
            aim,
            cells,
        });
    };
    let int8 = contender(Path::Int8);
    let f32 = contender(Path::F32);
    let read = || ("read bandwidth", one(READ));
    let dot = || ("vpdpbusd zmm peak", one("vpdpbusd-zmm"));
    let tq2 = || ("ggml TQ2_0 (faster form)", ggml());

    add(
        "int8 N=1 from memory",
        int8.clone(),
        read(),
        (0.9, Some(1.0)),
        vec![cold(1)],
    );
    add(
        "int8 N=1 from memory, 2 threads",
        int8.clone(),
        read(),
        (0.85, Some(1.0)),
        vec![cold(2)],
    );
    add(
        "int8 N=1 hot, 2560x2560",
        int8.clone(),
        tq2(),
        (2.5, Some(3.0)),
        vec![hot(SMALL, 1)],
    );
    for (tokens, bar, aim) in [(4, 0.45, 0.55), (8, 0.55, 0.75), (16, 0.7, 1.0)] {
        let case = format!("int8 N={tokens}, 4096x4096");
        add(
            &case,
            int8.clone(),
            dot(),
            (bar, Some(aim)),
            vec![hot(SQUARE, tokens)],
        );
    }
    let at_32 = sweep(shapes, &[32]);
    let above = sweep(shapes, &MANY_TOKENS);
    let from_32 = sweep(shapes, &[32, 64, 128, 256, 512]);
    add(
        "int8 N=32, all shapes",
        int8.clone(),
        dot(),
        (0.85, Some(1.1)),
        at_32.clone(),
    );
    add(
        "int8 N=32, all shapes",
        int8.clone(),
        tq2(),
        (4.0, None),
        at_32,
    );
    add(
        "int8 N=64..512, all shapes",
        int8.clone(),
        dot(),
        (1.0, Some(1.3)),
        above.clone(),
    );
    add(
        "int8 N=64..512, all shapes",
        int8,
        tq2(),
        (5.0, None),
        above,
    );
    let fma = ("FMA zmm peak", one("fma-zmm"));
    let dense = ("gemm crate, dense f32", one(dense::NAME));
    add(
        "f32 N=32..512, all shapes",
        f32.clone(),
        fma,
        (1.5, Some(2.0)),
        from_32.clone(),
    );
    add(
        "f32 N=32..512, all shapes",
        f32.clone(),
        dense,
        (2.2, Some(3.0)),
        from_32.clone(),
    );
    add(
        "f32 N=1 from memory",
        f32,
        read(),
        (0.85, Some(1.0)),
        vec![cold(1)],
    );
    let (int8, f32) = (avx2(Path::Int8), avx2(Path::F32));
    add(
        "AVX2 int8 N=1 hot, 2560x2560",
        int8.clone(),
        tq2(),
        (1.3, Some(1.8)),
        vec![hot(SMALL, 1)],
    );
    add(
        "AVX2 int8 N=32..512, all shapes",
        int8,
        tq2(),
        (2.2, Some(3.0)),
        from_32.clone(),
    );
    let fma = ("FMA ymm peak", one("fma-ymm"));
    add(
        "AVX2 f32 N=32..512, all shapes",
        f32,
        fma,
        (1.1, Some(1.4)),
        from_32,
    );
    rules.push(Rule {
        case: "W1.58A8 forward, N=1 and 128, 4096x4096".to_owned(),
        subject: contender(Path::W1a8),
        rivals: vec![contender(Path::Int8)],
        over: "time of raw int8 GEMM",
        quantity: Quantity::Seconds,
        sense: Sense::AtMost,
        bar: 1.10,
        aim: Some(1.05),
        cells: sweep(&[SQUARE], &[1, 128]),
    });
    rules
}

impl Rule {
    pub fn involves(&self, name: &str) -> bool {
        self.subject == name || self.rivals.iter().any(|r| r == name)
    }

    /// The worst ratio over the rule's cells.
    pub fn judge(&self, results: &[CellResult]) -> Verdict {
        let ratios = results
            .iter()
            .filter(|r| self.cells.contains(&r.cell))
            .filter_map(|r| Some((self.ratio(r)?, r.cell)));
        let worst = match self.sense {
            Sense::AtLeast => ratios.min_by(|a, b| a.0.total_cmp(&b.0)),
            Sense::AtMost => ratios.max_by(|a, b| a.0.total_cmp(&b.0)),
        };
        Verdict {
            case: self.case.clone(),
            over: self.over.to_owned(),
            sense: self.sense,
            bar: self.bar,
            aim: self.aim,
            ratio: worst.map(|w| w.0),
            note: worst.map_or_else(
                || format!("{} or its rival does not run on this CPU", self.subject),
                |(_, cell)| cell.to_string(),
            ),
        }
    }

    fn ratio(&self, cell: &CellResult) -> Option<f64> {
        let quantity = |m: &Measurement| match self.quantity {
            Quantity::Products => m.gmacs,
            Quantity::Bytes => m.gigabytes_per_second,
            Quantity::Seconds => m.sample.median,
        };
        let rival = self
            .rivals
            .iter()
            .filter_map(|name| cell.find(name))
            .map(quantity)
            .max_by(f64::total_cmp)?;
        Some(quantity(cell.find(&self.subject)?) / rival)
    }
}
