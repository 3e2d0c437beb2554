//! What a request asks for, read and checked before anything is done. No IO.

use crate::csi;
use crate::error::Error;
use crate::filesystem::FsType;
use crate::identity::TOPOLOGY_KEY;
use crate::limits;
use crate::state::{Snapshot, Volume};

use csi::volume_capability::AccessType;
use csi::volume_capability::access_mode::Mode;
use csi::volume_content_source::Type as Source;

/// Parameters with this prefix are added by the sidecar, not written by a user.
const SIDECAR_PREFIX: &str = "csi.storage.k8s.io/";

/// A volume to be made.
#[derive(Debug, PartialEq, Eq)]
pub struct NewVolume {
    /// Its name, which becomes its id.
    pub name: String,
    /// The filesystem asked for.
    pub fs_type: FsType,
    /// The least size, in bytes. Zero: any.
    pub required_bytes: u64,
    /// The greatest size, in bytes. Zero: any.
    pub limit_bytes: u64,
    /// The snapshot to restore.
    pub source: Option<SnapshotId>,
}

/// A snapshot's id, `<node>/<name>`: it says which node has the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotId {
    /// The node that has the image.
    pub node: String,
    /// The snapshot's name.
    pub name: String,
}

impl SnapshotId {
    /// Reads an id. One that this driver cannot have given out belongs to no snapshot.
    pub fn parse(id: &str) -> Option<SnapshotId> {
        let (node, name) = id.split_once('/')?;
        check_name(name).ok()?;
        Some(SnapshotId { node: node.to_owned(), name: name.to_owned() })
    }
}

impl std::fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.node, self.name)
    }
}

impl NewVolume {
    /// Reads a CreateVolume request that reached `node`.
    pub fn read(request: &csi::CreateVolumeRequest, node: &str) -> Result<NewVolume, Error> {
        check_name(&request.name)?;
        check_topology(request.accessibility_requirements.as_ref(), node)?;
        let range = request.capacity_range.unwrap_or_default();
        Ok(NewVolume {
            name: request.name.clone(),
            fs_type: read_fs_type(request)?,
            required_bytes: read_bytes(range.required_bytes)?,
            limit_bytes: read_bytes(range.limit_bytes)?,
            source: read_source(request)?,
        })
    }

    /// The size of an empty volume that satisfies the request, in bytes.
    pub fn size(&self) -> Result<u64, Error> {
        let size = self.required_bytes.max(self.fs_type.smallest());
        if self.limit_bytes != 0 && size > self.limit_bytes {
            return Err(Error::OutOfRange(format!(
                "an {} volume needs at least {size} bytes, and the limit asked for is {}",
                self.fs_type.name(),
                self.limit_bytes
            )));
        }
        Ok(size)
    }

    /// The size of a volume restored from `snapshot`, in bytes.
    ///
    /// It is the snapshot's: the driver does not grow filesystems.
    pub fn restored_size(&self, snapshot: &Snapshot) -> Result<u64, Error> {
        let size = snapshot.size_bytes;
        if self.fs_type != snapshot.fs_type {
            return Err(Error::Invalid(format!(
                "the snapshot {} holds an {} filesystem and the storage class asks for {}: use a class for {}",
                snapshot.name,
                snapshot.fs_type.name(),
                self.fs_type.name(),
                snapshot.fs_type.name()
            )));
        }
        if self.required_bytes > size || (self.limit_bytes != 0 && self.limit_bytes < size) {
            return Err(Error::OutOfRange(format!(
                "the snapshot {} holds {size} bytes and this driver does not resize: ask for exactly that",
                snapshot.name
            )));
        }
        Ok(size)
    }

    /// Whether the existing `volume` is what this request asks for, so that a repeated request finds it.
    pub fn is_satisfied_by(&self, volume: &Volume) -> bool {
        volume.fs_type == self.fs_type
            && volume.capacity_bytes >= self.required_bytes
            && (self.limit_bytes == 0 || volume.capacity_bytes <= self.limit_bytes)
            && volume.source_snapshot == self.source.as_ref().map(SnapshotId::to_string)
    }
}

/// Checks that `name` can be a file name of ours.
pub fn check_name(name: &str) -> Result<(), Error> {
    if name.is_empty() {
        return Err(Error::Invalid("a name or id is missing".into()));
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.len() > limits::NAME_BYTES_MAX || name.starts_with('.') || !name.chars().all(allowed) {
        return Err(Error::Invalid(format!(
            "{name:?} is no name for this driver: use at most {} letters, digits, '-', '_' and '.', not starting with '.'",
            limits::NAME_BYTES_MAX
        )));
    }
    Ok(())
}

/// Checks that the driver can serve a volume in this way, and says which filesystem the capability names, if any.
pub fn check_capability(capability: Option<&csi::VolumeCapability>) -> Result<&str, Error> {
    let capability = capability.ok_or_else(|| Error::Invalid("the volume capability is missing".into()))?;
    let mode = capability.access_mode.map(|mode| mode.mode());
    match mode {
        Some(
            Mode::SingleNodeWriter
            | Mode::SingleNodeReaderOnly
            | Mode::SingleNodeSingleWriter
            | Mode::SingleNodeMultiWriter,
        ) => {}
        _ => {
            return Err(Error::Invalid(
                "a volume of this driver lives on one node: use access mode ReadWriteOnce or ReadWriteOncePod".into(),
            ));
        }
    }
    match &capability.access_type {
        Some(AccessType::Mount(mount)) if mount.mount_flags.is_empty() => Ok(&mount.fs_type),
        Some(AccessType::Mount(_)) => Err(Error::Invalid("this driver takes no mountOptions".into())),
        _ => Err(Error::Invalid("this driver has no block volumes: use volumeMode Filesystem".into())),
    }
}

/// The filesystem comes from the capability (`csi.storage.k8s.io/fstype` of the StorageClass), else from the parameter
/// `fsType`, else it is ext4.
fn read_fs_type(request: &csi::CreateVolumeRequest) -> Result<FsType, Error> {
    let mut asked = request.parameters.get("fsType").map_or("", String::as_str);
    if let Some(unknown) = request.parameters.keys().find(|key| *key != "fsType" && !key.starts_with(SIDECAR_PREFIX)) {
        return Err(Error::Invalid(format!("StorageClass parameter {unknown:?} is not known; known is fsType")));
    }
    if request.volume_capabilities.is_empty() {
        return Err(Error::Invalid("the volume capabilities are missing".into()));
    }
    for capability in &request.volume_capabilities {
        let named = check_capability(Some(capability))?;
        if !named.is_empty() {
            asked = named;
        }
    }
    FsType::parse(asked).ok_or_else(|| {
        let known = FsType::ALL.map(FsType::name).join(", ");
        Error::Invalid(format!("filesystem {asked:?} is not known; known are {known}"))
    })
}

fn read_bytes(bytes: i64) -> Result<u64, Error> {
    let bytes = u64::try_from(bytes).map_err(|_| Error::Invalid(format!("a size of {bytes} bytes is negative")))?;
    if bytes > limits::VOLUME_BYTES_MAX {
        return Err(Error::OutOfRange(format!("{bytes} bytes is more than the {} allowed", limits::VOLUME_BYTES_MAX)));
    }
    Ok(bytes)
}

fn read_source(request: &csi::CreateVolumeRequest) -> Result<Option<SnapshotId>, Error> {
    match request.volume_content_source.as_ref().map(|source| &source.r#type) {
        None => Ok(None),
        Some(Some(Source::Snapshot(snapshot))) => match SnapshotId::parse(&snapshot.snapshot_id) {
            Some(id) => Ok(Some(id)),
            None => Err(Error::NotFound(format!("there is no snapshot {:?}", snapshot.snapshot_id))),
        },
        Some(_) => Err(Error::Invalid("this driver does not clone volumes: restore a snapshot instead".into())),
    }
}

fn check_topology(requirement: Option<&csi::TopologyRequirement>, node: &str) -> Result<(), Error> {
    let requisite = requirement.map_or(&[][..], |requirement| &requirement.requisite);
    let here = |topology: &csi::Topology| topology.segments.get(TOPOLOGY_KEY).is_some_and(|value| value == node);
    if requisite.is_empty() || requisite.iter().any(here) {
        return Ok(());
    }
    Err(Error::OtherNode(format!("the volume is wanted on another node than {node}, whose disk this is")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: i64 = 1 << 20;

    fn request(fs_type: &str, required_bytes: i64, limit_bytes: i64) -> csi::CreateVolumeRequest {
        csi::CreateVolumeRequest {
            name: "pvc-1".into(),
            capacity_range: Some(csi::CapacityRange { required_bytes, limit_bytes }),
            volume_capabilities: vec![capability(fs_type, Mode::SingleNodeWriter)],
            ..Default::default()
        }
    }

    fn capability(fs_type: &str, mode: Mode) -> csi::VolumeCapability {
        let mount = csi::volume_capability::MountVolume { fs_type: fs_type.into(), mount_flags: vec![] };
        csi::VolumeCapability {
            access_type: Some(AccessType::Mount(mount)),
            access_mode: Some(csi::volume_capability::AccessMode { mode: mode.into() }),
        }
    }

    fn size(fs_type: &str, required: i64, limit: i64) -> Result<u64, Error> {
        NewVolume::read(&request(fs_type, required, limit), "n1").and_then(|volume| volume.size())
    }

    #[test]
    fn sizes_are_rounded_up_to_what_the_filesystem_needs() {
        assert_eq!(size("", 0, 0).unwrap(), 16 << 20);
        assert_eq!(size("ext4", 100 * MIB, 0).unwrap(), 100 << 20);
        assert_eq!(size("xfs", 100 * MIB, 0).unwrap(), 300 << 20);
        assert_eq!(size("btrfs", 100 * MIB, 0).unwrap(), 128 << 20);
    }

    #[test]
    fn sizes_outside_the_bounds_are_refused() {
        assert!(matches!(size("xfs", 100 * MIB, 200 * MIB), Err(Error::OutOfRange(_))));
        assert!(matches!(size("ext4", 2 << 40, 0), Err(Error::OutOfRange(_))));
        assert!(matches!(size("ext4", -1, 0), Err(Error::Invalid(_))));
    }

    #[test]
    fn the_capabilitys_filesystem_wins_over_the_parameter() {
        let mut request = request("", 0, 0);
        request.parameters.insert("fsType".into(), "btrfs".into());
        assert_eq!(NewVolume::read(&request, "n1").unwrap().fs_type, FsType::Btrfs);
        request.volume_capabilities = vec![capability("xfs", Mode::SingleNodeWriter)];
        assert_eq!(NewVolume::read(&request, "n1").unwrap().fs_type, FsType::Xfs);
    }

    #[test]
    fn what_the_driver_cannot_do_is_refused() {
        let refused = |change: fn(&mut csi::CreateVolumeRequest)| {
            let mut request = request("ext4", 0, 0);
            change(&mut request);
            assert!(matches!(NewVolume::read(&request, "n1"), Err(Error::Invalid(_))), "{request:?}");
        };
        refused(|r| r.name = "../x".into());
        refused(|r| r.name = String::new());
        refused(|r| r.name = "x".repeat(201));
        refused(|r| r.volume_capabilities.clear());
        refused(|r| r.volume_capabilities = vec![capability("ext4", Mode::MultiNodeMultiWriter)]);
        refused(|r| r.volume_capabilities = vec![capability("vfat", Mode::SingleNodeWriter)]);
        refused(|r| {
            r.parameters.insert("typo".into(), "1".into());
        });
        refused(|r| r.volume_content_source = Some(csi::VolumeContentSource { r#type: None }));
    }

    #[test]
    fn a_volume_for_another_node_is_left_to_it() {
        let mut request = request("ext4", 0, 0);
        let of = |node: &str| csi::Topology { segments: [(TOPOLOGY_KEY.to_owned(), node.to_owned())].into() };
        request.accessibility_requirements = Some(csi::TopologyRequirement { requisite: vec![of("n2")] });
        assert!(matches!(NewVolume::read(&request, "n1"), Err(Error::OtherNode(_))));
        assert!(NewVolume::read(&request, "n2").is_ok());
    }

    #[test]
    fn a_restored_volume_has_the_snapshots_size_and_filesystem() {
        let snapshot = Snapshot {
            name: "s".into(),
            source_volume_id: "v".into(),
            fs_type: FsType::Ext4,
            size_bytes: 100 << 20,
            created_unix_nanos: 0,
        };
        let restored = |fs, required, limit| {
            NewVolume::read(&request(fs, required, limit), "n1").and_then(|volume| volume.restored_size(&snapshot))
        };
        assert_eq!(restored("ext4", 100 * MIB, 0).unwrap(), 100 << 20);
        assert_eq!(restored("ext4", 0, 0).unwrap(), 100 << 20);
        assert!(matches!(restored("ext4", 101 * MIB, 0), Err(Error::OutOfRange(_))));
        assert!(matches!(restored("ext4", 0, 99 * MIB), Err(Error::OutOfRange(_))));
        assert!(matches!(restored("xfs", 0, 0), Err(Error::Invalid(_))));
    }

    #[test]
    fn snapshot_ids_say_their_node() {
        let id = SnapshotId { node: "n1".into(), name: "snapshot-1".into() };
        assert_eq!(SnapshotId::parse("n1/snapshot-1"), Some(id.clone()));
        assert_eq!(id.to_string(), "n1/snapshot-1");
        for bad in ["", "n1", "n1/", "n1/../x", "n1/a/b"] {
            assert_eq!(SnapshotId::parse(bad), None, "{bad:?}");
        }
    }
}
