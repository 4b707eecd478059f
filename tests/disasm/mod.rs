//! Reads the machine code of the running test binary and says which functions
//! multiply.
//!
//! [`image`] reads the ELF file, [`x86`] and [`a64`] decode and judge instructions,
//! and [`scan`] takes a function and everything it calls. Both decoders are built
//! on every host, so their unit tests always run.

pub mod a64;
pub mod image;
pub mod x86;

use image::Image;
use std::collections::BTreeMap;

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

/// What an instruction multiplies or divides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Multiply {
    /// Integers of at most 32 bits in general registers, which only the data of a
    /// scalar kernel may be. Those of 64 bits are addresses.
    Scalar,
    /// Anything in vector, floating-point or matrix registers.
    Data,
}

/// One decoded instruction.
pub struct Instruction {
    /// Its address in the file.
    pub address: u64,
    /// Its mnemonic in lower case; `None` if the bytes are no instruction.
    pub name: Option<String>,
    pub multiply: Option<Multiply>,
    pub flow: Flow,
}

/// What a kernel may call besides moving and clearing bytes: what ends the process
/// with a message. Nothing here returns a number that enters a sum. The bounds
/// checks of slices have been moved between modules of `core` from one release to
/// the next.
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
    ["memcpy", "memmove", "memset"].contains(&name)
        || PANICS.iter().any(|start| name.starts_with(start))
}

/// What is wrong with an instruction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fault {
    /// It multiplies.
    Multiply(Multiply),
    /// It cannot be decoded, so it could be anything.
    Undecodable,
    /// It goes where the scanner cannot follow.
    Indirect,
    /// It goes to code that has no symbol, or to a library's function.
    Unknown(String),
}

/// One thing that an accumulation must not contain.
#[derive(Debug)]
pub struct Finding {
    /// Its address in the file and the function it stands in.
    pub place: String,
    /// The mnemonic.
    pub name: String,
    pub fault: Fault,
}

/// What a scan saw.
#[derive(Default)]
pub struct Scan {
    /// Start and name of every function scanned, with its instruction count.
    pub functions: BTreeMap<u64, (String, usize)>,
    /// What must not be there. Scalar multiplications are listed too.
    pub findings: Vec<Finding>,
}

impl Scan {
    /// Instructions scanned, over all functions.
    pub fn instructions(&self) -> usize {
        self.functions.values().map(|(_, count)| count).sum()
    }

    /// Whether a multiplication of data was found.
    pub fn multiplies_data(&self) -> bool {
        let data = Fault::Multiply(Multiply::Data);
        self.findings.iter().any(|finding| finding.fault == data)
    }

    /// Takes the multiplications in general registers off the list.
    pub fn allow_scalar(&mut self) {
        let scalar = Fault::Multiply(Multiply::Scalar);
        self.findings.retain(|finding| finding.fault != scalar);
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
        let extent = start..start + function.bytes.len() as u64;
        let body = image.decode(start, &function.bytes);
        let summary = (function.name().to_owned(), body.len());
        scan.functions.insert(start, summary);
        for instruction in body {
            let mut report = |fault| {
                scan.findings.push(Finding {
                    place: format!("{:#x} in {}", instruction.address, function.name()),
                    name: instruction.name.clone().unwrap_or_default(),
                    fault,
                });
            };
            if instruction.name.is_none() {
                report(Fault::Undecodable);
            }
            if let Some(multiply) = instruction.multiply {
                report(Fault::Multiply(multiply));
            }
            let callee = match instruction.flow {
                Flow::Next => continue,
                Flow::Direct(target) if extent.contains(&target) => continue,
                Flow::Direct(target) => image.target(target),
                Flow::Slot(slot) => image.slot(slot),
                Flow::Indirect => {
                    report(Fault::Indirect);
                    continue;
                }
            };
            match callee {
                Ok(start) => {
                    let names = &image.functions[&start].names;
                    if !names.iter().any(|name| harmless(name)) {
                        pending.push(start);
                    }
                }
                Err(name) if harmless(&name) => {}
                Err(name) => report(Fault::Unknown(name)),
            }
        }
    }
    scan
}
