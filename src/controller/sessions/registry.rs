//! Routes commands to sessions and reports to runs. No IO: every operation takes one short lock and never waits.
//!
//! Keys are those of agents as the API server identified them at authentication; nothing here comes from an agent's own words
//! but the reports themselves.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{mpsc, oneshot};

use stillpoint_core::limits::{MAX_NAMESPACE_SESSIONS, MAX_SESSIONS, RUN_QUEUE, SESSION_QUEUE};
use stillpoint_core::run::agents::AgentKey;
use stillpoint_core::run::answers::attempt_of;
use stillpoint_core::wire::{Attempt, ControllerMessage, agent_message::Report, controller_message::Command};

/// The sessions of one controller. A clone is another handle on the same sessions.
#[derive(Clone, Default)]
pub struct Sessions {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    by_agent: HashMap<AgentKey, Slot>,
    /// How many of them each namespace has.
    by_namespace: HashMap<String, usize>,
    attached: HashMap<u64, Attached>,
    last_key: u64,
}

/// The registry's end of one session.
struct Slot {
    key: u64,
    namespace: String,
    greeted: bool,
    commands: mpsc::Sender<ControllerMessage>,
    end: oneshot::Sender<SessionEnd>,
}

/// The registry's end of one attachment.
struct Attached {
    replication_uid: String,
    /// Agents of the run's members. What happens to others is none of its business, however many of them come and go.
    agents: HashSet<AgentKey>,
    /// Agents that were commanded for this replication. Reports of others are dropped, so that an agent cannot speak in, or
    /// flood, a run that never asked it.
    asked: HashSet<AgentKey>,
    events: mpsc::Sender<AgentEvent>,
}

/// What a run hears.
#[derive(Clone, Debug, PartialEq)]
pub enum AgentEvent {
    /// An agent's report about this run's replication.
    Report {
        /// The agent that reports.
        agent: AgentKey,
        /// What it said. Never a Hello.
        report: Report,
    },
    /// A session ended; the agent resumes whatever it held.
    Lost {
        /// The agent whose session ended.
        agent: AgentKey,
    },
    /// A session can be used. When it replaced another one of the same agent, the other's `Lost` came before.
    Connected {
        /// The agent that connected.
        agent: AgentKey,
    },
}

/// Why a command was not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// No agent of this pod is connected.
    #[error("no agent of this pod is connected")]
    NoSession,
    /// The session did not take its commands, and was closed for it.
    #[error("the agent of this pod did not take its commands, so its session was closed")]
    QueueFull,
}

/// Why the registry ended a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionEnd {
    /// The same agent opened another session.
    Replaced,
    /// Commands piled up to [`SESSION_QUEUE`].
    QueueFull,
    /// The controller stops.
    Shutdown,
}

/// Why there is no room for a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooManySessions {
    /// [`MAX_SESSIONS`] are open.
    #[error("the controller already has {MAX_SESSIONS} sessions, which is its limit")]
    InAll,
    /// The agent's namespace has [`MAX_NAMESPACE_SESSIONS`].
    #[error("the namespace already has {MAX_NAMESPACE_SESSIONS} sessions, which is its limit")]
    OfNamespace,
}

impl Sessions {
    /// Whether this agent is connected and has said Hello.
    pub fn connected(&self, agent: &AgentKey) -> bool {
        self.lock().by_agent.get(agent).is_some_and(|slot| slot.greeted)
    }

    /// Queues a command. Never waits.
    ///
    /// # Errors
    /// [`SendError::NoSession`] when the agent has no session; [`SendError::QueueFull`] when [`SESSION_QUEUE`] commands wait
    /// already, which also closes the session (its runs hear `Lost`).
    pub fn send(&self, agent: &AgentKey, message: ControllerMessage) -> Result<(), SendError> {
        let mut state = self.lock();
        if let Some(attempt) = command_attempt(&message) {
            state.note_asked(agent, &attempt.replication_uid);
        }
        let Some(slot) = state.by_agent.get(agent).filter(|slot| slot.greeted) else {
            return Err(SendError::NoSession);
        };
        match slot.commands.try_send(message) {
            Ok(()) => Ok(()),
            // The session's task is gone, and its drop will report `Lost` as soon as it gets the lock.
            Err(mpsc::error::TrySendError::Closed(_)) => Err(SendError::NoSession),
            Err(mpsc::error::TrySendError::Full(_)) => {
                state.end(agent, SessionEnd::QueueFull);
                Err(SendError::QueueFull)
            }
        }
    }

    /// Starts to listen for one replication: its reports, and the `Lost` and `Connected` of its members' agents. Attach
    /// before asking [`Sessions::connected`], so that no change falls between the two.
    pub fn attach(&self, replication_uid: &str, agents: impl IntoIterator<Item = AgentKey>) -> Attachment {
        let (sender, events) = mpsc::channel(RUN_QUEUE);
        let mut state = self.lock();
        let key = state.next_key();
        let attached = Attached {
            replication_uid: replication_uid.to_owned(),
            agents: agents.into_iter().collect(),
            asked: HashSet::new(),
            events: sender,
        };
        state.attached.insert(key, attached);
        Attachment { sessions: self.clone(), key, events }
    }

    /// Opens the session of an authenticated agent and ends its earlier one. It can be sent to after
    /// [`Session::greet`].
    ///
    /// # Errors
    /// [`TooManySessions`] at [`MAX_SESSIONS`] and [`MAX_NAMESPACE_SESSIONS`], unless it replaces one.
    pub fn open(&self, namespace: &str, agent: &AgentKey) -> Result<Session, TooManySessions> {
        let mut state = self.lock();
        state.end(agent, SessionEnd::Replaced);
        if state.by_agent.len() >= MAX_SESSIONS {
            return Err(TooManySessions::InAll);
        }
        let of_namespace = state.by_namespace.entry(namespace.to_owned()).or_default();
        if *of_namespace >= MAX_NAMESPACE_SESSIONS {
            return Err(TooManySessions::OfNamespace);
        }
        *of_namespace += 1;
        let (command_sender, commands) = mpsc::channel(SESSION_QUEUE);
        let (end_sender, end) = oneshot::channel();
        let key = state.next_key();
        let slot =
            Slot { key, namespace: namespace.to_owned(), greeted: false, commands: command_sender, end: end_sender };
        state.by_agent.insert(agent.clone(), slot);
        Ok(Session { sessions: self.clone(), agent: agent.clone(), key, commands, end })
    }

    /// Ends every session, because the controller stops.
    pub fn end_all(&self) {
        let mut state = self.lock();
        let agents: Vec<AgentKey> = state.by_agent.keys().cloned().collect();
        for agent in agents {
            state.end(&agent, SessionEnd::Shutdown);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every critical section leaves the maps usable at each step, so a panic elsewhere does not spoil them.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn next_key(&mut self) -> u64 {
        self.last_key += 1;
        self.last_key
    }

    fn note_asked(&mut self, agent: &AgentKey, replication_uid: &str) {
        for attached in self.attached.values_mut().filter(|a| a.replication_uid == replication_uid) {
            attached.asked.insert(agent.clone());
        }
    }

    fn end(&mut self, agent: &AgentKey, reason: SessionEnd) {
        let Some(slot) = self.by_agent.remove(agent) else { return };
        if let Some(left) = self.by_namespace.get_mut(&slot.namespace) {
            *left -= 1;
            if *left == 0 {
                self.by_namespace.remove(&slot.namespace);
            }
        }
        // A session that is gone already needs no reason.
        let _ = slot.end.send(reason);
        if slot.greeted {
            self.tell(|a| a.agents.contains(agent), &AgentEvent::Lost { agent: agent.clone() });
        }
    }

    /// Hands an event to the chosen attachments. One that does not take its events is detached: a run that missed one
    /// must not go on as if it had heard everything.
    fn tell(&mut self, chosen: impl Fn(&Attached) -> bool, event: &AgentEvent) {
        self.attached.retain(|_, attached| !chosen(attached) || attached.events.try_send(event.clone()).is_ok());
    }
}

/// A run's ear. Dropping it detaches.
pub struct Attachment {
    sessions: Sessions,
    key: u64,
    events: mpsc::Receiver<AgentEvent>,
}

impl Attachment {
    /// The next event. `None` when the run fell [`RUN_QUEUE`] events behind: events are missing from here on, so the run
    /// must release everything it asked. Safe to cancel: no event is lost.
    pub async fn recv(&mut self) -> Option<AgentEvent> {
        self.events.recv().await
    }

    /// An event that is there already.
    pub fn try_recv(&mut self) -> Option<AgentEvent> {
        self.events.try_recv().ok()
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        self.sessions.lock().attached.remove(&self.key);
    }
}

/// The agent's side of one session. Dropping it ends the session.
pub struct Session {
    sessions: Sessions,
    agent: AgentKey,
    key: u64,
    commands: mpsc::Receiver<ControllerMessage>,
    end: oneshot::Receiver<SessionEnd>,
}

impl Session {
    /// Makes the session usable and tells its runs `Connected`. Nothing happens when it was replaced already.
    pub fn greet(&self) {
        let mut state = self.sessions.lock();
        let Some(slot) = state.by_agent.get_mut(&self.agent).filter(|slot| slot.key == self.key) else { return };
        if !std::mem::replace(&mut slot.greeted, true) {
            let event = AgentEvent::Connected { agent: self.agent.clone() };
            state.tell(|a| a.agents.contains(&self.agent), &event);
        }
    }

    /// Hands a report to the runs of its replication that commanded this agent. Reports without an attempt, and those of a
    /// session that was replaced, go nowhere.
    pub fn report(&self, report: Report) {
        let Some(replication_uid) = attempt_of(&report).map(|attempt| attempt.replication_uid.clone()) else {
            return;
        };
        let mut state = self.sessions.lock();
        if state.by_agent.get(&self.agent).is_none_or(|slot| slot.key != self.key) {
            return;
        }
        let event = AgentEvent::Report { agent: self.agent.clone(), report };
        state.tell(|a| a.replication_uid == replication_uid && a.asked.contains(&self.agent), &event);
    }

    /// The next command for the agent, or why the session ended. An end comes before the commands that still wait: the
    /// agent learns it from the closed stream and resumes by itself. Safe to cancel: no command is lost. Not to be called
    /// again after an end.
    pub async fn next(&mut self) -> Result<ControllerMessage, SessionEnd> {
        tokio::select! {
            biased;
            end = &mut self.end => Err(end.unwrap_or(SessionEnd::Replaced)),
            Some(command) = self.commands.recv() => Ok(command),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut state = self.sessions.lock();
        if state.by_agent.get(&self.agent).is_some_and(|slot| slot.key == self.key) {
            // The reason goes to this session alone, which is gone.
            state.end(&self.agent, SessionEnd::Replaced);
        }
    }
}

fn command_attempt(message: &ControllerMessage) -> Option<&Attempt> {
    match message.command.as_ref()? {
        Command::Prepare(prepare) => prepare.attempt.as_ref(),
        Command::Suspend(suspend) => suspend.attempt.as_ref(),
        Command::Release(release) => release.attempt.as_ref(),
    }
}
