//! An ELF file as the scanner sees it.

use super::{Instruction, a64, x86};
use object::{Architecture, Object, ObjectSection, ObjectSymbol, SectionKind, SymbolKind};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// A function of the file.
#[derive(Default)]
pub struct Function {
    /// Its demangled paths, more than one where the compiler merged functions.
    pub names: Vec<String>,
    /// The code.
    pub bytes: Vec<u8>,
}

impl Function {
    /// The first of its names.
    pub fn name(&self) -> &str {
        &self.names[0]
    }
}

/// What a call reaches: the function of the file that starts there, or the name of
/// what a library or the loader provides, or words for what has no name.
pub type Callee = Result<u64, String>;

/// Sections by their start.
type Sections = BTreeMap<u64, Vec<u8>>;

/// The file.
pub struct Image {
    /// Functions by their start.
    pub functions: BTreeMap<u64, Function>,
    x86: bool,
    code: Sections,
    /// Pointers that the loader fills in, by their own address.
    slots: BTreeMap<u64, Result<u64, String>>,
    /// Sections of data that no code writes to; pointers elsewhere may change.
    constant: Sections,
}

/// Starts of the names of sections that only the linker and loader write to.
const CONSTANT: &[&str] = &[".got", ".data.rel.ro", ".rodata"];

/// What follows `address` in its section.
fn find(sections: &Sections, address: u64) -> Option<&[u8]> {
    let (start, bytes) = sections.range(..=address).next_back()?;
    bytes.get(usize::try_from(address - start).ok()?..)
}

impl Image {
    /// Reads the file at `path`.
    ///
    /// # Panics
    /// If it is no ELF file for x86-64 or AArch64, or has no symbol table:
    /// without one nothing could be found, and nothing found must not pass.
    pub fn read(path: &Path) -> Image {
        let file = std::fs::read(path).expect("the test binary is readable");
        let object = object::File::parse(&*file).expect("the test binary is an ELF file");
        let x86 = match object.architecture() {
            Architecture::X86_64 => true,
            Architecture::Aarch64 => false,
            other => panic!("no decoder for {other:?}"),
        };
        let (mut code, mut constant) = (Sections::new(), Sections::new());
        for section in object.sections().filter(|s| s.address() != 0) {
            let bytes = section.data().unwrap_or_default().to_vec();
            let name = section.name().unwrap_or_default();
            if section.kind() == SectionKind::Text {
                code.insert(section.address(), bytes);
            } else if CONSTANT.iter().any(|start| name.starts_with(start)) {
                constant.insert(section.address(), bytes);
            }
        }
        Image {
            functions: functions(&object, &code),
            x86,
            code,
            slots: slots(&object),
            constant,
        }
    }

    /// The function that covers `address`.
    pub fn function_at(&self, address: u64) -> Option<u64> {
        let (&start, function) = self.functions.range(..=address).next_back()?;
        (address - start < function.bytes.len() as u64).then_some(start)
    }

    /// Decodes all of `bytes`, which start at `address`.
    pub fn decode(&self, address: u64, bytes: &[u8]) -> Vec<Instruction> {
        if self.x86 {
            x86::decode(address, bytes)
        } else {
            a64::decode(address, bytes)
        }
    }

    /// What is at a call's target: a function, or a linker's stub for one, which
    /// has no symbol and jumps to what a slot holds.
    pub fn target(&self, target: u64) -> Callee {
        if let Some(start) = self.function_at(target) {
            return Ok(start);
        }
        let bytes = find(&self.code, target).unwrap_or_default();
        let bytes = &bytes[..bytes.len().min(24)];
        let slot = if self.x86 {
            x86::stub_slot(target, bytes)
        } else {
            a64::stub_slot(target, bytes)
        };
        match slot {
            Some(slot) => self.slot(slot),
            None => Err(format!("unnamed code at {target:#x}")),
        }
    }

    /// What the pointer at `slot` points at once the file is loaded.
    pub fn slot(&self, slot: u64) -> Callee {
        let Some(bytes) = find(&self.constant, slot) else {
            return Err(format!("the variable at {slot:#x}"));
        };
        let address = match self.slots.get(&slot) {
            Some(target) => Some(target.clone()?),
            // Linked at a fixed address: the pointer is in the file.
            None => bytes.first_chunk().map(|&bytes| u64::from_le_bytes(bytes)),
        };
        let function = address.and_then(|address| self.function_at(address));
        function.ok_or_else(|| format!("what {slot:#x} points at"))
    }

    /// Functions one of whose names satisfies `wanted`.
    pub fn named(&self, wanted: impl Fn(&str) -> bool) -> impl Iterator<Item = u64> {
        let named = move |f: &Function| f.names.iter().any(|name| wanted(name));
        let functions = self.functions.iter();
        functions
            .filter(move |(_, f)| named(f))
            .map(|(&start, _)| start)
    }
}

fn functions(object: &object::File<'_>, code: &Sections) -> BTreeMap<u64, Function> {
    let mut functions = BTreeMap::<u64, Function>::new();
    for symbol in object.symbols() {
        if symbol.kind() != SymbolKind::Text || symbol.size() == 0 || symbol.is_undefined() {
            continue;
        }
        let name = symbol.name().expect("symbol names are UTF-8");
        let name = format!("{:#}", rustc_demangle::demangle(name));
        let len = usize::try_from(symbol.size()).expect("functions fit the address space");
        let bytes = find(code, symbol.address()).and_then(|bytes| bytes.get(..len));
        let bytes = bytes.unwrap_or_else(|| panic!("{name} is not in any code section"));
        let function = functions.entry(symbol.address()).or_default();
        function.names.push(name);
        if function.bytes.len() < len {
            function.bytes = bytes.to_vec();
        }
    }
    assert!(
        !functions.is_empty(),
        "the test binary has no symbol table (is it stripped?)"
    );
    functions
}

/// Reads the loader's relocations: entries of 24 bytes with the place, the symbol
/// and type, and the addend.
fn slots(object: &object::File<'_>) -> BTreeMap<u64, Result<u64, String>> {
    let symbols = object.dynamic_symbols().map(|symbol| {
        // With a version, `memcpy@GLIBC_2.14`, or without.
        let name = symbol.name().unwrap_or_default();
        let name = name.split('@').next().unwrap_or_default();
        (symbol.index().0 as u64, name.to_owned())
    });
    let names: HashMap<u64, String> = symbols.collect();
    let mut slots = BTreeMap::new();
    for section in object.sections().filter(|s| s.address() != 0) {
        if !section.name().unwrap_or_default().starts_with(".rela") {
            continue;
        }
        let (words, _) = section.data().unwrap_or_default().as_chunks::<8>();
        for entry in words.chunks_exact(3) {
            let [place, info, addend] = [0, 1, 2].map(|i| u64::from_le_bytes(entry[i]));
            let target = match info >> 32 {
                // Relative to the file's base, or a resolver (`memcpy` in a
                // static binary), whose symbol has the function's own name.
                0 => Ok(addend),
                symbol => Err(names.get(&symbol).cloned().unwrap_or_default()),
            };
            slots.insert(place, target);
        }
    }
    slots
}
