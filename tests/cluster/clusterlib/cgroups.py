"""Control groups: how the processes of a cluster are found, whatever died, and how they are all killed.

Every process that we start is put into `/<scope>/system` of every hierarchy, and all containers live below `/<scope>/<node>`.
So one walk finds them all. Reading /proc/PID/environ instead could hang for ever: a process that writes to a mapping of a
frozen filesystem holds its mmap lock.

`<scope>/system/<name>` of the tracking hierarchy holds the processes of one daemon.
"""

import os
import time
from pathlib import Path

from .programs import ClusterError

MOUNT = Path("/sys/fs/cgroup")


def is_unified():
    """Whether this machine has cgroup v2 alone."""
    return (MOUNT / "cgroup.controllers").exists()


def hierarchies():
    """The mounted hierarchies: one on a pure cgroup v2 machine, about ten on a hybrid one."""
    if is_unified():
        return [MOUNT]
    found = []
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split()
        if kind in ("cgroup", "cgroup2") and where.startswith(str(MOUNT)):
            found.append(Path(where))
    if not found:
        raise ClusterError(f"no control groups are mounted below {MOUNT}: mount them (systemd does), then try again")
    return found


def tracking_hierarchy():
    """The hierarchy whose leaves tell daemons apart: the v2 one where there is one."""
    all_of_them = hierarchies()
    return next((each for each in all_of_them if (each / "cgroup.procs").exists() and not (each / "tasks").exists()),
                all_of_them[0])


def create(scope, nodes=()):
    """Make the groups of a cluster. A cpuset group takes no process before its cpus and mems are filled in."""
    for hierarchy in hierarchies():
        for path in (scope, f"{scope}/system", *(f"{scope}/{node}" for node in nodes)):
            group = hierarchy / path
            group.mkdir(exist_ok=True)
            for setting in ("cpuset.cpus", "cpuset.mems"):
                if (hierarchy / "tasks").exists() and (group / setting).exists():
                    (group / setting).write_text((group.parent / setting).read_text())
            if not (hierarchy / "tasks").exists() and path != f"{scope}/system":
                delegate(group.parent)
                delegate(group)


def delegate(group):
    """cgroup v2: let the children of `group` have its controllers."""
    for controller in (group / "cgroup.controllers").read_text().split():
        try:
            (group / "cgroup.subtree_control").write_text(f"+{controller}")
        except OSError:
            pass  # A controller that cannot be delegated here (such as one in use by a v1 hierarchy) is done without.


def entrances(scope, name):
    """The files that take a process of daemon `name` into its groups."""
    tracking = tracking_hierarchy()
    (tracking / scope / "system" / name).mkdir(exist_ok=True)
    return [(hierarchy / scope / "system" / (name if hierarchy == tracking else "") / "cgroup.procs")
            for hierarchy in hierarchies()]


def members(scope, name):
    """The processes of daemon `name`, children included."""
    try:
        return pids(tracking_hierarchy() / scope / "system" / name)
    except FileNotFoundError:
        return []


def pids(group):
    # A pid of 0 stands for a process outside our pid namespace.
    return [int(pid) for pid in (group / "cgroup.procs").read_text().split() if pid != "0"]


def groups(scope):
    """All groups of the cluster in all hierarchies, children before their parents."""
    for hierarchy in hierarchies():
        for path, _, _ in os.walk(hierarchy / scope, topdown=False):
            yield Path(path)


def processes(scope):
    """Every process of the cluster, daemons and containers."""
    found = set()
    for group in groups(scope):
        try:
            found.update(pids(group))
        except (FileNotFoundError, OSError):
            pass  # The group went away while we walked.
    return found


def thaw(scope):
    """Let frozen groups run. A process in a frozen v1 group takes no SIGKILL."""
    for group in groups(scope):
        for setting, value in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
            try:
                if (group / setting).exists():
                    (group / setting).write_text(value)
            except OSError:
                pass


def remove(scope, seconds=10):
    """Remove the groups. The kernel lets go of a group a moment after its last process is gone."""
    deadline = time.monotonic() + seconds
    while True:
        refused = None
        for group in groups(scope):
            try:
                group.rmdir()
            except FileNotFoundError:
                pass
            except OSError as error:
                refused = error
        if refused is None:
            return
        if time.monotonic() > deadline:
            raise ClusterError(f"cannot remove a control group of {scope}: {refused}")
        time.sleep(0.05)
