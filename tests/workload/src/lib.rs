//! An application spread over several volumes whose data shows whether they were cut at one common point in time.
//!
//! An ordered [`writer`] puts record n on store A, then on B, then on C, each on disk before the next, and only then begins
//! record n+1. So at every moment A holds at least as many records as B, B as many as C, and A at most one more than C. A cut
//! that shows anything else is torn; [`order`] is that rule. [`lock`] is the application that does not let go.

pub mod check;
pub mod http;
pub mod limits;
pub mod lock;
pub mod log;
pub mod order;
pub mod record;
pub mod shutdown;
pub mod stats;
pub mod store;
pub mod writer;
