//! CSI drivers that do not get on with a filesystem that Stillpoint has frozen, by name. Pure data; drivers that are not here are
//! not known to have the trouble.

use std::collections::BTreeMap;

/// What a driver does when it takes a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    /// It suspends the block device under the filesystem. That freezes the filesystem once more, as the same holder as ours, and
    /// after both have let go the device can be left marked as frozen: no later mount succeeds ("Can't mount, blockdev is frozen").
    SuspendsDevice,
    /// It freezes and thaws the filesystem itself, and so ends our hold.
    Freezes,
}

/// A driver, and the parameter of a snapshot class that makes it leave that alone, if there is one.
struct Driver {
    name: &'static str,
    does: Does,
    unless: Option<(&'static str, &'static str)>,
}

const fn suspends_device(name: &'static str) -> Driver {
    Driver { name, does: Does::SuspendsDevice, unless: None }
}

const DRIVERS: &[Driver] = &[
    suspends_device("linstor.csi.linbit.com"),
    suspends_device("local.csi.openebs.io"),
    suspends_device("lvm.driver.harvesterhci.io"),
    suspends_device("topolvm.cybozu.com"),
    suspends_device("topolvm.io"),
    Driver { name: "io.openebs.csi-mayastor", does: Does::Freezes, unless: Some(("quiesceFs", "none")) },
];

/// Why a frozen filesystem on a volume of this driver must not be cut with a class of these parameters, and the way out, as the end
/// of a sentence.
pub fn excludes(driver: &str, parameters: &BTreeMap<String, String>) -> Option<String> {
    let Driver { does, unless, .. } = DRIVERS.iter().find(|known| known.name == driver)?;
    if unless.is_some_and(|(key, value)| parameters.get(key).is_some_and(|is| is == value)) {
        return None;
    }
    let does = match does {
        Does::SuspendsDevice => {
            "suspends the block device for a snapshot, and with a filesystem that is frozen already the volume could not be mounted any more afterwards (\"Can't mount, blockdev is frozen\")"
        }
        Does::Freezes => "freezes and thaws the filesystem itself for a snapshot, and so would end the hold",
    };
    let way_out = match unless {
        Some((key, value)) => {
            format!("set the parameter {key}: {value} in its VolumeSnapshotClass, or leave the claim out")
        }
        None => "leave the claim out of the group".to_owned(),
    };
    Some(format!("its driver {driver} {does}; {way_out}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn drivers_that_freeze_are_excluded_unless_their_class_says_that_they_do_not() {
        let excluded = |driver, parameters: &[(&str, &str)]| {
            let parameters = parameters.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            excludes(driver, &parameters.collect())
        };
        for driver in ["topolvm.io", "local.csi.openebs.io", "linstor.csi.linbit.com", "lvm.driver.harvesterhci.io"] {
            let why = excluded(driver, &[("quiesceFs", "none")]).unwrap();
            assert!(why.contains(driver) && why.contains("blockdev is frozen") && why.contains("leave the claim out"));
        }
        let mayastor = "io.openebs.csi-mayastor";
        assert!(excluded(mayastor, &[]).unwrap().contains("quiesceFs: none"), "left out, it freezes");
        assert!(excluded(mayastor, &[("quiesceFs", "freeze")]).is_some());
        assert_eq!(excluded(mayastor, &[("quiesceFs", "none")]), None);
        assert_eq!(excluded("ebs.csi.aws.com", &[]), None);
    }
}
