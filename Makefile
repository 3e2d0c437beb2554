# `make help` lists the targets. The cluster is this checkout's own and needs no container engine. K8S=1.35 takes another version of
# Kubernetes than the newest (those of tests/cluster/go). CLUSTER=kind takes kind;
# CLUSTER=existing STILLPOINT_KUBECONFIG=FILE IMAGES=REGISTRY/PATH TAG=TAG takes a cluster that is there, for load, install,
# demo, e2e and torn (tests/cluster/cluster --help).

SHELL := /bin/bash -o pipefail
.DEFAULT_GOAL := help

CARGO ?= cargo
TARGET ?= $(shell uname -m)-unknown-linux-gnu

# Where pods find their images. With CLUSTER=existing: a registry that its nodes can reach; `make load` says what to push.
IMAGES ?= localhost
TAG ?= dev
export STILLPOINT_IMAGES = $(IMAGES)
export STILLPOINT_TAG = $(TAG)

CLUSTER_TOOL := tests/cluster/cluster
# In front of every command that speaks to the cluster: KUBECONFIG, and kubectl and helm on PATH.
IN_CLUSTER := eval "$$($(CLUSTER_TOOL) env)" &&

# One profile and one target for everything that runs in the cluster or against it, so that no dependency is built twice.
STATIC := RUSTFLAGS="-C target-feature=+crt-static" $(CARGO)
STATIC_ARGS := --release --target $(TARGET)
BIN := target/$(TARGET)/release
BINARIES := $(addprefix $(BIN)/,stillpoint stillpoint-workload loop-csi demo torn chaos hold-bench simulate model)
ARCHIVES := $(addprefix target/images/,stillpoint.tar stillpoint-workload.tar stillpoint-loop-csi.tar)

.PHONY: help demo demo-kind test lint workflow unit kernel control-plane model simulation e2e e2e-kind chaos chaos-short torn bench crds manifests pictures images load install cluster clean-cluster FORCE

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: install $(BIN)/demo ## a cluster, an application on three volumes, and consistent cuts of it
	$(IN_CLUSTER) $(BIN)/demo

demo-kind: ## the same on kind; without a container engine one is made from Debian packages (needs root)
	$(MAKE) CLUSTER=kind demo

test: lint unit kernel control-plane model simulation ## everything that a change must pass; a cluster that it brings up it takes down
	@! $(CLUSTER_TOOL) status | grep --quiet 'cluster: *down' || fresh=yes; \
	$(MAKE) e2e chaos-short; result=$$?; [ -z "$${fresh:-}" ] || $(CLUSTER_TOOL) down; exit $$result

# Crates without IO, and what would bring it in.
PURE := stillpoint-api stillpoint-core
IO := ^(tokio|mio|kube-client|kube-runtime|tonic|hyper|axum|rcgen|rustls|socket2|nix|libc) v|^rustix feature "(fs|net|process|thread|mount|event|pipe|system|termios|time)"

workflow: ## the form of the workflow for hosted runners (needs Go)
	go run github.com/rhysd/actionlint/cmd/actionlint@v1.7.12

lint: ## formatting and clippy, warnings are errors; crates that decide stay without IO
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	@for crate in $(PURE); do \
	    ! $(CARGO) tree --package $$crate --edges normal,features --prefix none | sort --unique | grep --extended-regexp '$(IO)' \
	        || { echo "$$crate decides and does no IO: it must not depend on these"; exit 1; }; \
	done

# Always the whole workspace: a package by itself would have other features of its dependencies, and build them again.
TEST := $(CARGO) test --workspace

unit: ## tests that need neither a cluster nor root
	$(TEST) --lib --bins --test crds --test chart --test docs --test picture --test ordered_writer --test program --test simulation
	python3 -B -m unittest discover -t tests/cluster -s tests/cluster/tests

kernel: ## tests on real filesystems, without a cluster (needs root and loop devices)
	$(CLUSTER_TOOL) build
	$(TEST) --test hold --test preflight --test traps --test driver -- --include-ignored --test-threads 1

control-plane: ## tests against a real API server without nodes
	$(CLUSTER_TOOL) build
	kubeconfig="$$($(CLUSTER_TOOL) api-up --name control-plane | tail -n 1)"; \
	$(IN_CLUSTER) KUBECONFIG="$$kubeconfig" $(TEST) --test control_plane --test takeover --test chart -- --include-ignored; \
	result=$$?; $(CLUSTER_TOOL) api-down --name control-plane; exit $$result

e2e: install ## tests on a real cluster with real filesystems
	$(IN_CLUSTER) $(TEST) --test e2e -- --test-threads 3

e2e-kind: ## the same on kind; KIND_IMAGE names another node image
	$(MAKE) CLUSTER=kind e2e

chaos: install $(BIN)/chaos ## 200 faults, one after the other, while a group is cut; CHAOS_ARGS="--only KIND --phase PHASE --seed N" for one
	$(IN_CLUSTER) $(BIN)/chaos $(CHAOS_ARGS)

chaos-short: install $(BIN)/chaos ## the same with every kind of fault once
	$(IN_CLUSTER) $(BIN)/chaos --short $(CHAOS_ARGS)

torn: install $(BIN)/torn ## how many cuts are torn, with Stillpoint and with plain VolumeSnapshots
	$(IN_CLUSTER) $(BIN)/torn

# Another version, to compare with, has an API server of its own: two controllers on one would both lead.
bench: $(BIN)/hold-bench target/images/stillpoint.tar ## how long writes are suspended, requests, load; another version: BENCH_ARGS="--baseline FILE" (needs root)
	$(CLUSTER_TOOL) build
	kubeconfig="$$($(CLUSTER_TOOL) api-up --name bench | tail -n 1)"; \
	$(if $(findstring --baseline,$(BENCH_ARGS)),export BASELINE_KUBECONFIG="$$($(CLUSTER_TOOL) api-up --name bench-baseline | tail -n 1)";) \
	KUBECONFIG="$$kubeconfig" STILLPOINT_LOG=error $(BIN)/hold-bench --image target/images/stillpoint.tar $(BENCH_ARGS); \
	result=$$?; $(CLUSTER_TOOL) api-down --name bench; $(CLUSTER_TOOL) api-down --name bench-baseline; exit $$result

model: $(BIN)/model ## every state of the protocol, within bounds; and that taking any one guard out is noticed
	$(BIN)/model $(MODEL_ARGS)
	$(BIN)/model --members 2 --leaders 1 --retry
	$(BIN)/model --members 2 --leaders 1 --deletion
	$(BIN)/model --members 1 --retry --deletion
	$(BIN)/model --members 1 --faults 2
	for guard in acknowledged-guardian epoch-check release-vote ask-before-release; do \
	    $(BIN)/model --members 2 --threads 1 --without $$guard || exit 1; \
	done

simulation: $(BIN)/simulate ## 100,000 seeds of whole groups with faults at every step
	$(BIN)/simulate $(SIMULATION_ARGS)

crds: ## write the CRDs from the Rust types, for crds/ and the chart
	BLESS=1 $(CARGO) test --package stillpoint --test crds crds_are_those_of_the_types

manifests: crds ## write deploy/stillpoint.yaml from the chart
	$(CLUSTER_TOOL) build
	$(IN_CLUSTER) BLESS=1 $(CARGO) test --package stillpoint --test chart -- --include-ignored the_manifests

pictures: ## draw the pictures under tests/picture/ and docs/hold.svg anew
	BLESS=1 $(CARGO) test --package stillpoint --test picture pictures_look_as_they_did

images: $(ARCHIVES) ## image archives, under target/images/

load: cluster images ## the images, onto the nodes of the test cluster
	$(CLUSTER_TOOL) load $(ARCHIVES)

# The tag never changes, so an annotation with the archive's checksum tells the pods of a new image.
install: load ## Stillpoint (with Helm) and the test storage driver, into the test cluster
	sed --separate 's|localhost/stillpoint-loop-csi:dev|$(IMAGES)/stillpoint-loop-csi:$(TAG)|; s|localhost/stillpoint-parts|$(IMAGES)/stillpoint-parts|; $$a ---' \
	    tests/loop-csi/deploy/*.yaml > target/loop-csi.yaml
	$(IN_CLUSTER) kubectl apply --filename target/loop-csi.yaml
	$(IN_CLUSTER) kubectl patch daemonset/loop-csi --namespace loop-csi --patch \
	    '{"spec": {"template": {"metadata": {"annotations": {"stillpoint.io/image": "$(call checksum,stillpoint-loop-csi)"}}}}}'
	$(IN_CLUSTER) helm upgrade --install stillpoint charts/stillpoint --namespace stillpoint-system --create-namespace \
	    --set image.repository=$(IMAGES)/stillpoint,image.tag=$(TAG) \
	    --set-string 'controller.podAnnotations.stillpoint\.io/image=$(call checksum,stillpoint)' \
	    --set-string 'guardian.podAnnotations.stillpoint\.io/image=$(call checksum,stillpoint)' \
	    --set-string 'agent.podAnnotations.stillpoint\.io/image=$(call checksum,stillpoint)' \
	    --wait --timeout 3m
	$(IN_CLUSTER) kubectl rollout status daemonset/loop-csi --namespace loop-csi --timeout 3m

# Read when a recipe is about to run, so after the archives are made.
checksum = $(shell sha256sum target/images/$1.tar | cut -c -16)

cluster: ## bring the test cluster up (the first time its parts are built)
	$(CLUSTER_TOOL) up

clean-cluster: ## take the test cluster down (the cache, Debian packages and target/ stay)
	$(CLUSTER_TOOL) down

# Cargo knows what is stale; it leaves a fresh binary's time alone, and so its image is not made again.
$(BINARIES) &: FORCE
	$(STATIC) build $(STATIC_ARGS) --workspace --bins

target/images/stillpoint.tar: $(BIN)/stillpoint
	$(CLUSTER_TOOL) image --name localhost/stillpoint:dev --out $@ --file $<:/stillpoint --entrypoint /stillpoint \
	    --user 65532:65532

target/images/stillpoint-workload.tar: $(BIN)/stillpoint-workload
	$(CLUSTER_TOOL) image --name localhost/stillpoint-workload:dev --out $@ --file $<:/stillpoint-workload \
	    --entrypoint /stillpoint-workload

target/images/stillpoint-loop-csi.tar: $(BIN)/loop-csi
	$(CLUSTER_TOOL) image --name localhost/stillpoint-loop-csi:dev --out $@ --file $<:/loop-csi --entrypoint /loop-csi

$(ARCHIVES): | target/images
target/images:
	mkdir --parents $@
