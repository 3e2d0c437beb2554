//! When the CA is rotated: decided from what is stored and the time. Pure.
//!
//! ```text
//! one CA ──▶ next is introduced ──▶ every namespace has it ──▶ next is promoted ──▶ previous is retired ──▶ one CA
//!        old or asked for     published              CA_OVERLAP            CA_RETIRE
//! ```
//!
//! Whoever trusts what is published trusts at every moment what servers show: a CA is published for
//! [`CA_OVERLAP`] before it signs anything, and stays published until nothing that it has signed is valid any more.

use std::time::{Duration, SystemTime};

use stillpoint_core::limits::{CA_OVERLAP, CA_RETIRE, CA_ROTATE, CLOCK_SKEW};

/// What is stored, as far as it decides. Times are by the wall clock of whichever controller wrote them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dates {
    /// When the current CA was made.
    pub made: SystemTime,
    /// The next CA, while there is one.
    pub next: Option<Next>,
    /// The previous CA, while it is trusted.
    pub previous: Option<Previous>,
    /// An operator asks for a rotation.
    pub requested: bool,
}

/// Dates of the next CA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Next {
    /// When it was made. `None`: not known.
    pub made: Option<SystemTime>,
    /// Since when every namespace that opted in has it. `None`: not all have it, or it is not known.
    pub published: Option<SystemTime>,
}

/// Dates of the previous CA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Previous {
    /// When another one took its place. `None`: not known.
    pub replaced: Option<SystemTime>,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Wait,
    /// Make a next CA, to be published beside the current one.
    Introduce,
    /// Write down that every namespace has the next CA from now on.
    NotePublished,
    /// Let the next CA sign from now on, and the current one be the previous.
    Promote,
    /// Write down that the previous CA was replaced now at the latest, because the date is lost.
    NoteReplaced,
    /// Trust the previous CA no longer.
    Retire,
}

/// What is to be done `now`. `published`: every namespace that opted in has exactly what is stored.
///
/// A date that lies in the future was written by a clock that was wrong. It counts as unknown, and what is unknown only makes
/// the rotation wait longer: it never shortens an overlap.
pub fn step(dates: &Dates, published: bool, now: SystemTime) -> Step {
    // One rotation at a time, so that never more than two CAs are trusted.
    if let Some(previous) = dates.previous {
        return match age(previous.replaced, now) {
            None => Step::NoteReplaced,
            Some(age) if age >= CA_RETIRE => Step::Retire,
            Some(_) => Step::Wait,
        };
    }
    let Some(next) = dates.next else {
        let due = age(Some(dates.made), now).is_some_and(|age| age >= CA_ROTATE);
        return if due || dates.requested { Step::Introduce } else { Step::Wait };
    };
    if age(next.made, now).is_none() {
        // Made by a wrong clock, it would be dated ahead and not grow old for as long.
        return Step::Introduce;
    }
    match age(next.published, now) {
        _ if !published => Step::Wait,
        None => Step::NotePublished,
        Some(age) if age >= CA_OVERLAP => Step::Promote,
        Some(_) => Step::Wait,
    }
}

/// The time since a date; `None` when there is none, or it lies further ahead than clocks may differ.
fn age(date: Option<SystemTime>, now: SystemTime) -> Option<Duration> {
    match now.duration_since(date?) {
        Ok(age) => Some(age),
        Err(ahead) => (ahead.duration() <= CLOCK_SKEW).then_some(Duration::ZERO),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000)
    }

    fn one(age: Duration) -> Dates {
        Dates { made: now() - age, next: None, previous: None, requested: false }
    }

    fn introduced(published: Option<SystemTime>) -> Dates {
        Dates { next: Some(Next { made: Some(now() - 30 * HOUR), published }), ..one(CA_ROTATE + 30 * HOUR) }
    }

    fn promoted(replaced: Option<SystemTime>) -> Dates {
        Dates { previous: Some(Previous { replaced }), ..one(30 * HOUR) }
    }

    #[test]
    fn every_step_has_its_time() {
        let second = Duration::from_secs(1);
        let year_ahead = now() + CA_ROTATE;
        let requested = |dates: Dates| Dates { requested: true, ..dates };
        let table = [
            ("a young CA", one(CA_ROTATE - second), true, Step::Wait),
            ("an old CA", one(CA_ROTATE), true, Step::Introduce),
            ("an old CA that is not published yet", one(CA_ROTATE), false, Step::Introduce),
            ("a young CA, asked for", requested(one(HOUR)), true, Step::Introduce),
            ("a CA that a wrong clock made", Dates { made: year_ahead, ..one(HOUR) }, true, Step::Wait),
            ("next, not everywhere", introduced(None), false, Step::Wait),
            ("next, everywhere", introduced(None), true, Step::NotePublished),
            ("next, everywhere for a while", introduced(Some(now() - CA_OVERLAP + second)), true, Step::Wait),
            ("next, everywhere for long", introduced(Some(now() - CA_OVERLAP)), true, Step::Promote),
            ("next, lost somewhere since", introduced(Some(now() - CA_OVERLAP)), false, Step::Wait),
            ("next, asked for again", requested(introduced(Some(now()))), true, Step::Wait),
            ("next, published a moment ahead", introduced(Some(now() + CLOCK_SKEW)), true, Step::Wait),
            ("next, published in the future", introduced(Some(year_ahead)), true, Step::NotePublished),
            (
                "next, made in the future",
                Dates { next: Some(Next { made: Some(year_ahead), published: Some(now()) }), ..one(HOUR) },
                true,
                Step::Introduce,
            ),
            (
                "next, of unknown age",
                Dates { next: Some(Next { made: None, published: Some(now() - CA_OVERLAP) }), ..one(HOUR) },
                true,
                Step::Introduce,
            ),
            ("previous, signatures of which are valid", promoted(Some(now() - CA_RETIRE + second)), true, Step::Wait),
            ("previous, long replaced", promoted(Some(now() - CA_RETIRE)), true, Step::Retire),
            ("previous, replaced nobody knows when", promoted(None), true, Step::NoteReplaced),
            ("previous, replaced in the future", promoted(Some(year_ahead)), true, Step::NoteReplaced),
            ("previous, asked for again", requested(promoted(Some(now()))), true, Step::Wait),
        ];
        for (case, dates, published, expected) in table {
            assert_eq!(step(&dates, published, now()), expected, "{case}");
        }
    }

    /// The stored dates and what the world sees of them, moved by `step`.
    struct World {
        dates: Dates,
        names: u32,
        current: u32,
        next: Option<u32>,
        previous: Option<u32>,
        /// What agents have: the bundle that was published [`KUBELET`] ago.
        published: Vec<(SystemTime, Vec<u32>)>,
        /// Server certificates: who signed them, and until when they are valid.
        shown: Vec<(u32, SystemTime)>,
    }

    /// How late a bundle may be on a node.
    const KUBELET: Duration = Duration::from_secs(20 * 3_600);

    impl World {
        fn bundle(&self) -> Vec<u32> {
            [self.previous, Some(self.current), self.next].into_iter().flatten().collect()
        }

        fn turn(&mut self, publisher_works: bool, now: SystemTime) {
            if publisher_works && self.published.last().is_none_or(|(_, bundle)| *bundle != self.bundle()) {
                self.published.push((now, self.bundle()));
            }
            let published = self.published.last().is_some_and(|(_, bundle)| *bundle == self.bundle());
            match step(&self.dates, published, now) {
                Step::Wait => {}
                Step::Introduce => {
                    self.names += 1;
                    self.next = Some(self.names);
                    self.dates.next = Some(Next { made: Some(now), published: None });
                    self.dates.requested = false;
                }
                Step::NotePublished => {
                    self.dates.next = self.dates.next.map(|next| Next { published: Some(now), ..next });
                }
                Step::Promote => {
                    self.dates.made = self.dates.next.take().and_then(|next| next.made).unwrap_or(now);
                    self.dates.previous = Some(Previous { replaced: Some(now) });
                    self.previous = Some(std::mem::replace(&mut self.current, self.next.take().expect("a next CA")));
                }
                Step::NoteReplaced => self.dates.previous = Some(Previous { replaced: Some(now) }),
                Step::Retire => {
                    self.previous = None;
                    self.dates.previous = None;
                }
            }
        }
    }

    proptest::proptest! {
        /// However long publishing fails and whenever somebody asks for a rotation: an agent whose bundle is late trusts
        /// every certificate that a controller may show, also a controller that has not renewed its own for long.
        #[test]
        fn what_is_shown_is_trusted(hours in proptest::collection::vec((1..200_u32, 0..10_u8, 0..10_u8), 1..120)) {
            let mut now = now();
            let dates = Dates { made: now, next: None, previous: None, requested: false };
            let published = vec![(now - 2 * KUBELET, vec![0])];
            let mut world = World { dates, names: 0, current: 0, next: None, previous: None, published, shown: vec![] };
            let mut promotions = 0;
            for (hours, publishing, asking) in hours {
                now += hours * HOUR;
                world.dates.requested |= asking == 0;
                let before = world.current;
                world.turn(publishing > 0, now);
                promotions += u32::from(world.current != before);
                world.shown.retain(|(_, end)| *end > now);
                world.shown.push((world.current, now + stillpoint_core::limits::CERTIFICATE_VALIDITY));
                let late = world.published.iter().rev().find(|(at, _)| *at + KUBELET <= now).map(|(_, bundle)| bundle);
                let late = late.expect("the first bundle is old enough");
                for (signer, _) in &world.shown {
                    proptest::prop_assert!(late.contains(signer), "{signer} is shown, {late:?} are trusted");
                }
                proptest::prop_assert!(world.bundle().len() <= 2);
            }
            proptest::prop_assert!(promotions <= world.names);
        }
    }

    #[test]
    fn a_rotation_comes_to_its_end() {
        let published = vec![(now() - 2 * KUBELET, vec![0])];
        let mut world =
            World { dates: one(CA_ROTATE), names: 0, current: 0, next: None, previous: None, published, shown: vec![] };
        let mut time = now();
        for _ in 0..=(CA_OVERLAP + CA_RETIRE).as_secs() / 3_600 + 4 {
            world.turn(true, time);
            time += HOUR;
        }
        assert_eq!(world.bundle(), [1]);
    }
}
