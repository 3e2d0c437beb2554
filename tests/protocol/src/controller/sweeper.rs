//! The sweeper of a controller process, as `late` of the controller has it: it removes what turns up after its attempt was
//! voided.

use stillpoint_api::{Mode, Phase};

use super::{Object, Output};

/// The sweeper: how the run has ended, once that is known.
#[derive(Clone, Debug, Default)]
pub struct Sweeper {
    ended: Option<Phase>,
}

impl Sweeper {
    /// The object as a watch or a read shows it. When it shows for the first time that the run is void, its replicas are
    /// looked for once more.
    pub fn object(&mut self, object: &Object) -> Option<Output> {
        let status = object.status.as_ref()?;
        let phase = status.phase.filter(|phase| phase.is_final() && self.ended.is_none())?;
        self.ended = Some(phase);
        let void = is_void(phase) && status.attempt > 0 && object.spec.mode == Mode::Replicate;
        void.then(|| Output::DeleteReplicas(Vec::new()))
    }

    /// A snapshot that a watch shows as new or changed; `stored` is the object as it is then read.
    pub fn snapshot(&mut self, name: &str, stored: Option<&Object>) -> Vec<Output> {
        let mut outputs: Vec<Output> = stored.and_then(|object| self.object(object)).into_iter().collect();
        if self.ended.is_some_and(is_void) {
            outputs.push(Output::DeleteLate(name.to_owned()));
        }
        outputs
    }
}

fn is_void(phase: Phase) -> bool {
    matches!(phase, Phase::Aborted | Phase::Failed)
}
