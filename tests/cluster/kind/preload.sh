#!/bin/sh
# Puts image archives into the containerd of a root filesystem: preload.sh ROOT DIRECTORY. Runs in mount, process and network
# namespaces of its own, so that nothing of it stays.
set -eu
root=$1 archives=$2

mount --bind "$root" "$root"
mount --types proc proc "$root/proc"
mount --types tmpfs tmpfs "$root/run"
mount --types tmpfs tmpfs "$root/mnt"
mount --bind "$archives" "$root/mnt"
exec chroot "$root" sh -euc '
    containerd --log-level error &
    containerd=$!
    until ctr version >/dev/null 2>&1; do
        kill -0 "$containerd"
        sleep 0.1
    done
    for archive in /mnt/*.tar; do
        ctr --namespace k8s.io images import "$archive" >/dev/null
        # What is unpacked is not needed packed.
        layers=$(tar --list --file "$archive" | sed --quiet "s#\(.*\)/layer.tar#sha256:\1#p")
        ctr --namespace k8s.io content remove $layers >/dev/null
    done
    kill "$containerd"
    wait "$containerd" || true
'
