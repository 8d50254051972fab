//! Text in aligned columns, as kubectl prints it.

use std::fmt;

/// Rows of cells below a head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Names of the columns.
    pub head: Vec<String>,
    /// The rows, each with a cell for each column.
    pub rows: Vec<Vec<String>>,
}

/// Spaces between two columns.
const GAP: usize = 3;

impl fmt::Display for Table {
    /// Each line without spaces at its end; an empty cell shows as a dash.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = || std::iter::once(&self.head).chain(&self.rows);
        let cell = |line: &[String], column: usize| match line.get(column).map(String::as_str) {
            None | Some("") => "-".to_owned(),
            Some(text) => text.to_owned(),
        };
        let width = |column| lines().map(|line| cell(line, column).chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.head.len()).map(width).collect();
        for line in lines() {
            let padded =
                widths.iter().enumerate().map(|(column, width)| format!("{:1$}", cell(line, column), width + GAP));
            writeln!(f, "{}", padded.collect::<String>().trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let table = Table { head: texts(&["NAME", "GPUS"]), rows: vec![texts(&["größer", "8"]), texts(&["b", ""])] };
        assert_eq!(table.to_string(), "NAME     GPUS\ngrößer   8\nb        -\n");
    }
}
