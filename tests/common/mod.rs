//! What the test binaries share.

use std::sync::OnceLock;

/// Whether to test smaller shapes: under an emulator, which runs some fifty
/// times slower. `TRITGEMM_TEST_QUICK=1` asks for it; every kernel and every
/// edge must still be met, only with fewer and smaller matrices.
pub fn quick() -> bool {
    static QUICK: OnceLock<bool> = OnceLock::new();
    *QUICK.get_or_init(|| match std::env::var("TRITGEMM_TEST_QUICK").as_deref() {
        Ok("1") => true,
        Ok("" | "0") | Err(_) => false,
        Ok(other) => panic!("TRITGEMM_TEST_QUICK is `{other}`, expected 0 or 1"),
    })
}
