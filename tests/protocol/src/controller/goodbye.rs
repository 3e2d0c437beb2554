//! Letting go of an object that is being deleted and whose run has ended, as `say_goodbye` of the controller does.

use stillpoint_api::{DeletionPolicy, Mode, Phase};
use stillpoint_core::replica::ask::replica_name;

use super::{NAME, Object, Output, PutError, Refused, UID};

/// The API server did not answer, so nothing is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unanswered;

/// A goodbye under way. It may fail at any request; then another one begins afresh.
#[derive(Clone, Debug)]
pub struct Goodbye {
    version: u64,
    over: bool,
}

impl Goodbye {
    /// Begins with the object as it was just read, and gives the first thing to do.
    pub fn begin(object: &Object) -> (Self, Option<Output>) {
        let mut goodbye = Self { version: object.version, over: !object.finalizer };
        let status = object.status.clone().unwrap_or_default();
        let keep = status.phase == Some(Phase::Done) && object.spec.deletion_policy == DeletionPolicy::Retain;
        if !keep && status.attempt > 0 && object.spec.mode == Mode::Replicate {
            let names = status.members.iter().map(|member| {
                let claim = &member.persistent_volume_claim;
                replica_name(NAME, UID, status.attempt, &claim.name, &claim.uid)
            });
            return (goodbye, Some(Output::DeleteReplicas(names.collect())));
        }
        let next = goodbye.deleted();
        (goodbye, next)
    }

    /// The replicas are deleted.
    pub fn deleted(&mut self) -> Option<Output> {
        (!self.over).then_some(Output::RemoveFinalizer { version: self.version })
    }

    /// How [`Output::RemoveFinalizer`] ended.
    ///
    /// # Errors
    /// When nothing is known; begin again after a pause.
    pub fn patched(&mut self, result: Result<(), PutError>) -> Result<Option<Output>, Unanswered> {
        match result {
            Ok(()) | Err(PutError::Refused(Refused::NotFound)) => {
                self.over = true;
                Ok(None)
            }
            Err(PutError::Refused(Refused::Conflict)) => Ok(Some(Output::GetObject)),
            Err(PutError::Unknown) => Err(Unanswered),
        }
    }

    /// How [`Output::GetObject`] ended, after a conflict.
    ///
    /// # Errors
    /// When there was no answer; begin again after a pause.
    pub fn read(&mut self, result: Result<Option<&Object>, ()>) -> Result<Option<Output>, Unanswered> {
        let object = result.map_err(|()| Unanswered)?;
        self.over = object.is_none_or(|object| !object.finalizer);
        self.version = object.map_or(self.version, |object| object.version);
        Ok(self.deleted())
    }

    /// Whether the object is let go.
    pub fn is_over(&self) -> bool {
        self.over
    }
}
