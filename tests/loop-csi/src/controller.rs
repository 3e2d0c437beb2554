//! The CSI Controller service: volumes and snapshots of this node's disk.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use crate::csi;
use crate::csi::controller_service_capability::{Rpc, Type, rpc};
use crate::csi::validate_volume_capabilities_response::Confirmed;
use crate::driver::{Driver, blocking};
use crate::error::Error;
use crate::faults::Faults;
use crate::request::{self, NewVolume, SnapshotId};
use crate::state::{Snapshot, Volume};
use crate::{identity, snapshots, volumes};

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// Answers the CSI Controller service.
#[derive(Clone, Debug)]
pub struct ControllerService {
    /// The node's driver.
    pub driver: Arc<Driver>,
}

#[tonic::async_trait]
impl csi::controller_server::Controller for ControllerService {
    async fn create_volume(
        &self,
        request: Request<csi::CreateVolumeRequest>,
    ) -> Result<Response<csi::CreateVolumeResponse>, Status> {
        let (driver, request) = (self.driver.clone(), request.into_inner());
        let volume = blocking(move || {
            let wanted = NewVolume::read(&request, &driver.node)?;
            Ok(describe_volume(volumes::create(&driver, &wanted)?, &driver.node))
        })
        .await?;
        Ok(Response::new(csi::CreateVolumeResponse { volume: Some(volume) }))
    }

    async fn delete_volume(
        &self,
        request: Request<csi::DeleteVolumeRequest>,
    ) -> Result<Response<csi::DeleteVolumeResponse>, Status> {
        let (driver, id) = (self.driver.clone(), request.into_inner().volume_id);
        blocking(move || {
            request::check_name(&id)?;
            volumes::delete(&driver, &id)
        })
        .await?;
        Ok(Response::new(csi::DeleteVolumeResponse {}))
    }

    async fn validate_volume_capabilities(
        &self,
        request: Request<csi::ValidateVolumeCapabilitiesRequest>,
    ) -> Result<Response<csi::ValidateVolumeCapabilitiesResponse>, Status> {
        let (driver, request) = (self.driver.clone(), request.into_inner());
        let response = blocking(move || validate(&driver, request)).await?;
        Ok(Response::new(response))
    }

    async fn controller_get_capabilities(
        &self,
        _: Request<csi::ControllerGetCapabilitiesRequest>,
    ) -> Result<Response<csi::ControllerGetCapabilitiesResponse>, Status> {
        let capabilities = [rpc::Type::CreateDeleteVolume, rpc::Type::CreateDeleteSnapshot]
            .map(|kind| csi::ControllerServiceCapability { r#type: Some(Type::Rpc(Rpc { r#type: kind.into() })) });
        Ok(Response::new(csi::ControllerGetCapabilitiesResponse { capabilities: capabilities.into() }))
    }

    async fn create_snapshot(
        &self,
        request: Request<csi::CreateSnapshotRequest>,
    ) -> Result<Response<csi::CreateSnapshotResponse>, Status> {
        let (driver, request) = (self.driver.clone(), request.into_inner());
        let faults = Faults::read(&request.parameters)?;
        if faults != Faults::default() {
            tracing::warn!(snapshot = request.name, ?faults, "the snapshot class asks for faults");
        }
        if faults.hang {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(faults.delay).await;
        if let Some(message) = faults.fail {
            return Err(Status::internal(message));
        }
        let snapshot = blocking(move || {
            request::check_name(&request.name)?;
            request::check_name(&request.source_volume_id)?;
            let snapshot = snapshots::create(&driver, &request.name, &request.source_volume_id)?;
            Ok(describe_snapshot(snapshot, &driver.node))
        })
        .await?;
        tokio::time::sleep(faults.answer_delay).await;
        Ok(Response::new(csi::CreateSnapshotResponse { snapshot: Some(snapshot) }))
    }

    async fn delete_snapshot(
        &self,
        request: Request<csi::DeleteSnapshotRequest>,
    ) -> Result<Response<csi::DeleteSnapshotResponse>, Status> {
        let (driver, id) = (self.driver.clone(), request.into_inner().snapshot_id);
        blocking(move || delete_snapshot(&driver, &id)).await?;
        Ok(Response::new(csi::DeleteSnapshotResponse {}))
    }
}

fn validate(
    driver: &Driver,
    request: csi::ValidateVolumeCapabilitiesRequest,
) -> Result<csi::ValidateVolumeCapabilitiesResponse, Error> {
    request::check_name(&request.volume_id)?;
    let volume_capabilities = request.volume_capabilities;
    if volume_capabilities.is_empty() {
        return Err(Error::Invalid("the volume capabilities are missing".into()));
    }
    if driver.store.volume(&request.volume_id)?.is_none() {
        return Err(Error::NotFound(format!("there is no volume {}", request.volume_id)));
    }
    let refused = volume_capabilities.iter().find_map(|capability| request::check_capability(Some(capability)).err());
    Ok(match refused {
        None => csi::ValidateVolumeCapabilitiesResponse {
            confirmed: Some(Confirmed { volume_capabilities }),
            message: String::new(),
        },
        Some(why) => {
            csi::ValidateVolumeCapabilitiesResponse { confirmed: None, message: Status::from(why).message().to_owned() }
        }
    })
}

fn delete_snapshot(driver: &Driver, id: &str) -> Result<(), Error> {
    if id.is_empty() {
        return Err(Error::Invalid("the snapshot's id is missing".into()));
    }
    match SnapshotId::parse(id) {
        Some(snapshot) if snapshot.node == driver.node => snapshots::delete(driver, &snapshot.name),
        Some(snapshot) => {
            Err(Error::Precondition(format!("the snapshot {id} can be deleted on node {} only", snapshot.node)))
        }
        // Never given out, so it does not exist.
        None => Ok(()),
    }
}

fn describe_volume(volume: Volume, node: &str) -> csi::Volume {
    use csi::volume_content_source::{SnapshotSource, Type};
    csi::Volume {
        capacity_bytes: volume.capacity_bytes.cast_signed(),
        volume_id: volume.id,
        content_source: volume.source_snapshot.map(|snapshot_id| csi::VolumeContentSource {
            r#type: Some(Type::Snapshot(SnapshotSource { snapshot_id })),
        }),
        accessible_topology: vec![identity::topology(node)],
    }
}

fn describe_snapshot(snapshot: Snapshot, node: &str) -> csi::Snapshot {
    let nanos = snapshot.created_unix_nanos;
    csi::Snapshot {
        size_bytes: snapshot.size_bytes.cast_signed(),
        snapshot_id: SnapshotId { node: node.to_owned(), name: snapshot.name }.to_string(),
        source_volume_id: snapshot.source_volume_id,
        creation_time: Some(prost_types::Timestamp {
            seconds: (nanos / NANOS_PER_SECOND).cast_signed(),
            // Less than 10⁹, so it fits.
            nanos: (nanos % NANOS_PER_SECOND) as i32,
        }),
        ready_to_use: true,
    }
}
