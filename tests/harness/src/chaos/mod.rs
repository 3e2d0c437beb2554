//! Faults on a real cluster while a group is cut, one after the other, and a judgement of each.
//!
//! [`plan`] says which [`kind`] of fault comes at which moment of a run; it is pure. [`case`] carries one of them out: it makes
//! the run reach the moment, [`inject`] breaks something, [`guard`] mends it whatever becomes of this program, and the writers
//! are asked how long they stood still. [`settle`] judges what only shows after a while: cuts, and what was left behind.
//! [`report`] tells it all.

pub mod application;
pub mod case;
pub mod direct;
pub mod follow;
pub mod guard;
pub mod inject;
pub mod kind;
pub mod limits;
pub mod outcome;
pub mod plan;
pub mod report;
pub mod settle;
