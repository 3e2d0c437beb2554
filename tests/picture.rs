//! The picture of a hold, against golden files. `make pictures` writes them; look at them afterwards.

#![allow(clippy::expect_used, reason = "a test ends with the sentence of what it expected")]

use stillpoint::picture::{Interval, Suspension, Timeline, svg, terminal};
use stillpoint_api::ConsistencyGroupReplication;
use support::generated::{assert_generated, in_checkout};

/// What draws the pictures anew.
const COMMAND: &str = "make pictures";

fn object(name: &str) -> ConsistencyGroupReplication {
    let json = std::fs::read(in_checkout(&format!("tests/picture/{name}.json"))).expect("the input exists");
    serde_json::from_slice(&json).expect("the input is a ConsistencyGroupReplication")
}

fn timeline(name: &str) -> Timeline {
    let object = object(name);
    let status = object.status.expect("the input has a status");
    Timeline::from_status(object.metadata.name.as_deref().unwrap_or(""), &status).expect("there is something to draw")
}

#[test]
fn pictures_look_as_they_did() {
    for name in ["done", "broken", "aborted-in-hold", "holding"] {
        let timeline = timeline(name);
        let style = terminal::Style { columns: 100, colour: false };
        assert_generated(&format!("tests/picture/{name}.txt"), &terminal::render(&timeline, style), COMMAND);
        // The README shows this one.
        let drawing = if name == "done" { "docs/hold.svg".to_owned() } else { format!("tests/picture/{name}.svg") };
        assert_generated(&drawing, &svg::render(&timeline), COMMAND);
    }
}

#[test]
fn intervals_come_from_the_agents_length_and_the_controllers_clock() {
    let timeline = timeline("done");
    let orders = &timeline.members[0];
    assert_eq!(orders.suspension, Suspension::Released(Interval { from: -7_200, to: 214_200 }));
    assert_eq!(orders.cut, Some(Interval { from: 37_500, to: 141_300 }));
    assert_eq!(timeline.together, Some(Interval { from: 33_100, to: 214_200 }), "last ready to first released");
    assert_eq!(timeline.cuts(), (4, 4));
}

#[test]
fn a_broken_hold_is_never_drawn_as_a_common_one() {
    let timeline = timeline("broken");
    assert_eq!(timeline.together, None);
    assert_eq!(timeline.members[1].suspension, Suspension::Released(Interval { from: 11_800, to: 311_800 }));
    assert!(timeline.summary().contains("2 of 3 members was broken"), "{}", timeline.summary());
}

#[test]
fn an_object_without_a_hold_gives_a_sentence() {
    let object = object("aborted");
    let sentence =
        Timeline::from_status("shop-blocked", &object.status.expect("status")).expect_err("nothing").to_string();
    assert!(sentence.contains("ended as Aborted without suspending any member"), "{sentence}");
    assert!(sentence.contains("LockHeld") && sentence.contains("sqlite3"), "{sentence}");
}

#[test]
fn every_line_fits_its_columns_and_markup_is_escaped() {
    let mut object = object("done");
    let status = object.status.as_mut().expect("status");
    status.members[0].persistent_volume_claim.name = "<b>&\"\u{1b}[31m".repeat(20);
    status.members[1].suspended_for = Some(std::time::Duration::MAX.into());
    let timeline = Timeline::from_status("a<b", status).expect("drawable");
    for columns in [0, 60, 61, 80, 173, 400] {
        let drawn = terminal::render(&timeline, terminal::Style { columns, colour: false });
        let widest = drawn.lines().take(8).map(|line| line.chars().count()).max().unwrap_or(0);
        assert!(widest <= columns.max(60), "{widest} columns instead of {columns}:\n{drawn}");
        assert!(!drawn.contains('\u{1b}'), "a name must not steer the terminal");
    }
    let drawn = svg::render(&timeline);
    assert!(drawn.contains("&lt;b&gt;&amp;&quot;") && !drawn.contains("<b>") && !drawn.contains('\u{1b}'));
}
