"""One bar over all Go parts: packages compiled against packages needed."""

import sys
import time

LINE_EVERY_PERCENT = 10
BAR_WIDTH = 30


class Progress:
    """Counts steps towards `total` and shows them: a bar on a terminal, a line every ten per cent elsewhere."""

    def __init__(self, title, total, *, out=sys.stderr, now=time.monotonic):
        self.title, self.total, self.out, self.now = title, max(total, 1), out, now
        self.done, self.started, self.last_line = 0, now(), 0
        self.terminal = out.isatty()

    def step(self, what):
        self.done = min(self.done + 1, self.total)
        if self.terminal:
            self.out.write("\r\033[K" + bar(self.title, self.done, self.total, self.elapsed(), what))
            self.out.flush()
        elif self.percent() >= self.last_line + LINE_EVERY_PERCENT:
            self.last_line = self.percent() // LINE_EVERY_PERCENT * LINE_EVERY_PERCENT
            self.line(what)

    def finish(self):
        """The cache may have held some packages already, so the count may have ended early."""
        self.done = self.total
        if self.terminal:
            self.out.write("\r\033[K")
        self.line("done")

    def line(self, what):
        print(f"{self.title}: {self.percent():3d} %  {self.done}/{self.total} packages, {clock(self.elapsed())}  {what}",
              file=self.out, flush=True)

    def percent(self):
        return self.done * 100 // self.total

    def elapsed(self):
        return self.now() - self.started


def bar(title, done, total, elapsed, what):
    """One line of at most about 100 columns."""
    filled = BAR_WIDTH * done // total
    return (f"{title} [{'#' * filled}{'.' * (BAR_WIDTH - filled)}] {done * 100 // total:3d} % "
            f"{total - done} packages left, {clock(elapsed)}  {shorten(what, 32)}")


def shorten(text, width):
    return text if len(text) <= width else "…" + text[1 - width:]


def clock(seconds):
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def compiled_package(line):
    """The package that a line of `go build -v` names, or None when the line is a message."""
    line = line.strip()
    return line if line and " " not in line else None
