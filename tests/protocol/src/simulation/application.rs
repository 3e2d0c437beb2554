//! The application: it writes to one member after the other, and begins the next write only when the last one is done. So the
//! numbers of its writes say in which order they happened, and a cut that holds a later write without an earlier one is torn.

use std::time::Duration;

/// The time of one write.
const WRITE: Duration = Duration::from_micros(200);

/// The application, advanced only when something changes.
#[derive(Clone, Debug)]
pub(super) struct Application {
    /// Whether anybody writes to this member at all.
    mounted: Vec<bool>,
    /// The number of the last write to each member; 0: none.
    last: Vec<u64>,
    /// The number of the next write, and which member it goes to.
    next: u64,
    turn: usize,
    /// When the last write was done, or could not be done yet.
    at: Duration,
}

/// What a cut of one member holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Content {
    /// The last write in it.
    pub last: u64,
    /// The first write to the member that is not in it.
    pub missed: Option<u64>,
}

impl Application {
    /// An application that writes to these members.
    pub fn new(mounted: Vec<bool>) -> Self {
        let members = mounted.len();
        Self { mounted, last: vec![0; members], next: 1, turn: 0, at: Duration::ZERO }
    }

    /// Somebody begins, or ceases, to write to a member.
    pub fn mount(&mut self, member: usize, mounted: bool) {
        self.mounted[member] = mounted;
    }

    /// Writes until `now`, with these members frozen all the while. `cuts` are told what they miss.
    pub fn advance<'a>(
        &mut self,
        now: Duration,
        frozen: &[bool],
        cuts: impl Iterator<Item = (usize, &'a mut Content)>,
    ) {
        let members = self.mounted.len();
        let writers = (0..members).filter(|member| self.mounted[*member]).count();
        if writers == 0 {
            self.at = now;
            return;
        }
        let first = self.next;
        let begun: Vec<u64> = self.last.clone();
        let may_stop = (0..members).any(|member| self.mounted[member] && frozen[member]);
        let mut left = (now.saturating_sub(self.at).as_micros() / WRITE.as_micros()) as u64;
        if left == 0 {
            return;
        }
        if may_stop {
            // At most one round is written before the frozen member's turn.
            left = left.min(members as u64);
            self.at = now;
        } else {
            self.at += WRITE * u32::try_from(left).unwrap_or(u32::MAX);
        }
        // All but the last rounds only raise the numbers; the first round is told to the cuts.
        let mut missed: Vec<Option<u64>> = vec![None; members];
        let rounds = left / writers as u64;
        let mut budget = left;
        if rounds > 3 {
            self.round(&mut budget, frozen, &mut missed);
            let skip = (rounds - 3) * writers as u64;
            self.next += skip;
            budget = budget.saturating_sub(skip);
        }
        while budget > 0 && self.write(&mut budget, frozen, &mut missed) {}
        for (member, content) in cuts {
            if content.missed.is_none() {
                content.missed = missed[member];
            }
        }
        debug_assert!(self.next >= first && self.last.iter().zip(&begun).all(|(now, before)| now >= before));
    }

    /// What a cut that is taken now holds.
    pub fn content(&self, member: usize) -> Content {
        Content { last: self.last[member], missed: None }
    }

    fn round(&mut self, budget: &mut u64, frozen: &[bool], missed: &mut [Option<u64>]) {
        let writers = self.mounted.iter().filter(|mounted| **mounted).count();
        for _ in 0..writers {
            self.write(budget, frozen, missed);
        }
    }

    /// One write, unless its member is frozen.
    fn write(&mut self, budget: &mut u64, frozen: &[bool], missed: &mut [Option<u64>]) -> bool {
        while !self.mounted[self.turn] {
            self.turn = (self.turn + 1) % self.mounted.len();
        }
        if frozen[self.turn] {
            return false;
        }
        self.last[self.turn] = self.next;
        missed[self.turn].get_or_insert(self.next);
        self.next += 1;
        self.turn = (self.turn + 1) % self.mounted.len();
        *budget = budget.saturating_sub(1);
        true
    }
}

/// Whether cuts hold a later write without an earlier one.
pub(super) fn is_torn(cuts: &[Content]) -> bool {
    let newest = cuts.iter().map(|cut| cut.last).max().unwrap_or(0);
    cuts.iter().any(|cut| cut.missed.is_some_and(|missed| missed < newest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_that_misses_an_earlier_write_is_torn() {
        let mut application = Application::new(vec![true, true, false]);
        let free = [false; 3];
        let mut none = [];
        application.advance(Duration::from_secs(1), &free, none.iter_mut().map(|cut| (0, cut)));
        let mut first = application.content(0);
        application.advance(Duration::from_secs(2), &free, [(0, &mut first)].into_iter());
        let second = application.content(1);
        assert!(first.missed.is_some_and(|missed| missed > first.last && missed < second.last));
        assert!(is_torn(&[first, second]));
    }

    #[test]
    fn cuts_while_one_member_is_frozen_are_whole() {
        let mut application = Application::new(vec![true, true]);
        let free = [false; 2];
        let frozen = [true, false];
        let mut none = [];
        application.advance(Duration::from_secs(1), &free, none.iter_mut().map(|cut| (0, cut)));
        application.advance(Duration::from_secs(2), &frozen, none.iter_mut().map(|cut| (0, cut)));
        let mut first = application.content(0);
        application.advance(Duration::from_secs(3), &frozen, [(0, &mut first)].into_iter());
        let mut second = application.content(1);
        application.advance(Duration::from_secs(9), &free, [(0, &mut first), (1, &mut second)].into_iter());
        assert!(first.missed.is_some() && second.missed.is_some());
        assert!(!is_torn(&[first, second]));
    }
}
