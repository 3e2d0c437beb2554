//! The proof goes with the replicas: whoever finds one of them, perhaps long after the run is gone, sees whether its cut was proven.
//! Pure.

use kube::ResourceExt;
use stillpoint_api::{Consistency, labels};

use super::plan::{Draft, Step};
use super::state::Moment;
use super::sweep::attempt_of;
use crate::replica::ask::Mark;

impl Draft<'_> {
    /// Writes the proof onto the replicas, once it is stored in the status: until then whoever takes the run over would void it.
    pub fn mark_proven(&mut self) {
        if self.run.marking || !self.observed.proof_stored {
            return;
        }
        self.run.marking = true;
        let resources = self.request.kind.map(|kind| kind.objects()).unwrap_or_default();
        let own = self.observed.replicas.iter().filter(|(_, object)| attempt_of(*object) == Some(self.run.attempt));
        let annotations = self.proof();
        let marks = own.filter_map(|(name, object)| {
            let resource = resources.iter().find(|resource| resource.kind == name.kind)?.clone();
            let annotations = annotations.clone();
            Some(Mark { resource, name: name.name.clone(), uid: object.uid(), annotations })
        });
        let marks = marks.collect();
        self.steps.push(Step::Mark(marks));
    }

    fn proof(&self) -> Vec<(String, String)> {
        let time = |at: Option<Moment>| at.map(|at| format!("{:.6}", at.wall));
        let consistency = format!("{:?}", Consistency::Crash);
        let all = [
            (labels::PROVEN_AT, time(self.run.hold_ended.or(Some(self.now)))),
            (labels::CONSISTENCY, Some(consistency)),
            (labels::HOLD_STARTED_AT, time(self.run.hold_began)),
            (labels::CUT_CONFIRMED_AT, time(self.run.cut_confirmed)),
            (labels::MEMBERS, Some(self.run.members.len().to_string())),
        ];
        all.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
    }
}
