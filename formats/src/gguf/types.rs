//! Tensor types of a GGUF file.

use crate::ggml::TernaryType;
use core::fmt;

/// The type of a tensor: ggml's number, known here or not.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TensorType(pub u32);

/// Number, name, weights and bytes of a block: what a file may hold beside the
/// ternary types.
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

/// Types that are named and no more: their size is not known here, or a number
/// has two meanings. ik_llama.cpp's are those from 97 up, bitnet.cpp's those of
/// two names.
const NAMES: &[(u32, &str)] = &[
    (4, "Q4_2"),
    (5, "Q4_3"),
    (9, "Q8_1"),
    (31, "Q4_0_4_4"),
    (32, "Q4_0_4_8"),
    (33, "Q4_0_8_8"),
    (37, "I8_S or IQ4_NL_4_8"),
    (38, "TL1 or IQ4_NL_8_8"),
    (39, "MXFP4 or TL2"),
    (40, "NVFP4"),
    (41, "Q1_0"),
    (97, "Q8_0_X4"),
    (98, "Q8_1_X4"),
    (99, "Q8_2_X4"),
    (133, "Q6_0"),
    (136, "Q8_K64"),
    (137, "IQ2_K"),
    (138, "IQ3_K"),
    (139, "IQ4_K"),
    (140, "IQ5_K"),
    (141, "IQ6_K"),
    (144, "IQ4_KS"),
    (145, "IQ2_KS"),
    (146, "IQ4_KSS"),
    (147, "Q8_K16"),
    (148, "Q8_K32"),
    (149, "Q8_KR8"),
    (150, "Q8_K128"),
    (151, "Q8_KV"),
    (152, "IQ5_KS"),
    (153, "IQ2_KT"),
    (154, "IQ3_KT"),
    (155, "IQ4_KT"),
    (156, "IQ3_KS"),
    (157, "IQ2_KL"),
    (158, "IQ1_KT"),
    (202, "Q4_0_R8"),
    (206, "Q5_0_R4"),
    (208, "Q8_0_R8"),
    (210, "Q2_K_R4"),
    (211, "Q3_K_R4"),
    (212, "Q4_K_R4"),
    (213, "Q5_K_R4"),
    (214, "Q6_K_R4"),
    (216, "IQ2_XXS_R4"),
    (217, "IQ2_XS_R4"),
    (218, "IQ3_XXS_R4"),
    (219, "IQ1_S_R4"),
    (220, "IQ4_NL_R4"),
    (221, "IQ3_S_R4"),
    (222, "IQ2_S_R4"),
    (223, "IQ4_XS_R8"),
    (229, "IQ1_M_R4"),
    (230, "BF16_R16"),
    (233, "Q6_0_R4"),
    (335, "IQ2_BN_R4"),
    (337, "IQ2_K_R4"),
    (338, "IQ3_K_R4"),
    (339, "IQ4_K_R4"),
    (340, "IQ5_K_R4"),
    (344, "IQ4_KS_R4"),
    (352, "IQ5_KS_R4"),
    (398, "Q8_KV_R8"),
    (399, "Q8_K_R8"),
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
        if let Some(ternary) = self.ternary() {
            return ternary.name();
        }
        let known = self.known().map(|(_, name, _, _)| name);
        let named = || NAMES.iter().find(|ty| ty.0 == self.0).map(|ty| ty.1);
        known.or_else(named).unwrap_or("unknown")
    }

    /// Whether the size of its tensors is known here. Tensors of other types are
    /// taken to reach up to the next one.
    pub fn is_sized(self) -> bool {
        self.ternary().is_some() || self.known().is_some()
    }

    /// Whether [`Tensor::to_f32`](super::Tensor::to_f32) reads tensors of it.
    pub fn has_values(self) -> bool {
        super::dequant::NAMES.contains(&self.name())
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

/// The name, or the number of a type that has none here.
impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            "unknown" => f.pad(&self.0.to_string()),
            name => f.pad(name),
        }
    }
}
