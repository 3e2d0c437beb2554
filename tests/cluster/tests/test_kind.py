"""CLUSTER=kind: which engine and image, what kind is told, and what is read from nodes."""

import json
import os
import subprocess
import tempfile
import unittest
from pathlib import Path
from unittest import mock

from clusterlib import engine, external, kind_config, kind_nodes, kind_parts, node_image, own_docker, sysctls
from clusterlib.identity import Identity
from clusterlib.kind_config import NodeImage
from clusterlib.kind_nodes import Process
from clusterlib.programs import ClusterError

CLUSTER = Identity.of("/somewhere")
OURS = NodeImage("localhost/node:1", "v1.37.2", brings_network=False, cgroup_v1=True)
STOCK = NodeImage(kind_config.STOCK_IMAGE, "v1.37.0", brings_network=True, cgroup_v1=False)


class EngineTest(unittest.TestCase):
    def test_the_users_settings_reach_engine_and_kind(self):
        settings = {"PATH": "/theirs", "DOCKER_HOST": "unix:///there", "DOCKER_CONTEXT": "c", "DOCKER_CONFIG": "/c", "https_proxy": "p",
                    "NO_PROXY": "n", "KIND_EXPERIMENTAL_PROVIDER": "podman", "KIND_EXPERIMENTAL_DOCKER_NETWORK": "net"}
        found = engine.of_user(settings | {"SECRET": "kept away", "KUBECONFIG": "/theirs"})
        self.assertEqual(found.program, "podman")
        for name, value in settings.items():
            self.assertEqual(found.environment.get(name), value, name)
        for name in ("SECRET", "KUBECONFIG"):
            self.assertNotIn(name, found.environment)

    def test_without_settings_it_is_docker(self):
        self.assertEqual(engine.of_user({}).program, "docker")

    def test_an_engine_that_answers_is_taken(self):
        self.assertFalse(engine.choose(engine.of_user({}), None, None, can_make=True))

    def test_one_is_made_where_there_is_none_and_none_is_asked_for(self):
        self.assertTrue(engine.choose(engine.of_user({}), "no daemon", None, can_make=True))

    def test_an_engine_that_is_asked_for_must_answer(self):
        settings = {"DOCKER_HOST": "tcp://nowhere"}
        with self.assertRaisesRegex(ClusterError, "docker, which DOCKER_HOST asks for, does not answer .no daemon.: start it, or unset"):
            engine.choose(engine.of_user(settings), "no daemon", engine.wanted(settings), can_make=True)

    def test_without_root_or_debian_it_is_said_what_to_do(self):
        with self.assertRaisesRegex(ClusterError, "start Docker, or set KIND_EXPERIMENTAL_PROVIDER=podman, or run this as root on Debian"):
            engine.choose(engine.of_user({}), "no daemon", None, can_make=False)

    def test_a_program_that_is_missing_is_a_complaint(self):
        self.assertEqual(engine.of_user({"PATH": "/nowhere"}).complaint(), "there is no such program on PATH")

    def test_containers_are_read(self):
        self.assertEqual(engine.read_containers("b running\na exited\n"), [("b", True), ("a", False)])
        self.assertEqual(engine.read_containers(""), [])


class NodeImageTest(unittest.TestCase):
    def test_what_an_image_says_is_read(self):
        self.assertEqual(kind_config.read("x", "v1.37.2\nno-network\ncgroup-v1\n"), NodeImage("x", "v1.37.2", False, True))
        self.assertEqual(kind_config.read("x", "v1.35.0\nnetwork\ncgroup-v2\n"), NodeImage("x", "v1.35.0", True, False))

    def test_other_images_are_refused_in_a_sentence(self):
        for said in ("", "no-network\ncgroup-v1\n", "12.1 network cgroup-v2", "v1 network cgroup-v2"):
            with self.assertRaisesRegex(ClusterError, "KIND_IMAGE=x is no node image of kind"):
                kind_config.read("x", said)
        for version in ("v1.31.9", "v1.x.0"):
            with self.assertRaisesRegex(ClusterError, f"KIND_IMAGE=x holds Kubernetes {version}: take one from v1.32 on"):
                kind_config.read("x", f"{version}\nnetwork\ncgroup-v2\n")

    def test_an_engine_that_starts_nothing_privileged_is_told_from_a_wrong_image(self):
        def asked(status):
            answer = subprocess.CompletedProcess([], status, stdout="", stderr="its own words")
            with mock.patch.object(engine.Engine, "call", return_value=answer):
                kind_config.ask(engine.of_user({}), "x")

        with self.assertRaisesRegex(ClusterError, "this docker cannot start a privileged container.*its own words"):
            asked(125)
        with self.assertRaisesRegex(ClusterError, "KIND_IMAGE=x is no node image"):
            asked(127)

    def test_images_are_told_by_their_programs(self):
        listed = ["r.example/kube-apiserver:v1", "r.example/kube-controller-manager:v1", "r.example/kube-scheduler:v1",
                  "r.example/kube-proxy:v1", "r.example/coredns/coredns:v2", "r.example/pause:3", "r.example/etcd:3-0"]
        found = node_image.by_program(listed)
        self.assertEqual(found["etcd"], "r.example/etcd:3-0")
        self.assertEqual(set(found), set(node_image.CONTROL_PLANE))
        with self.assertRaisesRegex(ClusterError, "no image of pause"):
            node_image.by_program([each for each in listed if "pause" not in each])

    def test_libraries_are_read(self):
        said = ("/usr/sbin/iptables:\n\tlinux-vdso.so.1 (0x00007f)\n\tlibm.so.6 => /lib/x/libm.so.6 (0x00007f)\n"
                "\t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n/b.so:\n\tstatically linked\n\tlibm.so.6 => /lib/x/libm.so.6 (0x00)\n")
        self.assertEqual(node_image.libraries_in(said), ["/lib/x/libm.so.6", "/lib64/ld-linux-x86-64.so.2"])

    def test_key_follows_the_scripts(self):
        self.assertEqual(node_image.key(), node_image.key())
        self.assertRegex(node_image.key(), r"^[0-9a-f]{16}$")
        self.assertNotEqual(kind_parts.digest("a", "b"), kind_parts.digest("ab"))

    def test_the_image_that_kind_is_made_for_is_the_stock_image(self):
        self.assertRegex(kind_config.STOCK_IMAGE, r"^kindest/node:v1\.\d+\.\d+@sha256:[0-9a-f]{64}$")


class DocumentTest(unittest.TestCase):
    def document(self, image, workers=2):
        return json.loads(kind_config.document(image, workers, pod_network="10.1.8.0/21", service_network="10.1.1.0/24"))

    def test_nodes_and_networks(self):
        made = self.document(STOCK, workers=3)
        self.assertEqual([node["role"] for node in made["nodes"]], ["control-plane", "worker", "worker", "worker"])
        self.assertEqual(made["networking"], {"podSubnet": "10.1.8.0/21", "serviceSubnet": "10.1.1.0/24", "disableDefaultCNI": False})

    def test_no_node_sees_the_machines_devices(self):
        self.assertNotIn("extraMounts", json.dumps(self.document(STOCK)))

    def test_an_image_without_network_gets_ours(self):
        made = self.document(OURS)
        self.assertTrue(made["networking"]["disableDefaultCNI"])
        self.assertTrue(any("addon/coredns" in patch for patch in made["kubeadmConfigPatches"]))
        self.assertFalse(any("addon/coredns" in patch for patch in self.document(STOCK)["kubeadmConfigPatches"]))

    def test_the_kubelet_is_told_of_cgroup_v1_where_it_is(self):
        kubelet = lambda image: json.loads(self.document(image)["kubeadmConfigPatches"][0])
        self.assertIs(kubelet(OURS)["failCgroupV1"], False)
        self.assertNotIn("failCgroupV1", kubelet(STOCK))


class NodesTest(unittest.TestCase):
    def test_nodes_of_the_api_server(self):
        node = lambda name, **status: {"metadata": {"name": name, "labels": {}}, "spec": {"podCIDR": "10.1.9.0/24"}, "status": status}
        addresses = [{"type": "Hostname", "address": "b"}, {"type": "InternalIP", "address": "10.1.2.3"}]
        found = kind_nodes.read_members({"items": [
            node("b", addresses=addresses, conditions=[{"type": "Ready", "status": "True"}]),
            node("a", addresses=addresses, conditions=[{"type": "Ready", "status": "Unknown"}]), node("new")]})
        self.assertEqual([(each.name, each.address, each.pod_network, each.ready) for each in found],
                         [("a", "10.1.2.3", "10.1.9.0/24", False), ("b", "10.1.2.3", "10.1.9.0/24", True)])

    def test_a_question_is_what_dns_expects(self):
        self.assertEqual(kind_nodes.question("a.bc").hex(), "0016" "5350" "0100" "0001" "0000" "0000" "0000" "0161" "026263" "00" "0001" "0001")

    def test_only_an_answer_with_an_address_counts(self):
        self.assertTrue(kind_nodes.is_answered("0050" "5350" "8580" "0001" "0001" "0000" "0000"))
        for wrong in ("", "00", "no hexadecimal", "0050" "5351" "8580" "0001" "0001" "0000" "0000",  # of another question
                      "0050" "5350" "8583" "0001" "0000" "0000" "0000",  # no such name
                      "0050" "5350" "8580" "0001" "0000" "0000" "0000",  # no address
                      "0050" "5350" "0100" "0001" "0001" "0000" "0000"):  # no answer
            self.assertFalse(kind_nodes.is_answered(wrong), wrong)

    def test_components_are_told_by_program_and_init_by_its_place(self):
        found = [Process(100, 50, "systemd", 1), Process(101, 100, "kubelet", 9), Process(102, 101, "pause", 1),
                 Process(103, 50, "sh", 77), Process(104, 102, "etcd", 1)]
        self.assertEqual([kind_nodes.pick(name, found) for name in ("init", "kubelet", "etcd")], [100, 101, 104])
        self.assertIsNone(kind_nodes.pick("containerd", found))

    def test_status_is_read(self):
        read = kind_nodes.read_status("Name:\tx\nPPid:\t7\nNSpid:\t100\t40\t1\n")
        self.assertEqual((read["PPid"], read["NSpid"].split()[-1]), ("7", "1"))

    def test_names_and_addresses_are_not_those_of_our_own_cluster(self):
        other = CLUSTER.beside("kind")
        for what in ("id", "scope", "state", "host_interface", "pod_network"):
            self.assertNotEqual(getattr(CLUSTER, what), getattr(other, what), what)
        self.assertEqual(CLUSTER.checkout, other.checkout)
        self.assertFalse(other.container_network.overlaps(other.pod_network))


class OwnDockerTest(unittest.TestCase):
    def test_what_the_kernel_lacks_is_named(self):
        own_docker.require_kernel([("this", ("true",))])
        with self.assertRaisesRegex(ClusterError, "kernel has no that, no other: load the modules"):
            own_docker.require_kernel([("this", ("true",)), ("that", ("false",)), ("other", ("false",))])

    def test_capabilities_are_read(self):
        status = "CapPrm:\t000001ffffffffff\nCapEff:\t000001fffeffffff\n"
        self.assertFalse(own_docker.has_capability(status, own_docker.CAP_SYS_RESOURCE))
        self.assertTrue(own_docker.has_capability(status, 21))

    def test_the_runtime_takes_out_one_capability_and_nothing_else(self):
        lists = ['["CAP_SYS_RESOURCE","CAP_KILL"]', '["CAP_KILL","CAP_SYS_RESOURCE"]', '["CAP_SYS_RESOURCE"]', '["CAP_KILL"]']
        expected = ['["CAP_KILL"]', '["CAP_KILL"]', "[]", '["CAP_KILL"]']
        with tempfile.TemporaryDirectory() as scratch:
            runc = Path(scratch) / "runc"
            runc.write_text("#!/bin/sh\necho \"$*\"\n")
            runc.chmod(0o755)
            for words, file in ((["create", "--bundle", scratch, "x"], "config.json"), (["exec", "--process", f"{scratch}/p", "x"], "p")):
                for before, after in zip(lists, expected):
                    (Path(scratch) / file).write_text(f'{{"a":{before}}}')
                    said = subprocess.run([own_docker.RUNTIME, *words], env={"PATH": f"{scratch}:{os.environ['PATH']}"}, check=True,
                                          stdout=subprocess.PIPE, text=True).stdout
                    self.assertEqual(said.split(), words)
                    self.assertEqual((Path(scratch) / file).read_text(), f'{{"a":{after}}}')

    def test_limits_are_raised_and_never_lowered(self):
        with tempfile.TemporaryDirectory() as scratch:
            limits = [Path(scratch) / name for name in sysctls.AT_LEAST]
            limits[0].parent.mkdir(parents=True)
            for limit, value in zip(limits, ("128", "9999999")):
                limit.write_text(value)
            sysctls.make_room(Path(scratch))
            self.assertEqual([limit.read_text() for limit in limits], ["1024", "9999999"])
        self.assertLessEqual(set(sysctls.AT_LEAST), set(sysctls.CHANGED))

    def test_files_that_the_machine_lacks_come_first(self):
        self.assertTrue(own_docker.path("/cache/docker").startswith("/cache/docker/usr/sbin:"))


class ExistingTest(unittest.TestCase):
    def test_the_nodes_of_others_are_left_alone(self):
        with mock.patch.dict(os.environ, {"STILLPOINT_KUBECONFIG": "/etc/theirs"}, clear=True):
            other = external.chosen(CLUSTER)
        for call in (lambda: other.entry("a"), lambda: other.pid("a", "kubelet"), lambda: other.restart("kubelet")):
            with self.assertRaisesRegex(ClusterError, "not ours"):
                call()


if __name__ == "__main__":
    unittest.main()
