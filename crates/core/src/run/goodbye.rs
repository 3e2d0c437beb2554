//! Letting go of an object whose run has ended: what is to be removed is removed, and then the finalizer comes off. It does when
//! the object is deleted, and before that where nothing would be left to do then. What cannot be removed now is said, and tried
//! again later; nobody waits for it meanwhile. Pure.

use kube::ResourceExt;
use kube::core::ObjectMeta;
use stillpoint_api::{ConsistencyGroupReplication, DeletionPolicy, Mode, Phase, labels};

use super::conditions;
use super::copies::is_copy;
use super::driver::Over;
use super::effect::{Effect, Refused};
use super::epochs::outranks;
use super::happened::Happened;
use super::state::{Moment, Request};
use super::stub::Stub;
use super::sweep::last_void;
use crate::limits::MAX_CONFLICTS;
use crate::replica::removal::{Left, Scope};

type Object = Box<ConsistencyGroupReplication>;

/// The garbage collector's finalizer: it takes the owner off everything that the object owns, which stays.
const ORPHAN: &str = "orphan";

/// A goodbye under way.
#[derive(Clone, Debug)]
pub struct Goodbye {
    request: Request,
    object: Object,
    conflicts: u32,
    /// What could not be removed.
    left: Vec<Left>,
    /// What is told when the status that says it is stored.
    news: Vec<Happened>,
}

/// What follows.
#[derive(Clone, Debug)]
pub enum Next {
    /// Do this, and tell how it ended.
    Ask(Effect),
    /// It is over.
    Over(Over),
}

impl From<Effect> for Next {
    fn from(effect: Effect) -> Self {
        Self::Ask(effect)
    }
}

impl Goodbye {
    /// Begins with the object as it was just read, and gives the first thing to do.
    pub fn begin(request: Request, object: Object, now: Moment) -> (Self, Next) {
        let first = first(&request, &object);
        let goodbye = Self { request, object, conflicts: 0, left: Vec::new(), news: Vec::new() };
        let next = match (goodbye.outranked(now), first) {
            (Some(over), _) => Next::Over(over),
            (None, Some(effect)) => effect.into(),
            (None, None) => goodbye.unguard(),
        };
        (goodbye, next)
    }

    /// The removal has ended, and has left this. Says so, if there is anything to say, and goes on.
    pub fn left(&mut self, left: Vec<Left>, now: Moment) -> Next {
        self.left = left;
        self.say(now)
    }

    /// How [`Effect::PutStatus`] ended; also what is to be told now.
    pub fn stored(&mut self, stored: Result<Object, Refused>) -> (Next, Vec<Happened>) {
        match stored {
            Ok(object) => {
                self.object = object;
                (self.said(), std::mem::take(&mut self.news))
            }
            Err(why) => (self.refused(why, "the status could not be written"), Vec::new()),
        }
    }

    /// How [`Effect::SetMarks`] ended.
    pub fn patched(&mut self, result: Result<Object, Refused>) -> Next {
        match result {
            Ok(_) => Next::Over(Over::Ended),
            Err(why) => self.refused(why, "the finalizer could not be removed"),
        }
    }

    /// The object as it was read after a conflict. `None`: it is gone, or another one.
    pub fn read(&mut self, object: Option<Object>, now: Moment) -> Next {
        match object.filter(|object| object.uid() == self.object.uid()) {
            Some(object) => {
                self.object = object;
                self.outranked(now).map_or_else(|| self.say(now), Next::Over)
            }
            None => Next::Over(Over::Ended),
        }
    }

    fn say(&mut self, now: Moment) -> Next {
        let Some(status) = &self.object.status else { return self.said() };
        let generation = self.object.metadata.generation;
        let conditions = conditions::cleaned_up(generation, &status.conditions, &self.left, now);
        let deleting = self.object.metadata.deletion_timestamp.is_some();
        let unseen = !deleting && self.left.is_empty() && status.observed_generation != generation;
        if conditions.is_none() && !unseen || deleting && self.left.is_empty() {
            return self.said();
        }
        let mut object = self.object.clone();
        if let Some(status) = &mut object.status {
            status.leader_epoch = self.request.epoch;
            status.observed_generation = generation;
            self.news = conditions.as_deref().and_then(Happened::left).into_iter().collect();
            status.conditions = conditions.unwrap_or_else(|| std::mem::take(&mut status.conditions));
        }
        Effect::PutStatus(object).into()
    }

    /// Everything is said: the finalizer is next, if nothing is left.
    fn said(&self) -> Next {
        match self.left.first() {
            Some(first) => Next::Over(Over::Left(first.what.clone())),
            None => self.unguard(),
        }
    }

    fn unguard(&self) -> Next {
        let patch = with_finalizer(&self.object, false);
        patch.map_or(Next::Over(Over::Ended), |object| Effect::SetMarks(object).into())
    }

    /// After [`MAX_CONFLICTS`], one after the other, a later goodbye begins afresh.
    fn refused(&mut self, why: Refused, what: &str) -> Next {
        match why {
            Refused::NotFound => Next::Over(Over::Ended),
            Refused::Conflict if self.conflicts < MAX_CONFLICTS => {
                self.conflicts += 1;
                Effect::GetObject.into()
            }
            Refused::Conflict => Next::Over(Over::Failed(format!("{what}: others write all the time"))),
            Refused::Trouble(why) => Next::Over(Over::Failed(format!("{what}: {why}"))),
        }
    }

    fn outranked(&self, now: Moment) -> Option<Over> {
        let epoch = self.object.status.as_ref().map_or(0, |status| status.leader_epoch);
        outranks(epoch, self.request.epoch, now.wall).then_some(Over::Outranked(epoch))
    }
}

/// Whether the finalizer of an object is to come off: it is being deleted, or its run has ended and nothing would be left to do if
/// it were.
pub fn is_due(object: &ConsistencyGroupReplication) -> bool {
    let phase = object.status.as_ref().and_then(|status| status.phase);
    let replicated = phase == Some(Phase::Done) && object.spec.mode == Mode::Replicate;
    let keeps = replicated && object.spec.deletion_policy == DeletionPolicy::Delete && !is_copy(object);
    let ended = phase.is_some_and(Phase::is_final) && !keeps;
    is_guarded(&object.metadata) && (ended || object.metadata.deletion_timestamp.is_some())
}

/// What is to be done about the replicas.
fn first(request: &Request, object: &ConsistencyGroupReplication) -> Option<Effect> {
    let status = object.status.as_ref()?;
    if is_copy(object) || status.attempt == 0 || request.mode == Mode::Check {
        return None;
    }
    let claims: Vec<_> = status.members.iter().map(|member| &member.persistent_volume_claim).collect();
    let removes = request.kind?.remove(&request.run_id(status.attempt), &claims);
    let remove = |owned_by| {
        let scope = Scope { last_attempt: status.attempt, owned_by };
        Some(Effect::Remove { removes: removes.clone(), scope })
    };
    match (status.phase, request.deletion_policy) {
        // Written when the policy was another one, replicas would go with their owner.
        (Some(Phase::Done), DeletionPolicy::Retain) => (status.observed_generation != object.metadata.generation)
            .then(|| Effect::Disown { removes: removes.clone(), owner: request.uid.clone() }),
        (Some(Phase::Done), DeletionPolicy::Delete) if object.finalizers().iter().any(|one| one == ORPHAN) => None,
        // The garbage collector may have orphaned them before this object was read.
        (Some(Phase::Done), DeletionPolicy::Delete) => remove(Some(request.uid.clone())),
        _ if Stub::of(object).progress.map_or(0, last_void) == 0 => None,
        _ => remove(None),
    }
}

/// Whether an object has this controller's finalizer.
pub(super) fn is_guarded(metadata: &ObjectMeta) -> bool {
    metadata.finalizers.iter().flatten().any(|one| one == labels::FINALIZER)
}

/// The object with its list of finalizers as it is to be; `None`: it is so already.
pub(super) fn with_finalizer(object: &ConsistencyGroupReplication, wanted: bool) -> Option<Object> {
    if is_guarded(&object.metadata) == wanted {
        return None;
    }
    let mut finalizers = object.finalizers().to_vec();
    finalizers.retain(|one| one != labels::FINALIZER);
    if wanted {
        finalizers.push(labels::FINALIZER.to_owned());
    }
    let mut object = object.clone();
    object.metadata.finalizers = Some(finalizers);
    Some(Box::new(object))
}

#[cfg(test)]
#[path = "goodbye_tests.rs"]
mod tests;
