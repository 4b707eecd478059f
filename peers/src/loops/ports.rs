//! Instructions by themselves and in the mixes of the row lanes, operands in
//! registers or L1 and nothing waiting for anything but its own accumulator.

use crate::measure::Loop;
use std::arch::asm;

const STEPS: u64 = 20_000;

/// What loops with a memory operand read: it stays in L1.
#[repr(C, align(64))]
struct Lines([u8; 128]);
static LINES: Lines = Lines([0; 128]);

/// A loop of `$per` units a step, given as assembly; registers 16 to 31 are
/// read, 0 to 15 written.
macro_rules! ports {
    ($group:literal, $name:literal, $unit:literal, $per:literal, $macs:literal, $($line:expr),+ $(,)?) => {
        Loop {
            group: $group,
            name: $name.to_owned(),
            unit: $unit,
            units: $per * STEPS,
            macs: $macs,
            run: Box::new(|| {
                for _ in 0..STEPS {
                    // SAFETY: `loops` has looked for the features; it reads within
                    // `LINES` and writes vector registers, all declared.
                    unsafe {
                        asm!(
                            $($line),+,
                            "/* {line} */",
                            line = in(reg) LINES.0.as_ptr(),
                            out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _,
                            out("zmm4") _, out("zmm5") _, out("zmm6") _, out("zmm7") _,
                            out("zmm8") _, out("zmm9") _, out("zmm10") _, out("zmm11") _,
                            out("zmm12") _, out("zmm13") _, out("zmm14") _, out("zmm15") _,
                            options(readonly, nostack),
                        );
                    }
                }
            }),
        }
    };
}

/// Eight independent copies of one instruction.
macro_rules! alone {
    ($name:literal, $op:literal, $operands:literal) => {
        ports!(
            "one 512-bit instruction",
            $name,
            "instruction",
            8,
            0,
            concat!($op, " zmm0, ", $operands),
            concat!($op, " zmm1, ", $operands),
            concat!($op, " zmm2, ", $operands),
            concat!($op, " zmm3, ", $operands),
            concat!($op, " zmm4, ", $operands),
            concat!($op, " zmm5, ", $operands),
            concat!($op, " zmm6, ", $operands),
            concat!($op, " zmm7, ", $operands),
        )
    };
}

/// The loops that this CPU can run.
pub fn loops() -> Vec<Loop> {
    let mut loops = Vec::new();
    if !(is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512vl")) {
        return loops;
    }
    loops.extend([
        alone!("vpermps", "vpermps", "zmm16, zmm17"),
        alone!("vpermw", "vpermw", "zmm16, zmm17"),
        alone!("vpshufb", "vpshufb", "zmm16, zmm17"),
        alone!("vpunpcklbw", "vpunpcklbw", "zmm16, zmm17"),
        alone!("vaddps", "vaddps", "zmm16, zmm17"),
        alone!("vpaddb", "vpaddb", "zmm16, zmm17"),
        alone!("vpaddw", "vpaddw", "zmm16, zmm17"),
        alone!("vpternlogd", "vpternlogd", "zmm16, zmm17, 0xca"),
        alone!("vpsrld by 4", "vpsrld", "zmm16, 4"),
        alone!("vpsrlvd", "vpsrlvd", "zmm16, zmm17"),
        alone!("vprold by 4", "vprold", "zmm16, 4"),
        ports!(
            "row lanes: 256 f32 MACs (64 packed bytes)",
            "8 vpermps, 8 vaddps",
            "64 bytes",
            1,
            256,
            "vpermps zmm8, zmm16, zmm17",
            "vaddps zmm0, zmm0, zmm8",
            "vpermps zmm9, zmm16, zmm17",
            "vaddps zmm1, zmm1, zmm9",
            "vpermps zmm10, zmm16, zmm17",
            "vaddps zmm2, zmm2, zmm10",
            "vpermps zmm11, zmm16, zmm17",
            "vaddps zmm3, zmm3, zmm11",
            "vpermps zmm12, zmm16, zmm17",
            "vaddps zmm4, zmm4, zmm12",
            "vpermps zmm13, zmm16, zmm17",
            "vaddps zmm5, zmm5, zmm13",
            "vpermps zmm14, zmm16, zmm17",
            "vaddps zmm6, zmm6, zmm14",
            "vpermps zmm15, zmm16, zmm17",
            "vaddps zmm7, zmm7, zmm15",
        ),
        ports!(
            "row lanes: 256 f32 MACs (64 packed bytes)",
            "8 + 8, 7 vpsrld",
            "64 bytes",
            1,
            256,
            "vpermps zmm8, zmm16, zmm17",
            "vaddps zmm0, zmm0, zmm8",
            "vpsrld zmm8, zmm16, 4",
            "vpermps zmm9, zmm16, zmm17",
            "vaddps zmm1, zmm1, zmm9",
            "vpsrld zmm9, zmm16, 8",
            "vpermps zmm10, zmm16, zmm17",
            "vaddps zmm2, zmm2, zmm10",
            "vpsrld zmm10, zmm16, 12",
            "vpermps zmm11, zmm16, zmm17",
            "vaddps zmm3, zmm3, zmm11",
            "vpsrld zmm11, zmm16, 16",
            "vpermps zmm12, zmm16, zmm17",
            "vaddps zmm4, zmm4, zmm12",
            "vpsrld zmm12, zmm16, 20",
            "vpermps zmm13, zmm16, zmm17",
            "vaddps zmm5, zmm5, zmm13",
            "vpsrld zmm13, zmm16, 24",
            "vpermps zmm14, zmm16, zmm17",
            "vaddps zmm6, zmm6, zmm14",
            "vpsrld zmm14, zmm16, 28",
            "vpermps zmm15, zmm16, zmm17",
            "vaddps zmm7, zmm7, zmm15",
        ),
    ]);
    if !is_x86_feature_detected!("avx512vbmi") {
        return loops;
    }
    loops.extend([
        ports!(
            "row lanes: 256 f32 MACs (64 packed bytes)",
            "8 + 8, 7 vpmultishiftqb",
            "64 bytes",
            1,
            256,
            "vpermps zmm8, zmm16, zmm17",
            "vaddps zmm0, zmm0, zmm8",
            "vpmultishiftqb zmm8, zmm18, zmm16",
            "vpermps zmm9, zmm16, zmm17",
            "vaddps zmm1, zmm1, zmm9",
            "vpmultishiftqb zmm9, zmm19, zmm16",
            "vpermps zmm10, zmm16, zmm17",
            "vaddps zmm2, zmm2, zmm10",
            "vpmultishiftqb zmm10, zmm20, zmm16",
            "vpermps zmm11, zmm16, zmm17",
            "vaddps zmm3, zmm3, zmm11",
            "vpmultishiftqb zmm11, zmm21, zmm16",
            "vpermps zmm12, zmm16, zmm17",
            "vaddps zmm4, zmm4, zmm12",
            "vpmultishiftqb zmm12, zmm22, zmm16",
            "vpermps zmm13, zmm16, zmm17",
            "vaddps zmm5, zmm5, zmm13",
            "vpmultishiftqb zmm13, zmm23, zmm16",
            "vpermps zmm14, zmm16, zmm17",
            "vaddps zmm6, zmm6, zmm14",
            "vpmultishiftqb zmm14, zmm24, zmm16",
            "vpermps zmm15, zmm16, zmm17",
            "vaddps zmm7, zmm7, zmm15",
        ),
        ports!(
            "row lanes: 256 f32 MACs (64 packed bytes)",
            "8 + 8, 4 unaligned loads, 4 vpmultishiftqb",
            "64 bytes",
            1,
            256,
            "vmovdqu64 zmm15, [{line}]",
            "vpermps zmm8, zmm15, zmm17",
            "vaddps zmm0, zmm0, zmm8",
            "vpmultishiftqb zmm15, zmm18, zmm15",
            "vpermps zmm9, zmm15, zmm17",
            "vaddps zmm1, zmm1, zmm9",
            "vmovdqu64 zmm15, [{line} + 1]",
            "vpermps zmm10, zmm15, zmm17",
            "vaddps zmm2, zmm2, zmm10",
            "vpmultishiftqb zmm15, zmm18, zmm15",
            "vpermps zmm11, zmm15, zmm17",
            "vaddps zmm3, zmm3, zmm11",
            "vmovdqu64 zmm15, [{line} + 2]",
            "vpermps zmm12, zmm15, zmm17",
            "vaddps zmm4, zmm4, zmm12",
            "vpmultishiftqb zmm15, zmm18, zmm15",
            "vpermps zmm13, zmm15, zmm17",
            "vaddps zmm5, zmm5, zmm13",
            "vmovdqu64 zmm15, [{line} + 3]",
            "vpermps zmm14, zmm15, zmm17",
            "vaddps zmm6, zmm6, zmm14",
            "vpmultishiftqb zmm15, zmm18, zmm15",
            "vpermps zmm8, zmm15, zmm17",
            "vaddps zmm7, zmm7, zmm8",
        ),
        ports!(
            "row lanes: 768 int8 MACs (three strips)",
            "8 vpermb, 8 vpaddb",
            "192 bytes",
            1,
            768,
            "vpermb zmm8, zmm16, zmm17",
            "vpaddb zmm0, zmm0, zmm8",
            "vpermb zmm9, zmm16, zmm18",
            "vpaddb zmm1, zmm1, zmm9",
            "vpermb zmm10, zmm19, zmm17",
            "vpaddb zmm0, zmm0, zmm10",
            "vpermb zmm11, zmm19, zmm18",
            "vpaddb zmm1, zmm1, zmm11",
            "vpermb zmm12, zmm20, zmm17",
            "vpaddb zmm0, zmm0, zmm12",
            "vpermb zmm13, zmm20, zmm18",
            "vpaddb zmm1, zmm1, zmm13",
            "vpermb zmm14, zmm21, zmm17",
            "vpaddb zmm0, zmm0, zmm14",
            "vpermb zmm15, zmm21, zmm18",
            "vpaddb zmm1, zmm1, zmm15",
        ),
        ports!(
            "row lanes: 768 int8 MACs (three strips)",
            "8 + 8, indices, half the folds",
            "192 bytes",
            1,
            768,
            "vpsrlw zmm5, zmm16, 2",
            "vpsrlw zmm6, zmm19, 4",
            "vpsrlw zmm7, zmm20, 6",
            "vpternlogd zmm5, zmm6, zmm22, 0xca",
            "vpternlogd zmm5, zmm7, zmm23, 0xca",
            "vpermb zmm8, zmm16, zmm17",
            "vpaddb zmm0, zmm0, zmm8",
            "vpermb zmm9, zmm16, zmm18",
            "vpaddb zmm1, zmm1, zmm9",
            "vpermb zmm10, zmm19, zmm17",
            "vpaddb zmm0, zmm0, zmm10",
            "vpermb zmm11, zmm19, zmm18",
            "vpaddb zmm1, zmm1, zmm11",
            "vpermb zmm12, zmm20, zmm17",
            "vpaddb zmm0, zmm0, zmm12",
            "vpermb zmm13, zmm20, zmm18",
            "vpaddb zmm1, zmm1, zmm13",
            "vpermb zmm14, zmm5, zmm17",
            "vpaddb zmm0, zmm0, zmm14",
            "vpermb zmm15, zmm5, zmm18",
            "vpaddb zmm1, zmm1, zmm15",
            "vpaddw zmm2, zmm2, zmm0",
            "vpsrlw zmm4, zmm1, 8",
            "vpaddw zmm3, zmm3, zmm4",
        ),
        // A fold takes 6 instructions for four strips, so 3 for two.
        ports!(
            "row lanes, weights out of memory: 512 int8 MACs (two strips)",
            "2 shifts, 8 vpermb, 8 vpaddb, half the folds",
            "128 bytes",
            1,
            512,
            "vpsrlw zmm5, zmm16, 4",
            "vpermb zmm8, zmm5, zmm17",
            "vpaddb zmm0, zmm0, zmm8",
            "vpermb zmm9, zmm5, zmm18",
            "vpaddb zmm1, zmm1, zmm9",
            "vpermb zmm10, zmm16, zmm20",
            "vpaddb zmm0, zmm0, zmm10",
            "vpermb zmm11, zmm16, zmm21",
            "vpaddb zmm1, zmm1, zmm11",
            "vpsrlw zmm6, zmm19, 4",
            "vpermb zmm12, zmm6, zmm17",
            "vpaddb zmm0, zmm0, zmm12",
            "vpermb zmm13, zmm6, zmm18",
            "vpaddb zmm1, zmm1, zmm13",
            "vpermb zmm14, zmm19, zmm20",
            "vpaddb zmm0, zmm0, zmm14",
            "vpermb zmm15, zmm19, zmm21",
            "vpaddb zmm1, zmm1, zmm15",
            "vpaddw zmm2, zmm2, zmm0",
            "vpsrlw zmm4, zmm1, 8",
            "vpaddw zmm3, zmm3, zmm4",
        ),
        alone!("vpermb", "vpermb", "zmm16, zmm17"),
        alone!("vpmultishiftqb", "vpmultishiftqb", "zmm16, zmm17"),
    ]);
    // Instructions first, then mixes; each kind in the order above.
    loops.sort_by_key(|l| !l.group.starts_with("one"));
    loops
}
