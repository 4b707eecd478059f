//! Tables that fit the terminal.

use anstyle::Style;
use std::ops::Range;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// A column of a table, by its header.
pub enum Col<'a> {
    /// Text.
    Left(&'a str),
    /// Numbers.
    Right(&'a str),
}

/// How a cell is set off, by its text.
type StyleOf = fn(&str) -> Option<Style>;

/// Columns between two of a table.
pub const GAP: usize = 2;

/// Rows below a header. Cells never break: where the terminal is too narrow, the
/// first cell of each row has a line to itself, without its middle if it is longer than
/// that, and the others follow below it.
pub struct Table {
    /// Which columns are numbers.
    right: Vec<bool>,
    styles: Vec<(usize, StyleOf)>,
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
            styles: Vec::new(),
            rows: vec![header.collect()],
        }
    }

    /// Adds a row, a cell a column.
    pub fn add_row(&mut self, cells: impl IntoIterator<Item = impl Into<String>>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// Leaves out the last column.
    pub fn drop_last_column(&mut self) {
        self.right.pop();
        for row in &mut self.rows {
            row.pop();
        }
    }

    /// Sets cells of column `at` off by `style`, told by their text.
    pub fn style(&mut self, at: usize, style: StyleOf) {
        self.styles.push((at, style));
    }

    /// The text, for a terminal of `width` columns if there is one.
    pub fn render(&self, width: Option<usize>) -> String {
        let column = |i: usize| self.rows.iter().map(|row| row[i].width()).max();
        let widths: Vec<usize> = (0..self.right.len()).filter_map(column).collect();
        // From the roomiest layout to the narrowest.
        let inline = [GAP, 1].into_iter().find(|gap| {
            let span = span(&widths, *gap);
            width.is_none_or(|width| span <= width)
        });
        let layout = match (inline, width) {
            (Some(gap), _) => Layout {
                first: widths[0],
                gap,
                lines: Vec::new(),
            },
            (None, width) => Layout::below(&widths, width.unwrap_or(usize::MAX)),
        };
        let rows = self.rows.iter().enumerate();
        let mut lines: Vec<String> = rows
            .map(|(i, row)| self.row(i, row, &widths, &layout))
            .collect();
        let rule = match layout.lines.is_empty() {
            true => span(&widths, layout.gap),
            false => layout
                .lines
                .iter()
                .map(|line| GAP + span(&widths[line.clone()], layout.gap))
                .max()
                .unwrap_or(0),
        };
        lines.insert(1, "─".repeat(width.map_or(rule, |width| rule.min(width))));
        lines.join("\n")
    }

    fn row(&self, at: usize, row: &[String], widths: &[usize], layout: &Layout) -> String {
        let cell = |i: usize, last: bool| {
            let space = " ".repeat(widths[i] - row[i].width());
            let style = self
                .styles
                .iter()
                .find(|(column, _)| *column == i && at > 0);
            let text = match style.and_then(|(_, style)| style(&row[i])) {
                Some(style) => format!("{style}{}{style:#}", row[i]),
                None => row[i].clone(),
            };
            match (self.right[i], last) {
                (true, _) => space + &text,
                (false, true) => text,
                (false, false) => text + &space,
            }
        };
        let cells = |columns: Range<usize>| {
            let cells: Vec<String> = columns
                .clone()
                .map(|i| cell(i, i + 1 == columns.end))
                .collect();
            cells.join(&" ".repeat(layout.gap)).trim_end().to_owned()
        };
        if layout.lines.is_empty() {
            return cells(0..row.len());
        }
        let mut lines = vec![elide(&row[0], layout.first)];
        for line in &layout.lines {
            let line = cells(line.clone());
            // Rows without some of their cells take fewer lines.
            if !line.is_empty() {
                lines.push(" ".repeat(GAP) + &line);
            }
        }
        lines.join("\n")
    }
}

/// Columns of cells of these widths.
fn span(widths: &[usize], gap: usize) -> usize {
    widths.iter().sum::<usize>() + gap * widths.len().saturating_sub(1)
}

/// Where cells go.
struct Layout {
    /// The width of the first cell.
    first: usize,
    gap: usize,
    /// The columns of each line below the first cell; none if all cells are in one line.
    lines: Vec<Range<usize>>,
}

impl Layout {
    /// The first cell in a line of its own, and as many of the others in a line as fit.
    fn below(widths: &[usize], width: usize) -> Self {
        let gap = match GAP + span(&widths[1..], GAP) <= width {
            true => GAP,
            false => 1,
        };
        let (mut lines, mut start) = (Vec::new(), 1);
        for end in 2..=widths.len() {
            let next = widths.get(start..end + 1);
            if next.is_none_or(|cells| GAP + span(cells, gap) > width) {
                lines.push(start..end);
                start = end;
            }
        }
        Self {
            first: width,
            gap,
            lines,
        }
    }
}

/// `text` in at most `width` columns: what is too long loses its middle.
pub fn elide(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let room = width.saturating_sub(1);
    let take = |chars: &mut dyn Iterator<Item = char>, room: usize| {
        let mut used = 0;
        let fits = |c: &char| {
            used += c.width().unwrap_or(0);
            used <= room
        };
        chars.take_while(fits).collect::<Vec<char>>()
    };
    let head = take(&mut text.chars(), room / 2);
    let mut tail = take(&mut text.chars().rev(), room.div_ceil(2));
    tail.reverse();
    head.into_iter().chain(['…']).chain(tail).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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

    /// Where not even the numbers fit into a line, they take several; a name that is longer
    /// than the line loses its middle.
    #[test]
    fn tables_fit_narrow_terminals() {
        let mut table = Table::new(&[
            Col::Left("name"),
            Col::Left("type"),
            Col::Right("n"),
            Col::Right("m"),
        ]);
        table.add_row(["layer.0.attention.query", "F32", "12345", "67890"]);
        for width in [12, 16, 20] {
            let text = table.render(Some(width));
            assert!(text.lines().all(|line| line.width() <= width), "{text}");
            for whole in ["12345", "67890", "F32"] {
                assert!(text.contains(whole), "{text}");
            }
        }
        assert_eq!(elide("layer.0.attention.query", 12), "layer….query");
        assert_eq!(elide("short", 5), "short");
    }
}
