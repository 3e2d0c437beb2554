//! `cpu.stat` of the agent's own cgroup: for how long a CPU limit has held it up.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::read;

/// For how long this process's cgroup has been held up by its CPU limit so far; `None` where that is not known, or there is no
/// limit.
pub fn throttled() -> Option<Duration> {
    let cgroups = read(Path::new("/proc/self/cgroup")).ok()?;
    let places = places(std::str::from_utf8(&cgroups).ok()?);
    places.into_iter().find_map(|place| throttled_in(&String::from_utf8_lossy(&read(&place).ok()?)))
}

/// Where the file may be: below the hierarchy's mount by the process's path, or at the mount itself, as a container sees it.
fn places(cgroups: &str) -> Vec<PathBuf> {
    let mut places = Vec::new();
    for line in cgroups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let mount = match controllers {
            "" => "/sys/fs/cgroup",
            _ if controllers.split(',').any(|controller| controller == "cpu") => "/sys/fs/cgroup/cpu",
            _ => continue,
        };
        places.extend([format!("{mount}{path}/cpu.stat").into(), format!("{mount}/cpu.stat").into()]);
    }
    places
}

/// In microseconds in the second version of cgroups, in nanoseconds in the first.
fn throttled_in(stat: &str) -> Option<Duration> {
    stat.lines().find_map(|line| match line.split_once(' ')? {
        ("throttled_usec", time) => Some(Duration::from_micros(time.parse().ok()?)),
        ("throttled_time", time) => Some(Duration::from_nanos(time.parse().ok()?)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_of_cgroups_tell() {
        let second = "usage_usec 7\nnr_periods 9\nnr_throttled 3\nthrottled_usec 250000\n";
        assert_eq!(throttled_in(second), Some(Duration::from_millis(250)));
        assert_eq!(throttled_in("nr_throttled 3\nthrottled_time 250000000\n"), Some(Duration::from_millis(250)));
        assert_eq!(throttled_in("usage_usec 7\n"), None);
    }

    #[test]
    fn the_file_is_looked_for_where_a_container_may_have_it() {
        let place = |path: &str| PathBuf::from(path);
        let found = places("9:memory:/x\n4:cpu,cpuacct:/kubepods/a\n0::/../b\n");
        let expected = ["cpu/kubepods/a/cpu.stat", "cpu/cpu.stat", "/../b/cpu.stat", "cpu.stat"];
        assert_eq!(found, expected.map(|end| place("/sys/fs/cgroup").join(end.trim_start_matches('/'))));
        assert!(places("nonsense").is_empty());
    }
}
