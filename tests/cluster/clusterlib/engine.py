"""The container engine whose containers are kind's nodes: Docker or what stands in for it, on this machine or where the
user's settings say. The cluster gives it no settings and takes it down never; own_docker.py has one of our own."""

import os
import shutil

from .programs import ClusterError, clean_environment, run

# kind's own choice of the engine: docker, podman or nerdctl.
PROVIDER = "KIND_EXPERIMENTAL_PROVIDER"
# Who sets one of these wants this engine and no other.
WANTED = (PROVIDER, "DOCKER_HOST", "DOCKER_CONTEXT", "CONTAINER_HOST")
# Other settings that engine and kind read, by how they begin.
SETTINGS = ("DOCKER_", "KIND_EXPERIMENTAL_", "CONTAINER_", "CONTAINERD_", "XDG_RUNTIME_DIR", "SSH_AUTH_SOCK")
PROXIES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")
LABEL = "io.x-k8s.kind.cluster"

ANSWER_SECONDS = 30
COMMAND_SECONDS = 120


class Engine:
    """An engine's program, and the environment that leads it to its daemon."""

    def __init__(self, program, environment):
        self.program, self.environment = program, environment

    @property
    def ours(self):
        """Whether it was made for this cluster and ends with it."""
        return False

    def call(self, *words, timeout=COMMAND_SECONDS, **options):
        return run([self.program, *words], env=self.environment, timeout=timeout, **options)

    def complaint(self):
        """Why it cannot be used, in its own words; None when it answers."""
        if not shutil.which(self.program, path=self.environment["PATH"]):
            return "there is no such program on PATH"
        answer = self.call("info", check=False, timeout=ANSWER_SECONDS)
        said = (answer.stderr.strip() or answer.stdout.strip()).splitlines()
        return None if answer.returncode == 0 else (said[-1] if said else f"`{self.program} info` fails")

    def nodes(self, cluster):
        """The nodes of a kind cluster: name → whether its container runs."""
        answer = self.call("ps", "--all", "--filter", f"label={LABEL}={cluster}", "--format", "{{.Names}} {{.State}}", check=False)
        return dict(sorted(read_containers(answer.stdout))) if answer.returncode == 0 else {}

    def address(self, node):
        """Of a node, in the engine's own network."""
        return self.call("inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}", node).stdout.split()[0]

    def image(self, node):
        """The name of the image that a node was made of."""
        return self.call("inspect", "--format", "{{.Config.Image}}", node).stdout.strip()

    def container_id(self, node):
        return self.call("inspect", "--format", "{{.Id}}", node).stdout.strip()

    def volumes(self, node):
        """The directories of this machine in which a node keeps what is on its disk."""
        asked = '{{range .Mounts}}{{if eq .Destination "/var"}}{{.Source}}{{end}}{{end}}'
        return self.call("inspect", "--format", asked, node).stdout.split()

    def inside(self, node, *words):
        """The words of a command that runs another one inside a node."""
        return [self.program, "exec", "--interactive", node, *words]

    def has_image(self, image):
        return self.call("image", "inspect", image, check=False).returncode == 0


def read_containers(said):
    """Pairs of a name and whether it runs. Podman and Docker agree on the word."""
    return [(name, state == "running") for name, state in (line.split() for line in said.splitlines() if line.strip())]


def of_user(environment=os.environ):
    """The engine that the user's settings lead to, whether it answers or not."""
    kept = {name: value for name, value in environment.items()
            if name.startswith(SETTINGS) or name.lower() in PROXIES}
    if "PATH" in environment:
        kept["PATH"] = environment["PATH"]
    return Engine(environment.get(PROVIDER) or "docker", clean_environment(**kept))


def wanted(environment=os.environ):
    """The first of the user's settings that names an engine; None when it is left to us."""
    return next((name for name in WANTED if environment.get(name)), None)


def choose(found, complaint, wanted, can_make):
    """Whether to make an engine of our own. Raises what to do when there is neither."""
    if complaint is None:
        return False
    if wanted:
        raise ClusterError(f"{found.program}, which {wanted} asks for, does not answer ({complaint}): start it, or unset {wanted}")
    if can_make:
        return True
    raise ClusterError(f"{found.program} does not answer ({complaint}): start Docker, or set {PROVIDER}=podman, or run this as "
                       "root on Debian, where a Docker of our own is made from its packages")
