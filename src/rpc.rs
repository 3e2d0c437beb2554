//! The service that carries the messages of [`stillpoint_core::wire`]: generated from `proto/agent.proto`.

#![allow(missing_docs, reason = "documented in proto/agent.proto")]

tonic::include_proto!("stillpoint.agent.v1alpha1");
