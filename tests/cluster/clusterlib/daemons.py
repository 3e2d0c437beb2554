"""Starting, finding and stopping long-running programs. There are no pid files: the control group is the record."""

import os
import signal
import subprocess

from . import cgroups
from .programs import ClusterError, clean_environment, wait_until


# Enter the control groups, then become the program: from the first instant, whatever happens, it can be found.
ENTER = 'while [ "$1" != -- ]; do echo $$ >"$1"; shift; done; shift; exec "$@"'


def start(scope, name, argv, *, log, env=None):
    """Start a program in the background, in the control group of daemon `name`, its output appended to `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as output:
        words = ["sh", "-euc", ENTER, "sh", *cgroups.entrances(scope, name), "--", *argv]
        process = subprocess.Popen([str(word) for word in words], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                   cwd="/", env=clean_environment(**(env or {})), start_new_session=True)
    wait_until(f"{name} to enter its control group (log: {log})",
               lambda: process.poll() is not None or cgroups.members(scope, name), seconds=10, every=0.005)


def find(scope, name, program=None):
    """The pid of daemon `name` in our pid namespace, or None.

    Its group also holds `nsenter` or `unshare`, which wait for it, and its own children: the executable tells which is which.
    """
    program = program or name
    for pid in sorted(cgroups.members(scope, name)):
        if executable(pid) == program:
            return pid
    return None


def executable(pid):
    try:
        return os.path.basename(os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)"))
    except OSError:
        return None


def stop(scope, name, program=None, seconds=20):
    """Kill daemon `name` and wait until it is gone."""
    pid = find(scope, name, program)
    if pid is None:
        return
    kill(pid)
    wait_until(f"{name} (pid {pid}) to end", lambda: find(scope, name, program) != pid, seconds=seconds)


def kill(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def has_ended(pid):
    """Whether a process is gone, but for the entry that its parent has not collected."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def expect_alive(scope, name, log, program=None):
    """Fail with the end of its log when daemon `name` is not running: waiting longer would not help."""
    if find(scope, name, program) is None and not cgroups.members(scope, name):
        tail = log.read_text(errors="replace").splitlines()[-15:] if log.exists() else []
        raise ClusterError("\n".join([f"{name} ended just after its start; its log is {log}:", *tail]))


def wait_for(scope, name, program, log, seconds=10):
    """Wait until daemon `name` has got as far as being its own program, after `nsenter`."""
    return wait_until(f"{name} to start (log: {log})", lambda: find(scope, name, program), seconds=seconds)
