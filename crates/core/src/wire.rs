//! What controller and agents say to each other: messages generated from `proto/agent.proto`.

#![allow(missing_docs, reason = "documented in proto/agent.proto")]

include!(concat!(env!("OUT_DIR"), "/stillpoint.agent.v1alpha1.rs"));
