"""Which versions of Kubernetes there are: one module graph for each, and all of one kind."""

import os
import re
import subprocess
import tempfile
import unittest
from pathlib import Path
from unittest import mock

from clusterlib import parts, versions
from clusterlib.cli import CHECKOUT
from clusterlib.programs import ClusterError

COMMAND = CHECKOUT / "tests" / "cluster" / "cluster"


class VersionsTest(unittest.TestCase):
    def test_the_newest_is_taken_unless_another_is_named(self):
        newest, oldest = versions.supported()[-1], versions.supported()[0]
        self.assertEqual(versions.chosen({}), newest)
        self.assertEqual(versions.chosen({"K8S": ""}), newest)
        self.assertEqual(versions.chosen({"K8S": oldest}), oldest)
        self.assertEqual(versions.supported(), sorted(versions.supported(), key=versions.number))

    def test_an_unknown_version_gets_the_names_of_those_there_are(self):
        for unknown in ("1.9", "1.35.4", "v1.37", "newest", "../go-kind"):
            with self.assertRaises(ClusterError, msg=unknown) as refused:
                versions.chosen({"K8S": unknown})
            for minor in (unknown, *versions.supported()):
                self.assertIn(minor, str(refused.exception))

    def test_an_unknown_version_leaves_nothing_behind(self):
        with tempfile.TemporaryDirectory() as cache:
            for command in (["up"], ["build"], ["api-up", "--name", "unit"], ["status"]):
                done = subprocess.run([COMMAND, *command], capture_output=True, text=True,
                                      env=os.environ | {"K8S": "1.9", "STILLPOINT_CACHE": cache})
                self.assertEqual(done.returncode, 1, command)
                self.assertRegex(done.stderr, r"^cluster: K8S=1\.9: .*\n$")
                self.assertEqual(list(Path(cache).iterdir()), [], command)

    def test_each_version_has_a_key_of_its_own(self):
        keys = set()
        for minor in versions.supported():
            with mock.patch.dict(os.environ, {"K8S": minor}):
                keys.add(parts.key())
        self.assertEqual(len(keys), len(versions.supported()))

    def test_a_graph_is_that_of_its_folder_and_of_one_kubernetes(self):
        for minor in versions.supported():
            text = (versions.graph(minor) / "go.mod").read_text()
            kubernetes = re.search(r"k8s\.io/kubernetes v1\.(\S+)", text).group(1)
            self.assertEqual(f"1.{kubernetes.partition('.')[0]}", minor)
            for module, version in re.findall(r"^\tk8s\.io/\S+ => (\S+) (\S+)", text, re.M):
                self.assertEqual(version, f"v0.{kubernetes}", f"{module} in the graph of {minor}")

    def test_the_graphs_name_the_same_programs_of_kubernetes(self):
        newest = versions.graph(versions.newest())
        for minor in versions.supported()[:-1]:
            graph = versions.graph(minor)
            self.assertEqual(parts.tools(graph), parts.kubernetes_programs(newest), f"the rest comes from {newest.name}")


if __name__ == "__main__":
    unittest.main()
