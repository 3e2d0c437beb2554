//! Tests against a real kube-apiserver and etcd, without kubelets: `make control-plane` starts them and sets KUBECONFIG.
//!
//! The controller is the real one. What is played is what a node would do: pods that run, agents that answer, and the
//! snapshot controller, so that every answer can be given on purpose.

#![allow(clippy::expect_used, reason = "a test ends with the sentence of what it expected")]

#[allow(dead_code, reason = "what is shared with the takeover tests is not all used here")]
mod agents;
mod chart;
mod cluster;
mod endings;
mod events;
mod fixture;
mod objects;
mod phases;
mod proof;
mod publish;
mod refusals;
mod security;
mod snapshots;
mod stages;
mod validation;
