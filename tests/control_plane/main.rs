//! Tests against a real kube-apiserver and etcd, without kubelets: `make control-plane` starts them and sets KUBECONFIG.
//!
//! The controller is the real one. What is played is what a node would do: pods that run, agents that answer, and the
//! snapshot controller, so that every answer can be given on purpose.

#![allow(clippy::expect_used, reason = "a test ends with the sentence of what it expected")]

mod chart;
mod cluster;
mod cuts;
mod endings;
mod events;
mod goodbyes;
mod nodes;
mod patience;
mod phases;
mod proof;
mod publish;
mod refusals;
mod security;
mod validation;

use support::control_plane::{agents, fixture, objects, snapshots, stages};
