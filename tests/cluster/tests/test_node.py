<<<<<<< HEAD
"""How a node of our own cluster is configured."""
=======
"""What a node's programs are told, on machines unlike this one too."""
>>>>>>> wt-native

import tomllib
import unittest
from unittest import mock

<<<<<<< HEAD
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
=======
from clusterlib import cgroups, node
from clusterlib.identity import Identity

WORKER = Identity.of("/somewhere").nodes(1)[0]


class NodeTest(unittest.TestCase):
    def test_pods_and_imported_images_use_the_same_snapshotter(self):
        for chosen in ("overlayfs", "native"):
            with mock.patch.object(node, "snapshotter", return_value=chosen):
                plugins = tomllib.loads(node.containerd_config())["plugins"]
            self.assertEqual(plugins["io.containerd.cri.v1.images"]["snapshotter"], chosen)
            unpacking = plugins["io.containerd.transfer.v1.local"]["unpack_config"]
            self.assertEqual([each["snapshotter"] for each in unpacking], [chosen])

    def test_a_kubelet_is_told_to_take_cgroup_v1_only_where_there_is_v1(self):
        for unified in (False, True):
            with mock.patch.object(cgroups, "is_unified", return_value=unified):
                config = node.kubelet_config(WORKER)
            self.assertEqual(config.get("failCgroupV1"), None if unified else False)
>>>>>>> wt-native


if __name__ == "__main__":
    unittest.main()
