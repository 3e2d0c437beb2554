//! Compiles the protocol between controller and agents. protox needs no installed protoc.

/// Messages that hold lists or a oneof, which takes the attribute too.
const NESTED: [&str; 5] = ["ControllerMessage", "AgentMessage", "Prepare", "Waiting", "NotReady"];

fn main() -> anyhow::Result<()> {
    let proto = "proto/agent.proto";
    println!("cargo:rerun-if-changed={proto}");
    let descriptors = protox::compile([proto], ["proto"])?;
    // The hold's state machine keeps messages, and a model checker tells its states apart by hash. prost derives both for flat
    // messages only.
    let mut build = tonic_prost_build::configure();
    for message in NESTED {
        build = build.type_attribute(format!(".stillpoint.agent.v1alpha1.{message}"), "#[derive(Eq, Hash)]");
    }
    build.compile_fds(descriptors)?;
    Ok(())
}
