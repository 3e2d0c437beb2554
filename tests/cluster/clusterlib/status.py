"""What runs, as a table."""

from . import addons, cgroups, control_plane, lifecycle, machines
from .programs import ClusterError


def report(cluster):
    """The lines of `cluster status`."""
    if not lifecycle.exists(cluster):
        return ["cluster: down"]
    rows = [("MACHINE", "COMPONENT", "PID", "STATE")]
    count = lifecycle.node_count(cluster)
    for machine, component in lifecycle.components(cluster, count):
        pid = machines.component_pid(cluster, machine, component)
        rows.append((machine, component, str(pid or "-"), "running" if pid else "not running"))
    healthy = lifecycle.is_healthy(cluster, count)
    lines = [f"cluster:    {'up' if healthy else 'not healthy: `cluster up` makes it anew'}",
             f"id:         {cluster.id} (from {cluster.checkout})", f"kubeconfig: {cluster.kubeconfig}",
             f"API server: {cluster.api_url}", f"logs:       {cluster.logs}",
             f"processes:  {len(cgroups.processes(cluster.scope))}", "", *table(rows)]
    if control_plane.api_server(cluster).is_ready():
        lines += ["", *addons.nodes_and_pods(cluster.kubeconfig)]
    return lines


def table(rows):
    """Columns as wide as their widest word."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(word.ljust(width) for word, width in zip(row, widths)).rstrip() for row in rows]


def pid(cluster, machine, component):
    """The pid (as the host sees it) of a component of a machine."""
    known = lifecycle.components(cluster, lifecycle.node_count(cluster))
    if component == "init":
        found = machines.init_pid(cluster, machine)
    elif (machine, component) not in known:
        raise ClusterError(f"no {component} on {machine}; there are: {', '.join('/'.join(each) for each in known)}")
    else:
        found = machines.component_pid(cluster, machine, component)
    if found is None:
        raise ClusterError(f"{component} does not run on {machine}: `cluster restart-component {component}` starts it")
    return found
