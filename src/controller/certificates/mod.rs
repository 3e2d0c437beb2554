//! The controller's certificates: CAs of its own, kept in a Secret, and a server certificate that lives in memory.
//!
//! Agents trust these CAs alone. Their public half reaches them through a ConfigMap ([`super::publish`]); their keys never
//! leave the controller's namespace. [`rotation`] says when one takes the place of another, [`stored`] what the Secret then
//! holds, and [`keeper`] reads and writes it.

mod authority;
mod keeper;
mod rotation;
mod server;
mod stored;

pub use authority::{Authority, Unusable};
pub use keeper::{Clock, KeepError, Keeper};
pub use rotation::{Dates, Next, Previous, Step, step};
pub use server::{ServerCertificate, server_names};
pub use stored::{ROTATE, SECRET, Stored};
