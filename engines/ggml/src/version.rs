//! The versions of ggml that the plug-in is known to run with.

/// Those that `check.sh` runs against, major and minor. A new one comes in by a row here and a
/// green run. The oldest one is first.
const KNOWN: &[(u32, u32)] = &[(0, 25), (0, 26)];

/// Whether `version`, what `ggml_version()` says, is known, or `force`d and not older: those have
/// not all the types that the plug-in asks for, by numbers that they must not be asked for.
///
/// # Errors
/// If it is not: a message for the user.
pub fn check(version: &str, force: bool) -> Result<(), String> {
    let mut numbers = version.split('.').map_while(|part| part.parse().ok());
    let found = numbers.next().zip(numbers.next());
    let old = found.is_some_and(|found| found < KNOWN[0]);
    if force && !old || found.is_some_and(|found| KNOWN.contains(&found)) {
        return Ok(());
    }
    let known: Vec<_> = KNOWN
        .iter()
        .map(|(major, minor)| format!("{major}.{minor}"))
        .collect();
    let known = known.join(", ");
    let otherwise = match old {
        true => "and too old",
        false => "TRITGEMM_GGML_FORCE=1 tries it",
    };
    Err(format!(
        "ggml {version} is not among the versions that were tried ({known}); {otherwise}"
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
        for other in ["0.27.0", "1.25.3", "0", "", "x.y", "250.3"] {
            let message = check(other, false).unwrap_err();
            assert!(
                message.contains(other) && message.contains("0.25, 0.26"),
                "{message}"
            );
            assert_eq!(check(other, true), Ok(()));
        }
    }

    #[test]
    fn older_versions_cannot_be_forced() {
        for old in ["0.24.9", "0.9.4", "0.0.0"] {
            for force in [false, true] {
                let message = check(old, force).unwrap_err();
                assert!(message.ends_with("and too old"), "{message}");
            }
        }
    }
}
