//! One fault: the run reaches its moment, something breaks and is mended, and the writers are asked.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::future::join_all;
use kube::api::DeleteParams;
use stillpoint_api::{ConsistencyGroupReplication, Phase, ReplicationStatus};
use tokio::time::{sleep, timeout};

use super::application::Application;
use super::follow::Follower;
use super::guard::{Armed, Guard};
use super::inject::{Container, Fault};
use super::kind::{Kind, Moment, Owner};
use super::limits::{END, GUARD_PATIENCE, HOLD, PREPARE, REMOVAL, WRITES};
use super::outcome::{Outcome, Wrong};
use super::plan::{Case, Draw};
use crate::group::Member;
use crate::installed::SNAPSHOT_CLASS;
use crate::manifests;
use crate::namespace::Place;
use crate::replication::of_claims;
use crate::waiting::{until, until_gone};

/// A snapshot class that is slow for every member, and one that is slow for the last one.
pub struct Classes {
    /// Every cut begins late.
    pub slow: String,
    /// The cut of the last member begins late.
    pub slow_last: String,
}

/// What is there for all cases.
pub struct Stage {
    /// The application.
    pub application: Application,
    /// The guard.
    pub guard: Guard,
    /// The classes.
    pub classes: Classes,
}

impl Stage {
    /// Carries out one case. An error means that nothing more can be tried: what was broken could not be mended.
    ///
    /// # Errors
    /// The fault cannot be undone, or what it hit does not come back.
    pub async fn play(&mut self, number: usize, case: Case, progress: &dyn Fn(&str)) -> Result<Played> {
        let began = Instant::now();
        let name = format!("fault-{number}");
        let draw = case.draw(self.application.group.members.len());
        let member = self.application.group.members.get(draw.member).context("no such member")?.clone();
        let mut made = match self.break_it(&name, case, &draw, &member, progress).await {
            Ok(made) => made,
            Err(error) => {
                self.discard(&name).await?;
                return Ok(Played::Missed(format!("{error:#}")));
            }
        };
        let mut outcome = Outcome {
            number,
            case,
            member: case.kind.hits_a_member().then(|| member.name.clone()),
            run: name,
            before: made.before,
            status: None,
            stalls: Vec::new(),
            writes_after: None,
            took: Duration::ZERO,
            wrongs: Vec::new(),
        };
        progress("broken");
        self.last(&mut made.follower, case, made.at).await;
        self.mend(case.kind, &member, made.armed).await?;
        progress("until its end");
        self.observe(&mut outcome, &draw).await;
        outcome.judge();
        progress("recovering");
        if let Some(killed) = made.killed {
            killed.is_replaced().await?;
        }
        self.application.recovered().await?;
        outcome.took = began.elapsed();
        Ok(Played::Judged(Box::new(outcome)))
    }

    /// Makes a run come to the moment, and makes the fault.
    async fn break_it(
        &mut self,
        name: &str,
        case: Case,
        draw: &Draw,
        member: &Member,
        progress: &dyn Fn(&str),
    ) -> Result<Made> {
        for position in 0..self.application.group.members.len() {
            self.application.longest_append(position).await?;
        }
        let fault = Fault::aim(case.kind, &self.application.group, member).await?;
        let mut follower = self.begin(name, case.moment).await?;
        progress(&format!("until {}", case.moment));
        self.reach(&mut follower, case.moment, draw).await?;
        let fault = fault.ready()?;
        let before = follower.seen().phase();
        let armed = match fault.undo() {
            Some(undo) => Some(self.guard.arm(undo.clone(), case.kind.lasts() + GUARD_PATIENCE).await?),
            None => None,
        };
        match (fault.make().await, armed) {
            (Ok(killed), armed) => Ok(Made { follower, before, killed, armed, at: Instant::now() }),
            (Err(error), None) => Err(error),
            // A part of it may have been made.
            (Err(error), Some(armed)) => {
                self.guard.undo(armed).await.with_context(|| format!("after {error:#}"))?;
                Err(error)
            }
        }
    }

    /// Takes away a run in which nothing was broken.
    async fn discard(&self, name: &str) -> Result<()> {
        self.application.unlock().await?;
        let runs = self.application.group.place.api::<ConsistencyGroupReplication>();
        if runs.get_opt(name).await?.is_some() {
            runs.delete(name, &DeleteParams::default()).await?;
        }
        until_gone(&runs, name, &format!("removal of {name}"), REMOVAL).await
    }

    /// Creates the run, with watches that began before it.
    async fn begin(&self, name: &str, moment: Moment) -> Result<Follower> {
        let group = &self.application.group;
        if matches!(moment, Moment::Preparing | Moment::Suspending) {
            self.application.lock().await?;
        }
        let mut wanted = of_claims(name, &group.claims());
        wanted.spec.suspension.hold_timeout = HOLD.into();
        wanted.spec.suspension.prepare_timeout = PREPARE.into();
        let class = match moment {
            Moment::Preparing | Moment::Suspending | Moment::Releasing | Moment::After => SNAPSHOT_CLASS,
            Moment::Held => &self.classes.slow,
            Moment::Cutting => &self.classes.slow_last,
        };
        if let Some(replication) = &mut wanted.spec.replication {
            replication.volume_snapshot.get_or_insert_default().volume_snapshot_class_name = Some(class.into());
        }
        let follower = Follower::begin(&group.place, name).await?;
        group.place.create(&wanted).await?;
        Ok(follower)
    }

    /// Waits for the moment, and then for as long as the seed says, so that repeated faults fall all over the moment.
    async fn reach(&self, follower: &mut Follower, moment: Moment, draw: &Draw) -> Result<()> {
        follower.moment(moment, self.application.group.members.len()).await?;
        if moment == Moment::Suspending {
            self.application.unlock().await?;
        }
        let longest = match moment {
            Moment::Preparing | Moment::Held | Moment::Cutting | Moment::After => Duration::from_millis(400),
            Moment::Suspending => Duration::from_millis(250),
            Moment::Releasing => Duration::from_millis(15),
        };
        sleep(longest.mul_f64(draw.lateness)).await;
        Ok(())
    }

    /// Lets the fault last until it cannot make a difference any more: the run has ended and every dataset takes writes.
    async fn last(&self, follower: &mut Follower, case: Case, at: Instant) {
        if case.moment == Moment::Preparing {
            // The pod that holds the lock may be what was hit; without it there is no lock.
            let _ = self.application.unlock().await;
        }
        let lasts = case.kind.lasts();
        if lasts.is_zero() {
            return;
        }
        let left = lasts.saturating_sub(at.elapsed());
        let over = async {
            follower.end().await;
            // A deposed leader must find another one when it wakes up.
            match case.kind {
                Kind::Depose => sleep(left).await,
                _ => drop(self.application.writes(left).await),
            }
        };
        let _ = timeout(left, over).await;
    }

    async fn mend(&mut self, kind: Kind, member: &Member, armed: Option<Armed>) -> Result<()> {
        if let Some(armed) = armed {
            self.guard.undo(armed).await?;
        }
        if kind == Kind::Delete(Owner::Storage) {
            self.application.group.place.create(&manifests::storage_pod(member)?).await?;
        }
        Ok(())
    }

    /// Waits for the run's end and for new writes, and asks the stores how long they stood still.
    async fn observe(&self, outcome: &mut Outcome, draw: &Draw) {
        match end(&self.application.group.place, &outcome.run).await {
            Ok(status) => outcome.status = Some(status),
            Err(error) => outcome.wrongs.push((Wrong::Stuck, format!("{error:#}"))),
        }
        match self.application.writes(WRITES).await {
            Ok(after) => outcome.writes_after = Some(after),
            Err(error) => outcome.wrongs.push((Wrong::Suspended, format!("{error:#}"))),
        }
        let silent = outcome.case.kind.silences_its_member().then_some(draw.member);
        let members = 0..self.application.group.members.len();
        let asked = members.filter(|member| Some(*member) != silent);
        for answer in join_all(asked.map(|member| self.application.longest_append(member))).await {
            match answer {
                Ok(stall) => outcome.stalls.push(stall),
                Err(error) => outcome.wrongs.push((Wrong::Suspended, format!("{error:#}"))),
            }
        }
    }
}

/// What a case came to.
pub enum Played {
    /// The fault was made and judged.
    Judged(Box<Outcome>),
    /// The fault was not made: the run did not come to its moment, or there was nothing to break.
    Missed(String),
}

/// A fault that was made.
struct Made {
    follower: Follower,
    before: Option<Phase>,
    killed: Option<Container>,
    armed: Option<Armed>,
    at: Instant,
}

/// Waits until a run has ended.
///
/// # Errors
/// It takes longer than [`END`].
pub async fn end(place: &Place, name: &str) -> Result<ReplicationStatus> {
    let api = place.api::<ConsistencyGroupReplication>();
    until(&api, name, &format!("the end of {name}"), END, |run| {
        let status = run.and_then(|run| run.status.as_ref());
        Ok(status.filter(|status| status.phase.is_some_and(Phase::is_final)).cloned())
    })
    .await
}
