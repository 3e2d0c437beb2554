//! What follows when members are not ready, and what is said of it. Pure.

use std::time::Duration;

use stillpoint_api::{AgentPlace, Blocker, MemberState, Reason};

use super::agents::AgentRef;
use super::observed::Observed;
use super::plan::Draft;
use super::state::{Refused, Stage, Verdict};
use crate::limits::RELEASE_TIMEOUT;

impl Draft<'_> {
    /// `Some` when an agent refused: whether that moved the run.
    pub fn handle_refusals(&mut self) -> Option<bool> {
        let refused = |how| self.run.members.iter().any(|member| member.is_refused(how));
        let blind = self.run.members.iter().any(|member| member.uncovered().is_some());
        if blind || refused(Refused::ForGood) {
            let verdict = self.not_ready(Reason::NotReady, "an agent cannot suspend its member");
            return Some(self.abandon(verdict));
        }
        refused(Refused::ForNow).then(|| self.try_again())
    }

    /// Releases everybody at once, so that the trouble of one member does not stop the writes of the others, and pauses.
    pub fn try_again(&mut self) -> bool {
        let pause = self.run.pauses.take();
        if !self.is_in_time(self.now.monotonic + pause) {
            return self.give_up_rounds();
        }
        self.release_all();
        self.run.stage = Stage::Pausing { since: self.now, pause };
        true
    }

    /// Whether a round that begins then begins within `prepareTimeout`.
    pub fn is_in_time(&self, begins: Duration) -> bool {
        self.run.prepare_deadline.is_none_or(|end| begins < end)
    }

    /// No other round fits into `prepareTimeout`.
    pub fn give_up_rounds(&mut self) -> bool {
        let verdict = self.not_ready(Reason::NotReady, "the members were not ready together in any round");
        self.abandon(verdict)
    }

    pub fn give_up_in_time(&mut self) -> bool {
        if self.run.prepare_deadline.is_none_or(|end| self.now.monotonic < end) {
            return false;
        }
        self.blame_the_silent();
        let verdict = self.not_ready(Reason::NotReadyInTime, "not all members were ready within prepareTimeout");
        self.abandon(verdict)
    }

    /// An agent that is not ready and says nothing gets a blocker that says so.
    pub fn blame_the_silent(&mut self) {
        let observed = self.observed;
        let overdue = match self.run.stage {
            Stage::Pausing { since, .. } => self.now.since(&since) >= RELEASE_TIMEOUT,
            _ => false,
        };
        for member in &mut self.run.members {
            for one in &mut member.assignments {
                let expected = match one.state {
                    MemberState::Pending | MemberState::Preparing | MemberState::Suspending => true,
                    MemberState::Releasing => overdue && one.owes_release(),
                    _ => false,
                };
                if expected && one.blockers.is_empty() {
                    one.blockers.push(silence(&one.agent, &member.claim.name, observed));
                    one.state = MemberState::NotReady;
                }
            }
        }
    }

    /// The verdict over members that were not ready: the first blocker, and how many more there are.
    pub fn not_ready(&self, reason: Reason, message: &str) -> Verdict {
        let mut blocked = self.run.members.iter().filter_map(|member| Some((member, member.blockers().next()?)));
        let Some((member, first)) = blocked.next() else { return Verdict::new(reason, message) };
        let all = blocked.fold(member.count_blockers(), |all, (member, _)| all + member.count_blockers());
        let more = if all > 1 { format!(" (and {} more, see status.members)", all - 1) } else { String::new() };
        Verdict::again(&first.reason, format!("{}: {}{more}", member.claim.name, first.message))
    }
}

/// Why an agent says nothing of the claim of this name, as far as it can be seen from here.
fn silence(agent: &AgentRef, claim: &str, observed: &Observed) -> Blocker {
    let watched: Vec<&str> = agent.watched().iter().map(|pod| &*pod.name).collect();
    let (pod, logs) = (watched.first().copied().unwrap_or_default(), logs_of(agent));
    let (reason, message) = if !agent.sees_running_pods(&observed.pods) {
        (
            Reason::PodNotRunning,
            format!("pod {pod}, which mounts PersistentVolumeClaim {claim}, is not running; see why it does not start"),
        )
    } else if !observed.connected.contains(&agent.key()) {
        let what_to_do = match agent.watched_pods(&observed.pods).next() {
            Some(pod) if pod.node_dns => {
                "the pod asks its node's DNS server, which does not know the controller's Service; set dnsPolicy: ClusterFirstWithHostNet on a pod with hostNetwork: true, else ClusterFirst"
            }
            _ => &logs,
        };
        (
            Reason::AgentNotConnected,
            format!(
                "{agent}, which is asked about PersistentVolumeClaim {claim}, is not connected to the controller; {what_to_do}"
            ),
        )
    } else {
        (Reason::AgentSilent, format!("{agent} did not answer for PersistentVolumeClaim {claim} in time; {logs}"))
    };
    Blocker { reason: reason.into(), message, pod: Some(pod.to_owned()), ..Blocker::default() }
}

fn logs_of(agent: &AgentRef) -> String {
    match agent.place() {
        AgentPlace::Sidecar => "see the logs of its container stillpoint-agent".to_owned(),
        AgentPlace::Node => format!("see the logs of its pod {}, in Stillpoint's own namespace", agent.own_pod().name),
    }
}
