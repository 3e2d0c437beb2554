//! Compiles the service between controller and agents. Its messages are `stillpoint_core::wire`.

fn main() -> anyhow::Result<()> {
    let proto = "proto/agent.proto";
    println!("cargo:rerun-if-changed={proto}");
    let descriptors = protox::compile([proto], ["proto"])?;
    tonic_prost_build::configure()
        .extern_path(".stillpoint.agent.v1alpha1", "::stillpoint_core::wire")
        .compile_fds(descriptors)?;
    Ok(())
}
