//! Which faults, in which order. Everything follows from one number.

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use super::kind::{Kind, MOMENTS, Moment, kinds};

/// One fault of one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// What breaks.
    pub kind: Kind,
    /// When.
    pub moment: Moment,
    /// The member that it hits, and how far into the moment it comes, follow from this.
    pub seed: u64,
}

/// What a case's seed says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draw {
    /// Index of the member that is hit, below the number of members.
    pub member: usize,
    /// How far into its moment the fault comes: from 0 to 1.
    pub lateness: f64,
}

impl Case {
    /// What the seed says, for a group of this many members.
    pub fn draw(&self, members: usize) -> Draw {
        let mut random = StdRng::seed_from_u64(self.seed);
        Draw { member: random.random_range(0..members.max(1)), lateness: random.random() }
    }
}

/// Every kind at every moment, shuffled, again and again until there are `count`.
pub fn all(count: usize, seed: u64, standby: bool) -> Vec<Case> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut cases = Vec::with_capacity(count);
    while cases.len() < count {
        let mut round = combinations(standby);
        round.shuffle(&mut random);
        round.truncate(count - cases.len());
        cases.extend(round);
    }
    seeded(cases, seed)
}

/// Every kind once, at a moment that differs from kind to kind and from seed to seed.
pub fn short(seed: u64, standby: bool) -> Vec<Case> {
    let kinds = kinds().into_iter().filter(|kind| standby || !kind.needs_standby());
    let cases = kinds.enumerate().map(|(position, kind)| {
        let turn = position.wrapping_add(seed as usize);
        let moments = (0..MOMENTS.len()).map(|further| MOMENTS[(turn + further) % MOMENTS.len()]);
        let moment = moments.into_iter().find(|moment| kind.can_happen(*moment));
        (kind, moment.unwrap_or(Moment::Held))
    });
    seeded(cases.collect(), seed)
}

fn combinations(standby: bool) -> Vec<(Kind, Moment)> {
    let kinds = kinds().into_iter().filter(|kind| standby || !kind.needs_standby());
    let pairs = kinds.flat_map(|kind| MOMENTS.map(|moment| (kind, moment)));
    pairs.filter(|(kind, moment)| kind.can_happen(*moment)).collect()
}

fn seeded(cases: Vec<(Kind, Moment)>, seed: u64) -> Vec<Case> {
    let number = |position: usize| seed.wrapping_mul(1_000).wrapping_add(position as u64);
    cases.into_iter().enumerate().map(|(i, (kind, moment))| Case { kind, moment, seed: number(i) }).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_faults() {
        assert_eq!(all(200, 7, true), all(200, 7, true));
        assert_ne!(all(200, 7, true), all(200, 8, true));
        let [case, ..] = all(1, 7, true)[..] else { panic!("no case") };
        assert_eq!(case.draw(3), case.draw(3));
        assert!(case.draw(3).member < 3);
    }

    #[test]
    fn every_kind_comes_at_every_moment_where_it_can() {
        let pairs: BTreeSet<_> = all(200, 1, true).iter().map(|case| (case.kind, case.moment)).collect();
        assert_eq!(pairs.len(), 25 * 6 - 2);
        assert!(all(200, 1, false).iter().all(|case| !case.kind.needs_standby()));
    }

    #[test]
    fn the_short_one_has_every_kind_once_and_every_moment() {
        for seed in 0..6 {
            let cases = short(seed, true);
            assert_eq!(cases.iter().map(|case| case.kind).collect::<BTreeSet<_>>().len(), cases.len());
            assert_eq!(cases.iter().map(|case| case.moment).collect::<BTreeSet<_>>().len(), MOMENTS.len());
            assert!(cases.iter().all(|case| case.kind.can_happen(case.moment)));
        }
    }
}
