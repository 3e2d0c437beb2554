//! Faults that a test asks for in a VolumeSnapshotClass. They exist for tests of what calls this driver, and nothing
//! else.

use std::collections::HashMap;
use std::time::Duration;

use crate::error::Error;
use crate::limits;

/// Parameters with this prefix are added by the sidecar, not written by a user.
const SIDECAR_PREFIX: &str = "csi.storage.k8s.io/";
const SNAPSHOT_NAME: &str = "csi.storage.k8s.io/volumesnapshot/name";

/// What goes wrong with one CreateSnapshot call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// `delay`: how long to wait before the copy begins.
    pub delay: Duration,
    /// `answerDelay`: how long to wait between the finished copy and the answer, so that a caller may give up on a
    /// snapshot that exists.
    pub answer_delay: Duration,
    /// `fail`: answer INTERNAL with this message, and copy nothing.
    pub fail: Option<String>,
    /// `hang: "true"`: never answer, and copy nothing.
    pub hang: bool,
}

impl Faults {
    /// Reads the parameters of a VolumeSnapshotClass.
    ///
    /// With `only`, the faults apply to VolumeSnapshots whose name contains its value, and not to others.
    ///
    /// # Errors
    /// A parameter that the driver does not know, or cannot read.
    pub fn read(parameters: &HashMap<String, String>) -> Result<Faults, Error> {
        let mut faults = Faults::default();
        let mut applies = true;
        for (key, value) in parameters {
            match key.as_str() {
                "delay" => faults.delay = read_duration(key, value)?,
                "answerDelay" => faults.answer_delay = read_duration(key, value)?,
                "fail" => faults.fail = Some(value.clone()),
                "hang" => faults.hang = read_bool(key, value)?,
                "only" => applies = parameters.get(SNAPSHOT_NAME).is_some_and(|name| name.contains(value)),
                _ if key.starts_with(SIDECAR_PREFIX) => {}
                _ => {
                    return Err(Error::Invalid(format!(
                        "VolumeSnapshotClass parameter {key:?} is not known; known are delay, answerDelay, fail, hang, only"
                    )));
                }
            }
        }
        Ok(if applies { faults } else { Faults::default() })
    }
}

/// Reads whole seconds or milliseconds, such as `3s` or `250ms`.
fn read_duration(key: &str, text: &str) -> Result<Duration, Error> {
    let milliseconds = match text.strip_suffix("ms") {
        Some(number) => number.parse().ok(),
        None => text.strip_suffix('s').and_then(|number| number.parse::<u64>().ok()).and_then(|s| s.checked_mul(1000)),
    };
    match milliseconds.map(Duration::from_millis) {
        Some(duration) if duration <= limits::FAULT_DELAY_MAX => Ok(duration),
        Some(_) => Err(Error::Invalid(format!(
            "VolumeSnapshotClass parameter {key}: {text:?} is longer than {} s",
            limits::FAULT_DELAY_MAX.as_secs()
        ))),
        None => Err(Error::Invalid(format!(
            "VolumeSnapshotClass parameter {key}: {text:?} is not a duration such as \"3s\" or \"250ms\""
        ))),
    }
}

fn read_bool(key: &str, text: &str) -> Result<bool, Error> {
    text.parse().map_err(|_| {
        Error::Invalid(format!("VolumeSnapshotClass parameter {key}: {text:?} is neither \"true\" nor \"false\""))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(parameters: &[(&str, &str)]) -> Result<Faults, Error> {
        Faults::read(&parameters.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect())
    }

    #[test]
    fn none_asked_for_is_none() {
        assert_eq!(read(&[]).unwrap(), Faults::default());
        assert_eq!(read(&[("csi.storage.k8s.io/volumesnapshot/name", "a")]).unwrap(), Faults::default());
    }

    #[test]
    fn reads_each_of_them() {
        let expected = Faults {
            delay: Duration::from_secs(3),
            answer_delay: Duration::from_millis(250),
            fail: Some("no".into()),
            hang: true,
        };
        let parameters = [("delay", "3s"), ("answerDelay", "250ms"), ("fail", "no"), ("hang", "true")];
        assert_eq!(read(&parameters).unwrap(), expected);
    }

    #[test]
    fn only_picks_snapshots_by_name() {
        let of = |name| read(&[("hang", "true"), ("only", "ledger"), (SNAPSHOT_NAME, name)]).unwrap().hang;
        assert!(of("run-1-ledger"));
        assert!(!of("run-1-orders"));
        assert!(!read(&[("hang", "true"), ("only", "ledger")]).unwrap().hang);
    }

    #[test]
    fn refuses_what_it_cannot_read() {
        for (key, value) in [("delay", "3"), ("delay", "-1s"), ("delay", "601s"), ("hang", "yes"), ("typo", "1")] {
            assert!(matches!(read(&[(key, value)]), Err(Error::Invalid(_))), "{key}={value}");
        }
        assert!(read(&[("delay", "99999999999999999999s")]).is_err());
        assert!(read(&[("delay", "18446744073709551615s")]).is_err());
    }
}
