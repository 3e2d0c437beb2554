"""The build's progress: what counts as a package, and what is shown."""

import io
import unittest

from clusterlib.progress import Progress, bar, clock, compiled_package, shorten


class Terminal(io.StringIO):
    def isatty(self):
        return True


class ProgressTest(unittest.TestCase):
    def test_only_package_lines_count(self):
        self.assertEqual(compiled_package("k8s.io/kubernetes/cmd/kubelet\n"), "k8s.io/kubernetes/cmd/kubelet")
        self.assertEqual(compiled_package("errors\n"), "errors")
        for message in ("", "# k8s.io/api", "go: downloading k8s.io/api v0.34.4", "x.go:633:30: undefined: y", "too many errors"):
            self.assertIsNone(compiled_package(message), message)

    def test_a_log_gets_a_line_every_ten_per_cent(self):
        out = io.StringIO()
        progress = Progress("Go parts", 1000, out=out, now=lambda: 0)
        for _ in range(1000):
            progress.step("x")
        self.assertEqual(len(out.getvalue().splitlines()), 10)
        self.assertNotIn("\r", out.getvalue())

    def test_packages_that_were_cached_do_not_leave_it_unfinished(self):
        out = io.StringIO()
        progress = Progress("Go parts", 1000, out=out, now=lambda: 0)
        progress.step("x")
        progress.finish()
        self.assertIn("100 %", out.getvalue())

    def test_more_steps_than_expected_do_not_overflow(self):
        out = Terminal()
        progress = Progress("Go parts", 2, out=out, now=lambda: 0)
        for _ in range(5):
            progress.step("x")
        self.assertEqual(progress.percent(), 100)

    def test_a_terminal_gets_one_line_that_fits(self):
        line = bar("Go parts", 1, 4275, 3599, "k8s.io/kubernetes/" + "very/long/" * 20)
        self.assertLessEqual(len(line), 120)
        self.assertIn("4274 packages left", line)
        self.assertIn("59:59", line)

    def test_words(self):
        self.assertEqual(clock(61.9), "1:01")
        self.assertEqual(shorten("abcdef", 4), "…def")
        self.assertEqual(shorten("abc", 4), "abc")


if __name__ == "__main__":
    unittest.main()
