//! Tensor types of a GGUF file.

use crate::ggml::TernaryType;
use core::fmt;

/// The type of a tensor: ggml's number, known here or not.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TensorType(pub u32);

/// Number, name, weights and bytes of a block: what a file may hold beside the
/// ternary types. Numbers that forks use for several types are left out.
const TYPES: &[(u32, &str, u64, u64)] = &[
    (0, "F32", 1, 4),
    (1, "F16", 1, 2),
    (2, "Q4_0", 32, 18),
    (3, "Q4_1", 32, 20),
    (6, "Q5_0", 32, 22),
    (7, "Q5_1", 32, 24),
    (8, "Q8_0", 32, 34),
    (10, "Q2_K", 256, 84),
    (11, "Q3_K", 256, 110),
    (12, "Q4_K", 256, 144),
    (13, "Q5_K", 256, 176),
    (14, "Q6_K", 256, 210),
    (15, "Q8_K", 256, 292),
    (16, "IQ2_XXS", 256, 66),
    (17, "IQ2_XS", 256, 74),
    (18, "IQ3_XXS", 256, 98),
    (19, "IQ1_S", 256, 50),
    (20, "IQ4_NL", 32, 18),
    (21, "IQ3_S", 256, 110),
    (22, "IQ2_S", 256, 82),
    (23, "IQ4_XS", 256, 136),
    (24, "I8", 1, 1),
    (25, "I16", 1, 2),
    (26, "I32", 1, 4),
    (27, "I64", 1, 8),
    (28, "F64", 1, 8),
    (29, "IQ1_M", 256, 56),
    (30, "BF16", 1, 2),
];

impl TensorType {
    /// 32-bit floats.
    pub const F32: TensorType = TensorType(0);
    /// 16-bit floats.
    pub const F16: TensorType = TensorType(1);
    /// The upper halves of 32-bit floats.
    pub const BF16: TensorType = TensorType(30);

    /// Its name, `unknown` if it has none here.
    pub fn name(self) -> &'static str {
        match (self.ternary(), self.known()) {
            (Some(ternary), _) => ternary.name(),
            (None, Some((_, name, _, _))) => name,
            (None, None) => "unknown",
        }
    }

    /// The ternary type of that number.
    pub fn ternary(self) -> Option<TernaryType> {
        TernaryType::from_id(self.0)
    }

    /// Weights and bytes of a block, for a type that is known and not ternary.
    pub(super) fn layout(self) -> Option<(u64, u64)> {
        self.known().map(|(_, _, block, bytes)| (block, bytes))
    }

    fn known(self) -> Option<(u32, &'static str, u64, u64)> {
        TYPES.iter().copied().find(|ty| ty.0 == self.0)
    }
}

impl From<TernaryType> for TensorType {
    fn from(ty: TernaryType) -> Self {
        TensorType(ty.id())
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            "unknown" => write!(f, "type {}", self.0),
            name => f.pad(name),
        }
    }
}
