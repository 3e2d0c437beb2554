"""Things in the cache that cost time to make: each is there complete, or not at all, and is made by one process at a time.

They are called KIND-KEY. There is a lock for every kind, so that making one may need another.
"""

import shutil
import tempfile
from pathlib import Path

from . import parts


def kept(target, make):
    """The path `target` of the cache. When it is not there, `make(scratch)` returns what becomes it: a path in a directory
    that is removed afterwards."""
    if target.exists():
        return target
    kind, _, _ = target.name.partition("-")
    with parts.locked(target.parent / f"{kind}.lock"):
        if not target.exists():  # Another process may have made it while we waited.
            scratch = f".making-{kind}-"
            for abandoned in target.parent.glob(f"{scratch}*"):  # We hold the lock: nobody is making anything there.
                shutil.rmtree(abandoned)
            made = Path(tempfile.mkdtemp(prefix=scratch, dir=target.parent))
            try:
                make(made).rename(target)
            finally:
                shutil.rmtree(made)
    return target
