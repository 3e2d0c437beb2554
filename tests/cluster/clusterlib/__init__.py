"""A real Kubernetes cluster on one Debian machine, without a container engine. See ../README.md for the picture."""
