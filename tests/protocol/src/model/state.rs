//! One state of the whole, as numbers.

use super::pool::Id;

/// Members at most.
pub const MAX_MEMBERS: usize = 3;
/// Leaders at most.
pub const MAX_LEADERS: usize = 2;
/// Messages under way in one direction of one session at most. More would be a mistake of the model, and ends it.
pub const MAX_QUEUE: usize = 6;

/// One state of everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// The members' node sides.
    pub nodes: [Id; MAX_MEMBERS],
    /// The leaders, in the order of their epochs.
    pub leaders: [Leads; MAX_LEADERS],
    /// The sessions, by leader and member.
    pub links: [[Link; MAX_MEMBERS]; MAX_LEADERS],
    /// The newest attempt that a leader has begun.
    pub attempt: u8,
    /// The replicas of that attempt.
    pub replicas: [Replica; MAX_MEMBERS],
    /// Whether there is a replica of the attempt before.
    pub old: [bool; MAX_MEMBERS],
    /// Creations under way, by leader and member: of which attempt; 0: there is none.
    pub creations: [[u8; MAX_MEMBERS]; MAX_LEADERS],
    /// A deletion of all replicas is under way, by leader.
    pub deletions: [bool; MAX_LEADERS],
    /// A list of the pods is under way, by leader.
    pub rechecks: [bool; MAX_LEADERS],
    /// The object.
    pub object: Life,
    /// The leader's watch has shown that the object is being deleted.
    pub told: [bool; MAX_LEADERS],
    /// How far the leader's goodbye is.
    pub partings: [Parting; MAX_LEADERS],
    /// The stored status.
    pub status: Option<Id>,
    /// The status that each leader read or wrote last.
    pub known: [Option<Id>; MAX_LEADERS],
    /// The highest epoch that each agent was commanded by. Followed only where the check of epochs is taken out.
    pub epochs: [u8; MAX_MEMBERS],
    /// Faults that may still happen.
    pub faults: u8,
    /// A promise that the last step broke.
    pub broken: Option<Broken>,
}

/// A promise that a step can break, beside those that a state shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Broken {
    /// A cut was asked for before all had said that they hold.
    CutBeforeReady,
    /// Done was stored although not all had held, or not all was cut while they did.
    DoneUnproven,
    /// The finalizer comes off although replicas are there that were not removed.
    LeftBehind,
    /// An attempt was declared while the one before it still holds a member.
    RetriedInHold,
}

/// The object of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Life {
    /// It is there.
    There,
    /// Somebody has deleted it, and it has its finalizer.
    Deleting,
    /// It is gone.
    Gone,
}

/// A leader's goodbye to an object that is being deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Parting {
    /// There is none.
    Not,
    /// It removes replicas.
    Removing,
    /// It takes the finalizer off.
    Unguarding,
}

/// One leader's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Leads {
    /// Not yet.
    Later,
    /// It leads, and runs or has run this.
    Run(Id),
    /// It lives, but does not work on the run: it found that the run had ended, or that a newer leader has it.
    Idle,
    /// It died.
    Dead,
}

/// A replica, as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Replica {
    /// There is none.
    Nothing,
    /// Asked for.
    Made,
    /// Cut; `inside`: at a moment when every member held for the same round.
    Cut {
        /// All held.
        inside: bool,
    },
    /// Ready to use.
    Usable {
        /// All held when it was cut.
        inside: bool,
    },
}

/// One session between a leader and the agent of a member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Link {
    /// The agent takes it to be open.
    pub agent: bool,
    /// The leader takes it to be open.
    pub leader: bool,
    /// Nothing that is sent from now on arrives.
    pub cut: bool,
    /// Commands under way.
    pub down: Queue,
    /// Reports under way.
    pub up: Queue,
}

/// Messages under way in one direction, oldest first, as TCP keeps them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Queue {
    length: u8,
    messages: [u16; MAX_QUEUE],
}

impl Link {
    /// A session that both sides have.
    pub const OPEN: Self = Self {
        agent: true,
        leader: true,
        cut: false,
        down: Queue { length: 0, messages: [0; MAX_QUEUE] },
        up: Queue { length: 0, messages: [0; MAX_QUEUE] },
    };

    /// The agent is gone.
    pub fn lose_agent(&mut self) {
        self.agent = false;
        self.cut = self.leader;
        self.down = Queue::default();
    }

    /// The leader is gone.
    pub fn lose_leader(&mut self) {
        self.leader = false;
        self.cut = self.agent;
        self.up = Queue::default();
    }
}

impl Queue {
    /// Adds the newest.
    ///
    /// # Panics
    /// When more messages are under way than this model has room for.
    pub fn push(&mut self, message: Id) {
        let message =
            u16::try_from(message).unwrap_or_else(|_| panic!("more kinds of messages than a state has room for"));
        assert!(usize::from(self.length) < MAX_QUEUE, "more messages under way than a state has room for");
        self.messages[usize::from(self.length)] = message;
        self.length += 1;
    }

    /// The one at this place, oldest first.
    pub fn get(&self, place: usize) -> Option<Id> {
        (place < usize::from(self.length)).then(|| self.messages[place].into())
    }

    /// Takes the one at this place.
    pub fn take(&mut self, place: usize) -> Option<Id> {
        let message = self.get(place)?;
        self.messages.copy_within(place + 1.., place);
        self.messages[MAX_QUEUE - 1] = 0;
        self.length -= 1;
        Some(message)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.length.into()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }
}

/// An order of members: whose place each one takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Order([u8; MAX_MEMBERS]);

impl Order {
    /// Every order of so many members; the first leaves everybody in place.
    pub fn all(members: usize) -> &'static [Self] {
        const ALL: [Order; 6] = [
            Order([0, 1, 2]),
            Order([1, 0, 2]),
            Order([0, 2, 1]),
            Order([1, 2, 0]),
            Order([2, 0, 1]),
            Order([2, 1, 0]),
        ];
        match members {
            0 | 1 => &ALL[..1],
            2 => &ALL[..2],
            _ => &ALL,
        }
    }

    /// Who takes each place.
    pub fn of(self, members: usize) -> impl Iterator<Item = usize> {
        self.0.into_iter().take(members).map(usize::from)
    }

    /// These, in this order.
    pub fn apply<T: Copy>(self, of: [T; MAX_MEMBERS]) -> [T; MAX_MEMBERS] {
        self.0.map(|from| of[usize::from(from)])
    }
}

impl State {
    /// With its members in another order, but for what leaders and the status say of them.
    pub fn reordered(&self, order: Order) -> Self {
        Self {
            nodes: order.apply(self.nodes),
            links: self.links.map(|links| order.apply(links)),
            replicas: order.apply(self.replicas),
            old: order.apply(self.old),
            creations: self.creations.map(|creations| order.apply(creations)),
            epochs: order.apply(self.epochs),
            ..*self
        }
    }

    /// What tells members apart.
    pub fn member(&self, member: usize) -> impl Ord + use<> {
        let links = self.links.map(|links| links[member]);
        let creations = self.creations.map(|creations| creations[member]);
        (self.nodes[member], links, self.replicas[member], self.old[member], creations, self.epochs[member])
    }
}
