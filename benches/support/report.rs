//! A table of the results and the figures that they are compared with.

use super::figures::Spread;

/// Rows of text, printed in aligned columns.
#[derive(Debug, Default)]
pub struct Report {
    rows: Vec<[String; 4]>,
}

impl Report {
    /// Adds a row: the load, our figure, the other one, and their ratio.
    pub fn row(&mut self, load: &str, ours: String, other: String, ratio: Spread) {
        let ratio = format!("{:.2} ({:.2} to {:.2})", ratio.median, ratio.lowest, ratio.highest);
        self.rows.push([load.to_owned(), ours, other, ratio]);
    }

    /// Returns the table with its head.
    pub fn text(&self) -> String {
        let head = ["load", "ours", "compared with", "ratio (lowest to highest)"].map(str::to_owned);
        let rows: Vec<_> = std::iter::once(&head).chain(&self.rows).collect();
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths = [0, 1, 2, 3].map(width);
        let line = |row: &&[String; 4]| {
            let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
            cells.collect::<Vec<_>>().join("   ").trim_end().to_owned()
        };
        rows.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

/// Formats a rate.
pub fn rate(per_second: f64) -> String {
    format!("{:.0} k/s", per_second / 1e3)
}

/// Formats a time.
pub fn micros(micros: f64) -> String {
    format!("{micros:.1} us")
}
