//! What goes to the terminal: lines, tables, progress.

use anyhow::{Context, Result};
use comfy_table::presets::{NOTHING, UTF8_HORIZONTAL_ONLY};
use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, LineStyle, Table};
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

    /// Writes a table.
    pub fn table(&mut self, table: &Table) -> Result<()> {
        self.line(table.trim_fmt().replace(BREAK, ""))
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

/// A column of a table, by its header.
pub enum Col<'a> {
    /// Text that may break where [`breaks`] lets it, if the terminal is narrow;
    /// the other columns never break.
    Wrap(&'a str),
    /// Short text.
    Left(&'a str),
    /// Numbers.
    Right(&'a str),
}

/// A table with `columns` that are `gap` apart.
pub fn table(columns: &[Col<'_>], gap: u16) -> Table {
    let header = |column: &Col<'_>| match column {
        Col::Wrap(header) | Col::Left(header) | Col::Right(header) => (*header).to_owned(),
    };
    let mut table = plain_table(columns.iter().map(header));
    let rule = LineStyle::none().fill('─').junction('─');
    table.load_style(UTF8_HORIZONTAL_ONLY);
    *table.style_mut() = table
        .style()
        .header_separator(rule)
        .row_separator(LineStyle::none());
    for (kind, column) in columns.iter().zip(table.column_iter_mut()) {
        column.set_padding((0, gap));
        match kind {
            Col::Wrap(_) => {
                column.set_delimiter(BREAK);
                continue;
            }
            Col::Left(_) => {}
            Col::Right(_) => column.set_cell_alignment(CellAlignment::Right),
        }
        column.set_constraint(ColumnConstraint::ContentWidth);
    }
    table
}

/// Where a cell may break: a space without width, which comfy-table takes for
/// a word's end and [`Out::table`] removes. The visible character before it
/// stays, as it would not if it were the delimiter itself.
const BREAK: char = '\u{200b}';

/// Text for a [`Col::Wrap`] column that may break after each `at`.
pub fn breaks(text: &str, at: char) -> String {
    let parts: Vec<&str> = text.split_inclusive(at).collect();
    parts.join(BREAK.encode_utf8(&mut [0; 4]))
}

/// What things are and what they are here, side by side.
pub fn pairs(pairs: &[(&str, String)]) -> Table {
    let mut table = plain_table([]);
    for (name, value) in pairs {
        table.add_row([*name, value]);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    if let Some(names) = table.column_mut(0) {
        names.set_constraint(ColumnConstraint::ContentWidth);
    }
    table
}

fn plain_table(header: impl IntoIterator<Item = String>) -> Table {
    let mut table = Table::new();
    table
        .load_style(NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic);
    let header: Vec<String> = header.into_iter().collect();
    if !header.is_empty() {
        table.set_header(header);
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
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || c == BREAK {
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

    #[test]
    fn names_break_after_dots_and_keep_them() {
        let mut table = table(&[Col::Wrap("name"), Col::Right("n")], 2);
        table.add_row([breaks("layer.0.attention.query", '.'), "12345".to_owned()]);
        table.set_width(20);
        let text = table.trim_fmt().replace(BREAK, "");
        assert!(
            text.contains("layer.0.\n") || text.contains("layer.0. "),
            "{text}"
        );
        assert!(text.contains("attention."), "{text}");
    }
}
