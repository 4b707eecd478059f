//! Instruction sets: which exist, which this CPU has, which one runs.
//!
//! An [`Isa`] names a level, what a CPU must have; a [`Backend`] is the proof that one of
//! its kernel sets can run here. Detection happens once, on first use; nothing runs at
//! load time. The environment variable `TRITGEMM_ISA` or [`pin`] chooses a backend for the
//! whole process; every operation also takes a backend of its own choice.

use crate::kernels::contract::{KernelSet, Runnable};
use crate::kernels::registry::REGISTRY;
use crate::kernels::scalar::SCALAR;
use core::fmt;
use core::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The environment variable that pins the backend.
const ISA_VARIABLE: &str = "TRITGEMM_ISA";

/// A level of instruction sets that kernels are written for.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Isa {
    /// The portable reference; runs everywhere.
    Scalar,
    /// x86-64 with AVX2 and what else the registry of kernels names for it.
    Avx2,
    /// x86-64 with AVX-512 F, BW, CD, DQ and VL.
    Avx512,
    /// x86-64 with AVX-512 as above and VBMI.
    Avx512Vbmi,
    /// AArch64 with NEON, which every AArch64 CPU has.
    Neon,
}

impl Isa {
    /// Every level, whether or not this build has kernels for it.
    pub const ALL: &'static [Isa] = &[
        Isa::Scalar,
        Isa::Avx2,
        Isa::Avx512,
        Isa::Avx512Vbmi,
        Isa::Neon,
    ];

    /// The level's name: `scalar`, `avx2`, `avx512`, `avx512-vbmi` or `neon`.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Avx512Vbmi => "avx512-vbmi",
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
        let known = Isa::ALL.iter().copied().find(|isa| isa.name() == name);
        known.ok_or_else(|| IsaError::unknown(name))
    }
}

/// Why a backend cannot be used.
#[non_exhaustive]
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum IsaError {
    /// The name is neither a level nor a backend.
    Unknown {
        /// The name that was given.
        name: String,
    },
    /// This build has no kernels for it (another architecture's).
    NotBuilt {
        /// The level.
        isa: Isa,
    },
    /// The CPU lacks features that it needs.
    MissingFeatures {
        /// The level.
        isa: Isa,
        /// The features that are missing.
        missing: Vec<&'static str>,
    },
}

impl IsaError {
    fn unknown(name: &str) -> Self {
        Self::Unknown {
            name: name.to_owned(),
        }
    }
}

impl fmt::Display for IsaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { name } => {
                write!(f, "unknown instruction set `{name}`, expected")?;
                for isa in Isa::ALL {
                    write!(f, " {isa},")?;
                }
                let tuned = REGISTRY.iter().filter(|set| set.tuning.is_some());
                let names: Vec<&str> = tuned.map(|set| set.name).collect();
                match names.is_empty() {
                    true => f.write_str(" or one with its tuning"),
                    false => write!(f, " or one with its tuning: {}", names.join(", ")),
                }
            }
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

/// A kernel set that can run on this CPU, a row of the registry. Holding one is the proof.
#[derive(Clone, Copy)]
pub struct Backend(Runnable);

/// The rows of the registry that can run here: first those that suit this CPU, in the
/// registry's order, then those tuned for others, then the scalar one.
fn available() -> &'static [Backend] {
    static AVAILABLE: OnceLock<Vec<Backend>> = OnceLock::new();
    AVAILABLE.get_or_init(|| {
        let rows = REGISTRY.iter().filter_map(|&set| Runnable::new(set));
        let mut rows: Vec<Backend> = rows.map(Backend).collect();
        rows.sort_by_key(|b| (b.isa() == Isa::Scalar, !b.set().suits()));
        rows
    })
}

/// One more than the place of the pinned backend in [`available`]; 0 is not pinned.
static PINNED: AtomicUsize = AtomicUsize::new(0);

impl Backend {
    /// Every backend that can run here, best first: those tuned for other CPUs come after
    /// those that suit this one, and the scalar one is last.
    pub fn available() -> impl Iterator<Item = Backend> {
        available().iter().copied()
    }

    /// The backend that operations use when none is given: the pinned one, else
    /// that of `TRITGEMM_ISA` (read once), else the best available.
    ///
    /// # Errors
    /// If `TRITGEMM_ISA` names an unknown or unavailable backend.
    pub fn active() -> Result<Backend, IsaError> {
        static DEFAULT: OnceLock<Result<Backend, IsaError>> = OnceLock::new();
        if let Some(row) = PINNED.load(Ordering::Acquire).checked_sub(1) {
            return Ok(available()[row]);
        }
        DEFAULT
            .get_or_init(|| {
                let backend = match std::env::var_os(ISA_VARIABLE) {
                    Some(name) if !name.is_empty() => Backend::by_name(&name.to_string_lossy())?,
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
        available()[0]
    }

    /// The scalar reference.
    pub fn scalar() -> Backend {
        Backend(Runnable::new(&SCALAR).expect("it needs no feature"))
    }

    /// The best backend of one level.
    ///
    /// # Errors
    /// If this build has none or the CPU lacks a feature it needs.
    pub fn for_isa(isa: Isa) -> Result<Backend, IsaError> {
        if let Some(backend) = Backend::available().find(|b| b.isa() == isa) {
            return Ok(backend);
        }
        let Some(set) = REGISTRY.iter().find(|set| set.level() == isa.name()) else {
            return Err(IsaError::NotBuilt { isa });
        };
        let missing = set.features.iter().filter(|f| !(f.detect)());
        let missing = missing.map(|f| f.name).collect();
        Err(IsaError::MissingFeatures { isa, missing })
    }

    /// The backend of a name: that of a `level/tuning`, as [`Backend::name`] gives it, or
    /// the best of a level.
    ///
    /// # Errors
    /// If there is none of the name, this build has none of the level, or the CPU lacks a
    /// feature it needs.
    ///
    /// ```
    /// use tritgemm::Backend;
    /// for backend in Backend::available() {
    ///     assert_eq!(Backend::by_name(backend.name())?, backend);
    /// }
    /// assert_eq!(Backend::by_name("scalar")?, Backend::scalar());
    /// # Ok::<(), tritgemm::IsaError>(())
    /// ```
    pub fn by_name(name: &str) -> Result<Backend, IsaError> {
        if let Some(backend) = Backend::available().find(|b| b.name() == name) {
            return Ok(backend);
        }
        let Some((level, _)) = name.split_once('/') else {
            return Backend::for_isa(name.parse()?);
        };
        // A row of a level that this CPU lacks, or of none.
        let known = REGISTRY.iter().any(|set| set.name == name);
        let isa = level.parse().map_err(|_| IsaError::unknown(name))?;
        match Backend::for_isa(isa) {
            Err(e @ IsaError::MissingFeatures { .. }) if known => Err(e),
            Err(e @ IsaError::NotBuilt { .. }) => Err(e),
            _ => Err(IsaError::unknown(name)),
        }
    }

    /// Its name, `level/tuning`: `avx512-vbmi/zen5`, `avx2/intel`; or the level alone
    /// where it has no tunings, `neon` and `scalar`.
    pub fn name(self) -> &'static str {
        self.set().name
    }

    /// The level, what a CPU must have.
    pub fn isa(self) -> Isa {
        self.set().level().parse().expect("levels are named so")
    }

    /// The tuning: which CPU the choice of kernels was measured on.
    pub fn tuning(self) -> Option<&'static str> {
        self.name().split_once('/').map(|(_, tuning)| tuning)
    }

    /// The CPU features it needs, by the compiler's names.
    pub fn features(self) -> impl Iterator<Item = &'static str> {
        self.set().features.iter().map(|f| f.name)
    }

    /// The kernels, with the proof that this CPU can run them.
    pub(crate) fn runnable(self) -> Runnable {
        self.0
    }

    fn set(self) -> &'static KernelSet {
        self.0.set()
    }
}

impl PartialEq for Backend {
    fn eq(&self, other: &Self) -> bool {
        core::ptr::eq(self.set(), other.set())
    }
}

impl Eq for Backend {}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Backend").field(&self.name()).finish()
    }
}

/// Pins the backend of the whole process by its name, a level or a `level/tuning` (see
/// [`Backend::by_name`]), or with `None` returns to `TRITGEMM_ISA` and detection. Results
/// never depend on it, only speed does.
///
/// # Errors
/// As [`Backend::by_name`]; nothing changes then.
///
/// ```
/// use tritgemm::{Backend, pin};
/// pin(Some("scalar"))?;
/// assert_eq!(Backend::active()?, Backend::scalar());
/// pin(None)?;
/// # Ok::<(), tritgemm::IsaError>(())
/// ```
pub fn pin(name: Option<&str>) -> Result<(), IsaError> {
    let place = match name {
        None => 0,
        Some(name) => {
            let backend = Backend::by_name(name)?;
            let place = Backend::available().position(|b| b == backend);
            place.map_or(0, |place| place + 1)
        }
    };
    PINNED.store(place, Ordering::Release);
    Ok(())
}
