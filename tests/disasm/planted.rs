//! Functions that the scanner must judge: only their code is read, most of
//! them never run.

use super::disasm::Fault;
use core::sync::atomic::{AtomicPtr, Ordering};

/// A function of this module.
#[derive(Clone, Copy)]
pub struct Code(pub *const ());

// SAFETY: the pointer is only compared, never followed.
unsafe impl Sync for Code {}

/// A function that multiplies.
pub struct Plant {
    /// Its name in this module.
    pub name: &'static str,
    /// Where it is.
    pub function: Code,
    /// The mnemonics one of which must be found.
    pub mnemonics: &'static [&'static str],
}

macro_rules! plants {
    ($($name:ident: $($mnemonic:literal)|+;)+) => {
        &[$(Plant {
            name: stringify!($name),
            function: Code($name as *const ()),
            mnemonics: &[$($mnemonic),+],
        }),+]
    };
}

#[inline(never)]
fn int(a: i64, b: i64) -> i64 {
    a.wrapping_mul(b)
}

#[inline(never)]
fn float(a: f32, b: f32) -> f32 {
    a * b
}

/// A sum of products, as a compiler vectorises it.
#[inline(never)]
fn dot(a: &[f32; 64], b: &[f32; 64], out: &mut [f32; 64]) {
    for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
        *out += a * b;
    }
}

/// A multiplication for an address.
#[inline(never)]
fn address(rows: &[u8], stride: usize, row: usize) -> *const u8 {
    rows.as_ptr().wrapping_add(stride.wrapping_mul(row))
}

/// The multiplication is in what this function calls,
#[inline(never)]
fn called(a: i64, b: i64) -> i64 {
    int(a, b).wrapping_add(int(b, a ^ b))
}

/// or in what it ends with, as a jump.
#[inline(never)]
fn jumped(a: i64, b: i64) -> i64 {
    int(a ^ b, b)
}

/// A call through a pointer.
#[inline(never)]
fn pointer(f: &dyn Fn(i64) -> i64, a: i64) -> i64 {
    f(a).wrapping_add(1)
}

/// A call through a variable, which need not stay what the file says it is.
#[inline(never)]
fn variable(a: i64) -> i64 {
    static FUNCTION: AtomicPtr<()> = AtomicPtr::new(harmless as *mut ());
    let function = FUNCTION.load(Ordering::Relaxed);
    // SAFETY: it only ever holds `harmless`.
    let function: fn(i64) -> i64 = unsafe { core::mem::transmute(function) };
    // So that the compiler cannot know what it holds.
    FUNCTION.store(
        core::hint::black_box(function as *mut ()),
        Ordering::Relaxed,
    );
    function(a) ^ 1
}

#[inline(never)]
fn harmless(a: i64) -> i64 {
    a ^ 3
}

/// A function of a library.
#[cfg(not(target_feature = "crt-static"))]
#[inline(never)]
fn library(a: &[u8; 40], b: &[u8; 40]) -> bool {
    unsafe extern "C" {
        fn strncmp(a: *const u8, b: *const u8, n: usize) -> core::ffi::c_int;
    }
    // SAFETY: both hold 40 bytes.
    unsafe { strncmp(a.as_ptr(), b.as_ptr(), 40) == 1 }
}

/// Additions, a bounds check and copies.
#[inline(never)]
fn sum(values: &[i32], at: usize, out: &mut [i32]) -> i32 {
    out.copy_from_slice(values);
    values
        .iter()
        .fold(values[at], |sum, x| sum.wrapping_add(*x))
}

#[cfg(target_arch = "x86_64")]
mod isa {
    use core::arch::asm;
    use core::arch::x86_64::*;

    #[inline(never)]
    #[target_feature(enable = "avx2")]
    pub fn pmaddubsw(a: __m256i, b: __m256i) -> __m256i {
        _mm256_maddubs_epi16(a, b)
    }

    #[inline(never)]
    #[target_feature(enable = "avx2")]
    pub fn pmulld(a: __m256i, b: __m256i) -> __m256i {
        _mm256_mullo_epi32(a, b)
    }

    #[inline(never)]
    #[target_feature(enable = "avx2,fma")]
    pub fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
        _mm256_fmadd_ps(a, b, c)
    }

    #[inline(never)]
    #[target_feature(enable = "avx512f,avx512vnni")]
    pub fn vnni(sum: __m512i, a: __m512i, b: __m512i) -> __m512i {
        _mm512_dpbusd_epi32(sum, a, b)
    }

    #[inline(never)]
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub fn ifma(sum: __m512i, a: __m512i, b: __m512i) -> __m512i {
        _mm512_madd52lo_epu64(sum, a, b)
    }

    #[inline(never)]
    #[target_feature(enable = "pclmulqdq")]
    pub fn carry_less(a: __m128i, b: __m128i) -> __m128i {
        _mm_clmulepi64_si128::<0>(a, b)
    }

    #[inline(never)]
    #[target_feature(enable = "gfni")]
    pub fn galois(a: __m128i, b: __m128i) -> __m128i {
        _mm_gf2p8mul_epi8(a, b)
    }

    #[inline(never)]
    pub fn tile() {
        // SAFETY: never executed.
        unsafe { asm!(".byte 0xc4, 0xe2, 0x73, 0x5e, 0xc2") }
    }

    #[inline(never)]
    pub fn undecodable() {
        // SAFETY: never executed; an opcode that 64-bit mode does not have.
        unsafe { asm!(".byte 0x06") }
    }

    /// What is no multiplication though it looks like one.
    #[inline(never)]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    pub fn permute(a: __m512i, b: __m512i) -> __m512i {
        let bytes = _mm512_multishift_epi64_epi8(a, b);
        let looked_up = _mm512_permutexvar_epi8(bytes, b);
        _mm512_add_epi64(_mm512_sad_epu8(looked_up, a), bytes)
    }
}

#[cfg(target_arch = "aarch64")]
mod isa {
    use core::arch::aarch64::*;
    use core::arch::asm;

    #[inline(never)]
    #[target_feature(enable = "neon")]
    pub fn mla(sum: int16x8_t, a: int16x8_t, b: int16x8_t) -> int16x8_t {
        vmlaq_s16(sum, a, b)
    }

    #[inline(never)]
    #[target_feature(enable = "neon")]
    pub fn mlal(sum: int16x8_t, a: int8x8_t, b: int8x8_t) -> int16x8_t {
        vmlal_s8(sum, a, b)
    }

    #[inline(never)]
    #[target_feature(enable = "neon")]
    pub fn qdmulh(a: int16x8_t, b: int16x8_t) -> int16x8_t {
        vqdmulhq_s16(a, b)
    }

    #[inline(never)]
    #[target_feature(enable = "neon")]
    pub fn by_element(a: int16x8_t, b: int16x8_t) -> int16x8_t {
        vmulq_laneq_s16::<3>(a, b)
    }

    #[inline(never)]
    #[target_feature(enable = "neon")]
    pub fn fma(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        vfmaq_f32(a, b, c)
    }

    #[inline(never)]
    #[target_feature(enable = "neon")]
    pub fn polynomial(a: poly8x8_t, b: poly8x8_t) -> poly16x8_t {
        vmull_p8(a, b)
    }

    macro_rules! words {
        ($($name:ident $word:literal)+) => {
            $(#[inline(never)]
            pub fn $name() {
                // SAFETY: never executed.
                unsafe { asm!(concat!(".inst ", $word)) }
            })+
        };
    }
    words! {
        sdot "0x4e829420"
        smmla "0x4e82a420"
        sve_add "0x04a20020"
        sme_outer "0xa0812000"
        undecodable "0xffffffff"
    }

    /// Widening additions and look-ups.
    #[inline(never)]
    #[target_feature(enable = "neon")]
    pub fn permute(sum: uint32x4_t, a: uint8x16_t, b: uint8x16_t) -> uint32x4_t {
        let looked_up = vqtbl1q_u8(a, b);
        vpadalq_u16(sum, vaddw_high_u8(vpaddlq_u8(a), looked_up))
    }
}

use isa::*;

/// Functions that multiply.
#[cfg(target_arch = "x86_64")]
pub static MULTIPLY: &[Plant] = plants! {
    int: "imul";
    float: "mulss" | "vmulss";
    dot: "mulps" | "vmulps";
    address: "imul";
    called: "imul";
    jumped: "imul";
    pmaddubsw: "vpmaddubsw";
    pmulld: "vpmulld";
    fma: "vfmadd132ps" | "vfmadd213ps" | "vfmadd231ps";
    vnni: "vpdpbusd";
    ifma: "vpmadd52luq";
    carry_less: "pclmulqdq" | "vpclmulqdq";
    galois: "gf2p8mulb" | "vgf2p8mulb";
    tile: "tdpbssd";
};

/// Functions that multiply.
#[cfg(target_arch = "aarch64")]
pub static MULTIPLY: &[Plant] = plants! {
    int: "mul" | "madd";
    float: "fmul";
    dot: "fmul" | "fmla";
    address: "mul" | "madd";
    called: "mul" | "madd";
    jumped: "mul" | "madd";
    mla: "mla";
    mlal: "smlal";
    qdmulh: "sqdmulh";
    by_element: "mul";
    fma: "fmla";
    polynomial: "pmull";
    sdot: "sdot";
    smmla: "smmla";
    sve_add: "add";
    sme_outer: "smopa";
};

/// On x86-64 the address of the variable is in the instruction.
#[cfg(target_arch = "x86_64")]
const VARIABLE: Fault = Fault::Unknown(String::new());
#[cfg(target_arch = "aarch64")]
const VARIABLE: Fault = Fault::Indirect;

/// Functions that cannot be judged, and why.
pub static OPAQUE: &[(&str, Code, Fault)] = &[
    ("pointer", Code(pointer as *const ()), Fault::Indirect),
    ("variable", Code(variable as *const ()), VARIABLE),
    // In a static binary the library's code is there to be scanned.
    #[cfg(not(target_feature = "crt-static"))]
    (
        "library",
        Code(library as *const ()),
        Fault::Unknown(String::new()),
    ),
    (
        "undecodable",
        Code(undecodable as *const ()),
        Fault::Undecodable,
    ),
];

/// Functions that only add, copy, look up and check bounds.
pub static INNOCENT: &[(&str, Code)] = &[
    ("sum", Code(sum as *const ())),
    ("permute", Code(permute as *const ())),
];
