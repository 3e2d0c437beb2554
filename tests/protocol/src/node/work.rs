//! What takes time at a node: which work is outstanding and which deadlines run, and what comes of them.

use std::time::{Duration, Instant};
use stillpoint_api::Reason;

use stillpoint_core::blocker::blocker;
use stillpoint_core::hold::guard;
use stillpoint_core::hold::{Equipped, Event, Hold, Outcome, Refused, Resumed, Ticket, WasSuspended, no_guardian};
use stillpoint_core::locks::Look;
use stillpoint_core::wire::Protection;

use super::{
    Equipment, Freezer, Guarding, Node, Order, Owner, PLAN, Place, Process, Reports, Request, Thread, Timer, Warming,
    Work, refused,
};

impl Node {
    /// What could complete now, in a fixed order.
    pub fn pending(&self) -> Vec<Work> {
        let mut work = Vec::new();
        for thread in &self.threads {
            match thread {
                // It waits for a recovery that is under way.
                Thread::Preflight(_) if self.threads.contains(&Thread::Recover) => {}
                Thread::Preflight(ticket) => work.push(Work::Preflight(*ticket)),
                Thread::Record(ticket) => work.push(Work::Record(*ticket)),
                Thread::Recover if self.frozen.is_none() && self.freezer_remains() => {}
                Thread::Recover => work.push(Work::Recover),
                Thread::Quiesce(ticket) => work.push(Work::Quiesce(*ticket)),
                Thread::Unquiesce(ticket) => work.push(Work::Unquiesce(*ticket)),
                Thread::Look(ticket) => work.push(Work::Look(*ticket)),
                Thread::Settle(ticket) => {
                    let gone = self.equipment.as_ref().is_none_or(|held| held.freezer.process == Process::Gone);
                    if self.frozen.is_some() || gone {
                        work.push(Work::Settle(*ticket));
                    }
                }
            }
        }
        for (place, equipment) in self.places() {
            let freezer = &equipment.freezer;
            match freezer.process {
                Process::Alive if !freezer.orders.is_empty() || !freezer.heard => work.push(Work::Freezer(place)),
                Process::Dying => work.extend([Work::Freezer(place), Work::FreezerDies(place)]),
                Process::Alive | Process::Gone => {}
            }
            let guard = &equipment.guard;
            match guard.stage {
                Guarding::Watching(_) if !guard.requests.is_empty() || !guard.heard => {
                    work.push(Work::Guardian(place));
                }
                Guarding::Thawing if self.frozen.is_some() || freezer.process == Process::Gone => {
                    work.push(Work::GuardianThaws(place));
                }
                Guarding::Watching(_) | Guarding::Thawing | Guarding::Gone => {}
            }
        }
        if let Some(equipment) = &self.equipment {
            if equipment.freezer.process == Process::Gone && !equipment.freezer_lost {
                work.push(Work::FreezerGone);
            }
            if !matches!(equipment.guard.stage, Guarding::Watching(_)) && !equipment.guardian_lost {
                work.push(Work::GuardianGone);
            }
        }
        work
    }

    /// Completes a piece of work that is [`Self::pending`]; any other does nothing.
    pub fn complete(&mut self, work: Work, now: Instant) -> Reports {
        let event = match work {
            Work::Preflight(ticket) => self.preflighted(ticket),
            Work::Look(ticket) => self.looked(ticket),
            Work::Record(ticket) => self.recorded(ticket),
            Work::Quiesce(ticket) => {
                self.came_back(Thread::Quiesce(ticket)).then_some(Event::Done(ticket, Outcome::Quiesced(Ok(()))))
            }
            Work::Unquiesce(ticket) => self.unquiesced(ticket),
            Work::Settle(ticket) => self.settled(ticket),
            Work::Recover => {
                self.recover();
                return self.hear_put_off(now);
            }
            Work::Freezer(place) => self.freezer_works(place),
            Work::FreezerDies(place) => self.freezer_dies(place),
            Work::FreezerGone => self.equipment.as_mut().map(|equipment| {
                equipment.freezer_lost = true;
                Event::FreezerLost
            }),
            Work::Guardian(place) => self.guardian_hears(place, now),
            Work::GuardianThaws(place) => self.guardian_thaws(place),
            Work::GuardianGone => self.equipment.as_mut().map(|equipment| {
                equipment.guardian_lost = true;
                Event::GuardianLost
            }),
        };
        let reports = event.map(|event| self.handle(event, now)).unwrap_or_default();
        self.sweep();
        reports
    }

    /// Lets a piece of work that is [`Self::pending`] fail: the preflight refuses, the look sees nothing, the kernel answers an
    /// I/O error to the freezer's order and does nothing. What cannot fail completes.
    pub fn fail(&mut self, work: Work, now: Instant) -> Reports {
        let blind = || vec![blocker(Reason::Blind, "the agent cannot see")];
        let event = match work {
            Work::Preflight(ticket) if self.came_back(Thread::Preflight(ticket)) => {
                Event::Done(ticket, Outcome::Preflighted(Err(blind())))
            }
            Work::Look(ticket) if self.came_back(Thread::Look(ticket)) => {
                Event::Done(ticket, Outcome::Looked(Look { blockers: blind(), ..Look::default() }))
            }
            Work::Record(ticket) if self.came_back(Thread::Record(ticket)) => {
                Event::Done(ticket, Outcome::Recorded(Err("no space is left".to_owned())))
            }
            // It may have quiesced all the same.
            Work::Quiesce(ticket) if self.came_back(Thread::Quiesce(ticket)) => {
                Event::Done(ticket, Outcome::Quiesced(Err(refused("NotQuiesced", true))))
            }
            Work::Unquiesce(ticket) if self.came_back(Thread::Unquiesce(ticket)) => {
                self.quiesced = false;
                Event::Done(ticket, Outcome::Unquiesced(Err("it did not stay quiesced".to_owned())))
            }
            Work::Freezer(Place::Current) => match self.order_fails() {
                Some(event) => event,
                None => return self.complete(work, now),
            },
            _ => return self.complete(work, now),
        };
        let reports = self.handle(event, now);
        self.sweep();
        reports
    }

    /// The kernel refuses the order that is next at the freezer, if it is one that can be refused.
    fn order_fails(&mut self) -> Option<Event> {
        let freezer = &mut self.equipment.as_mut()?.freezer;
        if freezer.process != Process::Alive || freezer.warming != Warming::Not || freezer.orders.is_empty() {
            return None;
        }
        let (order, ticket) = freezer.orders.remove(0);
        let refused = |reason| refused(reason, false);
        let outcome = match order {
            Order::Flush => Outcome::Flushed(Err(refused("FlushFailed"))),
            Order::Suspend => Outcome::Suspended(Err(refused("FreezeFailed"))),
            Order::Resume => Outcome::Resumed(Resumed::Failed("the thaw failed".to_owned())),
        };
        Some(Event::Done(ticket, outcome))
    }

    /// The deadlines that run.
    pub fn timers(&self) -> Vec<(Timer, Instant)> {
        let agent = self.hold.as_ref().and_then(Hold::poll_timeout).map(|due| (Timer::Agent, due));
        let guardians = self.places().filter_map(|(place, equipment)| match &equipment.guard.stage {
            Guarding::Watching(watch) => watch.poll_timeout().map(|due| (Timer::Guardian(place), due)),
            Guarding::Thawing | Guarding::Gone => None,
        });
        agent.into_iter().chain(guardians).collect()
    }

    /// A deadline has come.
    pub fn fire(&mut self, timer: Timer, now: Instant) -> Reports {
        match timer {
            Timer::Agent => self.handle(Event::Timeout, now),
            Timer::Guardian(place) => {
                if let Some(equipment) = self.at(place) {
                    equipment.guard.hear(guard::Event::Timeout, now);
                }
                Reports::new()
            }
        }
    }

    fn came_back(&mut self, thread: Thread) -> bool {
        let index = self.threads.iter().position(|other| *other == thread);
        index.map(|index| self.threads.remove(index)).is_some()
    }

    fn preflighted(&mut self, ticket: Ticket) -> Option<Event> {
        if !self.came_back(Thread::Preflight(ticket)) {
            return None;
        }
        let outcome = if self.guardian_alive && !self.guardian_full {
            if ticket == self.preflight {
                self.equipment = Some(Equipment::new());
            }
            Ok(Equipped {
                filesystem: "ext4".to_owned(),
                protection: Protection::NodeGuardian,
                plan: PLAN,
                quiesces: self.quiesces,
            })
        } else {
            Err(vec![no_guardian("nobody listens on its socket")])
        };
        Some(Event::Done(ticket, Outcome::Preflighted(outcome)))
    }

    fn looked(&mut self, ticket: Ticket) -> Option<Event> {
        if !self.came_back(Thread::Look(ticket)) {
            return None;
        }
        let blockers = if self.locked { vec![blocker(Reason::LockHeld, "a process holds a lock")] } else { Vec::new() };
        Some(Event::Done(ticket, Outcome::Looked(Look { blockers, ..Look::default() })))
    }

    fn recorded(&mut self, ticket: Ticket) -> Option<Event> {
        if !self.came_back(Thread::Record(ticket)) {
            return None;
        }
        self.recorded = true;
        Some(Event::Done(ticket, Outcome::Recorded(Ok(()))))
    }

    fn unquiesced(&mut self, ticket: Ticket) -> Option<Event> {
        if !self.came_back(Thread::Unquiesce(ticket)) {
            return None;
        }
        self.quiesced = false;
        Some(Event::Done(ticket, Outcome::Unquiesced(Ok(()))))
    }

    /// One turn of `undo::until_settled` in a recovery.
    fn recover(&mut self) {
        if self.thaw(false) == WasSuspended::Yes || !self.freezer_remains() {
            self.came_back(Thread::Recover);
            self.recorded = false;
            // The record says that it is owed.
            self.quiesced = false;
        }
    }

    /// What waited for the recovery is heard when that has ended.
    fn hear_put_off(&mut self, now: Instant) -> Reports {
        if self.threads.contains(&Thread::Recover) {
            return Reports::new();
        }
        let waited = std::mem::take(&mut self.put_off);
        let heard =
            waited.into_iter().flat_map(|(session, command)| self.handle(Event::Command(session, command), now));
        let reports = heard.collect();
        self.sweep();
        reports
    }

    /// Whether a freezer of an earlier agent has not ended.
    fn freezer_remains(&self) -> bool {
        self.old.iter().any(|old| old.freezer.process != Process::Gone)
    }

    /// One turn of `undo::until_settled` in the agent.
    fn settled(&mut self, ticket: Ticket) -> Option<Event> {
        let gone = self.equipment.as_ref().is_none_or(|held| held.freezer.process == Process::Gone);
        if !self.threads.contains(&Thread::Settle(ticket)) || (self.thaw(false) == WasSuspended::No && !gone) {
            return None;
        }
        self.came_back(Thread::Settle(ticket));
        Some(Event::Done(ticket, Outcome::Settled))
    }

    fn freezer_works(&mut self, place: Place) -> Option<Event> {
        let mut freezer = self.at(place)?.freezer.clone();
        let event = self.freezer_turn(&mut freezer);
        self.at(place)?.freezer = freezer;
        event
    }

    /// One turn of the loop in `freezer::run`; a suspension takes three.
    fn freezer_turn(&mut self, freezer: &mut Freezer) -> Option<Event> {
        if freezer.process == Process::Gone {
            return None;
        }
        let Some((order, ticket)) = freezer.orders.first().copied() else {
            if freezer.process == Process::Dying || !freezer.heard {
                self.freezer_ends(freezer);
            }
            return None;
        };
        let outcome = match order {
            Order::Flush => Outcome::Flushed(Ok(())),
            Order::Suspend => match self.suspend(freezer) {
                Some(result) => Outcome::Suspended(result.map(|()| Duration::ZERO)),
                None => return None,
            },
            Order::Resume => {
                let result = self.thaw(freezer.heard);
                freezer.frozen = false;
                Outcome::Resumed(match result {
                    WasSuspended::Yes => Resumed::Ended,
                    WasSuspended::No => Resumed::Broken("somebody else thawed it".to_owned()),
                })
            }
        };
        freezer.orders.remove(0);
        if freezer.process == Process::Dying || !freezer.heard {
            // Killed, or the answer cannot be sent.
            self.freezer_ends(freezer);
            return None;
        }
        Some(Event::Done(ticket, outcome))
    }

    /// One turn of the suspension of `FilesystemFreeze`: freezes, thaws, and freezes again. `None`: it goes on.
    fn suspend(&mut self, freezer: &mut Freezer) -> Option<Result<(), Refused>> {
        let done = match freezer.warming {
            Warming::Not => self.freeze(Owner::Us).map(|()| Warming::Frozen),
            Warming::Frozen => match self.thaw(false) {
                WasSuspended::Yes => Ok(Warming::Warm),
                WasSuspended::No => Err(refused("FreezeFailed", false)),
            },
            Warming::Warm => self.freeze(Owner::Us).map(|()| Warming::Not),
        };
        freezer.warming = done.as_ref().map_or(Warming::Not, |now| *now);
        match done {
            Ok(Warming::Not) => {
                freezer.frozen = true;
                Some(Ok(()))
            }
            Ok(Warming::Frozen | Warming::Warm) => {
                if freezer.process == Process::Dying {
                    self.freezer_ends(freezer);
                }
                None
            }
            Err(refused) => Some(Err(refused)),
        }
    }

    fn freezer_ends(&mut self, freezer: &mut Freezer) {
        if freezer.process == Process::Alive && freezer.frozen {
            let _ = self.thaw(false);
        }
        *freezer =
            Freezer { process: Process::Gone, orders: Vec::new(), warming: Warming::Not, frozen: false, ..*freezer };
    }

    fn freezer_dies(&mut self, place: Place) -> Option<Event> {
        let mut freezer = self.at(place)?.freezer.clone();
        if freezer.process == Process::Dying {
            self.freezer_ends(&mut freezer);
        }
        self.at(place)?.freezer = freezer;
        None
    }

    /// One turn of the loop in `guard::watch`.
    fn guardian_hears(&mut self, place: Place, now: Instant) -> Option<Event> {
        let guard = &mut self.at(place)?.guard;
        let event = match guard.requests.first().copied() {
            Some(Request::Arm(ticket, limit)) => guard::Event::Arm { ticket, limit },
            Some(Request::Disarm) => guard::Event::Disarm,
            None if guard.heard => return None,
            None => guard::Event::Closed,
        };
        guard.requests.drain(..guard.requests.len().min(1));
        let promised = guard.hear(event, now).filter(|_| guard.heard);
        promised.map(|ticket| Event::Done(ticket, Outcome::Armed))
    }

    /// One turn of `undo::until_settled` in the guardian, which cannot kill: it is in another pod.
    fn guardian_thaws(&mut self, place: Place) -> Option<Event> {
        let equipment = self.at(place)?;
        let gone = equipment.freezer.process == Process::Gone;
        if equipment.guard.stage != Guarding::Thawing || (self.thaw(false) == WasSuspended::No && !gone) {
            return None;
        }
        self.at(place)?.guard.stage = Guarding::Gone;
        None
    }
}
