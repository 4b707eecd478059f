//! The versions of ggml that the plug-in is known to run with.

/// Those that `check.sh` runs against, major and minor. A new one comes in by a row here and a
/// green run.
const KNOWN: &[(u32, u32)] = &[(0, 25), (0, 26)];

/// Whether `version`, what `ggml_version()` says, is known or `force`d.
///
/// # Errors
/// If it is not: a message for the user.
pub fn check(version: &str, force: bool) -> Result<(), String> {
    let mut numbers = version.split('.').map_while(|part| part.parse().ok());
    let found = numbers.next().zip(numbers.next());
    if force || found.is_some_and(|found| KNOWN.contains(&found)) {
        return Ok(());
    }
    let known: Vec<_> = KNOWN
        .iter()
        .map(|(major, minor)| format!("{major}.{minor}"))
        .collect();
    let known = known.join(", ");
    Err(format!(
        "ggml {version} is not among the versions that were tried ({known}); \
         TRITGEMM_GGML_FORCE=1 tries it"
    ))
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn known_versions_are_taken_and_others_refused() {
        for known in ["0.25.0", "0.25.3", "0.26.0", "0.26.1-dirty"] {
            assert_eq!(check(known, false), Ok(()));
        }
        for other in ["0.24.9", "0.27.0", "1.25.3", "0", "", "x.y", "250.3"] {
            let message = check(other, false).unwrap_err();
            assert!(
                message.contains(other) && message.contains("0.25, 0.26"),
                "{message}"
            );
            assert_eq!(check(other, true), Ok(()));
        }
    }
}
