//! Reads the machine code of the running test binary and says which functions
//! multiply.
//!
//! | module | what it holds |
//! |---|---|
//! | [`image`] | the ELF file: functions, their names and bytes, relocated slots |
//! | [`x86`] | decoding and judging x86-64 instructions |
//! | `pointers` | x86-64 calls through registers |
//! | [`a64`] | decoding and judging A64 instructions |
//! | this one | [`scan`]: a function and everything it calls |
//!
//! Both decoders are built on every host, so their unit tests always run.

pub mod a64;
pub mod image;
mod pointers;
pub mod x86;

use image::{Architecture, Callee, Image};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Where an instruction may go besides the next one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flow {
    /// Nowhere, or back to the caller.
    Next,
    /// A call, jump or branch to an address.
    Direct(u64),
    /// A call or jump to what the pointer at an address holds.
    Slot(u64),
    /// A call or jump to what a register or computed address holds.
    Indirect,
}

/// One decoded instruction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Instruction {
    /// Its address in the file.
    pub address: u64,
    /// Its mnemonic in lower case; `None` if the bytes are no instruction.
    pub name: Option<String>,
    /// What it computes that an accumulation must not.
    pub multiply: Option<&'static str>,
    /// Where it goes.
    pub flow: Flow,
}

/// What a kernel may call: what ends the process with a message, and moving or
/// clearing bytes. Nothing here returns a number that enters a sum.
const HARMLESS: &[&str] = &["memcpy", "memmove", "memset"];

/// As [`HARMLESS`], by the start of the path. The bounds checks of slices have
/// been moved between modules of `core` from one release to the next.
const PANICS: &[&str] = &[
    "core::panicking::",
    "core::option::expect_failed",
    "core::option::unwrap_failed",
    "core::result::unwrap_failed",
    "core::slice::index::slice_",
    "core::slice::copy_from_slice_impl::len_mismatch_fail",
    "core::slice::<impl [T]>::copy_from_slice::len_mismatch_fail",
    "<core::slice::<impl [T]>>::copy_from_slice::len_mismatch_fail",
];

fn harmless(name: &str) -> bool {
    HARMLESS.contains(&name) || PANICS.iter().any(|start| name.starts_with(start))
}

/// What is wrong with an instruction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fault {
    /// It multiplies; the kind of multiplication.
    Multiply(&'static str),
    /// It cannot be decoded, so it could be anything.
    Undecodable,
    /// It goes where the scanner cannot follow.
    Indirect,
    /// It goes to code that has no symbol, or to a library's function.
    Unknown(String),
}

/// One thing that an accumulation must not contain.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The function it stands in.
    pub function: String,
    /// Its address in the file.
    pub address: u64,
    /// The mnemonic.
    pub name: String,
    /// What is wrong with it.
    pub fault: Fault,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Finding {
            function,
            address,
            name,
            fault,
        } = self;
        write!(f, "{address:#x} `{name}` in {function}: ")?;
        match fault {
            Fault::Multiply(kind) => write!(f, "{kind}"),
            Fault::Undecodable => write!(f, "not an instruction the decoder knows"),
            Fault::Indirect => write!(f, "indirect, cannot be followed"),
            Fault::Unknown(callee) => write!(f, "goes to {callee}, which cannot be scanned"),
        }
    }
}

/// What a scan saw.
#[derive(Default)]
pub struct Scan {
    /// Start and name of every function scanned, with its instruction count.
    pub functions: BTreeMap<u64, (String, usize)>,
    /// What must not be there.
    pub findings: Vec<Finding>,
    /// The harmless functions that were called.
    pub harmless: BTreeSet<String>,
}

impl Scan {
    /// Instructions scanned, over all functions.
    pub fn instructions(&self) -> usize {
        self.functions.values().map(|(_, count)| count).sum()
    }

    /// The multiplications among the findings.
    pub fn multiplies(&self) -> impl Iterator<Item = &Finding> {
        self.findings
            .iter()
            .filter(|f| matches!(f.fault, Fault::Multiply(_)))
    }
}

/// Scans the functions at `roots` and, recursively, whatever they call or jump
/// to. The whole extent of a function counts, reachable or not.
pub fn scan(image: &Image, roots: impl IntoIterator<Item = u64>) -> Scan {
    let mut scan = Scan::default();
    let mut pending: Vec<u64> = roots.into_iter().collect();
    while let Some(start) = pending.pop() {
        if scan.functions.contains_key(&start) {
            continue;
        }
        let function = &image.functions[&start];
        let extent = start..start + function.size;
        let body = decode(image, start, &function.bytes);
        scan.functions
            .insert(start, (function.name().to_owned(), body.len()));
        for instruction in body {
            let name = instruction.name.clone().unwrap_or_default();
            let mut report = |fault| {
                scan.findings.push(Finding {
                    function: function.name().to_owned(),
                    address: instruction.address,
                    name: name.clone(),
                    fault,
                });
            };
            if instruction.name.is_none() {
                report(Fault::Undecodable);
            }
            if let Some(kind) = instruction.multiply {
                report(Fault::Multiply(kind));
            }
            let callee = match instruction.flow {
                Flow::Next => continue,
                Flow::Direct(target) if extent.contains(&target) => continue,
                Flow::Direct(target) => resolve(image, target),
                Flow::Slot(slot) => image.slot(slot),
                Flow::Indirect => {
                    report(Fault::Indirect);
                    continue;
                }
            };
            match callee {
                Callee::Function(start) => {
                    let names = &image.functions[&start].names;
                    match names.iter().find(|name| harmless(name)) {
                        Some(name) => drop(scan.harmless.insert(name.clone())),
                        None => pending.push(start),
                    }
                }
                Callee::Import(name) if harmless(&name) => drop(scan.harmless.insert(name)),
                Callee::Import(name) => report(Fault::Unknown(name)),
            }
        }
    }
    scan
}

/// What is at a call's target: a function, or a linker's stub for one.
fn resolve(image: &Image, target: u64) -> Callee {
    if let Some(start) = image.function_at(target) {
        return Callee::Function(start);
    }
    // A stub of the procedure linkage table: a few instructions without a
    // symbol that jump to what a slot holds.
    let bytes = image.code_at(target, 24);
    let slot = match image.architecture {
        Architecture::X86_64 => x86::stub_slot(target, bytes),
        Architecture::Aarch64 => a64::stub_slot(target, bytes),
    };
    match slot {
        Some(slot) => image.slot(slot),
        None => Callee::Import(format!("unnamed code at {target:#x}")),
    }
}

/// Decodes a whole function.
pub fn decode(image: &Image, start: u64, bytes: &[u8]) -> Vec<Instruction> {
    match image.architecture {
        Architecture::X86_64 => x86::decode(start, bytes),
        Architecture::Aarch64 => a64::decode(start, bytes),
    }
}
