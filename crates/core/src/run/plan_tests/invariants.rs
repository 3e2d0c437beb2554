//! The promises, whatever happens in whatever order.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Happening {
    Recorded,
    /// Everybody but this member does what leads to `Done`.
    AllWell(usize),
    Connected(usize, usize),
    Lost(usize, usize),
    Unreachable(usize, usize),
    Says(usize, usize, Says),
    Created(usize),
    Refused(usize),
    Unknown(usize),
    Cut(usize, bool),
    SnapshotError(usize),
    Time(u64),
    PodGone(usize, usize),
    ClaimGone(usize),
    OtherPod(usize),
    Restarted(usize, usize),
    Deleted,
    CutOff,
    Removed,
}

#[derive(Clone, Debug)]
enum Says {
    Waiting,
    Prepared,
    Ready(u32),
    NotReady(u32, bool),
    Released(bool),
    /// What a willing agent says to the last command.
    Yes,
}

fn happening() -> impl Strategy<Value = Happening> {
    let says = prop_oneof![
        Just(Says::Waiting),
        Just(Says::Prepared),
        (0..4_u32).prop_map(Says::Ready),
        (0..4_u32, any::<bool>()).prop_map(|(round, retryable)| Says::NotReady(round, retryable)),
        any::<bool>().prop_map(Says::Released),
    ];
    let member = 0..3_usize;
    let agent = (0..3_usize, 0..3_usize);
    prop_oneof![
        4 => Just(Happening::Recorded),
        30 => (0..6_usize).prop_map(Happening::AllWell),
        1 => agent.clone().prop_map(|(member, agent)| Happening::Connected(member, agent)),
        1 => agent.clone().prop_map(|(member, agent)| Happening::Lost(member, agent)),
        1 => agent.clone().prop_map(|(member, agent)| Happening::Unreachable(member, agent)),
        8 => (agent.clone(), says).prop_map(|((member, agent), says)| Happening::Says(member, agent, says)),
        60 => agent.clone().prop_map(|(member, agent)| Happening::Says(member, agent, Says::Yes)),
        12 => member.clone().prop_map(Happening::Created),
        1 => member.clone().prop_map(Happening::Refused),
        2 => member.clone().prop_map(Happening::Unknown),
        20 => (member.clone(), any::<bool>()).prop_map(|(member, usable)| Happening::Cut(member, usable)),
        1 => member.clone().prop_map(Happening::SnapshotError),
        8 => (0..3_000_u64).prop_map(Happening::Time),
        1 => agent.clone().prop_map(|(member, agent)| Happening::PodGone(member, agent)),
        1 => member.clone().prop_map(Happening::ClaimGone),
        1 => member.prop_map(Happening::OtherPod),
        1 => agent.prop_map(|(member, agent)| Happening::Restarted(member, agent)),
        1 => Just(Happening::Deleted),
        1 => Just(Happening::CutOff),
        3 => Just(Happening::Removed),
    ]
}

fn apply(world: &mut World, happening: Happening) {
    let members = world.run.members.len();
    match happening {
        Happening::Recorded => world.observed.recorded = true,
        Happening::AllWell(but) => {
            world.observed.recorded = true;
            for member in (0..members).filter(|member| *member != but) {
                for agent in 0..world.run.members[member].assignments.len() {
                    apply(world, Happening::Says(member, agent, Says::Yes));
                }
                apply(world, Happening::Cut(member, true));
            }
        }
        Happening::Connected(member, agent) => drop(world.observed.connected.insert(agent_of(member, agent))),
        Happening::Lost(member, agent) => world.lose_agent(member, agent),
        Happening::Unreachable(member, agent) => drop(world.unreachable.insert((member, agent))),
        Happening::Says(member, agent, says) if world.agents().contains(&(member, agent)) => {
            let content = match says {
                Says::Waiting => waiting(),
                Says::Prepared => prepared(),
                Says::Ready(round) => ready(round),
                Says::NotReady(round, retryable) => not_ready(round, retryable),
                Says::Released(unbroken) => released(unbroken),
                Says::Yes => match world.told.get(&(member, agent)) {
                    None => return,
                    Some(Command::Prepare) => prepared(),
                    Some(Command::Suspend) => ready(world.run.round),
                    Some(Command::Release) => released(true),
                },
            };
            world.say(member, agent, content);
        }
        Happening::Created(member) if world.cuts > 0 => world.created(member % members),
        Happening::Refused(member) => {
            world.not_made(member % members, NotMade::Refused("quota".into()));
        }
        Happening::Unknown(member) if world.cuts > 0 => {
            world.not_made(member % members, NotMade::Unknown("no answer".into()));
        }
        Happening::Cut(member, usable) if world.cuts > 0 => world.snapshot(member % members, cut(usable)),
        Happening::SnapshotError(member) => world.snapshot(member % members, snapshot_error()),
        Happening::Time(milliseconds) => world.pass(Duration::from_millis(milliseconds)),
        Happening::PodGone(member, agent) => drop(world.observed.pods.remove(&pod_of(member, agent))),
        Happening::ClaimGone(member) => drop(world.observed.claims.remove(&claim_uid(member))),
        Happening::OtherPod(member) => {
            let pod = PodFacts { claims: [format!("data-{member}")].into(), ..PodFacts::default() };
            world.observed.pods.insert("other".into(), pod);
        }
        Happening::Restarted(member, agent) => {
            if let Some(pod) = world.observed.pods.get_mut(&pod_of(member, agent)) {
                pod.containers[0].id.push('x');
            }
        }
        Happening::Deleted => world.observed.deleted = true,
        Happening::CutOff => world.observed.cut_off = Some("stopping".into()),
        Happening::Removed if world.deletions > 0 => {
            world.observed.removed = Some(crate::replica::removal::Removed { found: members, left: Vec::new() })
        }
        Happening::Says(..)
        | Happening::Created(_)
        | Happening::Unknown(_)
        | Happening::Cut(..)
        | Happening::Removed => {}
    }
}

fn rank(phase: Phase) -> u8 {
    match phase {
        Phase::Pending => 0,
        Phase::Checking => 1,
        Phase::Ready => 2,
        Phase::Replicating => 3,
        Phase::Done | Phase::Aborted | Phase::Failed => 4,
    }
}

/// Turns once and checks every promise that can be checked at any time.
fn turn(world: &mut World) -> Result<(), TestCaseError> {
    let before = world.run.clone();
    let holding = world.holding.clone();
    let steps = world.turn();

    for step in &steps {
        if let Step::Ask(asks) = step {
            let first = before.cut_requested.is_none();
            prop_assert!(!asks.is_empty() && (asks.len() == world.run.members.len() || !first));
            for one in world.agents() {
                prop_assert!(holding.contains(&one), "P1: a cut, and {one:?} does not hold");
            }
        }
    }
    prop_assert!(world.cuts <= 1, "one cut in an attempt");
    if matches!(world.run.stage, Stage::Abandoning { .. }) || world.run.phase().is_final() {
        for one in world.agents() {
            let last = world.told.get(&one);
            prop_assert!(matches!(last, None | Some(Command::Release)), "P2: {one:?} was told {last:?} last");
        }
    }
    if world.run.phase() == Phase::Done && before.phase() != Phase::Done {
        for (member, agent) in world.agents() {
            let proof = world.run.members[member].assignments[agent].released.as_ref();
            prop_assert!(proof.is_some_and(|released| released.unbroken), "P4: Done without proof");
        }
        prop_assert_eq!(world.deletions, 0);
    }
    if world.run.phase() == Phase::Failed {
        prop_assert!(world.observed.removed.is_some(), "P8: Failed with replicas left");
    }
    if world.run.phase() == Phase::Aborted {
        prop_assert_eq!(world.cuts, 0, "Aborted means that nothing was cut");
    }
    prop_assert!(
        world.phases().windows(2).all(|pair| rank(pair[0]) < rank(pair[1])),
        "phases go on: {:?}",
        world.phases()
    );
    prop_assert!(world.phases().starts_with(&before.phases.iter().map(|entry| entry.phase).collect::<Vec<_>>()));
    if before.stage == Stage::Ended {
        prop_assert_eq!(&world.run, &before, "an end is final");
    }
    if let Some(wake_at) = world.wake_at {
        prop_assert!(wake_at > world.now.monotonic, "a wake-up in the past would spin: {:?}", world.run.stage);
    }
    let again = plan(&world.request, &world.run, &world.observed, world.now);
    let news = !world.observed.lost.is_empty() || again.run.stage != world.run.stage;
    prop_assert!(news || again.steps.is_empty(), "planning again asks again: {:?}", again.steps);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn promises_are_kept(
        agents in proptest::collection::vec(0..4_usize, 1..4),
        check: bool,
        happenings in proptest::collection::vec(happening(), 0..60),
    ) {
        let mode = if check { Mode::Check } else { Mode::Replicate };
        let mut world = World::with_agents(mode, &agents);
        turn(&mut world)?;
        for happening in happenings {
            apply(&mut world, happening);
            turn(&mut world)?;
        }
        // From here on nothing happens but time, and what goes on in the background comes to its end.
        for _ in 0..64 {
            if world.run.stage == Stage::Ended {
                break;
            }
            world.observed.recorded = true;
            world.observed.open_creations.clear();
            if matches!(world.run.stage, Stage::AwaitingUsable { .. }) {
                (0..agents.len()).for_each(|member| apply(&mut world, Happening::Cut(member, true)));
            }
            if world.deletions > 0 {
                world.observed.removed = Some(crate::replica::removal::Removed { found: world.run.members.len(), left: Vec::new() });
            }
            turn(&mut world)?;
            if let Some(wake_at) = world.wake_at {
                world.now.monotonic = wake_at;
                turn(&mut world)?;
            }
        }
        prop_assert_eq!(&world.run.stage, &Stage::Ended, "every run ends");
    }
}

#[test]
fn willing_agents_reach_done() {
    // The invariants say nothing unless the good way can be gone.
    for mode in [Mode::Replicate, Mode::Check] {
        let mut world = World::with_agents(mode, &[2, 1, 0]);
        for _ in 0..40 {
            apply(&mut world, Happening::Recorded);
            for member in 0..3 {
                for agent in 0..3 {
                    apply(&mut world, Happening::Says(member, agent, Says::Yes));
                }
                apply(&mut world, Happening::Created(member));
                apply(&mut world, Happening::Cut(member, true));
                turn(&mut world).unwrap();
            }
        }
        assert_eq!(world.run.phase(), Phase::Done);
    }
}
