//! Runs cells: loads what a shape needs once, sets the contenders up, times them.

use crate::contender::{Info, LOOK_UPS, Library, Loaded};
use crate::host::Host;
use crate::problem::{Activations, Cell, Job, Weights};
use crate::ratios::{Ratio, ratios};
use crate::timing::{Protocol, Sample, interleaved};
use anyhow::Context;
use serde::{Deserialize, Serialize};

/// One contender in one cell.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measurement {
    #[serde(flatten)]
    pub info: Info,
    #[serde(flatten)]
    pub sample: Sample,
    /// 1e9 weight-times-activation products a second.
    pub gmacs: f64,
    /// 1e9 bytes of weights read a second.
    pub gigabytes_per_second: f64,
    /// Over the ceiling and the peer it answers to, in the same cell.
    pub ratios: Vec<Ratio>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CellResult {
    #[serde(flatten)]
    pub cell: Cell,
    pub measurements: Vec<Measurement>,
}

impl CellResult {
    pub fn find(&self, name: &str) -> Option<&Measurement> {
        self.measurements.iter().find(|m| m.info.name == name)
    }

    pub fn gmacs(&self, name: &str) -> Option<f64> {
        self.find(name).map(|m| m.gmacs)
    }
}

/// Which contenders take part in which cell.
pub type Select<'a> = dyn Fn(&Cell, &Info) -> bool + 'a;

/// Runs `cells`; those of one shape and place of weights share what is loaded.
pub fn run(
    libraries: &[Box<dyn Library>],
    cells: &[Cell],
    select: &Select<'_>,
    protocol: Protocol,
    mut progress: impl FnMut(&Cell),
) -> anyhow::Result<Vec<CellResult>> {
    let mut cells = cells.to_vec();
    cells.sort();
    cells.dedup();
    let mut results = Vec::new();
    let mut host = Host::new(protocol.look_ups);
    for group in cells.chunk_by(|a, b| (a.shape, a.weights_from) == (b.shape, b.weights_from)) {
        let loaded = load(libraries, group, select)?;
        for cell in group {
            progress(cell);
            results.push(run_cell(&loaded, cell, select, protocol, &mut host)?);
        }
    }
    Ok(results)
}

struct Loads<'l> {
    weights: Weights,
    libraries: Vec<(&'l [Info], Box<dyn Loaded>)>,
}

fn load<'l>(
    libraries: &'l [Box<dyn Library>],
    cells: &[Cell],
    select: &Select<'_>,
) -> anyhow::Result<Loads<'l>> {
    let Cell {
        shape,
        weights_from,
        ..
    } = cells[0];
    let weights = Weights::random(shape);
    let mut loaded = Vec::new();
    for library in libraries {
        let infos = library.contenders();
        let wanted: Vec<usize> = (0..infos.len())
            .filter(|&i| cells.iter().any(|cell| select(cell, &infos[i])))
            .collect();
        if wanted.is_empty() {
            continue;
        }
        let weights = library
            .load(&weights, weights_from, &wanted)
            .with_context(|| format!("loading {shape} ({weights_from}) for {}", infos[0].name))?;
        loaded.push((infos, weights));
    }
    Ok(Loads {
        weights,
        libraries: loaded,
    })
}

fn run_cell(
    group: &Loads<'_>,
    cell: &Cell,
    select: &Select<'_>,
    protocol: Protocol,
    host: &mut Host,
) -> anyhow::Result<CellResult> {
    let activations = Activations::random(cell.tokens, cell.shape.cols);
    let job = Job {
        weights: &group.weights,
        activations: &activations,
        threads: cell.threads,
    };
    let mut infos = Vec::new();
    let mut runs = Vec::new();
    for (infos_here, loaded) in &group.libraries {
        for (index, info) in infos_here.iter().enumerate() {
            if select(cell, info) {
                let run = loaded
                    .start(index, &job)
                    .with_context(|| format!("setting up {} for {cell}", info.name))?;
                infos.push(info.clone());
                runs.push(run);
            }
        }
    }
    let witness = infos
        .iter()
        .position(|info| info.name == LOOK_UPS && cell.threads == 1);
    let macs = witness.map_or(0.0, |i| runs[i].work().macs);
    let samples = host.calm(
        |samples| witness.map(|i| macs / samples[i].median / 1e9),
        || interleaved(&mut runs, protocol),
    );
    let measurements: Vec<Measurement> = infos
        .into_iter()
        .zip(&runs)
        .zip(samples)
        .map(|((info, run), sample)| Measurement {
            gmacs: run.work().macs / sample.median / 1e9,
            gigabytes_per_second: run.work().bytes / sample.median / 1e9,
            info,
            sample,
            ratios: Vec::new(),
        })
        .collect();
    let mut result = CellResult {
        cell: *cell,
        measurements,
    };
    let all: Vec<Vec<Ratio>> = result
        .measurements
        .iter()
        .map(|m| ratios(m, &result))
        .collect();
    for (m, ratios) in result.measurements.iter_mut().zip(all) {
        m.ratios = ratios;
    }
    Ok(result)
}
