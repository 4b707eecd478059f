//! An ELF file as the scanner sees it.

use object::{Object, ObjectSection, ObjectSymbol, SectionKind, SymbolKind};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// The instruction set of the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Architecture {
    /// x86-64.
    X86_64,
    /// AArch64.
    Aarch64,
}

/// A function of the file.
#[derive(Default)]
pub struct Function {
    /// Bytes of code.
    pub size: u64,
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

/// What a call reaches.
pub enum Callee {
    /// The function of the file that starts here.
    Function(u64),
    /// What a library or the loader provides, or what has no name at all.
    Import(String),
}

/// The file.
pub struct Image {
    /// Its instruction set.
    pub architecture: Architecture,
    /// Functions by their start.
    pub functions: BTreeMap<u64, Function>,
    /// Sections with code, by their start.
    code: BTreeMap<u64, Vec<u8>>,
    /// Pointers that the loader fills in, by their own address.
    slots: BTreeMap<u64, Slot>,
    /// Sections of data that no code writes to; pointers elsewhere may change.
    constant: BTreeMap<u64, Vec<u8>>,
}

enum Slot {
    Address(u64),
    Name(String),
}

/// Starts of the names of sections that only the linker and loader write to.
const CONSTANT: &[&str] = &[".got", ".data.rel.ro", ".rodata"];

/// The section that holds `address`, and the offset in it.
fn find(sections: &BTreeMap<u64, Vec<u8>>, address: u64) -> Option<&[u8]> {
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
        let architecture = match object.architecture() {
            object::Architecture::X86_64 => Architecture::X86_64,
            object::Architecture::Aarch64 => Architecture::Aarch64,
            other => panic!("no decoder for {other:?}"),
        };
        let mut image = Image {
            architecture,
            functions: BTreeMap::new(),
            code: BTreeMap::new(),
            slots: BTreeMap::new(),
            constant: BTreeMap::new(),
        };
        for section in object.sections().filter(|s| s.address() != 0) {
            let bytes = section.data().unwrap_or_default().to_vec();
            let name = section.name().unwrap_or_default();
            if section.kind() == SectionKind::Text {
                image.code.insert(section.address(), bytes);
            } else if CONSTANT.iter().any(|start| name.starts_with(start)) {
                image.constant.insert(section.address(), bytes);
            }
        }
        image.read_functions(&object);
        image.read_slots(&object);
        image
    }

    fn read_functions(&mut self, object: &object::File<'_>) {
        let mut symbols = 0;
        for symbol in object.symbols() {
            symbols += 1;
            if symbol.kind() != SymbolKind::Text || symbol.size() == 0 || symbol.is_undefined() {
                continue;
            }
            let name = symbol.name().expect("symbol names are UTF-8");
            let function = self.functions.entry(symbol.address()).or_default();
            function.size = function.size.max(symbol.size());
            function
                .names
                .push(format!("{:#}", rustc_demangle::demangle(name)));
        }
        assert!(
            symbols > 0 && !self.functions.is_empty(),
            "the test binary has no symbol table (is it stripped?)"
        );
        for (&start, function) in &mut self.functions {
            let len = usize::try_from(function.size).expect("functions fit the address space");
            function.bytes = find(&self.code, start)
                .and_then(|bytes| bytes.get(..len))
                .unwrap_or_else(|| panic!("{} is not in any code section", function.name()))
                .to_vec();
        }
    }

    /// Reads the loader's relocations: entries of 24 bytes with the place, the
    /// symbol and type, and the addend.
    fn read_slots(&mut self, object: &object::File<'_>) {
        let names: HashMap<u64, String> = object
            .dynamic_symbols()
            .map(|symbol| {
                let name = symbol.name().unwrap_or_default();
                // With a version, `memcpy@GLIBC_2.14`, or without.
                let name = name.split('@').next().unwrap_or_default();
                (symbol.index().0 as u64, name.to_owned())
            })
            .collect();
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
                    0 => Slot::Address(addend),
                    symbol => Slot::Name(names.get(&symbol).cloned().unwrap_or_default()),
                };
                self.slots.insert(place, target);
            }
        }
    }

    /// The function that covers `address`.
    pub fn function_at(&self, address: u64) -> Option<u64> {
        let (&start, function) = self.functions.range(..=address).next_back()?;
        (address - start < function.size).then_some(start)
    }

    /// Up to `len` bytes of code from `address` on.
    pub fn code_at(&self, address: u64, len: usize) -> &[u8] {
        let bytes = find(&self.code, address).unwrap_or_default();
        &bytes[..len.min(bytes.len())]
    }

    /// What the pointer at `slot` points at once the file is loaded.
    pub fn slot(&self, slot: u64) -> Callee {
        let Some(bytes) = find(&self.constant, slot) else {
            return Callee::Import(format!("the variable at {slot:#x}"));
        };
        let address = match self.slots.get(&slot) {
            Some(Slot::Name(name)) => return Callee::Import(name.clone()),
            Some(Slot::Address(address)) => Some(*address),
            // Linked at a fixed address: the pointer is in the file.
            None => bytes.first_chunk().map(|&bytes| u64::from_le_bytes(bytes)),
        };
        match address.and_then(|address| self.function_at(address)) {
            Some(start) => Callee::Function(start),
            None => Callee::Import(format!("what {slot:#x} points at")),
        }
    }

    /// Functions one of whose names satisfies `wanted`.
    pub fn named(&self, wanted: impl Fn(&str) -> bool) -> impl Iterator<Item = u64> {
        self.functions
            .iter()
            .filter(move |(_, f)| f.names.iter().any(|name| wanted(name)))
            .map(|(&start, _)| start)
    }
}
