//! What goes to the terminal: lines, paragraphs, tables, progress.

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};
use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use terminal_size::{Width, terminal_size_of};
use unicode_width::UnicodeWidthStr;

/// Paragraphs are no wider than this, and as wide where there is no terminal.
const TEXT: usize = 80;

/// Standard output that goes quiet when its reader has gone, so that
/// `tritgemm ... | head` is no failure and the work is still done to its end.
pub struct Out {
    to: Box<dyn Write + Send>,
    closed: bool,
    /// The terminal's columns, or those of the variable `COLUMNS`.
    width: Option<usize>,
}

impl Out {
    /// Standard output.
    pub fn stdout() -> Self {
        let variable = || std::env::var("COLUMNS").ok()?.parse().ok();
        let size = terminal_size_of(io::stdout());
        Self {
            to: Box::new(io::stdout()),
            closed: false,
            width: size.map(|(Width(n), _)| n.into()).or_else(variable),
        }
    }

    /// Writes `text` and a line end.
    pub fn line(&mut self, text: impl Display) -> Result<()> {
        if self.closed {
            return Ok(());
        }
        let written = writeln!(self.to, "{text}");
        self.quiet(written)
    }

    /// Writes a paragraph, broken between words.
    pub fn text(&mut self, text: impl Display) -> Result<()> {
        let width = self.width.unwrap_or(TEXT).min(TEXT);
        self.line(wrapped(&text.to_string(), width, 0))
    }

    /// Writes a table.
    pub fn table(&mut self, table: &Table) -> Result<()> {
        self.line(table.render(self.width))
    }

    /// Writes what things are and what they are here, side by side.
    pub fn pairs(&mut self, pairs: &[(&str, String)]) -> Result<()> {
        let names = pairs.iter().map(|(name, _)| name.width()).max();
        let indent = names.unwrap_or(0) + GAP;
        for (name, value) in pairs {
            let value = wrapped(value, self.width.unwrap_or(TEXT), indent);
            self.line(format!("{name:indent$}{value}"))?;
        }
        Ok(())
    }

    /// Flushes.
    pub fn finish(&mut self) -> Result<()> {
        if self.closed {
            return Ok(());
        }
        let flushed = self.to.flush();
        self.quiet(flushed)
    }

    fn quiet(&mut self, done: io::Result<()>) -> Result<()> {
        match done {
            Err(e) if e.kind() == ErrorKind::BrokenPipe => {
                self.closed = true;
                Ok(())
            }
            done => done.context("cannot write to standard output"),
        }
    }
}

/// `text` in lines of at most `width` columns, all but the first of which begin
/// with `indent` spaces. A word that is longer has a line of its own.
fn wrapped(text: &str, width: usize, indent: usize) -> String {
    let (mut lines, mut used) = (String::new(), indent);
    for (i, word) in text.split_whitespace().enumerate() {
        if i > 0 && used + 1 + word.width() > width {
            lines.push('\n');
            lines.push_str(&" ".repeat(indent));
            used = indent;
        } else if i > 0 {
            lines.push(' ');
            used += 1;
        }
        lines.push_str(word);
        used += word.width();
    }
    lines
}

/// A column of a table, by its header.
pub enum Col<'a> {
    /// Text.
    Left(&'a str),
    /// Numbers.
    Right(&'a str),
}

/// Columns between two of a table.
const GAP: usize = 2;

/// Rows below a header. Cells never break: where the terminal is too narrow, the
/// first cell of each row has a line to itself and the others follow below it.
pub struct Table {
    /// Which columns are numbers.
    right: Vec<bool>,
    /// The header, then the rows.
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub fn new(columns: &[Col<'_>]) -> Self {
        let header = columns.iter().map(|column| match column {
            Col::Left(name) | Col::Right(name) => (*name).to_owned(),
        });
        Self {
            right: columns.iter().map(|c| matches!(c, Col::Right(_))).collect(),
            rows: vec![header.collect()],
        }
    }

    /// Adds a row, a cell a column.
    pub fn add_row(&mut self, cells: impl IntoIterator<Item = impl Into<String>>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// The text, for a terminal of `width` columns if there is one.
    fn render(&self, width: Option<usize>) -> String {
        let column = |i: usize| self.rows.iter().map(|row| row[i].width()).max();
        let widths: Vec<usize> = (0..self.right.len()).filter_map(column).collect();
        let span = |widths: &[usize], gap: usize| {
            widths.iter().sum::<usize>() + gap * widths.len().saturating_sub(1)
        };
        let fits = |columns: usize| width.is_none_or(|width| columns <= width);
        // From the roomiest layout to the narrowest.
        let (below, gap) = [(false, GAP), (false, 1), (true, GAP)]
            .into_iter()
            .find(|&(below, gap)| match below {
                false => fits(span(&widths, gap)),
                true => fits(GAP + span(&widths[1..], gap)),
            })
            .unwrap_or((true, 1));
        let cells = |row: &[String], from: usize| {
            let cell = |i: usize| {
                let space = " ".repeat(widths[i] - row[i].width());
                match self.right[i] {
                    true => space + &row[i],
                    false => row[i].clone() + &space,
                }
            };
            let cells: Vec<String> = (from..row.len()).map(cell).collect();
            cells.join(&" ".repeat(gap)).trim_end().to_owned()
        };
        let line = |row: &Vec<String>| match below {
            false => cells(row, 0),
            true => format!("{}\n{}{}", row[0], " ".repeat(GAP), cells(row, 1)),
        };
        let mut lines: Vec<String> = self.rows.iter().map(line).collect();
        let rule = match below {
            false => span(&widths, gap),
            true => GAP + span(&widths[1..], gap),
        };
        lines.insert(1, "─".repeat(width.map_or(rule, |width| rule.min(width))));
        lines.join("\n")
    }
}

/// A progress bar on standard error; invisible where that is no terminal.
pub fn progress(len: u64, template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ");
    ProgressBar::new(len)
        .with_style(style)
        .with_finish(ProgressFinish::AndClear)
}

/// Text from a file for a terminal: control characters are spelled out.
pub fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            plain.extend(c.escape_default());
        } else {
            plain.push(c);
        }
    }
    plain
}

/// An error as the one line that is promised.
pub fn one_line(text: &str) -> String {
    let words: Vec<&str> = text.lines().map(str::trim).collect();
    plain(&words.join(" "))
}

/// A number of bytes for a reader.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KB", "MB", "GB", "TB", "PB"];
    if count < 1000 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1e3;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1e3;
        unit += 1;
    }
    let decimals = if value < 9.995 { 2 } else { 1 };
    format!("{value:.decimals$} {}", UNITS[unit])
}

/// `1 matrix`, `2 matrices`.
pub fn count(n: usize, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_keep_three_digits() {
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(1000), "1.00 KB");
        assert_eq!(bytes(90_868_376), "90.9 MB");
        assert_eq!(bytes(999_600), "1.00 MB");
    }

    #[test]
    fn control_characters_cannot_reach_the_terminal() {
        assert_eq!(plain("a\u{1b}[2Jb\n"), "a\\u{1b}[2Jb\\n");
        assert_eq!(one_line("a\n  b"), "a b");
    }

    /// No line is wider than the terminal, and no cell is torn apart.
    #[test]
    fn tables_fit_the_terminal_with_whole_cells() {
        let mut table = Table::new(&[Col::Left("name"), Col::Left("type"), Col::Right("n")]);
        table.add_row(["layer.0.attention.query", "F32", "12345"]);
        table.add_row(["norm", "BF16", "7"]);
        assert_eq!(
            table.render(None),
            "name                     type      n\n\
             ────────────────────────────────────\n\
             layer.0.attention.query  F32   12345\n\
             norm                     BF16      7"
        );
        assert_eq!(
            table.render(Some(24)),
            "name\n  type      n\n─────────────\n\
             layer.0.attention.query\n  F32   12345\nnorm\n  BF16      7"
        );
        for width in [24, 34, 36, 80] {
            let text = table.render(Some(width));
            assert!(text.lines().all(|line| line.width() <= width), "{text}");
            assert!(text.contains("layer.0.attention.query"), "{text}");
        }
    }

    #[test]
    fn paragraphs_break_between_words() {
        assert_eq!(wrapped("one two  three", 7, 0), "one two\nthree");
        assert_eq!(wrapped("avx2 bmi1 fma", 11, 3), "avx2\n   bmi1 fma");
        assert_eq!(
            wrapped("a-word-that-is-longer b", 4, 0),
            "a-word-that-is-longer\nb"
        );
    }
}
