# Targets describe themselves: a line of "## text" after a target is its help.
SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS   += --no-print-directory

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X github.com/clearway/clearway/cmd/internal/daemon.version=$(VERSION)
# Static binaries: they run from scratch images and on any node's libc.
GOBUILD := go build -ldflags "$(LDFLAGS)"
# Tests, lint and tools are built as the binaries are: everything is compiled once. (Only the race detector needs cgo.)
export CGO_ENABLED := 0
export GOFLAGS     := -trimpath
# The lab is built by root; a package takes minutes where it waits for real daemons.
TESTFLAGS ?= -timeout 25m
# What "make generate" writes to.
GENERATED := proto deploy/kubernetes/crds deploy/helm
PLUGINS := github.com/containernetworking/plugins/plugins

.PHONY: help
help: ## Print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build the four binaries into bin/ (static)
	@$(GOBUILD) -o bin/clearway-ipamd ./cmd/ipamd
	@$(GOBUILD) -o bin/clearway-agent ./cmd/agent
	@go build -ldflags "-s -w -X main.version=$(VERSION)" -o bin/clearway-ipam ./cmd/cni
	@$(GOBUILD) -o bin/clearwayctl ./cmd/clearwayctl

.PHONY: plugins
plugins: ## Build the CNI plugins that the lab, the benchmarks and the image use, at go.mod's version, into bin/cni/
	@go build -ldflags "-s -w" -o bin/cni/ptp $(PLUGINS)/main/ptp
	@go build -ldflags "-s -w" -o bin/cni/bridge $(PLUGINS)/main/bridge
	@go build -ldflags "-s -w" -o bin/cni/host-local $(PLUGINS)/ipam/host-local
	@go build -ldflags "-s -w" -o bin/cni/portmap $(PLUGINS)/meta/portmap
	@go build -ldflags "-s -w" -o bin/cni/bandwidth $(PLUGINS)/meta/bandwidth
	@go build -ldflags "-s -w" -o bin/cni/loopback $(PLUGINS)/main/loopback
	@cp -f bin/clearway-ipam bin/cni/clearway-ipam

# A file, so that it is built once: its version and all it needs are pinned there.
bin/kube-apiserver bin/kube-controller-manager bin/kube-proxy bin/kube-scheduler bin/kubelet: .ci/kubernetes/go.mod .ci/kubernetes/go.sum ## Build the Kubernetes that the tests start
	@cd .ci/kubernetes && go build -o ../../$@ \
	  -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=$$(go list -m -f '{{.Version}}' k8s.io/kubernetes)" \
	  k8s.io/kubernetes/cmd/$(@F)

# The node's side of it, pinned as Kubernetes is: a kubelet and a containerd of the same time.
bin/containerd bin/containerd-shim-runc-v2 bin/ctr: .ci/containerd/go.mod .ci/containerd/go.sum ## Build the containerd that the tests start
	@cd .ci/containerd && go build -ldflags "-s -w" -o ../../$@ github.com/containerd/containerd/v2/cmd/$(@F)

bin/helm: .ci/manifests/go.mod .ci/manifests/go.sum ## Build the Helm that the tests render the chart by
	@cd .ci/manifests && go build -ldflags "-s -w" -o ../../bin/helm helm.sh/helm/v4/cmd/helm

bin/kustomize: .ci/manifests/go.mod .ci/manifests/go.sum ## Build the kustomize that the tests render the manifests by
	@cd .ci/manifests && go build -ldflags "-s -w" -o ../../bin/kustomize sigs.k8s.io/kustomize/kustomize/v5

.PHONY: generate
generate: ## Write the generated code and the Helm chart's templates anew
	@go run ./proto/generate
	@go run ./deploy/helm/generate

.PHONY: check-generate
check-generate: generate ## Fail when generated code or go.mod is stale
	@go mod tidy -diff
	@git diff --exit-code -- $(GENERATED) || { echo "generated code was stale: commit what 'make generate' wrote"; exit 1; }
	@test -z "$$(git status --porcelain --untracked-files=all -- $(GENERATED))" || { git status --short -- $(GENERATED); exit 1; }

.PHONY: lint
lint: ## Check format, vet and lint
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$unformatted" || { echo "gofmt wants to change: $$unformatted"; exit 1; }
	@go vet ./...
	@cd .ci/lint && go build -o ../../bin/golangci-lint github.com/golangci/golangci-lint/v2/cmd/golangci-lint
	@bin/golangci-lint run --timeout 15m ./...

.PHONY: lab-deps
lab-deps: ## Install what the lab lacks (FRR, BIRD, ...) by apt; needs root
	@integration/install.sh

.PHONY: test
test: lab-deps build plugins bin/kube-apiserver bin/helm bin/kustomize ## Run every test: unit, property, lab; installs what it lacks
	@go test $(TESTFLAGS) ./...

.PHONY: unit
unit: lab-deps ## Run the tests that need no lab
	@go test $(TESTFLAGS) $$(go list ./... | grep -v /integration)

.PHONY: race
race: ## Run the tests that need no lab under the race detector
	@CGO_ENABLED=1 go test -race $(TESTFLAGS) $$(go list ./... | grep -v /integration)

MACHINE := bin/kube-apiserver bin/kube-controller-manager bin/kube-proxy bin/kube-scheduler bin/kubelet \
           bin/containerd bin/containerd-shim-runc-v2 bin/ctr

.PHONY: machine
machine: lab-deps build plugins bin/kustomize $(MACHINE) ## Install Clearway on a real kubelet with containerd, and run 100 Pods; needs root
	@go test ./integration/machine -tags machine -count 1 -v -timeout 25m

.PHONY: fuzz
fuzz: ## Run each fuzz target for FUZZTIME (default 20s)
	@for pkg in $$(go list ./...); do \
	  for target in $$(go test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
	    echo "$$pkg $$target"; go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $${FUZZTIME:-20s} $$pkg; \
	  done; \
	done

.PHONY: soak
soak: ## Churn Pods on SOAKNODES (default 200) nodes against three ipamd under faults for SOAKTIME (default 2m); SOAKSEED=n again
	@go test ./ipam/ipamtest -run '^TestSoak$$' -count 1 -v -timeout 24h \
	  -soak.time $${SOAKTIME:-2m} -soak.nodes $${SOAKNODES:-200} -soak.seed $${SOAKSEED:-0}

.PHONY: bench
bench: lab-deps build plugins bin/kube-apiserver ## Measure against host-local, BIRD and FRR side by side; prints ratios
	@go run ./integration/cmd/bench
	@go test ./integration -run '^$$' -bench ServiceToRouter -benchtime 30x -count 1 -timeout 20m
	@go test ./ipam/server -run '^$$' -bench ClaimAmong -benchtime 2000x -count 1

.PHONY: demo
demo: lab-deps build plugins ## Raise the two-rack lab, ping across racks, show it; ONCE=1 ends by itself
	@go build -o bin/lab ./integration/cmd/lab
	@exec bin/lab demo $(if $(ONCE),--once) # not by "go run", which calls Ctrl-C a failure

.PHONY: image
image: build plugins ## Build the container image into dist/ (from scratch, no registry, no Docker needed)
	@go run ./deploy/image -version "$(VERSION)" -out dist

.PHONY: clean
clean: ## Remove what was built
	@rm -rf bin dist
