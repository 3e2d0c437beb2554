//! `ConsistencyGroupReplication`: one run.

mod spec;
mod status;

pub use spec::*;
pub use status::*;
