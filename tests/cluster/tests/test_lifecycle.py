"""What is known of a cluster from its files."""

import tempfile
import unittest
from pathlib import Path
from types import SimpleNamespace

from clusterlib import lifecycle, versions


class LifecycleTest(unittest.TestCase):
    def test_the_version_of_a_cluster(self):
        with tempfile.TemporaryDirectory() as state:
            cluster = SimpleNamespace(kubernetes=Path(state) / "kubernetes")
            self.assertIsNone(lifecycle.running_version(cluster), "there is no cluster")
            for minor in versions.supported():
                cluster.kubernetes.write_text(minor)
                self.assertEqual(lifecycle.running_version(cluster), minor)
            cluster.kubernetes.write_text("1.9")
            self.assertIsNone(lifecycle.running_version(cluster), "its version was taken away since")


if __name__ == "__main__":
    unittest.main()
