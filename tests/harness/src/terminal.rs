//! Plain text for people: colours and redrawing on a terminal, plain lines in a log.

use std::env;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use stillpoint::picture::terminal::Style;

/// Columns that every terminal and every log viewer has room for.
const COLUMNS: usize = 100;

/// Where the output goes.
#[derive(Clone, Copy, Debug)]
pub struct Terminal {
    colours: bool,
    redraws: bool,
}

/// A colour that reads well on dark and on light ground.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// Good.
    Green,
    /// Wait.
    Yellow,
    /// Bad.
    Red,
    /// Names.
    Cyan,
    /// Less important.
    Dim,
    /// Headings.
    Bold,
}

impl Terminal {
    /// Looks at standard output, NO_COLOR and TERM.
    pub fn detect() -> Self {
        let terminal = io::stdout().is_terminal() && env::var_os("TERM").is_none_or(|term| term != "dumb");
        Self { colours: terminal && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()), redraws: terminal }
    }

    /// Whether lines can be drawn again.
    pub fn redraws(self) -> bool {
        self.redraws
    }

    /// How the picture of a hold is drawn here.
    pub fn drawing_style(self) -> Style {
        Style { columns: COLUMNS, colour: self.colours }
    }

    /// The text in a colour.
    pub fn paint(self, colour: Colour, text: &str) -> String {
        if !self.colours {
            return text.into();
        }
        let code = match colour {
            Colour::Green => "32",
            Colour::Yellow => "33",
            Colour::Red => "31",
            Colour::Cyan => "36",
            Colour::Dim => "2",
            Colour::Bold => "1",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    /// A heading with a line above it.
    pub fn heading(self, text: &str) {
        println!("\n{}", self.paint(Colour::Bold, text));
    }

    /// Begins a step that takes a while.
    pub fn step(self, text: &str) -> Step {
        let step = Step { terminal: self, text: text.into(), began: Instant::now() };
        step.detail("");
        step
    }
}

/// A step that takes a while: one line, ticked when it is done.
pub struct Step {
    terminal: Terminal,
    text: String,
    began: Instant,
}

impl Step {
    /// Says how far it is. Only on a terminal: in a log the end is enough.
    pub fn detail(&self, detail: &str) {
        if self.terminal.redraws {
            let mark = self.terminal.paint(Colour::Yellow, "…");
            print!("\r\x1b[K  {mark} {} {}", self.text, self.terminal.paint(Colour::Dim, detail));
            // A terminal that went away shows nothing anyhow.
            let _ = io::stdout().flush();
        }
    }

    /// The step is done.
    pub fn done(self, result: &str) {
        let clear = if self.terminal.redraws { "\r\x1b[K" } else { "" };
        let mark = self.terminal.paint(Colour::Green, "✔");
        let took = self.terminal.paint(Colour::Dim, &format!("({})", seconds(self.began.elapsed())));
        let result = if result.is_empty() { String::new() } else { format!(": {result}") };
        println!("{clear}  {mark} {}{result} {took}", self.text);
    }
}

/// Columns of the widths of their longest cells; the first row is the heading. Cells carry no colours: `paint` colours a
/// padded cell by its row, column and text.
pub fn table(rows: &[Vec<String>], paint: impl Fn(usize, usize, &str) -> String) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let cell_width = |row: &Vec<String>, column| row.get(column).map_or(0, |cell: &String| cell.chars().count());
    let widths: Vec<usize> =
        (0..columns).map(|c| rows.iter().map(|row| cell_width(row, c)).max().unwrap_or(0)).collect();
    let line = |(r, row): (usize, &Vec<String>)| {
        let cells = row.iter().enumerate().map(|(c, cell)| paint(r, c, &format!("{cell:<width$}", width = widths[c])));
        format!("  {}", cells.collect::<Vec<_>>().join("  ")).trim_end().to_owned()
    };
    rows.iter().enumerate().map(line).collect()
}

/// A duration in the unit that a person would choose.
pub fn seconds(duration: Duration) -> String {
    match duration.as_secs_f64() {
        s if s < 0.001 => format!("{:.0} µs", s * 1e6),
        s if s < 1.0 => format!("{:.0} ms", s * 1e3),
        s => format!("{s:.1} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        let text = |micros| seconds(Duration::from_micros(micros));
        assert_eq!((text(900), text(63_400), text(1_250_000)), ("900 µs".into(), "63 ms".into(), "1.2 s".into()));
    }

    #[test]
    fn a_table_lines_its_columns_up() {
        let rows = [["A", "Bee"], ["long", "x"]].map(|row| row.map(String::from).to_vec());
        assert_eq!(table(&rows, |_, _, cell| cell.into()), ["  A     Bee", "  long  x"]);
        assert!(table(&[], |_, _, cell| cell.into()).is_empty());
    }
}
