//! Letting go of an object that is being deleted and whose run has ended. A replica that is gone already does not stop that.
//! Pure.

use kube::ResourceExt;
use stillpoint_api::{ConsistencyGroupReplication, DeletionPolicy, Mode, Phase, labels};

use super::effect::{Effect, Refused};
use super::state::Request;
use crate::limits::MAX_CONFLICTS;

/// A goodbye under way.
#[derive(Clone, Debug)]
pub struct Goodbye {
    object: Box<ConsistencyGroupReplication>,
    conflicts: u32,
}

impl Goodbye {
    /// Begins with the object as it was just read, and gives the first thing to do.
    pub fn begin(request: &Request, object: Box<ConsistencyGroupReplication>) -> (Self, Option<Effect>) {
        let first = replicas_to_remove(request, &object);
        let goodbye = Self { object, conflicts: 0 };
        let first = first.or_else(|| goodbye.removed());
        (goodbye, first)
    }

    /// The replicas are removed: the finalizer is next. `None`: it is not there any more, and all is done.
    pub fn removed(&self) -> Option<Effect> {
        with_finalizer(&self.object, false).map(Effect::SetFinalizers)
    }

    /// How [`Effect::SetFinalizers`] ended. `Ok(None)`: all is done.
    ///
    /// # Errors
    /// A sentence, when it is not known, or [`MAX_CONFLICTS`] came one after the other; a later goodbye begins afresh.
    pub fn patched(
        &mut self,
        result: Result<Box<ConsistencyGroupReplication>, Refused>,
    ) -> Result<Option<Effect>, String> {
        match result {
            Ok(_) | Err(Refused::NotFound) => Ok(None),
            Err(Refused::Conflict) if self.conflicts < MAX_CONFLICTS => {
                self.conflicts += 1;
                Ok(Some(Effect::GetObject))
            }
            Err(Refused::Conflict) => Err("the finalizer could not be removed: others write all the time".to_owned()),
            Err(Refused::Trouble(why)) => Err(format!("the finalizer could not be removed: {why}")),
        }
    }

    /// The object as it was read after a conflict. `None`: it is gone, or another one.
    pub fn read(&mut self, object: Option<Box<ConsistencyGroupReplication>>) -> Option<Effect> {
        self.object = object.filter(|object| object.uid() == self.object.uid())?;
        self.removed()
    }
}

/// What is to be deleted with the object.
fn replicas_to_remove(request: &Request, object: &ConsistencyGroupReplication) -> Option<Effect> {
    let status = object.status.as_ref()?;
    let keep = status.phase == Some(Phase::Done) && request.deletion_policy == DeletionPolicy::Retain;
    if keep || status.attempt == 0 || request.mode == Mode::Check {
        return None;
    }
    let claims: Vec<_> = status.members.iter().map(|member| &member.persistent_volume_claim).collect();
    let removes = request.kind?.remove(&request.run_id(status.attempt), &claims);
    Some(Effect::Remove { removes, last_attempt: status.attempt })
}

/// The object with its list of finalizers as it is to be; `None`: it is so already.
pub(super) fn with_finalizer(
    object: &ConsistencyGroupReplication,
    wanted: bool,
) -> Option<Box<ConsistencyGroupReplication>> {
    let mut finalizers = object.finalizers().to_vec();
    if finalizers.iter().any(|one| one == labels::FINALIZER) == wanted {
        return None;
    }
    finalizers.retain(|one| one != labels::FINALIZER);
    if wanted {
        finalizers.push(labels::FINALIZER.to_owned());
    }
    let mut object = object.clone();
    object.metadata.finalizers = Some(finalizers);
    Some(Box::new(object))
}
