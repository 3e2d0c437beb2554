//! The bounds that the API states itself. Whatever else is bounded stands in `stillpoint_core::limits`, which has these too.

use std::time::Duration;

/// Members of one group.
pub const MAX_MEMBERS: usize = 100;
/// Labels that a spec may ask for on every replica; annotations as many.
pub const MAX_REPLICA_LABELS: usize = 16;
/// Characters of one annotation that a spec asks for.
pub const MAX_REPLICA_ANNOTATION: usize = 256;
/// Largest `spec.retry.limit`: attempts after the first one.
pub const MAX_RETRIES: u32 = 10;
/// Shortest `spec.retry.coolDown`.
pub const COOL_DOWN_MIN: Duration = Duration::from_secs(1);
/// Longest `spec.retry.coolDown`.
pub const COOL_DOWN_MAX: Duration = Duration::from_secs(3_600);
const _: () = assert!(COOL_DOWN_MIN.as_nanos() < COOL_DOWN_MAX.as_nanos());

/// The longest `spec.ttlSecondsAfterFinished`: ten years.
pub const MAX_TTL_SECONDS: u32 = 10 * 365 * 86_400;
