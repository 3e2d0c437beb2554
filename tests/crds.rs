//! The CRDs under `crds/` are generated from the Rust types. `BLESS=1 cargo test --test crds` writes them; without it the
//! test fails when they are stale.

use kube::CustomResourceExt;
use stillpoint_api::ConsistencyGroupReplication;

#[test]
fn crds_are_those_of_the_types() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/crds/consistencygroupreplications.yaml");
    let generated = serde_saphyr::to_string(&ConsistencyGroupReplication::crd()).expect("a CRD is serialisable");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(path, &generated).expect("crds/ is writable");
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(committed == generated, "{path} is stale: run `BLESS=1 cargo test --test crds`");
}
