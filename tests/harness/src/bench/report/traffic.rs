//! Requests to the API server.

use super::super::traffic::{Count, Kind};
use super::{print, verdict};
use crate::terminal::Terminal;

/// Requests of a run that replicates, at most: so many, and so many more for every member.
const AIM: (f64, f64) = (12.0, 4.0);

/// What the runs of one version asked for, one count for every size.
pub struct Counts {
    /// Of which version.
    pub label: &'static str,
    /// In ascending order of the sizes, which all versions share.
    pub sizes: Vec<Count>,
}

/// Prints what runs of one kind asked for, every version in a column of its own.
pub fn print_counts(terminal: Terminal, kind: Kind, versions: &[Counts]) {
    terminal.heading(&format!("Requests of the controller to the API server per run, mode {kind:?}"));
    let counts = || versions.iter().flat_map(|version| &version.sizes);
    let mut requests: Vec<&String> = counts().flat_map(|count| count.requests.keys()).collect();
    requests.sort();
    requests.dedup();
    let mut rows = vec![heading(versions)];
    rows.extend(requests.into_iter().map(|request| row(request, versions, |count| count.of(request))));
    rows.push(row("all", versions, Count::total));
    if kind == Kind::Replicate {
        rows.push(aims(versions));
    }
    print(terminal, &rows);
}

/// Says what the tables show.
pub fn explain() {
    println!(
        "\n  Means, counted by apiserver_request_total, without the benchmark's own requests: the runs' objects and events,\n  \
         claims, volumes, pods, snapshots and their classes, token reviews; not the Lease. A watch counts when it ends, so\n  \
         one that lives longer than the runs is not in it. The formula is the straight line through the sizes."
    );
}

fn heading(versions: &[Counts]) -> Vec<String> {
    let mut cells = vec!["REQUEST".to_owned()];
    for version in versions {
        cells.extend(
            version.sizes.iter().map(|count| format!("{} N = {}", version.label.to_uppercase(), count.members)),
        );
        cells.push("FORMULA".to_owned());
    }
    cells
}

fn row(name: &str, versions: &[Counts], value: impl Fn(&Count) -> f64) -> Vec<String> {
    let mut cells = vec![name.to_owned()];
    for version in versions {
        cells.extend(version.sizes.iter().map(|count| format!("{:.1}", value(count))));
        let point = |count: &Count| (count.members as f64, value(count));
        cells.push(formula(&version.sizes.iter().map(point).collect::<Vec<_>>()));
    }
    cells
}

fn aims(versions: &[Counts]) -> Vec<String> {
    let (fixed, each) = AIM;
    let aim = |count: &Count| {
        let most = fixed + each * count.members as f64;
        verdict(&most.to_string(), count.total() <= most)
    };
    let mut cells = vec!["aim".to_owned()];
    for version in versions {
        cells.extend(version.sizes.iter().map(aim));
        cells.push(format!("{fixed} + {each} N"));
    }
    cells
}

/// The straight line through points, by least squares.
fn formula(points: &[(f64, f64)]) -> String {
    let count = points.len() as f64;
    let mean = |value: fn(&(f64, f64)) -> f64| points.iter().map(value).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let spread: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    if spread == 0.0 {
        return String::new();
    }
    let slope = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum::<f64>() / spread;
    // Adding zero takes the sign from a zero.
    let tenths = |value: f64| (value * 10.0).round() / 10.0 + 0.0;
    match (tenths(y - slope * x), tenths(slope)) {
        (fixed, 0.0) => fixed.to_string(),
        (0.0, each) => format!("{each} N"),
        (fixed, each) if each < 0.0 => format!("{fixed} - {} N", -each),
        (fixed, each) => format!("{fixed} + {each} N"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_formula_is_the_line_through_the_counts() {
        assert_eq!(formula(&[(3.0, 24.0), (10.0, 52.0), (30.0, 132.0)]), "12 + 4 N");
        assert_eq!(formula(&[(3.0, 3.0), (30.0, 30.0)]), "1 N");
        assert_eq!(formula(&[(3.0, 2.0), (30.0, 2.0)]), "2");
        assert_eq!(formula(&[(3.0, 2.0)]), "");
    }

    #[test]
    fn the_aim_depends_on_the_members() {
        let count = |members, asked| Count {
            members,
            requests: [("POST events".to_owned(), asked)].into_iter().collect(),
            runs: 2,
        };
        let counts = Counts { label: "new", sizes: vec![count(3, 48), count(10, 105)] };
        assert_eq!(aims(&[counts]), ["aim", "≤ 24: met", "≤ 52: missed", "12 + 4 N"]);
    }
}
