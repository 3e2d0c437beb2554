"""What runs in the cluster from the start: CoreDNS, the snapshot CRDs and the snapshot controller."""

import string

from . import parts
from .control_plane import CONFIG
from .programs import run

ROLLOUT_SECONDS = 120


def kubectl(kubeconfig, *words, **options):
    return run([parts.program("kubectl"), f"--kubeconfig={kubeconfig}", *words], **options)


def apply(kubeconfig, text):
    kubectl(kubeconfig, "apply", "--server-side", "-f", "-", input=text)


def apply_crds(kubeconfig):
    """The snapshot API, in the version of the snapshot controller's own module."""
    apply(kubeconfig, "\n---\n".join(crd.read_text() for crd in parts.crds()))
    kubectl(kubeconfig, "wait", "--for=condition=Established", "--timeout=30s",
            *(f"crd/{crd.stem.split('_')[1]}.{crd.stem.split('_')[0]}" for crd in parts.crds()))


def manifest(file, **values):
    return string.Template((CONFIG / file).read_text()).substitute(values)


def image_of(program):
    return next(name for name, holds in parts.images().items() if holds == program)


def snapshot_controller():
    return manifest("snapshot-controller.yaml", snapshot_controller=image_of("snapshot-controller"))


def coredns(cluster):
    return manifest("coredns.yaml", coredns=image_of("coredns"), dns_address=cluster.dns_address)


def nodes_and_pods(kubeconfig):
    """What `cluster status` shows of a cluster that answers."""
    return [kubectl(kubeconfig, "get", "nodes,pods", "--all-namespaces", "--output=wide").stdout.rstrip()]


def wait_for_rollout(kubeconfig, *names, kind="deployment"):
    for name in names:
        kubectl(kubeconfig, "--namespace=kube-system", "rollout", "status", f"{kind}/{name}",
                f"--timeout={ROLLOUT_SECONDS}s", timeout=ROLLOUT_SECONDS + 10)
