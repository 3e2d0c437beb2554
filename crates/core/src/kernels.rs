//! What is known of kernels under a suspension. `docs/kernels.md` tells the same to people.

/// Faults of a kernel with this release (uname(2)), each a sentence. A distribution may have mended one without another number.
pub fn known(release: &str) -> Vec<&'static str> {
    const FAULTS: [((u32, u32), &str); 2] = [
        (
            (6, 12),
            "before Linux 6.12 an ext4 filesystem mounted with errors=remount-ro can deadlock when it fails while it is suspended: \
             mount it with errors=continue",
        ),
        (
            (6, 12),
            "before Linux 6.12 a suspension can wait without end for a process that writes with O_DIRECT through io_uring: let \
             that application write otherwise, or leave its volume out",
        ),
    ];
    let Some(version) = version(release) else { return Vec::new() };
    FAULTS.iter().filter(|(mended, _)| version < *mended).map(|(_, fault)| *fault).collect()
}

/// `6.1` of `6.1.0-13-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|other: char| !other.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_known_by_version() {
        for (release, faults) in [
            ("6.1.0-13-amd64", 2),
            ("5.15.0-1051-aws", 2),
            ("6.12.1", 0),
            ("6.18.44-x", 0),
            ("7.0", 0),
            ("odd", 0),
            ("", 0),
        ] {
            assert_eq!(known(release).len(), faults, "{release}");
        }
    }
}
