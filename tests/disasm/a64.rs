//! A64, decoded by `disarm64` and, independently, by the encoding groups of the
//! Arm Architecture Reference Manual: an instruction is a multiplication if
//! either says so.

use super::{Flow, Instruction};

/// What an accumulation must not contain, by parts of the mnemonic.
const CATEGORIES: &[(&str, &[&str])] = &[
    // Before "multiplication": `sdot` and `ummla` have no part in common with
    // it, but `bfmlal` and `fmopa` are better named first.
    ("dot product", &["dot"]),
    ("matrix instruction", &["mmla", "mop"]),
    (
        "multiply-add",
        &[
            "madd", "msub", "mla", "mls", "mneg", "smnegl", "umnegl", "frecps", "frsqrts",
        ],
    ),
    ("multiplication", &["mul"]),
    // The columns of AES are mixed by products in GF(2^8).
    ("carry-less or GF(2) multiplication", &["aes"]),
    (
        // No sum needs these either, and they run on the multipliers.
        "division, root, reciprocal or scaling",
        &["div", "sqrt", "recpe", "recpx", "fscale"],
    ),
];

/// `(mask, value, kind)`: an instruction word of this group multiplies.
const GROUPS: &[(u32, u32, &str)] = &[
    // Top level, bits 28-25.
    (0x1e00_0000, 0x0400_0000, "SVE instruction"),
    (0x9e00_0000, 0x8000_0000, "SME instruction"),
    // MSR SVCR..., #imm: SMSTART and SMSTOP.
    (0xffff_f0ff, 0xd503_407f, "SME mode switch"),
    // Data processing, 3 sources: MADD, MSUB, xMADDL, xMSUBL, xMULH.
    (0x1f00_0000, 0x1b00_0000, "multiply-add"),
    // Data processing, 2 sources: UDIV, SDIV.
    (0x7fe0_f800, 0x1ac0_0800, "division"),
    // Floating point, 3 sources: FMADD, FMSUB, FNMADD, FNMSUB.
    (0xff00_0000, 0x1f00_0000, "multiply-add"),
    // Floating point, 2 sources: FMUL and FDIV, FNMUL.
    (0xff20_ec00, 0x1e20_0800, "multiplication or division"),
    (0xff20_fc00, 0x1e20_8800, "multiplication"),
    // Vector by element, all of it: MUL, MLA, MLS, xMULL, xMLAL, xMLSL, SQDMULH,
    // FMUL, FMLA, FMLAL, FCMLA, SDOT, SUDOT, BFDOT...; and its scalar forms.
    (0x9f00_0400, 0x0f00_0000, "multiplication by element"),
    (0xdf00_0400, 0x5f00_0000, "multiplication by element"),
    // Three same: MLA and MLS, MUL and PMUL, SQDMULH and SQRDMULH.
    (0x9f20_fc00, 0x0e20_9400, "multiply-add"),
    (0x9f20_fc00, 0x0e20_9c00, "multiplication"),
    (0x9f20_fc00, 0x0e20_b400, "multiplication"),
    (0xdf20_fc00, 0x5e20_b400, "multiplication"),
    // FMLA, FMLS and FMLAL2; FMLAL; FMULX and FMUL; FRECPS, FRSQRTS and FDIV.
    (0x9f20_fc00, 0x0e20_cc00, "multiply-add"),
    (0xbf20_fc00, 0x0e20_ec00, "multiply-add"),
    (0x9fa0_fc00, 0x0e20_dc00, "multiplication"),
    (0x9f20_fc00, 0x0e20_fc00, "multiplication or division"),
    (0xdf20_fc00, 0x5e20_dc00, "multiplication"),
    (0xdf20_fc00, 0x5e20_fc00, "multiply-add"),
    // The half-precision forms of the same: FMLA, FMLS; FMULX, FMUL; the rest.
    (0x9f60_fc00, 0x0e40_0c00, "multiply-add"),
    (0x9fe0_fc00, 0x0e40_1c00, "multiplication"),
    (0x9f60_fc00, 0x0e40_3c00, "multiplication or division"),
    (0xdf60_fc00, 0x5e40_1c00, "multiplication"),
    (0xdf60_fc00, 0x5e40_3c00, "multiply-add"),
    // FSQRT, scalar and vector.
    (0xff3f_fc00, 0x1e21_c000, "square root"),
    (0xbfbf_fc00, 0x2ea1_f800, "square root"),
    // Three same, extra: SQRDMLAH, SDOT, USDOT, BFDOT, SMMLA, BFMMLA, FCMLA,
    // BFMLAL. FCADD only adds, but no sum of ours is complex.
    (
        0x9f20_8400,
        0x0e00_8400,
        "dot product or matrix instruction",
    ),
    (0xdf20_8400, 0x5e00_8400, "multiply-add"),
    // Three different: xMLAL, SQDMLAL, xMLSL, SQDMLSL, xMULL, SQDMULL, PMULL.
    (0x9f20_cc00, 0x0e20_8000, "multiply-add"),
    (0x9f20_ec00, 0x0e20_c000, "multiplication"),
    (
        0x9f20_fc00,
        0x0e20_e000,
        "carry-less or GF(2) multiplication",
    ),
    (0xdf20_cc00, 0x5e20_8000, "multiply-add"),
    (0xdf20_fc00, 0x5e20_d000, "multiplication"),
    // AESE, AESD, AESMC, AESIMC.
    (
        0xffff_cc00,
        0x4e28_4800,
        "carry-less or GF(2) multiplication",
    ),
];

fn by_name(name: &str) -> Option<&'static str> {
    CATEGORIES
        .iter()
        .find(|(_, parts)| parts.iter().any(|part| name.contains(part)))
        .map(|&(kind, _)| kind)
}

fn by_group(word: u32) -> Option<&'static str> {
    GROUPS
        .iter()
        .find(|&&(mask, value, _)| word & mask == value)
        .map(|&(_, _, kind)| kind)
}

fn name(word: u32) -> Option<&'static str> {
    use disarm64::InsnOpcode;
    disarm64::decoder::decode(word).map(|opcode| opcode.definition().mnemonic)
}

/// The field of `word` of `bits` bits from bit `low` on: a signed distance in
/// instructions, here in bytes.
fn distance(word: u32, low: u32, bits: u32) -> u64 {
    let field = (word << (32 - low - bits)).cast_signed() >> (32 - bits);
    (i64::from(field) << 2).cast_unsigned()
}

fn flow(address: u64, word: u32) -> Flow {
    let direct = |low, bits| Flow::Direct(address.wrapping_add(distance(word, low, bits)));
    if word & 0x7c00_0000 == 0x1400_0000 {
        return direct(0, 26); // B, BL
    }
    if word & 0xff00_0000 == 0x5400_0000 || word & 0x7e00_0000 == 0x3400_0000 {
        return direct(5, 19); // B.cond, BC.cond; CBZ, CBNZ
    }
    if word & 0x7e00_0000 == 0x3600_0000 {
        return direct(5, 14); // TBZ, TBNZ
    }
    if word & 0xfe00_0000 == 0xd600_0000 && word & 0xffff_fc1f != 0xd65f_0000 {
        return Flow::Indirect; // BR, BLR and their kin, but RET
    }
    if word & 0xfe00_0000 == 0x7400_0000 {
        return Flow::Indirect; // Compare and branch of Armv9.6: not followed
    }
    Flow::Next
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u32> {
    // A last incomplete word becomes one that is no instruction.
    bytes
        .chunks(4)
        .map(|word| word.try_into().map_or(0xffff_ffff, u32::from_le_bytes))
}

/// Decodes all of `bytes`.
pub fn decode(start: u64, bytes: &[u8]) -> Vec<Instruction> {
    (start..)
        .step_by(4)
        .zip(words(bytes))
        .map(|(address, word)| {
            let name = name(word);
            Instruction {
                address,
                name: name.map(str::to_owned),
                multiply: name.and_then(by_name).or_else(|| by_group(word)),
                flow: flow(address, word),
            }
        })
        .collect()
}

/// The slot that a stub of the procedure linkage table jumps to:
/// `[bti c]; adrp x16, page; ldr x17, [x16, offset]; add x16, x16, #n; br x17`.
pub fn stub_slot(start: u64, bytes: &[u8]) -> Option<u64> {
    const BTI_C: u32 = 0xd503_245f;
    let mut code = (start..).step_by(4).zip(words(bytes)).peekable();
    code.next_if(|&(_, word)| word == BTI_C);
    let (address, adrp) = code.next()?;
    let (_, load) = code.next()?;
    let (_, add) = code.next()?;
    let (_, branch) = code.next()?;
    if adrp & 0x9f00_001f != 0x9000_0010
        || load & 0xffc0_03ff != 0xf940_0211
        || add & 0xff80_03ff != 0x9100_0210
        || branch != 0xd61f_0220
    {
        return None;
    }
    // The page distance: immhi (bits 23-5) and immlo (bits 30-29), signed.
    let pages = distance(adrp, 5, 19) | u64::from(adrp >> 29 & 3);
    let page = (address & !0xfff).wrapping_add(pages << 12);
    Some(page.wrapping_add(u64::from(load >> 10 & 0xfff) << 3))
}

/// Multiplications as GNU binutils 2.40 assembles them.
#[cfg(test)]
const MULTIPLIES: &[(u32, &str)] = &[
    (0x9b02_0c20, "madd"),
    (0x1b02_7c20, "mul"),
    (0x9b02_8c20, "msub"),
    (0x1b02_fc20, "mneg"),
    (0x9b22_0c20, "smaddl"),
    (0x9ba2_7c20, "umull"),
    (0x9bc2_7c20, "umulh"),
    (0x9b42_7c20, "smulh"),
    (0x4e62_9c20, "mul"),
    (0x4ea2_9420, "mla"),
    (0x6e22_9420, "mls"),
    (0x6e22_9c20, "pmul"),
    (0x4e62_b420, "sqdmulh"),
    (0x6ea2_b420, "sqrdmulh"),
    (0x6e82_8420, "sqrdmlah"),
    (0x0e22_c020, "smull"),
    (0x6e22_c020, "umull2"),
    (0x0e62_8020, "smlal"),
    (0x6e62_a020, "umlsl2"),
    (0x0e62_9020, "sqdmlal"),
    (0x5e62_d020, "sqdmull"),
    (0x0e22_e020, "pmull"),
    (0x0ee2_e020, "pmull"),
    (0x6f72_0020, "mla"),
    (0x4fa2_8020, "mul"),
    (0x0f52_2020, "smlal"),
    (0x4fa2_9020, "fmul"),
    (0x4fa2_1020, "fmla"),
    (0x5fa2_9020, "fmul"),
    (0x1e22_0820, "fmul"),
    (0x1e62_0820, "fmul"),
    (0x1e22_8820, "fnmul"),
    (0x6e22_dc20, "fmul"),
    (0x4e22_dc20, "fmulx"),
    (0x4e22_cc20, "fmla"),
    (0x4ee2_cc20, "fmls"),
    (0x4e42_0c20, "fmla"),
    (0x1f02_0c20, "fmadd"),
    (0x1f42_8c20, "fmsub"),
    (0x1f22_0c20, "fnmadd"),
    (0x1f22_8c20, "fnmsub"),
    (0x6e82_cc20, "fcmla"),
    (0x4e22_ec20, "fmlal"),
    (0x6ea2_cc20, "fmlsl2"),
    (0x2ec2_fc20, "bfmlalb"),
    (0x4e22_fc20, "frecps"),
    (0x5ea2_fc20, "frsqrts"),
    (0x4e82_9420, "sdot"),
    (0x2e82_9420, "udot"),
    (0x4fa2_e020, "sdot"),
    (0x4e82_9c20, "usdot"),
    (0x4f22_f020, "sudot"),
    (0x6e42_fc20, "bfdot"),
    (0x4e82_a420, "smmla"),
    (0x6e82_a420, "ummla"),
    (0x4e82_ac20, "usmmla"),
    (0x6e42_ec20, "bfmmla"),
    (0x1ac2_0c20, "sdiv"),
    (0x9ac2_0820, "udiv"),
    (0x1e22_1820, "fdiv"),
    (0x6e22_fc20, "fdiv"),
    (0x1e21_c020, "fsqrt"),
    (0x4e28_6820, "aesmc"),
    (0x0490_0020, "mul"),
    (0x4482_0020, "sdot"),
    (0x04a2_0020, "add"),
    (0x2518_e3e0, "ptrue"),
    (0xa400_a000, "ld1b"),
    (0x8081_2000, "fmopa"),
    (0xa081_2000, "smopa"),
    (0xd503_477f, "smstart"),
    (0xc008_00ff, "zero"),
];

/// Additions, moves and shuffles, likewise.
#[cfg(test)]
const ADDITIONS: &[(u32, &str)] = &[
    (0x8b02_0c20, "add"),
    (0x4b02_0020, "sub"),
    (0xcb01_03e0, "neg"),
    (0xd37d_f020, "lsl"),
    (0x5a81_1420, "cneg"),
    (0x4e22_8420, "add"),
    (0x6e62_8420, "sub"),
    (0x4e22_bc20, "addp"),
    (0x0e22_1020, "saddw"),
    (0x6e22_1020, "uaddw2"),
    (0x6e60_6820, "uadalp"),
    (0x4e20_2820, "saddlp"),
    (0x2e22_5020, "uabal"),
    (0x4e22_7c20, "saba"),
    (0x4e60_6820, "sadalp"),
    (0x4e02_0020, "tbl"),
    (0x4e03_3020, "tbx"),
    (0x4e22_d420, "fadd"),
    (0x1e22_3820, "fsub"),
    (0x6ea0_f820, "fneg"),
    (0x6e62_1c20, "bsl"),
    (0x6ea2_1c20, "bit"),
    (0x0f08_a420, "sxtl"),
    (0x6f0c_0420, "ushr"),
    (0x6f0a_5420, "sli"),
    (0x0e22_4020, "addhn"),
    (0x4e21_d820, "scvtf"),
    (0x4c40_0000, "ld4"),
    (0x4c9f_7800, "st1"),
    (0xad40_0400, "ldp"),
    (0x4e04_0c20, "dup"),
    (0x4f00_e420, "movi"),
    (0x4e02_3820, "zip1"),
];

#[test]
fn known_multiplications_are_judged_twice() {
    for &(word, expected) in MULTIPLIES {
        let name = name(word).unwrap_or_else(|| panic!("{expected} {word:#010x} not decoded"));
        assert!(
            by_group(word).is_some(),
            "{expected} {word:#010x}: no group"
        );
        // SVE and SME are judged by their group alone: they include additions.
        let wholesale = by_group(word).is_some_and(|kind| kind.starts_with('S'));
        assert!(
            wholesale || by_name(name).is_some(),
            "{expected} {word:#010x}: decoded as {name}"
        );
        assert!(decode(0, &word.to_le_bytes())[0].multiply.is_some());
    }
}

#[test]
fn additions_are_no_multiplications() {
    for &(word, expected) in ADDITIONS {
        assert!(name(word).is_some(), "{expected} {word:#010x} not decoded");
        assert_eq!(
            decode(0, &word.to_le_bytes())[0].multiply,
            None,
            "{expected} {word:#010x}"
        );
    }
}

#[test]
fn groups_and_names_agree_on_every_kind_of_word() {
    // Pseudo-random words: whatever the decoder calls a multiplication must be
    // in a group, and the other way round but for the few named here.
    let (mut word, mut multiplies) = (1u32, 0);
    let mut disagreements = std::collections::BTreeMap::new();
    for _ in 0..1 << 22 {
        // xorshift: 2^32 - 1 different words.
        word ^= word << 13;
        word ^= word >> 17;
        word ^= word << 5;
        let Some(name) = name(word) else { continue };
        let group = by_group(word);
        if group.is_some_and(|kind| kind.starts_with('S')) {
            continue;
        }
        multiplies += usize::from(group.is_some());
        let excused = match group {
            Some(_) => ONLY_BY_GROUP.contains(&name),
            None => ONLY_BY_NAME.iter().any(|part| name.contains(part)),
        };
        if by_name(name).is_some() != group.is_some() && !excused {
            disagreements.insert(name, format!("{word:#010x}, group {group:?}"));
        }
    }
    assert!(multiplies > 10_000, "only {multiplies} multiplications");
    assert!(disagreements.is_empty(), "{disagreements:#?}");
}

/// What shares a group with multiplications: no kernel needs it.
#[cfg(test)]
const ONLY_BY_GROUP: &[&str] = &["fcadd", "fcvtn", "fcvtn2"];

/// No groups were written for these.
#[cfg(test)]
const ONLY_BY_NAME: &[&str] = &["sqrt", "recpe", "recpx", "fscale"];

#[test]
fn branches_are_followed() {
    // As binutils assembles them at 0x1000, with targets 8 bytes on or back.
    for (word, expected) in [
        (0x1400_0002, Flow::Direct(0x1008)), // b
        (0x97ff_fffe, Flow::Direct(0xff8)),  // bl
        (0x5400_0040, Flow::Direct(0x1008)), // b.eq
        (0xb4ff_ffc0, Flow::Direct(0xff8)),  // cbz
        (0x3618_0040, Flow::Direct(0x1008)), // tbz w0, #3
        (0xd61f_0220, Flow::Indirect),       // br x17
        (0xd63f_0100, Flow::Indirect),       // blr x8
        (0xd65f_03c0, Flow::Next),           // ret
        (0x8b02_0c20, Flow::Next),           // add
    ] {
        assert_eq!(flow(0x1000, word), expected, "{word:#010x}");
    }
    assert_eq!(decode(0, &[0xff; 3])[0].name, None);
    // adrp x16, +1 page; ldr x17, [x16, #0x18]; add x16, x16, #0x18; br x17
    let stub = [0xb000_0010u32, 0xf940_0e11, 0x9100_6210, 0xd61f_0220];
    let stub: Vec<u8> = stub.into_iter().flat_map(u32::to_le_bytes).collect();
    assert_eq!(stub_slot(0x5_0120, &stub), Some(0x5_1018));
    assert_eq!(stub_slot(0x5_0120, &stub[4..]), None);
}
