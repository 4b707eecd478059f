//! `tritgemm bench`: products beside memory bandwidth and a dense f32 GEMM.
//!
//! | module | what it does |
//! |---|---|
//! | [`case`] | one line of the table: weights, activations, what runs |
//! | [`measure`] | interleaved repeats and their medians |
//! | [`read`] | memory bandwidth |
//! | [`dense`] | the dense f32 GEMM |

mod case;
#[allow(unsafe_code)] // One call: the gemm crate has no safe entry.
mod dense;
mod measure;
mod read;

use crate::args::{Act, BenchArgs, LaneChoice, Shape};
use crate::cpu;
use crate::output::{self, Col, Out, plain};
use anyhow::{Context, Result, anyhow};
use case::{Case, Line};
use std::num::NonZeroUsize;
use tritgemm::{Backend, Lanes};

/// Runs the command.
pub fn run(args: &BenchArgs, out: &mut Out) -> Result<()> {
    match args.threads.get() {
        // The library is serial outside of a pool.
        1 => bench(args, out),
        _ => crate::in_pool(Some(args.threads), || bench(args, out))?,
    }
}

fn bench(args: &BenchArgs, out: &mut Out) -> Result<()> {
    let cases = cases(args)?;
    let bar = output::progress(
        cases.len() as u64,
        "{bar:30} {pos} of {len} cases  {wide_msg}",
    );
    let mut lines = Vec::new();
    for case in &cases {
        bar.set_message(case.to_string());
        // Drawn by no thread of its own: that would disturb the measurement.
        bar.tick();
        let line = case
            .run(args.repeats.get())
            .with_context(|| case.to_string())?;
        if args.json {
            bar.suspend(|| out.line(serde_json::to_string(&line)?))?;
        }
        lines.push(line);
        bar.inc(1);
    }
    bar.finish_and_clear();
    if args.json {
        return Ok(());
    }
    print(&lines, args, out)
}

fn or<T: Clone>(given: &[T], default: &[T]) -> Vec<T> {
    if given.is_empty() { default } else { given }.to_vec()
}

fn cases(args: &BenchArgs) -> Result<Vec<Case>> {
    let backends = backends(args)?;
    let lanes = match args.lanes {
        LaneChoice::Auto => Lanes::Auto,
        LaneChoice::Row => Lanes::Row,
        LaneChoice::Column => Lanes::Column,
    };
    const DEFAULT_TOKENS: [NonZeroUsize; 2] =
        [NonZeroUsize::MIN, NonZeroUsize::new(64).expect("not 0")];
    let mut cases = Vec::new();
    for &residency in &args.residency {
        for shape in or(&args.shape, &[Shape { m: 4096, k: 4096 }]) {
            for tokens in or(&args.tokens, &DEFAULT_TOKENS) {
                for act in or(&args.act, &Act::ALL) {
                    for &backend in &backends {
                        cases.push(Case {
                            backend,
                            lanes,
                            act,
                            shape,
                            tokens: tokens.get(),
                            threads: args.threads.get(),
                            residency,
                        });
                    }
                }
            }
        }
    }
    Ok(cases)
}

fn backends(args: &BenchArgs) -> Result<Vec<Backend>> {
    if !args.isa.is_empty() {
        return Ok(args
            .isa
            .iter()
            .map(|&isa| Backend::for_isa(isa))
            .collect::<Result<_, _>>()?);
    }
    let by_name = |name: &String| {
        let found = Backend::available().find(|b| b.name() == name);
        found.ok_or_else(|| {
            let names: Vec<&str> = Backend::available().map(Backend::name).collect();
            anyhow!(
                "no kernel set `{name}` can run here, only {}",
                names.join(", ")
            )
        })
    };
    if !args.backend.is_empty() {
        return args.backend.iter().map(by_name).collect();
    }
    Ok(vec![Backend::active()?])
}

fn print(lines: &[Line], args: &BenchArgs, out: &mut Out) -> Result<()> {
    out.line(format!(
        "{}, {}, median of {}",
        cpu::model()
            .as_deref()
            .map_or("unknown CPU".to_owned(), plain),
        output::count(args.threads.get(), "thread", "threads"),
        output::count(args.repeats.get(), "repeat", "repeats"),
    ))?;
    let columns = [
        Col::Left("\nact"),
        Col::Wrap("\nkernel"),
        Col::Right("\nM x K"),
        Col::Right("\nN"),
        Col::Left("\nfrom"),
        Col::Right("time\nus"),
        Col::Right("\nGMAC/s"),
        Col::Right("weight\nGB/s"),
        Col::Right("read\nGB/s"),
        Col::Right("dense\nGMAC/s"),
        Col::Right("\ngain"),
    ];
    let mut table = output::table(&columns, 1);
    for line in lines {
        table.add_row([
            line.act.to_owned(),
            output::breaks(&line.kernel, '-'),
            format!("{}x{}", line.m, line.k),
            line.n.to_string(),
            line.residency.to_owned(),
            number(line.ns / 1e3),
            number(line.gmacs),
            number(line.weight_gbs),
            number(line.read_gbs),
            number(line.dense_f32_gmacs),
            format!("{}x", number(line.gmacs / line.dense_f32_gmacs)),
        ]);
    }
    out.table(&table)?;
    out.line("weight: packed bytes a second; read: what this machine reads from there;")?;
    out.line("dense: the same product by a dense f32 GEMM; gain: times as fast as that.")
}

/// Three digits, which is more than a measurement is good for.
fn number(value: f64) -> String {
    match value {
        v if v < 9.995 => format!("{v:.2}"),
        v if v < 99.95 => format!("{v:.1}"),
        v => format!("{v:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        assert_eq!(
            [number(1.234), number(12.34), number(123.4)],
            ["1.23", "12.3", "123"]
        );
    }
}
