//! The picture as text.

use std::fmt::Write;

use super::scale;
use super::timeline::{Interval, Member, Suspension, Timeline};
use stillpoint_api::{MemberState, Phase};
use stillpoint_core::text::printable;

/// How the text may look.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// Columns that may be filled; fewer than 60 are taken as 60.
    pub columns: usize,
    /// Whether to use ANSI colours.
    pub colour: bool,
}

/// Columns of the remark at the end of a row.
const REMARK: usize = 14;
/// Columns of the longest claim's name that is not shortened.
const LONGEST_LABEL: usize = 28;

/// Draws a timeline as lines of text: a row for each member, a legend, and one sentence that says what it shows.
pub fn render(timeline: &Timeline, style: Style) -> String {
    let columns = style.columns.max(60);
    let longest = timeline.members.iter().map(|member| member.claim.chars().count()).max().unwrap_or(0);
    let label = longest.clamp(8, LONGEST_LABEL);
    let axis = Axis { window: timeline.window, cells: columns - label - REMARK - 4 };
    let paint = Paint(style.colour);

    let mut out = String::new();
    line(&mut out, &title(timeline, paint));
    line(&mut out, "");
    line(&mut out, &format!(" {:label$} {}", "", paint.dim(&axis.ticks())));
    for member in &timeline.members {
        let name = printable(&member.claim, label);
        let row = paint.row(&axis.row(member));
        line(&mut out, &format!(" {name:label$} {row} {:>REMARK$}", printable(&member.remark(), REMARK)));
    }
    if let Some(together) = timeline.together {
        line(&mut out, &format!(" {:label$} {}", "", paint.dim(&axis.bracket(together))));
    }
    line(&mut out, "");
    line(&mut out, &format!(" {}", timeline.summary()));
    line(&mut out, &paint.dim(" · writes go on   ━ suspended   ▲ ready   ═ cut asked for   ◆ cut taken"));
    out
}

fn line(out: &mut String, text: &str) {
    out.push_str(text.trim_end());
    out.push('\n');
}

fn title(timeline: &Timeline, paint: Paint) -> String {
    let mut text = format!(" {}  {}", paint.bold(&printable(&timeline.name, 40)), paint.phase(timeline.phase));
    if let Some(consistency) = timeline.consistency {
        let _ = write!(text, ", {consistency:?} consistency");
    }
    text
}

/// Maps times to cells.
struct Axis {
    window: Interval,
    cells: usize,
}

impl Axis {
    fn cell(&self, time: i64) -> usize {
        let share = (time as f64 - self.window.from as f64) / (self.window.length() as f64).max(1.0);
        ((share * self.cells as f64) as usize).min(self.cells - 1)
    }

    fn ticks(&self) -> String {
        let mut cells = vec![' '; self.cells];
        for tick in scale::ticks(self.window.from, self.window.to, self.cells / 12) {
            let text = scale::tick_text(tick, self.window.to);
            let at = self.cell(tick);
            // A label that would stand out on the right is left out: the tick before it says enough.
            if at + text.chars().count() <= self.cells {
                put(&mut cells, at, &text);
            }
        }
        cells.into_iter().collect()
    }

    fn row(&self, member: &Member) -> Vec<char> {
        let nobody_writes = member.state == MemberState::Unmounted;
        let mut cells = vec![if nobody_writes { ' ' } else { '·' }; self.cells];
        match member.suspension {
            Suspension::Released(interval) => self.fill(&mut cells, interval, '━'),
            Suspension::Open { from } => self.fill(&mut cells, Interval { from, to: self.window.to }, '━'),
            Suspension::None => {}
        }
        if let Some(ready) = member.ready {
            cells[self.cell(ready)] = '▲';
        }
        if let Some(cut) = member.cut {
            self.fill(&mut cells, cut, '═');
            cells[self.cell(cut.to)] = '◆';
        }
        cells
    }

    fn fill(&self, cells: &mut [char], interval: Interval, with: char) {
        cells[self.cell(interval.from)..=self.cell(interval.to)].fill(with);
    }

    fn bracket(&self, interval: Interval) -> String {
        let (from, to) = (self.cell(interval.from), self.cell(interval.to));
        let text = format!(" all suspended, {} ", scale::text(interval.length()));
        let mut cells = vec![' '; self.cells];
        cells[from..=to].fill('─');
        cells[from] = '└';
        cells[to] = '┘';
        let length = text.chars().count();
        if to - from > length + 1 {
            put(&mut cells, from + (to - from + 1 - length) / 2, &text);
        } else if to + length < self.cells {
            put(&mut cells, to + 1, &text);
        } else if from >= length {
            put(&mut cells, from - length, &text);
        }
        cells.into_iter().collect()
    }
}

/// Writes text into cells, cut off at the right edge.
fn put(cells: &mut [char], at: usize, text: &str) {
    for (cell, character) in cells.iter_mut().skip(at).zip(text.chars()) {
        *cell = character;
    }
}

/// ANSI colours, or none.
#[derive(Clone, Copy)]
struct Paint(bool);

impl Paint {
    fn with(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    fn dim(self, text: &str) -> String {
        self.with("2", text)
    }

    fn phase(self, phase: Phase) -> String {
        let code = match phase {
            Phase::Done => "32",
            Phase::Aborted => "33",
            Phase::Failed => "31",
            _ => "36",
        };
        self.with(code, &format!("{phase:?}"))
    }

    /// Runs of equal characters, each in the colour of what it means.
    fn row(self, cells: &[char]) -> String {
        let code = |character: char| match character {
            '━' => "34",
            '▲' => "1;32",
            '═' => "33",
            '◆' => "1;33",
            _ => "2",
        };
        cells.chunk_by(|a, b| a == b).map(|run| self.with(code(run[0]), &run.iter().collect::<String>())).collect()
    }
}
