//! The command line of `tritgemm soak`.

use clap::Args;
use std::num::NonZeroUsize;
use std::str::FromStr;
use std::time::Duration;
use tritgemm::Isa;

const NOTES: &str = "\
A case is a random shape (tails, multiples of the tiles, empty, long), random
weights and activations (uniform, extreme, subnormal, NaN and infinite) and one
of the library's paths. It is computed by every kernel set and compared, bit for
bit, with plain loops that share no code with the library. Seeds are good for
the version that printed them.";

/// `tritgemm soak`.
#[derive(Args)]
#[command(after_help = NOTES)]
pub struct SoakArgs {
    /// How long: seconds, or with a unit: 90s, 20m, 8h
    #[arg(long, value_name = "T", default_value = "20m", alias = "seconds")]
    pub time: Time,
    /// Seed of the first case; the others follow from it [default: by the clock]
    #[arg(long, value_name = "SEED", value_parser = seed)]
    pub seed: Option<u64>,
    /// Instruction sets: scalar, avx2, avx512 or neon (may be repeated) [default: all there are]
    #[arg(long, value_name = "ISA", value_delimiter = ',')]
    pub isa: Vec<Isa>,
    /// Most threads that a product is shared among [default: twice the cores]
    #[arg(long, value_name = "T")]
    pub threads: Option<NonZeroUsize>,
    /// Only the case of this seed, which a difference has named
    #[arg(long, value_name = "SEED", value_parser = seed, conflicts_with_all = ["time", "seed"])]
    pub replay: Option<u64>,
    /// Change one bit of a result, to see that it is noticed
    #[arg(long, hide = true)]
    pub plant: bool,
}

/// A stretch of time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Time(pub Duration);

impl FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = match &text[digits.len()..] {
            "" | "s" => 1,
            "m" => 60,
            "h" => 3600,
            other => return Err(format!("unit `{other}` is none of s, m and h")),
        };
        let seconds = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(unit));
        let seconds = seconds.filter(|&s| s > 0 && s <= 366 * 24 * 3600);
        let seconds = seconds.ok_or("expected a time up to a year, for example 90s, 20m or 8h")?;
        Ok(Time(Duration::from_secs(seconds)))
    }
}

/// A decimal or hexadecimal number.
fn seed(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    parsed.map_err(|e| format!("{e}; expected a number such as 17 or 0x11"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let time = |text: &str| text.parse::<Time>().map(|t| t.0.as_secs());
        assert_eq!(time("7"), Ok(7));
        assert_eq!(time("90s"), Ok(90));
        assert_eq!(time("20m"), Ok(1200));
        assert_eq!(time("2h"), Ok(7200));
        for wrong in [
            "",
            "m",
            "0",
            "-1s",
            "1d",
            "1.5m",
            "99999999999999999999h",
            "9000h",
        ] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn seeds() {
        assert_eq!(seed("17"), Ok(17));
        assert_eq!(seed("0xff"), Ok(255));
        assert!(seed("x").is_err());
    }
}
