//! The bare loops behind docs/performance.md: what one instruction, one mix of
//! instructions, the column lanes' load-add, and reading in the row lanes' order
//! take on this CPU, in cycles.
//!
//! ```sh
//! cargo run --release -p tritgemm-peers --bin loops
//! cargo run --release -p tritgemm-peers --bin loops -- streams   # headings with that word
//! ```
//!
//! A loop here computes nothing of use. It shows where a kernel's limit lies and
//! what a change of its shape would win, before the rest of the kernel exists.

#[cfg(target_arch = "x86_64")]
mod column;
#[cfg(target_arch = "x86_64")]
mod hand_over;
#[cfg(target_arch = "x86_64")]
mod measure;
#[cfg(target_arch = "x86_64")]
#[path = "../memory.rs"]
// Copies are for the other program.
#[allow(dead_code)]
mod memory;
#[cfg(target_arch = "x86_64")]
mod ports;
#[cfg(target_arch = "x86_64")]
mod streams;

#[cfg(target_arch = "x86_64")]
fn main() {
    let mut loops = ports::loops();
    loops.extend(column::loops());
    loops.extend(streams::loops());
    if loops.is_empty() {
        println!("no loops for this CPU: they take AVX2, most of them AVX-512 BW and VL");
        return;
    }
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    loops.retain(|l| wanted.is_empty() || wanted.iter().any(|part| l.group.contains(part)));
    if loops.is_empty() {
        println!("no heading has any of {wanted:?}");
    } else {
        measure::report(&mut loops);
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn main() {
    println!("no loops for this CPU: they are written for x86-64");
}
