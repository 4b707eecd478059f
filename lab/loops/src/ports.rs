//! Instructions by themselves and in the mixes of the kernels for few tokens, operands
//! in registers or L1 and nothing waiting for anything but its own accumulator.
//!
//! `.irp` repeats lines for each of the listed values of `\r`.

use crate::measure::Loop;
use std::arch::asm;

const STEPS: u64 = 20_000;

/// What loops with a memory operand read: it stays in L1.
#[repr(C, align(64))]
struct Lines([u8; 128]);
static LINES: Lines = Lines([0; 128]);

/// A loop of `$per` units a step, given as assembly. Registers 0 to 15 and 20 to 29 are
/// written, the others read.
macro_rules! mix {
    ($group:expr, $name:literal, $unit:literal x $per:literal, $macs:literal, $($line:expr),+ $(,)?) => {
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
                            out("zmm20") _, out("zmm21") _, out("zmm22") _, out("zmm23") _,
                            out("zmm24") _, out("zmm25") _, out("zmm26") _, out("zmm27") _,
                            out("zmm28") _, out("zmm29") _,
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
    ($op:literal, $operands:literal) => {
        mix!(
            "one 512-bit instruction", $op, "instruction" x 8, 0,
            ".irp r,0,1,2,3,4,5,6,7",
            concat!($op, " zmm\\r, ", $operands),
            ".endr",
        )
    };
}

/// The 256 f32 MACs of a strip: 8 look-ups and additions, each but the last followed by
/// the shift `$op` that makes the next index.
macro_rules! f32_by_shifts {
    ($name:literal, $op:literal, $operands:literal) => {
        mix!(
            F32, $name, "64 bytes" x 1, 256,
            ".irp r,0,1,2,3,4,5,6",
            "vpermps zmm2\\r, zmm16, zmm17",
            "vaddps zmm\\r, zmm\\r, zmm2\\r",
            concat!($op, " zmm2\\r, ", $operands),
            ".endr",
            "vpermps zmm27, zmm16, zmm17",
            "vaddps zmm7, zmm7, zmm27",
        )
    };
}

/// Four indices of three strips in zmm16, 18, 19 and 5.
macro_rules! indices {
    () => {
        "vpsrlw zmm5, zmm16, 2
        vpsrlw zmm6, zmm18, 4
        vpsrlw zmm7, zmm19, 6
        vpternlogd zmm5, zmm6, zmm30, 0xca
        vpternlogd zmm5, zmm7, zmm31, 0xca"
    };
}

/// Looks each up in two tables of a token, adds up and folds half of the sums: those
/// sums in `$low` and `$high`, folded ones in `$low_total` and `$high_total`.
macro_rules! token {
    ($low:literal, $high:literal, $low_total:literal, $high_total:literal) => {
        concat!(
            ".irp r,16,18,19,5\nvpermb zmm20, zmm\\r, zmm17\nvpaddb ",
            $low,
            ", ",
            $low,
            ", zmm20\nvpermb zmm21, zmm\\r, zmm30\nvpaddb ",
            $high,
            ", ",
            $high,
            ", zmm21\n.endr\nvpaddw ",
            $low_total,
            ", ",
            $low_total,
            ", ",
            $low,
            "\nvpsrlw zmm22, ",
            $high,
            ", 8\nvpaddw ",
            $high_total,
            ", ",
            $high_total,
            ", zmm22",
        )
    };
}

/// 8 look-ups of 16-bit entries, each added by `$op`.
macro_rules! by_words {
    ($name:literal, $op:literal) => {
        mix!(
            INT8, $name, "192 bytes" x 1, 768,
            ".irp r,0,1,2,3,4,5,6,7",
            "vpermw zmm2\\r, zmm16, zmm17",
            concat!($op, " zmm\\r, zmm\\r, zmm2\\r"),
            ".endr",
        )
    };
}

const F32: &str = "few tokens: 256 f32 MACs (64 packed bytes)";
const INT8: &str = "few tokens: 768 int8 MACs (three strips)";

/// The loops that this CPU can run.
pub fn loops() -> Vec<Loop> {
    let mut loops = Vec::new();
    if !(is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512vl")) {
        return loops;
    }
    let vbmi = is_x86_feature_detected!("avx512vbmi");
    loops.extend([
        alone!("vpermps", "zmm16, zmm17"),
        alone!("vpermw", "zmm16, zmm17"),
        alone!("vpshufb", "zmm16, zmm17"),
        alone!("vpunpcklbw", "zmm16, zmm17"),
        alone!("vaddps", "zmm16, zmm17"),
        alone!("vpaddb", "zmm16, zmm17"),
        alone!("vpaddw", "zmm16, zmm17"),
        alone!("vpternlogd", "zmm16, zmm17, 0xca"),
        alone!("vpsrld", "zmm16, 4"),
        alone!("vpsrlvd", "zmm16, zmm17"),
        alone!("vprold", "zmm16, 4"),
    ]);
    if vbmi {
        loops.extend([
            alone!("vpermb", "zmm16, zmm17"),
            alone!("vpmultishiftqb", "zmm16, zmm17"),
        ]);
    }
    loops.extend([
        mix!(
            F32, "8 vpermps, 8 vaddps", "64 bytes" x 1, 256,
            ".irp r,0,1,2,3,4,5,6,7",
            "vpermps zmm2\\r, zmm16, zmm17",
            "vaddps zmm\\r, zmm\\r, zmm2\\r",
            ".endr",
        ),
        f32_by_shifts!("8 + 8, 7 vpsrld", "vpsrld", "zmm16, 4"),
        mix!(
            F32, "8 + 8, 4 unaligned loads, 4 vpsrld", "64 bytes" x 1, 256,
            ".irp r,0,1,2,3",
            "vmovdqu64 zmm28, [{line} + \\r]",
            "vpermps zmm2\\r, zmm28, zmm17",
            "vaddps zmm\\r, zmm\\r, zmm2\\r",
            "vpsrld zmm28, zmm28, 4",
            "vpermps zmm2\\r, zmm28, zmm17",
            "vaddps zmm1\\r, zmm1\\r, zmm2\\r",
            ".endr",
        ),
    ]);
    if vbmi {
        loops.extend([
            f32_by_shifts!("8 + 8, 7 vpmultishiftqb", "vpmultishiftqb", "zmm18, zmm16"),
            mix!(
                INT8, "8 vpermb, 8 vpaddb", "192 bytes" x 1, 768,
                ".irp r,0,1,2,3",
                "vpermb zmm2\\r, zmm16, zmm17",
                "vpaddb zmm0, zmm0, zmm2\\r",
                "vpermb zmm2\\r, zmm16, zmm18",
                "vpaddb zmm1, zmm1, zmm2\\r",
                ".endr",
            ),
            mix!(
                INT8, "8 + 8, indices, half the folds", "192 bytes" x 1, 768,
                indices!(),
                token!("zmm0", "zmm1", "zmm2", "zmm3"),
            ),
            mix!(
                INT8, "the same, indices shared by two tokens", "192 bytes" x 2, 768,
                indices!(),
                token!("zmm0", "zmm1", "zmm2", "zmm3"),
                token!("zmm12", "zmm13", "zmm14", "zmm15"),
            ),
            by_words!("8 vpermw, 8 vpaddw", "vpaddw"),
            by_words!("8 vpermw, 8 vpaddsw", "vpaddsw"),
            // A fold takes 6 instructions for four strips, so 3 for two.
            mix!(
                "few tokens, weights from memory: 512 int8 MACs (two strips)",
                "2 shifts, 8 vpermb, 8 vpaddb, half the folds", "128 bytes" x 1, 512,
                ".irp r,16,19",
                "vpsrlw zmm5, zmm\\r, 4",
                "vpermb zmm8, zmm5, zmm17",
                "vpaddb zmm0, zmm0, zmm8",
                "vpermb zmm9, zmm5, zmm18",
                "vpaddb zmm1, zmm1, zmm9",
                "vpermb zmm10, zmm\\r, zmm30",
                "vpaddb zmm0, zmm0, zmm10",
                "vpermb zmm11, zmm\\r, zmm31",
                "vpaddb zmm1, zmm1, zmm11",
                ".endr",
                "vpaddw zmm2, zmm2, zmm0",
                "vpsrlw zmm4, zmm1, 8",
                "vpaddw zmm3, zmm3, zmm4",
            ),
        ]);
    }
    loops
}
