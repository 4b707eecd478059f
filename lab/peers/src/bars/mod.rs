//! The performance goals, each with what must hold (the bar) and what the
//! machine's limits suggest (the aim), checked one by one.

mod cliff;
mod codec;
mod rules;
mod threads;

use crate::ceilings::LOOK_UPS;
use crate::contender::Family;
use crate::problem::{Cell, Residency, Shape};
use crate::run::{self, CellResult};
use crate::timing::Protocol;
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
        self.holds(self.bar)
    }

    fn holds(&self, limit: f64) -> Option<bool> {
        self.ratio.map(|r| match self.sense {
            Sense::AtLeast => r >= limit,
            Sense::AtMost => r <= limit,
        })
    }

    fn word(&self) -> &'static str {
        match (self.passes(), self.aim.and_then(|aim| self.holds(aim))) {
            (None, _) => "n/a",
            (Some(false), _) => "FAIL",
            (Some(true), Some(true)) => "pass, aim",
            (Some(true), _) => "pass",
        }
    }
}

/// Everything a check of the bars needs.
pub struct Context<'a> {
    pub families: &'a [Box<dyn Family>],
    pub shapes: Vec<Shape>,
    pub protocol: Protocol,
}

/// Measures and judges every line.
pub fn check(
    context: &Context<'_>,
    mut progress: impl FnMut(&str),
) -> anyhow::Result<(Vec<CellResult>, Vec<Verdict>)> {
    let rules = rules::rules(&context.shapes);
    let cells: Vec<Cell> = rules.iter().flat_map(|r| r.cells.clone()).collect();
    let select = |cell: &Cell, info: &crate::contender::Info| {
        let witness = info.name == LOOK_UPS && cell.residency == Residency::Hot;
        witness
            || rules
                .iter()
                .any(|r| r.cells.contains(cell) && r.involves(&info.name))
    };
    let results = run::run(
        context.families,
        &cells,
        &select,
        context.protocol,
        |cell| progress(&cell.to_string()),
    )?;
    let mut verdicts: Vec<Verdict> = rules.iter().map(|rule| rule.judge(&results)).collect();
    progress("one thread against two");
    verdicts.extend(threads::check(context)?);
    progress("time over N, 1 to 513");
    verdicts.push(cliff::check(context)?);
    progress("codec and packing");
    verdicts.extend(codec::check(context)?);
    Ok((results, verdicts))
}

pub fn table(verdicts: &[Verdict]) -> String {
    let mut out = format!(
        "\n{:52} {:30} {:>8} {:>7} {:>6}  {:9}  {}\n",
        "case", "over", "measured", "bar", "aim", "", "worst at"
    );
    for v in verdicts {
        let sense = match v.sense {
            Sense::AtLeast => ">=",
            Sense::AtMost => "<=",
        };
        let number = |x: Option<f64>| x.map_or_else(|| "-".to_owned(), |x| format!("{x:.2}"));
        let _ = writeln!(
            out,
            "{:52} {:30} {:>8} {sense} {:>4.2} {:>6}  {:9}  {}",
            v.case,
            v.over,
            number(v.ratio),
            v.bar,
            number(v.aim),
            v.word(),
            v.note
        );
    }
    let count = |word: &str| {
        verdicts
            .iter()
            .filter(|v| v.word().starts_with(word))
            .count()
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
