//! The performance goals: one table of what must hold (the bar) and what the machine's
//! limits suggest (the aim), checked line by line.

mod alone;
mod verdict;

pub use verdict::{Sense, Verdict, table};

use crate::contender::{Arithmetic, Info, Library};
use crate::contender::{GEMM_CRATE, GGML, GGML_Q8K, LOOK_UPS, READ};
use crate::ours;
use crate::problem::{Cell, Shape, WeightsFrom};
use crate::run::{self, CellResult, Measurement};
use crate::timing::Protocol;
use WeightsFrom::{Cache, Memory};
use tritgemm::{GroupSize, Isa};

/// One line of the goals.
struct Bar {
    case: &'static str,
    /// None for all shapes of the run.
    shape: Option<Shape>,
    tokens: &'static [usize],
    weights_from: WeightsFrom,
    threads: usize,
    /// Our contender, on the best backend or on the best of a level.
    ours: (Arithmetic, Option<Isa>),
    over: Over,
    bar: f64,
    aim: Option<f64>,
}

/// What our contender is compared with.
#[derive(Clone, Copy)]
enum Over {
    /// The fastest of these contenders, by products a second.
    Products(&'static str, &'static [&'static str]),
    /// Reading the weights and nothing else, by bytes a second.
    Reading,
    /// Our raw int8 product, by seconds.
    RawInt8,
    /// One scale for the matrix instead of one for each group of this size.
    OneScale(GroupSize),
    /// One thread. The bare loop of this name says what the machine gains from another.
    OneThread(&'static str),
    /// The product of one more token, by seconds, up to the last of the tokens.
    OneMoreToken,
    /// A copy of as many bytes; what is compared is no product.
    Copy(alone::Operation),
}

const SMALL: Option<Shape> = Some(Shape::new(2560, 2560));
const SQUARE: Option<Shape> = Some(Shape::new(4096, 4096));
const ALL: Option<Shape> = None;
const FROM_32: &[usize] = &[32, 64, 128, 256, 512];
const FROM_64: &[usize] = &[64, 128, 256, 512];
const GROUPED: &[usize] = &[1, 8, 32, 128];
const INT8: (Arithmetic, Option<Isa>) = (Arithmetic::Int8, None);
const F32: (Arithmetic, Option<Isa>) = (Arithmetic::F32, None);
const W1A8: (Arithmetic, Option<Isa>) = (Arithmetic::W1a8, None);
const AVX2_INT8: (Arithmetic, Option<Isa>) = (Arithmetic::Int8, Some(Isa::Avx2));
const AVX2_F32: (Arithmetic, Option<Isa>) = (Arithmetic::F32, Some(Isa::Avx2));
const DOT: Over = Over::Products("vpdpbusd zmm peak", &["vpdpbusd-zmm"]);
const FMA_ZMM: Over = Over::Products("FMA zmm peak", &["fma-zmm"]);
const FMA_YMM: Over = Over::Products("FMA ymm peak", &["fma-ymm"]);
const TQ2: Over = Over::Products("ggml TQ2_0 (faster form)", &[GGML, GGML_Q8K]);
const DENSE: Over = Over::Products("gemm crate, dense f32", &[GEMM_CRATE]);

macro_rules! table {
    ($($case:literal, $shape:ident, $tokens:expr, $from:ident, $threads:literal, $ours:ident,
       $over:expr, $bar:literal, $aim:expr;)*) => {
        &[$(Bar {
            case: $case, shape: $shape, tokens: $tokens, weights_from: $from, threads: $threads,
            ours: $ours, over: $over, bar: $bar, aim: $aim,
        }),*]
    };
}

const BARS: &[Bar] = table! {
    // case                              shape   tokens     from   threads ours  over     bar   aim
    "int8 N=1 from memory",              SQUARE, &[1],      Memory, 1, INT8,      Over::Reading, 0.9, Some(1.0);
    "int8 N=1 from memory, 2 threads",   SQUARE, &[1],      Memory, 2, INT8,      Over::Reading, 0.85, Some(1.0);
    "int8 N=1 in cache, 2560x2560",      SMALL,  &[1],      Cache,  1, INT8,      TQ2,     2.5,  Some(3.0);
    "int8 N=4, 4096x4096",               SQUARE, &[4],      Cache,  1, INT8,      DOT,     0.45, Some(0.55);
    "int8 N=8, 4096x4096",               SQUARE, &[8],      Cache,  1, INT8,      DOT,     0.55, Some(0.75);
    "int8 N=16, 4096x4096",              SQUARE, &[16],     Cache,  1, INT8,      DOT,     0.7,  Some(1.0);
    "int8 N=32, all shapes",             ALL,    &[32],     Cache,  1, INT8,      DOT,     0.85, Some(1.1);
    "int8 N=32, all shapes",             ALL,    &[32],     Cache,  1, INT8,      TQ2,     4.0,  None;
    "int8 N=64..512, all shapes",        ALL,    FROM_64,   Cache,  1, INT8,      DOT,     1.0,  Some(1.3);
    "int8 N=64..512, all shapes",        ALL,    FROM_64,   Cache,  1, INT8,      TQ2,     5.0,  None;
    "f32 N=32..512, all shapes",         ALL,    FROM_32,   Cache,  1, F32,       FMA_ZMM, 1.5,  Some(2.0);
    "f32 N=32..512, all shapes",         ALL,    FROM_32,   Cache,  1, F32,       DENSE,   2.2,  Some(3.0);
    "f32 N=1 from memory",               SQUARE, &[1],      Memory, 1, F32,       Over::Reading, 0.85, Some(1.0);
    "AVX2 int8 N=1 in cache, 2560x2560", SMALL,  &[1],      Cache,  1, AVX2_INT8, TQ2,     1.3,  Some(1.8);
    "AVX2 int8 N=32..512, all shapes",   ALL,    FROM_32,   Cache,  1, AVX2_INT8, TQ2,     2.2,  Some(3.0);
    "AVX2 f32 N=32..512, all shapes",    ALL,    FROM_32,   Cache,  1, AVX2_F32,  FMA_YMM, 1.1,  Some(1.4);
    "W1.58A8 forward, N=1 and 128, 4096x4096", SQUARE, &[1, 128], Cache, 1, W1A8, Over::RawInt8, 1.1, Some(1.05);
    "W1.58A8, groups of 128",            SQUARE, GROUPED,   Cache,  1, W1A8, Over::OneScale(GroupSize::G128), 0.85, None;
    "W1.58A8, groups of 64",             SQUARE, GROUPED,   Cache,  1, W1A8, Over::OneScale(GroupSize::G64), 0.75, None;
    "f32, groups of 128",                SQUARE, GROUPED,   Cache,  1, F32,  Over::OneScale(GroupSize::G128), 0.85, None;
    "f32, groups of 64",                 SQUARE, GROUPED,   Cache,  1, F32,  Over::OneScale(GroupSize::G64), 0.75, None;
    "int8 N=1 from memory, 4096x4096",   SQUARE, &[1],      Memory, 2, INT8, Over::OneThread(READ), 1.9, Some(2.0);
    "int8 N=128, 4096x4096",             SQUARE, &[128],    Cache,  2, INT8, Over::OneThread(LOOK_UPS), 1.9, Some(2.0);
    "int8 N=1..512, 4096x4096: time(N)", SQUARE, &[512],    Cache,  1, INT8, Over::OneMoreToken, 1.05, None;
    "encode, 4096x4096",                 SQUARE, &[],       Cache,  1, INT8, Over::Copy(alone::encode), 0.5, None;
    "decode to i8, 4096x4096",           SQUARE, &[],       Cache,  1, INT8, Over::Copy(alone::decode), 0.5, None;
    "pack panels from packed bytes, 4096x4096", SQUARE, &[], Cache, 1, INT8, Over::Copy(alone::pack), 0.5, None;
};

impl Bar {
    fn over(&self) -> &'static str {
        match self.over {
            Over::Products(over, _) => over,
            Over::Reading => "read bandwidth",
            Over::RawInt8 => "time of raw int8 GEMM",
            Over::OneScale(_) => "one scale for the matrix",
            Over::OneThread(_) => "2 threads over 1",
            Over::OneMoreToken => "time(N+1)",
            Over::Copy(_) => "memcpy, bytes moved",
        }
    }

    /// Ratios of times must be small, others large.
    fn sense(&self) -> Sense {
        match self.over {
            Over::RawInt8 | Over::OneMoreToken => Sense::AtMost,
            _ => Sense::AtLeast,
        }
    }

    fn subject(&self) -> String {
        let group = match self.over {
            Over::OneScale(group) => Some(group),
            _ => None,
        };
        ours::best(self.ours.0, group, self.ours.1)
    }

    /// Contenders of the same cells; none if the bar is measured alone.
    fn rivals(&self) -> Vec<String> {
        match self.over {
            Over::Products(_, names) => names.iter().map(|&name| name.to_owned()).collect(),
            Over::Reading => vec![READ.to_owned()],
            Over::RawInt8 => vec![ours::best(Arithmetic::Int8, None, self.ours.1)],
            Over::OneScale(_) => vec![ours::best(self.ours.0, None, self.ours.1)],
            Over::OneThread(_) | Over::OneMoreToken | Over::Copy(_) => Vec::new(),
        }
    }

    fn cells(&self, all: &[Shape]) -> Vec<Cell> {
        if self.rivals().is_empty() {
            return Vec::new();
        }
        let shapes = self.shape.as_ref().map_or(all, std::slice::from_ref);
        let cell = |&shape: &Shape, &tokens: &usize| Cell {
            shape,
            weights_from: self.weights_from,
            threads: self.threads,
            tokens,
        };
        shapes
            .iter()
            .flat_map(|shape| self.tokens.iter().map(move |n| cell(shape, n)))
            .collect()
    }

    /// The worst ratio over the bar's cells, and which cell that was.
    fn worst(&self, all: &[Shape], results: &[CellResult]) -> (Option<f64>, String) {
        let cells = self.cells(all);
        let ratios = results
            .iter()
            .filter(|r| cells.contains(&r.cell))
            .filter_map(|r| Some((self.ratio(r)?, r.cell)));
        let worst = match self.sense() {
            Sense::AtLeast => ratios.min_by(|a, b| a.0.total_cmp(&b.0)),
            Sense::AtMost => ratios.max_by(|a, b| a.0.total_cmp(&b.0)),
        };
        match worst {
            Some((ratio, cell)) => (Some(ratio), cell.to_string()),
            None => (
                None,
                format!("no {} or no rival of it here", self.subject()),
            ),
        }
    }

    fn ratio(&self, cell: &CellResult) -> Option<f64> {
        let quantity = |m: &Measurement| match self.over {
            Over::Reading => m.gigabytes_per_second,
            Over::RawInt8 => m.sample.median,
            _ => m.gmacs,
        };
        let rivals = self.rivals();
        let rival = rivals.iter().filter_map(|name| cell.find(name));
        let rival = rival.map(quantity).max_by(f64::total_cmp)?;
        Some(quantity(cell.find(&self.subject())?) / rival)
    }
}

/// Everything a check of the bars needs.
pub struct Context<'a> {
    pub libraries: &'a [Box<dyn Library>],
    pub shapes: Vec<Shape>,
    pub protocol: Protocol,
}

/// Measures and judges every line.
pub fn check(
    context: &Context<'_>,
    mut progress: impl FnMut(&str),
) -> anyhow::Result<(Vec<CellResult>, Vec<Verdict>)> {
    let shapes = &context.shapes;
    let involved =
        |bar: &Bar, info: &Info| info.name == bar.subject() || bar.rivals().contains(&info.name);
    let select = |cell: &Cell, info: &Info| {
        let witness = info.name == LOOK_UPS && cell.weights_from == Cache;
        let mut bars = BARS.iter().filter(|bar| bar.cells(shapes).contains(cell));
        witness || bars.any(|bar| involved(bar, info))
    };
    let cells: Vec<Cell> = BARS.iter().flat_map(|bar| bar.cells(shapes)).collect();
    let results = run::run(
        context.libraries,
        &cells,
        &select,
        context.protocol,
        |cell| {
            progress(&cell.to_string());
        },
    )?;
    let mut verdicts = Vec::new();
    for bar in BARS {
        let (ratio, note) = if bar.rivals().is_empty() {
            progress(&format!("{} over {}", bar.case, bar.over()));
            alone::measure(context, bar)?
        } else {
            bar.worst(shapes, &results)
        };
        verdicts.push(Verdict {
            case: bar.case.to_owned(),
            over: bar.over().to_owned(),
            sense: bar.sense(),
            bar: bar.bar,
            aim: bar.aim,
            ratio,
            note,
        });
    }
    Ok((results, verdicts))
}
