//! One replication from its first look to its end: what happened and the time go in, what is to be done comes out. Pure.
//!
//! ```text
//! Reading → TakingOver → Looking ─┬─ Resolving → Reserving → Rehearsing → Guarding → Following → Attempting → Reading again ─┬─ Over
//!    │           (of an earlier   ├─ (declared)  ────────────────────────────┘                                              └─ Parting → Over
//!    └─ (a copy)  leader's status)├─ Pinning → Refusing ─────────────────────────────────────────────→ Reading again
//!                                 └─ Postponing → Over
//! ```
//!
//! The caller carries out the [`Effect`]s and answers with [`Input`]s: [`Driver::hear`] as they come, then [`Driver::turn`].
//! Production's shell, the simulation and the model checker drive this same code.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kube::{Resource, ResourceExt};
use stillpoint_api::{ConsistencyGroupReplication, Reason, ReplicationStatus};

use super::agents::AgentKey;
use super::attempt::AttemptDriver;
use super::copies::{self, is_copy};
use super::effect::{Effect, Facts, Input, Refused, Storage};
use super::epochs::outranks;
use super::goodbye::{self, Goodbye, Next, with_finalizer};
use super::happened::Happened;
use super::membership::{self, Candidates, Refusal};
use super::rehearsal::{self, Rehearsed, Room};
use super::report;
use super::resume::{is_under_way, resume};
use super::state::{Moment, Request, Run, Verdict};
use super::stub::Stub;
use super::writer::{Lost, Writer};
use crate::limits::MAX_CONFLICTS;
use crate::replica;

type Object = Box<ConsistencyGroupReplication>;

/// What every driver of one controller is given.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Rises with every new leader among the controllers. Agents refuse commands of an older one.
    pub epoch: u64,
    /// The longest `holdTimeout` that a replication may ask for.
    pub hold_ceiling: Duration,
}

/// How driving a replication ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Over {
    /// Nothing is to be done before the object changes.
    Ended,
    /// Another attempt begins after this time.
    Later(Duration),
    /// It could not go on, for this reason. It is safe to begin again: what the status declares is taken up again.
    Failed(String),
    /// The run has ended, and something is left that could not be removed. It is tried again.
    Left(String),
    /// A leader of this epoch, which is higher, has written the status. If it is none any more, the epoch is to be raised above it.
    Outranked(u64),
}

/// One replication that is driven.
#[derive(Clone, Debug)]
pub struct Driver {
    settings: Settings,
    uid: String,
    life: Life,
    /// Its deletion was seen, or the object is gone.
    deleted: bool,
    /// The process is to stop.
    stopping: bool,
    /// What is to be done, and was not given yet.
    effects: Vec<Effect>,
}

/// What is going on. Each but the last three, and an attempt, waits for one answer.
#[derive(Clone, Debug)]
enum Life {
    /// The object is read: a watch may lag, and an old status would be taken for an attempt to be voided.
    Reading,
    /// The object is read again after an attempt.
    ReadingAgain,
    /// The status of an earlier leader is made this one's.
    TakingOver,
    /// The namespace is read.
    Looking { object: Object },
    /// Storage is looked at. Nothing is reserved yet: one that cannot begin must not keep the members from others.
    Resolving { object: Object, facts: Box<Facts> },
    /// Claims are reserved.
    Reserving { object: Object, facts: Box<Facts>, storage: Box<Storage> },
    /// It is tried whether replicas would be accepted.
    Rehearsing { beginning: Box<Beginning> },
    /// The finalizer is put on, or the object is read after a conflict.
    Guarding { beginning: Box<Beginning>, conflicts: u32 },
    /// The members' present state is asked for.
    Following { beginning: Box<Beginning> },
    /// An attempt is driven.
    Attempting(Box<AttemptDriver>),
    /// The object of an attempt that cannot begin is pinned to its UID.
    Pinning { request: Box<Request>, object: Object, refusal: Box<Refusal> },
    /// An attempt that cannot begin is told of.
    Refusing(Box<Writer>),
    /// It is told why an attempt cannot begin yet.
    Postponing(Box<Writer>, String),
    /// The object is let go.
    Parting(Box<Goodbye>),
    /// Nothing is left to do.
    Over(Over),
}

/// An attempt that is about to begin.
#[derive(Clone, Debug)]
struct Beginning {
    request: Request,
    run: Run,
    /// The object as it was read.
    object: Object,
    /// An earlier leader has begun it.
    taken_over: bool,
}

impl Driver {
    /// Begins with the object of this UID.
    pub fn new(settings: Settings, uid: &str) -> Self {
        let (uid, effects) = (uid.to_owned(), vec![Effect::GetObject]);
        Self { settings, uid, life: Life::Reading, deleted: false, stopping: false, effects }
    }

    /// Takes note of what happened. [`Driver::turn`] says what is to be done.
    pub fn hear(&mut self, input: Input, now: Moment) {
        match &input {
            Input::Deletion => self.deleted = true,
            Input::Stop => self.stopping = true,
            _ => {}
        }
        let life = std::mem::replace(&mut self.life, Life::Over(Over::Ended));
        self.life = match (life, input) {
            (Life::Reading, Input::Object(read)) => self.object_read(read, now),
            (Life::ReadingAgain, Input::Object(read)) => self.object_read_again(read, now),
            (Life::TakingOver, Input::Stored(stored)) => self.taken_over(stored),
            (Life::Looking { object }, Input::Looked(looked)) => self.looked(object, looked, now),
            (Life::Resolving { object, facts }, Input::LookedUp(storage)) => {
                self.looked_up(object, facts, storage, now)
            }
            (Life::Reserving { object, facts, storage }, Input::Reserved(reserved)) => {
                self.reserved(object, *facts, *storage, reserved, now)
            }
            (Life::Rehearsing { beginning }, Input::Rehearsed(how)) => self.rehearsed(*beginning, how, now),
            (Life::Guarding { beginning, conflicts }, Input::Patched(patched)) => {
                self.guarded(beginning, conflicts, patched)
            }
            (Life::Guarding { beginning, conflicts }, Input::Object(read)) => {
                self.read_for_guarding(beginning, conflicts, read)
            }
            (Life::Following { beginning }, Input::Following(following)) => self.followed(*beginning, following, now),
            (Life::Attempting(mut attempt), input) => {
                self.effects.extend(attempt.hear(input, now));
                Life::Attempting(attempt)
            }
            (Life::Pinning { request, object, refusal }, Input::Patched(patched)) => {
                self.pinned(&request, object, *refusal, patched, now)
            }
            (Life::Refusing(mut writer), input) => {
                self.told(&mut writer, input, now);
                Life::Refusing(writer)
            }
            (Life::Postponing(mut writer, why), input) => {
                self.told(&mut writer, input, now);
                Life::Postponing(writer, why)
            }
            (Life::Parting(goodbye), input) => self.parting(goodbye, input, now),
            // Not asked for here: what is told of the world is read again before it is needed.
            (life, _) => life,
        };
    }

    /// Goes on, and gives what is to be done now, in order. `leads`: nobody else can lead.
    pub fn turn(&mut self, now: Moment, leads: bool) -> Vec<Effect> {
        let over = match &mut self.life {
            Life::Attempting(attempt) => {
                self.effects.extend(attempt.turn(now, leads));
                attempt.over().map(|lost| (lost, attempt.writer.object().clone()))
            }
            Life::Refusing(writer) => {
                self.effects.extend(writer.step(now.monotonic).map(Effect::from));
                writer.is_over().then(|| (writer.lost(), writer.object().clone()))
            }
            _ => None,
        };
        if let Life::Postponing(writer, why) = &mut self.life {
            self.effects.extend(writer.step(now.monotonic).map(Effect::from));
            if writer.is_over() {
                self.life = Life::Over(Over::Failed(std::mem::take(why)));
            }
        }
        if let Some((lost, object)) = over {
            self.life = self.attempt_over(lost, Box::new(object), now);
        }
        std::mem::take(&mut self.effects)
    }

    /// When, on the monotonic clock, a turn is due even if nothing is heard.
    pub fn wake_at(&self) -> Option<Duration> {
        match &self.life {
            Life::Attempting(attempt) => attempt.wake_at(),
            Life::Refusing(writer) | Life::Postponing(writer, _) => writer.wake_at(),
            _ => None,
        }
    }

    /// How it ended; `None` while it goes on.
    pub fn over(&self) -> Option<&Over> {
        match &self.life {
            Life::Over(over) => Some(over),
            _ => None,
        }
    }

    /// The attempt that is under way.
    pub fn attempt(&self) -> Option<&AttemptDriver> {
        match &self.life {
            Life::Attempting(attempt) => Some(attempt),
            _ => None,
        }
    }

    /// The attempt that is under way, by itself: who looks into every state of one has no use for what is around it.
    pub fn into_attempt(self) -> Option<AttemptDriver> {
        match self.life {
            Life::Attempting(attempt) => Some(*attempt),
            _ => None,
        }
    }

    fn ask(&mut self, effect: Effect, life: Life) -> Life {
        self.effects.push(effect);
        life
    }

    /// What a writer hears that has nobody else to hear for it.
    fn told(&mut self, writer: &mut Writer, input: Input, now: Moment) {
        match input {
            Input::Stored(stored) => {
                let news = writer.stored(stored.map(|object| *object), now.monotonic);
                self.effects.push(Effect::Tell(news));
            }
            Input::Object(read) => writer.read(read.map(|object| object.map(|it| *it)), now.monotonic),
            _ => {}
        }
    }

    fn object_read(&mut self, read: Result<Option<Object>, Refused>, now: Moment) -> Life {
        match read {
            Ok(Some(object)) if has_ended(&object) => self.object_read_again(Ok(Some(object)), now),
            Ok(Some(object)) if object.uid().as_deref() != Some(&self.uid) => Life::Over(Over::Ended),
            Ok(Some(object)) if is_copy(&object) => self.refuse_copy(object, now),
            Ok(Some(object)) => match cool_down(&object, now) {
                Some(left) => Life::Over(Over::Later(left)),
                None => self.take_over(object, now),
            },
            Ok(None) => Life::Over(Over::Ended),
            Err(why) => failed("the object could not be read", why),
        }
    }

    /// What follows an attempt: a goodbye, another attempt, or nothing.
    fn object_read_again(&mut self, read: Result<Option<Object>, Refused>, now: Moment) -> Life {
        match read {
            Ok(Some(object)) if object.uid().as_deref() != Some(&self.uid) => Life::Over(Over::Ended),
            Ok(Some(object)) if object.metadata.deletion_timestamp.is_some() => self.say_goodbye(object, now),
            Ok(Some(object)) if has_ended(&object) && goodbye::is_due(&object) => self.say_goodbye(object, now),
            // A cool-down that is over already, because storing its end took that long, is one too: the watch has told of it
            // before, and nobody else would begin the next attempt.
            Ok(Some(object)) if waits(&object) => Life::Over(Over::Later(cool_down(&object, now).unwrap_or_default())),
            Ok(_) => Life::Over(Over::Ended),
            Err(why) => failed("the object could not be read", why),
        }
    }

    /// Stores this leader's epoch in a status that an earlier leader wrote, before anything is done about what it says: from
    /// then on the earlier leader, should it still be there, can store nothing, and what it has stored before is known here.
    ///
    /// A replication without a status needs none of it: the first status of its run is this leader's.
    fn take_over(&mut self, mut object: Object, now: Moment) -> Life {
        let epoch = self.settings.epoch;
        match object.status.as_mut().filter(|status| status.leader_epoch != epoch) {
            None => self.ask(Effect::Look, Life::Looking { object }),
            // A newer leader works on it, unless the count has gone back: a Lease may be restored from a backup.
            Some(status) if outranks(status.leader_epoch, epoch, now.wall) => {
                Life::Over(Over::Outranked(status.leader_epoch))
            }
            Some(status) => {
                status.leader_epoch = epoch;
                self.ask(Effect::PutStatus(object), Life::TakingOver)
            }
        }
    }

    fn taken_over(&mut self, stored: Result<Object, Refused>) -> Life {
        match stored {
            Ok(object) => self.ask(Effect::Look, Life::Looking { object }),
            // A conflict too: what was stored meanwhile is read the next time.
            Err(why) => failed("the status of an earlier leader could not be taken over", why),
        }
    }

    fn looked(&mut self, object: Object, looked: Result<Box<Facts>, String>, now: Moment) -> Life {
        let mut facts = match looked {
            Ok(facts) => facts,
            Err(why) => return self.postpone(object, why, now),
        };
        if let Some(status) = object.status.as_ref().filter(|status| is_under_way(status)) {
            let request = self.request(&object);
            let run = resume(&request, status, &facts.pods, &facts.node_agents, now);
            let claims = run.members.iter().map(|member| member.claim.uid.clone()).collect();
            self.effects.push(Effect::Reserve { claims, whole: false });
            return self.guard(Beginning { request, run, object, taken_over: true });
        }
        if object.metadata.deletion_timestamp.is_some() {
            return self.end_deleted(object, now);
        }
        let claims: Vec<_> = facts.claims.values().cloned().collect();
        let chosen = match membership::select(&object.spec.source, &claims) {
            Ok(selection) => selection.claims,
            Err(verdict) => {
                let request = self.request(&object);
                return self.refuse(request, object, verdict.into(), now);
            }
        };
        let volumes = chosen.iter().filter_map(|claim| claim.volume.clone()).collect();
        // A namespace may have thousands of claims and pods, and many runs may be at this at once.
        let (uids, names): (BTreeSet<_>, BTreeSet<_>) =
            chosen.iter().map(|claim| (claim.uid.clone(), claim.name.clone())).unzip();
        facts.claims.retain(|uid, _| uids.contains(uid));
        facts.pods.retain(|_, pod| !pod.claims.is_disjoint(&names));
        let kind = replica::asked_for(&object.spec);
        self.ask(Effect::LookUp { volumes, kind }, Life::Resolving { object, facts })
    }

    fn looked_up(
        &mut self,
        object: Object,
        facts: Box<Facts>,
        storage: Result<Box<Storage>, String>,
        now: Moment,
    ) -> Life {
        let storage = match storage {
            Ok(storage) => storage,
            Err(why) => return self.postpone(object, why, now),
        };
        let claims = facts.claims.keys().cloned().collect();
        self.ask(Effect::Reserve { claims, whole: true }, Life::Reserving { object, facts, storage })
    }

    fn reserved(
        &mut self,
        object: Object,
        facts: Facts,
        storage: Storage,
        reserved: BTreeMap<String, String>,
        now: Moment,
    ) -> Life {
        let Storage { drivers, facts: of_kind, room } = storage;
        let candidates = Candidates {
            drivers,
            facts: of_kind,
            taken: reserved,
            pods: facts.pods.into_values().collect(),
            node_agents: facts.node_agents,
            claims: facts.claims.into_values().collect(),
        };
        let request = self.request(&object);
        match membership::resolve(&object.spec, &request, self.settings.hold_ceiling, &candidates) {
            // A claim that changed meanwhile may be no member any more; those that were asked for were not reserved.
            Ok(_) if !candidates.taken.is_empty() => {
                let why = "a member belongs to another replication that is still running";
                self.refuse(request, object, Verdict::new(Reason::HeldByAnother, why).into(), now)
            }
            Ok(members) => {
                let run = Run::new(members, object.status.clone().unwrap_or_default(), now);
                self.rehearse(Beginning { request, run, object, taken_over: false }, &room, now)
            }
            Err(refusal) => self.refuse(request, object, refusal, now),
        }
    }

    /// What would keep the replicas from being made is found before anybody is asked.
    fn rehearse(&mut self, beginning: Beginning, room: &BTreeMap<String, Room>, now: Moment) -> Life {
        let Beginning { request, run, .. } = &beginning;
        let Some(kind) = request.kind else { return self.guard(beginning) };
        let run_id = request.run_id(run.attempt);
        match rehearsal::check_room(kind, &run_id, &run.members, room) {
            Ok(()) => {
                let samples = rehearsal::samples(kind, &run_id, &run.members);
                self.ask(Effect::Rehearse(samples), Life::Rehearsing { beginning: Box::new(beginning) })
            }
            Err(verdict) => self.refuse(beginning.request, beginning.object, verdict.into(), now),
        }
    }

    fn rehearsed(&mut self, beginning: Beginning, how: Rehearsed, now: Moment) -> Life {
        match (how, beginning.request.kind) {
            (Rehearsed::Refused(sentence), Some(kind)) => {
                let verdict = rehearsal::refused(kind, &sentence);
                self.refuse(beginning.request, beginning.object, verdict.into(), now)
            }
            (Rehearsed::Unknown(why), _) => {
                // The members are free for others meanwhile.
                self.effects.push(Effect::StepAside);
                self.postpone(beginning.object, why, now)
            }
            (Rehearsed::Accepted | Rehearsed::Refused(_), _) => self.guard(beginning),
        }
    }

    /// Gives up for now, and says why, unless that was said already. A status that tells of an attempt stays as it is: it is to be
    /// dealt with, or says when the next one begins.
    fn postpone(&mut self, object: Object, why: String, now: Moment) -> Life {
        let status = object.status.clone().unwrap_or_default();
        let said = if status.attempt == 0 {
            report::render_postponed(&self.request(&object), status, &why, now)
        } else {
            None
        };
        let Some(status) = said else { return Life::Over(Over::Failed(why)) };
        let began = if object.status.is_none() { Happened::began(&status) } else { None };
        let mut writer = Writer::new(*object);
        writer.push(status, began.into_iter().collect());
        writer.close();
        Life::Postponing(Box::new(writer), why)
    }

    /// The finalizer must be there before anything is asked, so that the object cannot go while writes are suspended; and so must
    /// the pin, so that no copy is taken for it.
    fn guard(&mut self, beginning: Beginning) -> Life {
        match guarded_and_pinned(&beginning.object) {
            Some(patch) => {
                let beginning = Box::new(beginning);
                self.ask(Effect::SetMarks(patch), Life::Guarding { beginning, conflicts: 0 })
            }
            None => self.follow(beginning),
        }
    }

    fn guarded(&mut self, beginning: Box<Beginning>, conflicts: u32, patched: Result<Object, Refused>) -> Life {
        match patched {
            Ok(object) => self.begin_with(*beginning, object),
            Err(Refused::NotFound) => self.read_again(),
            Err(Refused::Conflict) if conflicts < MAX_CONFLICTS => {
                self.ask(Effect::GetObject, Life::Guarding { beginning, conflicts: conflicts + 1 })
            }
            Err(why) => failed("the finalizer could not be put on", why),
        }
    }

    fn read_for_guarding(
        &mut self,
        beginning: Box<Beginning>,
        conflicts: u32,
        read: Result<Option<Object>, Refused>,
    ) -> Life {
        match read {
            Ok(Some(object)) if object.uid() == beginning.object.uid() => match guarded_and_pinned(&object) {
                Some(patch) => self.ask(Effect::SetMarks(patch), Life::Guarding { beginning, conflicts }),
                None => self.begin_with(*beginning, object),
            },
            Ok(_) => self.read_again(),
            Err(why) => failed("the object could not be read", why),
        }
    }

    /// A leader that was stopped for a while and has not noticed yet that it leads no longer must not begin from an old status.
    fn begin_with(&mut self, beginning: Beginning, object: Object) -> Life {
        if object.status != beginning.object.status {
            return Life::Over(Over::Failed(WRITTEN_MEANWHILE.to_owned()));
        }
        self.follow(Beginning { object, ..beginning })
    }

    fn follow(&mut self, beginning: Beginning) -> Life {
        let follow = AttemptDriver::interest(&beginning.request, &beginning.run, beginning.taken_over);
        self.ask(follow, Life::Following { beginning: Box::new(beginning) })
    }

    fn followed(
        &mut self,
        beginning: Beginning,
        following: Result<(Box<Facts>, BTreeSet<AgentKey>), String>,
        now: Moment,
    ) -> Life {
        let (facts, agents) = match following {
            Ok(following) => following,
            Err(why) => return Life::Over(Over::Failed(why)),
        };
        let Beginning { request, run, object, .. } = beginning;
        let deleted = self.deleted || object.metadata.deletion_timestamp.is_some();
        let mut attempt = AttemptDriver::new(request, run, *object, *facts, agents);
        attempt.observed.deleted = deleted;
        if self.stopping {
            self.effects.extend(attempt.hear(Input::Stop, now));
        }
        Life::Attempting(Box::new(attempt))
    }

    /// Ends a run whose object is being deleted while it waits: for its turn, or for its next attempt.
    fn end_deleted(&mut self, object: Object, now: Moment) -> Life {
        if object.status.is_none() {
            return self.say_goodbye(object, now);
        }
        let verdict = Verdict::new(Reason::Deleted, "the ConsistencyGroupReplication was deleted before it was done");
        let last = Request { retry: None, ..self.request(&object) };
        self.refuse(last, object, verdict.into(), now)
    }

    /// `object` is what was stored last, and so what there is, unless somebody has deleted it meanwhile.
    fn attempt_over(&mut self, lost: Option<Lost>, object: Object, now: Moment) -> Life {
        match lost {
            Some(Lost::Changed) => Life::Over(Over::Failed("somebody else changed the status of this run".to_owned())),
            // Quietly: the object is the newer leader's.
            Some(Lost::Overtaken(epoch)) if outranks(epoch, self.settings.epoch, now.wall) => {
                Life::Over(Over::Outranked(epoch))
            }
            Some(Lost::Overtaken(epoch)) => {
                let why = format!(
                    "somebody has stored the epoch {epoch} in the status of this run, which no leader can have"
                );
                Life::Over(Over::Failed(why))
            }
            None if self.deleted => self.read_again(),
            None => self.object_read_again(Ok(Some(object)), now),
        }
    }

    fn read_again(&mut self) -> Life {
        self.ask(Effect::GetObject, Life::ReadingAgain)
    }

    fn part(&mut self, goodbye: Box<Goodbye>, next: Next) -> Life {
        match next {
            // The next leader goes on with it.
            Next::Ask(_) if self.stopping => Life::Over(Over::Ended),
            Next::Ask(effect) => self.ask(effect, Life::Parting(goodbye)),
            Next::Over(over) => Life::Over(over),
        }
    }

    fn parting(&mut self, mut goodbye: Box<Goodbye>, input: Input, now: Moment) -> Life {
        let next = match input {
            Input::Removed(removed) => goodbye.left(removed.left, now),
            Input::Disowned(left) => goodbye.left(left, now),
            Input::Stored(stored) => {
                let (next, news) = goodbye.stored(stored);
                self.effects.extend((!news.is_empty()).then_some(Effect::Tell(news)));
                next
            }
            Input::Patched(patched) => goodbye.patched(patched),
            Input::Object(Ok(object)) => goodbye.read(object, now),
            Input::Object(Err(why)) => return failed("the object could not be read", why),
            Input::Stop => Next::Over(Over::Ended),
            _ => return Life::Parting(goodbye),
        };
        self.part(goodbye, next)
    }

    fn say_goodbye(&mut self, object: Object, now: Moment) -> Life {
        let (goodbye, first) = Goodbye::begin(self.request(&object), object, now);
        self.part(Box::new(goodbye), first)
    }

    /// A copy of a run is none: it says so, whatever its status says, and holds nothing.
    fn refuse_copy(&mut self, object: Object, now: Moment) -> Life {
        if object.metadata.deletion_timestamp.is_some() {
            return self.say_goodbye(object, now);
        }
        let once = Request { retry: None, ..self.request(&object) };
        let refusal = copies::verdict(&object).into();
        refusing(&once, object, refusal, ReplicationStatus::default(), now)
    }

    /// Ends an attempt that cannot begin. Nothing was asked of anybody. Its object is pinned first, so that a copy of it does not
    /// run either.
    fn refuse(&mut self, request: Request, object: Object, refusal: Refusal, now: Moment) -> Life {
        match copies::pinned(&object).filter(|_| object.metadata.deletion_timestamp.is_none()) {
            Some(patch) => {
                let (request, refusal) = (Box::new(request), Box::new(refusal));
                self.ask(Effect::SetMarks(patch), Life::Pinning { request, object, refusal })
            }
            None => refused(&request, object, refusal, now),
        }
    }

    fn pinned(
        &mut self,
        request: &Request,
        before: Object,
        refusal: Refusal,
        patched: Result<Object, Refused>,
        now: Moment,
    ) -> Life {
        match patched {
            Ok(object) if object.status == before.status => refused(request, object, refusal, now),
            Ok(_) => Life::Over(Over::Failed(WRITTEN_MEANWHILE.to_owned())),
            Err(Refused::NotFound) => self.read_again(),
            Err(why) => failed("the object could not be pinned to its UID", why),
        }
    }

    fn request(&self, object: &ConsistencyGroupReplication) -> Request {
        let suspension = &object.spec.suspension;
        let kind = replica::asked_for(&object.spec);
        Request {
            name: object.name_any(),
            namespace: object.namespace().unwrap_or_default(),
            uid: object.uid().unwrap_or_default(),
            generation: object.metadata.generation,
            mode: object.spec.mode,
            kind,
            wishes: kind.zip(object.spec.replication.as_ref()).map(|(kind, how)| kind.wishes(how)).unwrap_or_default(),
            prepare_timeout: suspension.prepare_timeout.into(),
            hold_timeout: suspension.hold_timeout.into(),
            deletion_policy: object.spec.deletion_policy,
            retry: object.spec.retry,
            owner: object.owner_ref(&()),
            epoch: self.settings.epoch,
        }
    }
}

fn failed(what: &str, why: Refused) -> Life {
    let why = match why {
        Refused::NotFound => "it is gone".to_owned(),
        Refused::Conflict => "somebody else has written it meanwhile".to_owned(),
        Refused::Trouble(why) => why,
    };
    Life::Over(Over::Failed(format!("{what}: {why}")))
}

const WRITTEN_MEANWHILE: &str = "another controller has written the status of this replication meanwhile";

fn refused(request: &Request, object: Object, refusal: Refusal, now: Moment) -> Life {
    let before = object.status.clone().unwrap_or_default();
    refusing(request, object, refusal, before, now)
}

/// Tells of an attempt that cannot begin.
fn refusing(request: &Request, object: Object, refusal: Refusal, before: ReplicationStatus, now: Moment) -> Life {
    let Refusal { verdict, members } = refusal;
    let mut run = Run::refused(request, members, verdict, before, now);
    let status = report::render_refused(request, &run, now);
    let blocked = run.news().into_iter();
    let happened = blocked.chain(Happened::began(&status)).collect();
    let mut writer = Writer::new(*object);
    writer.push(status, happened);
    writer.close();
    Life::Refusing(Box::new(writer))
}

/// The object with its finalizer and its pin; `None`: it has both, or is being deleted. Then it takes no new finalizer, and needs
/// none for being cleaned up after.
fn guarded_and_pinned(object: &ConsistencyGroupReplication) -> Option<Object> {
    if object.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let guarded = with_finalizer(object, true);
    let pinned = copies::pinned(guarded.as_deref().unwrap_or(object));
    pinned.or(guarded)
}

/// How long it is until the next attempt may begin. A stored time is believed no further than the pause that was asked for:
/// the clock that it was taken from may be another one. `None`: it may begin, or none follows.
fn cool_down(object: &ConsistencyGroupReplication, now: Moment) -> Option<Duration> {
    if object.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let next = object.status.as_ref()?.next_attempt_at.as_ref()?;
    let left = Duration::try_from(next.0.duration_since(now.wall)).ok()?;
    Some(left.min(object.spec.retry.unwrap_or_default().pause())).filter(|left| !left.is_zero())
}

/// Whether another attempt follows.
fn waits(object: &ConsistencyGroupReplication) -> bool {
    !has_ended(object) && object.status.as_ref().is_some_and(|status| status.next_attempt_at.is_some())
}

/// Whether the run has ended for good.
fn has_ended(object: &ConsistencyGroupReplication) -> bool {
    Stub::of(object).has_ended()
}

#[cfg(test)]
#[path = "cool_down_tests.rs"]
mod cool_down_tests;
#[cfg(test)]
#[path = "driver_tests.rs"]
mod tests;
