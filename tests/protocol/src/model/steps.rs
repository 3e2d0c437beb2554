//! What can happen next, and what comes of it.

use stateright::{Model, Property};
use stillpoint_api::Phase;
use stillpoint_core::hold::Command;

use super::leaders::{self, Deed, Shown};
use super::members::{self, is_of};
use super::pool::Id;
use super::promises;
use super::state::{Broken, Leads, Link, MAX_LEADERS, MAX_MEMBERS, Order, Queue, Replica, State};
use super::{Group, Without};
use crate::node::{Timer, Work};

/// Something that happens. Members and leaders are named by their numbers, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// A command arrives: leader, member.
    Command(usize, usize),
    /// A report arrives: leader, member.
    Report(usize, usize),
    /// The agent sees that a session has ended: leader, member.
    AgentSees(usize, usize),
    /// The leader sees that a session has ended: leader, member.
    LeaderSees(usize, usize),
    /// An agent opens a session: leader, member.
    Connect(usize, usize),
    /// A piece of work completes at a member.
    Work(usize, Work),
    /// A creation arrives at the API server: leader, member.
    Create(usize, usize),
    /// The storage system cuts a member's replica.
    Cut(usize),
    /// All replicas that were cut become ready to use.
    Usable,
    /// A leader's deletion is carried out.
    Delete(usize),
    /// A leader's list of the pods is answered.
    Recheck(usize),
    /// A leader's next status arrives at the API server.
    Write(usize),
    /// The leader deletes a replica that turned up after the run had ended without a group.
    Sweep(usize),
    /// A new leader begins, and no other lives.
    Lead(usize),
    /// An agent that died starts again.
    RestartAgent(usize),
    /// A guardian that died starts again.
    RestartGuardian(usize),
    /// The application drops its lock.
    Unlock(usize),
    /// A deadline of a member comes; `true`: late.
    Deadline(usize, Timer, bool),
    /// A leader's deadline comes.
    LeaderWakes(usize),
    /// A fault.
    Fault(Fault),
}

/// What may go wrong. Each counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// An agent is killed.
    KillAgent(usize),
    /// An agent and its freezer are killed at once.
    KillPod(usize),
    /// A freezer is killed.
    KillFreezer(usize),
    /// A guardian is killed.
    KillGuardian(usize),
    /// Somebody else thaws.
    Thaw(usize),
    /// Somebody else freezes.
    Freeze(usize),
    /// The application takes a lock.
    Lock(usize),
    /// A session breaks: leader, member.
    Break(usize, usize),
    /// A command arrives and is still under way: leader, member.
    Repeat(usize, usize),
    /// A command overtakes the one before it: leader, member.
    Overtake(usize, usize),
    /// A leader dies.
    Crash(usize),
    /// A new leader begins while another still believes that it leads.
    TakeOver(usize),
    /// A creation is refused: leader, member.
    RefuseCreation(usize, usize),
    /// A creation succeeds, but its answer is lost: leader, member.
    LoseAnswer(usize, usize),
    /// A deadline of a member comes although something is still under way.
    Early(usize, Timer, bool),
    /// A leader's deadline comes although something is still under way.
    EarlyWake(usize),
}

impl Model for Group {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let fresh = self.members.fresh(self.bounds.hold_timeout);
        let mut state = State {
            nodes: [fresh; MAX_MEMBERS],
            leaders: [Leads::Later; MAX_LEADERS],
            links: [[Link::default(); MAX_MEMBERS]; MAX_LEADERS],
            replicas: [Replica::Nothing; MAX_MEMBERS],
            creations: [[false; MAX_MEMBERS]; MAX_LEADERS],
            deletions: [false; MAX_LEADERS],
            rechecks: [false; MAX_LEADERS],
            status: None,
            known: [None; MAX_LEADERS],
            epochs: [0; MAX_MEMBERS],
            faults: self.bounds.faults,
            broken: None,
        };
        self.lead(&mut state, 0);
        vec![state]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        if state.broken.is_some() {
            return;
        }
        self.progress(state, steps);
        let quiet = steps.is_empty();
        self.recoveries(state, steps);
        if quiet {
            self.deadlines(state, steps);
        }
        if state.faults > 0 {
            self.faults(state, quiet, steps);
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = *last;
        self.apply(&mut state, step);
        (state != *last).then(|| self.representative(&state).0)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        promises::properties()
    }
}

impl Group {
    /// Of all states that differ in nothing but the order of the members, one; and the order that leads to it. Members differ
    /// in name only, and no decision compares names.
    pub(super) fn representative(&self, state: &State) -> (State, Order) {
        let members = self.bounds.members;
        let sorted = |order: &&Order| {
            let order: Vec<usize> = order.of(members).collect();
            order.windows(2).all(|pair| state.member(pair[0]) <= state.member(pair[1]))
        };
        let renamed = |order: &Order| {
            let mut new = state.reordered(*order);
            for leads in &mut new.leaders {
                if let Leads::Run(run) = leads {
                    *run = self.leaders.permuted(*run, *order);
                }
            }
            for status in std::iter::once(&mut new.status).chain(&mut new.known) {
                *status = status.map(|status| self.leaders.permuted_status(status, *order));
            }
            (new, *order)
        };
        let run = |leads: &Leads| if let Leads::Run(run) = leads { *run } else { 0 };
        let all = Order::all(members).iter().filter(sorted).map(renamed);
        all.min_by_key(|(new, _)| (new.leaders.each_ref().map(run), new.status)).unwrap_or((*state, Order::all(1)[0]))
    }

    fn members(&self) -> std::ops::Range<usize> {
        0..self.bounds.members
    }

    fn leaders(&self) -> std::ops::Range<usize> {
        0..self.bounds.leaders
    }

    /// What is under way and arrives by itself, without time passing.
    pub(super) fn progress(&self, state: &State, steps: &mut Vec<Step>) {
        for leader in self.leaders() {
            for member in self.members() {
                let link = &state.links[leader][member];
                if link.agent && !link.down.is_empty() {
                    steps.push(Step::Command(leader, member));
                }
                if link.leader && !link.up.is_empty() {
                    steps.push(Step::Report(leader, member));
                }
                if link.cut && link.agent {
                    steps.push(Step::AgentSees(leader, member));
                }
                if link.cut && link.leader {
                    steps.push(Step::LeaderSees(leader, member));
                }
                let alive = self.members.view(state.nodes[member]).node.agent_alive();
                if !link.agent && !link.leader && alive && self.running(state, leader).is_some() {
                    steps.push(Step::Connect(leader, member));
                }
                if state.creations[leader][member] {
                    steps.push(Step::Create(leader, member));
                }
            }
            if state.deletions[leader] {
                steps.push(Step::Delete(leader));
            }
            if state.rechecks[leader] {
                steps.push(Step::Recheck(leader));
            }
            if let Leads::Run(run) = state.leaders[leader]
                && self.leaders.view(run).writes.is_some()
            {
                steps.push(Step::Write(leader));
            }
        }
        for member in self.members() {
            steps.extend(self.members.view(state.nodes[member]).pending.iter().map(|work| Step::Work(member, *work)));
            if state.replicas[member] == Replica::Made {
                steps.push(Step::Cut(member));
            }
            if state.replicas[member] != Replica::Nothing && self.is_void(state) && self.anybody_leads(state) {
                steps.push(Step::Sweep(member));
            }
        }
        let cut = |replica: &Replica| matches!(replica, Replica::Cut { .. });
        if state.replicas[..self.bounds.members].iter().all(cut) {
            steps.push(Step::Usable);
        }
        if !self.anybody_leads(state)
            && let Some(next) = self.next_leader(state)
        {
            steps.push(Step::Lead(next));
        }
    }

    /// What may mend itself.
    fn recoveries(&self, state: &State, steps: &mut Vec<Step>) {
        for member in self.members() {
            let node = &self.members.view(state.nodes[member]).node;
            if !node.agent_alive() {
                steps.push(Step::RestartAgent(member));
            }
            if !node.guardian_alive() {
                steps.push(Step::RestartGuardian(member));
            }
            if node.locked() {
                steps.push(Step::Unlock(member));
            }
        }
    }

    /// The deadlines that run.
    pub(super) fn deadlines(&self, state: &State, steps: &mut Vec<Step>) {
        for leader in self.leaders() {
            if let Leads::Run(run) = state.leaders[leader]
                && self.leaders.view(run).wakes
            {
                steps.push(Step::LeaderWakes(leader));
            }
        }
        for member in self.members() {
            for (timer, differs) in &self.members.view(state.nodes[member]).timers {
                steps.push(Step::Deadline(member, *timer, false));
                if *differs {
                    steps.push(Step::Deadline(member, *timer, true));
                }
            }
        }
    }

    fn faults(&self, state: &State, quiet: bool, steps: &mut Vec<Step>) {
        let mut fault = |fault| steps.push(Step::Fault(fault));
        for member in self.members() {
            let view = self.members.view(state.nodes[member]);
            let node = &view.node;
            if node.agent_alive() {
                fault(Fault::KillAgent(member));
                if node.freezer_alive() {
                    fault(Fault::KillPod(member));
                }
            }
            if node.freezer_alive() {
                fault(Fault::KillFreezer(member));
            }
            if node.guardian_alive() {
                fault(Fault::KillGuardian(member));
            }
            fault(if view.any_frozen { Fault::Thaw(member) } else { Fault::Freeze(member) });
            if !node.locked() {
                fault(Fault::Lock(member));
            }
        }
        for leader in self.leaders() {
            for member in self.members() {
                let link = &state.links[leader][member];
                if link.agent && link.leader && !link.cut {
                    fault(Fault::Break(leader, member));
                }
                if link.agent && !link.down.is_empty() {
                    fault(Fault::Repeat(leader, member));
                }
                if link.agent && link.down.len() > 1 {
                    fault(Fault::Overtake(leader, member));
                }
                if state.creations[leader][member] {
                    fault(Fault::RefuseCreation(leader, member));
                    fault(Fault::LoseAnswer(leader, member));
                }
            }
            if matches!(state.leaders[leader], Leads::Run(_) | Leads::Idle) {
                fault(Fault::Crash(leader));
            }
        }
        if self.anybody_leads(state)
            && let Some(next) = self.next_leader(state)
        {
            fault(Fault::TakeOver(next));
        }
        if !quiet {
            let mut early = Vec::new();
            self.deadlines(state, &mut early);
            for step in early {
                match step {
                    Step::Deadline(member, timer, late) => fault(Fault::Early(member, timer, late)),
                    Step::LeaderWakes(leader) => fault(Fault::EarlyWake(leader)),
                    _ => {}
                }
            }
        }
    }

    /// Makes a step.
    pub(super) fn apply(&self, state: &mut State, step: Step) {
        match step {
            Step::Command(leader, member) => self.command_arrives(state, leader, member, 0),
            Step::Report(leader, member) => {
                if let Some(report) = state.links[leader][member].up.take(0) {
                    self.tell(state, leader, leaders::Input::Report(member, report));
                }
            }
            Step::AgentSees(leader, member) => {
                state.links[leader][member].lose_agent();
                self.happen(state, member, members::Input::SessionLost(session(leader)));
            }
            Step::LeaderSees(leader, member) => {
                state.links[leader][member].lose_leader();
                self.tell(state, leader, leaders::Input::Lost(member));
            }
            Step::Connect(leader, member) => {
                state.links[leader][member] = Link::OPEN;
                self.tell(state, leader, leaders::Input::Connected(member));
            }
            Step::Work(member, work) => self.happen(state, member, members::Input::Work(work)),
            Step::Create(leader, member) => {
                let created = self.create(state, leader, member);
                self.tell(state, leader, leaders::Input::Created(member, created));
            }
            Step::Cut(member) => {
                let inside = self.all_hold(state);
                self.show(state, member, Replica::Cut { inside });
            }
            Step::Usable => {
                for member in self.members() {
                    if let Replica::Cut { inside } = state.replicas[member] {
                        self.show(state, member, Replica::Usable { inside });
                    }
                }
            }
            Step::Delete(leader) => {
                state.deletions[leader] = false;
                let kept = self.members().filter(|member| state.replicas[*member] != Replica::Nothing);
                let kept: Vec<usize> = kept.collect();
                for member in &kept {
                    self.show(state, *member, Replica::Nothing);
                }
                self.tell(state, leader, leaders::Input::Deleted(kept.len()));
            }
            Step::Recheck(leader) => {
                state.rechecks[leader] = false;
                self.tell(state, leader, leaders::Input::Rechecked);
            }
            Step::Write(leader) => self.write(state, leader),
            Step::Sweep(member) => self.show(state, member, Replica::Nothing),
            Step::Lead(leader) => self.lead(state, leader),
            Step::RestartAgent(member) => self.happen(state, member, members::Input::RestartAgent),
            Step::RestartGuardian(member) => self.happen(state, member, members::Input::RestartGuardian),
            Step::Unlock(member) => self.happen(state, member, members::Input::Unlock),
            Step::Deadline(member, timer, late) => self.happen(state, member, members::Input::Timer(timer, late)),
            Step::LeaderWakes(leader) => self.tell(state, leader, leaders::Input::Wake),
            Step::Fault(fault) => {
                state.faults -= 1;
                self.fail(state, fault);
            }
        }
    }

    fn fail(&self, state: &mut State, fault: Fault) {
        match fault {
            Fault::KillAgent(member) => self.agent_dies(state, member, members::Input::KillAgent),
            Fault::KillPod(member) => self.agent_dies(state, member, members::Input::KillPod),
            Fault::KillFreezer(member) => self.happen(state, member, members::Input::KillFreezer),
            Fault::KillGuardian(member) => self.happen(state, member, members::Input::KillGuardian),
            Fault::Thaw(member) => self.happen(state, member, members::Input::Thaw),
            Fault::Freeze(member) => self.happen(state, member, members::Input::Freeze),
            Fault::Lock(member) => self.happen(state, member, members::Input::Lock),
            Fault::Break(leader, member) => state.links[leader][member].cut = true,
            Fault::Repeat(leader, member) => {
                let message = state.links[leader][member].down.get(0);
                if let Some(message) = message {
                    self.command(state, leader, member, message);
                }
            }
            Fault::Overtake(leader, member) => self.command_arrives(state, leader, member, 1),
            Fault::Crash(leader) => {
                state.leaders[leader] = Leads::Dead;
                state.deletions[leader] = false;
                state.rechecks[leader] = false;
                for member in self.members() {
                    state.links[leader][member].lose_leader();
                }
            }
            Fault::TakeOver(leader) => self.lead(state, leader),
            Fault::RefuseCreation(leader, member) => {
                state.creations[leader][member] = false;
                self.tell(state, leader, leaders::Input::Created(member, false));
            }
            Fault::LoseAnswer(leader, member) => {
                self.create(state, leader, member);
                self.tell(state, leader, leaders::Input::Created(member, false));
            }
            Fault::Early(member, timer, late) => self.happen(state, member, members::Input::Timer(timer, late)),
            Fault::EarlyWake(leader) => self.tell(state, leader, leaders::Input::Wake),
        }
    }

    /// A leader begins. Agents keep sessions with every controller, also with those that do not lead yet.
    fn lead(&self, state: &mut State, leader: usize) {
        for member in self.members() {
            if self.members.view(state.nodes[member]).node.agent_alive() {
                state.links[leader][member] = Link::OPEN;
            }
        }
        self.take_up(state, leader);
    }

    /// A leader takes up what is stored. Reading it and claiming it is one step here: the claim is refused if anybody wrote in
    /// between, and then it is read anew.
    fn take_up(&self, state: &mut State, leader: usize) {
        state.known[leader] = state.status;
        if self.has_ended(state) {
            state.leaders[leader] = Leads::Idle;
            return;
        }
        state.status = state.status.map(|status| self.leaders.claimed(status, epoch(leader).into()));
        state.known[leader] = state.status;
        let connected: Vec<bool> = self.members().map(|member| state.links[leader][member].leader).collect();
        let replicas: Vec<Shown> = self.members().map(|member| shown(state.replicas[member])).collect();
        let effect = self.leaders.begin(epoch(leader).into(), state.status, &replicas, &connected);
        self.take(state, leader, &effect);
    }

    /// Lets a leader hear something, if it runs anything.
    fn tell(&self, state: &mut State, leader: usize, input: leaders::Input) {
        let Leads::Run(run) = state.leaders[leader] else { return };
        if self.leaders.view(run).ended && input != leaders::Input::Written {
            return;
        }
        let effect = self.leaders.step(run, input);
        self.take(state, leader, &effect);
    }

    fn take(&self, state: &mut State, leader: usize, effect: &leaders::Effect) {
        state.leaders[leader] = Leads::Run(effect.leader);
        for deed in &effect.deeds {
            match *deed {
                Deed::Send(member, command) => {
                    let link = &mut state.links[leader][member];
                    if link.leader && !link.cut {
                        link.down.push(command);
                    }
                }
                Deed::Create { attempt, round } => {
                    if !self.all_were_ready(state, leader, attempt, round) {
                        state.broken = Some(Broken::CutBeforeReady);
                    }
                    state.creations[leader][..self.bounds.members].fill(true);
                }
                Deed::Delete => state.deletions[leader] = true,
                Deed::Recheck => state.rechecks[leader] = true,
            }
        }
        if self.leaders.view(effect.leader).ended {
            // Nobody listens any more.
            state.rechecks[leader] = false;
            for link in &mut state.links[leader] {
                link.up = Queue::default();
            }
        }
    }

    /// Lets something happen to a node.
    fn happen(&self, state: &mut State, member: usize, input: members::Input) {
        let effect = self.members.step(state.nodes[member], input);
        state.nodes[member] = effect.node;
        for (session, report) in &effect.reports {
            let leader = usize::from(*session) - 1;
            let listens = matches!(state.leaders[leader], Leads::Run(run) if !self.leaders.view(run).ended);
            let link = &mut state.links[leader][member];
            if link.agent && link.leader && !link.cut && listens {
                link.up.push(*report);
            }
        }
    }

    fn command_arrives(&self, state: &mut State, leader: usize, member: usize, place: usize) {
        if let Some(message) = state.links[leader][member].down.take(place) {
            self.command(state, leader, member, message);
        }
    }

    fn command(&self, state: &mut State, leader: usize, member: usize, mut message: Id) {
        if self.bounds.without == Some(Without::EpochCheck) {
            state.epochs[member] = state.epochs[member].max(epoch(leader));
            let mut command = (*self.members.command(message)).clone();
            let newest = state.epochs[member].into();
            match &mut command {
                Command::Prepare(attempt, _) | Command::Suspend(attempt, _) | Command::Release(attempt) => {
                    attempt.epoch = newest;
                }
            }
            message = self.members.intern_command(command);
        }
        self.happen(state, member, members::Input::Command(session(leader), message));
    }

    fn agent_dies(&self, state: &mut State, member: usize, how: members::Input) {
        self.happen(state, member, how);
        state.epochs[member] = 0;
        for leader in self.leaders() {
            state.links[leader][member].lose_agent();
        }
    }

    /// A creation arrives; says whether it was taken.
    fn create(&self, state: &mut State, leader: usize, member: usize) -> bool {
        state.creations[leader][member] = false;
        if state.replicas[member] != Replica::Nothing {
            return false;
        }
        self.show(state, member, Replica::Made);
        true
    }

    /// A replica changes, and every watch shows it.
    fn show(&self, state: &mut State, member: usize, replica: Replica) {
        state.replicas[member] = replica;
        for leader in self.leaders() {
            self.tell(state, leader, leaders::Input::Replica(member, shown(replica)));
        }
    }

    /// A status arrives at the API server, which takes it if nobody wrote since this leader read or wrote. If somebody did, it
    /// is what the status writer does: a newer leader's status is left alone for good; an older leader's, and an end that is
    /// another one, are read and taken up anew.
    fn write(&self, state: &mut State, leader: usize) {
        let Leads::Run(run) = state.leaders[leader] else { return };
        let Some(status) = self.leaders.view(run).writes else { return };
        if state.status != state.known[leader] {
            let newer = state.status.is_some_and(|stored| self.leaders.status(stored).epoch > u64::from(epoch(leader)));
            if newer {
                state.leaders[leader] = Leads::Idle;
            } else {
                self.take_up(state, leader);
            }
            return;
        }
        state.status = Some(status);
        state.known[leader] = Some(status);
        if self.phase(state) == Some(Phase::Done) && !self.is_proven(state) {
            state.broken = Some(Broken::DoneUnproven);
        }
        self.tell(state, leader, leaders::Input::Written);
    }

    fn all_were_ready(&self, state: &State, leader: usize, attempt: u32, round: u32) -> bool {
        self.members().all(|member| {
            let view = self.members.view(state.nodes[member]);
            let ready = view.node.witness().ready.as_ref();
            // Where epochs are not told apart, neither can this be.
            let of = if self.bounds.without == Some(Without::EpochCheck) {
                ready.map_or(0, |ready| ready.attempt.epoch)
            } else {
                epoch(leader).into()
            };
            ready.is_some_and(|ready| is_of(ready, of, attempt, round))
        })
    }

    /// Whether every member holds now, for the same round.
    fn all_hold(&self, state: &State) -> bool {
        let first = self.members.view(state.nodes[0]).held.clone();
        first.is_some() && self.members().all(|member| self.members.view(state.nodes[member]).held == first)
    }

    /// Whether every member held from its Ready to its Release without a break, and every replica was cut meanwhile.
    pub(super) fn is_proven(&self, state: &State) -> bool {
        self.members().all(|member| {
            let lasted = self.members.view(state.nodes[member]).node.witness().lasted.is_some();
            lasted && self.is_kept(state.replicas[member])
        })
    }

    /// Whether a replica shows the cut.
    pub(super) fn is_kept(&self, replica: Replica) -> bool {
        matches!(replica, Replica::Cut { inside: true } | Replica::Usable { inside: true })
    }

    /// The stored phase.
    pub(super) fn phase(&self, state: &State) -> Option<Phase> {
        state.status.and_then(|status| self.leaders.status(status).phase)
    }

    pub(super) fn has_ended(&self, state: &State) -> bool {
        self.phase(state).is_some_and(Phase::is_final)
    }

    /// Whether the run has ended without a group.
    pub(super) fn is_void(&self, state: &State) -> bool {
        matches!(self.phase(state), Some(Phase::Aborted | Phase::Failed))
    }

    pub(super) fn anybody_leads(&self, state: &State) -> bool {
        state.leaders.iter().any(|leads| matches!(leads, Leads::Run(_) | Leads::Idle))
    }

    fn next_leader(&self, state: &State) -> Option<usize> {
        self.leaders().find(|leader| state.leaders[*leader] == Leads::Later)
    }

    /// The run of a leader that lives and has not ended.
    pub(super) fn running(&self, state: &State, leader: usize) -> Option<Id> {
        match state.leaders[leader] {
            Leads::Run(run) if !self.leaders.view(run).ended => Some(run),
            Leads::Run(_) | Leads::Later | Leads::Idle | Leads::Dead => None,
        }
    }
}

fn session(leader: usize) -> u8 {
    epoch(leader)
}

fn epoch(leader: usize) -> u8 {
    u8::try_from(leader + 1).unwrap_or(u8::MAX)
}

fn shown(replica: Replica) -> Shown {
    match replica {
        Replica::Nothing => Shown::Nothing,
        Replica::Made => Shown::Made,
        Replica::Cut { .. } => Shown::Cut,
        Replica::Usable { .. } => Shown::Usable,
    }
}
