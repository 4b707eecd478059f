//! Zeroed memory that the operating system has zeroed already: no stable way to
//! ask for it can also fail.

use std::alloc::{Layout, alloc_zeroed};

/// `len` zeros, or `None` if there is no memory for them. Large blocks are
/// fresh pages, which are first touched by whoever fills them in.
pub fn zeroed(len: usize) -> Option<Vec<u8>> {
    if len == 0 {
        return Some(Vec::new());
    }
    let layout = Layout::array::<u8>(len).ok()?;
    // SAFETY: the layout is not of size 0.
    let bytes = unsafe { alloc_zeroed(layout) };
    if bytes.is_null() {
        return None;
    }
    // SAFETY: the global allocator gave `bytes` for `len` values of `u8`, all of
    // them zero, and nobody else has it.
    Some(unsafe { Vec::from_raw_parts(bytes, len, len) })
}

#[cfg(test)]
mod tests {
    use super::zeroed;

    #[test]
    fn zeros_or_none() {
        for len in [0, 1, 4097] {
            let mut bytes = zeroed(len).expect("little memory");
            assert_eq!(bytes, vec![0; len]);
            bytes.push(1); // the vector may grow
        }
        assert!(zeroed(usize::MAX).is_none());
        assert!(zeroed(isize::MAX as usize).is_none());
    }
}
