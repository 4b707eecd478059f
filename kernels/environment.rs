//! The floating-point environment: results are those of the default one, whatever the
//! caller's thread or a pool's has.
//!
//! Flush-to-zero, denormals-are-zero, a rounding direction or unmasked exceptions are a
//! property of each thread, in MXCSR (x86-64) or FPCR (AArch64). Programs set them for
//! speed, and C libraries for their callers. Elsewhere nothing is done: those targets have
//! no kernels but the scalar ones.

use core::hint::black_box;

/// Runs `work` in the default environment and gives back the one it found, also when `work`
/// panics. Exception flags that `work` raises stay raised only where the environment was the
/// default one.
#[inline]
pub fn in_default<R>(work: impl FnOnce() -> R) -> R {
    let found = control();
    let _back = (found & CONTROL != DEFAULT).then(|| {
        set_control(DEFAULT);
        Restore(found)
    });
    apart(work)
}

/// Keeps the arithmetic of `work` between the changes of the environment: the compiler knows
/// nothing of them and could move it.
#[inline(never)]
fn apart<R>(work: impl FnOnce() -> R) -> R {
    black_box(black_box(work)())
}

struct Restore(Register);

impl Drop for Restore {
    fn drop(&mut self) {
        set_control(self.0);
    }
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
mod register {
    use core::arch::asm;

    /// MXCSR.
    pub type Register = u32;
    /// Exceptions masked, rounding to nearest, subnormal numbers as they are.
    pub const DEFAULT: Register = 0x1f80;
    /// All but the exceptions' flags.
    pub const CONTROL: Register = !0x3f;

    #[inline]
    pub fn control() -> Register {
        let mut value: Register = 0;
        // SAFETY: it writes four bytes, those of `value`.
        unsafe {
            asm!("stmxcsr [{}]", in(reg) &raw mut value, options(nostack, preserves_flags));
        }
        value
    }

    pub fn set_control(value: Register) {
        // SAFETY: it reads four bytes, those of `value`: either DEFAULT, or what this
        // thread's register held, so that no reserved bit is set.
        unsafe {
            asm!("ldmxcsr [{}]", in(reg) &raw const value, options(nostack));
        }
    }
}

#[cfg(all(target_arch = "aarch64", not(miri)))]
mod register {
    use core::arch::asm;

    /// FPCR.
    pub type Register = u64;
    /// No exception trapped, rounding to nearest, subnormal numbers as they are.
    pub const DEFAULT: Register = 0;
    /// All of it: the exceptions' flags are in another register.
    pub const CONTROL: Register = !0;

    #[inline]
    pub fn control() -> Register {
        let value;
        // SAFETY: it reads a register that every program may read.
        unsafe { asm!("mrs {}, fpcr", out(reg) value, options(nostack, preserves_flags)) };
        value
    }

    pub fn set_control(value: Register) {
        // SAFETY: every program may write it; the value is DEFAULT or what this thread's
        // register held.
        unsafe { asm!("msr fpcr, {}", in(reg) value, options(nostack, preserves_flags)) };
    }
}

#[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
mod register {
    pub type Register = u32;
    pub const DEFAULT: Register = 0;
    pub const CONTROL: Register = 0;

    #[inline]
    pub fn control() -> Register {
        DEFAULT
    }

    pub fn set_control(_: Register) {}
}

use register::{CONTROL, DEFAULT, Register, control, set_control};
