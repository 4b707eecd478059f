//! What goes to the terminal: lines, tables, progress.

use anyhow::{Context, Result};
use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{CellAlignment, ContentArrangement, LineStyle, Table};
use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};
use std::fmt::Display;
use std::io::{self, ErrorKind, Write};

/// Standard output that goes quiet when its reader has gone, so that
/// `tritgemm ... | head` is no failure and the work is still done to its end.
pub struct Out {
    to: Box<dyn Write + Send>,
    closed: bool,
}

impl Out {
    /// Standard output.
    pub fn stdout() -> Self {
        Self {
            to: Box::new(io::stdout()),
            closed: false,
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

/// A table with `headers`; those that start with `<` name left-aligned columns
/// (without the `<`), the others hold numbers and align right.
pub fn table(headers: &[&str]) -> Table {
    let mut table = Table::new();
    let rule = LineStyle::none().fill('─').junction('─');
    table
        .load_style(UTF8_HORIZONTAL_ONLY)
        .set_content_arrangement(ContentArrangement::Dynamic);
    *table.style_mut() = table
        .style()
        .header_separator(rule)
        .row_separator(LineStyle::none());
    table.set_header(headers.iter().map(|h| h.trim_start_matches('<')));
    for (header, column) in headers.iter().zip(table.column_iter_mut()) {
        column.set_padding((0, 2));
        if !header.starts_with('<') {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
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
    let spell = |c: char| {
        let control = c.is_control();
        control
            .then(|| c.escape_default().collect::<String>())
            .unwrap_or_else(|| c.to_string())
    };
    text.chars().map(spell).collect()
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
}
