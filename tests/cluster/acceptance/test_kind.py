"""CLUSTER=kind for real: needs root, takes three minutes, and takes this checkout's kind cluster up and down.

    python3 -B -m unittest discover -t tests/cluster -s tests/cluster/acceptance -p test_kind.py
"""

import json
import os
import subprocess
import time
import unittest
from pathlib import Path

from clusterlib.cli import CHECKOUT
from clusterlib.identity import STATE_ROOT, Identity
from clusterlib.kind import Kind

COMMAND = CHECKOUT / "tests" / "cluster" / "cluster"
QUICK_SECONDS = 10
# Freezes a filesystem of its own under a writer, and leaves it so. It thaws by itself after two minutes, whatever happens.
FREEZE = """
image=/var/lib/acceptance.img
truncate -s 64M $image && mkfs.ext4 -q $image && mkdir -p /var/lib/acceptance
mount -o loop $image /var/lib/acceptance
setsid sh -c 'sleep 120; fsfreeze --unfreeze /var/lib/acceptance' >/dev/null 2>&1 &
fsfreeze --freeze /var/lib/acceptance
setsid dd if=/dev/zero of=/var/lib/acceptance/file bs=4k count=1 >/dev/null 2>&1 &
"""


def cluster(*words, input=None):
    return subprocess.run([COMMAND, *words], check=True, stdout=subprocess.PIPE, text=True, input=input,
                          env=os.environ | {"CLUSTER": "kind"}).stdout.strip()


def lines(*words):
    return set(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines())


class KindTest(unittest.TestCase):
    def test_a_whole_life(self):
        ours = Kind(Identity.of(CHECKOUT))
        worker = f"{ours.name}-worker"
        self.assertEqual(cluster("status"), "cluster: down")
        devices = {each.name for each in Path("/dev").iterdir()}
        self.addCleanup(cluster, "down")
        cluster("up", "--nodes", "1")
        self.assertIn("cluster:    up", cluster("status"))

        with self.subTest("up again returns at once"):
            started = time.monotonic()
            cluster("up", "--nodes", "1")
            self.assertLess(time.monotonic() - started, QUICK_SECONDS)

        with self.subTest("a command runs inside a node"):
            self.assertEqual(cluster("node-exec", worker, "--", "hostname"), worker)

        with self.subTest("a node has devices of its own"):
            cluster("node-exec", worker, "--", "touch", "/dev/of-this-node")
            self.assertFalse(Path("/dev/of-this-node").exists())

        for component in ("etcd", "kube-apiserver", "kubelet"):
            with self.subTest(f"{component} is killed and comes back"):
                before = cluster("pid", "control-plane", component)
                cluster("restart-component", component)
                self.assertNotEqual(cluster("pid", "control-plane", component), before)

        with self.subTest("a cluster that lacks a node is made anew"):
            ours.engine_in_use().call("rm", "--force", worker)
            self.assertIn("not healthy", cluster("status"))
            cluster("up", "--nodes", "1")
            self.assertIn("cluster:    up", cluster("status"))

        with self.subTest("it goes with a frozen volume and its writer, and leaves nothing"):
            cluster("node-exec", worker, "--", "bash", "-s", input=FREEZE)
            cluster("down")
            self.assertEqual(cluster("status"), "cluster: down")
            self.assertFalse((STATE_ROOT / ours.cluster.id).exists())
            self.assertFalse([line for line in lines("losetup", "--list") if "acceptance" in line])
            for network in (ours.cluster.machine_network, ours.cluster.pod_network, ours.cluster.container_network):
                self.assertFalse(lines("ip", "route", "show", "to", "root", str(network)))
            self.assertNotIn(ours.cluster.host_interface, [each["ifname"] for each in json.loads("\n".join(lines("ip", "--json", "link")))])
            # Loop devices stay, as the kernel keeps them.
            self.assertEqual({each.name for each in Path("/dev").iterdir() if not each.name.startswith("loop")},
                             {name for name in devices if not name.startswith("loop")})


if __name__ == "__main__":
    unittest.main()
