"""Loop devices that a cluster left behind: thawed, then detached. Only those whose image lies in the cluster's own directory.

A filesystem that was frozen when its last mount went away is still frozen, keeps its loop device busy, and no writer that
waits for it can be killed. Mounting the device once more reaches the same filesystem, and so its thaw.
"""

import json
import os

from .programs import run, wait_until

DETACH_SECONDS = 20


def of(state):
    """Devices with an image below `state`, found by device and inode: the kernel shows the path as its opener's mounts name it."""
    devices = attached()
    below = set()
    for directory, _, files in os.walk(state) if devices else ():
        for file in files:
            try:
                found = os.lstat(os.path.join(directory, file))
                below.add((found.st_dev, found.st_ino))
            except FileNotFoundError:
                pass
    return [device["name"] for device in devices
            if (device_number(device["back-maj:min"]), int(device["back-ino"])) in below]


def attached():
    answer = run(["losetup", "--list", "--json", "--output", "NAME,BACK-INO,BACK-MAJ:MIN"]).stdout
    return json.loads(answer)["loopdevices"] if answer.strip() else []


def device_number(text):
    major, minor = text.strip().split(":")
    return os.makedev(int(major), int(minor))


def thaw(device, mount_point):
    """Thaw the filesystem on `device`, mounted or not. The mount is in a namespace of its own, so it ends with the command.

    Failures say nothing: there may be no filesystem, or it was not frozen (EINVAL).
    """
    run(["unshare", "--mount", "--propagation", "private", "sh", "-c",
         'mount --no-mtab "$1" "$2" && fsfreeze --unfreeze "$2"', "sh", device, mount_point], check=False, timeout=30)


def release(state):
    """Detach all devices of `state`; wait until the kernel has let go of them."""
    def gone():
        left = of(state)
        for device in left:
            thaw(device, state)  # A freeze that was pending when its caller was killed may have come true since.
            run(["losetup", "--detach", device], check=False)
        return not left

    wait_until(f"the loop devices of {state} to be detached (see `losetup --list`)", gone, seconds=DETACH_SECONDS)
