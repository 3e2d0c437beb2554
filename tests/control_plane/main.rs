//! Tests against a real kube-apiserver and etcd, without kubelets: `make control-plane` starts them and sets KUBECONFIG.

#![allow(clippy::expect_used, reason = "a test ends with the sentence of what it expected")]

mod fixture;
mod validation;
