//! Tables for a terminal, as psql prints them.

use std::io::{self, Write};

/// Writes a header, a rule, and the rows; NULL is empty. Numbers stand to the right.
pub(super) fn table(out: &mut impl Write, columns: &[&str], rows: &[Vec<Option<String>>]) -> io::Result<()> {
    // What a terminal would take for a command is no part of a cell.
    let plain = |text: &str| text.replace(char::is_control, " ");
    let cell =
        |row: &[Option<String>], index: usize| row.get(index).and_then(Option::as_deref).map(plain).unwrap_or_default();
    let widths: Vec<usize> = columns
        .iter()
        .enumerate()
        .map(|(index, name)| {
            rows.iter().map(|row| width(&cell(row, index))).chain([width(name)]).max().unwrap_or_default()
        })
        .collect();
    let header: Vec<String> = columns.iter().zip(&widths).map(|(name, width)| format!("{name:<width$}")).collect();
    writeln!(out, " {}", header.join(" | ").trim_end())?;
    let rules: Vec<String> = widths.iter().map(|width| "-".repeat(width + 2)).collect();
    writeln!(out, "{}", rules.join("+"))?;
    for row in rows {
        let cells: Vec<String> = widths
            .iter()
            .enumerate()
            .map(|(index, wide)| {
                let text = cell(row, index);
                let padding = " ".repeat(wide - width(&text));
                if text.parse::<f64>().is_ok() { padding + &text } else { text + &padding }
            })
            .collect();
        writeln!(out, " {}", cells.join(" | ").trim_end())?;
    }
    Ok(())
}

fn width(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_psql_does() {
        let mut out = Vec::new();
        let row = |cells: [Option<&str>; 3]| cells.map(|cell| cell.map(str::to_owned)).to_vec();
        let rows = [row([Some("a"), Some("1.5"), None]), row([Some("überlang"), Some("100"), Some("\u{1b}x")])];
        table(&mut out, &["node", "lag", "why"], &rows).expect("written");
        let expected = " node     | lag | why\n----------+-----+-----\n a        | 1.5 |\n überlang | 100 |  x\n";
        assert_eq!(String::from_utf8(out).expect("text"), expected);
    }
}
