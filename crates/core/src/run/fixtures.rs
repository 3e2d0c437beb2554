//! What several tests of a run begin with.

use std::time::Duration;

use super::state::Request;
use stillpoint_api::{DeletionPolicy, Mode};

/// A request with the API's default timeouts, without another attempt.
pub fn request() -> Request {
    Request {
        name: "nightly".into(),
        namespace: "shop".into(),
        uid: "uid".into(),
        generation: Some(1),
        mode: Mode::Replicate,
        prepare_timeout: Duration::from_secs(30),
        hold_timeout: Duration::from_secs(10),
        deletion_policy: DeletionPolicy::Delete,
        retry: None,
        owner: None,
        epoch: 1,
    }
}
