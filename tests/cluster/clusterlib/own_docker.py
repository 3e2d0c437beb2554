"""A Docker of our own, for CLUSTER=kind on a machine without a container engine. Nothing of it is installed.

It runs in a *machine*, as the components of our own cluster do: it has mounts, a network and processes of its own, and when
its init is killed the kernel takes all of it away, containers included. The host sees one end of a wire. There is no way out.

    <state>/engine/data         images, and the nodes' volumes
    <state>/engine/docker.sock  where it answers
"""

import os
import shutil
from pathlib import Path

from . import cgroups, daemons, kind_parts, lifecycle, machines, teardown, toolchain
from .engine import Engine
from .identity import ENGINE
from .programs import ClusterError, clean_environment, run, say, wait_until

START_SECONDS = 60
IMPORT_SECONDS = 600
NETWORK = "kind"  # The name that kind gives to its network.
DAEMON = "dockerd"
RUNTIME = kind_parts.parts.HERE / "kind" / "runc-without-sys-resource"
CAP_SYS_RESOURCE = 24

# What the kernel must have: what it is, and a command that fails without it.
KERNEL = (
    ("overlayfs (CONFIG_OVERLAY_FS)", ("grep", "--quiet", "--word-regexp", "overlay", "/proc/filesystems")),
    ("loop devices (CONFIG_BLK_DEV_LOOP)", ("test", "-e", "/dev/loop-control")),
    ("network namespaces (CONFIG_NET_NS)", ("unshare", "--net", "true")),
    ("bridges (CONFIG_BRIDGE)", ("unshare", "--net", "ip", "link", "add", "probe", "type", "bridge")),
    ("virtual wires (CONFIG_VETH)", ("unshare", "--net", "ip", "link", "add", "probe", "type", "veth", "peer", "name", "other")),
    ("address translation (CONFIG_NF_NAT)", ("unshare", "--net", "iptables", "--table", "nat", "--list-rules")),
)


class OwnDocker(Engine):
    """The Docker of one checkout's kind cluster."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.state = cluster.machine_state(ENGINE)
        self.socket = self.state / "docker.sock"
        self.files = kind_parts.docker()
        program = next((str(path) for path in (self.files / "usr/bin/docker", Path("/usr/bin/docker")) if path.exists()), None)
        if not program:
            raise ClusterError(f"Debian's Docker packages hold no docker: remove {self.files} and try again")
        super().__init__(program, clean_environment(DOCKER_HOST=f"unix://{self.socket}", PATH=path(self.files)))

    @property
    def ours(self):
        return True

    def start(self):
        """Bring it up, in a network with one wire to the host, and with a network for kind's nodes."""
        cluster = self.cluster
        say(f"a Docker of our own, from Debian packages, at {cluster.api_address}")
        lifecycle.check_network(cluster)
        self.state.mkdir(parents=True)
        cgroups.create(cluster.scope, [ENGINE])
        machines.start_machine(cluster, ENGINE)
        inside = lambda *words: machines.run_in(cluster, ENGINE, [*words])
        # Docker and its containerd write to these, whatever they are told.
        mount = lambda kind, options, where: inside("mount", "--no-mtab", "-t", kind, "-o", options, kind, where)
        mount("tmpfs", "mode=755", "/run")
        mount("tmpfs", "mode=755", "/opt")
        inside("mkdir", "/run/etc", "/run/etc-work")
        mount("overlay", "lowerdir=/etc,upperdir=/run/etc,workdir=/run/etc-work", "/etc")
        self.connect()
        machines.start_daemon(cluster, ENGINE, DAEMON, self.command(),
                              env={"PATH": path(self.files), "LD_LIBRARY_PATH": libraries(self.files)})
        log = machines.component_log(cluster, ENGINE, DAEMON)

        def ready():
            daemons.expect_alive(cluster.scope, f"{ENGINE}.{DAEMON}", log, DAEMON)
            return self.complaint() is None

        wait_until(f"dockerd (log: {log})", ready, seconds=START_SECONDS)
        self.call("network", "create", "--subnet", str(cluster.container_network), NETWORK)

    def connect(self):
        """The host's wire, and its routes to the nodes and their Pods. Beyond the host there is no route."""
        cluster = self.cluster
        machines.connect_host(cluster, ENGINE)
        inside = lambda *words: machines.run_in(cluster, ENGINE, ["ip", *words])
        inside("address", "add", f"{cluster.api_address}/{cluster.machine_network.prefixlen}", "dev", "host")
        inside("link", "set", "host", "up")
        for network in (cluster.container_network, cluster.pod_network):
            run(["ip", "route", "add", str(network), "via", cluster.api_address])

    def command(self):
        words = [DAEMON, f"--host=unix://{self.socket}", f"--data-root={self.state}/data", "--exec-root=/run/docker",
                 "--pidfile=/run/docker.pid", "--bridge=none", "--iptables=false", "--exec-opt=native.cgroupdriver=cgroupfs",
                 f"--cgroup-parent=/{self.cluster.scope}/{ENGINE}"]
        if not has_capability(Path("/proc/self/status").read_text(), CAP_SYS_RESOURCE):
            words += [f"--add-runtime=less={RUNTIME}", "--default-runtime=less"]
        return words

    def import_image(self, tar, name, changes):
        options = [word for change in changes for word in ("--change", change)]
        self.call("import", *options, str(tar), name, timeout=IMPORT_SECONDS)

    def route(self, network, address):
        """The way from the host to the Pods of a node."""
        machines.run_in(self.cluster, ENGINE, ["ip", "route", "replace", str(network), "via", address])


def require_machine():
    """What it takes to run one here; one sentence says what is missing."""
    lifecycle.require_root()
    toolchain.require_packages(toolchain.KIND_NEEDS)
    lifecycle.load_kernel_modules()
    require_kernel()


def require_kernel(parts=KERNEL):
    missing = [what for what, probe in parts if run(probe, check=False).returncode != 0]
    if missing:
        raise ClusterError(f"this machine's kernel has no {', no '.join(missing)}: load the modules, or take a kernel that has "
                           "them")


def can_make():
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def is_there(cluster):
    """Whether there is one, or something of it."""
    return cluster.machine_state(ENGINE).exists() or bool(cgroups.processes(cluster.scope))


def down(cluster):
    """Everything of it, containers included."""
    teardown.down(cluster, images=cluster.machine_state(ENGINE) / "data" / "volumes")


def path(files):
    return ":".join([f"{files}/usr/sbin", f"{files}/usr/bin", "/usr/local/sbin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"])


def libraries(files):
    """Where the libraries are that this machine lacked."""
    return ":".join(sorted({str(each.parent) for each in files.rglob("*.so*")}))


def has_capability(status, number):
    """Whether /proc/PID/status shows a capability among those that are in effect."""
    effective = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(int(effective.split()[1], 16) >> number & 1)
