"""Clusters that are not ours: which one is chosen, and what its images are called."""

import os
import unittest
from pathlib import Path
from unittest import mock

from clusterlib import external
from clusterlib.identity import Identity
from clusterlib.programs import ClusterError

CLUSTER = Identity.of("/somewhere")


def chosen(**environment):
    with mock.patch.dict(os.environ, environment, clear=True):
        return external.chosen(CLUSTER)


class ChosenTest(unittest.TestCase):
    def test_without_a_word_it_is_our_own(self):
        self.assertIsNone(chosen())
        self.assertIsNone(chosen(KUBECONFIG="/etc/theirs"))

    def test_a_kubeconfig_that_is_given_means_that_cluster(self):
        self.assertEqual(chosen(STILLPOINT_KUBECONFIG="/etc/theirs").kubeconfig, Path("/etc/theirs"))
        self.assertEqual(chosen(CLUSTER="existing", KUBECONFIG="/etc/theirs").kubeconfig, Path("/etc/theirs"))

    def test_a_relative_path_holds_in_every_directory(self):
        self.assertTrue(chosen(STILLPOINT_KUBECONFIG="theirs").kubeconfig.is_absolute())

    def test_what_makes_no_sense_is_refused(self):
        for environment in ({"CLUSTER": "existing"}, {"CLUSTER": "cloud"}):
            with self.assertRaises(ClusterError):
                chosen(**environment)


class PushedNameTest(unittest.TestCase):
    def test_ours_get_the_tag_and_parts_keep_their_version(self):
        name = lambda image: external.pushed_name(image, "registry.example/team", "v7")
        self.assertEqual(name("localhost/stillpoint:dev"), "registry.example/team/stillpoint:v7")
        self.assertEqual(name("localhost/stillpoint-parts/csi-provisioner:v5.3.0"),
                         "registry.example/team/stillpoint-parts/csi-provisioner:v5.3.0")


if __name__ == "__main__":
    unittest.main()
