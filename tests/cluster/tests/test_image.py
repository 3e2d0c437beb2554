"""Image archives: the same input gives the same bytes, and what is inside is what an engine expects."""

import hashlib
import json
import os
import tarfile
import tempfile
import time
import unittest
from pathlib import Path

from clusterlib import image
from clusterlib.programs import ClusterError


class ImageTest(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.scratch = Path(scratch.name)
        self.program = self.scratch / "program"
        self.program.write_bytes(b"\x7fELF and so on")
        self.program.chmod(0o700)

    def write(self, name="image.tar", **options):
        out = self.scratch / name
        image.write_archive(out, name="localhost/x:1", files=[(self.program, "/opt/bin/program")], entrypoint=["/opt/bin/program"],
                            **options)
        return out

    def test_same_input_same_bytes(self):
        first = self.write("first.tar").read_bytes()
        os.utime(self.program, (time.time() + 1000, time.time() + 1000))
        self.assertEqual(first, self.write("second.tar").read_bytes())

    def test_different_input_different_bytes(self):
        first = self.write("first.tar").read_bytes()
        self.assertNotEqual(first, self.write("second.tar", user="65532").read_bytes())

    def test_digests_match_the_layers(self):
        with tarfile.open(self.write()) as archive:
            manifest, = json.load(archive.extractfile("manifest.json"))
            config = archive.extractfile(manifest["Config"]).read()
            layers = [archive.extractfile(name).read() for name in manifest["Layers"]]
        self.assertEqual(manifest["RepoTags"], ["localhost/x:1"])
        self.assertEqual(manifest["Config"], f"{hashlib.sha256(config).hexdigest()}.json")
        self.assertEqual(json.loads(config)["rootfs"]["diff_ids"],
                         [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers])

    def test_layer_holds_the_file_and_its_directories(self):
        layer = image.write_layer(self.scratch / "layer.tar", [(self.program, "/opt/bin/program")])
        with tarfile.open(layer) as archive:
            entries = {entry.name: entry for entry in archive}
        self.assertEqual(sorted(entries), ["opt", "opt/bin", "opt/bin/program", "tmp"])
        self.assertEqual(entries["opt/bin/program"].mode, 0o755)
        self.assertEqual(entries["tmp"].mode, 0o1777)
        self.assertEqual({entry.mtime for entry in entries.values()}, {0})

    def test_a_directory_comes_whole(self):
        (self.scratch / "share" / "deep").mkdir(parents=True)
        (self.scratch / "share" / "deep" / "file").write_text("x")
        layer = image.write_layer(self.scratch / "layer.tar", [(self.scratch / "share", "/usr/share/x")])
        with tarfile.open(layer) as archive:
            self.assertIn("usr/share/x/deep/file", archive.getnames())

    def test_names_that_an_engine_would_pull_are_refused(self):
        for name in ("busybox", "busybox:1", "localhost/x", "localhost:5000/x"):
            with self.assertRaises(ClusterError, msg=name):
                image.check_name(name)
        image.check_name("localhost/stillpoint-parts/pause:1")

    def test_a_missing_file_is_named(self):
        with self.assertRaisesRegex(ClusterError, "nowhere"):
            image.write_layer(self.scratch / "layer.tar", [(self.scratch / "nowhere", "/x")])


if __name__ == "__main__":
    unittest.main()
