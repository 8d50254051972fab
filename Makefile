# Two commands do all the set-up: `make run` and `make test`. What they fetch is cached in ~/.cache/trainyard.
SHELL := bash -euo pipefail
.DEFAULT_GOAL := help
# Where a compiler cache is at hand, libtorch's bindings build in seconds.
CCACHE := $(shell command -v ccache)
export CXX ?= g++
ifneq ($(CCACHE),)
export CXX := ccache g++
endif
bin := target/debug
digits := .trainyard/volumes/datasets/digits

.PHONY: help run test fuzz lint fmt build tools cluster storage libtorch bench-loading bench-training bench-operator gpu-checks bench-serving checkers bench-scoring nodes e2e images

help: ## Says what there is to make
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1 \t\2/p' $(MAKEFILE_LIST) | expand -t 22

run: build $(digits) ## Trains on real images with two processes, scores the held-out ones, shows where the report is
	$(bin)/trainyard run -f crds/examples/digits-training.yaml
	$(bin)/trainyard run -f crds/examples/digits-scoring.yaml

test: build cluster nodes storage checkers ## Runs every test
	@tests/all.sh

fuzz: tools libtorch ## Looks for bytes that the trainer's readers do not stand, SECONDS_EACH=20 a reader; TARGETS="image pth": these alone
	@trainer-image/fuzz/run

e2e: build cluster nodes checkers ## Runs the whole product on real nodes: needs root, cgroup v1 and namespaces
	cargo test --locked --workspace --test e2e

lint: tools libtorch ## Checks formatting, clippy, dependencies, and that generated files are current
	cargo fmt --all --check
	cargo fmt --manifest-path trainer-image/fuzz/Cargo.toml --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	trainer-image/deny.sh
	cargo test --locked --workspace --test manifests

fmt: ## Formats the code
	cargo fmt --all
	cargo fmt --manifest-path trainer-image/fuzz/Cargo.toml

build: tools libtorch ## Builds the operator's command line and the trainer
	cargo build --workspace --bins

tools: # What the C and C++ parts need beside a compiler
	@trainer-image/tools.sh

cluster: # The Kubernetes control plane that tests run against, from Go modules, once
	@tests/cluster/build.sh

nodes: # What nodes of tests run, from Go modules, once
	@tests/node/build.sh

storage: # The servers that tests read from and write to, from Go modules and npm, once
	@tests/storage/build.sh
	@tests/storage/azure/build.sh

checkers: # Helm and what else the chart and the workflows are checked with, from Go modules, once
	@tests/checkers/build.sh

libtorch: # libtorch for CPUs, from PyPI, once
	@trainer-image/libtorch.sh

$(digits): | build
	$(bin)/digits $@

images: tools libtorch ## Writes the images for CPUs as OCI archives into target/images, and says how large they are
	cargo build --locked --release -p operator -p trainer
	cargo build --locked -p tests --bin images
	$(bin)/images target/release target/images

bench-loading: build ## Times loading of images against torchvision's recipe
	cargo bench -p trainer --bench loading

bench-training: build ## Times training against Python's DistributedDataParallel, and how fast it starts and stops
	cargo bench -p trainer --bench training

bench-scoring: build ## Times scoring against Python's best, from JPEGs to rows, and kills jobs at fifty moments
	cargo bench -p trainer --bench scoring

gpu-checks: tools ## Packs what tests/gpu/run needs on a machine with a GPU, which has to build nothing
	@tests/gpu/pack

bench-serving: build ## Times the server under load: rate, waits, batching, start, memory, endurance; PART="throughput": this alone
	cargo bench -p trainer --bench serving -- $(PART)

bench-operator: cluster ## Times the operator against JobSet, Kubeflow Trainer, batch/v1 and plain POSTs; PART="large restarts": these alone
	@tests/cluster/peers/build.sh
	cargo build --release -p operator
	cargo bench -p tests --bench operator -- $(PART)
