"""Things in the cache that cost time to make: each is there complete, or not at all, and is made by one process at a time."""

import shutil
import tempfile

from . import parts

SCRATCH = ".making-"


def kept(target, make):
    """The path `target` of the cache. When it is not there, `make(scratch)` returns what becomes it: a path in a directory
    that is removed afterwards."""
    if target.exists():
        return target
    with parts.locked(target.parent.with_name(f"{target.parent.name}.lock")):
        if not target.exists():  # Another process may have made it while we waited.
            target.parent.mkdir(parents=True, exist_ok=True)
            for abandoned in target.parent.glob(f"{SCRATCH}*"):  # We hold the lock: nobody is making anything there.
                shutil.rmtree(abandoned)
            scratch = tempfile.mkdtemp(prefix=SCRATCH, dir=target.parent)
            try:
                make(target.parent / scratch).rename(target)
            finally:
                shutil.rmtree(scratch)
    return target
