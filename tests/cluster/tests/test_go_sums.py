"""The committed go.sum files have a checksum for everything that go.mod requires, so no build asks anybody else for one.

A build would say so too (`-mod=readonly`), but minutes later, and only where the module cache is not filled already.
"""

import re
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
GRAPHS = sorted(path.parent for path in HERE.glob("go*/**/go.mod"))


def required(go_mod):
    """Every (module, version) that a build reads: what `require` lists, as `replace` has it."""
    replaced = dict(re.findall(r"^\s*(?:replace )?(\S+)(?: v\S+)? => (\S+ v\S+)$", go_mod, re.M))
    listed = re.findall(r"^\s*(?:require )?([\w.-]+\.\S+) (v\S+)(?: // indirect)?$", go_mod, re.M)
    return {tuple(replaced.get(module, f"{module} {version}").split()) for module, version in listed}


def missing(go_mod, go_sum):
    """The lines that go.sum lacks. Each module needs two: one for its files, one for its own go.mod."""
    there = {tuple(line.split()[:2]) for line in go_sum.splitlines()}
    wanted = {(module, version + of) for module, version in required(go_mod) for of in ("", "/go.mod")}
    return sorted(wanted - there)


class GoSumsTest(unittest.TestCase):
    def test_every_module_has_its_checksums(self):
        self.assertGreaterEqual(len(GRAPHS), 2)
        for graph in GRAPHS:
            go_mod = (graph / "go.mod").read_text()
            self.assertGreater(len(required(go_mod)), 10, f"{graph}: its go.mod was not understood")
            self.assertEqual(missing(go_mod, (graph / "go.sum").read_text()), [], f"not in {graph}/go.sum")

    def test_what_is_missing_is_named(self):
        go_mod = ("module x\n\ntool (\n\ta.org/b/cmd/c\n)\n\nrequire a.org/b v1.2.3\n\n"
                  "require (\n\tc.org/d v1.0.0 // indirect\n)\n\nreplace (\n\tc.org/d => c.org/d v0.9.0\n)\n")
        self.assertEqual(required(go_mod), {("a.org/b", "v1.2.3"), ("c.org/d", "v0.9.0")})
        go_sum = "a.org/b v1.2.3 h1:x\na.org/b v1.2.3/go.mod h1:x\nc.org/d v1.0.0 h1:x\nc.org/d v0.9.0/go.mod h1:x\n"
        self.assertEqual(missing(go_mod, go_sum), [("c.org/d", "v0.9.0")])


if __name__ == "__main__":
    unittest.main()
