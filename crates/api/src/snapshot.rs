//! The part of the CSI snapshot API (`snapshot.storage.k8s.io/v1`) that Stillpoint reads and writes.
//!
//! The kinds belong to the external-snapshotter project; these types carry only the fields that are used, and a test on a
//! real API server applies them to the real CRDs.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::CustomResource;
use serde::{Deserialize, Serialize};

/// Annotation on a class: `"true"` makes it the default of its driver.
pub const DEFAULT_CLASS_ANNOTATION: &str = "snapshot.storage.kubernetes.io/is-default-class";

/// Asks for one snapshot of one claim.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "snapshot.storage.k8s.io",
    version = "v1",
    kind = "VolumeSnapshot",
    namespaced,
    status = "VolumeSnapshotStatus",
    derive = "PartialEq",
    schema = "disabled"
)]
#[serde(rename_all = "camelCase")]
pub struct VolumeSnapshotSpec {
    /// The class; unset: the default class of the claim's driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_snapshot_class_name: Option<String>,
    /// What is cut.
    pub source: VolumeSnapshotSource,
}

/// What is cut.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeSnapshotSource {
    /// The claim, in the namespace of the snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim_name: Option<String>,
}

/// How far the snapshot is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeSnapshotStatus {
    /// The content object behind it.
    #[serde(default)]
    pub bound_volume_snapshot_content_name: Option<String>,
    /// The cut was taken at this time; set before the snapshot can be used.
    #[serde(default)]
    pub creation_time: Option<Time>,
    /// The snapshot can be restored from.
    #[serde(default)]
    pub ready_to_use: Option<bool>,
    /// The last error of the driver or the snapshot controller.
    #[serde(default)]
    pub error: Option<VolumeSnapshotError>,
}

/// The last error of a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeSnapshotError {
    /// What went wrong.
    #[serde(default)]
    pub message: Option<String>,
}

/// How snapshots of one driver are made. Cluster-scoped, without a spec.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "snapshot.storage.k8s.io",
    version = "v1",
    kind = "VolumeSnapshotClass",
    plural = "volumesnapshotclasses",
    schema = "disabled",
    no_spec
)]
#[serde(rename_all = "camelCase")]
pub struct VolumeSnapshotClassFields {
    /// The CSI driver.
    pub driver: String,
    /// `Delete` or `Retain`: whether the snapshot of the storage system goes with its object.
    #[serde(default)]
    pub deletion_policy: String,
}
