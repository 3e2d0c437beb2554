"""The parts of the cluster that no Debian package holds: compiled once from Go modules, kept outside the tree.

    <cache>/parts/<key>/bin      programs, those of Kubernetes of one version
    <cache>/parts/<key>/images   image archives of what runs in pods
    <cache>/parts/<key>/crds     the snapshot API, as its Go module ships it
    <cache>/go-build             our Go build cache; modules stay in Go's own module cache

The key covers everything that decides the result, so each version of Kubernetes has a directory of its own. A directory with a key
is complete: it was renamed into place. What two versions share is linked anew for each, but compiled once.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import image, toolchain
from .programs import ClusterError, clean_environment, run, say
from .progress import Progress, compiled_package
from .versions import chosen, graph, newest, versions

HERE = Path(__file__).resolve().parent.parent
PREFIX = "localhost/stillpoint-parts"

SNAPSHOT_CLIENT = "github.com/kubernetes-csi/external-snapshotter/client/v8"
KUBERNETES = "k8s.io/kubernetes"
RUNC = "github.com/opencontainers/runc"
PAUSE = HERE / "config" / "pause.c"

# No debug data, from compiler or linker: a fifth of the time and most of the size.
BUILD_FLAGS = ("-trimpath", "-buildvcs=false", "-gcflags=all=-dwarf=false")
LINK_FLAGS = "-s -w"


# runc is C in its first steps, and gives containers their seccomp profile by a C library. Static, because the cache may serve several
# machines.
RUNC_FLAGS = ("-tags=seccomp,netgo,osusergo,urfave_cli_no_docs",)
RUNC_LINK_FLAGS = f"{LINK_FLAGS} -linkmode=external -extldflags=-static"


@dataclass(frozen=True)
class Build:
    """What one `go build` makes: packages of one module graph, with the same flags."""

    module: Path
    wanted: tuple
    flags: tuple
    cgo: bool = False


def images():
    """Name of the image → program in `bin` that it holds."""
    found = versions()
    return {
        f"{PREFIX}/pause:1": "pause",
        f"{PREFIX}/coredns:{found.coredns}": "coredns",
        f"{PREFIX}/csi-provisioner:{found.provisioner}": "csi-provisioner",
        f"{PREFIX}/csi-snapshotter:{found.snapshotter}": "csi-snapshotter",
        f"{PREFIX}/snapshot-controller:{found.snapshotter}": "snapshot-controller",
    }


def cache():
    """Where built things are kept between checkouts."""
    chosen = os.environ.get("STILLPOINT_CACHE")
    if chosen:
        return Path(chosen).resolve()
    base = os.environ.get("XDG_CACHE_HOME") or Path(os.environ.get("HOME", "/root")) / ".cache"
    return (Path(base) / "stillpoint").resolve()


def key():
    made = builds()
    digest = hashlib.sha256(repr((BUILD_FLAGS, [(each.wanted, each.flags) for each in made], images())).encode())
    inputs = [PAUSE, HERE / "clusterlib" / "image.py"]
    for module in sorted({each.module for each in made}):
        inputs += sorted(path for path in module.rglob("*") if path.is_file())
    for path in inputs:
        digest.update(f"{path.relative_to(HERE)}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def directory():
    return cache() / "parts" / key()


def programs_directory():
    return directory() / "bin"


def program(name):
    """The path of a built program; an error that says what to do when it was not built."""
    path = programs_directory() / name
    if not path.exists():
        raise ClusterError(f"{name} is not built: run `tests/cluster/cluster build`")
    return path


def archives():
    return sorted((directory() / "images").glob("*.tar"))


def crds():
    """The snapshot and group snapshot CRDs."""
    return sorted((directory() / "crds").glob("*.yaml"))


def build():
    """Build what is missing. Returns the directory; well under a second when nothing is."""
    if directory().exists():
        return directory()
    toolchain.require_packages(toolchain.TO_BUILD)
    with locked(cache() / "parts.lock"):
        if not directory().exists():  # Another process may have built it while we waited.
            build_all(directory())
    return directory()


@contextmanager
def locked(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another build, which holds {path}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def build_all(target):
    go = toolchain.go(versions().go, cache())
    target.parent.mkdir(parents=True, exist_ok=True)
    for abandoned in target.parent.glob(".building-*"):  # We hold the lock: nobody is building there.
        shutil.rmtree(abandoned)
    scratch = Path(tempfile.mkdtemp(prefix=".building-", dir=target.parent))
    scratch.chmod(0o755)
    for name in ("bin", "images", "crds"):
        (scratch / name).mkdir()
    build_go(go, scratch / "bin")
    run(["gcc", "-static", "-Os", "-s", "-o", scratch / "bin" / "pause", PAUSE])
    for crd in snapshot_crd_directory(go).glob("*.storage.k8s.io_*.yaml"):
        (scratch / "crds" / crd.name).write_bytes(crd.read_bytes())
    for name, holds in images().items():
        image.write_archive(scratch / "images" / f"{holds}.tar", name=name, entrypoint=[f"/{holds}"], user="65532",
                            files=[(scratch / "bin" / holds, f"/{holds}")])
    scratch.rename(target)


def go_environment(go, cgo=False):
    """Our own build cache, so that removing <cache> removes all we made; the user's module cache, which is checked anyway."""
    keep = {name: os.environ[name] for name in ("GOPROXY", "GOSUMDB", "GOMODCACHE", "GOPATH", "HTTPS_PROXY", "https_proxy",
                                                "NO_PROXY", "no_proxy") if name in os.environ}
    return clean_environment(**keep, CGO_ENABLED=str(int(cgo)), GOCACHE=str(cache() / "go-build"), GOFLAGS="-mod=readonly",
                             GOWORK="off", GOTOOLCHAIN="local", PATH=f"{go.parent}:{os.environ.get('PATH', '/usr/bin:/bin')}")


def builds():
    """Every `go build` there is to do, for the version of Kubernetes that is wanted."""
    own, shared = graph(chosen()), graph(newest())
    return [Build(own, kubernetes_programs(own), (f"-ldflags={link_flags()}",)),
            Build(shared, other_programs(shared), (f"-ldflags={link_flags()}",)),
            Build(shared, (RUNC,), (*RUNC_FLAGS, f"-ldflags={RUNC_LINK_FLAGS}"), cgo=True)]


def tools(module):
    """The packages that go.mod names as tools."""
    block = re.search(r"^tool \((.*?)^\)", (module / "go.mod").read_text(), re.M | re.S)
    return tuple(block.group(1).split())


def kubernetes_programs(module):
    return tuple(each for each in tools(module) if each.startswith(f"{KUBERNETES}/"))


def other_programs(module):
    """The other tools, and the main packages that lie beside go.mod; without runc, which is built in another way."""
    named = (each for each in tools(module) if not each.startswith(f"{KUBERNETES}/") and each != RUNC)
    return *named, *(f"./{main.parent.name}" for main in sorted(module.glob("*/main.go")))


def build_go(go, out):
    """All Go programs, with one bar over everything."""
    say(f"looking at the modules of Kubernetes {chosen()} (the first time, they are downloaded)")
    made = builds()
    needed = {(each.module, package) for each in made for package in packages(go, each.module, each.wanted, go_environment(go, each.cgo))}
    progress = Progress("Go parts", len(needed))
    for each in made:
        compile_go(go, each.module, each.wanted, out, go_environment(go, each.cgo), progress, each.flags)
    progress.finish()


def packages(go, module, wanted, environment):
    """The packages that it takes to build what is wanted of a module."""
    return run([go, "list", "-deps", *wanted], cwd=module, env=environment, timeout=1800).stdout.splitlines()


def compile_go(go, module, wanted, out, environment, progress, flags=None):
    """Build what is wanted of a module into the directory `out`."""
    flags = flags or (f"-ldflags={link_flags()}",)
    command = [str(go), "build", "-v", *BUILD_FLAGS, *flags, "-o", f"{out}/", *wanted]
    messages = []
    with subprocess.Popen(command, cwd=module, env=environment, text=True, stdout=subprocess.DEVNULL,
                          stderr=subprocess.PIPE) as compiler:
        for line in compiler.stderr:
            package = compiled_package(line)
            if package:
                progress.step(package)
            else:
                messages.append(line.rstrip())
    if compiler.returncode != 0:
        raise ClusterError("\n".join([f"`go build` failed in {module}:", *messages[-20:]]))


def link_flags():
    """Kubernetes and Helm refuse some work when they do not know their version; nodes show that of containerd."""
    found = versions()
    major, minor, _ = found.kubernetes.removeprefix("v").split(".")
    stamp = "k8s.io/component-base/version"
    return " ".join([LINK_FLAGS, f"-X {stamp}.gitVersion={found.kubernetes}", f"-X {stamp}.gitMajor={major}",
                     f"-X {stamp}.gitMinor={minor}", f"-X helm.sh/helm/v3/internal/version.version={found.helm}",
                     f"-X github.com/containerd/containerd/v2/version.Version={found.containerd}"])


def snapshot_crd_directory(go):
    found = run([go, "list", "-m", "-f", "{{.Dir}}", SNAPSHOT_CLIENT], cwd=graph(newest()), env=go_environment(go)).stdout.strip()
    return Path(found) / "config" / "crd"
