"""A worker: containerd, kubelet and kube-proxy on a machine with its own /var/lib, /var/log and /run.

Inside, every path is the standard one (/var/lib/kubelet, /run/containerd, …), although all nodes share one disk:

    <state>/<node>/lib  → /var/lib     kubelet, containerd, CNI leases; and whatever Pods keep there through hostPath
    <state>/<node>/log  → /var/log     logs of Pods: two kubelets that shared them would clean up each other's
    a tmpfs             → /run         sockets, network namespaces of Pods
"""

import json

from . import certificates, cgroups, control_plane, machines, parts
from .programs import run, wait_until

COMPONENTS = ("containerd", "kubelet", "kube-proxy")

# As seen inside. The parts are bound there because the cache may lie below a directory that the node hides.
SETUP = "/var/lib/stillpoint-node"
BIN = f"{SETUP}/bin"
SOCKET = "/run/containerd/containerd.sock"
CONTAINERD_SECONDS = 30


def prepare(node):
    """Write the node's configuration to its future /var/lib."""
    setup = node.state / "lib" / "stillpoint-node"
    (setup / "bin").mkdir(parents=True)
    (setup / "cni").mkdir()
    (node.state / "lib" / "stillpoint-loop").mkdir()
    (node.state / "log").mkdir()
    keys = control_plane.api_server(node.cluster).certificates
    for name, user, group in (("kubelet", f"system:node:{node.name}", "system:nodes"),
                              ("kube-proxy", "system:kube-proxy", None)):
        certificates.issue(keys, f"{node.name}-{name}", user=user, group=group)
        certificates.write_kubeconfig(setup / f"{name}.kubeconfig", keys, f"{node.name}-{name}", node.cluster.api_url)
    (setup / "ca.crt").write_bytes((keys / "ca.crt").read_bytes())
    (setup / "containerd.toml").write_text(containerd_config())
    for file, content in (("kubelet.json", kubelet_config(node)), ("kube-proxy.json", kube_proxy_config(node)),
                          ("cni/10-pods.conflist", cni_config(node.pod_network))):
        (setup / file).write_text(json.dumps(content, indent=2))


def start(node, nodes):
    cluster = node.cluster
    machines.start_machine(cluster, node.name)
    machines.connect_node(cluster, node, nodes)
    mount_paths(node)
    start_component(node, "containerd")
    wait_until(f"containerd on {node.name} (log: {machines.component_log(cluster, node.name, 'containerd')})",
               lambda: machines.run_in(cluster, node.name, [f"{BIN}/ctr", "version"], check=False).returncode == 0,
               seconds=CONTAINERD_SECONDS)
    load(node, parts.archives())
    start_component(node, "kubelet")
    start_component(node, "kube-proxy")


def mount_paths(node):
    """Give the node its own directories, then let mounts inside it propagate, as CSI needs."""
    # --no-mtab: or the first of them would leave /run/mount on the host.
    inside = lambda *words: machines.run_in(node.cluster, node.name, ["mount", "--no-mtab", *words])
    lib = node.state / "lib"
    inside("-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    inside("--bind", node.state / "log", "/var/log")
    # /var/lib is built first and moved last: it hides the state directory, and the kubelet's disk statistics fail on a
    # mount point that is listed but hidden.
    inside("--bind", lib, lib)
    inside("--bind", parts.programs_directory(), lib / "stillpoint-node" / "bin")
    inside("--move", lib, "/var/lib")
    inside("--make-rshared", "/")


def start_component(node, component):
    machines.start_daemon(node.cluster, node.name, component, command(node, component),
                          env={"PATH": f"{BIN}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"})


def command(node, component):
    if component == "containerd":
        return [f"{BIN}/containerd", "--config", f"{SETUP}/containerd.toml"]
    if component == "kubelet":
        return [f"{BIN}/kubelet", f"--config={SETUP}/kubelet.json", f"--kubeconfig={SETUP}/kubelet.kubeconfig",
                f"--hostname-override={node.name}", f"--node-ip={node.address}", "--v=2"]
    return [f"{BIN}/kube-proxy", f"--config={SETUP}/kube-proxy.json"]


def load(node, archives):
    """Import image archives into the node's containerd."""
    for archive in archives:
        with open(archive, "rb") as content:
            machines.run_in(node.cluster, node.name, [f"{BIN}/ctr", "--namespace", "k8s.io", "images", "import", "--local",
                                                      "--snapshotter", snapshotter(), "-"], stdin=content, timeout=600)


def snapshotter():
    """overlayfs cannot lie on overlayfs, which is what the disk is when this machine is itself a container."""
    kind = run(["stat", "--file-system", "--format=%T", "/var/lib"]).stdout.strip()
    return "native" if kind == "overlayfs" else "overlayfs"


def containerd_config():
    # Without CAP_SYS_RESOURCE nobody may lower an oom_score_adj, and runc would die of trying.
    return f"""\
version = 3
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
                    "io.containerd.snapshotter.v1.devmapper"]
[plugins."io.containerd.internal.v1.opt"]
  path = "/var/lib/containerd/opt"
[plugins."io.containerd.nri.v1.nri"]
  disable = true
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "{snapshotter()}"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "{parts.PREFIX}/pause:1"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  tolerate_missing_hugetlb_controller = true
  disable_apparmor = true
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["/usr/lib/cni"]
    conf_dir = "{SETUP}/cni"
"""


def cni_config(pod_network):
    """How Pods of a node get their network: a bridge, and addresses of the node's share."""
    return {
        "cniVersion": "0.4.0", "name": "pods",
        "plugins": [{
            "type": "bridge", "bridge": "cni0", "isGateway": True, "ipMasq": False, "hairpinMode": True,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": str(pod_network)}]],
                     "routes": [{"dst": "0.0.0.0/0"}]},
        }],
    }


def kubelet_config(node):
    config = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "address": "0.0.0.0",
        "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": True},
                           "x509": {"clientCAFile": f"{SETUP}/ca.crt"}},
        "authorization": {"mode": "Webhook"},
        "containerRuntimeEndpoint": f"unix://{SOCKET}",
        "cgroupDriver": "cgroupfs", "cgroupRoot": node.cgroup_root,
        "failSwapOn": False,
        # A developer's disk is often nearly full, and that is no reason to evict a test.
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "nodefs.inodesFree": "1%",
                         "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100, "imageGCLowThresholdPercent": 99,
        "clusterDNS": [node.cluster.dns_address], "clusterDomain": "cluster.local", "resolvConf": "",
        "volumePluginDir": "/var/lib/kubelet/volumeplugins",
        "oomScoreAdj": 0,
        # Tests kill containers, often the same one: it must come back at once, and not after five minutes.
        "crashLoopBackOff": {"maxContainerRestartPeriod": "1s"},
    }
    if not cgroups.is_unified():  # A kubelet refuses cgroup v1 unless it is told not to, since Kubernetes 1.35.
        config["failCgroupV1"] = False
    return config


def kube_proxy_config(node):
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
        "mode": "iptables", "clientConnection": {"kubeconfig": f"{SETUP}/kube-proxy.kubeconfig"},
        "hostnameOverride": node.name, "clusterCIDR": str(node.cluster.pod_network),
        # These settings are the whole kernel's, not the node's.
        "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "oomScoreAdj": 0,
    }

