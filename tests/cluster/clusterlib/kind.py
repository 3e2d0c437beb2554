"""A kind cluster behind the same commands as our own: its life, from the container engine to its end.

Where Docker is there (or Podman, by kind's own variable), it runs the nodes, of kind's stock image or of KIND_IMAGE. Elsewhere, as
root on Debian, both engine and node image are made here: own_docker.py, node_image.py.
"""

import os
import shutil
import time

from . import addons, kind_config, kind_nodes, kind_parts, lifecycle, node_image, own_docker, parts, sysctls, teardown, versions
from . import engine as engines
from .identity import API_PORT, CONTROL_PLANE
from .programs import ClusterError, follow, run, say, wait_until
from .status import table

IMAGE_VARIABLE = "KIND_IMAGE"
CREATE_SECONDS = 600
LOAD_SECONDS = 300
PULL_SECONDS = 1200
DELETE_SECONDS = 120
NODES_READY_SECONDS = 120
# Every node, the control plane's too, has a /24 of the /21 for Pods.
MAX_WORKERS = 7
# In the cluster from the start, besides what kind puts there; CoreDNS where kind's is missing.
IMAGES = ("csi-provisioner", "csi-snapshotter", "snapshot-controller")


class Kind:
    """The kind cluster of a checkout. It shares no name and no address with the checkout's own cluster."""

    def __init__(self, cluster):
        self.cluster = cluster.beside("kind")
        self.name = f"stillpoint-{self.cluster.id}"
        # Without root there is an engine of the user's, and only a kubeconfig to keep.
        self.state = self.cluster.state if os.geteuid() == 0 else parts.cache() / "kind" / self.cluster.id
        self.kubeconfig = self.state / "admin.kubeconfig"
        self.version = self.state / "kubernetes"
        self.exports = {"KUBECONFIG": self.kubeconfig, "CLUSTER": "kind"}

    # --- Up --------------------------------------------------------------------------------------------------------------

    def up(self, workers):
        """Bring it up, unless it is. What is half there, unhealthy or of another size is made anew."""
        if not 1 <= workers <= MAX_WORKERS:
            raise ClusterError(f"--nodes {workers}: a kind cluster has 1 to {MAX_WORKERS} workers")
        with lifecycle.locked(self.cluster):
            make_own = self.must_make_engine()
            parts.build()
            kind_parts.kind()
            there = self.engine_in_use()
            if there and self.is_as_wanted(there, workers + 1):
                return
            if self.is_there(there):
                say("taking away what is left of an earlier kind cluster")
                self.take_down(there)
            started = time.monotonic()
            self.state.mkdir(parents=True)
            self.version.write_text(versions.chosen())
            try:
                engine = self.started_engine(make_own)
                nodes = self.create(engine, workers)
            except BaseException:
                self.take_down(self.engine_in_use())
                raise
            self.require_health(engine, nodes)  # An unhealthy one stays, to be looked at.
            say(f"up after {time.monotonic() - started:.0f} s")

    def must_make_engine(self):
        """Whether the engine is to be made here. Says first what would be in the way, before anything is built."""
        found = engines.of_user()
        make_own = engines.choose(found, found.complaint(), engines.wanted(), own_docker.can_make())
        if make_own:
            own_docker.require_machine()
            chosen = os.environ.get(IMAGE_VARIABLE)
            if chosen and chosen != node_image.name():
                raise ClusterError(f"{IMAGE_VARIABLE}={chosen}: a Docker of our own has no way to a registry; unset it, or set "
                                   "DOCKER_HOST to a Docker that has this image")
        return make_own

    def started_engine(self, make_own):
        """The user's engine, or one of our own, started."""
        if os.geteuid() == 0:
            sysctls.remember(self.cluster)
            sysctls.make_room()
        if not make_own:
            return engines.of_user()
        tar = node_image.build()
        made = own_docker.OwnDocker(self.cluster)
        made.start()
        say("the node image, into Docker")
        made.import_image(tar, node_image.name(), node_image.CHANGES)
        return made

    def create(self, engine, workers):
        image = self.node_image(engine)
        say(f"kind {kind_parts.kind_version()}, Kubernetes {image.kubernetes}, a control plane and {workers} workers")
        follow([kind_parts.kind(), "create", "cluster", "--name", self.name, "--image", image.name, "--kubeconfig", self.kubeconfig,
                "--config", "-"], env=engine.environment, timeout=CREATE_SECONDS,
               input=kind_config.document(image, workers, pod_network=self.cluster.pod_network,
                                          service_network=self.cluster.service_network))
        direct = self.reach(engine)
        nodes = kind_nodes.registered(self.kubeconfig, workers + 1)
        if not image.brings_network:
            kind_nodes.lay_pod_network(engine, nodes)
        if direct:
            self.route(engine, nodes)
        for each in nodes:
            kind_nodes.require_tools(engine, each.name)
        self.furnish(engine, image)
        return nodes

    def running_version(self):
        """The minor version of Kubernetes whose parts the cluster was made with; None when there is no cluster."""
        return self.version.read_text() if self.version.exists() else None

    def image_name(self, engine):
        return os.environ.get(IMAGE_VARIABLE) or (node_image.name() if engine.ours else kind_config.STOCK_IMAGE)

    def node_image(self, engine):
        """The image of the nodes, pulled where it is missing."""
        name = self.image_name(engine)
        if not engine.has_image(name):
            say(f"pulling {name}")
            try:
                follow([engine.program, "pull", name], env=engine.environment, timeout=PULL_SECONDS)
            except ClusterError:  # Its own words are on the screen.
                raise ClusterError(f"{engine.program} neither has the image {name} nor can pull it: set {IMAGE_VARIABLE} to a node "
                                   "image of kind that it has, or can reach") from None
        return kind_config.ask(engine, name)

    def reach(self, engine):
        """Have the kubeconfig name the control plane's own address, where there is a way to it: faults cut the link to it."""
        address = engine.address(self.machine(CONTROL_PLANE))
        if os.geteuid() != 0 or not kind_nodes.is_reached(address):
            say("there is no way from here to the nodes' own addresses: everything works but `make chaos`")
            return False
        addons.kubectl(self.kubeconfig, "config", "set-cluster", f"kind-{self.name}", f"--server=https://{address}:{API_PORT}")
        return True

    def route(self, engine, nodes):
        """Tests on this machine talk to Pods."""
        for each in nodes:
            if engine.ours:
                engine.route(each.pod_network, each.address)
            else:
                run(["ip", "route", "replace", each.pod_network, "via", each.address])

    def furnish(self, engine, image):
        """What our own cluster has from the start, and kind has not."""
        say("snapshot CRDs, snapshot-controller" + ("" if image.brings_network else ", CoreDNS"))
        wanted = IMAGES if image.brings_network else (*IMAGES, "coredns")
        self.load_into(engine, [archive for archive in parts.archives() if archive.stem in wanted])
        if not image.brings_network:
            addons.apply(self.kubeconfig, addons.coredns(self.cluster))
        addons.apply_crds(self.kubeconfig)
        addons.apply(self.kubeconfig, addons.snapshot_controller())

    def require_health(self, engine, nodes):
        """kind looks at its control plane only, so that a broken cluster would show test by test."""
        say("waiting until all nodes are ready and names are found")
        wait_until("all nodes to be Ready (see `kubectl describe nodes`)", lambda: self.is_ready(len(nodes)),
                   seconds=NODES_READY_SECONDS, every=0.5)
        addons.wait_for_rollout(self.kubeconfig, "coredns", "snapshot-controller")
        addons.wait_for_rollout(self.kubeconfig, "kube-proxy", kind="daemonset")
        kind_nodes.look_up(engine, [each.name for each in nodes], self.cluster.dns_address)

    # --- While it is up --------------------------------------------------------------------------------------------------

    def load(self, archives):
        self.load_into(self.running_engine(), archives)

    def load_into(self, engine, archives):
        for archive in archives:
            run([kind_parts.kind(), "load", "image-archive", archive, "--name", self.name], env=engine.environment,
                timeout=LOAD_SECONDS)

    def entry(self, node):
        """The words and the environment of a command that runs another one inside a node."""
        engine = self.running_engine()
        return engine.inside(self.known(engine, node)), engine.environment

    def pid(self, node, component):
        kind_nodes.require_local()
        engine = self.running_engine()
        found = kind_nodes.pid(engine, self.known(engine, node), component)
        if found is None:
            raise ClusterError(f"{component} does not run on {node}, or not on this machine")
        return found

    def restart(self, component, only_node=None):
        """Kill a component, if it runs, and wait until it is back: by itself, for systemd and the kubelet start all of them."""
        kind_nodes.require_local()
        engine = self.running_engine()
        known = kind_nodes.CONTROL_PLANE_COMPONENTS + kind_nodes.NODE_COMPONENTS
        if component not in known:
            raise ClusterError(f"no component {component}; components are {', '.join(known)}")
        control_plane = component in kind_nodes.CONTROL_PLANE_COMPONENTS
        everywhere = [self.machine(CONTROL_PLANE)] if control_plane else list(engine.nodes(self.name))
        kind_nodes.restart(engine, [self.known(engine, only_node)] if only_node else everywhere, component)
        if control_plane:
            wait_until("the API server to be ready", self.answers, seconds=kind_nodes.RESTART_SECONDS, every=0.5)

    def status(self):
        """What `cluster status` shows."""
        engine = self.engine_in_use()
        nodes = engine.nodes(self.name) if engine else {}
        if not nodes:
            return ["cluster: down"]
        healthy = self.is_healthy(engine, len(nodes))
        rows = [("NODE", "CONTAINER"), *((name, "running" if runs else "not running") for name, runs in nodes.items())]
        lines = [f"cluster:    {'up' if healthy else 'not healthy: `cluster up` makes it anew'}",
                 f"kind:       {self.name} (from {self.cluster.checkout})", f"kubeconfig: {self.kubeconfig}",
                 f"engine:     {'our own, ' if engine.ours else ''}{engine.program}", "", *table(rows)]
        if self.answers():
            lines += ["", *addons.nodes_and_pods(self.kubeconfig)]
        return lines

    # --- Down ------------------------------------------------------------------------------------------------------------

    def down(self):
        with lifecycle.locked(self.cluster):
            self.take_down(self.engine_in_use())

    def take_down(self, engine):
        """Everything of it, also after a crash. Frozen volumes are thawed first, or their writers could not be killed."""
        if own_docker.is_there(self.cluster):
            own_docker.down(self.cluster)
            return
        if engine and engine.nodes(self.name):
            self.delete(engine)
        if os.geteuid() == 0:
            run(["ip", "route", "flush", "root", str(self.cluster.pod_network)], check=False)
            sysctls.restore(self.cluster)
        if self.state.exists():
            shutil.rmtree(self.state)
            teardown.remove_if_empty(self.state.parent)

    def delete(self, engine):
        volumes = [each for node in engine.nodes(self.name) for each in engine.volumes(node)] if os.geteuid() == 0 else []
        for volume in volumes:
            teardown.thaw_loops(volume)
        run([kind_parts.kind(), "delete", "cluster", "--name", self.name], env=engine.environment, timeout=DELETE_SECONDS)

    # --- Looks -----------------------------------------------------------------------------------------------------------

    def engine_in_use(self):
        """The engine that has, or would have, this cluster's nodes; None when there is none."""
        if own_docker.is_there(self.cluster):
            return own_docker.OwnDocker(self.cluster)
        found = engines.of_user()
        return found if found.complaint() is None else None

    def running_engine(self):
        engine = self.engine_in_use()
        if engine is None or not engine.nodes(self.name):
            raise ClusterError("the kind cluster is down: run `CLUSTER=kind tests/cluster/cluster up` first")
        return engine

    def is_there(self, engine):
        return self.state.exists() or own_docker.is_there(self.cluster) or bool(engine and engine.nodes(self.name))

    def is_as_wanted(self, engine, count):
        """Healthy, and of the image that would be taken now."""
        made_of = {engine.image(node) for node in engine.nodes(self.name)}
        return made_of == {self.image_name(engine)} and self.is_healthy(engine, count)

    def is_healthy(self, engine, count):
        nodes = engine.nodes(self.name)
        return len(nodes) == count and all(nodes.values()) and self.kubeconfig.exists() and self.answers() and self.is_ready(count)

    def is_ready(self, count):
        there = kind_nodes.members(self.kubeconfig)
        return len(there) == count and all(each.ready for each in there)

    def answers(self):
        return addons.kubectl(self.kubeconfig, "get", "--raw=/readyz", "--request-timeout=5s", check=False).returncode == 0

    def machine(self, name):
        """The name of a node; `control-plane` is short for that of the control plane."""
        return f"{self.name}-{CONTROL_PLANE}" if name == CONTROL_PLANE else name

    def known(self, engine, node):
        nodes = engine.nodes(self.name)
        if not nodes.get(self.machine(node)):
            raise ClusterError(f"no node {node} runs; there are: {', '.join(nodes)}")
        return self.machine(node)
