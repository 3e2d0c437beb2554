#!/bin/sh
# kind behind the same commands as our own cluster: kind.sh up WORKERS | load IMAGE_TAR… | down
# KIND_CLUSTER names the cluster, KIND_KUBECONFIG is the kubeconfig to write.
set -eu
here=$(dirname "$0")

for program in docker kind; do
    command -v "$program" >/dev/null || { echo "CLUSTER=kind needs $program on PATH" >&2; exit 1; }
done

case "$1" in
up)
    if ! kind get clusters 2>/dev/null | grep -qx "$KIND_CLUSTER"; then
        {
            cat "$here/kind.yaml"
            for _ in $(seq "$2"); do
                printf '%s\n' '- role: worker' '  extraMounts:' '  - {hostPath: /dev, containerPath: /dev}'
            done
        } | kind create cluster --name "$KIND_CLUSTER" --kubeconfig "$KIND_KUBECONFIG" --config - --wait 120s
    fi
    for node in $(kind get nodes --name "$KIND_CLUSTER"); do
        docker exec "$node" sh -c '{ command -v mkfs.xfs && command -v mkfs.btrfs; } >/dev/null ||
            { apt-get update && apt-get install --yes --no-install-recommends e2fsprogs xfsprogs btrfs-progs; }' >&2
    done
    kind export kubeconfig --name "$KIND_CLUSTER" --kubeconfig "$KIND_KUBECONFIG"
    ;;
load)
    shift
    for archive in "$@"; do
        kind load image-archive "$archive" --name "$KIND_CLUSTER"
    done
    ;;
down)
    kind delete cluster --name "$KIND_CLUSTER" --kubeconfig "$KIND_KUBECONFIG"
    ;;
*)
    echo "kind.sh: unknown command $1" >&2
    exit 2
    ;;
esac
