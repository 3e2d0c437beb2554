//! Which versions the tests run on: `tests/cluster/go` has a module graph for each minor version of Kubernetes, and is the one place
//! that says so.

use std::collections::BTreeSet;

use crate::generated::in_checkout;

/// The go.mod of each version of Kubernetes.
fn graphs() -> Vec<String> {
    let folders = std::fs::read_dir(in_checkout("tests/cluster/go")).expect("the module graphs");
    let files = folders.map(|entry| entry.expect("an entry").path().join("go.mod")).filter(|file| file.exists());
    files.map(|file| std::fs::read_to_string(file).expect("a go.mod")).collect()
}

/// The versions of a Go module that a graph requires by itself, without the `v`.
///
/// # Panics
/// When none does.
pub fn of_module(module: &str) -> BTreeSet<String> {
    let graphs = graphs();
    let lines = graphs.iter().flat_map(|graph| graph.lines()).filter(|line| !line.contains("// indirect"));
    let versions =
        lines.filter_map(|line| line.trim().trim_start_matches("require ").strip_prefix(module)?.strip_prefix(" v"));
    let found: BTreeSet<String> = versions.map(str::to_owned).collect();
    assert!(!found.is_empty(), "no go.mod below tests/cluster/go requires {module}");
    found
}

/// Major and minor version of a version, such as `1.35`.
///
/// # Panics
/// When it has no third number.
pub fn minor(version: &str) -> &str {
    version.rsplit_once('.').expect("three numbers").0
}

/// The oldest minor version of Kubernetes that the tests run on, such as `1.35`.
///
/// # Panics
/// When there is no module graph.
pub fn oldest_kubernetes() -> String {
    let by_number = |version: &String| version.split('.').map(|part| part.parse().unwrap_or(0)).collect::<Vec<u32>>();
    let oldest = of_module("k8s.io/kubernetes").into_iter().min_by_key(by_number).expect("a module graph");
    minor(&oldest).to_owned()
}
