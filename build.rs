//! Compiles the protocol between controller and agents. protox needs no installed protoc.

fn main() -> anyhow::Result<()> {
    let proto = "proto/agent.proto";
    println!("cargo:rerun-if-changed={proto}");
    let descriptors = protox::compile([proto], ["proto"])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
