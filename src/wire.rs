//! What controller and agents say to each other: generated from `proto/agent.proto`.

#![allow(missing_docs, reason = "documented in proto/agent.proto")]

tonic::include_proto!("stillpoint.agent.v1alpha1");
