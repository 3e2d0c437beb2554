"""The commands of `tests/cluster/cluster`."""

import argparse
import os
import shlex
import sys
from pathlib import Path

from . import components, external, image, lifecycle, machines, node, parts, standalone_api, status, toolchain, versions
from .identity import DEFAULT_NODES, Identity
from .programs import ClusterError

CHECKOUT = Path(__file__).resolve().parents[3]

DESCRIPTION = """\
A real Kubernetes cluster on this machine, without Docker: kubelets, containerd, etcd and all the rest.
It is this checkout's own; another checkout has another, and they do not meet. Needs root and Debian 12 or newer.
"""

EXAMPLES = """\
A first session:
  tests/cluster/cluster up                      build what is missing (about 7 minutes, once), start two nodes (half a minute)
  eval "$(tests/cluster/cluster env)"           KUBECONFIG, and kubectl and helm on PATH
  kubectl get nodes
  tests/cluster/cluster down                    nothing stays behind but the cache

An image of your own:
  tests/cluster/cluster image --name localhost/hello:1 --out hello.tar --file ./hello:/hello --entrypoint /hello
  tests/cluster/cluster load hello.tar

Another kind of cluster:
  CLUSTER=kind tests/cluster/cluster up         the same commands on kind
  STILLPOINT_KUBECONFIG=~/.kube/config tests/cluster/cluster up     use a cluster that is there; it is never taken down

Environment:
  STILLPOINT_CACHE       where built parts are kept (default: $XDG_CACHE_HOME/stillpoint, else ~/.cache/stillpoint)
  CLUSTER                native (default), kind, or existing
  K8S                    version of Kubernetes, such as 1.35 (default: the newest of those below tests/cluster/go)
  KIND_IMAGE             with kind: the image of its nodes (default: kind's own; without an engine, one made here)
  STILLPOINT_KUBECONFIG  the kubeconfig of an existing cluster; given, it means CLUSTER=existing
  STILLPOINT_IMAGES      with an existing cluster: what stands before the images' names in its registry
  STILLPOINT_TAG         and their tag
"""


def parser():
    top = argparse.ArgumentParser(prog="cluster", description=DESCRIPTION, epilog=EXAMPLES,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name, action, summary):
        made = commands.add_parser(name, help=summary, description=summary)
        made.set_defaults(action=action)
        return made

    command("build", build, "build the parts, if they are not in the cache")
    made = command("up", up, "bring the cluster up (returns at once when it is) and print the path of its kubeconfig")
    made.add_argument("--nodes", type=int, default=DEFAULT_NODES, help="number of worker nodes (default: %(default)s)")
    command("down", down, "stop everything and leave nothing behind, also after a crash")
    command("status", show_status, "show what runs")
    command("kubeconfig", kubeconfig, "print the path of the kubeconfig")
    command("env", env, "print shell exports: KUBECONFIG, PATH, STILLPOINT_AUDIT_LOG")
    made = command("load", load, "import image archives into every node; with an existing cluster: print what to push")
    made.add_argument("archives", nargs="+", type=Path, metavar="IMAGE_TAR")

    made = command("image", make_image, "make an image archive from static files; the same input gives the same bytes")
    made.add_argument("--name", required=True, help="such as localhost/hello:1")
    made.add_argument("--out", required=True, type=Path, help="the archive to write")
    made.add_argument("--file", action="append", default=[], metavar="PATH:TARGET", help="a file or directory, and its path inside")
    made.add_argument("--layer", action="append", default=[], type=Path, metavar="TAR",
                      help="a tar that comes below the files, such as a root filesystem")
    made.add_argument("--entrypoint", help="the program, with arguments as a shell would split them")
    made.add_argument("--user", default="", help="uid or uid:gid (default: root)")
    made.add_argument("--env", action="append", default=[], metavar="NAME=VALUE")

    made = command("node-exec", node_exec, "run a command in a node's namespaces, such as: node-exec node1 -- losetup --list")
    made.add_argument("machine", metavar="NODE", help="node1, node2, … or control-plane; with kind, a node's name")
    made.add_argument("argv", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    made = command("pid", pid, "print the pid of a component, such as: pid node1 kubelet; or of a machine's init")
    made.add_argument("machine", metavar="NODE|control-plane")
    made.add_argument("component")
    made = command("restart-component", restart, "kill a component with SIGKILL, if it runs, and start it")
    made.add_argument("component")
    made.add_argument("--node", help="only on this node")

    made = command("api-up", api_up, "start just etcd and kube-apiserver on loopback; the last line is the path of the kubeconfig")
    made.add_argument("--name", required=True)
    made = command("api-down", api_down, "stop what api-up started")
    made.add_argument("--name", required=True)
    return top


def main():
    options = parser().parse_args()
    cluster = Identity.of(CHECKOUT)
    try:
        versions.chosen()
        if options.action not in (build, up, api_up):  # The others are about what is there.
            other = external.chosen(cluster)
            running = other.running_version() if other else lifecycle.running_version(cluster)
            os.environ[versions.VARIABLE] = running or versions.chosen()
        return options.action(cluster, options) or 0
    except ClusterError as error:
        print(f"cluster: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("cluster: interrupted; `cluster down` cleans up", file=sys.stderr)
        return 130


def build(cluster, _options):
    if not external.chosen(cluster):
        toolchain.require_packages()
    print(parts.build())


def up(cluster, options):
    other = external.chosen(cluster)
    if other:
        other.up(options.nodes)
        print(other.kubeconfig)
        return
    lifecycle.up(cluster, options.nodes)
    print(cluster.kubeconfig)


def down(cluster, _options):
    other = external.chosen(cluster)
    other.down() if other else lifecycle.down(cluster)


def show_status(cluster, _options):
    other = external.chosen(cluster)
    print("\n".join(other.status() if other else status.report(cluster)))


def kubeconfig(cluster, _options):
    print((external.chosen(cluster) or cluster).kubeconfig)


def env(cluster, _options):
    other = external.chosen(cluster)
    exports = other.exports if other else {"KUBECONFIG": cluster.kubeconfig, "STILLPOINT_AUDIT_LOG": cluster.audit_log}
    for name, value in exports.items():
        print(f"export {name}={shlex.quote(str(value))}")
    print(f"export PATH={shlex.quote(str(parts.programs_directory()))}:\"$PATH\"")


def load(cluster, options):
    for archive in options.archives:
        if not archive.is_file():
            raise ClusterError(f"{archive} is not a file: make it with `cluster image`")
    other = external.chosen(cluster)
    if other:
        other.load(options.archives)
        return
    nodes = cluster.nodes(lifecycle.node_count(cluster))
    if not nodes:
        raise ClusterError("the cluster is down: run `tests/cluster/cluster up` first")
    for each in nodes:
        node.load(each, options.archives)


def make_image(_cluster, options):
    image.check_name(options.name)
    files = []
    for pair in options.file:
        source, colon, target = pair.rpartition(":")
        if not colon or not target.startswith("/"):
            raise ClusterError(f"--file {pair!r}: write PATH:TARGET, with an absolute TARGET")
        files.append((source, target))
    if not files and not options.layer:
        raise ClusterError("an image without content: give --file or --layer")
    image.write_archive(options.out, name=options.name, files=files, layers=options.layer,
                        entrypoint=shlex.split(options.entrypoint or ""), env=options.env, user=options.user)


def node_exec(cluster, options):
    argv = options.argv[1:] if options.argv[:1] == ["--"] else options.argv
    if not argv:
        raise ClusterError("nothing to run: cluster node-exec NODE -- COMMAND")
    other = external.chosen(cluster)
    entry, environment = other.entry(options.machine) if other else (machines.entry(cluster, options.machine), os.environ)
    sys.stdout.flush()
    os.execvpe(entry[0], [*entry, *argv], environment)


def pid(cluster, options):
    other = external.chosen(cluster)
    print(other.pid(options.machine, options.component) if other else status.pid(cluster, options.machine, options.component))


def restart(cluster, options):
    other = external.chosen(cluster)
    if other:
        other.restart(options.component, options.node)
    else:
        components.restart(cluster, options.component, options.node)


def api_up(cluster, options):
    print(standalone_api.up(cluster, options.name))


def api_down(cluster, options):
    standalone_api.down(cluster, options.name)
