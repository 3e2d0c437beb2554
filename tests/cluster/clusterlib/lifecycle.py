"""Bringing the cluster up, and asking whether it is."""

import fcntl
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from . import addons, cgroups, control_plane, machines, node, parts, sysctls, teardown, toolchain, versions
from .identity import CONTROL_PLANE, MAX_NODES
from .programs import ClusterError, run, say, wait_until

NODE_READY_SECONDS = 90


def up(cluster, count):
    """Bring the cluster up with `count` nodes, unless it is. What is half there, or has another size or version, is made anew."""
    if not 1 <= count <= MAX_NODES:
        raise ClusterError(f"--nodes {count}: a cluster has 1 to {MAX_NODES} nodes")
    require_machine()
    with locked(cluster):
        if is_healthy(cluster, count):
            return
        if exists(cluster):
            say("taking away what is left of an earlier cluster")
            teardown.down(cluster)
        create(cluster, cluster.nodes(count))


def down(cluster):
    require_root()
    with locked(cluster):
        teardown.down(cluster)


def create(cluster, nodes):
    started = time.monotonic()
    check_network(cluster)
    load_kernel_modules()
    cluster.logs.mkdir(parents=True)
    cluster.kubernetes.write_text(versions.chosen())
    sysctls.remember(cluster)
    cgroups.create(cluster.scope, [each.name for each in nodes])

    say(f"control plane at {cluster.api_url}")
    control_plane.prepare(cluster)
    machines.start_machine(cluster, CONTROL_PLANE)
    machines.start_switch(cluster, nodes)
    control_plane.start(cluster)

    kubeconfig = cluster.kubeconfig
    with ThreadPoolExecutor() as pool:
        starting = [pool.submit(start_node, each, nodes) for each in nodes]
        say("CoreDNS, snapshot CRDs, snapshot-controller")
        addons.apply(kubeconfig, addons.coredns(cluster))
        addons.apply_crds(kubeconfig)
        addons.apply(kubeconfig, addons.snapshot_controller())
        for each in starting:
            each.result()
    wait_until(f"{len(nodes)} nodes to be Ready", lambda: ready_nodes(kubeconfig) == {each.name for each in nodes},
               seconds=NODE_READY_SECONDS, every=0.3)
    addons.wait_for_rollout(kubeconfig, "coredns", "snapshot-controller")
    say(f"up after {time.monotonic() - started:.0f} s")


def start_node(worker, nodes):
    say(f"{worker.name} at {worker.address}")
    node.prepare(worker)
    node.start(worker, nodes)


def require_machine():
    """What a cluster, or an API server alone, needs of this machine."""
    require_root()
    toolchain.require_packages()
    parts.build()


def require_root():
    if os.geteuid() != 0:
        raise ClusterError("a cluster needs root, for namespaces and mounts: run this as root")


def exists(cluster):
    return cluster.state.exists() or bool(cgroups.processes(cluster.scope))


def is_healthy(cluster, count):
    """All components run, of the version that is wanted, the API server is ready and all nodes are."""
    if not cluster.kubeconfig.exists() or running_version(cluster) != versions.chosen():
        return False
    expected = components(cluster, count)
    if any(machines.component_pid(cluster, machine, component) is None for machine, component in expected):
        return False
    if not control_plane.api_server(cluster).is_ready():
        return False
    return ready_nodes(cluster.kubeconfig) == {each.name for each in cluster.nodes(count)}


def running_version(cluster):
    """The minor version of Kubernetes that the cluster was made of; None when there is no cluster, or one whose version this
    checkout no longer has, which must be made anew."""
    made_of = cluster.kubernetes.read_text() if cluster.kubernetes.exists() else None
    return made_of if made_of in versions.supported() else None


def components(cluster, count):
    """Every (machine, component) of a cluster with `count` nodes."""
    return ([(CONTROL_PLANE, each) for each in control_plane.COMPONENTS]
            + [(worker.name, each) for worker in cluster.nodes(count) for each in node.COMPONENTS])


def ready_nodes(kubeconfig):
    answer = addons.kubectl(kubeconfig, "get", "nodes", "--output=json", check=False)
    if answer.returncode != 0:
        return set()
    return {each["metadata"]["name"] for each in json.loads(answer.stdout)["items"]
            if any(one["type"] == "Ready" and one["status"] == "True" for one in each["status"].get("conditions", []))}


def node_count(cluster):
    """How many nodes the cluster was made with."""
    return len([each for each in cluster.nodes(MAX_NODES) if each.state.exists()])


def check_network(cluster):
    """The addresses are drawn by lot: say so when somebody has the same."""
    for network in (cluster.machine_network, cluster.pod_network):
        taken = run(["ip", "route", "show", "to", "root", network]).stdout.strip()
        if taken:
            raise ClusterError(f"the cluster of {cluster.checkout} would use {network}, which this machine routes already:\n{taken}\n"
                               "Take that route away, or move the checkout: its addresses follow from its path.")


def load_kernel_modules():
    """Built in on some kernels; elsewhere they must be loaded before the nodes' namespaces are made."""
    for module in ("br_netfilter", "overlay", "loop"):
        run(["modprobe", module], check=False)


@contextmanager
def locked(cluster):
    """One `up` or `down` of a checkout at a time. The lock is on the program itself, so no lock file stays behind."""
    with open(cluster.checkout / "tests" / "cluster" / "cluster") as program:
        fcntl.flock(program, fcntl.LOCK_EX)
        yield
