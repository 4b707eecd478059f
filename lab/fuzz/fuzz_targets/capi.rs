//! The C interface: whole programs of calls, with arguments of any size at any
//! alignment, give the results and the messages of the Rust interface, and
//! nothing around outputs is written.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tritgemm_fuzz::capi::{Program, run};

fuzz_target!(|program: Program| run(&program));
