"""Names and addresses of one checkout's cluster. Pure: everything follows from the path of the checkout.

Two checkouts may each have a cluster on one machine, so nothing here may be a constant of the project.
"""

import hashlib
import ipaddress
from dataclasses import dataclass
from pathlib import Path

CONTROL_PLANE = "control-plane"
ENGINE = "engine"  # The machine that holds a Docker of our own, for CLUSTER=kind.
MAX_NODES = 8
DEFAULT_NODES = 2
API_PORT = 6443

STATE_ROOT = Path("/var/lib/stillpoint-cluster")

# A cluster gets one /20 of 10.64.0.0 – 10.255.255.255: /24 number 0 for the machines, 1 for Services, 2 for the
# containers of an engine, 8 … 15 for Pods.
FIRST_SLOT = int(ipaddress.ip_address("10.64.0.0"))
SLOTS = (256 - 64) * 16


@dataclass(frozen=True)
class Identity:
    """What one checkout's cluster is called, and where it lives."""

    checkout: Path
    id: str
    slot: int

    @classmethod
    def of(cls, checkout):
        checkout = Path(checkout).resolve()
        return cls.drawn(checkout, str(checkout))

    @classmethod
    def drawn(cls, checkout, text):
        digest = hashlib.sha256(text.encode()).hexdigest()
        return cls(checkout, digest[:8], int(digest[8:16], 16) % SLOTS)

    def beside(self, kind):
        """Another cluster of the same checkout, which shares no name and no address with this one."""
        return Identity.drawn(self.checkout, f"{self.checkout} {kind}")

    @property
    def scope(self):
        """Name of the control group that holds every process of the cluster."""
        return f"stillpoint-{self.id}"

    def api_scope(self, name):
        """The same for the stand-alone API server called `name`; `down` of the cluster does not touch it."""
        return f"stillpoint-{self.id}-api-{name}"

    @property
    def state(self):
        return STATE_ROOT / self.id

    def machine_state(self, machine):
        return self.state / machine

    @property
    def logs(self):
        return self.state / "logs"

    @property
    def kubernetes(self):
        """A file that names the minor version of Kubernetes."""
        return self.state / "kubernetes"

    @property
    def kubeconfig(self):
        return self.state / "admin.kubeconfig"

    @property
    def audit_log(self):
        return self.logs / "audit.log"

    def api_state(self, name):
        return STATE_ROOT / f"{self.id}-api-{name}"

    @property
    def host_interface(self):
        """The one network device on the host: its end of the wire to the cluster's bridge. 15 characters at most."""
        return f"sp-{self.id}"

    def _subnet(self, number, prefix=24):
        return ipaddress.ip_network((FIRST_SLOT + self.slot * 4096 + number * 256, prefix))

    @property
    def machine_network(self):
        return self._subnet(0)

    @property
    def service_network(self):
        return self._subnet(1)

    @property
    def container_network(self):
        """Where a Docker of our own puts its containers, which are kind's nodes."""
        return self._subnet(2)

    @property
    def pod_network(self):
        return self._subnet(8, 21)

    @property
    def api_address(self):
        return str(self.machine_network[1])

    @property
    def host_address(self):
        return str(self.machine_network[2])

    @property
    def api_url(self):
        return f"https://{self.api_address}:{API_PORT}"

    @property
    def kubernetes_service_address(self):
        return str(self.service_network[1])

    @property
    def dns_address(self):
        return str(self.service_network[10])

    def nodes(self, count):
        return [Node(self, number) for number in range(1, count + 1)]


@dataclass(frozen=True)
class Node:
    """One worker: a machine with a kubelet."""

    cluster: Identity
    number: int

    @property
    def name(self):
        return f"node{self.number}"

    @property
    def address(self):
        return str(self.cluster.machine_network[10 + self.number])

    @property
    def pod_network(self):
        return self.cluster._subnet(7 + self.number)

    @property
    def state(self):
        return self.cluster.machine_state(self.name)

    @property
    def cgroup_root(self):
        """The kubelet's cgroupRoot: two kubelets on one kernel must not share theirs."""
        return f"/{self.cluster.scope}/{self.name}"
