"""What CLUSTER=kind is made of, besides the parts of every cluster: programs from Go modules, and a Docker from Debian packages.

    <cache>/kind/kind-<key>      kind itself; kubeadm, for its nodes, beside it
    <cache>/kind/docker-<key>/   the files of Debian's Docker packages, of which none is installed
    <cache>/kind/node-<key>.tar  a node (node_image.py)
"""

import hashlib
import platform
import re
import shutil
from pathlib import Path

from . import parts, toolchain, versions
from .kept import kept
from .programs import clean_environment, run, say
from .progress import Progress

MODULE = parts.HERE / "go-kind"
DOCKER_PACKAGES = ("docker.io", "docker-cli")  # Debian 12 has the second in the first.
DOWNLOAD_SECONDS = 900


def directory():
    return parts.cache() / "kind"


def digest(*things):
    """A key for what is made of these: files, and anything that has a repr."""
    made = hashlib.sha256()
    for each in things:
        made.update(each.read_bytes() if isinstance(each, Path) else repr(each).encode())
        made.update(b"\0")
    return made.hexdigest()[:16]


def module_files():
    return sorted(path for path in MODULE.rglob("*") if path.is_file())


def kind_version():
    return re.search(r"sigs\.k8s\.io/kind (v\S+)", (MODULE / "go.mod").read_text()).group(1)


def kind():
    """The path of the program kind, built when it is not there."""
    def make(scratch):
        compile_go("kind", MODULE, ["tool"], scratch)
        return scratch / "kind"

    return kept(directory() / f"kind-{digest(*module_files())}", make)


def kubeadm():
    """The path of kubeadm, in the version of the other Kubernetes parts. Their module graph gives it all but a few modules, which
    Kubernetes itself names: in a copy of the graph, Go may add these."""
    def make(scratch):
        module = scratch / "module"
        module.mkdir()
        for file in ("go.mod", "go.sum"):
            shutil.copy(versions.graph(versions.chosen()) / file, module)
        compile_go("kubeadm", module, ["k8s.io/kubernetes/cmd/kubeadm"], scratch, GOFLAGS="-mod=mod")
        return scratch / "kubeadm"

    return kept(directory() / f"kubeadm-{parts.key()}", make)


def compile_go(title, module, wanted, out, **extra):
    go = toolchain.go(parts.versions().go, parts.cache())
    environment = parts.go_environment(go) | extra
    progress = Progress(title, len(parts.packages(go, module, wanted, environment)))
    parts.compile_go(go, module, wanted, out, environment, progress)
    progress.finish()


def docker():
    """A directory with the files of Docker's packages, and of what they need and this machine lacks."""
    release = platform.freedesktop_os_release()
    key = digest(DOCKER_PACKAGES, release.get("ID"), release.get("VERSION_ID"), platform.machine())

    def make(scratch):
        root, archives = scratch / "root", scratch / "archives"
        (archives / "partial").mkdir(parents=True)
        environment = clean_environment(DEBIAN_FRONTEND="noninteractive", **toolchain.proxies())
        say("downloading Debian's Docker, to run it from the cache: nothing of it is installed")
        run(["apt-get", "update", "-q"], timeout=DOWNLOAD_SECONDS, env=environment)
        there = [name for name in DOCKER_PACKAGES if run(["apt-cache", "show", name], check=False).returncode == 0]
        run(["apt-get", "install", "-q", "-y", "--no-install-recommends", "--download-only", "-o",
             f"Dir::Cache::archives={archives}", *there], timeout=DOWNLOAD_SECONDS, env=environment)
        for package in sorted(archives.glob("*.deb")):
            run(["dpkg-deb", "--extract", package, root])
        root.mkdir(exist_ok=True)  # All of it may be installed here already.
        return root

    return kept(directory() / f"docker-{key}", make)
