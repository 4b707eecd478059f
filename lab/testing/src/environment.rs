//! Floating-point environments other than the default one.

/// Name and bits of the control register (MXCSR, FPCR) of each; none where the tests know no
/// such register.
pub const ENVIRONMENTS: &[(&str, u32)] = if cfg!(all(target_arch = "x86_64", not(miri))) {
    &[
        ("flush to zero", 0x1f80 | 0x8040),
        ("round down", 0x1f80 | 1 << 13),
        ("round up", 0x1f80 | 2 << 13),
        ("round to zero", 0x1f80 | 3 << 13),
    ]
} else if cfg!(all(target_arch = "aarch64", not(miri))) {
    &[
        ("flush to zero", 1 << 24),
        ("round up", 1 << 22),
        ("round down", 2 << 22),
        ("round to zero", 3 << 22),
    ]
} else {
    &[]
};

const DEFAULT: u32 = if cfg!(target_arch = "x86_64") {
    0x1f80
} else {
    0
};

/// The control register, without the flags of exceptions.
#[cfg(all(target_arch = "x86_64", not(miri)))]
fn control() -> u32 {
    let mut value = 0u32;
    // SAFETY: it writes four bytes, those of `value`.
    unsafe { core::arch::asm!("stmxcsr [{}]", in(reg) &raw mut value) };
    value & !0x3f
}

/// Makes `value` the control register of this thread, for good.
#[cfg(all(target_arch = "x86_64", not(miri)))]
pub fn set(value: u32) {
    // SAFETY: it reads four bytes, those of `value`, which has no reserved bit.
    unsafe { core::arch::asm!("ldmxcsr [{}]", in(reg) &raw const value) };
}

#[cfg(all(target_arch = "aarch64", not(miri)))]
fn control() -> u32 {
    let value: u64;
    // SAFETY: it reads a register that every program may read.
    unsafe { core::arch::asm!("mrs {}, fpcr", out(reg) value) };
    value as u32
}

#[cfg(all(target_arch = "aarch64", not(miri)))]
pub fn set(value: u32) {
    // SAFETY: every program may write it.
    unsafe { core::arch::asm!("msr fpcr, {}", in(reg) u64::from(value)) };
}

#[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
fn control() -> u32 {
    0
}

#[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
pub fn set(_: u32) {}

/// Runs `work`, which makes what is to be the same everywhere, in the default environment.
pub fn within_default<R>(work: impl FnOnce() -> R) -> R {
    let before = control();
    set(DEFAULT);
    let result = work();
    set(before);
    result
}

/// Runs `work` in an environment.
///
/// # Panics
/// If the environment is another one afterwards.
pub fn within<R>(environment: u32, work: impl FnOnce() -> R) -> R {
    let before = control();
    set(environment);
    let result = work();
    let after = control();
    set(before);
    assert_eq!(after, environment, "the environment is the caller's");
    result
}
