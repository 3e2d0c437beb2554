"""A machine: a set of namespaces (mount, network, process, host name) with an init of its own.

Everything hangs on that init. When it is killed the kernel kills every process of the machine, drops its mounts, its network
devices and its firewall rules. So there is little that a crash can leave behind.

The control plane is a machine too, and the bridge is inside it: the host only sees the end of one wire, so that a firewall
of the host (such as Docker's) does not sit between the nodes. No machine has a way out: the control plane, their default
route, forwards nothing.
"""

from pathlib import Path

from . import daemons, parts
from .identity import CONTROL_PLANE
from .programs import ClusterError, run, wait_until

INIT = "pause"
BRIDGE = "bridge"


def init_daemon(machine):
    return f"{machine}.init"


def init_pid(cluster, machine):
    return daemons.find(cluster.scope, init_daemon(machine), INIT)


def entry(cluster, machine):
    """The words before a command that make it run inside a machine.

    Not `ip netns exec`: that mounts a new /sys, which hides the control groups.
    """
    pid = init_pid(cluster, machine)
    if pid is None:
        raise ClusterError(f"{machine} is not running: run `tests/cluster/cluster up` (or look at `cluster status`)")
    return ["nsenter", "-t", str(pid), "-m", "-n", "-p", "-u", "--wd=/", "--"]


def run_in(cluster, machine, argv, **options):
    return run([*entry(cluster, machine), *argv], **options)


def start_daemon(cluster, machine, component, argv, env=None):
    """Start a component inside a machine, in the background."""
    return daemons.start(cluster.scope, f"{machine}.{component}", [*entry(cluster, machine), *argv],
                         log=component_log(cluster, machine, component), env=env)


def component_log(cluster, machine, component):
    return cluster.logs / f"{machine}.{component}.log"


def component_pid(cluster, machine, component):
    return daemons.find(cluster.scope, f"{machine}.{component}", component)


def start_machine(cluster, machine):
    """Make the namespaces, and mark every mount of the new machine private to it."""
    log = component_log(cluster, machine, "init")
    daemons.start(cluster.scope, init_daemon(machine),
                  ["unshare", "--mount", "--propagation", "private", "--net", "--pid", "--uts", "--fork", "--kill-child",
                   "--mount-proc", parts.program(INIT)], log=log)
    wait_until(f"the init of {machine} (log: {log})", lambda: init_pid(cluster, machine), seconds=10, every=0.01)
    run_in(cluster, machine, ["hostname", machine])
    run_in(cluster, machine, ["ip", "link", "set", "lo", "up"])
    for mount_point in loop_mounts(Path("/proc/self/mountinfo").read_text()):
        # A copy of the host's mount would keep the host from detaching the loop device.
        run_in(cluster, machine, ["umount", "--no-mtab", "--lazy", mount_point], check=False)


def loop_mounts(mountinfo):
    """Where loop devices are mounted, deepest first."""
    found = []
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        if after.split()[1].startswith("/dev/loop"):
            found.append(before.split()[4].encode().decode("unicode_escape"))
    return sorted(found, reverse=True)


def start_switch(cluster, nodes):
    """The bridge, in the control plane's machine, and the host's wire to it."""
    inside = lambda *words: run_in(cluster, CONTROL_PLANE, ["ip", *words])
    prefix = cluster.machine_network.prefixlen
    inside("link", "add", BRIDGE, "type", "bridge")
    inside("address", "add", f"{cluster.api_address}/{prefix}", "dev", BRIDGE)
    inside("link", "set", BRIDGE, "up")
    run_in(cluster, CONTROL_PLANE, ["sysctl", "-qw", "net.ipv4.ip_forward=0"])
    for node in nodes:
        inside("route", "add", str(node.pod_network), "via", node.address)

    connect_host(cluster, CONTROL_PLANE)
    inside("link", "set", "host", "master", BRIDGE, "up")
    for node in nodes:  # Tests on the host talk to Pods, and a controller on the host is reached from Pods.
        run(["ip", "route", "add", str(node.pod_network), "via", node.address])


def connect_host(cluster, machine):
    """The host's wire to a machine, in which its end is called `host`."""
    run(["ip", "link", "add", cluster.host_interface, "type", "veth", "peer", "name", "host",
         "netns", init_pid(cluster, machine)])
    run(["ip", "address", "add", f"{cluster.host_address}/{cluster.machine_network.prefixlen}", "dev", cluster.host_interface])
    run(["ip", "link", "set", cluster.host_interface, "up"])


def connect_node(cluster, node, nodes):
    """The node's wire to the bridge, and its routes to the Pods of the other nodes."""
    inside = lambda *words: run_in(cluster, node.name, ["ip", *words])
    run(["ip", "link", "add", node.name, "netns", init_pid(cluster, CONTROL_PLANE),
         "type", "veth", "peer", "name", "eth0", "netns", init_pid(cluster, node.name)])
    run_in(cluster, CONTROL_PLANE, ["ip", "link", "set", node.name, "master", BRIDGE, "up"])
    inside("address", "add", f"{node.address}/{cluster.machine_network.prefixlen}", "dev", "eth0")
    inside("link", "set", "eth0", "up")
    # A Service address needs a route before kube-proxy's rules see the packet.
    inside("route", "add", "default", "via", cluster.api_address)
    for other in nodes:
        if other != node:
            inside("route", "add", str(other.pod_network), "via", other.address)
    run_in(cluster, node.name, ["sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.rp_filter=0"])
