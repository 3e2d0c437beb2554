"""etcd, kube-apiserver, kube-controller-manager and kube-scheduler: their command lines, and their start."""

import ipaddress
import urllib.error
import urllib.request
import ssl
from dataclasses import dataclass
from pathlib import Path

from . import certificates, daemons, machines, parts
from .identity import API_PORT, CONTROL_PLANE
from .programs import wait_until

CONFIG = Path(__file__).resolve().parent.parent / "config"
COMPONENTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
START_SECONDS = 60


@dataclass(frozen=True)
class ApiServer:
    """What tells one API server (with its etcd) from another: the cluster's from the stand-alone ones."""

    data: Path
    certificates: Path
    audit_log: Path
    address: str
    port: int
    etcd_port: int
    etcd_peer_port: int
    service_network: str
    kubernetes_service_address: str

    @property
    def url(self):
        return f"https://{self.address}:{self.port}"

    def etcd_command(self):
        here = f"http://127.0.0.1:{self.etcd_port}"
        # A crash of the machine may lose this data. A test cluster has none to lose.
        return [parts.program("etcd"), "--name=default", f"--data-dir={self.data}/etcd", "--unsafe-no-fsync", "--log-level=warn", f"--listen-client-urls={here}", f"--advertise-client-urls={here}",
                f"--listen-peer-urls=http://127.0.0.1:{self.etcd_peer_port}",
                f"--initial-advertise-peer-urls=http://127.0.0.1:{self.etcd_peer_port}",
                f"--initial-cluster=default=http://127.0.0.1:{self.etcd_peer_port}"]

    def command(self):
        keys = self.certificates
        return [parts.program("kube-apiserver"),
                f"--etcd-servers=http://127.0.0.1:{self.etcd_port}",
                f"--advertise-address={self.address}", f"--bind-address={self.address}", f"--secure-port={self.port}",
                f"--tls-cert-file={keys}/kube-apiserver.crt", f"--tls-private-key-file={keys}/kube-apiserver.key",
                f"--client-ca-file={keys}/ca.crt", "--anonymous-auth=true",
                "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
                f"--service-cluster-ip-range={self.service_network}",
                "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
                f"--service-account-key-file={keys}/service-account.pub",
                f"--service-account-signing-key-file={keys}/service-account.key",
                f"--kubelet-client-certificate={keys}/kube-apiserver.crt", f"--kubelet-client-key={keys}/kube-apiserver.key",
                "--kubelet-preferred-address-types=InternalIP", "--allow-privileged=true",
                f"--audit-policy-file={CONFIG}/audit-policy.yaml", f"--audit-log-path={self.audit_log}",
                "--profiling=false", "--v=1", *self.no_endpoints()]

    def no_endpoints(self):
        """An address of the loopback device is refused as an endpoint of the Service `kubernetes` (seen with 1.37). Nobody asks there."""
        return ["--endpoint-reconciler-type=none"] if ipaddress.ip_address(self.address).is_loopback else []

    def prepare(self):
        """Certificates: for the server, for its own calls to kubelets, and for the administrator."""
        certificates.create_authority(self.certificates)
        certificates.issue(self.certificates, "kube-apiserver", user="kube-apiserver", group="system:masters",
                           addresses=["127.0.0.1", self.address, self.kubernetes_service_address],
                           names=["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc",
                                  "kubernetes.default.svc.cluster.local"])
        certificates.issue(self.certificates, "admin", user="admin", group="system:masters")

    def is_ready(self):
        """Whether /readyz says ok. Asked without kubectl, which takes longer to start than this takes to answer."""
        try:
            context = ssl.create_default_context(cafile=str(self.certificates / "ca.crt"))
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
            with opener.open(f"{self.url}/readyz", timeout=2) as answer:
                return answer.status == 200
        except (OSError, urllib.error.URLError):
            return False


def api_server(cluster):
    return ApiServer(data=cluster.machine_state(CONTROL_PLANE), certificates=cluster.machine_state(CONTROL_PLANE) / "pki",
                     audit_log=cluster.audit_log, address=cluster.api_address, port=API_PORT, etcd_port=2379, etcd_peer_port=2380,
                     service_network=str(cluster.service_network),
                     kubernetes_service_address=cluster.kubernetes_service_address)


def command(cluster, component):
    """The command line of a control-plane component."""
    api = api_server(cluster)
    state, keys = cluster.machine_state(CONTROL_PLANE), api.certificates
    if component == "etcd":
        return api.etcd_command()
    if component == "kube-apiserver":
        return api.command()
    if component == "kube-scheduler":
        return [parts.program(component), f"--kubeconfig={state}/{component}.kubeconfig", "--leader-elect=false",
                "--bind-address=127.0.0.1"]
    return [parts.program("kube-controller-manager"), f"--kubeconfig={state}/kube-controller-manager.kubeconfig",
            "--leader-elect=false", "--bind-address=127.0.0.1", "--use-service-account-credentials=true",
            f"--service-account-private-key-file={keys}/service-account.key", f"--root-ca-file={keys}/ca.crt",
            f"--cluster-signing-cert-file={keys}/ca.crt", f"--cluster-signing-key-file={keys}/ca.key",
            "--allocate-node-cidrs=false", f"--flex-volume-plugin-dir={state}/flexvolume"]


def prepare(cluster):
    api = api_server(cluster)
    api.prepare()
    state = cluster.machine_state(CONTROL_PLANE)
    for component in ("kube-controller-manager", "kube-scheduler"):
        certificates.issue(api.certificates, component, user=f"system:{component}")
        certificates.write_kubeconfig(state / f"{component}.kubeconfig", api.certificates, component, cluster.api_url)
    certificates.write_kubeconfig(cluster.kubeconfig, api.certificates, "admin", cluster.api_url)


def start_component(cluster, component):
    machines.start_daemon(cluster, CONTROL_PLANE, component, command(cluster, component))


def start(cluster):
    """Start all components and wait until the API server is ready."""
    for component in COMPONENTS:
        start_component(cluster, component)
    wait_ready(cluster)


def wait_ready(cluster):
    api = api_server(cluster)

    def ready():
        for component in ("etcd", "kube-apiserver"):
            daemons.expect_alive(cluster.scope, f"{CONTROL_PLANE}.{component}",
                                 machines.component_log(cluster, CONTROL_PLANE, component), component)
        return api.is_ready()

    wait_until(f"the API server at {api.url} (log: {machines.component_log(cluster, CONTROL_PLANE, 'kube-apiserver')})",
               ready, seconds=START_SECONDS)
