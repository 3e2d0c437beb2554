//! What can happen next, and what comes of it.

use stateright::{Model, Property};
use stillpoint_api::Phase;
use stillpoint_core::hold::Command;

use super::leaders::{self, Deed, Shown};
use super::members::{self, is_of};
use super::pool::Id;
use super::promises;
use super::state::{Broken, Leads, Life, Link, MAX_LEADERS, MAX_MEMBERS, Order, Parting, Queue, Replica, State};
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
    /// The leader deletes a replica that turned up after its attempt had failed.
    Sweep(usize),
    /// The same of the attempt before.
    SweepOld(usize),
    /// The garbage collector deletes the replicas of a member whose owner is gone.
    Collect(usize),
    /// A leader begins another attempt.
    Retry(usize),
    /// Somebody deletes the object.
    DeleteObject,
    /// A leader's watch shows that the object is being deleted.
    LeaderSeesDeletion(usize),
    /// A leader takes up an object that is being deleted.
    Goodbye(usize),
    /// The removal of a leader's goodbye is carried out.
    Remove(usize),
    /// A leader's goodbye takes the finalizer off.
    Unguard(usize),
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
            attempt: 1,
            replicas: [Replica::Nothing; MAX_MEMBERS],
            old: [false; MAX_MEMBERS],
            creations: [[0; MAX_MEMBERS]; MAX_LEADERS],
            deletions: [false; MAX_LEADERS],
            rechecks: [false; MAX_LEADERS],
            object: Life::There,
            told: [false; MAX_LEADERS],
            partings: [Parting::Not; MAX_LEADERS],
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
        // Both of them say it.
        steps.dedup();
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
                if state.creations[leader][member] > 0 {
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
            self.goodbyes(state, leader, steps);
        }
        for member in self.members() {
            steps.extend(self.members.view(state.nodes[member]).pending.iter().map(|work| Step::Work(member, *work)));
            if state.replicas[member] == Replica::Made {
                steps.push(Step::Cut(member));
            }
            self.sweeps(state, member, steps);
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

    /// What goes on with an object that is being deleted.
    fn goodbyes(&self, state: &State, leader: usize, steps: &mut Vec<Step>) {
        if state.object == Life::Deleting && !state.told[leader] && self.running(state, leader).is_some() {
            steps.push(Step::LeaderSeesDeletion(leader));
        }
        match state.partings[leader] {
            Parting::Not => {
                if state.object == Life::Deleting && self.may_drive(state, leader) && !self.is_under_way(state) {
                    steps.push(Step::Goodbye(leader));
                }
            }
            Parting::Removing => steps.push(Step::Remove(leader)),
            Parting::Unguarding => steps.push(Step::Unguard(leader)),
        }
    }

    /// Replicas that turned up late.
    fn sweeps(&self, state: &State, member: usize, steps: &mut Vec<Step>) {
        let (there, old) = (state.replicas[member] != Replica::Nothing, state.old[member]);
        let last_void = if self.anybody_leads(state) { self.last_void(state) } else { 0 };
        if there && last_void >= state.attempt {
            steps.push(Step::Sweep(member));
        }
        if old && last_void + 1 >= state.attempt {
            steps.push(Step::SweepOld(member));
        }
        if state.object == Life::Gone && (there || old) {
            steps.push(Step::Collect(member));
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
        if self.bounds.deletion && state.object == Life::There {
            steps.push(Step::DeleteObject);
        }
        self.retries(state, steps);
    }

    /// A cool-down may be over at once, or last long.
    fn retries(&self, state: &State, steps: &mut Vec<Step>) {
        let waits = state.status.is_some_and(|status| self.leaders.status(status).waits);
        for leader in self.leaders().filter(|_| waits && state.object == Life::There) {
            if self.may_drive(state, leader) {
                steps.push(Step::Retry(leader));
            }
        }
    }

    /// Where nobody lives who would thaw.
    pub(super) fn restarts_on_record(&self, state: &State, steps: &mut Vec<Step>) {
        let on_record = |member: &usize| self.members.view(state.nodes[*member]).on_record;
        steps.extend(self.members().filter(on_record).map(Step::RestartAgent));
    }

    /// The deadlines that run.
    pub(super) fn deadlines(&self, state: &State, steps: &mut Vec<Step>) {
        self.retries(state, steps);
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
            if view.any_frozen {
                fault(Fault::Thaw(member));
            } else if state.faults == self.bounds.faults {
                fault(Fault::Freeze(member));
            }
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
                if state.creations[leader][member] > 0 {
                    fault(Fault::RefuseCreation(leader, member));
                    fault(Fault::LoseAnswer(leader, member));
                }
            }
            if matches!(state.leaders[leader], Leads::Run(_) | Leads::Idle) {
                fault(Fault::Crash(leader));
            }
        }
        if self.anybody_leads(state)
            && state.faults == self.bounds.faults
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
                let attempt = match state.leaders[leader] {
                    Leads::Run(run) => self.leaders.view(run).attempt,
                    Leads::Later | Leads::Idle | Leads::Dead => 0,
                };
                let found = self.remove_all(state, attempt);
                self.tell(state, leader, leaders::Input::Deleted(found));
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
            Step::SweepOld(_)
            | Step::Collect(_)
            | Step::Retry(_)
            | Step::DeleteObject
            | Step::LeaderSeesDeletion(_)
            | Step::Goodbye(_)
            | Step::Remove(_)
            | Step::Unguard(_) => self.end_or_retry(state, step),
            Step::Fault(fault) => {
                // What comes with no other fault: see the module's documentation.
                let alone = matches!(fault, Fault::Freeze(_) | Fault::TakeOver(_));
                state.faults = if alone { 0 } else { state.faults - 1 };
                self.fail(state, fault);
            }
        }
    }

    /// What follows an attempt.
    fn end_or_retry(&self, state: &mut State, step: Step) {
        match step {
            Step::SweepOld(member) => state.old[member] = false,
            Step::Collect(member) => {
                state.old[member] = false;
                self.show(state, member, Replica::Nothing);
            }
            Step::Retry(leader) => self.take_up(state, leader),
            Step::DeleteObject => state.object = Life::Deleting,
            Step::LeaderSeesDeletion(leader) => {
                state.told[leader] = true;
                self.tell(state, leader, leaders::Input::Deletion);
            }
            Step::Goodbye(leader) => self.say_goodbye(state, leader),
            Step::Remove(leader) => {
                self.remove_all(state, self.stored_attempt(state));
                state.partings[leader] = Parting::Unguarding;
            }
            Step::Unguard(leader) => self.unguard(state, leader),
            _ => {}
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
                state.partings[leader] = Parting::Not;
                for member in self.members() {
                    state.links[leader][member].lose_leader();
                }
            }
            Fault::TakeOver(leader) => self.lead(state, leader),
            Fault::RefuseCreation(leader, member) => {
                state.creations[leader][member] = 0;
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
        let parts = state.object == Life::Deleting && !self.is_under_way(state);
        if self.has_ended(state) || parts || state.object == Life::Gone {
            state.leaders[leader] = Leads::Idle;
            return;
        }
        let waits = state.status.is_some_and(|status| self.leaders.status(status).waits);
        if waits && state.attempt == self.stored_attempt(state) {
            state.attempt += 1;
            for member in self.members() {
                state.old[member] |= state.replicas[member] != Replica::Nothing;
            }
            state.replicas = [Replica::Nothing; MAX_MEMBERS];
        }
        let deleting = state.object == Life::Deleting;
        state.told[leader] = deleting;
        state.status = state.status.map(|status| self.leaders.claimed(status, epoch(leader).into()));
        state.known[leader] = state.status;
        let connected: Vec<bool> = self.members().map(|member| state.links[leader][member].leader).collect();
        let replicas: Vec<Shown> = self.members().map(|member| shown(state.replicas[member])).collect();
        let effect = self.leaders.begin(epoch(leader).into(), state.status, &replicas, &connected, deleting);
        self.take(state, leader, &effect);
    }

    /// A leader takes up an object that is being deleted, and stores what its driver stores of that; one step, as taking up is.
    fn say_goodbye(&self, state: &mut State, leader: usize) {
        let parted = self.leaders.part(epoch(leader).into(), state.status);
        state.leaders[leader] = Leads::Idle;
        state.status = parted.status.or(state.status);
        state.known[leader] = state.status;
        if parted.removes {
            state.partings[leader] = Parting::Removing;
        } else if parted.unguards {
            let there = state.old.contains(&true) || state.replicas.iter().any(|replica| *replica != Replica::Nothing);
            if there {
                state.broken = Some(Broken::LeftBehind);
            }
            state.partings[leader] = Parting::Unguarding;
        }
    }

    /// The finalizer comes off, if nobody wrote since this leader read or wrote.
    fn unguard(&self, state: &mut State, leader: usize) {
        state.partings[leader] = Parting::Not;
        if state.object == Life::Deleting && state.status == state.known[leader] {
            state.object = Life::Gone;
        }
    }

    /// All replicas up to an attempt are deleted; how many there were.
    fn remove_all(&self, state: &mut State, attempt: u8) -> usize {
        let mut found = 0;
        for member in self.members() {
            if state.old[member] && attempt + 1 >= state.attempt {
                state.old[member] = false;
                found += 1;
            }
            if state.replicas[member] != Replica::Nothing && attempt >= state.attempt {
                self.show(state, member, Replica::Nothing);
                found += 1;
            }
        }
        found
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
                    let attempt = u8::try_from(attempt).unwrap_or(u8::MAX);
                    state.creations[leader][..self.bounds.members].fill(attempt);
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
        let attempt = std::mem::take(&mut state.creations[leader][member]);
        if attempt < state.attempt {
            return !std::mem::replace(&mut state.old[member], true);
        }
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
            if let Leads::Run(run) = state.leaders[leader]
                && self.leaders.view(run).attempt == state.attempt
            {
                self.tell(state, leader, leaders::Input::Replica(member, shown(replica)));
            }
        }
    }

    /// A status arrives at the API server, which takes it if nobody wrote since this leader read or wrote. If somebody did, it
    /// is what the status writer does: a newer leader's status is left alone for good; an older leader's, and an end that is
    /// another one, are read and taken up anew.
    fn write(&self, state: &mut State, leader: usize) {
        let Leads::Run(run) = state.leaders[leader] else { return };
        let Some(status) = self.leaders.view(run).writes else { return };
        if state.object == Life::Gone {
            state.leaders[leader] = Leads::Idle;
            return;
        }
        if state.status != state.known[leader] {
            let newer = state.status.is_some_and(|stored| self.leaders.status(stored).epoch > u64::from(epoch(leader)));
            if newer {
                state.leaders[leader] = Leads::Idle;
            } else {
                self.take_up(state, leader);
            }
            return;
        }
        let before = self.stored_attempt(state);
        state.status = Some(status);
        state.known[leader] = Some(status);
        if before > 0 && self.stored_attempt(state) > before && self.holds_for(state, before) {
            state.broken = Some(Broken::RetriedInHold);
        }
        // Of one that is being deleted replicas may be gone already: an older leader has removed them.
        if self.phase(state) == Some(Phase::Done) && state.object == Life::There && !self.is_proven(state) {
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
            // A newer leader's attempt may have come since this one was ready.
            ready.is_some_and(|ready| ready.attempt.number > attempt || is_of(ready, of, attempt, round))
        })
    }

    /// Whether every member holds now, for the same round.
    fn all_hold(&self, state: &State) -> bool {
        let first = self.members.view(state.nodes[0]).held.clone();
        first.is_some() && self.members().all(|member| self.members.view(state.nodes[member]).held == first)
    }

    /// Whether a member is still held for this attempt.
    fn holds_for(&self, state: &State, attempt: u8) -> bool {
        self.members().any(|member| {
            let view = self.members.view(state.nodes[member]);
            view.held.as_ref().is_some_and(|held| held.attempt.number == u32::from(attempt))
        })
    }

    /// Whether every member held from its Ready to its Release without a break, and every replica was cut meanwhile.
    pub(super) fn is_proven(&self, state: &State) -> bool {
        self.members().all(|member| {
            let view = self.members.view(state.nodes[member]);
            let lasted = view.node.witness().lasted.as_ref();
            lasted.is_some_and(|held| held.attempt.number == u32::from(state.attempt))
                && self.is_kept(state.replicas[member])
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

    /// Whether the newest leader lives.
    pub(super) fn is_led(&self, state: &State) -> bool {
        let newest = state.leaders.iter().rev().find(|leads| **leads != Leads::Later);
        newest.is_some_and(|leads| matches!(leads, Leads::Run(_) | Leads::Idle))
    }

    /// Whether a leader lives, is at work on nothing, and finds no newer one's epoch in what is stored.
    fn may_drive(&self, state: &State, leader: usize) -> bool {
        let free = match state.leaders[leader] {
            Leads::Run(run) => self.leaders.view(run).ended && self.leaders.view(run).writes.is_none(),
            Leads::Idle => true,
            Leads::Later | Leads::Dead => false,
        };
        let stored = state.status.map_or(0, |status| self.leaders.status(status).epoch);
        free && stored <= epoch(leader).into()
    }

    /// Whether the stored status declares an attempt that has not ended.
    fn is_under_way(&self, state: &State) -> bool {
        state.status.is_some_and(|status| self.leaders.status(status).under_way)
    }

    /// The number of the stored attempt; 0: there is none.
    fn stored_attempt(&self, state: &State) -> u8 {
        state.status.map_or(0, |status| self.leaders.status(status).attempt)
    }

    /// The last attempt that is known to be void.
    fn last_void(&self, state: &State) -> u8 {
        state.status.map_or(0, |status| self.leaders.status(status).last_void)
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
