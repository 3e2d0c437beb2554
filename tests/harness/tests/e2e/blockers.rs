//! A group that cannot be cut is not cut, and the status names what stands in the way.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::group::{Group, LockHolder, Member};
use harness::manifests::LOCKED_FILE;
use harness::namespace::Place;
use harness::replication::{Run, of_claims, replicate};
use harness::snapshots::Witness;
use stillpoint_api::{Blocker, ConsistencyGroupReplication, MemberState, Phase};

use crate::on_cluster;

const POSIX: LockHolder = LockHolder { container: "posix", arguments: &["--type", "posix", "--range", "10-99"] };
const OFD: LockHolder = LockHolder { container: "ofd", arguments: &["--type", "ofd"] };
const FLOCK: LockHolder = LockHolder { container: "flock", arguments: &["--type", "flock"] };
const INHERITED: LockHolder = LockHolder { container: "inherited", arguments: &["--type", "flock", "--inherit"] };

const IMPATIENT: Duration = Duration::from_secs(3);
/// What nobody gives back ends at this limit.
const LIMIT: Duration = Duration::from_secs(20);
/// Without a hold, no append waits for longer than a busy machine and its disk make it; far below [`LIMIT`].
const NO_STALL: Duration = Duration::from_secs(10);

fn impatient(name: &str, group: &Group) -> ConsistencyGroupReplication {
    let mut wanted = of_claims(name, &group.claims());
    wanted.spec.suspension.prepare_timeout = IMPATIENT.into();
    wanted.spec.suspension.hold_timeout = LIMIT.into();
    wanted
}

/// Replicates, and sees that it is aborted, that no snapshot ever was, and that writes were not held up.
async fn aborted(place: &Place, group: &Group, wanted: &ConsistencyGroupReplication) -> Result<Run> {
    let witness = Witness::begin(place).await?;
    group.reset_stats().await?;
    let run = replicate(place, wanted, |_| {}).await?;
    let stats = group.stats().await?;
    let made = witness.end().await?;
    ensure!(run.phases().last() == Some(&Phase::Aborted), "seen: {:?}", run.seen);
    ensure!(!run.phases().contains(&Phase::Replicating), "seen: {:?}", run.seen);
    ensure!(made.is_empty(), "snapshots were made: {made:?}");
    ensure!(!run.status().ready_to_use && run.status().consistency.is_none(), "{:?}", run.status());
    println!("{:.0} records/s, longest append {:.0} ms", stats.records_per_second, stats.longest_append_ms);
    ensure!(Duration::from_secs_f64(stats.longest_append_ms / 1e3) < NO_STALL, "{stats:?}");
    group.written(20).await?;
    Ok(run)
}

fn only_blocker(run: &Run, claim: &str) -> Result<Blocker> {
    let member = run.member(claim)?;
    ensure!(member.state == MemberState::NotReady, "{member:?}");
    ensure!(member.blockers.len() == 1, "{:?}", member.blockers);
    member.blockers.into_iter().next().context("no blocker")
}

#[test]
fn every_kind_of_lock_is_blamed_on_its_holder() -> Result<()> {
    on_cluster("locks", async |place| {
        let [one, two] = place.cluster.two_nodes()?;
        let holders = [POSIX, OFD, FLOCK, INHERITED];
        let members =
            vec![Member::new("a", one, "loop-ext4"), Member::new("b", two, "loop-xfs").with_lock_holders(&holders)];
        let group = Group::start(place, members, |_| {}).await?;
        for (holder, kind, range) in [
            (POSIX, "POSIX", (10, Some(99))),
            (OFD, "OFD", (0, None)),
            (FLOCK, "FLOCK", (0, None)),
            (INHERITED, "FLOCK", (0, None)),
        ] {
            let name = format!("blocked-{}", holder.container);
            group.lock("b", holder.container).await?;
            let run = aborted(place, &group, &impatient(&name, &group)).await.with_context(|| name.clone())?;
            group.unlock("b", holder.container).await?;
            let blocker = only_blocker(&run, "b")?;
            let lock = blocker.lock.clone().with_context(|| format!("no lock in {blocker:?}"))?;
            ensure!(blocker.reason == "LockHeld", "{blocker:?}");
            ensure!(blocker.pod.as_deref() == Some("store-b"), "{blocker:?}");
            ensure!(blocker.container.as_deref() == Some(holder.container), "{blocker:?}");
            let process = blocker.process.clone().with_context(|| format!("no process in {blocker:?}"))?;
            ensure!(process.name == "stillpoint-work" && process.pid > 1, "{blocker:?}");
            ensure!((lock.kind.as_str(), lock.mode.as_str()) == (kind, "WRITE"), "{blocker:?}");
            ensure!((lock.start, lock.end) == range, "{blocker:?}");
            ensure!(
                blocker.path.as_deref().map(|path| path.trim_start_matches('/')) == Some(LOCKED_FILE),
                "{blocker:?}"
            );
            ensure!(run.member("a")?.blockers.is_empty(), "{:?}", run.member("a")?);
        }
        let free = replicate(place, &of_claims("free", &group.claims()), |_| {}).await?;
        ensure!(free.phases().last() == Some(&Phase::Done), "after the locks are gone: {:?}", free.status());
        Ok(())
    })
}

#[test]
fn a_missing_class_is_found_before_anything_is_suspended() -> Result<()> {
    on_cluster("no-class", async |place| {
        let [one, _] = place.cluster.two_nodes()?;
        let group = Group::start(place, vec![Member::new("a", one, "loop-ext4")], |_| {}).await?;
        let mut wanted = impatient("classless", &group);
        if let Some(replication) = &mut wanted.spec.replication {
            replication.volume_snapshot.get_or_insert_default().volume_snapshot_class_name =
                Some("there-is-no-such-class".into());
        }
        let run = aborted(place, &group, &wanted).await?;
        let said = serde_json::to_string(&run.status())?;
        ensure!(said.contains("there-is-no-such-class"), "the status does not name the class: {said}");
        ensure!(run.status().hold.is_none(), "writes were suspended: {said}");
        Ok(())
    })
}
