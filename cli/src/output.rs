//! What goes to the terminal: lines, paragraphs, progress, colours.

use crate::table::{GAP, Table};
use anstyle::{AnsiColor, Style};
use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};
use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use terminal_size::{Width, terminal_size_of};
use unicode_width::UnicodeWidthStr;

/// What is right, and what is wrong. Terminals without colours, pipes and `NO_COLOR` get the
/// text alone.
pub const GREEN: Style = AnsiColor::Green.on_default();
pub const RED: Style = AnsiColor::Red.on_default().bold();

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
        let width = size.map(|(Width(n), _)| n.into()).or_else(variable);
        Self {
            to: Box::new(anstream::stdout()),
            closed: false,
            // Terminals that do not know their width say 0.
            width: width.filter(|&width| width > 0),
        }
    }

    /// The columns of the terminal, if there is one.
    pub fn width(&self) -> Option<usize> {
        self.width
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

/// A number in four digits.
pub fn short(value: f32) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        magnitude if !(1e-3..1e4).contains(&magnitude) => format!("{value:.3e}"),
        magnitude => {
            let digits = 3 - magnitude.log10().floor() as i32;
            format!("{value:.*}", digits.max(0) as usize)
        }
    }
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

    #[test]
    fn paragraphs_break_between_words() {
        assert_eq!(wrapped("one two  three", 7, 0), "one two\nthree");
        assert_eq!(wrapped("avx2 bmi1 fma", 11, 3), "avx2\n   bmi1 fma");
        assert_eq!(
            wrapped("a-word-that-is-longer b", 4, 0),
            "a-word-that-is-longer\nb"
        );
    }

    #[test]
    fn numbers_have_four_digits() {
        let texts = [0.0, 0.01234567, 1.0, 123.456, 2e-9, 1e9, -0.5].map(short);
        let want = [
            "0", "0.01235", "1.000", "123.5", "2.000e-9", "1.000e9", "-0.5000",
        ];
        assert_eq!(texts, want);
    }
}
