//! Functions that the scanner must judge: only their code is read, most of
//! them never run.

use super::disasm::{Fault, Multiply};
use core::arch::asm;
use core::sync::atomic::{AtomicPtr, Ordering};

/// A function of this module.
#[derive(Clone, Copy)]
pub struct Code(pub *const ());

// SAFETY: the pointer is only compared, never followed.
unsafe impl Sync for Code {}

/// A function that multiplies: its name in this module, where it is, what it
/// multiplies, and the mnemonics one of which must be found.
pub type Plant = (&'static str, Code, Multiply, &'static [&'static str]);

macro_rules! plants {
    ($($name:ident: $multiply:ident, $($mnemonic:literal)|+;)+) => {
        &[$((
            stringify!($name),
            Code($name as *const ()),
            Multiply::$multiply,
            &[$($mnemonic),+],
        )),+]
    };
}

/// Functions of one instruction, whatever this CPU has, and its mnemonic.
macro_rules! instructions {
    ($($name:ident: $text:literal, $mnemonic:literal;)+) => {
        $(#[inline(never)]
        fn $name() {
            // SAFETY: never executed.
            unsafe { asm!($text) }
        })+

        /// Functions that multiply by instructions of this architecture.
        pub static INSTRUCTIONS: &[Plant] = plants! { $($name: Data, $mnemonic;)+ };
    };
}

#[inline(never)]
fn int(a: i32, b: i32) -> i32 {
    a.wrapping_mul(b)
}

/// A multiplication for an address.
#[inline(never)]
fn address(rows: &[u8], stride: usize, row: usize) -> *const u8 {
    rows.as_ptr().wrapping_add(stride.wrapping_mul(row))
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

/// The multiplication is in what this function calls,
#[inline(never)]
fn called(a: f32, b: f32) -> f32 {
    float(a, b) + float(b, a + b)
}

/// or in what it ends with, as a jump.
#[inline(never)]
fn jumped(a: f32, b: f32) -> f32 {
    float(a + b, b)
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
    // So that the compiler cannot know what it holds.
    let opaque = core::hint::black_box(function);
    FUNCTION.store(opaque, Ordering::Relaxed);
    // SAFETY: it only ever holds `harmless`.
    let function: fn(i64) -> i64 = unsafe { core::mem::transmute(function) };
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
    let values = values.iter().skip(at);
    values.fold(out[at], |sum, x| sum.wrapping_add(*x))
}

/// Functions that multiply as a compiler has it.
pub static COMPILED: &[Plant] = plants! {
    int: Scalar, "imul" | "mul" | "madd";
    float: Data, "mulss" | "vmulss" | "fmul";
    dot: Data, "mulps" | "vmulps" | "fmul" | "fmla";
    called: Data, "mulss" | "vmulss" | "fmul";
    jumped: Data, "mulss" | "vmulss" | "fmul";
};

#[cfg(target_arch = "x86_64")]
instructions! {
    pmaddubsw: "vpmaddubsw ymm0, ymm1, ymm2", "vpmaddubsw";
    pmulld: "vpmulld ymm0, ymm1, ymm2", "vpmulld";
    fma: "vfmadd231ps ymm0, ymm1, ymm2", "vfmadd231ps";
    vnni: "vpdpbusd zmm0, zmm1, zmm2", "vpdpbusd";
    ifma: "vpmadd52luq zmm0, zmm1, zmm2", "vpmadd52luq";
    carry_less: "pclmulqdq xmm0, xmm1, 0", "pclmulqdq";
    tile: ".byte 0xc4, 0xe2, 0x73, 0x5e, 0xc2", "tdpbssd";
}

// As words, which no assembler refuses for want of an extension.
#[cfg(target_arch = "aarch64")]
instructions! {
    mla: ".inst 0x4ea29420", "mla";
    by_element: ".inst 0x4fa28020", "mul";
    fma: ".inst 0x4e22cc20", "fmla";
    polynomial: ".inst 0x0ee2e020", "pmull";
    sdot: ".inst 0x4e829420", "sdot";
    smmla: ".inst 0x4e82a420", "smmla";
    sve_add: ".inst 0x04a20020", "add";
    sme_outer: ".inst 0xa0812000", "smopa";
}

/// Words that are no instruction.
#[inline(never)]
fn undecodable() {
    // SAFETY: never executed.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        asm!(".byte 0x06");
        #[cfg(target_arch = "aarch64")]
        asm!(".inst 0xffffffff");
    }
}

/// Additions and look-ups, and what only sounds like a multiplication.
#[inline(never)]
fn permute() {
    // SAFETY: never executed.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        asm!(
            "vpmultishiftqb zmm0, zmm1, zmm2",
            "vpermb zmm0, zmm0, zmm1",
            "vpsadbw zmm0, zmm0, zmm2",
            "vpaddq zmm0, zmm0, zmm1",
        );
        #[cfg(target_arch = "aarch64")]
        asm!("tbl v0.16b, {{v1.16b}}, v2.16b", "uadalp v0.4s, v0.8h");
    }
}

/// On x86-64 the address of the variable is in the instruction.
const VARIABLE: Fault = if cfg!(target_arch = "x86_64") {
    Fault::Unknown(String::new())
} else {
    Fault::Indirect
};

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

/// Functions that only add, copy, look up, check bounds and find addresses.
pub static INNOCENT: &[(&str, Code)] = &[
    ("sum", Code(sum as *const ())),
    ("permute", Code(permute as *const ())),
    ("address", Code(address as *const ())),
];
