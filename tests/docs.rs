//! The documentation keeps up with the code.

#![allow(clippy::expect_used, reason = "a test ends with the sentence of what it expected")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use stillpoint_api::Reason;
use support::versions::{minor, of_module, oldest_kubernetes};

fn path(file: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), file].iter().collect()
}

fn read(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn files(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").path()) {
        if entry.is_dir() {
            found.extend(files(&entry, extension));
        } else if entry.extension().is_some_and(|own| own == extension) {
            found.push(entry);
        }
    }
    found
}

#[test]
fn every_reason_is_explained() {
    let explained = read(&path("docs/troubleshooting.md"));
    for reason in Reason::ALL.iter().map(|reason| reason.as_str()) {
        assert!(explained.contains(&format!("`{reason}`")), "docs/troubleshooting.md does not explain {reason}");
    }
}

/// Relative links only: what lies elsewhere cannot be checked here.
#[test]
fn links_lead_to_files() {
    let mut pages = files(&path("docs"), "md");
    pages.extend(["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"].map(path));
    for page in pages {
        let text = read(&page);
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.contains("://")) {
            let file =
                page.parent().expect("a page lies in a directory").join(target.split('#').next().unwrap_or_default());
            assert!(file.exists(), "{}: {target} leads nowhere", page.display());
        }
    }
}

/// The functions of a source that are tests: Rust's, also within `proptest!`.
fn tests_in(file: &Path) -> BTreeSet<String> {
    let code = read(file);
    let mut found = BTreeSet::new();
    let mut is_test = false;
    for line in code.lines().map(str::trim) {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
        } else if let Some(name) = line.strip_prefix("async fn ").or_else(|| line.strip_prefix("fn "))
            && std::mem::take(&mut is_test)
        {
            found.insert(name.split('(').next().unwrap_or_default().to_owned());
        }
    }
    found
}

#[test]
fn every_defence_is_shown_by_a_test_that_exists() {
    let sources = ["src", "crates", "tests"].map(|folder| files(&path(folder), "rs")).concat();
    let tests: BTreeSet<String> = sources.iter().flat_map(|file| tests_in(file)).collect();
    let page = read(&path("docs/security.md"));
    let rows = page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| who"));
    let mut named = 0;
    for row in rows {
        let shown_by = row.trim_end_matches(['|', ' ']).rsplit('|').next().expect("a last column");
        let names: Vec<&str> = shown_by.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "docs/security.md names no test: {row}");
        for name in names {
            assert!(tests.contains(name), "docs/security.md: there is no test {name}");
            named += 1;
        }
    }
    assert!(named > 60, "the table was not understood: {named} tests");
}

/// A row is `| number | situation | what Stillpoint does | tests |`, a test `file::function`, and no test is `not yet`.
#[test]
fn every_case_from_the_field_is_shown_by_a_test_that_exists() {
    let page = read(&path("docs/field-cases.md"));
    let rows: Vec<Vec<&str>> = page
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| #"))
        .map(|line| line.trim_matches(['|', ' ']).split(" | ").collect())
        .collect();
    let numbers: Vec<String> = rows.iter().map(|row| row[0].to_owned()).collect();
    assert_eq!(numbers, (1..=52).map(|number: u32| number.to_string()).collect::<Vec<_>>());
    for row in rows {
        let [number, situation, does, shown_by] = row[..] else { panic!("a row has four cells: {row:?}") };
        let named = code_items(shown_by);
        if shown_by == "not yet" {
            continue;
        }
        assert!(!named.is_empty() && situation.len() > 10 && does.len() > 10, "case {number}: {row:?}");
        for test in named {
            let (file, function) = test.split_once("::").unwrap_or_else(|| panic!("case {number}: {test}"));
            assert!(path(file).exists(), "case {number}: there is no {file}");
            assert!(tests_in(&path(file)).contains(function), "case {number}: {file} has no test {function}");
        }
    }
}

/// The end-to-end test runs them; this finds a slip without a cluster.
#[test]
fn the_commands_of_the_page_on_restoring_are_shell() {
    let page = read(&path("docs/restore.md"));
    let blocks: Vec<&str> = page.split("\n```sh\n").skip(1).filter_map(|rest| rest.split("\n```").next()).collect();
    assert!(blocks.len() > 8, "the page was not understood: {blocks:?}");
    for block in blocks {
        let checked = Command::new("bash").args(["-n", "-c", block]).output().expect("bash runs");
        assert!(checked.status.success(), "{block}: {}", String::from_utf8_lossy(&checked.stderr));
    }
}

/// What nobody learns from a refusal, because it goes wrong before Stillpoint is asked, or elsewhere.
#[test]
fn what_has_to_be_said_is_said() {
    for (page, words) in [
        ("README.md", "`--take-ownership`"),
        ("README.md", "process 1"),
        ("README.md", "`dnsPolicy: ClusterFirstWithHostNet`"),
        ("README.md", "**This restarts its pods**"),
        ("README.md", "(docs/restore.md)"),
        ("docs/restore.md", "**Deleting the claim destroys the only original**"),
        ("docs/restore.md", "**The new claims have no label of the group**"),
        ("docs/restore.md", "`nouuid`"),
        ("docs/restore.md", "`kubectl delete namespace` deletes the\nVolumeSnapshots too"),
    ] {
        assert!(read(&path(page)).contains(words), "{page} does not say {words}");
    }
}

/// The words between quotation marks from `from` to the next `to`.
fn quoted(file: &str, from: &str, to: &str) -> BTreeSet<String> {
    let code = read(&path(file));
    let rest = code.split(from).nth(1).unwrap_or_else(|| panic!("{file} has no {from}"));
    let part = rest.split(to).next().unwrap_or_default();
    part.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

/// What the first cells of the rows of a section name as code, where the second cell says `how`.
fn named_in<'page>(page: &'page str, section: &str, how: &str) -> BTreeSet<&'page str> {
    let rest = page.split(&format!("\n## {section}\n")).nth(1).unwrap_or_else(|| panic!("no section {section}"));
    let rows = rest.split("\n## ").next().unwrap_or_default().lines().filter(|line| line.starts_with("| "));
    let cells = rows.map(|row| row.trim_matches(['|', ' ']).split(" | ").collect::<Vec<_>>());
    cells.filter(|cells| cells.get(1) == Some(&how)).flat_map(|cells| code_items(cells[0])).collect()
}

fn borrowed(names: &BTreeSet<String>) -> BTreeSet<&str> {
    names.iter().map(String::as_str).collect()
}

#[test]
fn the_page_on_support_names_the_versions_that_the_tests_run_on() {
    let page = read(&path("docs/support.md"));
    let oldest = oldest_kubernetes();
    assert_eq!(named_in(&page, "Kubernetes", "run here"), borrowed(&of_module("k8s.io/kubernetes")));
    assert!(page.contains(&format!("`K8S={oldest} make e2e`")), "docs/support.md does not say how {oldest} is run");
    let feature = format!("\"v{}\"", oldest.replace('.', "_"));
    assert!(read(&path("Cargo.toml")).contains(&feature), "k8s-openapi has not the feature of {oldest}, {feature}");

    let [containerd, runc] = ["github.com/containerd/containerd/v2", "github.com/opencontainers/runc"].map(of_module);
    let runtimes = named_in(&page, "Container runtimes", "run here");
    assert!(containerd.iter().chain(&runc).all(|version| runtimes.contains(&version[..])), "{containerd:?} {runc:?}");
    for (module, words) in [
        ("github.com/kubernetes-csi/external-snapshotter/v8", "external-snapshotter)\n"),
        ("github.com/kubernetes-csi/external-provisioner/v6", "the CSI provisioner is "),
        ("go.etcd.io/etcd/server/v3", "and etcd "),
    ] {
        let said = format!("{words}{}", minor(&of_module(module).into_iter().next().expect("a version")));
        assert!(page.contains(&said), "docs/support.md does not say {said:?}, as the go.mod files do");
    }
}

#[test]
fn the_page_on_support_names_the_filesystems_and_drivers_of_the_code() {
    let page = read(&path("docs/support.md"));
    let ours = quoted("tests/loop-csi/src/filesystem.rs", "pub fn name(self)", "\n    }");
    assert_eq!(named_in(&page, "Filesystems", "run here"), borrowed(&ours));
    let accepted = quoted("src/agent/dataset/exclusive.rs", "const FREEZABLE", ";\n");
    let others: BTreeSet<String> = accepted.difference(&ours).cloned().collect();
    assert_eq!(named_in(&page, "Filesystems", "read only"), borrowed(&others));

    let driver = quoted("tests/loop-csi/src/identity.rs", "DRIVER_NAME", "\n");
    assert_eq!(named_in(&page, "CSI drivers", "run here"), borrowed(&driver));
    let mut known = quoted("crates/core/src/replica/drivers.rs", "const DRIVERS", "];");
    known.retain(|word| word.contains('.'));
    assert_eq!(named_in(&page, "CSI drivers", "refused"), borrowed(&known));
}

/// What a cell of a table names as code.
fn code_items(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// Whether `name` stands in `code` as a word of its own, behind `before`.
fn says(code: &str, before: &str, name: &str) -> bool {
    let needle = format!("{before}{name}");
    let ends = |rest: &str| !rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    code.match_indices(&needle).any(|(at, _)| ends(&code[at + needle.len()..]))
}

/// Whether the sources have what the glossary names: a file or folder, an item, or a part of a type.
fn is_in_the_sources(item: &str, sources: &[(PathBuf, String)]) -> bool {
    if item.contains('/') || item.ends_with(".rs") {
        return path(item).exists() || sources.iter().any(|(file, _)| file.ends_with(item));
    }
    let defines = |code: &str, name: &str| {
        let keywords = ["struct", "enum", "trait", "fn", "const", "static", "type", "mod", "message"];
        keywords.iter().any(|keyword| says(code, &format!("{keyword} "), name))
    };
    let (owner, name) = item.rsplit_once("::").unwrap_or(("", item));
    let owner = owner.rsplit("::").next().unwrap_or_default();
    let is_part = |file: &Path, code: &str| match owner.chars().next() {
        None => defines(code, name),
        Some(first) if first.is_ascii_uppercase() => {
            let part = |line: &str| says(line.trim().trim_start_matches("pub "), "", name);
            defines(code, owner) && code.lines().any(part)
        }
        Some(_) => {
            let module = file.with_extension("");
            module.components().any(|part| part.as_os_str() == owner) && defines(code, name)
        }
    };
    sources.iter().any(|(file, code)| is_part(file, code))
}

#[test]
fn every_word_of_the_glossary_is_that_of_the_code() {
    let root = path("");
    let files = [files(&path("src"), "rs"), files(&path("crates"), "rs"), files(&path("proto"), "proto")].concat();
    let relative = |file: PathBuf| (file.strip_prefix(&root).expect("it lies in the checkout").to_owned(), read(&file));
    let sources: Vec<_> = files.into_iter().map(relative).collect();
    let page = read(&path("docs/glossary.md"));
    let rows = page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| word"));
    let cells = rows.map(|row| row.trim_end_matches(['|', ' ']).rsplit('|').next().expect("a last column"));
    let items: Vec<&str> = cells.flat_map(code_items).collect();
    let missing: Vec<_> = items.iter().filter(|item| !is_in_the_sources(item, &sources)).collect();
    assert!(missing.is_empty(), "docs/glossary.md: the sources have no {missing:?}");
    assert!(items.len() > 60, "the tables were not understood: {} items", items.len());
}

/// The workflow runs nothing that a person cannot run by the same words.
#[test]
fn the_steps_of_the_workflow_are_make_targets() {
    let makefile = read(&path("Makefile"));
    let workflow = read(&path(".github/workflows/test.yaml"));
    let steps: Vec<&str> = workflow.lines().filter_map(|line| line.trim().strip_prefix("- run: ")).collect();
    assert!(steps.len() >= 4, "{steps:?}");
    for step in steps {
        let target = step.split_once("make ").map_or("", |(_, target)| target);
        let is_one = !target.is_empty() && makefile.lines().any(|line| line.starts_with(&format!("{target}:")));
        assert!(is_one, "{step:?} does not run a target of the Makefile");
    }
}
