//! A64, decoded by `disarm64`.

use super::{Flow, Instruction, Multiply};
use disarm64::InsnOpcode;

/// Parts of mnemonics that no kernel's data may see: multiplications,
/// multiply-adds, dot products, matrix instructions and products in GF(2), which
/// the rounds of AES have too; and what runs on the multipliers: divisions, roots,
/// reciprocals and scaling.
const DATA: &str = "mul madd msub mla mls mneg dot mmla mop aes div sqrt recp rsqrts scale";

fn judge(word: u32, name: &str, class: &str) -> Option<Multiply> {
    // MADD, MSUB, xMULH, UDIV and SDIV of 64 bits; xMADDL and xMSUBL widen 32.
    let address = word >> 31 == 1 && !name.ends_with('l');
    match class {
        "DP_3SRC" => (!address).then_some(Multiply::Scalar),
        "DP_2SRC" => (name.contains("div") && !address).then_some(Multiply::Scalar),
        // No kernel uses these extensions; additions are not told apart.
        _ if class.starts_with("SVE") || class.starts_with("SME") => Some(Multiply::Data),
        _ => {
            let data = DATA.split_whitespace().any(|part| name.contains(part));
            data.then_some(Multiply::Data)
        }
    }
}

/// The field of `word` of `bits` bits from bit `low` on: a signed distance in
/// instructions, here in bytes.
fn distance(word: u32, low: u32, bits: u32) -> u64 {
    let field = (word << (32 - low - bits)).cast_signed() >> (32 - bits);
    (i64::from(field) << 2).cast_unsigned()
}

fn flow(address: u64, word: u32, name: &str, class: &str) -> Flow {
    let direct = |low, bits| Flow::Direct(address.wrapping_add(distance(word, low, bits)));
    match (class, name) {
        ("BRANCH_IMM", _) => direct(0, 26),
        ("CONDBRANCH", _) | ("COMPBRANCH", "cbz" | "cbnz") => direct(5, 19),
        ("TESTBRANCH", _) => direct(5, 14),
        ("BRANCH_REG", "ret") => Flow::Next,
        // Compare and branch of Armv9.6 is not followed.
        ("BRANCH_REG" | "COMPBRANCH", _) => Flow::Indirect,
        _ => Flow::Next,
    }
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u32> {
    // A last incomplete word becomes one that is no instruction.
    let word = |bytes: &[u8]| bytes.try_into().map_or(0xffff_ffff, u32::from_le_bytes);
    bytes.chunks(4).map(word)
}

/// Decodes all of `bytes`.
pub fn decode(start: u64, bytes: &[u8]) -> Vec<Instruction> {
    let decoded = (start..)
        .step_by(4)
        .zip(words(bytes))
        .map(|(address, word)| {
            let definition = disarm64::decoder::decode(word).map(|opcode| opcode.definition());
            let class = definition.map_or(String::new(), |d| format!("{:?}", d.class));
            let name = definition.map_or("", |d| d.mnemonic);
            Instruction {
                address,
                name: definition.map(|_| name.to_owned()),
                multiply: judge(word, name, &class),
                flow: flow(address, word, name, &class),
            }
        });
    decoded.collect()
}

/// The slot that a stub of the procedure linkage table jumps to: `[bti c]; adrp
/// x16, page; ldr x17, [x16, offset]`, an addition and the jump.
pub fn stub_slot(start: u64, bytes: &[u8]) -> Option<u64> {
    const BTI_C: u32 = 0xd503_245f;
    let mut code = (start..).step_by(4).zip(words(bytes)).peekable();
    code.next_if(|&(_, word)| word == BTI_C);
    let ((address, adrp), (_, load)) = (code.next()?, code.next()?);
    if adrp & 0x9f00_001f != 0x9000_0010 || load & 0xffc0_03ff != 0xf940_0211 {
        return None;
    }
    // The page distance: immhi (bits 23-5) and immlo (bits 30-29), signed.
    let pages = distance(adrp, 5, 19) | u64::from(adrp >> 29 & 3);
    let page = (address & !0xfff).wrapping_add(pages << 12);
    Some(page.wrapping_add(u64::from(load >> 10 & 0xfff) << 3))
}

// As GNU binutils 2.40 assembles them.
/// mul, msub, smaddl, umull, sdiv, of 32 bits.
#[cfg(test)]
const SCALAR_WORDS: &[u32] = &[0x1b027c20, 0x1b028c20, 0x9b220c20, 0x9ba27c20, 0x1ac20c20];

/// mul, mla, mls, pmul, sqdmulh, sqrdmlah, smull, umull2, smlal, umlsl2, sqdmull, pmull;
/// by element: mla, mul, fmul, scalar fmul, sdot, sudot;
/// scalar fmul, fnmul, fmul, fmla, fmla of halves, fmadd, fnmsub, fcmla, fmlal, bfmlalb,
/// frecps, frsqrts, sdot, bfdot, smmla, usmmla, bfmmla, fdiv, fsqrt, aesmc;
/// of SVE and SME: add, ld1b, fmopa, smopa, smstart.
#[cfg(test)]
const DATA_WORDS: &[u32] = &[
    0x4e629c20, 0x4ea29420, 0x6e229420, 0x6e229c20, 0x4e62b420, 0x6e828420, 0x0e22c020, 0x6e22c020,
    0x0e628020, 0x6e62a020, 0x5e62d020, 0x0ee2e020, 0x6f720020, 0x4fa28020, 0x4fa29020, 0x5fa29020,
    0x4fa2e020, 0x4f22f020, 0x1e220820, 0x1e228820, 0x6e22dc20, 0x4e22cc20, 0x4e420c20, 0x1f020c20,
    0x1f228c20, 0x6e82cc20, 0x4e22ec20, 0x2ec2fc20, 0x4e22fc20, 0x5ea2fc20, 0x4e829420, 0x6e42fc20,
    0x4e82a420, 0x4e82ac20, 0x6e42ec20, 0x6e22fc20, 0x1e21c020, 0x4e286820, 0x04a20020, 0xa400a000,
    0x80812000, 0xa0812000, 0xd503477f,
];

/// add, lsl, cneg, vector add, addp, saddw, uadalp, uabal, tbl, tbx, fadd, fneg, bsl, sxtl,
/// ushr, sli, scvtf, ld4, movi, zip1; of addresses: madd, umulh, udiv.
#[cfg(test)]
const INNOCENT_WORDS: &[u32] = &[
    0x8b020c20, 0xd37df020, 0x5a811420, 0x4e228420, 0x4e22bc20, 0x0e221020, 0x6e606820, 0x2e225020,
    0x4e020020, 0x4e033020, 0x4e22d420, 0x6ea0f820, 0x6e621c20, 0x0f08a420, 0x6f0c0420, 0x6f0a5420,
    0x4e21d820, 0x4c400000, 0x4f00e420, 0x4e023820, 0x9b020c20, 0x9bc27c20, 0x9ac20820,
];

#[test]
fn known_words_are_decoded_and_judged() {
    for (words, multiply) in [
        (SCALAR_WORDS, Some(Multiply::Scalar)),
        (DATA_WORDS, Some(Multiply::Data)),
        (INNOCENT_WORDS, None),
    ] {
        for word in words {
            let decoded = &decode(0, &word.to_le_bytes())[0];
            assert!(decoded.name.is_some(), "{word:#010x}");
            assert_eq!(
                decoded.multiply, multiply,
                "{:?} {word:#010x}",
                decoded.name
            );
        }
    }
    assert_eq!(decode(0, &[0xff; 3])[0].name, None);
}

#[test]
fn branches_are_followed() {
    let flow = |word: u32| decode(0x1000, &word.to_le_bytes())[0].flow;
    // b, b.eq, tbz; bl, cbz.
    for word in [0x14000002, 0x54000040, 0x36180040] {
        assert_eq!(flow(word), Flow::Direct(0x1008), "{word:#010x}");
    }
    for word in [0x97fffffe, 0xb4ffffc0] {
        assert_eq!(flow(word), Flow::Direct(0xff8), "{word:#010x}");
    }
    // br, blr; ret, add.
    assert_eq!([0xd61f0220, 0xd63f0100].map(flow), [Flow::Indirect; 2]);
    assert_eq!([0xd65f03c0, 0x8b020c20].map(flow), [Flow::Next; 2]);
    // adrp x16, +1 page; ldr x17, [x16, #0x18]
    let stub = [0x10, 0, 0, 0xb0, 0x11, 0x0e, 0x40, 0xf9];
    assert_eq!(stub_slot(0x5_0120, &stub), Some(0x5_1018));
    assert_eq!(stub_slot(0x5_0120, &stub[4..]), None);
}
