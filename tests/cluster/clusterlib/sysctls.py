"""Settings of the whole kernel that kubelet, kube-proxy and a systemd in a node change: remembered before, put back after."""

import json
from pathlib import Path

from .identity import STATE_ROOT

CHANGED = ("fs/file-max", "fs/inotify/max_user_instances", "fs/inotify/max_user_watches", "fs/nr_open", "kernel/keys/root_maxbytes",
           "kernel/keys/root_maxkeys", "kernel/panic", "kernel/panic_on_oops", "net/netfilter/nf_conntrack_max",
           "vm/overcommit_memory", "vm/panic_on_oom")
# A node of kind takes some fifteen of the instances that all of root's processes share, of which a kernel grants 128. A kubelet
# that gets none does not start. What kind's documentation recommends, and twice the instances.
AT_LEAST = {"fs/inotify/max_user_instances": 1024, "fs/inotify/max_user_watches": 524288}
ROOT = Path("/proc/sys")
FILE = "sysctls.json"


def remember(cluster):
    """Another checkout's cluster may have changed them before: then its memory is the right one."""
    older = sorted(STATE_ROOT.glob(f"*/{FILE}"), key=lambda path: path.stat().st_mtime)
    values = {name: (ROOT / name).read_text().strip() for name in CHANGED if (ROOT / name).exists()}
    values |= json.loads(older[0].read_text()) if older else {}
    (cluster.state / FILE).write_text(json.dumps(values))


def make_room(root=ROOT):
    """Raise the limits that are too low for nodes that are whole systems. Call it after `remember`."""
    for name, least in AT_LEAST.items():
        if (root / name).exists() and int((root / name).read_text()) < least:
            (root / name).write_text(str(least))


def restore(cluster):
    """The last cluster on the machine puts them back."""
    mine = cluster.state / FILE
    if not mine.exists() or len(list(STATE_ROOT.glob(f"*/{FILE}"))) > 1:
        return
    for name, value in json.loads(mine.read_text()).items():
        if (ROOT / name).read_text().strip() != value:
            (ROOT / name).write_text(value)
