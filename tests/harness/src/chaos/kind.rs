//! What can be broken, and when.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use anyhow::bail;

use super::limits::{DEPOSED, OUTAGE};

/// A process that can be killed or stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Victim {
    /// The controller that holds the Lease.
    Leader,
    /// A controller that waits for it.
    Standby,
    /// The agent beside one member.
    Agent,
    /// The guardian of one member's node.
    Guardian,
    /// The process of the agent that freezes and thaws.
    Freezer,
    /// The application's container that writes to one member.
    Store,
    /// The snapshot sidecar of the CSI driver on one member's node.
    Snapshotter,
    /// The API server.
    ApiServer,
    /// etcd.
    Etcd,
}

/// A pod that can be deleted with a grace period of zero. Somebody makes it anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Owner {
    /// The pod of one member, with agent and application.
    Storage,
    /// The guardian's pod on one member's node.
    Guardian,
    /// The pod of the controller that leads.
    Leader,
}

/// A way of packets that can be cut, in both directions, without anybody being told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Link {
    /// Between the agents of one member's node and all controllers.
    AgentsToController,
    /// Between the controller that leads and the API server.
    LeaderToApi,
    /// Between one member's node, with all its pods, and the control plane.
    NodeToApi,
}

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// SIGKILL.
    Kill(Victim),
    /// SIGSTOP, and SIGCONT later.
    Stop(Victim),
    /// SIGSTOP of the leader until another one leads.
    Depose,
    /// A pod is deleted by force.
    Delete(Owner),
    /// Packets are dropped.
    Cut(Link),
}

/// The moment of a run at which something breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Moment {
    /// `Checking`: one member waits for a lock, the others are prepared.
    Preparing,
    /// The lock is gone: members are prepared, told to suspend, and suspended.
    Suspending,
    /// Every member is suspended, and no cut was taken yet.
    Held,
    /// Some cuts were taken, and one was not.
    Cutting,
    /// The last cut was taken, and members are told to resume.
    Releasing,
    /// The run is `Done`.
    After,
}

/// Every moment, in the order of a run.
pub const MOMENTS: [Moment; 6] =
    [Moment::Preparing, Moment::Suspending, Moment::Held, Moment::Cutting, Moment::Releasing, Moment::After];

const VICTIMS: [Victim; 9] = [
    Victim::Leader,
    Victim::Standby,
    Victim::Agent,
    Victim::Guardian,
    Victim::Freezer,
    Victim::Store,
    Victim::Snapshotter,
    Victim::ApiServer,
    Victim::Etcd,
];
const OWNERS: [Owner; 3] = [Owner::Storage, Owner::Guardian, Owner::Leader];
const LINKS: [Link; 3] = [Link::AgentsToController, Link::LeaderToApi, Link::NodeToApi];

/// Every kind of fault.
pub fn kinds() -> Vec<Kind> {
    let kills = VICTIMS.map(Kind::Kill).into_iter();
    let stops = VICTIMS.map(Kind::Stop).into_iter();
    let rest = OWNERS.map(Kind::Delete).into_iter().chain(LINKS.map(Kind::Cut)).chain([Kind::Depose]);
    kills.chain(stops).chain(rest).collect()
}

impl Kind {
    /// Whether it can happen with this many controllers.
    pub fn needs_standby(self) -> bool {
        matches!(self, Self::Kill(Victim::Standby) | Self::Stop(Victim::Standby) | Self::Depose)
    }

    /// Whether there is anything to break at this moment. A freezer lives as long as its run.
    pub fn can_happen(self, moment: Moment) -> bool {
        !(matches!(self, Self::Kill(Victim::Freezer) | Self::Stop(Victim::Freezer)) && moment == Moment::After)
    }

    /// Whether the application of the member that it hits cannot say how long its writes were suspended: it is stopped or
    /// begins anew. That of the other members can.
    pub fn silences_its_member(self) -> bool {
        matches!(self, Self::Kill(Victim::Store) | Self::Stop(Victim::Store) | Self::Delete(Owner::Storage))
    }

    /// Whether it hits one member or its node.
    pub fn hits_a_member(self) -> bool {
        match self {
            Self::Kill(victim) | Self::Stop(victim) => {
                !matches!(victim, Victim::Leader | Victim::Standby | Victim::ApiServer | Victim::Etcd)
            }
            Self::Depose | Self::Delete(Owner::Leader) | Self::Cut(Link::LeaderToApi) => false,
            Self::Delete(Owner::Storage | Owner::Guardian) | Self::Cut(Link::AgentsToController | Link::NodeToApi) => {
                true
            }
        }
    }

    /// How long it lasts before it is undone. What was killed or deleted is brought back at once.
    pub fn lasts(self) -> Duration {
        match self {
            Self::Kill(_) | Self::Delete(_) => Duration::ZERO,
            Self::Stop(_) | Self::Cut(_) => OUTAGE,
            Self::Depose => DEPOSED,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Kill(victim) => format!("kill-{}", victim.name()),
            Self::Stop(victim) => format!("stop-{}", victim.name()),
            Self::Depose => "depose-leader".into(),
            Self::Delete(Owner::Storage) => "delete-storage-pod".into(),
            Self::Delete(Owner::Guardian) => "delete-guardian-pod".into(),
            Self::Delete(Owner::Leader) => "delete-leader-pod".into(),
            Self::Cut(Link::AgentsToController) => "cut-agents-controller".into(),
            Self::Cut(Link::LeaderToApi) => "cut-leader-api".into(),
            Self::Cut(Link::NodeToApi) => "cut-node-api".into(),
        };
        f.pad(&name)
    }
}

impl FromStr for Kind {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        match kinds().into_iter().find(|kind| kind.to_string() == text) {
            Some(kind) => Ok(kind),
            None => bail!("no such kind of fault; there are {}", names(&kinds())),
        }
    }
}

impl Victim {
    fn name(self) -> &'static str {
        match self {
            Self::Leader => "leader",
            Self::Standby => "standby",
            Self::Agent => "agent",
            Self::Guardian => "guardian",
            Self::Freezer => "freezer",
            Self::Store => "application",
            Self::Snapshotter => "csi-snapshotter",
            Self::ApiServer => "api-server",
            Self::Etcd => "etcd",
        }
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Preparing => "preparing",
            Self::Suspending => "suspending",
            Self::Held => "held",
            Self::Cutting => "cutting",
            Self::Releasing => "releasing",
            Self::After => "after",
        })
    }
}

impl FromStr for Moment {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        match MOMENTS.into_iter().find(|moment| moment.to_string() == text) {
            Some(moment) => Ok(moment),
            None => bail!("no such phase; there are {}", names(&MOMENTS)),
        }
    }
}

fn names(all: &[impl fmt::Display]) -> String {
    all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_are_read_back() {
        assert_eq!(kinds().len(), 25);
        for kind in kinds() {
            assert_eq!(kind.to_string().parse::<Kind>().unwrap(), kind);
        }
        for moment in MOMENTS {
            assert_eq!(moment.to_string().parse::<Moment>().unwrap(), moment);
        }
        assert!("kill-everybody".parse::<Kind>().unwrap_err().to_string().contains("kill-agent"));
    }
}
