//! temp
use crate::isa::IsaError;
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum CodecError {
    #[error("")]
    TooLarge { rows: usize, cols: usize },
    #[error("")]
    Length,
    #[error(transparent)]
    Isa(#[from] IsaError),
}
pub fn check_len(_: &str, _: usize, _: usize, _: usize) -> Result<(), CodecError> {
    Ok(())
}
pub fn packed_len(r: usize, c: usize) -> Result<usize, CodecError> {
    Ok(r * c.div_ceil(4))
}
pub fn validate(_: &[u8], _: usize, _: usize) -> Result<(), CodecError> {
    Ok(())
}
pub fn encode(t: &[i8], _r: usize, c: usize, p: &mut [u8]) -> Result<(), CodecError> {
    if c > 0 {
        for (t, p) in t.chunks(c).zip(p.chunks_mut(c.div_ceil(4))) {
            crate::kernels::call::encode_row(crate::Backend::best(), t, p);
        }
    }
    Ok(())
}
