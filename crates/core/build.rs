//! Compiles the messages between controller and agents. protox needs no installed protoc.

/// Messages that hold lists or a oneof, which takes the attribute too.
const NESTED: [&str; 6] = ["ControllerMessage", "AgentMessage", "Prepare", "Waiting", "Pending", "NotReady"];

fn main() -> anyhow::Result<()> {
    let (folder, proto) = ("../../proto", "../../proto/agent.proto");
    println!("cargo:rerun-if-changed={proto}");
    let descriptors = protox::compile([proto], [folder])?;
    // The hold's state machine keeps messages, and a model checker tells its states apart by hash. prost derives both for flat
    // messages only.
    let mut build = prost_build::Config::new();
    for message in NESTED {
        build.type_attribute(format!(".stillpoint.agent.v1alpha1.{message}"), "#[derive(Eq, Hash)]");
    }
    // Few have one, and every command would be as large.
    build.boxed(".stillpoint.agent.v1alpha1.Prepare.how");
    build.compile_fds(descriptors)?;
    Ok(())
}
