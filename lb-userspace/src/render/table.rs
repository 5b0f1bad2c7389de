//! Columns of plain text, coloured after they are aligned.

use clap::builder::styling::Style;

/// Which side of its column a text stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// One text of a table and its colour.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    /// A text in this style.
    pub(crate) fn styled(text: impl ToString, style: Style) -> Self {
        Self {
            text: text.to_string(),
            style,
        }
    }

    /// A text without any.
    pub(crate) fn plain(text: impl ToString) -> Self {
        Self::styled(text, Style::new())
    }
}

/// A heading and how its column is aligned.
pub(crate) type Column<'a> = (&'a str, Align);

/// The width that each column needs for all of these rows.
pub(crate) fn widths<'r>(
    columns: &[Column<'_>],
    rows: impl Iterator<Item = &'r Vec<Cell>>,
) -> Vec<usize> {
    let mut widths: Vec<usize> = columns.iter().map(|(name, _)| name.len()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.text.chars().count());
        }
    }
    widths
}

/// The headings as a row.
pub(crate) fn headings(columns: &[Column<'_>], style: Style) -> Vec<Cell> {
    let cell = |(name, _): &Column<'_>| Cell::styled(name, style);
    columns.iter().map(cell).collect()
}

/// One row as a line, two blanks between its columns and none at its end.
pub(crate) fn line(columns: &[Column<'_>], widths: &[usize], row: &[Cell]) -> String {
    let mut line = String::new();
    let mut pending = 0;
    for ((cell, width), (_, align)) in row.iter().zip(widths).zip(columns) {
        let blanks = width.saturating_sub(cell.text.chars().count());
        let (before, after) = match align {
            Align::Left => (0, blanks),
            Align::Right => (blanks, 0),
        };
        line.extend(std::iter::repeat_n(' ', pending + before));
        let style = cell.style;
        line.push_str(&format!("{style}{}{style:#}", cell.text));
        pending = after + 2;
    }
    line
}
