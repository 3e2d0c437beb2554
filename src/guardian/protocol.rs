//! What an agent and a guardian say to each other, one message per packet of a Unix `SOCK_SEQPACKET` socket.
//!
//! One connection guards one member. The agent begins with [`Request::Guard`] and the descriptors; the guardian answers
//! every request but `Disarm`, in order. The end of the connection while armed is an order to thaw.

use std::time::Duration;

use crate::undo::Undo;
use stillpoint_core::limits::MAX_GUARDIAN_MESSAGE;

/// From the agent.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// First, with two descriptors (SCM_RIGHTS): the handle of the undo (the root directory of the dataset), and a pidfd of the
    /// freezer. The label names the member in the guardian's log.
    Guard {
        /// What resumes writes. The message begins with its [code](Undo::code).
        undo: Undo,
        /// For people.
        label: String,
    },
    /// From now on a freeze may exist: thaw after this time, or when the connection ends.
    Arm {
        /// Comes back in the answer.
        ticket: u64,
        /// From the receipt of this message.
        limit: Duration,
    },
    /// No thaw is owed.
    Disarm,
}

/// What a guardian outlives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Scope {
    /// In a pod of its own on every node: outlives the agent's whole pod.
    #[default]
    Node,
    /// In a container of the agent's pod: outlives the agent's container, and ends with the pod.
    Pod,
}

/// From the guardian.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// The descriptors are accepted.
    Guarding {
        /// What this guardian outlives.
        scope: Scope,
    },
    /// The thaw is promised.
    Armed {
        /// Of the request.
        ticket: u64,
    },
    /// Nothing is promised, and the connection ends.
    Refused {
        /// A sentence.
        why: String,
    },
}

const GUARD: u8 = b'G';
const ARM: u8 = b'A';
const DISARM: u8 = b'D';
const REFUSED: u8 = b'R';
/// After `GUARD`, of a guardian that is in the agent's pod. One of the node says nothing.
const POD: u8 = b'P';

impl Request {
    /// At most [`MAX_GUARDIAN_MESSAGE`] bytes; a longer label is cut.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Guard { undo, label } => text(undo.code(), label),
            Self::Arm { ticket, limit } => {
                let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
                let mut bytes = vec![ARM];
                bytes.extend(ticket.to_le_bytes());
                bytes.extend(limit_ms.to_le_bytes());
                bytes
            }
            Self::Disarm => vec![DISARM],
        }
    }

    /// `None`: not a request.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        match bytes.split_first()? {
            (&ARM, numbers) => {
                let (ticket, limit_ms) = numbers.split_first_chunk()?;
                let limit = Duration::from_millis(u64::from_le_bytes(limit_ms.try_into().ok()?));
                Some(Self::Arm { ticket: u64::from_le_bytes(*ticket), limit })
            }
            (&DISARM, []) => Some(Self::Disarm),
            (code, label) => {
                let undo = Undo::of_code(*code)?;
                Some(Self::Guard { undo, label: String::from_utf8_lossy(label).into_owned() })
            }
        }
    }
}

impl Answer {
    /// At most [`MAX_GUARDIAN_MESSAGE`] bytes; a longer reason is cut.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Guarding { scope: Scope::Node } => vec![GUARD],
            Self::Guarding { scope: Scope::Pod } => vec![GUARD, POD],
            Self::Armed { ticket } => {
                let mut bytes = vec![ARM];
                bytes.extend(ticket.to_le_bytes());
                bytes
            }
            Self::Refused { why } => text(REFUSED, why),
        }
    }

    /// `None`: not an answer.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        match bytes.split_first()? {
            (&GUARD, []) => Some(Self::Guarding { scope: Scope::Node }),
            (&GUARD, [POD]) => Some(Self::Guarding { scope: Scope::Pod }),
            (&ARM, ticket) => Some(Self::Armed { ticket: u64::from_le_bytes(ticket.try_into().ok()?) }),
            (&REFUSED, why) => Some(Self::Refused { why: String::from_utf8_lossy(why).into_owned() }),
            _ => None,
        }
    }
}

fn text(kind: u8, text: &str) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend(text.bytes().take(MAX_GUARDIAN_MESSAGE - 1));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_answers_survive_the_wire() {
        let limit = Duration::from_millis(10_200);
        for request in [
            Request::Guard { undo: Undo::Thaw, label: "orders".into() },
            Request::Arm { ticket: 7, limit },
            Request::Disarm,
        ] {
            assert_eq!(Request::decode(&request.encode()), Some(request));
        }
        let scopes = [Scope::Node, Scope::Pod].map(|scope| Answer::Guarding { scope });
        for answer in scopes.into_iter().chain([Answer::Armed { ticket: 7 }, Answer::Refused { why: "full".into() }]) {
            assert_eq!(Answer::decode(&answer.encode()), Some(answer));
        }
    }

    #[test]
    fn guardians_and_agents_of_before_are_understood() {
        let guard = Request::Guard { undo: Undo::Thaw, label: "orders".into() };
        assert_eq!(guard.encode(), b"Gorders");
        for code in 0..=u8::MAX {
            let known = Undo::ALL.iter().any(|undo| undo.code() == code);
            assert_eq!(matches!(Request::decode(&[code, b'x']), Some(Request::Guard { .. })), known);
            assert!(!(known && [ARM, DISARM].contains(&code)), "another message begins so");
        }
    }

    #[test]
    fn a_long_label_is_cut() {
        let bytes = Request::Guard { undo: Undo::Thaw, label: "ä".repeat(MAX_GUARDIAN_MESSAGE) }.encode();
        assert_eq!(bytes.len(), MAX_GUARDIAN_MESSAGE);
        assert!(Request::decode(&bytes).is_some());
    }

    proptest::proptest! {
        #[test]
        fn garbage_is_refused_without_a_panic(bytes: Vec<u8>) {
            let _ = Request::decode(&bytes);
            let _ = Answer::decode(&bytes);
        }

        #[test]
        fn every_message_survives_the_wire(text in ".{0,80}", ticket: u64, limit_ms: u64) {
            let limit = Duration::from_millis(limit_ms);
            for request in [Request::Guard { undo: Undo::Thaw, label: text.clone() }, Request::Arm { ticket, limit }, Request::Disarm] {
                proptest::prop_assert!(request.encode().len() <= MAX_GUARDIAN_MESSAGE);
                proptest::prop_assert_eq!(Request::decode(&request.encode()), Some(request));
            }
            let scopes = [Scope::Node, Scope::Pod].map(|scope| Answer::Guarding { scope });
            for answer in scopes.into_iter().chain([Answer::Armed { ticket }, Answer::Refused { why: text.clone() }]) {
                proptest::prop_assert_eq!(Answer::decode(&answer.encode()), Some(answer));
            }
        }

        /// An order to hold on for longer, or none to thaw, must not come of a packet that is too short or too long.
        #[test]
        fn a_torn_packet_is_refused(ticket: u64, limit_ms: u64, length in 0..40_usize) {
            let packet = Request::Arm { ticket, limit: Duration::from_millis(limit_ms) }.encode();
            let mut torn = packet.clone();
            torn.resize(length, 0);
            proptest::prop_assert_eq!(Request::decode(&torn).is_some(), length == packet.len());
        }
    }
}
