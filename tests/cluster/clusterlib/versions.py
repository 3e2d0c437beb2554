"""Which versions of Kubernetes there are, and which one is wanted.

The one place that says so is the folder `go`: it has a module graph for each minor version, and the graph's go.mod has the exact
one. The newest is what a cluster is made of, unless K8S names another. Everything that is not Kubernetes itself (containerd, runc,
etcd, CoreDNS, Helm, the CSI sidecars) comes from the graph of the newest, whatever K8S says.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from .programs import ClusterError

VARIABLE = "K8S"
GRAPHS = Path(__file__).resolve().parent.parent / "go"


@dataclass(frozen=True)
class Versions:
    """What the go.mod files ask for."""

    go: str
    kubernetes: str
    provisioner: str
    snapshotter: str
    coredns: str
    helm: str
    containerd: str
    runc: str
    etcd: str


def supported():
    """The minor versions that there are, oldest first."""
    return sorted((each.parent.name for each in GRAPHS.glob("*/go.mod")), key=number)


def newest():
    return supported()[-1]


def chosen(environment=os.environ):
    """The minor version that K8S names, else the newest."""
    minor = environment.get(VARIABLE) or newest()
    if minor not in supported():
        raise ClusterError(f"{VARIABLE}={minor}: there are clusters of Kubernetes {', '.join(supported())}; set {VARIABLE} to one of these, "
                           "or unset it to get the newest")
    return minor


def graph(minor):
    """The directory of the module graph of a minor version."""
    return GRAPHS / minor


def versions():
    own, shared = ((graph(each) / "go.mod").read_text() for each in (chosen(), newest()))
    find = lambda text, module: re.search(rf"^(?:require)?\s*{re.escape(module)} (v\S+)", text, re.M).group(1)
    return Versions(
        go=max((re.search(r"^go (\S+)", text, re.M).group(1) for text in (own, shared)), key=number),
        kubernetes=find(own, "k8s.io/kubernetes"),
        provisioner=find(shared, "github.com/kubernetes-csi/external-provisioner/v6"),
        snapshotter=find(shared, "github.com/kubernetes-csi/external-snapshotter/v8"),
        coredns=find(shared, "github.com/coredns/coredns"),
        helm=find(shared, "helm.sh/helm/v3"),
        containerd=find(shared, "github.com/containerd/containerd/v2"),
        runc=find(shared, "github.com/opencontainers/runc"),
        etcd=find(shared, "go.etcd.io/etcd/server/v3"),
    )


def number(version):
    """"go1.26.8", "1.26.0" or "1.26" as something to compare; anything unreadable is older than all."""
    found = re.match(r"(?:go)?(\d+)\.(\d+)(?:\.(\d+))?", version)
    return tuple(int(part or 0) for part in found.groups()) if found else (0, 0, 0)
