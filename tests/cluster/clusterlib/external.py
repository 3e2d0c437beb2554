"""Which cluster the commands work on: our own, kind's (kind.py), or one that is there already, which is here."""

import json
import os
import tarfile
from pathlib import Path

from . import addons, parts
from .kind import Kind
from .programs import ClusterError, say

# Where the test storage driver's pods find its sidecars, and everything else of this checkout.
SIDECARS = ("csi-provisioner", "csi-snapshotter")
DEFAULT_PREFIX, DEFAULT_TAG = "localhost", "dev"


def chosen(cluster):
    """What CLUSTER and STILLPOINT_KUBECONFIG ask for; None is the cluster of our own."""
    given = os.environ.get("STILLPOINT_KUBECONFIG")
    kind = os.environ.get("CLUSTER") or ("existing" if given else "native")
    if kind == "native":
        return None
    if kind == "kind":
        return Kind(cluster)
    if kind == "existing":
        path = given or os.environ.get("KUBECONFIG")
        if not path:
            raise ClusterError("CLUSTER=existing: set STILLPOINT_KUBECONFIG to the kubeconfig of the cluster to use")
        return Existing(Path(path).expanduser().absolute())
    raise ClusterError(f"CLUSTER={kind}: use native, kind or existing")


class Existing:
    """A cluster that somebody else made. We look, and say what it lacks; we change nothing and take nothing down."""

    NEEDS = {
        "volumesnapshots.snapshot.storage.k8s.io": "the snapshot CRDs and a snapshot controller",
    }

    def __init__(self, kubeconfig):
        self.kubeconfig = kubeconfig
        self.exports = {"KUBECONFIG": kubeconfig}

    def up(self, _count):
        if not self.kubeconfig.is_file():
            raise ClusterError(f"STILLPOINT_KUBECONFIG: {self.kubeconfig} is not a file")
        parts.build()
        answer = addons.kubectl(self.kubeconfig, "get", "--raw=/readyz", check=False, timeout=30)
        if answer.returncode != 0:
            raise ClusterError(f"the cluster of {self.kubeconfig} does not answer: {answer.stderr.strip()}")
        for crd, what in self.NEEDS.items():
            if addons.kubectl(self.kubeconfig, "get", "crd", crd, check=False).returncode != 0:
                raise ClusterError(f"the cluster of {self.kubeconfig} has no {crd}: it needs {what}, "
                                   "and a CSI driver that makes snapshots")

    def load(self, archives):
        """Nothing can be put onto nodes that are not ours: say what must be in a registry."""
        prefix, tag = os.environ.get("STILLPOINT_IMAGES") or DEFAULT_PREFIX, os.environ.get("STILLPOINT_TAG") or DEFAULT_TAG
        say("an existing cluster takes its images from a registry. Push these, if you have not yet, for example with skopeo:")
        sidecars = [archive for archive in parts.archives() if archive.stem in SIDECARS]
        for archive in [*archives, *sidecars]:
            print(f"skopeo copy docker-archive:{archive} docker://{pushed_name(name_of(archive), prefix, tag)}")
        if prefix == DEFAULT_PREFIX:
            say("no registry is chosen, so the nodes must have these images already; see IMAGES and TAG in `make help`")

    def down(self):
        say(f"{self.kubeconfig} is not ours, so it stays as it is")

    def status(self):
        answer = addons.kubectl(self.kubeconfig, "get", "--raw=/readyz", "--request-timeout=5s", check=False)
        if answer.returncode != 0:
            return ["cluster: down", f"kubeconfig: {self.kubeconfig}", answer.stderr.strip()]
        return ["cluster:    up", f"kubeconfig: {self.kubeconfig}", "", *addons.nodes_and_pods(self.kubeconfig)]

    def running_version(self):
        """Not known, and it decides nothing."""
        return None

    def entry(self, _node):
        raise ClusterError(f"the nodes of {self.kubeconfig} are not ours: this is for CLUSTER=native and CLUSTER=kind")

    def pid(self, node, _component):
        self.entry(node)

    def restart(self, _component, only_node=None):
        self.entry(only_node)


def pushed_name(name, prefix, tag):
    """What an image of this checkout is called in a registry. Parts keep their tag, which is their version."""
    repository, _, own_tag = name.removeprefix(f"{DEFAULT_PREFIX}/").rpartition(":")
    return f"{prefix}/{repository}:{tag if own_tag == DEFAULT_TAG else own_tag}"


def name_of(archive):
    """The name that an image archive was written with."""
    with tarfile.open(archive) as tar:
        return json.load(tar.extractfile("manifest.json"))[0]["RepoTags"][0]
