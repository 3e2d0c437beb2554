//! Members whose application is quiesced.

use super::*;
use crate::limits::{QUIESCE_TIMEOUT, UNQUIESCE_TIMEOUT};

/// A member that is asked to suspend; everything goes well until the action of this name.
fn suspending_until(name: &str) -> Story {
    let mut story = Story::new();
    story.command(prepare(attempt(1, 1, 1)));
    story.done(Outcome::Preflighted(Ok(Equipped { quiesces: true, ..equipped(PLAN) })));
    story.well_until("");
    story.said.clear();
    story.command(Command::Suspend(attempt(1, 1, 1), 1));
    assert!(matches!(story.asked, Some(Action::Record(_, Intent::Quiesce))), "recorded before it is asked for");
    story.well_until(name);
    story
}

fn goes_on(story: &Story) -> bool {
    matches!(story.asked, Some(Action::Unquiesce(_))) && story.said.is_empty()
}

#[test]
fn the_application_is_quiesced_first_and_goes_on_last() {
    let mut story = suspending_until("Quiesce");
    story.done(Outcome::Quiesced(Ok(())));
    assert!(matches!(story.asked, Some(Action::Flush(_))));
    story.well_until("");
    assert!(matches!(story.heard(), Report::Ready(_)));
    story.pass(LIMIT / 2);
    story.command(Command::Release(attempt(1, 1, 1)));
    story.well_until("Unquiesce");
    assert!(goes_on(&story) && story.let_go == "D", "nothing is forgotten yet");
    story.pass(UNQUIESCE_TIMEOUT / 2);
    story.done(Outcome::Unquiesced(Ok(())));
    let Report::Released(released) = story.heard() else { panic!() };
    assert!(released.unbroken && released.suspended_us == 5_000_000, "{released:?}");
    assert!(story.hold.is_idle() && story.let_go == "DFC");
}

#[test]
fn it_goes_on_also_when_it_refused_or_did_not_answer() {
    let mut story = suspending_until("Quiesce");
    story.done(Outcome::Quiesced(Err(refused("NotQuiesced", true))));
    assert!(goes_on(&story));
    story.well_until("");
    assert_eq!(story.refusal(), ("NotQuiesced".to_owned(), true));

    let mut story = suspending_until("Quiesce");
    story.pass(QUIESCE_TIMEOUT);
    assert!(goes_on(&story));
    story.pass(UNQUIESCE_TIMEOUT);
    assert_eq!(story.refusal(), ("TooSlow".to_owned(), false));
    assert!(story.hold.is_idle());
}

#[test]
fn it_goes_on_whatever_ends_the_round() {
    type Happening = fn(&mut Story);
    let ends: [(&str, Happening); 6] = [
        ("session", |story| story.tell(Event::SessionLost(1))),
        ("guardian", |story| story.tell(Event::GuardianLost)),
        ("freezer", |story| story.tell(Event::FreezerLost)),
        ("shutdown", |story| story.tell(Event::Shutdown)),
        ("release", |story| story.command(Command::Release(attempt(1, 1, 1)))),
        ("limit", |story| story.pass(LIMIT * 4)),
    ];
    for (why, happens) in ends {
        for until in ["Quiesce", "Flush", "Look", "Arm", "Suspend", ""] {
            let mut story = suspending_until(until);
            story.said.clear();
            happens(&mut story);
            let mut asked = 0;
            while let Some(action) = &story.asked {
                asked += usize::from(matches!(action, Action::Unquiesce(_)));
                let outcome = success(action);
                story.done(outcome);
            }
            assert_eq!(asked, 1, "{why} at {until}");
            // A flush that is not short ends the round alone.
            let stays = (why, until) == ("limit", "Flush");
            assert_eq!(story.hold.is_idle(), !stays, "{why} at {until}");
        }
    }
}

#[test]
fn a_hold_in_which_it_did_not_stay_quiesced_is_broken() {
    for fails in [true, false] {
        let mut story = suspending_until("");
        story.said.clear();
        story.command(Command::Release(attempt(1, 1, 1)));
        story.well_until("Unquiesce");
        if fails {
            story.done(Outcome::Unquiesced(Err("its connection ended".to_owned())));
        } else {
            story.pass(UNQUIESCE_TIMEOUT);
        }
        let Report::Released(released) = story.heard() else { panic!() };
        assert!(!released.unbroken && !released.reason.is_empty(), "{released:?}");
    }
}
