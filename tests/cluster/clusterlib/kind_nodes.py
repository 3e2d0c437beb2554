"""Inside the nodes of a kind cluster: their processes, their filesystem tools, their Pods' network, and whether names are found.

The processes of nodes are found in this machine's /proc: their containers' control groups carry the containers' ids.
"""

import json
import os
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

from . import addons, daemons
from .identity import API_PORT
from .node import cni_config
from .programs import ClusterError, run, say, wait_until

CONTROL_PLANE_COMPONENTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
NODE_COMPONENTS = ("containerd", "kubelet", "kube-proxy")

# The tools that the test storage driver runs on a node, and the packages that hold them.
TOOLS = ("mkfs.ext4", "mkfs.xfs", "mkfs.btrfs", "btrfstune")
TOOL_PACKAGES = ("e2fsprogs", "xfsprogs", "btrfs-progs")
TOOLS_SECONDS = 600

REGISTER_SECONDS = 60
RESTART_SECONDS = 60
LOOK_UP_SECONDS = 90
REACH_SECONDS = 2


@dataclass(frozen=True)
class Member:
    """A node, as the API server knows it."""

    name: str
    address: str
    pod_network: str
    ready: bool


def members(kubeconfig):
    answer = addons.kubectl(kubeconfig, "get", "nodes", "--output=json", check=False)
    return read_members(json.loads(answer.stdout)) if answer.returncode == 0 else []


def read_members(nodes):
    """The nodes of a NodeList that have an address."""
    found = []
    for node in nodes["items"]:
        status = node.get("status", {})
        address = next((each["address"] for each in status.get("addresses", []) if each["type"] == "InternalIP"), None)
        ready = any(each["type"] == "Ready" and each["status"] == "True" for each in status.get("conditions", []))
        if address:
            found.append(Member(node["metadata"]["name"], address, node["spec"].get("podCIDR", ""), ready))
    return sorted(found, key=lambda each: each.name)


def registered(kubeconfig, count):
    """All nodes, when each of them has its share of the Pods' addresses."""
    def found():
        there = members(kubeconfig)
        return there if len(there) == count and all(each.pod_network for each in there) else None

    return wait_until(f"{count} nodes to have addresses for Pods", found, seconds=REGISTER_SECONDS, every=0.5)


def lay_pod_network(engine, nodes):
    """For a node image without a pod network: a bridge on every node, and routes to the Pods of the others."""
    for node in nodes:
        script = "cat >/etc/cni/net.d/10-pods.conflist\n"
        script += "".join(f"ip route replace {other.pod_network} via {other.address}\n" for other in nodes if other != node)
        run(engine.inside(node.name, "sh", "-euc", script), env=engine.environment, input=json.dumps(cni_config(node.pod_network)))


def is_reached(address):
    """Whether this machine has a way to a node, so that its API server is reached there and not only at a published port."""
    try:
        socket.create_connection((address, API_PORT), timeout=REACH_SECONDS).close()
        return True
    except OSError:
        return False


def require_tools(engine, node):
    """Install the filesystem tools, on nodes whose image lacks one."""
    look = " && ".join(f"command -v {tool}" for tool in TOOLS)
    if run(engine.inside(node, "sh", "-c", look), env=engine.environment, check=False).returncode == 0:
        return
    say(f"{node}: installing {' '.join(TOOL_PACKAGES)}")
    install = f"apt-get update -q && apt-get install -q --yes --no-install-recommends {' '.join(TOOL_PACKAGES)}"
    done = run(engine.inside(node, "sh", "-c", install), env=engine.environment, check=False, timeout=TOOLS_SECONDS)
    if done.returncode != 0:
        raise ClusterError(f"{node} has not all of {', '.join(TOOLS)}, and cannot install them: give its network a way out, or "
                           f"take a KIND_IMAGE that has {', '.join(TOOL_PACKAGES)}\n{done.stderr.strip()[-500:]}")


# --- Names ---------------------------------------------------------------------------------------------------------------

# The question is asked from the node's network and from the network of every Pod on it, by the address of the Service.
ASK = """
for network in /proc/self/ns/net /run/netns/*; do
    [ -e "$network" ] || continue
    nsenter --net="$network" timeout 5 bash -c 'exec 3<>"/dev/tcp/$1/53" && printf "$2" >&3 && head --bytes 14 <&3' bash "$1" "$2" |
        od --address-radix n --format x1 | tr -d ' \\n'
    echo
done
"""
QUESTION_ID = 0x5350
TYPE_A, CLASS_IN, RECURSE = 1, 1, 0x0100


def question(name):
    """A DNS query for the address of `name`, as it goes over TCP: RFC 1035, 4.1 and 4.2.2."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    message = struct.pack(">6H", QUESTION_ID, RECURSE, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">2H", TYPE_A, CLASS_IN)
    return struct.pack(">H", len(message)) + message


def is_answered(hexadecimal):
    """Whether this is the beginning of an answer to our question that names an address."""
    try:
        _, asked, flags, _, answers, _, _ = struct.unpack(">7H", bytes.fromhex(hexadecimal))
    except (ValueError, struct.error):
        return False
    return asked == QUESTION_ID and flags & 0x800F == 0x8000 and answers > 0


def look_up(engine, nodes, server, name="kubernetes.default.svc.cluster.local"):
    """Wait until every node, and every Pod that is there, finds a name: kube-proxy, the pod network and CoreDNS all work."""
    escaped = "".join(f"\\x{byte:02x}" for byte in question(name))

    def found():
        said = {node: run(engine.inside(node, "bash", "-c", ASK, "bash", server, escaped), env=engine.environment, check=False,
                          timeout=LOOK_UP_SECONDS).stdout.splitlines() for node in nodes}
        silent.clear()
        silent.extend(node for node, answers in said.items() if not answers or not all(map(is_answered, answers)))
        return not silent

    silent = []
    try:
        wait_until("names", found, seconds=LOOK_UP_SECONDS, every=1)
    except ClusterError:
        raise ClusterError(f"{name} is not found by way of the Service address {server} on {', '.join(silent)}: look at "
                           "kube-proxy, the pod network and CoreDNS in kube-system") from None


# --- Processes -----------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Process:
    pid: int
    parent: int
    program: str
    innermost_pid: int  # In the deepest of its pid namespaces.


def processes(container):
    """The processes of a container and of those inside it."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if container in (entry / "cgroup").read_text():
                fields = read_status((entry / "status").read_text())
                found.append(Process(int(entry.name), int(fields["PPid"]), daemons.executable(int(entry.name)),
                                     int(fields["NSpid"].split()[-1])))
        except OSError:
            pass  # It ended.
    return found


def read_status(text):
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}


def pick(component, found):
    """The pid of a component, or of a node's init: the first process of its namespace whose parent is outside the container."""
    if component == "init":
        inside = {each.pid for each in found}
        matching = [each for each in found if each.innermost_pid == 1 and each.parent not in inside]
    else:
        matching = [each for each in found if each.program == component]
    return min((each.pid for each in matching), default=None)


def require_local():
    if os.geteuid() != 0:
        raise ClusterError("the processes of kind's nodes are seen and killed by root, on the machine that runs their containers")


def pid(engine, node, component):
    return pick(component, processes(engine.container_id(node)))


def restart(engine, nodes, component):
    """Kill a component, where it runs, and wait until systemd or the kubelet has started it on every one of `nodes`."""
    for node in nodes:
        before = pid(engine, node, component)
        if before:
            daemons.kill(before)
        wait_until(f"{component} to start again on {node}", lambda: pid(engine, node, component) not in (None, before),
                   seconds=RESTART_SECONDS)
