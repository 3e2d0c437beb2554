"""Names and addresses: different for two checkouts, and fit for what they name."""

import ipaddress
import unittest
from pathlib import Path

from clusterlib.identity import DEFAULT_NODES, MAX_NODES, SLOTS, Identity


class IdentityTest(unittest.TestCase):
    def test_follows_from_the_checkout_alone(self):
        self.assertEqual(Identity.of("/srv/stillpoint"), Identity.of("/srv/stillpoint/"))
        one, other = Identity.of("/srv/stillpoint"), Identity.of("/srv/clone")
        for what in ("id", "scope", "state", "host_interface", "machine_network"):
            self.assertNotEqual(getattr(one, what), getattr(other, what), what)

    def test_interface_name_fits_the_kernel(self):
        self.assertLessEqual(len(Identity.of("/").host_interface), 15)

    def test_networks_do_not_overlap_and_stay_in_the_private_range(self):
        for slot in (0, 1, SLOTS - 1):
            cluster = Identity(Path("/"), "0" * 8, slot)
            networks = [cluster.machine_network, cluster.service_network, cluster.pod_network]
            for number, network in enumerate(networks):
                self.assertTrue(network.subnet_of(ipaddress.ip_network("10.0.0.0/8")))
                self.assertFalse(any(network.overlaps(other) for other in networks[number + 1:]))
            following = Identity(Path("/"), "0" * 8, slot + 1)
            self.assertLess(cluster.pod_network[-1], following.machine_network[0])

    def test_every_node_has_its_own_share_of_the_pod_network(self):
        nodes = Identity.of("/srv/stillpoint").nodes(MAX_NODES)
        self.assertEqual(len({node.pod_network for node in nodes}), MAX_NODES)
        self.assertEqual(len({node.cgroup_root for node in nodes}), MAX_NODES)
        for node in nodes:
            self.assertTrue(node.pod_network.subnet_of(node.cluster.pod_network))
        self.assertEqual([node.name for node in nodes[:DEFAULT_NODES]], ["node1", "node2"])

    def test_a_stand_alone_api_server_shares_nothing_with_the_cluster(self):
        cluster = Identity.of("/srv/stillpoint")
        self.assertNotEqual(cluster.api_scope("a"), cluster.scope)
        self.assertFalse(cluster.api_state("a").is_relative_to(cluster.state))


if __name__ == "__main__":
    unittest.main()
