//! Lists bare loops: what one instruction, one mix of instructions, the load-add of the
//! kernels for many tokens, and reading in the order of those for few take on this CPU,
//! in cycles.
//!
//! ```sh
//! cargo run --release -p tritgemm-loops
//! cargo run --release -p tritgemm-loops -- streams   # headings with that word
//! ```
//!
//! A loop here computes nothing of use. It shows where a kernel's limit lies and
//! what a change of its shape would win, before the rest of the kernel exists.

#[cfg(target_arch = "x86_64")]
mod many;
#[cfg(target_arch = "x86_64")]
mod measure;
#[cfg(target_arch = "x86_64")]
mod ports;
#[cfg(target_arch = "x86_64")]
mod streams;

#[cfg(target_arch = "x86_64")]
fn main() {
    let mut loops = ports::loops();
    loops.extend(many::loops());
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
