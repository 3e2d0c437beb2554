"""Keys, certificates and kubeconfigs. One certificate authority per cluster, made by openssl, good for ten years."""

import json
import os

from .programs import run

DAYS = "3650"


def create_authority(directory):
    """The authority, and the key pair that signs ServiceAccount tokens."""
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o700)
    run(["openssl", "req", "-x509", *new_key(directory, "ca"), "-subj", "/CN=stillpoint-test-cluster", "-days", DAYS,
         "-addext", "keyUsage=critical,keyCertSign,digitalSignature"])
    run(["openssl", "ecparam", "-genkey", "-noout", "-name", "prime256v1", "-out", directory / "service-account.key"])
    run(["openssl", "ec", "-in", directory / "service-account.key", "-pubout", "-out", directory / "service-account.pub"])


def issue(directory, name, *, user, group=None, addresses=(), names=()):
    """A certificate for a client, or for a server when addresses or names are given."""
    subject = (f"/O={group}" if group else "") + f"/CN={user}"
    alternatives = [f"IP:{each}" for each in addresses] + [f"DNS:{each}" for each in names]
    extensions = ["-addext", "extendedKeyUsage=clientAuth,serverAuth", "-addext", "basicConstraints=critical,CA:FALSE"]
    if alternatives:
        extensions += ["-addext", f"subjectAltName={','.join(alternatives)}"]
    run(["openssl", "req", "-x509", *new_key(directory, name), "-subj", subject, "-days", DAYS, *extensions,
         "-CA", directory / "ca.crt", "-CAkey", directory / "ca.key"])


def new_key(directory, name):
    return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc",
            "-keyout", directory / f"{name}.key", "-out", directory / f"{name}.crt"]


def write_kubeconfig(path, directory, name, server):
    """A kubeconfig (JSON is YAML) that holds everything, so that it can be copied anywhere."""
    encoded = {kind: run(["openssl", "base64", "-A", "-in", directory / file]).stdout
               for kind, file in (("ca", "ca.crt"), ("crt", f"{name}.crt"), ("key", f"{name}.key"))}
    content = {
        "apiVersion": "v1", "kind": "Config", "current-context": "default",
        "clusters": [{"name": "default", "cluster": {"server": server, "certificate-authority-data": encoded["ca"]}}],
        "users": [{"name": name, "user": {"client-certificate-data": encoded["crt"], "client-key-data": encoded["key"]}}],
        "contexts": [{"name": "default", "context": {"cluster": "default", "user": name}}],
    }
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(content, file, indent=2)
