//! Instruction sets: which exist, which this CPU has, which one runs.
//!
//! An [`Isa`] names an instruction set; a [`Backend`] is the proof that one of
//! its kernel sets can run here. Detection happens once, on first use; nothing
//! runs at load time. The environment variable `TRITGEMM_ISA` or [`pin`]
//! chooses an ISA for the whole process; every operation also takes a backend
//! of its own choice.

use crate::kernels::contract::{FewKernel, ManyKernel};
use crate::kernels::registry::{KernelSet, TABLE};
use core::fmt;
use core::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The environment variable that pins the instruction set.
pub const ISA_VARIABLE: &str = "TRITGEMM_ISA";

/// An instruction set that kernels are written for.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Isa {
    /// The portable reference; runs everywhere.
    Scalar,
    /// x86-64 with AVX2 and what else the table of kernels names for it.
    Avx2,
    /// x86-64 with AVX-512 F, BW, CD, DQ and VL; VBMI is used where present.
    Avx512,
    /// AArch64 with NEON, which every AArch64 CPU has.
    Neon,
}

impl Isa {
    /// Every instruction set, whether or not this build has kernels for it.
    pub const ALL: &'static [Isa] = &[Isa::Scalar, Isa::Avx2, Isa::Avx512, Isa::Neon];

    /// The name used by `TRITGEMM_ISA`: `scalar`, `avx2`, `avx512` or `neon`.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Neon => "neon",
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Isa {
    type Err = IsaError;

    fn from_str(name: &str) -> Result<Self, IsaError> {
        Isa::ALL
            .iter()
            .copied()
            .find(|isa| isa.name() == name)
            .ok_or_else(|| IsaError::Unknown {
                name: name.to_owned(),
            })
    }
}

/// Why an instruction set cannot be used.
#[non_exhaustive]
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum IsaError {
    /// The name is none of the instruction sets.
    Unknown {
        /// The name that was given.
        name: String,
    },
    /// This build has no kernels for it (another architecture's).
    NotBuilt {
        /// The instruction set.
        isa: Isa,
    },
    /// The CPU lacks features that it needs.
    MissingFeatures {
        /// The instruction set.
        isa: Isa,
        /// The features that are missing.
        missing: Vec<&'static str>,
    },
}

impl fmt::Display for IsaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { name } => write!(
                f,
                "unknown instruction set `{name}`, expected scalar, avx2, avx512 or neon"
            ),
            Self::NotBuilt { isa } => write!(
                f,
                "{isa} kernels are not part of this build for {}",
                std::env::consts::ARCH
            ),
            Self::MissingFeatures { isa, missing } => write!(
                f,
                "{isa} needs the CPU feature {}, which this CPU does not have",
                missing.join(", ")
            ),
        }
    }
}

impl std::error::Error for IsaError {}

/// A kernel set that can run on this CPU. Holding one is the proof.
#[derive(Clone, Copy)]
pub struct Backend {
    set: &'static KernelSet,
}

/// One kernel of a [`Backend`].
#[non_exhaustive]
#[derive(Clone, Copy, Debug)]
pub struct KernelInfo {
    /// What it is for: `codec`, `i8-row` (few tokens), `i8-streamed` (one token,
    /// weights out of memory), `i8-column` (many tokens), `i8-narrow` (what whole
    /// tiles of `i8-column` leave over), and `f32-row`, `f32-column`, `f32-narrow`.
    pub operation: &'static str,
    /// Its name, `{level}-{operation}`. A level may use another's kernel, and that
    /// for `i8-row` or `i8-column` where it has none of its own for the special
    /// case.
    pub name: &'static str,
    /// Paths of its functions as their symbols spell them.
    pub symbols: &'static [&'static str],
}

/// Bit i is set when row i of the table can run here.
fn available_rows() -> usize {
    static ROWS: OnceLock<usize> = OnceLock::new();
    *ROWS.get_or_init(|| {
        let mut rows = 0;
        for (i, set) in TABLE.iter().enumerate() {
            if set.features.iter().all(|f| (f.detect)()) {
                rows |= 1 << i;
            }
        }
        rows
    })
}

/// Index in the table of the pinned backend plus one; 0 is not pinned.
static PINNED: AtomicUsize = AtomicUsize::new(0);

impl Backend {
    /// Every backend that can run here, best first; the scalar one is last, those made
    /// for other CPUs before it.
    pub fn available() -> impl Iterator<Item = Backend> {
        let rows = available_rows();
        let vector = move |suits: bool| {
            TABLE
                .iter()
                .enumerate()
                .filter(move |(i, set)| {
                    rows & (1 << i) != 0 && set.isa != Isa::Scalar && set.suits() == suits
                })
                .map(|(_, &set)| Backend { set })
        };
        vector(true)
            .chain(vector(false))
            .chain(core::iter::once(Backend::scalar()))
    }

    /// The backend that operations use when none is given: the pinned one, else
    /// that of `TRITGEMM_ISA` (read once), else the best available.
    ///
    /// # Errors
    /// If `TRITGEMM_ISA` names an unknown or unavailable instruction set.
    pub fn active() -> Result<Backend, IsaError> {
        static DEFAULT: OnceLock<Result<Backend, IsaError>> = OnceLock::new();
        if let Some(row) = PINNED.load(Ordering::Acquire).checked_sub(1) {
            return Ok(Backend { set: TABLE[row] });
        }
        DEFAULT
            .get_or_init(|| {
                let backend = match std::env::var_os(ISA_VARIABLE) {
                    Some(name) if !name.is_empty() => {
                        Backend::for_isa(name.to_string_lossy().parse()?)?
                    }
                    _ => Backend::best(),
                };
                #[cfg(feature = "log")]
                log::debug!("tritgemm: using the {} kernels", backend.name());
                Ok(backend)
            })
            .clone()
    }

    /// The best backend of this CPU, whatever is pinned.
    pub fn best() -> Backend {
        Backend::available().next().unwrap_or_else(Backend::scalar)
    }

    /// The scalar reference.
    pub fn scalar() -> Backend {
        Backend {
            set: &crate::kernels::scalar::SCALAR,
        }
    }

    /// The best backend of one instruction set.
    ///
    /// # Errors
    /// If this build has none or the CPU lacks a feature it needs.
    pub fn for_isa(isa: Isa) -> Result<Backend, IsaError> {
        if let Some(backend) = Backend::available().find(|b| b.isa() == isa) {
            return Ok(backend);
        }
        // The last row of an ISA is the one that needs the least.
        let Some(set) = TABLE.iter().rev().find(|set| set.isa == isa) else {
            return Err(IsaError::NotBuilt { isa });
        };
        let missing = set
            .features
            .iter()
            .filter(|f| !(f.detect)())
            .map(|f| f.name)
            .collect();
        Err(IsaError::MissingFeatures { isa, missing })
    }

    /// The level's name: `scalar`, `avx2`, `avx512`, `avx512-vbmi`,
    /// `avx512-zen5` (for AMD since Zen 5: other kernels for many tokens) or `neon`.
    pub fn name(self) -> &'static str {
        self.set.name
    }

    /// The instruction set it belongs to.
    pub fn isa(self) -> Isa {
        self.set.isa
    }

    /// The CPU features it needs, by the compiler's names.
    pub fn features(self) -> impl Iterator<Item = &'static str> {
        self.set.features.iter().map(|f| f.name)
    }

    /// Its kernels.
    pub fn kernels(self) -> [KernelInfo; 8] {
        let set = self.set;
        let info = |operation, name, symbols| KernelInfo {
            operation,
            name,
            symbols,
        };
        [
            info("codec", set.codec.name, set.codec.symbols),
            info("i8-row", set.few_i8.name, set.few_i8.symbols),
            info("i8-streamed", set.streamed_i8.name, set.streamed_i8.symbols),
            info("i8-column", set.many_i8.name, set.many_i8.symbols),
            info("i8-narrow", set.narrow_i8.name, set.narrow_i8.symbols),
            info("f32-row", set.few_f32.name, set.few_f32.symbols),
            info("f32-column", set.many_f32.name, set.many_f32.symbols),
            info("f32-narrow", set.narrow_f32.name, set.narrow_f32.symbols),
        ]
    }

    /// The kernels themselves.
    pub(crate) fn set(self) -> &'static KernelSet {
        self.set
    }
}

impl PartialEq for Backend {
    fn eq(&self, other: &Self) -> bool {
        core::ptr::eq(self.set, other.set)
    }
}

impl Eq for Backend {}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Backend").field(&self.name()).finish()
    }
}

/// Pins the instruction set of the whole process, or with `None` returns to
/// `TRITGEMM_ISA` and detection. Results never depend on it, only speed does.
///
/// # Errors
/// If this build has none or the CPU lacks a feature it needs; nothing changes
/// then.
///
/// ```
/// use tritgemm::{Backend, Isa, pin};
/// pin(Some(Isa::Scalar))?;
/// assert_eq!(Backend::active()?.isa(), Isa::Scalar);
/// pin(None)?;
/// # Ok::<(), tritgemm::IsaError>(())
/// ```
pub fn pin(isa: Option<Isa>) -> Result<(), IsaError> {
    let row = match isa {
        None => 0,
        Some(isa) => {
            let backend = Backend::for_isa(isa)?;
            let row = TABLE
                .iter()
                .position(|&set| core::ptr::eq(set, backend.set));
            row.map_or(0, |row| row + 1)
        }
    };
    PINNED.store(row, Ordering::Release);
    Ok(())
}

/// The CPU features that the kernel table knows of, and whether this CPU has
/// each.
pub fn cpu_features() -> Vec<(&'static str, bool)> {
    let mut features: Vec<(&'static str, bool)> = Vec::new();
    for feature in TABLE.iter().flat_map(|set| set.features) {
        if !features.iter().any(|(name, _)| *name == feature.name) {
            features.push((feature.name, (feature.detect)()));
        }
    }
    features
}

/// A row of the kernel table, whether or not this CPU can run it: for tests
/// that read the code of every kernel in the build.
#[doc(hidden)]
#[non_exhaustive]
pub struct TableRow {
    /// As [`Backend::name`].
    pub name: &'static str,
    /// As [`Backend::isa`].
    pub isa: Isa,
    /// As [`Backend::features`].
    pub features: Vec<&'static str>,
    /// Whether this CPU has them.
    pub runs_here: bool,
    /// As [`Backend::kernels`].
    pub kernels: [KernelInfo; 8],
    /// Every function pointer that dispatch can call, with the kernel's name.
    pub entries: Vec<(&'static str, *const ())>,
}

/// Every row of the kernel table.
#[doc(hidden)]
pub fn kernel_table() -> Vec<TableRow> {
    fn row<X, Acc>(kernel: &FewKernel<X, Acc>) -> impl Iterator<Item = (&'static str, *const ())> {
        let tiles = kernel.tiles.iter().map(|tile| tile.run as *const ());
        let name = kernel.name;
        std::iter::once(kernel.build as *const ())
            .chain(tiles)
            .map(move |entry| (name, entry))
    }
    fn column<X, Acc>(kernel: &ManyKernel<X, Acc>) -> [(&'static str, *const ()); 3] {
        [
            (kernel.name, kernel.build as *const ()),
            (kernel.name, kernel.run as *const ()),
            (kernel.name, kernel.finish as *const ()),
        ]
    }
    let describe = |&set: &&'static KernelSet| {
        let codec = set.codec;
        let mut entries = vec![
            (codec.name, codec.encode as *const ()),
            (codec.name, codec.decode_i8 as *const ()),
            (codec.name, codec.decode_f32 as *const ()),
            (codec.name, codec.pack_panel as *const ()),
        ];
        entries.extend(row(set.few_i8));
        entries.extend(row(set.streamed_i8));
        entries.extend(row(set.few_f32));
        entries.extend(column(set.many_i8));
        entries.extend(column(set.many_f32));
        entries.extend(column(set.narrow_i8));
        entries.extend(column(set.narrow_f32));
        TableRow {
            name: set.name,
            isa: set.isa,
            features: Backend { set }.features().collect(),
            runs_here: set.features.iter().all(|f| (f.detect)()),
            kernels: Backend { set }.kernels(),
            entries,
        }
    };
    TABLE.iter().map(describe).collect()
}

/// The epilogues, the functions that do multiply, with their names.
#[doc(hidden)]
pub fn epilogues() -> [(&'static str, *const ()); 4] {
    use crate::kernels::auto::scale;
    [
        ("scale_i32", scale::scale_i32 as *const ()),
        ("scale_f32", scale::scale_f32 as *const ()),
        ("fold_group_i32", scale::fold_group_i32 as *const ()),
        ("fold_group_f32", scale::fold_group_f32 as *const ()),
    ]
}
