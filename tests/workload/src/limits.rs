//! Every bound of the workload in one place.

use std::time::Duration;

/// Stores of one writer, and volumes of one check.
pub const MAX_STORES: usize = 64;
/// Connections that a store serves at the same time; further ones are closed at once.
pub const MAX_CONNECTIONS: usize = 32;
/// How long a connection to a store may take to open.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long one append may take before the connection is given up. A suspended volume is no error, only a long append, so
/// this is longer than the longest hold that an agent accepts.
pub const APPEND_TIMEOUT: Duration = Duration::from_secs(120);
/// Pause before the writer connects again.
pub const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
/// How long one HTTP request may take to arrive.
pub const HTTP_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of one HTTP request.
pub const MAX_HTTP_REQUEST: usize = 4096;
