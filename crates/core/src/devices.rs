//! Block devices that their driver suspends by itself.

/// A driver that suspends its devices while it makes a snapshot of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// The kernel's device mapper: LVM, thin volumes, everything that is not known to be another use of it.
    DeviceMapper,
    /// DRBD, whose volumes LINSTOR suspends.
    Drbd,
}

/// DRBD's major number (Documentation/admin-guide/devices.txt).
const DRBD: &str = "147";

/// Uses of the device mapper that no snapshot suspends: several paths to a device of an array, encryption. Both lie above what is
/// cut.
const TRANSPARENT: [&str; 2] = ["mpath-", "CRYPT-"];

/// The driver that suspends a device by itself, given the device's number (`major:minor`) and, if the device mapper made it, the UUID
/// that says what for (`dm/uuid`).
pub fn driver(number: &str, mapped: Option<&str>) -> Option<Driver> {
    if number.split(':').next() == Some(DRBD) {
        return Some(Driver::Drbd);
    }
    let uuid = mapped?;
    // A partition of a mapped device is one of its own: part1-mpath-….
    let of = match uuid.strip_prefix("part").map(|rest| rest.trim_start_matches(|digit: char| digit.is_ascii_digit())) {
        Some(rest) => rest.strip_prefix('-').unwrap_or(uuid),
        None => uuid,
    };
    (!TRANSPARENT.iter().any(|prefix| of.starts_with(prefix))).then_some(Driver::DeviceMapper)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_its_driver_suspends_is_known() {
        let devices = [
            ("259:0", None, None),
            ("7:3", None, None),
            ("252:16", None, None),
            ("147:1000", None, Some(Driver::Drbd)),
            ("254:0", Some("LVM-k1kaR6hXbWyTqGzYAC7VhVFEP2GcrW5w0GnNEvUK"), Some(Driver::DeviceMapper)),
            ("254:1", Some(""), Some(Driver::DeviceMapper)),
            ("254:2", Some("DM-of-somebody"), Some(Driver::DeviceMapper)),
            ("254:3", Some("part1-LVM-k1ka"), Some(Driver::DeviceMapper)),
            ("254:4", Some("partition"), Some(Driver::DeviceMapper)),
            ("254:5", Some("mpath-3600a098000f4a4"), None),
            ("254:6", Some("part12-mpath-3600a098000f4a4"), None),
            ("254:7", Some("CRYPT-LUKS2-9c0d-pvc-1"), None),
            ("1470:1", None, None),
        ];
        for (number, mapped, expected) in devices {
            assert_eq!(driver(number, mapped), expected, "{number} {mapped:?}");
        }
    }
}
