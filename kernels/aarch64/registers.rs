//! Registers of constants.

use core::arch::aarch64::*;

/// A register of constants.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn lanes_u8(lanes: [u8; 16]) -> uint8x16_t {
    // SAFETY: the array is 16 bytes.
    unsafe { vld1q_u8(lanes.as_ptr()) }
}

/// A register of constants.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn lanes_s16(lanes: [i16; 8]) -> int16x8_t {
    // SAFETY: the array is 16 bytes.
    unsafe { vld1q_s16(lanes.as_ptr()) }
}

/// A register of constants.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn lanes_u32(lanes: [u32; 4]) -> uint32x4_t {
    // SAFETY: the array is 16 bytes.
    unsafe { vld1q_u32(lanes.as_ptr()) }
}
