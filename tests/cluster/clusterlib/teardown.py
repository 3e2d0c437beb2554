"""Taking a cluster (or what a crash left of one) away: no process, mount, network device, loop device or file remains.

Works from what the kernel says, not from records of ours, so it works after any crash.
"""

import os
import shutil
from pathlib import Path

from . import cgroups, daemons, loops, sysctls
from .identity import CONTROL_PLANE, ENGINE, MAX_NODES
from .machines import INIT, init_daemon
from .programs import ClusterError, run, wait_until

KILL_SECONDS = 30


def down(cluster, images=None):
    """Everything of the cluster; fine to call when there is nothing. Images of loop devices lie below its state, or below
    the part of it that is given as `images`."""
    scope, images = cluster.scope, images or cluster.state
    thaw_loops(images)
    kill_all(scope, lambda: thaw_loops(images))
    loops.release(images)
    run(["ip", "link", "delete", cluster.host_interface], check=False)  # Gone already, unless the cluster was half made.
    cgroups.remove(scope)
    sysctls.restore(cluster)
    remove_directory(cluster.state)


def kill_all(scope, unblock=lambda: None):
    """Kill every process of the scope. A writer to a frozen filesystem, or a process in a frozen group, cannot die before
    it is thawed, and an agent may freeze once more while we are at it: so thaw again until nobody is left."""
    machines = [CONTROL_PLANE, ENGINE, *(f"node{number}" for number in range(1, MAX_NODES + 1))]
    inits = set()

    def gone():
        cgroups.thaw(scope)
        inits.update(filter(None, (daemons.find(scope, init_daemon(machine), INIT) for machine in machines)))
        left = cgroups.processes(scope)
        for pid in left:
            daemons.kill(pid)
        # An init leaves its group before the last of its machine's processes is gone.
        if not left and all(daemons.has_ended(pid) for pid in inits):
            return True
        unblock()
        return False

    wait_until(f"the processes of {scope} to end; see `ps -eo pid,stat,wchan,args`", gone, seconds=KILL_SECONDS)


def thaw_loops(state):
    if os.path.exists(state):
        for device in loops.of(state):
            loops.thaw(device, state)


def remove_directory(path):
    """Remove state. A mount that is still below it would be somebody's data: refuse."""
    mount_points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    mounted = [each for each in mount_points if each.startswith(f"{path}/")]
    if mounted:
        raise ClusterError(f"still mounted: {', '.join(mounted)}. Unmount it, then run `tests/cluster/cluster down` again")
    if path.exists():
        shutil.rmtree(path)
    remove_if_empty(path.parent)


def remove_if_empty(directory):
    """Remove a directory that no other cluster uses."""
    try:
        directory.rmdir()
    except OSError:
        pass
