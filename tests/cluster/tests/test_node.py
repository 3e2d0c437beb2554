"""How a node of our own cluster is configured."""

import tomllib
import unittest
from unittest import mock

from clusterlib import cgroups, node, parts
from clusterlib.identity import Identity


class NodeTest(unittest.TestCase):
    def test_a_kubelet_takes_cgroup_v1_only_where_there_is_no_other(self):
        worker = Identity.of("/checkout").nodes(1)[0]
        with mock.patch.object(cgroups, "is_unified", return_value=False):
            self.assertIs(node.kubelet_config(worker)["failCgroupV1"], False)
        with mock.patch.object(cgroups, "is_unified", return_value=True):
            self.assertNotIn("failCgroupV1", node.kubelet_config(worker))

    def test_containerd_knows_the_pause_image_that_is_built(self):
        plugins = tomllib.loads(node.containerd_config())["plugins"]
        self.assertIn(plugins["io.containerd.cri.v1.images"]["pinned_images"]["sandbox"], parts.images())


if __name__ == "__main__":
    unittest.main()
