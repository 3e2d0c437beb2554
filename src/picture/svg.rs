//! The picture as a drawing: a file of its own, without scripts and fonts, for light and dark pages.

use std::fmt::Write;

use super::scale;
use super::timeline::{Interval, Member, Suspension, Timeline};
use stillpoint_api::{MemberState, Phase};
use stillpoint_core::text::printable;

const WIDTH: f64 = 960.0;
const MARGIN: f64 = 28.0;
const LABELS: f64 = 190.0;
const REMARKS: f64 = 96.0;
const TOP: f64 = 122.0;
const ROW: f64 = 46.0;
const BAR: f64 = 16.0;
const BOTTOM: f64 = 74.0;
/// Characters of a name that fit in front of a row.
const LABEL_CHARS: usize = 22;
/// Characters of a pod and node that fit below it.
const PLACE_CHARS: usize = 30;

/// Colours by meaning, as classes: custom properties are unknown to many viewers. The second set is for dark pages.
const STYLE: &str = "\
    text { font-family: ui-sans-serif, system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif; fill: #1f2933 }
    .page { fill: #ffffff; stroke: #dde3ea }
    .soft { fill: #64707d }
    .grid { stroke: #e6ebf0 }
    .writes { stroke: #aab7c4; stroke-width: 2; stroke-dasharray: 1 5; stroke-linecap: round }
    .held, .band { fill: #2f6fde }
    .brace { fill: none; stroke: #2f6fde; stroke-width: 1.5 }
    .asked { stroke: #f7b23b; stroke-width: 4; stroke-linecap: round }
    .cut { fill: #f7b23b; stroke: #ffffff; stroke-width: 1.5 }
    .good { fill: #12805c }
    .warn { fill: #b45309 }
    .bad { fill: #c0392b }
    @media (prefers-color-scheme: dark) {
      text { fill: #e8edf2 }
      .page { fill: #14191f; stroke: #28313b }
      .soft { fill: #93a1b0 }
      .grid { stroke: #28313b }
      .writes { stroke: #55636f }
      .held, .band { fill: #5b93f5 }
      .brace { stroke: #5b93f5 }
      .cut { stroke: #14191f }
      .good { fill: #3ecf9b }
      .warn { fill: #f0a43a }
      .bad { fill: #f2766a }
    }
";

/// Draws a timeline as an SVG document.
pub fn render(timeline: &Timeline) -> String {
    let rows = timeline.members.len() as f64;
    let height = TOP + rows * ROW + BOTTOM;
    let axis = Axis { window: timeline.window, left: MARGIN + LABELS, right: WIDTH - MARGIN - REMARKS };
    let mut svg = Drawing(String::new());
    svg.head(timeline, height);
    svg.title(timeline);
    svg.axis(&axis, rows);
    if let Some(together) = timeline.together {
        svg.band(&axis, together, rows);
    }
    for (index, member) in timeline.members.iter().enumerate() {
        svg.member(&axis, member, TOP + (index as f64 + 0.5) * ROW);
    }
    svg.legend(height - 24.0);
    svg.0.push_str("</svg>\n");
    svg.0
}

/// Maps times to horizontal positions.
struct Axis {
    window: Interval,
    left: f64,
    right: f64,
}

impl Axis {
    fn x(&self, time: i64) -> f64 {
        let share = (time as f64 - self.window.from as f64) / (self.window.length() as f64).max(1.0);
        self.left + share.clamp(0.0, 1.0) * (self.right - self.left)
    }
}

/// The document as it grows.
struct Drawing(String);

impl Drawing {
    fn put(&mut self, element: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "  {element}");
    }

    fn text(&mut self, x: f64, y: f64, attributes: &str, text: &str) {
        self.put(format_args!(r#"<text x="{x:.1}" y="{y:.1}" {attributes}>{}</text>"#, escape(text)));
    }

    fn head(&mut self, timeline: &Timeline, height: f64) {
        let _ = writeln!(
            self.0,
            r#"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" role="img">"#
        );
        self.put(format_args!("<title>{}: {}</title>", escape(&timeline.name), escape(&timeline.summary())));
        self.put(format_args!("<style>\n{STYLE}  </style>"));
        self.put(format_args!(
            r#"<rect x="0.5" y="0.5" width="{}" height="{}" rx="10" class="page"/>"#,
            WIDTH - 1.0,
            height - 1.0
        ));
    }

    fn title(&mut self, timeline: &Timeline) {
        let class = match timeline.phase {
            Phase::Done => "good",
            Phase::Aborted => "warn",
            Phase::Failed => "bad",
            _ => "held",
        };
        let consistency = timeline.consistency.map(|level| format!(" · {level:?} consistency")).unwrap_or_default();
        self.text(MARGIN, 42.0, r#"font-size="19" font-weight="650""#, &printable(&timeline.name, 64));
        self.text(
            WIDTH - MARGIN,
            42.0,
            &format!(r#"font-size="14" font-weight="600" text-anchor="end" class="{class}""#),
            &format!("{:?}{consistency}", timeline.phase),
        );
        self.text(MARGIN, 65.0, r#"font-size="13" class="soft""#, &timeline.summary());
    }

    fn axis(&mut self, axis: &Axis, rows: f64) {
        let bottom = TOP + rows * ROW;
        for tick in scale::ticks(axis.window.from, axis.window.to, 8) {
            let x = axis.x(tick);
            self.put(format_args!(r#"<line x1="{x:.1}" y1="{TOP:.1}" x2="{x:.1}" y2="{bottom:.1}" class="grid"/>"#));
            self.text(
                x,
                bottom + 16.0,
                r#"font-size="11" text-anchor="middle" class="soft""#,
                &scale::tick_text(tick, axis.window.to),
            );
        }
    }

    /// The time in which every member was suspended, behind all rows.
    fn band(&mut self, axis: &Axis, together: Interval, rows: f64) {
        let (from, to) = (axis.x(together.from), axis.x(together.to).max(axis.x(together.from) + 1.0));
        let (top, bottom) = (TOP - 8.0, TOP + rows * ROW);
        self.put(format_args!(
            r#"<rect x="{from:.1}" y="{top:.1}" width="{:.1}" height="{:.1}" class="band" opacity="0.11"/>"#,
            to - from,
            bottom - top
        ));
        self.put(format_args!(r#"<path d="M{from:.1} {:.1}v-6H{to:.1}v6" class="brace"/>"#, top - 2.0));
        let text = format!("all suspended · {}", scale::text(together.length()));
        // The text is about 150 wide and must stay on the page.
        let x = f64::midpoint(from, to).clamp(axis.left + 75.0, axis.right - 75.0);
        let attributes = r#"font-size="12" font-weight="600" text-anchor="middle" class="held""#;
        self.text(x, top - 14.0, attributes, &text);
    }

    fn member(&mut self, axis: &Axis, member: &Member, middle: f64) {
        let has_place = !member.place.is_empty();
        let name_at = if has_place { middle - 2.0 } else { middle + 4.0 };
        self.text(MARGIN, name_at, r#"font-size="13" font-weight="600""#, &printable(&member.claim, LABEL_CHARS));
        if has_place {
            let place = printable(&member.place, PLACE_CHARS);
            self.text(MARGIN, middle + 13.0, r#"font-size="10.5" class="soft""#, &place);
        }
        if member.state != MemberState::Unmounted {
            // Writes go on wherever nothing lies over this line.
            self.put(format_args!(
                r#"<line x1="{:.1}" y1="{middle:.1}" x2="{:.1}" y2="{middle:.1}" class="writes"/>"#,
                axis.left, axis.right
            ));
        }
        match member.suspension {
            Suspension::Released(interval) => self.bar(axis.x(interval.from), axis.x(interval.to), middle),
            Suspension::Open { from } => self.bar(axis.x(from), axis.right, middle),
            Suspension::None => {}
        }
        if let Some(cut) = member.cut {
            self.cut(axis.x(cut.from), axis.x(cut.to), middle);
        }
        if let Some(ready) = member.ready {
            let x = axis.x(ready);
            let y = middle + BAR / 2.0 + 2.0;
            self.put(format_args!(r#"<path d="M{x:.1} {y:.1}l4.5 7h-9z" class="good"/>"#));
        }
        let class = if member.state == MemberState::Broken { r#" class="bad""# } else { "" };
        let attributes = format!(r#"font-size="13" text-anchor="end"{class}"#);
        self.text(WIDTH - MARGIN, middle + 4.0, &attributes, &member.remark());
    }

    fn bar(&mut self, from: f64, to: f64, middle: f64) {
        self.put(format_args!(
            r#"<rect x="{from:.1}" y="{:.1}" width="{:.1}" height="{BAR}" rx="4" class="held"/>"#,
            middle - BAR / 2.0,
            (to - from).max(2.0)
        ));
    }

    fn cut(&mut self, from: f64, to: f64, middle: f64) {
        self.put(format_args!(
            r#"<line x1="{from:.1}" y1="{middle:.1}" x2="{to:.1}" y2="{middle:.1}" class="asked"/>"#
        ));
        self.put(format_args!(r#"<path d="M{to:.1} {:.1}l7 7l-7 7l-7 -7z" class="cut"/>"#, middle - 7.0));
    }

    fn legend(&mut self, y: f64) {
        let middle = y - 4.0;
        let mut x = MARGIN + LABELS;
        let mut entry = |svg: &mut Self, text: &str, width: f64, symbol: &dyn Fn(&mut Self, f64)| {
            symbol(svg, x);
            svg.text(x + 30.0, y, r#"font-size="11.5" class="soft""#, text);
            x += width;
        };
        entry(self, "writes go on", 132.0, &|svg, x| {
            svg.put(format_args!(
                r#"<line x1="{x:.1}" y1="{middle:.1}" x2="{:.1}" y2="{middle:.1}" class="writes"/>"#,
                x + 22.0
            ));
        });
        entry(self, "suspended", 120.0, &|svg, x| svg.bar(x, x + 22.0, middle));
        entry(self, "ready", 92.0, &|svg, x| {
            svg.put(format_args!(r#"<path d="M{:.1} {:.1}l4.5 7h-9z" class="good"/>"#, x + 14.0, middle - 4.0));
        });
        entry(self, "cut: asked for, taken", 0.0, &|svg, x| svg.cut(x, x + 16.0, middle));
    }
}

/// Names come from a file that anyone may have written: nothing of them is markup.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            c => escaped.push(c),
        }
    }
    escaped
}
