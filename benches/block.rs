//! Decoding with several layers in one loop against one by one: the projections of
//! decoder blocks, one token on two threads, timed in turns in one run.
//!
//! `cargo bench --bench block`

use std::time::Instant;
use tritgemm::{Linear, MatMut, MatRef, Scales, TernaryMatrix, Workspace};

/// Blocks of a model: their weights do not fit the caches of a core.
const BLOCKS: usize = 16;
/// Times that each way goes through all blocks.
const ROUNDS: usize = 61;

type Result<T> = std::result::Result<T, tritgemm::Error>;

/// What a block multiplies: layers with one input, and their outputs.
struct Site {
    layers: Vec<Linear>,
    ys: Vec<Vec<f32>>,
}

impl Site {
    fn new(rows: &[usize], cols: usize, seed: usize) -> Result<Self> {
        let layer = |&rows: &usize| {
            let trits: Vec<i8> = (0..rows * cols)
                .map(|i| ((i + seed) * 7919 % 31 % 3) as i8 - 1)
                .collect();
            let trits = MatRef::new(&trits, rows, cols)?;
            Ok(Linear::new(&TernaryMatrix::from_trits(
                trits,
                Scales::per_tensor(0.1),
            )?)?)
        };
        Ok(Self {
            layers: rows.iter().map(layer).collect::<Result<_>>()?,
            ys: rows.iter().map(|&rows| vec![0.0; rows]).collect(),
        })
    }

    fn one_by_one(&mut self, x: MatRef<'_, f32>, ws: &mut Workspace) -> Result<()> {
        let prepared = self.layers[0].prepare_int8(x, ws)?;
        for (layer, y) in self.layers.iter().zip(&mut self.ys) {
            let rows = layer.out_features();
            layer.forward_int8(&prepared, MatMut::new(y, 1, rows)?, ws)?;
        }
        Ok(())
    }

    fn in_one_loop(&mut self, x: MatRef<'_, f32>, ws: &mut Workspace) -> Result<()> {
        let layers: Vec<&Linear> = self.layers.iter().collect();
        let ys = self.ys.iter_mut().map(|y| {
            let rows = y.len();
            MatMut::new(y, 1, rows)
        });
        let mut ys = ys.collect::<std::result::Result<Vec<_>, _>>()?;
        Ok(Linear::forward_many_int8(&layers, x, &mut ys, ws)?)
    }
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

fn time(width: usize) -> Result<()> {
    let (kv, ffn) = (width / 4, width * 27 / 10);
    let mut sites = Vec::new();
    for block in 0..BLOCKS {
        sites.push(Site::new(&[width, kv, kv], width, block)?);
        sites.push(Site::new(&[ffn, ffn], width, block)?);
    }
    let x: Vec<f32> = (0..width).map(|i| (i as f32).sin()).collect();
    let x = MatRef::new(&x, 1, width)?;
    let mut ws = Workspace::new();
    let mut seconds = [Vec::new(), Vec::new()];
    // In turns, and the first round is a warm-up.
    for round in 0..=ROUNDS {
        for way in [round % 2, 1 - round % 2] {
            let start = Instant::now();
            for site in &mut sites {
                match way {
                    0 => site.one_by_one(x, &mut ws)?,
                    _ => site.in_one_loop(x, &mut ws)?,
                }
            }
            if round > 0 {
                seconds[way].push(start.elapsed().as_secs_f64() / BLOCKS as f64);
            }
        }
    }
    let [one_by_one, in_one_loop] = seconds.map(median);
    println!(
        "width {width}: {:.1} us a block one by one, {:.1} us in one loop, {:.2} x",
        1e6 * one_by_one,
        1e6 * in_one_loop,
        one_by_one / in_one_loop
    );
    Ok(())
}

fn main() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build();
    pool.expect("a thread pool").install(|| {
        for width in [1024, 2560] {
            time(width).expect("fits");
        }
    });
}
