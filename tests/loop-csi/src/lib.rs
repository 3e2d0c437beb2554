//! A CSI driver for tests and demonstrations. **Not for production.**
//!
//! Each volume is a sparse image file on the node's own disk, holding a filesystem of its own and mounted through a
//! loop device, so that it can really be suspended with FIFREEZE. A snapshot is a copy of the image file: a reflink
//! where the disk can, else a copy of the file's data.
//!
//! From the wire inwards: [`identity`], [`controller`] and [`node`] answer the three CSI services, [`registration`]
//! makes the driver known to the kubelet. [`volumes`] and [`snapshots`] carry the calls out; [`state`] says which volumes
//! and snapshots exist. [`image`], [`loopdev`],
//! [`mounts`], [`suspend`] and [`tools`] act on the machine.

pub mod controller;
pub mod driver;
pub mod error;
pub mod faults;
pub mod filesystem;
pub mod identity;
pub mod image;
pub mod limits;
pub mod loopdev;
pub mod mounts;
pub mod node;
pub mod registration;
pub mod request;
pub mod server;
pub mod snapshots;
pub mod state;
pub mod suspend;
pub mod tools;
pub mod volumes;

/// The Container Storage Interface's messages and services.
#[allow(missing_docs)]
pub mod csi {
    tonic::include_proto!("csi.v1");
}

/// The kubelet's plugin registration service.
#[allow(missing_docs)]
pub mod pluginregistration {
    tonic::include_proto!("pluginregistration");
}
