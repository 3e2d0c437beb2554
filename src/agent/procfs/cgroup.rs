//! `/proc/PID/cgroup` (cgroups(7)): from it, the container that a process runs in.

/// Length of a container id: every CRI runtime uses 64 hexadecimal digits.
const ID_DIGITS: usize = 64;

/// The container ids in the paths, outermost first and without repeats.
///
/// Knows no runtime: an id stands alone (`/kubepods/burstable/pod…/<id>`, or `/../<id>` seen from the private cgroup
/// namespace of a sibling container) or within a name (`cri-containerd-<id>.scope`). There can be several: a node that
/// is itself a container stands further out, a container made by the application further in.
pub fn container_ids(text: &str) -> Vec<&str> {
    let mut ids = Vec::new();
    for path in text.lines().filter_map(|line| line.splitn(3, ':').nth(2)) {
        for word in path.split(|c: char| !c.is_ascii_alphanumeric()) {
            let is_id = word.len() == ID_DIGITS && word.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            if is_id && !ids.contains(&word) {
                ids.push(word);
            }
        }
    }
    ids
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const B: &str = "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210";

    #[test]
    fn the_forms_of_the_runtimes() {
        let pod = "pod5c4f0c3e_1f0b_4a1e_9d3c_000000000000";
        let table = [
            (format!("0::/../{A}\n"), vec![A]),
            (format!("0::/../cri-containerd-{A}.scope\n"), vec![A]),
            (
                format!(
                    "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-{pod}.slice/crio-{A}.scope/init\n"
                ),
                vec![A],
            ),
            (format!("12:pids:/kubepods/burstable/{pod}/{A}\n1:name=systemd:/kubepods/burstable/{pod}/{A}\n"), vec![A]),
            (
                format!("0::/system.slice/containerd.service/kubepods-burstable-{pod}.slice:cri-containerd:{A}\n"),
                vec![A],
            ),
            (format!("0::/docker/{A}/kubelet.slice/{B}\n"), vec![A, B]),
            (format!("0::/{A}0\n0::/x{A}\n"), vec![]),
            ("0::/\n".to_owned(), vec![]),
        ];
        for (text, expected) in table {
            assert_eq!(container_ids(&text), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_input_panics(text in "([0-9a-f]{60,68}|:|/|\n|.)*") {
            for id in container_ids(&text) {
                prop_assert_eq!(id.len(), ID_DIGITS);
            }
        }

        #[test]
        fn every_id_is_found_in_order(
            ids in proptest::collection::hash_set("[0-9a-f]{64}", 0..4),
            words in proptest::collection::vec("[a-z]{1,12}", 4),
            scope: bool,
        ) {
            let ids: Vec<String> = ids.into_iter().collect();
            let part = |(id, word): (&String, &String)| {
                if scope { format!("/{word}-{id}.scope") } else { format!("/{word}/{id}") }
            };
            let path: String = ids.iter().zip(&words).map(part).collect();
            let text = format!("4:memory:{path}\n1:name=systemd:{path}\n0::/\n");
            prop_assert_eq!(container_ids(&text), ids);
        }
    }
}
