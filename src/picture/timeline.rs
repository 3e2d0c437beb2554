//! What happened when, in microseconds from the start of the hold.
//!
//! Every moment in the status is the controller's clock; only the length of a suspension is the agent's own. So a
//! suspension is drawn back from the moment the controller learnt of its end: it may lie late by the time that one message
//! takes, and it is never drawn longer than it was.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

use stillpoint_api::{Consistency, Duration, MemberState, MemberStatus, Phase, ReplicationStatus};
use stillpoint_core::limits::MAX_MESSAGE_CHARS;
use stillpoint_core::text::printable;

/// The hold of one replication, ready to be drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Timeline {
    /// The object's name.
    pub name: String,
    /// Where the run stands.
    pub phase: Phase,
    /// What was proven.
    pub consistency: Option<Consistency>,
    /// The members, in the status's order.
    pub members: Vec<Member>,
    /// The time in which every mounted member was suspended: from the last that became ready to the first that resumed.
    pub together: Option<Interval>,
    /// Everything that is drawn lies in it, the way to ready aside.
    pub window: Interval,
}

/// Why there is no picture; a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NothingToDraw(String);

/// A stretch of time, in microseconds from the start of the hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    /// Its beginning.
    pub from: i64,
    /// Its end, never before its beginning.
    pub to: i64,
}

impl Interval {
    /// How long it is, in microseconds.
    pub fn length(self) -> i64 {
        self.to.saturating_sub(self.from)
    }

    /// Whether the other lies in it.
    pub fn contains(self, other: Self) -> bool {
        self.from <= other.from && other.to <= self.to
    }
}

/// One row.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// The claim.
    pub claim: String,
    /// Pod and node, as far as they are known.
    pub place: String,
    /// How far it is.
    pub state: MemberState,
    /// Its suspension.
    pub suspension: Suspension,
    /// When it reported ready.
    pub ready: Option<i64>,
    /// From the request for its replica to the confirmed cut.
    pub cut: Option<Interval>,
}

/// When a member's writes were suspended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suspension {
    /// Never, as far as is known.
    None,
    /// From its beginning to the release that its agent answered.
    Released(Interval),
    /// Known to have begun; its end was not reported. Drawn to the end of the window.
    Open {
        /// When it reported ready; it was suspended shortly before.
        from: i64,
    },
}

impl Timeline {
    /// Derives the timeline from a status. `name` is only shown.
    ///
    /// # Errors
    /// When no member was suspended, so that there is nothing to draw.
    pub fn from_status(name: &str, status: &ReplicationStatus) -> Result<Self, NothingToDraw> {
        let (Some(phase), Some(hold)) = (status.phase, &status.hold) else {
            return Err(nothing(name, status));
        };
        let start = micros(&hold.started_at);
        let members: Vec<_> = status.members.iter().map(|member| Member::from_status(member, start)).collect();
        let marks: Vec<_> = members.iter().flat_map(Member::marks).collect();
        let (Some(&first), Some(&last)) = (marks.iter().min(), marks.iter().max()) else {
            return Err(nothing(name, status));
        };
        Ok(Self {
            name: printable(name, MAX_MESSAGE_CHARS),
            phase,
            consistency: status.consistency,
            together: together(&members),
            members,
            window: padded(Interval { from: first, to: last }),
        })
    }

    /// How many members have a confirmed cut, and how many of these cuts lie within the time of the common suspension.
    pub fn cuts(&self) -> (usize, usize) {
        let inside = |cut: &Interval| self.together.is_some_and(|together| together.contains(*cut));
        let cuts = self.members.iter().filter_map(|member| member.cut.as_ref());
        (cuts.clone().count(), cuts.filter(|cut| inside(cut)).count())
    }

    /// The picture in one sentence.
    pub fn summary(&self) -> String {
        let broken = self.members.iter().filter(|member| member.state == MemberState::Broken).count();
        if broken > 0 {
            return format!("The hold of {broken} of {} members was broken: the cuts are void.", self.members.len());
        }
        if !self.phase.is_final() {
            return format!("The run is not over: it is {:?}.", self.phase);
        }
        let Some(together) = self.together else {
            return "The members were never all suspended at one time; nothing was cut.".to_owned();
        };
        let time = super::scale::text(together.length());
        match self.cuts() {
            (0, _) => format!("All members were suspended together for {time}; nothing was cut."),
            (1, 1) => format!("The cut lies within the {time} in which the member was suspended."),
            (all, inside) if all == inside => {
                format!("All {all} cuts lie within the {time} in which every member was suspended.")
            }
            (all, inside) => {
                format!("Only {inside} of {all} cuts lie within the {time} in which every member was suspended.")
            }
        }
    }
}

impl Member {
    fn from_status(member: &MemberStatus, start: i64) -> Self {
        let at = |time: &Option<MicroTime>| time.as_ref().map(|time| micros(time).saturating_sub(start));
        let ready = at(&member.ready_at);
        let suspension = match (ready, at(&member.released_at), member.suspended_for.map(length)) {
            // A broken hold ended at an unknown moment before its release was answered: forward from ready is what is known.
            (Some(from), Some(to), Some(length)) if member.state == MemberState::Broken => {
                Suspension::Released(Interval { from, to: from.saturating_add(length).min(to).max(from) })
            }
            (_, Some(to), Some(length)) if length > 0 => {
                Suspension::Released(Interval { from: to.saturating_sub(length), to })
            }
            // The agent did not say for how long: it was certainly suspended when it said that it was ready.
            (Some(from), Some(to), None) => Suspension::Released(Interval { from, to: to.max(from) }),
            (Some(from), None, _) => Suspension::Open { from },
            _ => Suspension::None,
        };
        let cut = member.replica.as_ref().and_then(|replica| {
            let from = at(&replica.requested_at)?;
            Some(Interval { from, to: at(&replica.cut_at)?.max(from) })
        });
        let place = [&member.pod, &member.node].into_iter().flatten().cloned().collect::<Vec<_>>().join(" on ");
        Self {
            claim: printable(&member.persistent_volume_claim.name, MAX_MESSAGE_CHARS),
            place: printable(&place, MAX_MESSAGE_CHARS),
            state: member.state,
            suspension,
            ready,
            cut,
        }
    }

    /// Every moment that must be in the window.
    fn marks(&self) -> Vec<i64> {
        let mut marks: Vec<_> = self.ready.into_iter().collect();
        marks.extend(self.cut.iter().flat_map(|cut| [cut.from, cut.to]));
        if let Suspension::Released(Interval { from, to }) = self.suspension {
            marks.extend([from, to]);
        }
        marks
    }

    /// What is written at the end of the row.
    pub fn remark(&self) -> String {
        match (self.suspension, self.state) {
            (_, MemberState::Unmounted) => "no writer".to_owned(),
            (Suspension::Released(interval), MemberState::Broken) => {
                format!("{} broken", super::scale::text(interval.length()))
            }
            (Suspension::Released(interval), _) => super::scale::text(interval.length()),
            (Suspension::Open { .. }, MemberState::Broken) => "end unknown".to_owned(),
            (Suspension::Open { .. }, _) => "holding".to_owned(),
            (Suspension::None, MemberState::NotReady) => "not ready".to_owned(),
            (Suspension::None, _) => "not suspended".to_owned(),
        }
    }
}

/// From the last ready to the first release, over every member that somebody can write to; unknown when one was broken.
fn together(members: &[Member]) -> Option<Interval> {
    if members.iter().any(|member| member.state == MemberState::Broken) {
        return None;
    }
    let mounted = || members.iter().filter(|member| member.state != MemberState::Unmounted);
    let from = mounted().map(|member| member.ready).collect::<Option<Vec<_>>>()?.into_iter().max()?;
    let to = mounted()
        .map(|member| match member.suspension {
            Suspension::Released(interval) => Some(interval.to),
            Suspension::Open { .. } | Suspension::None => None,
        })
        .collect::<Option<Vec<_>>>()?
        .into_iter()
        .min()?;
    (from <= to).then_some(Interval { from, to })
}

/// A little air on both sides, so that beginnings and ends are seen.
fn padded(Interval { from, to }: Interval) -> Interval {
    let air = (to.saturating_sub(from) / 14).max(100);
    Interval { from: from.saturating_sub(air), to: to.saturating_add(air / 2) }
}

fn nothing(name: &str, status: &ReplicationStatus) -> NothingToDraw {
    let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready");
    let why = ready.map(|condition| format!(" ({}: {})", condition.reason, condition.message)).unwrap_or_default();
    NothingToDraw(match status.phase {
        None => format!("{name} has not begun: its status has no phase yet. Is stillpoint-controller running?"),
        Some(phase) if phase.is_final() => {
            format!("{name} ended as {phase:?} without suspending any member, so there is no hold to draw{why}")
        }
        Some(phase) => format!("{name} is {phase:?} and no member is suspended yet: draw it when it has ended{why}"),
    })
}

fn micros(time: &MicroTime) -> i64 {
    time.0.as_microsecond()
}

/// A length from the status in microseconds; nonsense becomes a bound, not a panic.
fn length(duration: Duration) -> i64 {
    if duration.is_negative() {
        return 0;
    }
    i64::try_from(std::time::Duration::from(duration).as_micros()).unwrap_or(i64::MAX)
}
