//! Replicas as CSI `VolumeSnapshot` objects, one for every member: their content, what their status means, which class is meant.

use std::collections::BTreeMap;

use kube::Resource;
use kube::core::{ApiResource, DynamicObject};
use serde_json::{Value, json};

use super::ask::{Ask, NotMade, Recipe, Remove, RunId};
use super::removal::Making;
use super::seen::{Cut, Facts, Judged, ObjectName, Seen};
use super::wishes::Wishes;
use super::{Kind, MemberFacts, Words, drivers};
use crate::run::state::Verdict;
use stillpoint_api::snapshot::{
    DEFAULT_CLASS_ANNOTATION, VolumeSnapshot, VolumeSnapshotClass, VolumeSnapshotSource, VolumeSnapshotSpec,
    VolumeSnapshotStatus,
};
use stillpoint_api::{ClaimReference, Method, Reason, Replication};

/// The finalizer with which the snapshot controller begins.
const AS_SOURCE: &str = "snapshot.storage.kubernetes.io/volumesnapshot-as-source-protection";
/// Its finalizer of a snapshot whose content goes with it.
const BOUND: &str = "snapshot.storage.kubernetes.io/volumesnapshot-bound-protection";

/// The kind.
pub struct VolumeSnapshots;

impl Kind for VolumeSnapshots {
    fn words(&self) -> Words {
        Words {
            kind: "VolumeSnapshot",
            many: "VolumeSnapshots",
            uncut: "had no creationTime",
            unusable: "was not readyToUse",
            unnoticed: "Does the snapshot controller run (in many clusters the Deployment snapshot-controller in kube-system), and may it write to VolumeSnapshots?",
            untried: "the snapshot controller does not run or the storage system refuses a snapshot",
        }
    }

    fn is_asked_for(&self, replication: &Replication) -> bool {
        replication.volume_snapshot.is_some()
    }

    fn wishes(&self, how: &Replication) -> Wishes {
        let Some(how) = &how.volume_snapshot else { return Wishes::default() };
        let labels = how.labels.iter().map(|(key, value)| (key.clone(), value.0.clone()));
        let annotations = how.annotations.iter().map(|(key, value)| (key.clone(), value.0.clone()));
        Wishes {
            labels: labels.collect(),
            annotations: annotations.collect(),
            ready_timeout: how.ready_timeout.map(Into::into),
        }
    }

    fn objects(&self) -> Vec<ApiResource> {
        vec![resource()]
    }

    fn reads(&self) -> Vec<ApiResource> {
        vec![ApiResource::erase::<VolumeSnapshotClass>(&())]
    }

    fn available(&self, facts: &Facts) -> Result<(), Verdict> {
        if classes(facts).is_some() {
            return Ok(());
        }
        Err(Verdict::new(
            Reason::SnapshotApiMissing,
            "this cluster has no VolumeSnapshot API (snapshot.storage.k8s.io/v1); install the snapshot CRDs and the snapshot controller",
        ))
    }

    fn resolve(&self, how: &Replication, member: &MemberFacts<'_>, facts: &Facts) -> Result<Recipe, Verdict> {
        let MemberFacts { claim, driver } = member;
        if driver.is_empty() {
            return Err(Verdict::new(
                Reason::NotACsiVolume,
                format!(
                    "the volume of PersistentVolumeClaim {} has no CSI driver, so it has no snapshots; leave the claim out",
                    claim.name
                ),
            ));
        }
        let asked = how.volume_snapshot.as_ref().and_then(|how| how.volume_snapshot_class_name.as_deref());
        match choose_class(asked, driver, &classes(facts).unwrap_or_default()) {
            Ok(class) => Ok(Recipe { class: Some(class) }),
            Err(error) => Err(Verdict::new(
                error.reason(),
                format!("PersistentVolumeClaim {} cannot be cut: {error}", claim.name),
            )),
        }
    }

    fn ask(&self, run: &RunId<'_>, members: &[(&ClaimReference, &Recipe)]) -> Vec<Ask> {
        let ask = |(claim, recipe): &(&ClaimReference, &Recipe)| Ask::Create {
            resource: resource(),
            object: Box::new(snapshot(run, claim, recipe)),
        };
        members.iter().map(ask).collect()
    }

    fn judge(&self, run: &RunId<'_>, members: &[&ClaimReference], seen: &Seen<'_>) -> BTreeMap<String, Judged> {
        members.iter().map(|claim| (claim.uid.clone(), judge(run, claim, seen))).collect()
    }

    fn excludes(&self, method: Method, member: &MemberFacts<'_>, recipe: &Recipe, facts: &Facts) -> Option<Verdict> {
        let Method::FilesystemFreeze = method;
        let name = recipe.class.as_deref();
        let classes = facts.read.get(&*VolumeSnapshotClass::kind(&()));
        let class = classes.into_iter().flatten().find(|class| class.metadata.name.as_deref() == name);
        let parameters = class.map(|class| class.data["parameters"].clone()).unwrap_or_default();
        let why = drivers::excludes(member.driver, &serde_json::from_value(parameters).unwrap_or_default())?;
        let message =
            format!("PersistentVolumeClaim {} cannot be cut while its filesystem is frozen: {why}", member.claim.name);
        Some(Verdict::new(Reason::DriverFreezes, message))
    }

    fn remove(&self, run: &RunId<'_>, members: &[&ClaimReference]) -> Vec<Remove> {
        vec![run.remove(resource(), members.iter().map(|claim| run.replica_name(claim)).collect())]
    }

    fn making(&self, object: &DynamicObject) -> Making {
        making(object)
    }
}

fn resource() -> ApiResource {
    ApiResource::erase::<VolumeSnapshot>(&())
}

/// The object that asks for one snapshot.
fn snapshot(run: &RunId<'_>, claim: &ClaimReference, recipe: &Recipe) -> DynamicObject {
    let spec = VolumeSnapshotSpec {
        volume_snapshot_class_name: recipe.class.clone(),
        source: VolumeSnapshotSource { persistent_volume_claim_name: Some(claim.name.clone()) },
    };
    let object = DynamicObject::new("", &resource()).data(json!({"spec": spec}));
    DynamicObject { metadata: run.metadata_of_member(claim), ..object }
}

fn judge(run: &RunId<'_>, claim: &ClaimReference, seen: &Seen<'_>) -> Judged {
    let name = run.replica_name(claim);
    let says = |what: &str, message: &str| {
        let message = format!("VolumeSnapshot {name} of PersistentVolumeClaim {} {what}: {message}", claim.name);
        Some(Verdict::new(Reason::SnapshotFailed, message))
    };
    let object = ObjectName { kind: VolumeSnapshot::kind(&()).into_owned(), name: name.clone() };
    let Some(snapshot) = seen.objects.get(&object) else {
        let (refused, trouble) = match seen.unmade.get(&object) {
            None => (None, None),
            Some(NotMade::Refused(message)) => (says("was refused", message), None),
            Some(NotMade::Unknown(message)) => (None, says("could not be asked for, and it is tried again", message)),
        };
        return Judged { refused, trouble, cut: None, noticed: false, name };
    };
    if !run.has_made(snapshot) {
        let refused = says("was refused", "another object has its name, which this run has not made");
        return Judged { refused, trouble: None, cut: Some(Cut::Pending), noticed: true, name };
    }
    let status = &snapshot.data["status"];
    let (cut, trouble) = how_far(status);
    // What the snapshot controller does first is to put on its finalizers.
    let noticed = snapshot.metadata.finalizers.as_ref().is_some_and(|all| !all.is_empty())
        || status.as_object().is_some_and(|status| status.values().any(|value| !value.is_null()));
    let trouble = trouble.and_then(|message| says("reports an error", &message));
    Judged { refused: None, trouble, cut: Some(cut), noticed, name }
}

/// What the status of a snapshot says: how far it is, and the last error.
///
/// `creationTime` is set when the driver's CreateSnapshot has returned, which CSI allows only once the cut is taken
/// (CSI specification, CreateSnapshot: the snapshot may still be "post processing", with `ready_to_use` false). An error beside
/// it is about what comes after the cut. An error alone is not the end either: the snapshot controller goes on trying, puts
/// conflicts of its own updates there too, and takes the error away when it succeeds.
fn how_far(status: &Value) -> (Cut, Option<String>) {
    let status = match serde_json::from_value::<Option<VolumeSnapshotStatus>>(status.clone()) {
        Ok(status) => status.unwrap_or_default(),
        Err(error) => return (Cut::Pending, Some(format!("its status cannot be understood: {error}"))),
    };
    let ready = status.ready_to_use == Some(true);
    let cut = match &status.creation_time {
        None => Cut::Pending,
        Some(time) if ready => Cut::Usable { creation_time: time.0 },
        Some(time) => Cut::Taken { creation_time: time.0 },
    };
    // A usable snapshot can carry the error of an earlier try.
    let error = status.error.filter(|_| !matches!(cut, Cut::Usable { .. }));
    let message = |message: Option<String>| message.unwrap_or_else(|| "the driver gave no message".to_owned());
    (cut, error.map(|error| message(error.message)))
}

/// How far the snapshot controller is with a snapshot.
///
/// It puts [`AS_SOURCE`] on a snapshot before it makes the content, and [`BOUND`] after that, if the content is to go with it. Of a
/// snapshot that is deleted in between, the snapshot controller marks the content as being deleted, deletes it and lets the
/// snapshot go. The csi-snapshotter that begins with the content at the same moment replaces its annotations by those that it has
/// read, so the mark is lost; without the snapshot nobody sets it again, and without it the csi-snapshotter never lets the content
/// go. With [`BOUND`] the snapshot stays as long as the content, and the mark is set again. A snapshot that nobody has taken
/// notice of is gone at once, and nothing is made for it (external-snapshotter 8, `syncSnapshot`,
/// `checkandRemoveSnapshotFinalizersAndCheckandDeleteContent`, `setAnnVolumeSnapshotBeingCreated`, `shouldDelete`).
fn making(snapshot: &DynamicObject) -> Making {
    let finalizers = snapshot.metadata.finalizers.as_deref().unwrap_or_default();
    let has = |finalizer: &str| finalizers.iter().any(|one| one == finalizer);
    // A content that is kept when its snapshot goes brings no second finalizer; its cut comes after the moment all the same.
    let is_cut = !snapshot.data["status"]["creationTime"].is_null();
    if has(BOUND) || is_cut || snapshot.metadata.deletion_timestamp.is_some() {
        return Making::Settled;
    }
    if has(AS_SOURCE) { Making::UnderWay } else { Making::NotBegun(snapshot.metadata.resource_version.clone()) }
}

/// A `VolumeSnapshotClass`, as far as the choice needs it.
#[derive(Clone, Debug, PartialEq)]
struct Class {
    name: String,
    /// The CSI driver that it is for.
    driver: String,
    /// Whether it is marked as the default of its driver.
    default: bool,
}

/// The classes of the cluster; `None`: it has no snapshot API.
fn classes(facts: &Facts) -> Option<Vec<Class>> {
    let classes = facts.read.get(&*VolumeSnapshotClass::kind(&()))?;
    Some(classes.iter().map(class).collect())
}

fn class(object: &DynamicObject) -> Class {
    let annotation = object.metadata.annotations.as_ref().and_then(|all| all.get(DEFAULT_CLASS_ANNOTATION));
    Class {
        name: object.metadata.name.clone().unwrap_or_default(),
        driver: object.data["driver"].as_str().unwrap_or_default().to_owned(),
        default: annotation.is_some_and(|value| value == "true"),
    }
}

/// Why no class could be chosen.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
enum ClassError {
    /// The class that was asked for is not there.
    #[error("VolumeSnapshotClass {name} does not exist; create it, or name another one")]
    NotFound {
        /// The class.
        name: String,
    },
    /// The class is for another driver.
    #[error(
        "VolumeSnapshotClass {name} is for the driver {class_driver}, but the volume is of the driver {driver}; leave \
         volumeSnapshotClassName out so that every member gets the default class of its own driver"
    )]
    DriverMismatch {
        /// The class.
        name: String,
        /// The driver of the class.
        class_driver: String,
        /// The driver of the volume.
        driver: String,
    },
    /// No class of the driver is marked as default, or more than one is.
    #[error(
        "the driver {driver} has {found} default VolumeSnapshotClasses instead of one; mark one with the annotation \
         snapshot.storage.kubernetes.io/is-default-class: \"true\", or set volumeSnapshotClassName"
    )]
    NoSingleDefault {
        /// The driver of the volume.
        driver: String,
        /// Classes marked as its default.
        found: usize,
    },
}

impl ClassError {
    /// The CamelCase word for programs.
    fn reason(&self) -> Reason {
        match self {
            Self::NotFound { .. } => Reason::SnapshotClassNotFound,
            Self::DriverMismatch { .. } => Reason::SnapshotClassDriverMismatch,
            Self::NoSingleDefault { .. } => Reason::NoDefaultSnapshotClass,
        }
    }
}

/// Chooses the class for a volume of `driver`: the one asked for, or the driver's only default.
///
/// # Errors
/// When there is no such class, or not exactly one.
fn choose_class(asked: Option<&str>, driver: &str, classes: &[Class]) -> Result<String, ClassError> {
    if let Some(name) = asked {
        let class = classes.iter().find(|class| class.name == name);
        return match class {
            None => Err(ClassError::NotFound { name: name.to_owned() }),
            Some(class) if class.driver != driver => Err(ClassError::DriverMismatch {
                name: name.to_owned(),
                class_driver: class.driver.clone(),
                driver: driver.to_owned(),
            }),
            Some(class) => Ok(class.name.clone()),
        };
    }
    let defaults: Vec<&Class> = classes.iter().filter(|class| class.driver == driver && class.default).collect();
    match defaults.as_slice() {
        [only] => Ok(only.name.clone()),
        found => Err(ClassError::NoSingleDefault { driver: driver.to_owned(), found: found.len() }),
    }
}

#[cfg(test)]
#[path = "volume_snapshot_tests.rs"]
mod tests;
