"""Container images from static files, without a container engine: the archive that `docker save` would write.

The same input gives the same bytes: no clock, no user, no host name gets in.
"""

import hashlib
import io
import json
import os
import stat
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

from .programs import ClusterError

EPOCH = "1970-01-01T00:00:00Z"


def write_archive(out, *, name, files=(), layers=(), entrypoint=(), command=(), env=(), user="", workdir="/"):
    """Write the image `name` to `out`. `files` are pairs of a path here and a path in the image; `layers` are tar files
    (such as a root filesystem by mmdebstrap) that come below them."""
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        tars = [Path(layer) for layer in layers]
        if files:
            tars.append(write_layer(Path(scratch) / "layer.tar", files))
        digests = [file_digest(each) for each in tars]
        config = encode({
            "architecture": architecture(os.uname().machine),
            "os": "linux",
            "created": EPOCH,
            "config": {"Entrypoint": list(entrypoint), "Cmd": list(command), "Env": list(env), "User": user,
                       "WorkingDir": workdir},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest in digests]},
            "history": [{"created": EPOCH} for _ in digests],
        })
        config_name = f"{hashlib.sha256(config).hexdigest()}.json"
        manifest = encode([{"Config": config_name, "RepoTags": [name],
                            "Layers": [f"{digest}/layer.tar" for digest in digests]}])
        whole = Path(scratch) / "image.tar"
        with tarfile.open(whole, "w", format=tarfile.USTAR_FORMAT) as archive:
            add_bytes(archive, "manifest.json", manifest)
            add_bytes(archive, config_name, config)
            for digest, tar in sorted(set(zip(digests, tars))):
                add_file(archive, f"{digest}/layer.tar", tar, 0o644)
        os.replace(whole, out)


def check_name(name):
    """A name without a host would be taken for one of a public registry, and pulled."""
    repository, _, tag = name.rpartition(":")
    if not repository.startswith("localhost/") or not tag or "/" in tag:
        raise ClusterError(f"image name {name!r}: use localhost/NAME:TAG, so that nobody tries to pull it from a registry")


def write_layer(path, files):
    """One layer with the given files and the directories above them, in a fixed order."""
    entries = {PurePosixPath("tmp"): None}
    for source, target in files:
        target = PurePosixPath(target.lstrip("/"))
        source = Path(source)
        if not source.exists():
            raise ClusterError(f"{source}, which should become /{target} of the image, does not exist: build it first")
        below = sorted(source.rglob("*")) if source.is_dir() else []
        for each in [source, *below]:
            inside = target / each.relative_to(source) if each != source else target
            entries[inside] = None if each.is_dir() else each
            for parent in inside.parents:
                if parent.parts:
                    entries.setdefault(parent, None)
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as layer:
        for inside, source in sorted(entries.items()):
            if source is None:
                mode = 0o1777 if inside == PurePosixPath("tmp") else 0o755
                layer.addfile(header(str(inside), tarfile.DIRTYPE, mode))
            else:
                executable = source.stat().st_mode & stat.S_IXUSR
                add_file(layer, str(inside), source, 0o755 if executable else 0o644)
    return path


def header(name, kind, mode, size=0):
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.size, entry.mtime = kind, mode, size, 0
    return entry


def add_bytes(archive, name, content):
    archive.addfile(header(name, tarfile.REGTYPE, 0o644, len(content)), io.BytesIO(content))


def add_file(archive, name, source, mode):
    with open(source, "rb") as content:
        archive.addfile(header(name, tarfile.REGTYPE, mode, os.fstat(content.fileno()).st_size), content)


def encode(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def file_digest(path):
    digest = hashlib.sha256()
    with open(path, "rb") as content:
        while block := content.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def architecture(machine):
    """The name that images use for what `uname -m` says."""
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)
