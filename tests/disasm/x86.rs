//! x86-64, decoded by `iced-x86`.

use super::{Flow, Instruction, Multiply};
use iced_x86::Mnemonic::{Call, Cmp, Jmp, Lea, Mov, Pop, Push, Test};
use iced_x86::{Decoder, DecoderOptions, Mnemonic, OpKind};

/// Multiplications and divisions of general registers.
const SCALAR: &[&str] = &["mul", "imul", "mulx", "div", "idiv"];

/// Parts of mnemonics that no kernel's data may see: multiplications,
/// multiply-adds, dot products, matrix instructions and products in GF(2), which
/// the rounds of AES have too; and what runs on the multipliers: divisions, roots,
/// reciprocals, scaling and transcendental functions.
const DATA: &str = "mul madd madc msub mac mmla dot dpp dpb pdp p4dp tdp tcmm tile gf2p8 aes div \
    sqrt rcp rsq prem scale f2xm1 fyl2x patan ptan fsin fcos exp2 log2";

/// Names with such a part that do none of it, by how they start: "multi-shift"
/// selects bytes, and `vrndscale` rounds.
const INNOCENT: &[&str] = &["vpmultishiftqb", "vrndscale"];

/// What the instruction called `name` (lower case) multiplies, of operands of
/// `bytes`.
fn judge(name: &str, bytes: usize) -> Option<Multiply> {
    if SCALAR.contains(&name) {
        return (bytes < 8).then_some(Multiply::Scalar);
    }
    let innocent = INNOCENT.iter().any(|start| name.starts_with(start));
    let data = DATA.split_whitespace().any(|part| name.contains(part));
    (data && !innocent).then_some(Multiply::Data)
}

fn name(mnemonic: Mnemonic) -> String {
    format!("{mnemonic:?}").to_lowercase()
}

/// Where the last of `code` goes.
fn flow(code: &[iced_x86::Instruction]) -> Flow {
    let Some((instruction, before)) = code.split_last() else {
        return Flow::Next;
    };
    match instruction.op0_kind() {
        // Calls, jumps, conditional jumps, `loop` and `jrcxz`.
        OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => {
            Flow::Direct(instruction.near_branch_target())
        }
        _ if !matches!(instruction.mnemonic(), Call | Jmp) => Flow::Next,
        OpKind::Memory if instruction.is_ip_rel_memory_operand() => {
            Flow::Slot(instruction.ip_rel_memory_address())
        }
        OpKind::Register => pointer(before, instruction.op0_register()),
        _ => Flow::Indirect,
    }
}

/// Where a call of `register` goes. A compiler that calls `memcpy` twice may load
/// its address once and call the register: the last instruction of `before` that
/// writes the register says so, in the order of the code.
fn pointer(before: &[iced_x86::Instruction], register: iced_x86::Register) -> Flow {
    let written = before.iter().rposition(|i| {
        // Those that only read it, and an early end of the function.
        let other = matches!(i.mnemonic(), Call | Cmp | Jmp | Pop | Push | Test);
        let same = || i.op0_register().full_register() == register;
        !other && i.op0_kind() == OpKind::Register && same()
    });
    let Some(at) = written.filter(|&at| before[at].op0_register() == register) else {
        return Flow::Indirect;
    };
    let load = &before[at];
    match (load.mnemonic(), load.is_ip_rel_memory_operand()) {
        (Mov, true) => Flow::Slot(load.ip_rel_memory_address()),
        (Lea, true) => Flow::Direct(load.ip_rel_memory_address()),
        (Mov, false) if load.op1_kind() == OpKind::Register => {
            pointer(&before[..at], load.op1_register())
        }
        _ => Flow::Indirect,
    }
}

/// Decodes all of `bytes`.
pub fn decode(start: u64, bytes: &[u8]) -> Vec<Instruction> {
    let decoder = Decoder::with_ip(64, bytes, start, DecoderOptions::NONE);
    let code: Vec<_> = decoder.into_iter().collect();
    let decoded = code.iter().enumerate().map(|(i, instruction)| {
        let name = (!instruction.is_invalid()).then(|| name(instruction.mnemonic()));
        let bytes = match instruction.op0_kind() {
            OpKind::Register => instruction.op0_register().size(),
            _ => instruction.memory_size().size(),
        };
        Instruction {
            address: instruction.ip(),
            multiply: name.as_deref().and_then(|name| judge(name, bytes)),
            name,
            flow: flow(&code[..=i]),
        }
    });
    decoded.collect()
}

/// The slot that a stub of the procedure linkage table jumps to:
/// `[endbr64] jmp [rip + slot]`.
pub fn stub_slot(start: u64, bytes: &[u8]) -> Option<u64> {
    let code = decode(start, bytes);
    match code.iter().find(|i| i.flow != Flow::Next)?.flow {
        Flow::Slot(slot) => Some(slot),
        _ => None,
    }
}

#[test]
fn additions_are_no_multiplications() {
    let names = "add sub neg lea shl sar and xor cmovne addps vaddps vsubps andps vhaddpd vpaddw \
        vpsubd phaddw vpabsb psignb vpsadbw mpsadbw vdbpsadbw pshufb vpermb vpermi2b vpermps \
        vpternlogd vpsrlvw vpblendmb vpmovsxbw vmovddup vpmultishiftqb vpcompressb pext pdep \
        vcvtdq2ps vrndscaleps vpopcntb";
    for name in names.split_whitespace() {
        assert!(Mnemonic::values().any(|m| self::name(m) == name), "{name}");
        assert_eq!(judge(name, 4), None, "{name}");
    }
}

#[test]
fn known_encodings_are_decoded_and_judged() {
    // As binutils assembles them.
    let encodings: &[(&[u8], &str)] = &[
        (&[0x0f, 0xaf, 0xc1], "imul"),
        (&[0x41, 0xf7, 0xe1], "mul"),
        (&[0xc4, 0xe2, 0x73, 0xf6, 0xc2], "mulx"),
        (&[0xf7, 0xf1], "div"),
        (&[0xf3, 0x0f, 0x59, 0xc1], "mulss"),
        (&[0x62, 0xf1, 0x74, 0x48, 0x59, 0xc2], "vmulps"),
        (&[0xc4, 0xe2, 0x75, 0x40, 0xc2], "vpmulld"),
        (&[0x66, 0x0f, 0xe5, 0xc1], "pmulhw"),
        (&[0x66, 0x0f, 0xf5, 0xc1], "pmaddwd"),
        (&[0xc4, 0xe2, 0x75, 0x04, 0xc2], "vpmaddubsw"),
        (&[0xc4, 0xe2, 0x75, 0xb8, 0xc2], "vfmadd231ps"),
        (&[0xc4, 0xe2, 0x71, 0xbd, 0xc2], "vfnmadd231ss"),
        (&[0x62, 0xf2, 0xf5, 0x48, 0xb4, 0xc2], "vpmadd52luq"),
        (&[0x62, 0xf2, 0x75, 0x48, 0x50, 0xc2], "vpdpbusd"),
        (&[0xc4, 0xe2, 0x75, 0x50, 0xc2], "vpdpbusd"),
        (&[0x62, 0xf2, 0x76, 0x48, 0x52, 0xc2], "vdpbf16ps"),
        (&[0x66, 0x0f, 0x3a, 0x40, 0xc1, 0xff], "dpps"),
        (&[0xc4, 0xe2, 0x73, 0x5e, 0xc2], "tdpbssd"),
        (&[0x66, 0x0f, 0x3a, 0x44, 0xc1, 0x00], "pclmulqdq"),
        (&[0x66, 0x0f, 0x38, 0xcf, 0xc1], "gf2p8mulb"),
        (&[0x62, 0xf2, 0x75, 0x48, 0x2c, 0xc2], "vscalefps"),
    ];
    for (i, &(bytes, name)) in encodings.iter().enumerate() {
        let multiply = if i < 4 {
            Multiply::Scalar
        } else {
            Multiply::Data
        };
        let decoded = decode(0x1000, bytes);
        assert_eq!(decoded.len(), 1, "{name}");
        assert_eq!(decoded[0].name.as_deref(), Some(name));
        assert_eq!(decoded[0].multiply, Some(multiply), "{name}");
    }
    // imul rax, rcx; mul rcx: of addresses.
    assert_eq!(decode(0, &[0x48, 0x0f, 0xaf, 0xc1])[0].multiply, None);
    assert_eq!(decode(0, &[0x48, 0xf7, 0xe1])[0].multiply, None);
    // An opcode that 64-bit mode does not have.
    assert_eq!(decode(0, &[0x06])[0].name, None);
    // call +0; call [rip + 0x10]; call rax; jmp [rax + rcx * 8]; jne +0x10.
    let flow = |bytes: &[u8]| decode(0x1000, bytes)[0].flow;
    assert_eq!(flow(&[0xe8, 0, 0, 0, 0]), Flow::Direct(0x1005));
    assert_eq!(flow(&[0xff, 0x15, 0x10, 0, 0, 0]), Flow::Slot(0x1016));
    assert_eq!(flow(&[0xff, 0xd0]), Flow::Indirect);
    assert_eq!(flow(&[0xff, 0x24, 0xc8]), Flow::Indirect);
    assert_eq!(flow(&[0x75, 0x10]), Flow::Direct(0x1012));
    // mov r12, [rip + 0xf9]; pop r12; mov rax, r12; call rax: as the load says.
    // inc r12; call r12: anything.
    let load = [0x4c, 0x8b, 0x25, 0xf9, 0, 0, 0, 0x41, 0x5c];
    let call = [
        0x4c, 0x89, 0xe0, 0xff, 0xd0, 0x49, 0xff, 0xc4, 0x41, 0xff, 0xd4,
    ];
    let code = decode(0x1000, &[&load[..], &call].concat());
    assert_eq!(code[3].flow, Flow::Slot(0x1100));
    assert_eq!(code[5].flow, Flow::Indirect);
}
