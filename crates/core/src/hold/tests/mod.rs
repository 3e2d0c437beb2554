//! The hold, told step by step, and under random orders of events.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod flushing;
mod looks;
mod quiescing;
mod random;

use std::time::{Duration, Instant};

use super::{Act, Action, Command, Equipped, Event, Hold, Intent, Outcome, Plan, Refused, Resumed, Session, Ticket};
use crate::limits::{FREEZE_TIMEOUT, GUARDIAN_TIMEOUT, LOCK_POLL, RECORD_TIMEOUT, THAW_TIMEOUT};
use crate::locks::{Look, Suspension};
use crate::wire::agent_message::Report;
use crate::wire::{Attempt, Blocker, Prepare, Protection, Released};

const LIMIT: Duration = Duration::from_secs(10);
const PREPARE: Duration = Duration::from_secs(30);

/// A method that warms and flushes first, and one that can flush only what it has stopped.
const PLAN: Plan = Plan::of(&[Act::Flush, Act::Look, Act::Record, Act::Flush, Act::Arm, Act::Suspend, Act::Look]);
const SUSPEND_FIRST: Plan = Plan::of(&[Act::Look, Act::Record, Act::Arm, Act::Suspend, Act::Flush, Act::Look]);

fn refused(reason: &str, retryable: bool) -> Refused {
    let blocker = crate::wire::Blocker { reason: reason.to_owned(), ..Default::default() };
    Refused::new(blocker, retryable)
}

/// Somebody else has suspended writes.
fn foreign() -> Refused {
    refused("AlreadyFrozen", true)
}

fn broken() -> Refused {
    refused("FreezeFailed", false)
}

fn equipped(plan: Plan) -> Equipped {
    Equipped { filesystem: "ext4".to_owned(), protection: Protection::NodeGuardian, plan, quiesces: false }
}

fn attempt(epoch: u64, replication: u8, number: u32) -> Attempt {
    Attempt { epoch, replication_uid: format!("run-{replication}"), number, member: "claim".to_owned() }
}

fn prepare(attempt: Attempt) -> Command {
    prepare_to_hold(attempt, LIMIT)
}

fn prepare_to_hold(attempt: Attempt, limit: Duration) -> Command {
    let request = Prepare {
        attempt: Some(attempt.clone()),
        prepare_timeout_ms: PREPARE.as_millis().try_into().unwrap(),
        hold_timeout_ms: limit.as_millis().try_into().unwrap(),
        ..Prepare::default()
    };
    Command::Prepare(attempt, Box::new(request))
}

fn locked() -> Look {
    let blocker = Blocker { reason: "LockHeld".to_owned(), pid: 7, ..Blocker::default() };
    Look { blockers: vec![blocker], ..Look::default() }
}

fn ticket(action: &Action) -> Option<Ticket> {
    match action {
        Action::Preflight(ticket, _)
        | Action::Quiesce(ticket)
        | Action::Unquiesce(ticket)
        | Action::Flush(ticket)
        | Action::Look(ticket, _)
        | Action::Record(ticket, _)
        | Action::Arm(ticket, _)
        | Action::Suspend(ticket, _)
        | Action::Resume(ticket)
        | Action::Settle(ticket) => Some(*ticket),
        Action::Disarm | Action::Forget | Action::Close | Action::Report(..) => None,
    }
}

/// How an action ends when all goes well.
fn success(action: &Action) -> Outcome {
    match action {
        Action::Preflight(..) => Outcome::Preflighted(Ok(equipped(PLAN))),
        Action::Quiesce(_) => Outcome::Quiesced(Ok(())),
        Action::Unquiesce(_) => Outcome::Unquiesced(Ok(())),
        Action::Flush(_) => Outcome::Flushed(Ok(())),
        Action::Look(..) => Outcome::Looked(Look::default()),
        Action::Record(..) => Outcome::Recorded(Ok(())),
        Action::Arm(..) => Outcome::Armed,
        Action::Suspend(..) => Outcome::Suspended(Ok(Duration::ZERO)),
        Action::Resume(_) => Outcome::Resumed(Resumed::Ended),
        Action::Settle(_) => Outcome::Settled,
        Action::Disarm | Action::Forget | Action::Close | Action::Report(..) => unreachable!("has no outcome"),
    }
}

/// A hold, its clock, and what it asked for and said.
struct Story {
    hold: Hold,
    now: Instant,
    asked: Option<Action>,
    /// What was done without an answer, in order: `D`isarm, `F`orget and `C`lose.
    let_go: String,
    said: Vec<(Session, Report)>,
}

impl Story {
    fn new() -> Self {
        let hold = Hold::new(Duration::from_secs(60));
        Self { hold, now: Instant::now(), asked: None, let_go: String::new(), said: Vec::new() }
    }

    fn tell(&mut self, event: Event) {
        for action in self.hold.handle(event, self.now) {
            match action {
                Action::Report(session, report) => self.said.push((session, report)),
                Action::Disarm => self.let_go.push('D'),
                Action::Forget => self.let_go.push('F'),
                Action::Close => self.let_go.push('C'),
                asked => self.asked = Some(asked),
            }
        }
    }

    fn command(&mut self, command: Command) {
        self.tell(Event::Command(1, command));
    }

    fn done(&mut self, outcome: Outcome) {
        let asked = self.asked.take().expect("nothing was asked");
        self.tell(Event::Done(ticket(&asked).unwrap(), outcome));
    }

    /// Everything that is asked goes well, until the action of this name is asked for.
    fn well_until(&mut self, name: &str) {
        while let Some(asked) = &self.asked {
            if !name.is_empty() && format!("{asked:?}").starts_with(name) {
                return;
            }
            let outcome = success(asked);
            self.done(outcome);
        }
        assert!(name.is_empty(), "{name} was never asked for");
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.tell(Event::Timeout);
    }

    fn heard(&mut self) -> Report {
        assert_eq!(self.said.len(), 1, "{:?}", self.said);
        self.said.remove(0).1
    }

    fn refusal(&mut self) -> (String, bool) {
        match self.heard() {
            Report::NotReady(it) => (it.blockers[0].reason.clone(), it.retryable),
            other => panic!("{other:?}"),
        }
    }

    /// Both are said, in this order; returns the reason of the first.
    fn refusal_and_release(&mut self) -> String {
        let said: Vec<_> = self.said.drain(..).map(|(_, report)| report).collect();
        let [Report::NotReady(refusal), Report::Released(released)] = &said[..] else { panic!("{said:?}") };
        assert!(!released.unbroken && refusal.round == 1, "{said:?}");
        let reasons: Vec<_> = refusal.blockers.iter().map(|blocker| blocker.reason.as_str()).collect();
        reasons.join(" ")
    }

    /// It is said that the suspension is late, and nothing else.
    fn pending(&mut self) {
        match self.heard() {
            Report::Pending(it) => assert_eq!((it.round, it.blockers[0].reason.as_str()), (1, "SuspensionPending")),
            other => panic!("{other:?}"),
        }
    }

    fn release(&mut self) -> Released {
        self.command(Command::Release(attempt(1, 1, 1)));
        self.well_until("");
        match self.heard() {
            Report::Released(released) => released,
            other => panic!("{other:?}"),
        }
    }

    fn prepared() -> Self {
        let mut story = Self::new();
        story.command(prepare(attempt(1, 1, 1)));
        story.well_until("");
        assert!(matches!(story.heard(), Report::Prepared(_)));
        story
    }

    fn suspending_until(name: &str) -> Self {
        let mut story = Self::prepared();
        story.command(Command::Suspend(attempt(1, 1, 1), 1));
        story.well_until(name);
        story
    }

    fn held() -> Self {
        let mut story = Self::suspending_until("");
        assert!(matches!(story.heard(), Report::Ready(_)));
        story
    }

    fn is_broken(&mut self, why: &str) {
        let released = self.release();
        assert!(!released.unbroken && released.reason.contains(why), "{released:?}");
        assert!(self.hold.is_idle());
    }
}

#[test]
fn a_hold_from_prepare_to_release() {
    let mut story = Story::held();
    story.pass(LIMIT / 2);
    let released = story.release();
    assert!(released.unbroken && released.reason.is_empty(), "{released:?}");
    assert_eq!(released.suspended_us, 5_000_000);
    assert_eq!(story.release(), released, "a repeated Release has the same answer");
    assert!(story.hold.is_idle());
    assert_eq!(story.let_go, "FC", "record and guardian stay between the warming and the hold");
}

#[test]
fn what_cannot_be_recorded_is_not_frozen() {
    let mut story = Story::suspending_until("Record");
    story.done(Outcome::Recorded(Err("no space".to_owned())));
    assert!(story.asked.is_none() && story.let_go == "FC");
    assert_eq!(story.refusal(), ("NotRecorded".to_owned(), false));
    let mut story = Story::suspending_until("Record");
    story.pass(RECORD_TIMEOUT);
    assert!(
        story.asked.as_ref().is_some_and(|asked| matches!(asked, Action::Record(_, Intent::Suspend)))
            && story.let_go == "FC"
    );
    assert_eq!(story.refusal(), ("TooSlow".to_owned(), false));
}

#[test]
fn waits_for_a_clean_look_and_speaks_only_of_changes() {
    let mut story = Story::new();
    story.command(prepare(attempt(1, 1, 1)));
    story.well_until("Look");
    story.done(Outcome::Looked(locked()));
    assert!(matches!(story.heard(), Report::Waiting(_)));
    story.pass(LOCK_POLL);
    let mut longer = locked();
    longer.blockers[0].seen_us = 50_000;
    story.done(Outcome::Looked(longer));
    assert!(story.said.is_empty(), "the same blocker is no news");
    story.pass(PREPARE);
    assert_eq!(story.refusal(), ("LockHeld".to_owned(), true));
    assert!(story.hold.is_idle() && story.let_go == "FC");
}

#[test]
fn a_lock_seen_after_the_freeze_resumes_and_may_be_asked_again() {
    let mut story = Story::suspending_until("Suspend");
    story.done(Outcome::Suspended(Ok(Duration::ZERO)));
    story.done(Outcome::Looked(locked()));
    assert!(matches!(story.asked, Some(Action::Resume(_))) && story.said.is_empty(), "NotReady means resumed");
    story.well_until("");
    assert_eq!(story.refusal(), ("LockHeld".to_owned(), true));
    story.command(Command::Suspend(attempt(1, 1, 1), 1));
    assert_eq!(story.refusal(), ("LockHeld".to_owned(), true), "a repeated round has the same answer");
    story.command(Command::Suspend(attempt(1, 1, 1), 2));
    story.well_until("");
    assert!(matches!(story.heard(), Report::Ready(ready) if ready.round == 2));
}

#[test]
fn a_refusal_tells_for_how_long_writes_were_suspended() {
    let mut story = Story::suspending_until("Suspend");
    story.done(Outcome::Suspended(Ok(Duration::ZERO)));
    story.now += Duration::from_millis(40);
    story.done(Outcome::Looked(locked()));
    story.well_until("");
    assert!(matches!(story.heard(), Report::NotReady(refused) if refused.suspended_us == 40_000));
}

#[test]
fn a_suspension_that_waits_is_told_as_one() {
    let mut story = Story::suspending_until("Suspend");
    story.pass(LIMIT);
    assert!(matches!(story.asked, Some(Action::Settle(_))));
    assert!(matches!(story.heard(), Report::Pending(_)), "said while the kernel waits");
    story.pass(Duration::from_secs(50));
    story.done(Outcome::Settled);
    let Report::NotReady(refused) = story.heard() else { panic!("not refused") };
    assert_eq!(refused.blockers[0].reason, "SuspensionPending", "{refused:?}");
    assert!(refused.suspended_us > 50_000_000 && !refused.retryable, "{refused:?}");
}

#[test]
fn what_the_method_refuses_is_named_and_never_resumed() {
    for (reason, retryable) in [("AlreadyFrozen", true), ("CannotFreeze", false)] {
        let mut story = Story::suspending_until("Suspend");
        story.done(Outcome::Suspended(Err(refused(reason, retryable))));
        assert_eq!(story.refusal(), (reason.to_owned(), retryable));
        assert!(story.asked.is_none() && story.let_go.contains('D'), "{reason}");
    }
}

#[test]
fn a_method_may_suspend_first_and_flush_then() {
    let begin = || {
        let mut story = Story::new();
        story.command(prepare(attempt(1, 1, 1)));
        story.done(Outcome::Preflighted(Ok(equipped(SUSPEND_FIRST))));
        story.well_until("");
        story.said.clear();
        story.command(Command::Suspend(attempt(1, 1, 1), 1));
        assert!(matches!(story.asked, Some(Action::Look(_, Suspension::Writable))));
        story.well_until("Arm");
        assert!(matches!(story.asked, Some(Action::Arm(_, LIMIT))));
        story.well_until("Flush");
        story
    };
    let mut story = begin();
    story.well_until("Look");
    assert!(matches!(story.asked, Some(Action::Look(_, Suspension::Suspended))));
    story.well_until("");
    assert!(matches!(story.heard(), Report::Ready(_)));
    assert!(story.release().unbroken);

    let mut story = begin();
    story.done(Outcome::Flushed(Err(refused("FlushFailed", false))));
    assert!(matches!(story.asked, Some(Action::Resume(_))) && story.said.is_empty(), "NotReady means resumed");
    story.well_until("");
    assert_eq!(story.refusal(), ("FlushFailed".to_owned(), false));

    let mut story = begin();
    story.pass(LIMIT);
    story.well_until("");
    assert_eq!(story.refusal(), ("TooSlow".to_owned(), true));
}

#[test]
fn what_breaks_a_hold_is_remembered() {
    type Happening = fn(&mut Story);
    let breaks: [(&str, Happening); 4] = [
        ("hold limit", |story| story.pass(LIMIT)),
        ("session", |story| story.tell(Event::SessionLost(1))),
        ("guardian", |story| story.tell(Event::GuardianLost)),
        ("freezer", |story| story.tell(Event::FreezerLost)),
    ];
    for (why, happens) in breaks {
        let mut story = Story::held();
        happens(&mut story);
        assert!(matches!(story.asked, Some(Action::Resume(_) | Action::Settle(_))), "{why}: writes go on at once");
        story.well_until("");
        assert!(story.hold.is_idle());
        story.is_broken(why);
        // And also when Release comes before the thaw is done.
        let mut story = Story::held();
        happens(&mut story);
        story.is_broken(why);
    }
}

#[test]
fn ready_is_never_said_of_a_hold_that_ends() {
    let repeated = || [prepare(attempt(1, 1, 1)), Command::Suspend(attempt(1, 1, 1), 1)];
    for (at, command) in repeated().into_iter().enumerate() {
        for settles in [false, true] {
            let mut story = Story::held();
            story.command(command.clone());
            assert!(matches!(story.heard(), Report::Ready(_)), "it holds");
            story.tell(if settles { Event::FreezerLost } else { Event::GuardianLost });
            story.tell(Event::Command(2, command.clone()));
            assert!(story.said.is_empty(), "the hold is broken, and writes do not go on yet: {:?}", story.said);
            story.well_until("");
            assert_eq!(story.said[0].0, 2, "whoever asked last is answered");
            assert!(matches!(&story.said[0].1, Report::NotReady(it) if it.round == at as u32), "{:?}", story.said);
            assert_eq!(story.refusal(), ("NotPrepared".to_owned(), false));
            assert!(story.hold.is_idle());
        }
    }
    // Nor of one that is released, where the answer is Released.
    for command in repeated() {
        let mut story = Story::held();
        story.command(Command::Release(attempt(1, 1, 1)));
        story.command(command);
        story.well_until("");
        assert!(matches!(story.heard(), Report::Released(released) if released.unbroken));
    }
}

#[test]
fn a_release_after_the_limit_is_too_late_even_if_no_timer_ran() {
    let mut story = Story::held();
    story.now += LIMIT;
    story.is_broken("hold limit");
}

#[test]
fn somebody_elses_thaw_voids_the_cut() {
    let mut story = Story::held();
    story.command(Command::Release(attempt(1, 1, 1)));
    story.done(Outcome::Resumed(Resumed::Broken("somebody else thawed it".to_owned())));
    let Report::Released(released) = story.heard() else { panic!() };
    assert!(!released.unbroken && released.reason.contains("somebody else"), "{released:?}");
}

#[test]
fn a_freezer_that_does_not_answer_is_thawed_from_outside() {
    let mut story = Story::suspending_until("Suspend");
    story.pass(FREEZE_TIMEOUT);
    assert!(matches!(story.asked, Some(Action::Settle(_))));
    story.pending();
    story.command(Command::Suspend(attempt(1, 1, 1), 1));
    story.pending();
    story.pass(4 * FREEZE_TIMEOUT);
    story.well_until("");
    let Report::NotReady(refusal) = story.heard() else { panic!("writes go on") };
    assert_eq!((refusal.blockers[0].reason.as_str(), refusal.retryable), ("SuspensionPending", false));
    assert!(refusal.blockers[0].message.contains("25.0s; they go on now"), "{refusal:?}");
    assert_eq!(refusal.suspended_us, 25_000_000);
    assert!(story.hold.is_idle());
    let released = story.release();
    assert!(!released.unbroken && released.suspended_us == 25_000_000, "{released:?}");
    let mut story = Story::held();
    story.command(Command::Release(attempt(1, 1, 1)));
    story.pass(THAW_TIMEOUT);
    assert!(matches!(story.asked, Some(Action::Settle(_))));
    story.well_until("");
    assert!(matches!(story.heard(), Report::Released(released) if !released.unbroken));
}

#[test]
fn no_freeze_lasts_longer_than_a_short_hold() {
    const SHORT: Duration = Duration::from_secs(1);
    let mut story = Story::new();
    story.command(prepare_to_hold(attempt(1, 1, 1), SHORT));
    story.well_until("");
    story.said.clear();
    story.command(Command::Suspend(attempt(1, 1, 1), 1));
    story.well_until("Arm");
    assert!(matches!(story.asked, Some(Action::Arm(_, SHORT))), "{:?}", story.asked);
    story.well_until("Suspend");
    story.pass(SHORT);
    assert!(matches!(story.asked, Some(Action::Settle(_))), "{:?}", story.asked);
}

/// The guardian counts from its arming, so the agent's own deadline must not be later: it would be told of a lost guardian.
#[test]
fn the_limit_counts_from_the_arming_and_a_suspension_from_its_beginning() {
    const SLOW: Duration = Duration::from_millis(300);
    let mut story = Story::suspending_until("Suspend");
    let armed = story.now;
    story.pass(SLOW);
    story.done(Outcome::Suspended(Ok(SLOW / 3)));
    story.well_until("");
    assert!(matches!(story.heard(), Report::Ready(ready) if ready.suspended_us == 300_000));
    assert_eq!(story.hold.poll_timeout(), Some(armed + LIMIT));
    story.pass(SLOW);
    let released = story.release();
    assert!(released.unbroken && released.suspended_us == 400_000, "{released:?}");
    // A freezer's clock is not believed beyond the asking.
    let mut story = Story::suspending_until("Suspend");
    story.done(Outcome::Suspended(Ok(Duration::MAX)));
    story.well_until("");
    story.said.clear();
    assert_eq!(story.release().suspended_us, 0);
}

#[test]
fn a_release_during_the_freeze_waits_for_its_answer() {
    let mut story = Story::suspending_until("Suspend");
    story.command(Command::Release(attempt(1, 1, 1)));
    assert!(matches!(story.asked, Some(Action::Suspend(..))) && story.said.is_empty());
    story.done(Outcome::Suspended(Err(foreign())));
    assert!(story.asked.is_none(), "what somebody else froze is not thawed");
    assert_eq!(story.refusal_and_release(), "AlreadyFrozen");

    let mut story = Story::suspending_until("Suspend");
    story.command(Command::Release(attempt(1, 1, 1)));
    story.done(Outcome::Suspended(Ok(Duration::ZERO)));
    assert!(matches!(story.asked, Some(Action::Resume(_))));
}

#[test]
fn a_release_does_not_hide_what_stood_in_the_way() {
    let mut story = Story::suspending_until("Suspend");
    story.done(Outcome::Suspended(Ok(Duration::ZERO)));
    story.done(Outcome::Looked(locked()));
    story.command(Command::Release(attempt(1, 1, 1)));
    assert!(story.said.is_empty(), "writes do not go on yet");
    story.well_until("");
    assert_eq!(story.refusal_and_release(), "LockHeld");
    assert!(story.hold.is_idle());

    let mut story = Story::suspending_until("Suspend");
    story.command(Command::Release(attempt(1, 1, 1)));
    story.pass(FREEZE_TIMEOUT);
    story.pending();
    story.tell(Event::GuardianLost);
    story.well_until("");
    assert_eq!(story.refusal_and_release(), "SuspensionPending NoGuardian");

    // But what comes after Ready is no refusal.
    let mut story = Story::held();
    story.command(Command::Release(attempt(1, 1, 1)));
    story.tell(Event::GuardianLost);
    story.tell(Event::FreezerLost);
    story.well_until("");
    assert!(matches!(story.heard(), Report::Released(released) if !released.unbroken));
}

#[test]
fn a_guardian_that_does_not_promise_is_not_waited_for() {
    let mut story = Story::suspending_until("Arm");
    story.pass(GUARDIAN_TIMEOUT);
    assert_eq!(story.refusal(), ("TooSlow".to_owned(), false));
    assert!(story.hold.is_idle());
}

#[test]
fn older_and_other_commands_are_refused() {
    let mut story = Story::held();
    story.command(prepare(attempt(1, 2, 1)));
    assert_eq!(story.refusal(), ("HeldByAnother".to_owned(), true));
    story.command(prepare(attempt(0, 1, 9)));
    let Report::NotReady(refused) = story.heard() else { panic!("not refused") };
    assert_eq!((refused.blockers[0].reason.as_str(), refused.blockers[0].epoch), ("StaleAttempt", 1));
    story.command(prepare(attempt(1, 1, 0)));
    assert_eq!(story.refusal(), ("StaleAttempt".to_owned(), false));
    story.command(Command::Release(attempt(0, 1, 1)));
    assert!(matches!(story.heard(), Report::Released(released) if !released.unbroken));
    assert!(story.asked.is_none(), "none of them ends the hold");
    assert!(story.release().unbroken);
    story.command(Command::Suspend(attempt(1, 1, 1), 1));
    assert_eq!(story.refusal(), ("NotPrepared".to_owned(), false));
}

#[test]
fn a_newer_attempt_takes_over_after_the_thaw() {
    let mut story = Story::held();
    story.command(prepare(attempt(1, 1, 2)));
    assert!(matches!(story.asked, Some(Action::Resume(_))));
    story.well_until("Preflight");
    story.well_until("");
    assert!(matches!(story.heard(), Report::Prepared(it) if it.attempt == Some(attempt(1, 1, 2))));
}

#[test]
fn a_new_leader_releases_what_the_old_one_asked_for() {
    let mut story = Story::held();
    story.tell(Event::Command(2, Command::Release(attempt(2, 1, 1))));
    story.well_until("");
    assert_eq!(story.said[0].0, 2);
    assert!(matches!(story.heard(), Report::Released(released) if released.attempt == Some(attempt(2, 1, 1))));
}

#[test]
fn an_old_leader_is_given_no_proof_of_what_the_new_one_ended() {
    let mut story = Story::held();
    story.tell(Event::Command(2, Command::Release(attempt(2, 1, 1))));
    story.well_until("");
    assert!(matches!(story.heard(), Report::Released(released) if released.unbroken));
    assert!(!story.release().unbroken, "its cut may have come after the release");
}

#[test]
fn a_hold_that_is_too_long_is_refused() {
    let mut story = Story::new();
    story.hold = Hold::new(LIMIT / 2);
    story.command(prepare(attempt(1, 1, 1)));
    assert_eq!(story.refusal(), ("HoldTimeoutRefused".to_owned(), false));
    assert!(story.hold.is_idle());
}

#[test]
fn a_preparation_that_nobody_uses_is_let_go() {
    let mut story = Story::prepared();
    story.pass(PREPARE);
    assert!(story.hold.is_idle() && story.let_go == "FC");
    assert_eq!(story.hold.poll_timeout(), None);
}
