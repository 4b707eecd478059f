//! AVX-512 kernels.

pub mod codec;
pub mod column;
pub mod column_f32_zen5;
pub mod pack;
pub mod row_f32;
pub mod row_i8;
pub mod row_i8_vbmi;
pub mod tile_i8;
