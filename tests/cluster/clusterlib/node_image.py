"""A node of kind, made here: a root filesystem of Debian packages, the parts of our cache, and scripts of our own (kind/node).

For machines that cannot pull kind's own image. What kind expects of an image is in its documentation of node images, and in
its sources: an entrypoint that becomes systemd, kubeadm, kubelet and kubectl, containerd with the images of the control plane,
and /kind/version. Two things are left out that kind's image has: its pod network (kind_nodes.py lays one) and its CoreDNS
(addons.py has ours).
"""

import shutil
import string
from pathlib import Path

from . import image, kind_parts, parts
from .kept import kept
from .programs import ClusterError, clean_environment, run, say
from .toolchain import proxies

HERE = parts.HERE / "kind"
FILES = HERE / "node"
PRELOAD = HERE / "preload.sh"

# Of this release, whatever the machine is: its systemd (252) also runs on cgroup v1.
SUITE = "bookworm"
PACKAGES = ("btrfs-progs", "conntrack", "containernetworking-plugins", "dbus", "e2fsprogs", "ethtool", "hostname",
            "iproute2", "iptables", "kmod", "mount", "nftables", "procps", "socat", "systemd", "systemd-sysv", "util-linux",
            "xfsprogs")
DEBIAN_SECONDS, PRELOAD_SECONDS, TAR_SECONDS = 1800, 300, 300

# They would change settings of the whole machine, or do what only a machine needs.
MASKED = ("apt-daily-upgrade.timer", "apt-daily.timer", "console-getty.service", "dpkg-db-backup.timer", "e2scrub_all.timer",
          "e2scrub_reap.service", "fstrim.timer", "getty@tty1.service", "proc-sys-fs-binfmt_misc.automount",
          "systemd-journald-audit.socket", "systemd-logind.service", "systemd-pstore.service", "systemd-sysctl.service",
          "systemd-tmpfiles-setup-dev.service")
ENABLED = ("containerd.service", "kubelet.service")

PROGRAMS = ("containerd", "containerd-shim-runc-v2", "ctr", "kubectl", "kubelet", "runc")
CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "pause")
IPTABLES = ("iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore")

# What kind asks of an image's configuration. It starts the entrypoint, and systemd asks what it is in.
CHANGES = ('ENTRYPOINT ["/usr/local/bin/entrypoint","/sbin/init"]', "ENV container=docker")


def key():
    files = sorted(path for path in HERE.rglob("*") if path.is_file())
    return kind_parts.digest(parts.key(), SUITE, PACKAGES, MASKED, CHANGES, Path(__file__), *kind_parts.module_files(), *files)


def name():
    return f"localhost/stillpoint-node:{parts.versions().kubernetes}-{key()}"


def build():
    """The root filesystem as a tar, made when it is not in the cache."""
    return kept(kind_parts.directory() / f"node-{key()}.tar", make)


def make(scratch):
    root, archives = scratch / "root", scratch / "images"
    kubeadm = kind_parts.kubeadm()
    say(f"a node of kind from Debian packages ({SUITE})")
    run(["unshare", "--mount", "--propagation", "private", "mmdebstrap", "--mode=root", "--variant=minbase",
         f"--include={','.join(PACKAGES)}", SUITE, root], timeout=DEBIAN_SECONDS, env=clean_environment(**proxies()))
    images = control_plane_images(kubeadm)
    furnish(root, kubeadm, images["pause"])
    say("the images of the control plane, into the node")
    for program, full_name in images.items():
        image.write_archive(archives / f"{program}.tar", name=full_name, entrypoint=[f"/usr/local/bin/{program}"],
                            env=["PATH=/usr/local/bin:/usr/sbin:/usr/bin"], files=files_of(program, root))
    preload(root, archives)
    tar = scratch / "node.tar"
    run(["tar", "--create", "--numeric-owner", "--xattrs", "--one-file-system", f"--file={tar}", f"--directory={root}", "."],
        timeout=TAR_SECONDS)
    return tar


def control_plane_images(kubeadm):
    """Program → the name of the image in which kubeadm expects it."""
    listed = run([kubeadm, "config", "images", "list", f"--kubernetes-version={parts.versions().kubernetes}"]).stdout.split()
    return by_program(listed)


def by_program(listed):
    """registry.example/kube-proxy:v1 is the image of kube-proxy."""
    names = {each.rpartition("/")[2].partition(":")[0]: each for each in listed}
    missing = [program for program in CONTROL_PLANE if program not in names]
    if missing:
        raise ClusterError(f"kubeadm names no image of {', '.join(missing)}, but: {', '.join(listed)}")
    return {program: names[program] for program in CONTROL_PLANE}


def furnish(root, kubeadm, pause):
    """Programs, configuration, and what kind reads of an image."""
    shutil.copytree(FILES, root, dirs_exist_ok=True, symlinks=True)
    containerd = root / "etc" / "containerd" / "config.toml"
    containerd.write_text(string.Template(containerd.read_text()).substitute(pause=pause))
    for program, source in (("kubeadm", kubeadm), *((name, parts.program(name)) for name in PROGRAMS)):
        shutil.copy(source, root / "usr" / "local" / "bin" / program)
    units = root / "etc" / "systemd" / "system"
    for unit in MASKED:
        (units / unit).unlink(missing_ok=True)
        (units / unit).symlink_to("/dev/null")
    wants = units / "multi-user.target.wants"
    for unit in ENABLED:
        (wants / unit).unlink(missing_ok=True)
        (wants / unit).symlink_to(f"/etc/systemd/system/{unit}")
    for directory in ("etc/cni/net.d", "kind"):
        (root / directory).mkdir(parents=True, exist_ok=True)
    (root / "kind" / "version").write_text(f"{parts.versions().kubernetes}\n")


def files_of(program, root):
    """What the image of a program holds: the program, and for kube-proxy the iptables that it calls."""
    files = [(parts.program(program), f"/usr/local/bin/{program}")]
    return files + iptables(root) if program == "kube-proxy" else files


def iptables(root):
    """iptables of the node's root, under all of its names, with its plugins and every library that one of them needs."""
    binary = root / "usr" / "sbin" / "xtables-nft-multi"
    plugins = next(root.glob("usr/lib/*/xtables"))
    inside = lambda path: f"/{path.relative_to(root)}"
    asked = [inside(each) for each in (binary, *sorted(plugins.glob("*.so")))]
    said = run(["chroot", root, "ldd", *asked]).stdout
    libraries = [(root / library.lstrip("/"), library) for library in libraries_in(said)]
    return [*((binary, f"/usr/sbin/{each}") for each in IPTABLES), (plugins, inside(plugins)), *libraries]


def libraries_in(ldd):
    """The paths in what ldd says: behind an arrow, or for the loader by themselves."""
    words = [line.split() for line in ldd.splitlines() if line.startswith("\t")]
    paths = {line[2] if line[1:2] == ["=>"] else line[0] for line in words}
    return sorted(path for path in paths if path.startswith("/"))


def preload(root, archives):
    """Import the archives into the containerd of the root, as the nodes find them."""
    run(["unshare", "--mount", "--propagation", "private", "--pid", "--net", "--fork", "--kill-child", PRELOAD, root, archives],
        timeout=PRELOAD_SECONDS)
