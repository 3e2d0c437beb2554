"""What is read from go.mod and from the machine."""

import re
import unittest

from clusterlib import machines, parts, standalone_api, toolchain, versions
from clusterlib.cli import CHECKOUT
from clusterlib.programs import ClusterError


class PartsTest(unittest.TestCase):
    def test_versions_come_from_the_module_files(self):
        found = parts.versions()
        for version in vars(found).values():
            self.assertRegex(version, r"^v?\d+\.\d+\.\d+$")
        self.assertIn(f"gitVersion={found.kubernetes}", parts.link_flags())

    def test_the_go_to_fetch_is_new_enough_for_all_modules(self):
        self.assertGreaterEqual(versions.number(toolchain.GO_PACKAGE[1]), versions.number(parts.versions().go))

    def test_key_is_stable_and_fit_for_a_path(self):
        self.assertEqual(parts.key(), parts.key())
        self.assertRegex(parts.key(), r"^[0-9a-f]{16}$")

    def test_the_driver_of_the_tests_takes_the_sidecars_there_are(self):
        manifest = (CHECKOUT / "tests" / "loop-csi" / "deploy" / "driver.yaml").read_text()
        named = set(re.findall(rf"image: ({parts.PREFIX}/\S+)", manifest))
        self.assertTrue(named)
        self.assertLessEqual(named, set(parts.images()))

    def test_go_versions_compare_by_number(self):
        self.assertLess(versions.number("go1.9"), versions.number("1.26.0"))
        self.assertEqual(versions.number("1.26"), versions.number("go1.26.0"))
        self.assertLess(versions.number("unreadable"), versions.number("1.0"))

    def test_loop_mounts_are_found_deepest_first(self):
        mountinfo = ("21 1 254:0 / / rw - ext4 /dev/vda rw\n"
                     "30 21 7:0 / /mnt/a rw shared:1 - ext4 /dev/loop0 rw\n"
                     "31 30 7:1 / /mnt/a/with\\040space rw - xfs /dev/loop1 rw\n")
        self.assertEqual(machines.loop_mounts(mountinfo), ["/mnt/a/with space", "/mnt/a"])

    def test_api_server_names(self):
        standalone_api.check_name("unit-7")
        for name in ("", "a/b", "..", "-x", "x" * 41, "Ä"):
            with self.assertRaises(ClusterError, msg=name):
                standalone_api.check_name(name)


if __name__ == "__main__":
    unittest.main()
