//! The controller's certificates: a CA of its own, kept in a Secret, and a server certificate that lives in memory.
//!
//! Agents trust this CA alone. Its public half reaches them through a ConfigMap ([`super::publish`]); its key never leaves
//! the controller's namespace.

mod authority;
mod secret;
mod server;

pub use authority::{Authority, Unusable};
pub use secret::{KeepError, keep};
pub use server::{ServerCertificate, server_names};
