//! One replication: from what was asked for, what is known and the time to what is to be done and told.
//!
//! [`plan`] decides, and each stage of a run has its functions; [`membership`] says who the members are, [`resume`] takes up
//! what another controller has begun, [`report`] renders what users see.

pub mod agents;
pub mod answers;
pub mod assignments;
pub mod attempt;
pub mod conditions;
mod copies;
mod disturbances;
pub mod driver;
pub mod effect;
pub mod epochs;
pub mod expiries;
pub mod facts;
#[cfg(test)]
pub(crate) mod fixtures;
mod goodbye;
pub mod happened;
pub mod membership;
pub mod observed;
pub mod plan;
mod proof;
mod refusals;
pub mod rehearsal;
mod replicas;
pub mod report;
pub mod resume;
mod stages;
pub mod state;
pub mod stub;
pub mod sweep;
pub mod turns;
pub mod waiting;
pub mod writer;
