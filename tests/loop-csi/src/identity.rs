//! Who the driver is: its names, and the CSI Identity service.

use tonic::{Request, Response, Status};

use crate::csi;
use crate::csi::plugin_capability::{Service, Type, service};

/// The driver's name, as StorageClasses and VolumeSnapshotClasses give it.
pub const DRIVER_NAME: &str = "loop.csi.stillpoint.io";

/// The node label that ties a volume to the node whose disk has its image.
pub const TOPOLOGY_KEY: &str = "topology.loop.csi.stillpoint.io/node";

/// The topology of volumes on `node`.
pub fn topology(node: &str) -> csi::Topology {
    csi::Topology { segments: [(TOPOLOGY_KEY.to_owned(), node.to_owned())].into() }
}

/// Answers the CSI Identity service.
#[derive(Clone, Copy, Debug)]
pub struct IdentityService;

#[tonic::async_trait]
impl csi::identity_server::Identity for IdentityService {
    async fn get_plugin_info(
        &self,
        _: Request<csi::GetPluginInfoRequest>,
    ) -> Result<Response<csi::GetPluginInfoResponse>, Status> {
        Ok(Response::new(csi::GetPluginInfoResponse {
            name: DRIVER_NAME.to_owned(),
            vendor_version: env!("CARGO_PKG_VERSION").to_owned(),
        }))
    }

    async fn get_plugin_capabilities(
        &self,
        _: Request<csi::GetPluginCapabilitiesRequest>,
    ) -> Result<Response<csi::GetPluginCapabilitiesResponse>, Status> {
        let capabilities = [service::Type::ControllerService, service::Type::VolumeAccessibilityConstraints]
            .map(|kind| csi::PluginCapability { r#type: Some(Type::Service(Service { r#type: kind.into() })) });
        Ok(Response::new(csi::GetPluginCapabilitiesResponse { capabilities: capabilities.into() }))
    }

    async fn probe(&self, _: Request<csi::ProbeRequest>) -> Result<Response<csi::ProbeResponse>, Status> {
        Ok(Response::new(csi::ProbeResponse { ready: Some(true) }))
    }
}
