"""The cluster itself, for real: needs root, takes a minute, and takes this checkout's cluster up and down.

    python3 -B -m unittest discover -t tests/cluster -s tests/cluster/acceptance
"""

import os
import subprocess
import tempfile
import unittest
from pathlib import Path

from clusterlib import cgroups, daemons
from clusterlib.cli import CHECKOUT
from clusterlib.identity import Identity
from clusterlib.programs import clean_environment, wait_until

COMMAND = CHECKOUT / "tests" / "cluster" / "cluster"
IMAGE = "localhost/acceptance:1"
WEB = """
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: None, selector: {app: web}, ports: [{port: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: balanced}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: web}
spec:
  serviceName: web
  replicas: 2
  podManagementPolicy: Parallel
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      topologySpreadConstraints:
      - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: web}}}
      containers:
      - name: web
        image: localhost/acceptance:1
        command: [/bin/busybox, sh, -c, "busybox hostname >/tmp/index.html; echo started; exec busybox httpd -f -p 8080 -h /tmp"]
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
        volumeMounts: [{name: private, mountPath: /private}]
      volumes: [{name: private, hostPath: {path: /run/acceptance, type: DirectoryOrCreate}}]
"""
# Freezes a filesystem of its own under a writer, and leaves it so. It thaws by itself after a minute, whatever happens.
FREEZE = """
image=/var/lib/stillpoint-loop/acceptance.img
truncate -s 64M $image && mkfs.ext4 -q $image && mkdir -p /var/lib/acceptance
mount --no-mtab -o loop $image /var/lib/acceptance
setsid sh -c 'sleep 60; fsfreeze --unfreeze /var/lib/acceptance' >/dev/null 2>&1 &
fsfreeze --freeze /var/lib/acceptance
setsid dd if=/dev/zero of=/var/lib/acceptance/file bs=4k count=1 >/dev/null 2>&1 &
"""


def cluster(*words):
    return subprocess.run([COMMAND, *words], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def kubectl(*words, input=None):
    program = Path(cluster("build")) / "bin" / "kubectl"
    return subprocess.run([program, *words], check=True, stdout=subprocess.PIPE, text=True, input=input,
                          env=clean_environment(KUBECONFIG=cluster("kubeconfig"))).stdout.strip()


class ClusterTest(unittest.TestCase):
    def test_a_whole_life(self):
        ours = Identity.of(CHECKOUT)
        self.addCleanup(cluster, "down")
        self.assertEqual(cluster("up"), str(ours.kubeconfig))

        with self.subTest("Pods on both nodes find each other by name"):
            with tempfile.TemporaryDirectory() as scratch:
                archive = f"{scratch}/image.tar"
                cluster("image", "--name", IMAGE, "--out", archive, "--file", "/usr/bin/busybox:/bin/busybox")
                cluster("load", archive)
            kubectl("apply", "--filename=-", input=WEB)
            kubectl("rollout", "status", "statefulset/web", "--timeout=60s")
            self.assertEqual(set(kubectl("get", "pods", "--output=jsonpath={.items[*].spec.nodeName}").split()), {"node1", "node2"})
            for asker in ("web-0", "web-1"):
                for asked in ("web-0", "web-1"):
                    answer = wait_until(f"{asker} to reach {asked}", seconds=30, every=1, condition=lambda: self.fetch(
                        asker, f"http://{asked}.web.default.svc.cluster.local:8080/"))
                    self.assertEqual(answer, asked)
                self.assertIn(self.fetch(asker, "http://balanced/"), ("web-0", "web-1"))
                self.assertEqual(kubectl("logs", asker), "started")

        with self.subTest("a hostPath is the node's own"):
            kubectl("exec", "web-0", "--", "/bin/busybox", "touch", "/private/mine")
            self.assertEqual(kubectl("exec", "web-1", "--", "/bin/busybox", "ls", "/private"), "")
            self.assertFalse(Path("/run/acceptance").exists())

        with self.subTest("writes are in the audit log"):
            self.assertIn('"verb":"create"', ours.audit_log.read_text())

        with self.subTest("a killed component comes back, and a healthy cluster is left alone"):
            before = cluster("pid", "node1", "kubelet")
            cluster("restart-component", "kubelet", "--node", "node1")
            self.assertNotEqual(before, cluster("pid", "node1", "kubelet"))
            api_server = cluster("pid", "control-plane", "kube-apiserver")
            wait_until("the nodes to be ready", seconds=60, condition=lambda: "NotReady" not in kubectl("get", "nodes"))
            cluster("up")
            self.assertEqual(api_server, cluster("pid", "control-plane", "kube-apiserver"))

        with self.subTest("down leaves nothing, though a writer waits for a frozen filesystem"):
            cluster("node-exec", "node1", "--", "sh", "-c", FREEZE)
            processes = cgroups.processes(ours.scope)
            self.assertGreater(len(processes), 20)
            cluster("down")
            self.assertEqual([pid for pid in processes if not daemons.has_ended(pid)], [])
            self.assertFalse(ours.state.exists())
            self.assertEqual(list(cgroups.groups(ours.scope)), [])
            self.assertNotIn(ours.host_interface, os.listdir("/sys/class/net"))
            self.assertNotIn(ours.id, Path("/proc/self/mountinfo").read_text())
            self.assertNotIn("acceptance.img", subprocess.run(["losetup"], capture_output=True, text=True).stdout)

    def fetch(self, pod, url):
        try:
            return kubectl("exec", pod, "--", "/bin/busybox", "wget", "-q", "-O-", url)
        except subprocess.CalledProcessError:
            return None


if __name__ == "__main__":
    unittest.main()
