//! What the integration tests share.

use tritgemm::{Backend, Isa};

/// The variable that names the instruction set which must not be missing.
pub const REQUIRE_VARIABLE: &str = "TRITGEMM_TEST_REQUIRE";

/// Every backend of this CPU, whatever `TRITGEMM_ISA` pins.
///
/// # Panics
/// If `TRITGEMM_TEST_REQUIRE` names an instruction set that cannot run here: a
/// test must not pass by having tested nothing.
pub fn backends() -> Vec<Backend> {
    if let Some(name) = std::env::var_os(REQUIRE_VARIABLE).filter(|name| !name.is_empty()) {
        let required = name
            .to_string_lossy()
            .parse::<Isa>()
            .and_then(Backend::for_isa);
        if let Err(error) = required {
            panic!("{REQUIRE_VARIABLE}: {error}");
        }
    }
    Backend::available().collect()
}
