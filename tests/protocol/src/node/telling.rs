//! What a node is, for telling states apart, and what it does, for people.

use stillpoint_core::hold::Ticket;

use super::{Node, Order, Place, Request, Thread, Warming, Work};

impl Node {
    /// What tells this node from another in all that it will ever do.
    ///
    /// Of tickets, all that counts is whether one is the newest, which alone can be awaited; their numbers only rise. Without
    /// this a node that looks for a lock again and again would never be the same.
    pub fn essence(&self) -> String {
        let mut node = self.clone();
        let hold = node.hold.take().map(|hold| format!("{hold:?}")).unwrap_or_default();
        let number = |name: &str| -> Option<(usize, usize, Ticket)> {
            let start = hold.find(name)? + name.len();
            let end = start + hold[start..].find(|c: char| !c.is_ascii_digit())?;
            Some((start, end, hold[start..end].parse().ok()?))
        };
        let last = number("last_ticket: ").map_or(0, |(_, _, last)| last);
        let stale = |ticket: &mut Ticket| *ticket = Ticket::from(*ticket != last);
        let wanted = node.threads.contains(&Thread::Preflight(node.preflight));
        node.preflight = Ticket::from(wanted);
        for thread in &mut node.threads {
            match thread {
                Thread::Preflight(ticket)
                | Thread::Look(ticket)
                | Thread::Record(ticket)
                | Thread::Settle(ticket)
                | Thread::Quiesce(ticket)
                | Thread::Unquiesce(ticket) => {
                    stale(ticket);
                }
                Thread::Recover => {}
            }
        }
        for equipment in node.equipment.iter_mut().chain(&mut node.old) {
            equipment.freezer.orders.iter_mut().for_each(|(_, ticket)| stale(ticket));
            for request in &mut equipment.guard.requests {
                if let Request::Arm(ticket, _) = request {
                    stale(ticket);
                }
            }
        }
        let mut hold = hold.clone();
        for name in ["awaited: Some(", "last_ticket: "] {
            // The later one first, so that the other stays where it was found.
            if let Some((start, end, ticket)) = number(name) {
                hold.replace_range(start..end, &(last - ticket).to_string());
            }
        }
        format!("{hold} {node:?}")
    }

    /// What a piece of work is, as a phrase.
    pub fn tell(&self, work: Work) -> String {
        let equipment = |place| self.places().find(|(at, _)| *at == place).map(|(_, equipment)| equipment);
        let old = |place| if place == Place::Current { "the" } else { "an old" };
        match work {
            Work::Preflight(_) => "the preflight comes back".to_owned(),
            Work::Look(_) => "the look for locks comes back".to_owned(),
            Work::Record(_) => "what is about to be frozen is written down".to_owned(),
            Work::Quiesce(_) => "the application is quiesced".to_owned(),
            Work::Unquiesce(_) => "the application goes on".to_owned(),
            Work::Settle(_) => "the agent's thaw from outside settles".to_owned(),
            Work::Recover => "the restarted agent has given back what the record names".to_owned(),
            Work::Freezer(place) => {
                let freezer = equipment(place).map(|equipment| &equipment.freezer);
                let order = freezer.and_then(|freezer| freezer.orders.first());
                let does = match order {
                    Some((Order::Flush, _)) => "flushes",
                    Some((Order::Suspend, _)) => match freezer.map(|freezer| freezer.warming) {
                        Some(Warming::Frozen) => "thaws after warming",
                        Some(Warming::Warm) => "freezes",
                        Some(Warming::Not) | None => "freezes for warming",
                    },
                    Some((Order::Resume, _)) => "thaws",
                    None => "sees that its agent is gone, and ends",
                };
                format!("{} freezer {does}", old(place))
            }
            Work::FreezerDies(place) => format!("{} freezer ends before its order has begun", old(place)),
            Work::FreezerGone => "the agent sees that its freezer is gone".to_owned(),
            Work::Guardian(place) => {
                let request = equipment(place).and_then(|equipment| equipment.guard.requests.first());
                match request {
                    Some(Request::Arm(..)) => "the guardian is armed, and the agent hears it".to_owned(),
                    Some(Request::Disarm) => "the guardian is disarmed".to_owned(),
                    None => "the guardian sees that its agent is gone".to_owned(),
                }
            }
            Work::GuardianThaws(_) => "the guardian's thaw settles".to_owned(),
            Work::GuardianGone => "the agent sees that its guardian is gone".to_owned(),
        }
    }
}
