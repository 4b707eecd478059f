//! What was found of each bar, and the table of it.

use serde::{Deserialize, Serialize};
use std::fmt::Write as _;

/// Whether a ratio must be large or small.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Sense {
    #[serde(rename = ">=")]
    AtLeast,
    #[serde(rename = "<=")]
    AtMost,
}

/// One line of the goals and what was measured for it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Verdict {
    pub case: String,
    /// What the ratio is over.
    pub over: String,
    pub sense: Sense,
    pub bar: f64,
    pub aim: Option<f64>,
    /// The worst of all cells that the line is about; absent where this machine
    /// cannot measure it.
    pub ratio: Option<f64>,
    /// Which cell that was, and anything else worth knowing.
    pub note: String,
}

impl Verdict {
    pub fn passes(&self) -> Option<bool> {
        self.meets(self.bar)
    }

    fn meets(&self, limit: f64) -> Option<bool> {
        self.ratio.map(|r| match self.sense {
            Sense::AtLeast => r >= limit,
            Sense::AtMost => r <= limit,
        })
    }

    fn word(&self) -> &'static str {
        match (self.passes(), self.aim.and_then(|aim| self.meets(aim))) {
            (None, _) => "n/a",
            (Some(false), _) => "FAIL",
            (Some(true), Some(true)) => "pass, aim",
            (Some(true), _) => "pass",
        }
    }
}

pub fn table(verdicts: &[Verdict]) -> String {
    let mut out = format!(
        "\n{:52} {:30} {:>8} {:>7} {:>6}  {:9}  {}\n",
        "case", "over", "measured", "bar", "aim", "", "worst at"
    );
    let number = |x: Option<f64>| x.map_or_else(|| "-".to_owned(), |x| format!("{x:.2}"));
    for v in verdicts {
        let sense = match v.sense {
            Sense::AtLeast => ">=",
            Sense::AtMost => "<=",
        };
        let (case, over, bar, word, note) = (&v.case, &v.over, v.bar, v.word(), &v.note);
        let (ratio, aim) = (number(v.ratio), number(v.aim));
        let _ = writeln!(
            out,
            "{case:52} {over:30} {ratio:>8} {sense} {bar:>4.2} {aim:>6}  {word:9}  {note}"
        );
    }
    let count = |word: &str| {
        let mut words = verdicts.iter().map(Verdict::word).collect::<Vec<_>>();
        words.retain(|w| w.starts_with(word));
        words.len()
    };
    let _ = writeln!(
        out,
        "\n{} bars hold ({} reach their aim), {} fail, {} could not be measured here",
        count("pass"),
        count("pass, aim"),
        count("FAIL"),
        count("n/a")
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(sense: Sense, ratio: Option<f64>) -> Verdict {
        Verdict {
            case: String::new(),
            over: String::new(),
            sense,
            bar: 1.0,
            aim: Some(if sense == Sense::AtLeast { 1.3 } else { 0.9 }),
            ratio,
            note: String::new(),
        }
    }

    #[test]
    fn bars_and_aims_are_judged_by_their_sense() {
        for (sense, ratio, word) in [
            (Sense::AtLeast, Some(0.99), "FAIL"),
            (Sense::AtLeast, Some(1.0), "pass"),
            (Sense::AtLeast, Some(1.4), "pass, aim"),
            (Sense::AtMost, Some(1.01), "FAIL"),
            (Sense::AtMost, Some(1.0), "pass"),
            (Sense::AtMost, Some(0.8), "pass, aim"),
            (Sense::AtMost, None, "n/a"),
        ] {
            assert_eq!(verdict(sense, ratio).word(), word);
        }
    }
}
