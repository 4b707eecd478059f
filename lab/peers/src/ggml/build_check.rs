//! Whether ggml's fast path is the one that was linked. A peer built without
//! AVX2 would lose by 20 times and prove nothing, so every run looks at the
//! machine code of the very function it is going to time.

use super::ffi;
use anyhow::ensure;
use std::ffi::CStr;

/// What was linked, in words; an error if it is not the fast path.
pub fn inspect() -> anyhow::Result<String> {
    // SAFETY: these take nothing and return flags or a static string.
    let (version, flags) = unsafe {
        let flags = [
            ("AVX2", ffi::ggml_cpu_has_avx2()),
            ("FMA", ffi::ggml_cpu_has_fma()),
            ("F16C", ffi::ggml_cpu_has_f16c()),
            ("AVX512", ffi::ggml_cpu_has_avx512()),
            ("AVX512_VNNI", ffi::ggml_cpu_has_avx512_vnni()),
        ];
        (CStr::from_ptr(whisper_rs_sys::ggml_version()), flags)
    };
    let compiled_for = flags.iter().filter(|flag| flag.1 != 0).map(|flag| flag.0);
    let compiled_for: Vec<&str> = compiled_for.collect();
    let (ymm, zmm) = count_vpmaddubsw();
    if cfg!(target_arch = "x86_64") {
        for needed in ["AVX2", "FMA", "F16C"] {
            ensure!(
                compiled_for.contains(&needed),
                "ggml was built without {needed}: build on the CPU that is measured, without \
                 GGML_NATIVE=OFF or SOURCE_DATE_EPOCH in the environment"
            );
        }
        ensure!(
            ymm + zmm >= 4,
            "the linked ggml_vec_dot_tq2_0_q8_K has no 256-bit vpmaddubsw: its AVX2 path is \
             not compiled in"
        );
    }
    Ok(format!(
        "ggml {}: built for {}; its linked TQ2_0 kernel has {ymm} vpmaddubsw ymm, {zmm} zmm",
        version.to_string_lossy(),
        compiled_for.join(" ")
    ))
}

/// Bytes of code looked at; the function is about 450 bytes long.
const WINDOW: usize = 512;

/// Counts `vpmaddubsw` (opcode map 0F38, prefix 66, opcode 04) of 256 and of 512 bits by
/// its VEX and EVEX encodings.
fn count_vpmaddubsw() -> (usize, usize) {
    if !cfg!(target_arch = "x86_64") {
        return (0, 0);
    }
    let vec_dot = super::traits(whisper_rs_sys::ggml_type_GGML_TYPE_TQ2_0)
        .vec_dot
        .expect("TQ2_0 has a vec_dot");
    // SAFETY: code is readable, and megabytes of ggml's text follow this
    // function in the same section.
    let code = unsafe { std::slice::from_raw_parts(vec_dot as *const u8, WINDOW) };
    count_in(code)
}

fn count_in(code: &[u8]) -> (usize, usize) {
    let (mut ymm, mut zmm) = (0, 0);
    for i in code.windows(6) {
        // VEX: C4 RXBmmmmm WvvvvLpp opcode.
        let vex = i[0] == 0xC4 && i[1] & 0x1F == 2 && i[2] & 3 == 1 && i[3] == 0x04;
        // EVEX: 62 ....0mmm Wvvvv1pp zL'Lb.... opcode.
        let evex = i[0] == 0x62 && i[1] & 7 == 2 && i[2] & 7 == 5 && i[4] == 0x04;
        match (vex, evex) {
            (true, _) if i[2] & 4 != 0 => ymm += 1,
            (_, true) if i[3] >> 5 & 3 == 1 => ymm += 1,
            (_, true) if i[3] >> 5 & 3 == 2 => zmm += 1,
            _ => {}
        }
    }
    (ymm, zmm)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_are_told_apart() {
        // As GNU as assembles them, followed by padding.
        let cases: [(&[u8], (usize, usize)); 4] = [
            // vpmaddubsw ymm0, ymm1, ymm2
            (&[0xC4, 0xE2, 0x75, 0x04, 0xC2, 0x90], (1, 0)),
            // vpmaddubsw xmm0, xmm1, xmm2
            (&[0xC4, 0xE2, 0x71, 0x04, 0xC2, 0x90], (0, 0)),
            // vpmaddubsw zmm0, zmm1, zmm2
            (&[0x62, 0xF2, 0x75, 0x48, 0x04, 0xC2], (0, 1)),
            // vpmaddubsw ymm16, ymm1, ymm2
            (&[0x62, 0xE2, 0x75, 0x28, 0x04, 0xC2], (1, 0)),
        ];
        for (code, expected) in cases {
            assert_eq!(count_in(code), expected, "{code:02X?}");
        }
    }

    #[test]
    fn this_build_has_the_fast_path() {
        assert!(inspect().unwrap().starts_with("ggml "));
    }
}
