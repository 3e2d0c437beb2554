//! Makes the driver known to the kubelet.
//!
//! The kubelet watches a directory for sockets, asks each who is behind it, and then uses the driver's own socket.

use std::path::{Path, PathBuf};

use tokio::sync::mpsc;
use tonic::{Request, Response, Status};

use crate::identity::DRIVER_NAME;
use crate::pluginregistration::registration_server::Registration;
use crate::pluginregistration::{InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse};

/// The registration socket's file name.
///
/// The `@` matters. The kubelet's gRPC client sends the socket's path, with every slash percent-encoded, as the HTTP/2
/// `:authority`. A percent sign in a host name is an error to this side's HTTP library, which resets the stream; in
/// front of an `@` it is part of the user information, where RFC 3986 allows it.
pub const SOCKET_NAME: &str = "stillpoint@loop.csi.stillpoint.io.sock";

/// Where the registration socket is, given the kubelet's plugins_registry directory.
pub fn socket(registry: &Path) -> PathBuf {
    registry.join(SOCKET_NAME)
}

/// Answers the kubelet's registration service.
#[derive(Clone, Debug)]
pub struct RegistrationService {
    /// The driver's own socket, as the kubelet sees it.
    pub endpoint: PathBuf,
    /// Told why, when the kubelet refuses the driver.
    pub refused: mpsc::Sender<String>,
}

#[tonic::async_trait]
impl Registration for RegistrationService {
    async fn get_info(&self, _: Request<InfoRequest>) -> Result<Response<PluginInfo>, Status> {
        Ok(Response::new(PluginInfo {
            r#type: "CSIPlugin".to_owned(),
            name: DRIVER_NAME.to_owned(),
            endpoint: self.endpoint.to_string_lossy().into_owned(),
            supported_versions: vec!["1.0.0".to_owned()],
        }))
    }

    async fn notify_registration_status(
        &self,
        request: Request<RegistrationStatus>,
    ) -> Result<Response<RegistrationStatusResponse>, Status> {
        let status = request.into_inner();
        if status.plugin_registered {
            tracing::info!("registered with the kubelet");
        } else {
            // Full means that the process is about to end for this very reason.
            let _ = self.refused.try_send(status.error);
        }
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}

#[cfg(test)]
mod tests {
    use tonic::codegen::http::uri::Authority;

    use super::*;

    #[test]
    fn the_kubelets_authority_for_our_socket_can_be_read() {
        let path = socket(Path::new("/var/lib/kubelet/plugins_registry"));
        let authority = path.to_str().unwrap().replace('/', "%2F");
        assert!(authority.parse::<Authority>().is_ok(), "{authority}");
        assert!(authority.replace('@', "-").parse::<Authority>().is_err(), "the @ is not needed any more");
    }
}
