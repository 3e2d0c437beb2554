//! Random orders of events against a model of the kernel, the freezer and the guardian.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Prepare(u64, u8, u32, Session),
    Suspend(u64, u8, u32, Session, u32),
    Release(u64, u8, u32, Session),
    SessionLost(Session),
    GuardianLost,
    /// And whether a freeze that was under way came about all the same.
    FreezerLost(bool),
    /// The oldest open action ends well.
    Succeed,
    /// The oldest open action ends badly.
    Fail,
    Pass(u64),
    ForeignFreeze,
    ForeignThaw,
}

fn step() -> impl Strategy<Value = Step> {
    let (epoch, replication, number, session) = (1..3_u64, 1..3_u8, 1..3_u32, 1..3_u64);
    let attempt = (epoch, replication, number, session);
    prop_oneof![
        3 => attempt.clone().prop_map(|(e, r, n, s)| Step::Prepare(e, r, n, s)),
        4 => (attempt.clone(), 1..4_u32).prop_map(|((e, r, n, s), round)| Step::Suspend(e, r, n, s, round)),
        2 => attempt.prop_map(|(e, r, n, s)| Step::Release(e, r, n, s)),
        1 => (1..3_u64).prop_map(Step::SessionLost),
        1 => Just(Step::GuardianLost),
        1 => any::<bool>().prop_map(Step::FreezerLost),
        30 => Just(Step::Succeed),
        2 => Just(Step::Fail),
        4 => (0..12_000_u64).prop_map(Step::Pass),
        1 => Just(Step::ForeignFreeze),
        1 => Just(Step::ForeignThaw),
    ]
}

/// The world around one hold.
struct World {
    /// What the member's preflight brings.
    equipped: Equipped,
    hold: Hold,
    now: Instant,
    open: Vec<Action>,
    armed: bool,
    /// What would be found after the death of the agent.
    recorded: bool,
    frozen: Option<Owner>,
    /// When the freeze that stands, or is under way, was asked for.
    frozen_since: Option<Instant>,
    /// Since Ready was said, nobody else thawed.
    whole: bool,
    released: usize,
    /// The application was asked to quiesce, and not yet to go on.
    quiesced: bool,
    quiescings: (usize, usize),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Owner {
    Us,
    Other,
}

impl World {
    fn new(equipped: Equipped) -> Self {
        Self {
            equipped,
            hold: Hold::new(LIMIT),
            now: Instant::now(),
            open: Vec::new(),
            armed: false,
            recorded: false,
            frozen: None,
            frozen_since: None,
            whole: false,
            released: 0,
            quiesced: false,
            quiescings: (0, 0),
        }
    }

    fn tell(&mut self, event: Event) {
        for action in self.hold.handle(event, self.now) {
            self.act(action);
        }
        let thawing = self.open.iter().any(|open| matches!(open, Action::Resume(_) | Action::Settle(_)));
        let freezing = self.open.iter().any(|open| matches!(open, Action::Suspend(..)));
        if (self.frozen == Some(Owner::Us) || freezing) && !thawing {
            let due = self.hold.poll_timeout().expect("suspended without a deadline");
            if let Some(since) = self.frozen_since {
                assert!(due <= since + LIMIT, "suspended past the limit");
            }
        }
    }

    fn act(&mut self, action: Action) {
        match &action {
            Action::Quiesce(_) => {
                assert!(!self.quiesced && self.recorded, "quiesced twice, or unrecorded");
                self.quiesced = true;
                self.quiescings.0 += 1;
            }
            Action::Unquiesce(_) => {
                assert!(self.quiesced && self.recorded, "nothing to go on from, or nobody would know");
                assert_ne!(self.frozen, Some(Owner::Us), "the application goes on before its writes");
                self.quiesced = false;
                self.quiescings.1 += 1;
                self.open.retain(|open| !matches!(open, Action::Quiesce(_)));
            }
            Action::Suspend(..) => {
                assert!(self.armed && self.recorded, "unguarded or unrecorded");
                assert_eq!(self.quiesced, self.equipped.quiesces);
                self.frozen_since = Some(self.now);
            }
            Action::Resume(_) => assert_ne!(self.frozen, Some(Owner::Other), "thaws what it did not freeze"),
            Action::Forget => {
                assert_ne!(self.frozen, Some(Owner::Us), "forgotten while suspended");
                assert!(!self.quiesced, "forgotten while quiesced");
                self.open.retain(|open| !matches!(open, Action::Record(..)));
                self.recorded = false;
            }
            Action::Disarm | Action::Close => {
                assert_ne!(self.frozen, Some(Owner::Us), "disarmed while suspended");
                self.armed = false;
                if action == Action::Close {
                    assert!(!self.quiesced, "let go of while quiesced");
                    // Freezer and guardian are gone, and with them what they had not answered.
                    self.open.retain(|open| matches!(open, Action::Preflight(..) | Action::Look(..)));
                }
            }
            Action::Report(_, Report::Ready(_)) => {
                assert!(self.armed && self.frozen_since.is_some());
                let ending = self.open.iter().any(|open| matches!(open, Action::Resume(_) | Action::Settle(_)));
                assert!(!ending, "says Ready of a hold that ends");
                self.whole = self.frozen == Some(Owner::Us);
            }
            Action::Report(_, Report::Released(released)) => {
                self.released += 1;
                if released.unbroken {
                    assert!(self.whole, "says unbroken after somebody else thawed");
                    assert_ne!(self.frozen, Some(Owner::Us));
                }
            }
            Action::Report(_, Report::NotReady(_)) => {}
            Action::Preflight(..) | Action::Flush(_) | Action::Look(..) | Action::Record(..) => {}
            Action::Arm(..) | Action::Settle(_) => {}
            Action::Report(..) => {}
        }
        if ticket(&action).is_some() {
            self.open.push(action);
        }
    }

    /// The kernel's, the freezer's and the guardian's part.
    fn answer(&mut self, well: bool) {
        if self.open.is_empty() {
            return;
        }
        let action = self.open.remove(0);
        let outcome = match &action {
            Action::Preflight(..) if !well => Outcome::Preflighted(Err(vec![Blocker::default()])),
            Action::Flush(_) if !well => Outcome::Flushed(Err(broken())),
            Action::Look(..) if !well => Outcome::Looked(locked()),
            Action::Quiesce(_) if !well => {
                Outcome::Quiesced(Err(refused("NotQuiesced", self.quiescings.0.is_multiple_of(2))))
            }
            Action::Unquiesce(_) if !well => Outcome::Unquiesced(Err("it did not stay quiesced".to_owned())),
            Action::Record(..) if !well => Outcome::Recorded(Err("no space".to_owned())),
            Action::Record(..) => {
                self.recorded = true;
                Outcome::Recorded(Ok(()))
            }
            Action::Arm(..) if !well => return,
            Action::Arm(..) => {
                self.armed = true;
                Outcome::Armed
            }
            Action::Suspend(..) if self.frozen.is_some() => Outcome::Suspended(Err(foreign())),
            Action::Suspend(..) if !well => Outcome::Suspended(Err(broken())),
            Action::Suspend(..) => {
                self.frozen = Some(Owner::Us);
                Outcome::Suspended(Ok(Duration::ZERO))
            }
            Action::Resume(_) if !well && self.frozen.is_some() => {
                Outcome::Resumed(Resumed::Failed("the thaw failed".to_owned()))
            }
            Action::Resume(_) => match self.frozen.take() {
                Some(_) => Outcome::Resumed(Resumed::Ended),
                None => Outcome::Resumed(Resumed::Broken("somebody else thawed it".to_owned())),
            },
            Action::Settle(_) => {
                self.frozen = None;
                Outcome::Settled
            }
            Action::Preflight(..) => Outcome::Preflighted(Ok(self.equipped.clone())),
            other => success(other),
        };
        if matches!(
            outcome,
            Outcome::Suspended(Err(_)) | Outcome::Resumed(Resumed::Ended | Resumed::Broken(_)) | Outcome::Settled
        ) {
            self.frozen_since = None;
        }
        self.tell(Event::Done(ticket(&action).unwrap(), outcome));
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Prepare(e, r, n, s) => self.tell(Event::Command(s, prepare(attempt(e, r, n)))),
            Step::Suspend(e, r, n, s, round) => self.tell(Event::Command(s, Command::Suspend(attempt(e, r, n), round))),
            Step::Release(e, r, n, s) => self.tell(Event::Command(s, Command::Release(attempt(e, r, n)))),
            Step::SessionLost(session) => self.tell(Event::SessionLost(session)),
            Step::GuardianLost => {
                self.armed = false;
                self.open.retain(|open| !matches!(open, Action::Arm(..)));
                self.tell(Event::GuardianLost);
            }
            Step::FreezerLost(came_about) => {
                let freezer =
                    |open: &Action| matches!(open, Action::Flush(_) | Action::Suspend(..) | Action::Resume(_));
                let freezing = self.open.iter().any(|open| matches!(open, Action::Suspend(..)));
                self.open.retain(|open| !freezer(open));
                if freezing && came_about && self.frozen.is_none() {
                    self.frozen = Some(Owner::Us);
                }
                self.tell(Event::FreezerLost);
            }
            Step::Succeed => self.answer(true),
            Step::Fail => self.answer(false),
            Step::Pass(ms) => {
                let until = self.now + Duration::from_millis(ms);
                while let Some(due) = self.hold.poll_timeout().filter(|due| *due <= until) {
                    self.now = self.now.max(due);
                    self.tell(Event::Timeout);
                }
                self.now = until;
            }
            Step::ForeignFreeze => {
                // A tool that freezes while ours stands is refused by the kernel.
                let ours = self.open.iter().any(|open| matches!(open, Action::Resume(_) | Action::Settle(_)));
                if self.frozen.is_none() && self.frozen_since.is_none() && !ours {
                    self.frozen = Some(Owner::Other);
                }
            }
            Step::ForeignThaw => {
                // What comes after the hold does not break it: a repeated Release has the same answer.
                if self.frozen.take() == Some(Owner::Us) {
                    self.whole = false;
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_writes_come_back(
        steps in prop::collection::vec(step(), 1..120),
        plan in prop_oneof![3 => Just(PLAN), 1 => Just(SUSPEND_FIRST)],
        quiesces: bool,
    ) {
        let mut world = World::new(Equipped { quiesces, ..equipped(plan) });
        for step in steps {
            world.step(step);
        }
        // Every command has had its say; a Release of a new leader is answered, and then nothing is left.
        world.tell(Event::SessionLost(1));
        world.tell(Event::SessionLost(2));
        for _ in 0..20 {
            world.step(Step::Succeed);
        }
        let before = world.released;
        for replication in 1..3 {
            world.tell(Event::Command(9, Command::Release(attempt(9, replication, 9))));
            for _ in 0..20 {
                world.step(Step::Succeed);
            }
        }
        prop_assert_eq!(world.released, before + 2);
        prop_assert!(world.hold.is_idle());
        prop_assert_ne!(world.frozen, Some(Owner::Us));
        prop_assert!(!world.armed && !world.recorded);
        // Whatever was quiesced went on, once.
        prop_assert!(!world.quiesced && world.quiescings.0 == world.quiescings.1);
    }
}
