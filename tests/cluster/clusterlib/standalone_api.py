"""An API server (with its etcd) and nothing else, on the loopback device: for tests of a controller, up in about three seconds.

It takes any object and checks tokens, RBAC and CRDs as the real thing does, because it is; but nothing acts on the objects.
"""

import re
import shutil
import socket

from . import addons, cgroups, certificates, daemons, lifecycle, teardown
from .control_plane import START_SECONDS, ApiServer
from .identity import STATE_ROOT
from .programs import ClusterError, wait_until

SERVICES = "10.255.255.0/24"  # Nobody sends packets there.
KUBERNETES_SERVICE = "10.255.255.1"


def up(cluster, name):
    """Start the API server called `name` (anew, when there is one) and return the path of its kubeconfig."""
    check_name(name)
    lifecycle.require_machine()
    down(cluster, name)
    state, scope = cluster.api_state(name), cluster.api_scope(name)
    state.mkdir(parents=True)
    cgroups.create(scope)
    ports = free_ports(3)
    server = ApiServer(data=state, certificates=state / "pki", audit_log=state / "audit.log", address="127.0.0.1", port=ports[0],
                       etcd_port=ports[1], etcd_peer_port=ports[2], service_network=SERVICES,
                       kubernetes_service_address=KUBERNETES_SERVICE)
    server.prepare()
    kubeconfig = state / "admin.kubeconfig"
    certificates.write_kubeconfig(kubeconfig, server.certificates, "admin", server.url)
    for component, command in (("etcd", server.etcd_command()), ("kube-apiserver", server.command())):
        daemons.start(scope, component, command, log=state / f"{component}.log")

    def ready():
        for component in ("etcd", "kube-apiserver"):
            daemons.expect_alive(scope, component, state / f"{component}.log")
        return server.is_ready()

    wait_until(f"the API server {name} (log: {state}/kube-apiserver.log)", ready, seconds=START_SECONDS, every=0.05)
    addons.apply_crds(kubeconfig)
    return kubeconfig


def down(cluster, name):
    """Kill it and remove its data; fine to call when there is none."""
    check_name(name)
    teardown.kill_all(cluster.api_scope(name))
    cgroups.remove(cluster.api_scope(name))
    state = cluster.api_state(name)
    if state.exists():
        shutil.rmtree(state)
    teardown.remove_if_empty(STATE_ROOT)


def check_name(name):
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?", name):
        raise ClusterError(f"--name {name!r}: use at most 40 small letters, digits and dashes")


def free_ports(count):
    """Ports that are free now. All are held until the last is found, so they differ."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports
