//! Rows for the terminal.

use comfy_table::{Table, presets::NOTHING};

/// Rows with their columns aligned, two spaces apart, however wide the terminal is: a script may read it. A cell may hold
/// what customers wrote, so nothing that a terminal would obey is let through.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING);
    for row in rows {
        table.add_row(row.iter().map(|cell| cell.replace(char::is_control, "\u{fffd}")));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// A row of headings.
pub(super) fn headings<const N: usize>(names: [&str; N]) -> Vec<String> {
    names.map(str::to_owned).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_nothing_is_obeyed() {
        let rows = [vec!["a", "bb", "c"], vec!["日本", "b\u{1b}[2J", "c"]];
        let rows = rows.map(|row| row.into_iter().map(str::to_owned).collect());
        assert_eq!(table(&rows), "a     bb     c\n日本  b\u{fffd}[2J  c");
    }
}
