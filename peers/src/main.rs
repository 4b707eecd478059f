//! tritgemm against its peers and the machine's ceilings, in one interleaved run.
mod ceilings;
mod check;
mod contender;
mod dense;
mod ggml;
mod machine;
mod ours;
mod pools;
mod problem;
mod run;
mod timing;
use std::sync::Arc;
fn main() -> anyhow::Result<()> {
    let pools = Arc::new(pools::Pools::new(&[1, 2])?);
    let m = machine::Machine::detect();
    println!("{}", m.summary());
    println!("{:?}", ggml::build_check::Build::inspect()?);
    let fams: Vec<Box<dyn contender::Family>> = vec![
        Box::new(ceilings::CeilingFamily::new(pools.clone())),
        Box::new(ggml::GgmlFamily::new()),
        Box::new(dense::DenseFamily::new(pools.clone())),
        Box::new(ours::OurFamily::new(pools.clone())),
    ];
    check::check(&fams, &[1, 2])?;
    let t = std::time::Instant::now();
    let c = ceilings::Ceilings::measure(&m, &pools, &[1, 2]);
    for b in &c.bandwidths { println!("{b:?}"); }
    for b in &c.peaks { println!("{b:?}"); }
    println!("{:?}", t.elapsed());
    let cells: Vec<_> = [1, 8, 32, 128].map(|tokens| problem::Cell { shape: problem::Shape::new(4096, 4096), residency: problem::Residency::Hot, threads: 1, tokens }).into();
    let p = timing::Protocol { repeats: 7, repeat_time: std::time::Duration::from_millis(10) };
    for r in run::run(&fams, &cells, &|_, _| true, p, |_| ())? {
        println!("{}", r.cell);
        for m in r.measurements { println!("  {:28} {:8.2} GMAC/s {:8.2} GB/s spread {:.3} n {}", m.info.name, m.gmacs, m.gigabytes_per_second, m.sample.spread, m.sample.calls_per_repeat); }
    }
    Ok(())
}
