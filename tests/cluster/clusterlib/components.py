"""Restarting one component of a running cluster, as a fault test does."""

from . import control_plane, daemons, lifecycle, machines, node
from .identity import CONTROL_PLANE, MAX_NODES
from .programs import ClusterError


def restart(cluster, component, only_node=None):
    """Kill a component with SIGKILL, if it runs, and start it with the command line it had. Node components: on every node,
    or on one."""
    targets = [(machine, name) for machine, name in lifecycle.components(cluster, lifecycle.node_count(cluster))
               if name == component and only_node in (None, machine)]
    if not targets:
        raise ClusterError(f"no component {component}{f' on {only_node}' if only_node else ''}; components are "
                           f"{', '.join(control_plane.COMPONENTS + node.COMPONENTS)}")
    for machine, _ in targets:
        daemons.stop(cluster.scope, f"{machine}.{component}", component)
        if machine == CONTROL_PLANE:
            control_plane.start_component(cluster, component)
        else:
            node.start_component(by_name(cluster, machine), component)
        daemons.wait_for(cluster.scope, f"{machine}.{component}", component, machines.component_log(cluster, machine, component))
    if targets[0][0] == CONTROL_PLANE:
        control_plane.wait_ready(cluster)


def by_name(cluster, name):
    for each in cluster.nodes(MAX_NODES):
        if each.name == name and each.state.exists():
            return each
    raise ClusterError(f"no node {name}: `cluster status` lists them")
