//! A replication as it happens: phases, a bar, and the members, drawn again with every status on a terminal, and told line by
//! line in a log.

use std::io::{self, Write};
use std::time::Instant;

use stillpoint_api::{ConsistencyGroupReplication, MemberState, MemberStatus, Phase, ReplicationStatus};

use crate::replication::duration;
use crate::terminal::{Colour, Terminal, seconds, table};

const WAY: [Phase; 4] = [Phase::Checking, Phase::Ready, Phase::Replicating, Phase::Done];
const BAR: usize = 28;

/// Shows one replication.
pub struct Live {
    terminal: Terminal,
    began: Instant,
    phase: Option<Phase>,
    drawn: usize,
}

impl Live {
    /// Nothing shown yet.
    pub fn new(terminal: Terminal) -> Self {
        Self { terminal, began: Instant::now(), phase: None, drawn: 0 }
    }

    /// Shows the state that arrived.
    pub fn show(&mut self, replication: &ConsistencyGroupReplication) {
        let Some(status) = &replication.status else { return };
        if self.terminal.redraws() {
            self.draw(status);
        } else if status.phase != self.phase {
            self.tell(status);
        }
        self.phase = status.phase;
    }

    /// The replication has ended; in a log, what it came to.
    pub fn end(self, replication: &ConsistencyGroupReplication) {
        if let (false, Some(status)) = (self.terminal.redraws(), &replication.status) {
            members(self.terminal, status).iter().for_each(|line| println!("{line}"));
        }
    }

    fn tell(&self, status: &ReplicationStatus) {
        let ready = status.ready_members.as_deref().unwrap_or("0");
        let phase = status.phase.map(|phase| format!("{phase:?}")).unwrap_or_default();
        println!("  {:>8}  {phase:<12} members ready {ready}", seconds(self.began.elapsed()));
    }

    fn draw(&mut self, status: &ReplicationStatus) {
        let mut lines = vec![format!("  {}", self.bar(status)), String::new()];
        lines.extend(members(self.terminal, status));
        let mut out = String::new();
        if self.drawn > 0 {
            out.push_str(&format!("\x1b[{}A", self.drawn));
        }
        for line in &lines {
            out.push_str("\r\x1b[K");
            out.push_str(line);
            out.push('\n');
        }
        out.push_str("\x1b[J");
        self.drawn = lines.len();
        let mut stdout = io::stdout();
        // A terminal that went away shows nothing anyhow.
        let _ = stdout.write_all(out.as_bytes()).and_then(|()| stdout.flush());
    }

    fn bar(&self, status: &ReplicationStatus) -> String {
        let reached = status.phases.iter().filter_map(|entry| WAY.iter().position(|phase| *phase == entry.phase)).max();
        let filled = reached.map_or(0, |position| (position + 1) * BAR / WAY.len());
        let colour = phase_colour(status.phase);
        let bar = format!("{}{}", "█".repeat(filled), "░".repeat(BAR - filled));
        let names = status
            .phases
            .iter()
            .map(|entry| self.terminal.paint(phase_colour(Some(entry.phase)), &format!("{:?}", entry.phase)));
        let time = self.terminal.paint(Colour::Dim, &seconds(self.began.elapsed()));
        format!("{} {} {time}", self.terminal.paint(colour, &bar), names.collect::<Vec<_>>().join(" → "))
    }
}

fn phase_colour(phase: Option<Phase>) -> Colour {
    match phase {
        Some(Phase::Done) => Colour::Green,
        Some(Phase::Aborted | Phase::Failed) => Colour::Red,
        _ => Colour::Yellow,
    }
}

/// The members as a table.
pub fn members(terminal: Terminal, status: &ReplicationStatus) -> Vec<String> {
    let heading = ["CLAIM", "NODE", "POD", "STATE", "SUSPENDED", "REPLICA"].map(String::from).to_vec();
    let rows: Vec<Vec<String>> = std::iter::once(heading).chain(status.members.iter().map(row)).collect();
    table(&rows, |row, column, cell| match (row, column) {
        (0, _) => terminal.paint(Colour::Dim, cell),
        (_, 0) => terminal.paint(Colour::Cyan, cell),
        (row, 3) => terminal.paint(state_colour(status.members[row - 1].state), cell),
        _ => cell.into(),
    })
}

fn row(member: &MemberStatus) -> Vec<String> {
    vec![
        member.persistent_volume_claim.name.clone(),
        member.node.clone().unwrap_or_default(),
        member.pod.clone().unwrap_or_default(),
        format!("{:?}", member.state),
        member.suspended_for.as_ref().map(duration).map_or_else(|| "never".to_owned(), seconds),
        member.replica.as_ref().map(|replica| format!("{} {}", replica.kind, replica.name)).unwrap_or_default(),
    ]
}

fn state_colour(state: MemberState) -> Colour {
    match state {
        MemberState::Ready | MemberState::Released | MemberState::Unmounted => Colour::Green,
        MemberState::NotReady | MemberState::Broken => Colour::Red,
        _ => Colour::Yellow,
    }
}
