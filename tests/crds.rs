//! The CRDs under `crds/`, and the chart's copies of them, are generated from the Rust types: `make crds` writes them.

#![allow(clippy::expect_used, reason = "a test ends with the sentence of what it expected")]

use std::collections::BTreeSet;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use support::generated::{assert_generated, in_checkout};

/// Where they are for people, and where for Helm, which reads nothing outside of its chart.
const FOLDERS: [&str; 2] = ["crds", "charts/stillpoint/files/crds"];

/// The file of every CRD, and what it must hold.
fn files() -> Vec<(String, String)> {
    let file = |crd: CustomResourceDefinition| {
        let yaml = serde_saphyr::to_string(&crd).expect("a CRD is serialisable");
        (format!("{}.yaml", crd.spec.names.plural), yaml)
    };
    stillpoint_api::crds().into_iter().map(file).collect()
}

#[test]
fn crds_are_those_of_the_types() {
    for (file, generated) in files() {
        for folder in FOLDERS {
            assert_generated(&format!("{folder}/{file}"), &generated, "make crds");
        }
    }
}

#[test]
fn no_crd_of_a_kind_that_is_gone_is_left() {
    let expected: BTreeSet<String> = files().into_iter().map(|(file, _)| file).collect();
    for folder in FOLDERS {
        let entries = std::fs::read_dir(in_checkout(folder)).expect("the folder is there");
        let found = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        assert_eq!(expected, found, "{folder}");
    }
}
