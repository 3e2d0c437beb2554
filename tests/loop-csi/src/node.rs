//! The CSI Node service: brings this node's volumes into its pods.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use tonic::{Request, Response, Status};

use crate::csi;
use crate::csi::node_service_capability::{Rpc, Type, rpc};
use crate::csi::volume_usage::Unit;
use crate::driver::{Driver, blocking};
use crate::error::Error;
use crate::{identity, mounts, request, volumes};

/// Answers the CSI Node service.
#[derive(Clone, Debug)]
pub struct NodeService {
    /// The node's driver.
    pub driver: Arc<Driver>,
}

#[tonic::async_trait]
impl csi::node_server::Node for NodeService {
    async fn node_stage_volume(
        &self,
        request: Request<csi::NodeStageVolumeRequest>,
    ) -> Result<Response<csi::NodeStageVolumeResponse>, Status> {
        let (driver, request) = (self.driver.clone(), request.into_inner());
        blocking(move || {
            request::check_name(&request.volume_id)?;
            let staging = read_path(request.staging_target_path)?;
            let fs_type = request::check_capability(request.volume_capability.as_ref())?;
            volumes::stage(&driver, &request.volume_id, &staging, fs_type)
        })
        .await?;
        Ok(Response::new(csi::NodeStageVolumeResponse {}))
    }

    async fn node_unstage_volume(
        &self,
        request: Request<csi::NodeUnstageVolumeRequest>,
    ) -> Result<Response<csi::NodeUnstageVolumeResponse>, Status> {
        let (driver, request) = (self.driver.clone(), request.into_inner());
        blocking(move || {
            request::check_name(&request.volume_id)?;
            volumes::unstage(&driver, &request.volume_id, &read_path(request.staging_target_path)?)
        })
        .await?;
        Ok(Response::new(csi::NodeUnstageVolumeResponse {}))
    }

    async fn node_publish_volume(
        &self,
        request: Request<csi::NodePublishVolumeRequest>,
    ) -> Result<Response<csi::NodePublishVolumeResponse>, Status> {
        let (driver, request) = (self.driver.clone(), request.into_inner());
        blocking(move || {
            request::check_name(&request.volume_id)?;
            request::check_capability(request.volume_capability.as_ref())?;
            let (staging, target) = (read_path(request.staging_target_path)?, read_path(request.target_path)?);
            volumes::publish(&driver, &request.volume_id, &staging, &target, request.readonly)
        })
        .await?;
        Ok(Response::new(csi::NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<csi::NodeUnpublishVolumeRequest>,
    ) -> Result<Response<csi::NodeUnpublishVolumeResponse>, Status> {
        let (driver, request) = (self.driver.clone(), request.into_inner());
        blocking(move || {
            request::check_name(&request.volume_id)?;
            volumes::unpublish(&driver, &request.volume_id, &read_path(request.target_path)?)
        })
        .await?;
        Ok(Response::new(csi::NodeUnpublishVolumeResponse {}))
    }

    async fn node_get_volume_stats(
        &self,
        request: Request<csi::NodeGetVolumeStatsRequest>,
    ) -> Result<Response<csi::NodeGetVolumeStatsResponse>, Status> {
        let request = request.into_inner();
        let usage = blocking(move || {
            request::check_name(&request.volume_id)?;
            usage_of(Path::new(&request.volume_path))
        })
        .await?;
        Ok(Response::new(csi::NodeGetVolumeStatsResponse { usage }))
    }

    async fn node_get_capabilities(
        &self,
        _: Request<csi::NodeGetCapabilitiesRequest>,
    ) -> Result<Response<csi::NodeGetCapabilitiesResponse>, Status> {
        let capabilities = [rpc::Type::StageUnstageVolume, rpc::Type::GetVolumeStats]
            .map(|kind| csi::NodeServiceCapability { r#type: Some(Type::Rpc(Rpc { r#type: kind.into() })) });
        Ok(Response::new(csi::NodeGetCapabilitiesResponse { capabilities: capabilities.into() }))
    }

    async fn node_get_info(
        &self,
        _: Request<csi::NodeGetInfoRequest>,
    ) -> Result<Response<csi::NodeGetInfoResponse>, Status> {
        Ok(Response::new(csi::NodeGetInfoResponse {
            node_id: self.driver.node.clone(),
            accessible_topology: Some(identity::topology(&self.driver.node)),
        }))
    }
}

fn read_path(path: String) -> Result<PathBuf, Error> {
    let path = PathBuf::from(path);
    match path.is_absolute() {
        true => Ok(path),
        false => Err(Error::Invalid(format!("{:?} is not an absolute path", path.display()))),
    }
}

fn usage_of(path: &Path) -> Result<Vec<csi::VolumeUsage>, Error> {
    if path.as_os_str().is_empty() {
        return Err(Error::Invalid("the volume's path is missing".into()));
    }
    if mounts::mount_at(path)?.is_none() {
        return Err(Error::NotFound(format!("nothing is mounted at {}", path.display())));
    }
    let stats = rustix::fs::statvfs(path).with_context(|| format!("asking for the usage of {}", path.display()))?;
    let usage = |unit: Unit, scale: u64, available: u64, total: u64, free: u64| csi::VolumeUsage {
        available: (available * scale).cast_signed(),
        total: (total * scale).cast_signed(),
        used: (total.saturating_sub(free) * scale).cast_signed(),
        unit: unit.into(),
    };
    Ok(vec![
        usage(Unit::Bytes, stats.f_frsize, stats.f_bavail, stats.f_blocks, stats.f_bfree),
        usage(Unit::Inodes, 1, stats.f_favail, stats.f_files, stats.f_ffree),
    ])
}
