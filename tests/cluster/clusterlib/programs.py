"""Running other programs, and waiting for conditions."""

import collections
import os
import subprocess
import sys
import threading
import time


LINES_OF_A_FAILURE = 15


class ClusterError(Exception):
    """Something the user can read and act on: what is wrong, where, and what to do."""


def say(text):
    """Tell the user how it goes: on standard error, because standard output is for the answer (such as a path). One write
    for a line, because nodes start in threads, and print() writes the line's end by itself."""
    sys.stderr.write(f"cluster: {text}\n")
    sys.stderr.flush()


def clean_environment(**extra):
    """The environment our programs get. Proxy settings of the user's shell must not reach a cluster that has no way out."""
    kept = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR", "XDG_CACHE_HOME") if name in os.environ}
    kept.setdefault("HOME", "/root")
    kept["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    kept.update(extra)
    return kept


def run(argv, *, stdin=None, input=None, check=True, timeout=120, env=None, cwd=None):
    """Run a program to its end and return it with its output as text; a failure says what the program said."""
    argv = [str(word) for word in argv]
    try:
        done = subprocess.run(argv, stdin=stdin, input=input, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              timeout=timeout, env=env or clean_environment(), cwd=cwd)
    except FileNotFoundError:
        raise ClusterError(f"the program {argv[0]} is missing: run `tests/cluster/cluster build`") from None
    except subprocess.TimeoutExpired:
        raise ClusterError(f"no end after {timeout} s: {' '.join(argv)}") from None
    if check and done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip())[-2000:]
        raise ClusterError(f"failed with status {done.returncode}: {' '.join(argv)}\n{said}")
    return done


def follow(argv, *, timeout, input=None, env=None):
    """Run a program that takes its time, and show the user each line of it as it comes. A failure repeats the last ones."""
    argv = [str(word) for word in argv]
    last = collections.deque(maxlen=LINES_OF_A_FAILURE)
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                          env=env or clean_environment()) as process:
        clock = threading.Timer(timeout, process.kill)
        clock.start()
        try:
            if input:
                process.stdin.write(input)
            process.stdin.close()
            for line in filter(None, map(str.strip, process.stdout)):
                last.append(line)
                say(line)
        finally:
            clock.cancel()
    if process.returncode != 0:
        said = "\n".join(last)
        raise ClusterError(f"failed with status {process.returncode} (it has {timeout} s): {' '.join(argv)}\n{said}")


def wait_until(what, condition, *, seconds, every=0.1):
    """Poll `condition` until it returns something true, and return that. Fails with `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise ClusterError(f"waited {seconds} s in vain for {what}")
        time.sleep(every)
