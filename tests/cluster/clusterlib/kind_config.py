"""What kind is told of a cluster, and what is known of the image of its nodes. Pure, but for the look into the image."""

import json
from dataclasses import dataclass

from .programs import ClusterError

# kind's own image of the newest Kubernetes that this kind (go-kind/go.mod) was released with, whose release names its digest.
STOCK_IMAGE = "kindest/node:v1.37.0@sha256:a1ed56cfb0e7b93589bdf97c8cd566405a265939e3620fc4f5de89adff580ae5"

# `docker run` ends so when it is the engine that fails, and not the program in the container or its absence.
ENGINE_FAILED = 125

# Below it a kubelet does not know of a limit to its waiting between two starts of a container.
OLDEST = (1, 32)

# A few questions in one container, which also shows whether a privileged one starts.
QUESTIONS = """
cat /kind/version
[ -e /kind/manifests/default-cni.yaml ] && echo network || echo no-network
[ -e /sys/fs/cgroup/cgroup.controllers ] && echo cgroup-v2 || echo cgroup-v1
"""


@dataclass(frozen=True)
class NodeImage:
    """An image, and what a cluster of it needs."""

    name: str
    kubernetes: str
    brings_network: bool  # and its own CoreDNS
    cgroup_v1: bool


def ask(engine, image):
    """What the image says of itself, in a container like the nodes."""
    answer = engine.call("run", "--rm", "--privileged", "--network=none", "--entrypoint=/bin/sh", image, "-c", QUESTIONS,
                         check=False)
    if answer.returncode == ENGINE_FAILED:
        raise ClusterError(f"this {engine.program.rpartition('/')[2]} cannot start a privileged container, as every node of kind is: take "
                           f"one that can (not rootless, not in an unprivileged container): {answer.stderr.strip()[-500:]}")
    return read(image, answer.stdout)


def read(image, said):
    """The answers to the questions; refuses an image that is none of kind's, or too old."""
    words = said.split()
    if len(words) != 3 or not words[0].startswith("v1."):
        raise ClusterError(f"KIND_IMAGE={image} is no node image of kind (it has no /kind/version): kind's release notes list them")
    version, network, cgroup = words
    minor = version.split(".")[1]
    if not minor.isdigit() or (1, int(minor)) < OLDEST:
        raise ClusterError(f"KIND_IMAGE={image} holds Kubernetes {version}: take one from v{OLDEST[0]}.{OLDEST[1]} on")
    return NodeImage(image, version, network == "network", cgroup == "cgroup-v1")


def document(image, workers, *, pod_network, service_network):
    """The configuration for `kind create cluster`, as JSON, which is YAML."""
    kubelet = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        # Tests kill containers, often the same one: it must come back at once, and not after five minutes.
        "featureGates": {"KubeletCrashLoopBackOffMax": True},
        "crashLoopBackOff": {"maxContainerRestartPeriod": "1s"},
    }
    if image.cgroup_v1:
        kubelet["failCgroupV1"] = False
    patches = [json.dumps(kubelet)]
    if not image.brings_network:
        # kubeadm's CoreDNS is not in the image; kind itself leaves out preflight.
        patches.append(json.dumps({"kind": "InitConfiguration", "skipPhases": ["preflight", "addon/coredns"]}))
    return json.dumps({
        "kind": "Cluster", "apiVersion": "kind.x-k8s.io/v1alpha4",
        "networking": {"podSubnet": str(pod_network), "serviceSubnet": str(service_network),
                       "disableDefaultCNI": not image.brings_network},
        "kubeadmConfigPatches": patches,
        "nodes": [{"role": "control-plane"}, *({"role": "worker"} for _ in range(workers))],
    })
