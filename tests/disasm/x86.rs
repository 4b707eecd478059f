//! x86-64, decoded by `iced-x86`.

use super::{Flow, Instruction, pointers};
use iced_x86::{Decoder, DecoderOptions, Mnemonic};

/// What an accumulation must not contain, by how the mnemonic starts once the
/// `v` of VEX and EVEX is taken off.
const CATEGORIES: &[(&str, &[&str])] = &[
    (
        "multiplication",
        &[
            "mul", "imul", "pmul", "fmul", "fimul", "fcmul", "pfmul", "montmul",
        ],
    ),
    (
        "multiply-add",
        &[
            "pmadd", "pmadc", "pmac", "fmadd", "fmsub", "fnmadd", "fnmsub", "fcmadd", "4fmadd",
            "4fnmadd",
        ],
    ),
    ("dot product", &["dpp", "dpbf16", "pdp", "p4dp"]),
    (
        "matrix or tile instruction",
        &["tdp", "tcmm", "tile", "ldtilecfg", "sttilecfg"],
    ),
    (
        // The round of AES mixes columns by products in GF(2^8).
        "carry-less or GF(2) multiplication",
        &["pclmul", "gf2p8", "aes"],
    ),
    (
        // No sum needs these either, and they run on the multipliers.
        "division, root or reciprocal",
        &[
            "div", "idiv", "fdiv", "fidiv", "sqrt", "fsqrt", "rcp", "rsqrt", "pfrcp", "pfrsq",
            "fprem",
        ],
    ),
    (
        "scaling or transcendental",
        &[
            "scale", "fscale", "f2xm1", "fyl2x", "fpatan", "fptan", "fsin", "fcos", "exp2", "log2",
        ],
    ),
];

/// Parts of names that tell of a multiplication whatever comes before: the net
/// under [`CATEGORIES`] for instructions that are not invented yet.
const NET: &[&str] = &[
    "mul", "madd", "msub", "mmla", "mac", "dot", "pdp", "dpb", "dpp",
];

/// Names that the lists above catch by mistake.
const INNOCENT: &[&str] = &[
    // Selects eight unaligned bytes of a quadword; "multi-shift".
    "vpmultishiftqb",
];

/// Why the instruction called `name` (lower case) must not be in a sum.
pub fn judge(name: &str) -> Option<&'static str> {
    if INNOCENT.contains(&name) {
        return None;
    }
    let stem = name.strip_prefix('v').unwrap_or(name);
    CATEGORIES
        .iter()
        .find(|(_, starts)| starts.iter().any(|start| stem.starts_with(start)))
        .map(|&(kind, _)| kind)
        .or_else(|| {
            NET.iter()
                .any(|part| name.contains(part))
                .then_some("multiplication by its name")
        })
}

fn name(mnemonic: Mnemonic) -> String {
    format!("{mnemonic:?}").to_lowercase()
}

fn flow(instruction: &iced_x86::Instruction) -> Flow {
    use iced_x86::OpKind::{NearBranch16, NearBranch32, NearBranch64};
    if instruction.is_call_near_indirect() || instruction.is_jmp_near_indirect() {
        return if instruction.is_ip_rel_memory_operand() {
            Flow::Slot(instruction.ip_rel_memory_address())
        } else {
            Flow::Indirect
        };
    }
    if instruction.is_call_far() || instruction.is_jmp_far() {
        return Flow::Indirect;
    }
    if instruction.is_call_far_indirect() || instruction.is_jmp_far_indirect() {
        return Flow::Indirect;
    }
    // Calls, jumps, conditional jumps, `loop` and `jrcxz`: whatever has a
    // branch target for its operand.
    match instruction.op0_kind() {
        NearBranch16 | NearBranch32 | NearBranch64 => {
            Flow::Direct(instruction.near_branch_target())
        }
        _ => Flow::Next,
    }
}

/// Decodes all of `bytes`.
pub fn decode(start: u64, bytes: &[u8]) -> Vec<Instruction> {
    let decoder = Decoder::with_ip(64, bytes, start, DecoderOptions::NONE);
    let code = decoder.into_iter().collect::<Vec<_>>();
    let pointers = pointers::known(&code, flow);
    code.iter()
        .map(|instruction| {
            let name = (!instruction.is_invalid()).then(|| name(instruction.mnemonic()));
            Instruction {
                address: instruction.ip(),
                multiply: name.as_deref().and_then(judge),
                name,
                flow: pointers
                    .get(&instruction.ip())
                    .copied()
                    .unwrap_or_else(|| flow(instruction)),
            }
        })
        .collect()
}

/// The slot that a stub of the procedure linkage table jumps to:
/// `[endbr64] jmp [rip + slot]`.
pub fn stub_slot(start: u64, bytes: &[u8]) -> Option<u64> {
    for instruction in decode(start, bytes) {
        match (instruction.name.as_deref(), instruction.flow) {
            (Some("endbr64"), _) => {}
            (Some("jmp"), Flow::Slot(slot)) => return Some(slot),
            _ => return None,
        }
    }
    None
}

#[test]
fn every_mnemonic_of_the_net_is_in_a_category_or_innocent() {
    // A new release of the decoder that knows new multiplications fails here
    // until they are sorted.
    for name in Mnemonic::values().map(name) {
        assert_ne!(judge(&name), Some("multiplication by its name"), "{name}");
    }
    for innocent in INNOCENT {
        assert!(
            Mnemonic::values().any(|m| name(m) == *innocent),
            "{innocent}"
        );
    }
    // No entry that matches nothing.
    for start in CATEGORIES.iter().flat_map(|(_, starts)| *starts) {
        let used = |m| {
            name(m)
                .strip_prefix('v')
                .unwrap_or(&name(m))
                .starts_with(start)
        };
        assert!(Mnemonic::values().any(used), "nothing starts with {start}");
    }
}

#[test]
fn additions_are_no_multiplications() {
    for name in [
        "add",
        "sub",
        "neg",
        "lea",
        "shl",
        "sar",
        "and",
        "xor",
        "cmovne",
        "addps",
        "addpd",
        "vaddps",
        "vsubps",
        "andps",
        "vandnpd",
        "vhaddpd",
        "paddb",
        "vpaddw",
        "vpsubd",
        "phaddw",
        "vpabsb",
        "psignb",
        "psadbw",
        "vpsadbw",
        "mpsadbw",
        "vdbpsadbw",
        "pshufb",
        "vpermb",
        "vpermi2b",
        "vpermps",
        "vpternlogd",
        "vpsrlvw",
        "vpblendmb",
        "vpmovsxbw",
        "vmovddup",
        "vpmultishiftqb",
        "vpcompressb",
        "vpexpandb",
        "pext",
        "pdep",
        "vcvtdq2ps",
        "vrndscaleps",
        "vpopcntb",
    ] {
        assert!(Mnemonic::values().any(|m| self::name(m) == name), "{name}");
        assert_eq!(judge(name), None, "{name}");
    }
}

#[test]
fn known_encodings_are_decoded_and_judged() {
    let judged = |bytes: &[u8]| {
        let decoded = decode(0x1000, bytes);
        assert_eq!(decoded.len(), 1, "{decoded:?}");
        (
            decoded[0].name.clone().unwrap_or_default(),
            decoded[0].multiply,
        )
    };
    // As binutils assembles them.
    for (bytes, name, kind) in [
        (&[0x0f, 0xaf, 0xc1][..], "imul", "multiplication"),
        (&[0x6b, 0xc1, 0x03], "imul", "multiplication"),
        (&[0x48, 0xf7, 0xe1], "mul", "multiplication"),
        (&[0xc4, 0xe2, 0xf3, 0xf6, 0xc2], "mulx", "multiplication"),
        (&[0xf3, 0x0f, 0x59, 0xc1], "mulss", "multiplication"),
        (
            &[0x62, 0xf1, 0x74, 0x48, 0x59, 0xc2],
            "vmulps",
            "multiplication",
        ),
        (&[0xc4, 0xe2, 0x75, 0x40, 0xc2], "vpmulld", "multiplication"),
        (&[0x66, 0x0f, 0xe5, 0xc1], "pmulhw", "multiplication"),
        (&[0x66, 0x0f, 0xf5, 0xc1], "pmaddwd", "multiply-add"),
        (
            &[0xc4, 0xe2, 0x75, 0x04, 0xc2],
            "vpmaddubsw",
            "multiply-add",
        ),
        (
            &[0xc4, 0xe2, 0x75, 0xb8, 0xc2],
            "vfmadd231ps",
            "multiply-add",
        ),
        (
            &[0xc4, 0xe2, 0x71, 0xbd, 0xc2],
            "vfnmadd231ss",
            "multiply-add",
        ),
        (
            &[0x62, 0xf2, 0xf5, 0x48, 0xb4, 0xc2],
            "vpmadd52luq",
            "multiply-add",
        ),
        (
            &[0x62, 0xf2, 0x75, 0x48, 0x50, 0xc2],
            "vpdpbusd",
            "dot product",
        ),
        (&[0xc4, 0xe2, 0x75, 0x50, 0xc2], "vpdpbusd", "dot product"),
        (
            &[0x62, 0xf2, 0x76, 0x48, 0x52, 0xc2],
            "vdpbf16ps",
            "dot product",
        ),
        (&[0x66, 0x0f, 0x3a, 0x40, 0xc1, 0xff], "dpps", "dot product"),
        (
            &[0xc4, 0xe2, 0x73, 0x5e, 0xc2],
            "tdpbssd",
            "matrix or tile instruction",
        ),
        (
            &[0x66, 0x0f, 0x3a, 0x44, 0xc1, 0x00],
            "pclmulqdq",
            "carry-less or GF(2) multiplication",
        ),
        (
            &[0x66, 0x0f, 0x38, 0xcf, 0xc1],
            "gf2p8mulb",
            "carry-less or GF(2) multiplication",
        ),
        (&[0xf7, 0xf1], "div", "division, root or reciprocal"),
        (
            &[0x62, 0xf2, 0x75, 0x48, 0x2c, 0xc2],
            "vscalefps",
            "scaling or transcendental",
        ),
    ] {
        assert_eq!(judged(bytes), (name.to_owned(), Some(kind)));
    }
    // An opcode that 64-bit mode does not have.
    assert_eq!(judged(&[0x06]), (String::new(), None));
    assert_eq!(decode(0, &[0x06])[0].name, None);
    // call +0; call [rip + 0x10]; call rax; jmp [rax + rcx * 8].
    let flow = |bytes: &[u8]| decode(0x1000, bytes)[0].flow;
    assert_eq!(flow(&[0xe8, 0, 0, 0, 0]), Flow::Direct(0x1005));
    assert_eq!(flow(&[0xff, 0x15, 0x10, 0, 0, 0]), Flow::Slot(0x1016));
    assert_eq!(flow(&[0xff, 0xd0]), Flow::Indirect);
    assert_eq!(flow(&[0xff, 0x24, 0xc8]), Flow::Indirect);
    assert_eq!(flow(&[0x75, 0x10]), Flow::Direct(0x1012));
}

#[test]
fn pointers_are_followed_over_every_path() {
    let calls = |bytes: &[u8]| {
        let code = decode(0x1000, bytes);
        assert!(code.iter().all(|i| i.name.is_some()));
        let calls = code.iter().filter(|i| i.name.as_deref() == Some("call"));
        calls.map(|i| i.flow).collect::<Vec<_>>()
    };
    const LOAD: [u8; 7] = [0x4c, 0x8b, 0x25, 0xf9, 0, 0, 0]; // mov r12, [rip + 0xf9]
    const CALL: [u8; 3] = [0x41, 0xff, 0xd4]; // call r12
    // r12 survives the first call.
    let twice = [&LOAD[..], &CALL, &CALL].concat();
    assert_eq!(calls(&twice), [Flow::Slot(0x1100), Flow::Slot(0x1100)]);
    // je over the load: on that path r12 is anything.
    let skipped = [&[0x74, 7][..], &LOAD, &CALL].concat();
    assert_eq!(calls(&skipped), [Flow::Indirect]);
    // A loop whose body changes r12: inc r12; jne back to the call.
    let changed = [&LOAD[..], &CALL, &[0x49, 0xff, 0xc4, 0x75, 0xf8]].concat();
    assert_eq!(calls(&changed), [Flow::Indirect]);
    // mov rax, [rip + 0xf9]; call rax; call rax: the first call clobbers rax.
    let rax = [0x48, 0x8b, 0x05, 0xf9, 0, 0, 0, 0xff, 0xd0, 0xff, 0xd0];
    assert_eq!(calls(&rax), [Flow::Slot(0x1100), Flow::Indirect]);
}
