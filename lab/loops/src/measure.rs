//! Times loops in turns and counts in cycles of the core they ran on.

use std::arch::asm;
use std::time::Instant;

/// Times each loop is run; the fastest counts, for the clock as well.
const REPEATS: usize = 25;

/// A loop to time.
pub struct Loop {
    /// Heading that it is listed under.
    pub group: &'static str,
    pub name: String,
    /// What its cycles are counted for, and how many of them a run has.
    pub unit: &'static str,
    pub units: u64,
    /// MACs of int8 and f32 tokens that a unit of the product stands for.
    pub macs: u64,
    pub run: Box<dyn FnMut()>,
}

/// Additions in a chain, each waiting for the one before: a cycle each on
/// every CPU there is, so their time is the clock's. Of two registers: a small
/// constant some CPUs add while they rename the registers, in no time.
const CHAIN: u64 = 2_000_000;

fn chain() {
    let mut x = 1_u64;
    for _ in 0..CHAIN / 10 {
        // SAFETY: register arithmetic.
        unsafe {
            asm!(
                "add {x}, {y}", "add {x}, {y}", "add {x}, {y}", "add {x}, {y}", "add {x}, {y}",
                "add {x}, {y}", "add {x}, {y}", "add {x}, {y}", "add {x}, {y}", "add {x}, {y}",
                x = inout(reg) x, y = in(reg) 3_u64, options(nomem, nostack),
            );
        }
    }
    std::hint::black_box(x);
}

fn seconds(run: &mut dyn FnMut()) -> f64 {
    let start = Instant::now();
    run();
    start.elapsed().as_secs_f64()
}

/// Runs all of them in turns and prints the table.
pub fn report(loops: &mut [Loop]) {
    let mut clock = f64::INFINITY;
    let mut best = vec![f64::INFINITY; loops.len()];
    for _ in 0..REPEATS {
        for (l, best) in loops.iter_mut().zip(&mut best) {
            // The loop's own data comes back into the caches first.
            (l.run)();
            *best = best.min(seconds(&mut l.run));
            clock = clock.min(seconds(&mut chain));
        }
    }
    let hertz = CHAIN as f64 / clock;
    println!(
        "clock {:.2} GHz, fastest of {REPEATS} runs in turns",
        hertz / 1e9
    );
    let mut group = "";
    for (l, best) in loops.iter().zip(best) {
        if l.group != group {
            group = l.group;
            println!("\n{group}\n{:>54}  {:>7}  GMAC/s", "", "cycles");
        }
        let each = best / l.units as f64;
        let rate = match l.macs {
            0 => String::new(),
            macs => format!("{:.0}", macs as f64 / each / 1e9),
        };
        println!(
            "{:>42} {:>11}  {:>7.2}  {rate:>6}",
            l.name,
            l.unit,
            each * hertz
        );
    }
}
