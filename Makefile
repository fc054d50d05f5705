# What a developer or a newcomer runs. A bare machine needs only Go, a C compiler (for `make race`) and make.
# `make demo` shows it; `make test` is the whole test run a user needs; `make ci` is what the build server does.

GO        ?= go
TIMEOUT   ?= 8m# of one package's tests: far above what any needs, far below a hung build
SCHEDULES ?= 10000
FUZZTIME  ?= 5s
BENCHTIME ?= 1s
# The library's folders: they build on every system Go knows; the rest may be Linux only.
LIBRARY   := $(foreach d,gid wire selector substrate substrate_tcp substrate_shm substrate_udp substrate_verbs activemsg internal sockemu,$(if $(wildcard $(d)),./$(d)/...))
# The tree may be no git checkout, or one that git refuses to read: then the binary carries no revision.
BUILDFLAGS := $(shell git log -1 >/dev/null 2>&1 || echo -buildvcs=false)

.DEFAULT_GOAL := build
.PHONY: demo test build fmt-check vet lint cross test32 race sim fuzz-smoke bench docs-check test-verbs test-siw verbs-shell hooks ci clean

build:
	@mkdir -p bin
	$(GO) build $(BUILDFLAGS) -o bin/ ./cmd/...

demo: build
	bin/sockemu demo $(DEMOFLAGS)

test:
	$(GO) vet ./...
	$(GO) test -timeout $(TIMEOUT) ./...

fmt-check:
	@bad=$$(gofmt -l .); if [ -n "$$bad" ]; then echo "not gofmt-ed:"; echo "$$bad"; exit 1; fi

vet:
	$(GO) vet ./...

# The checks and the reasons for those that are off: staticcheck.conf. The version: tools/go.mod.
lint:
	$(GO) tool -modfile=tools/go.mod staticcheck ./...

cross:
	GOOS=darwin GOARCH=arm64 CGO_ENABLED=0 $(GO) build $(LIBRARY)
	GOOS=windows GOARCH=amd64 CGO_ENABLED=0 $(GO) build $(LIBRARY)
	GOOS=freebsd GOARCH=amd64 CGO_ENABLED=0 $(GO) build $(LIBRARY)
	GOOS=linux GOARCH=386 CGO_ENABLED=0 $(GO) build $(LIBRARY)

# What depends on the size of an int or on the layout of the kernel's structures, run as a program of 32 bits (amd64 runs those, too).
test32:
	GOARCH=386 CGO_ENABLED=0 $(GO) test -timeout $(TIMEOUT) ./gid ./wire ./internal/sys ./internal/samehost ./substrate_tcp ./substrate_shm

race:
	$(GO) test -race -p 1 -timeout $(TIMEOUT) ./... # one package at a time: each is slow enough by itself

# The simulator: random schedules of everything that can go wrong, in virtual time. A failing seed is printed and shrunk.
sim:
	$(GO) test ./internal/endpoint -run '^TestSchedules$$' -timeout $(TIMEOUT) -rapid.checks=$(SCHEDULES)

# Every Fuzz target for FUZZTIME: enough to see that none rots and that no shallow bug is back.
fuzz-smoke:
	GO="$(GO)" .ci/fuzz-smoke $(FUZZTIME)

# BENCHTIME=1x runs each benchmark once, so that none rots.
bench:
	$(GO) test -run '^$$' -bench . -benchmem -benchtime=$(BENCHTIME) -timeout 30m ./...

# Every command that README.md and docs/ show exists.
docs-check: build
	.ci/docs-commands

# The project's own tests on real libibverbs and the kernel's software RDMA driver, in VMs (Debian on amd64; root only for installing
# QEMU). Which tests: tools/verbsvm/packages. VERBS_VMS=1|2, VERBS_ONLY=TEXT: some of them. docs/verbs.md
test-verbs:
	GO="$(GO)" tools/verbsvm/test

# The same on iWARP in software, which Debian's kernel lacks: some 150 MB more to download, and half a minute to build it. Not part of ci.
test-siw:
	GO="$(GO)" VERBS_VMS="$${VERBS_VMS:-siw siw2}" tools/verbsvm/test

# A shell in such a VM.
verbs-shell: build
	tools/verbsvm/vm shell

hooks:
	git config core.hooksPath .githooks

ci:
	.ci/run

clean:
	rm -rf bin .cache/verbsvm
