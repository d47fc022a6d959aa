# mkexec: `make demo` and `make test` need nothing but Debian and Go; what else they use they install.
PREFIX  ?= /usr/local
DESTDIR ?=
GO      ?= go
FUZZTIME ?= 5s
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.6.1
ASSETS  = .cache/vm
# The packages that need no Linux, TPM or root.
PURE    = ./measure ./measure/bls ./measure/compress ./measure/esp ./measure/eventlog ./measure/hwid ./measure/initrd ./measure/stub ./measure/uki \
	./policy ./policy/creds ./policy/discover ./policy/luks2 ./policy/pcrlock ./policy/pcrsig ./policy/tpm2 ./policy/trust/... ./policy/tss2

export CGO_ENABLED = 0

.PHONY: build demo test lint fuzz bench vm-assets tools install uninstall clean

build:
	$(GO) build -trimpath -o bin/mkexec ./cmd/mkexec

# A measured kexec in a virtual machine with a software TPM, explained as it goes.
demo: build vm-assets
	$(GO) run ./cmd/mkexec/internal/demo bin/mkexec

# Everything: linters, unit tests with the race detector, software TPMs, virtual machines, and each fuzz target for a moment.
test: lint vm-assets tools
	CGO_ENABLED=1 $(GO) test -race -timeout 20m $$($(GO) list ./... | grep -v -e /cmd/mkexec)
	CGO_ENABLED=1 $(GO) test -race -p 1 -timeout 20m ./cmd/...
	$(MAKE) fuzz

lint:
	@unformatted=$$(gofmt -l cmd kexec measure policy) || exit 1; [ -z "$$unformatted" ] || { echo "not gofmt-ed: $$unformatted" >&2; exit 1; }
	$(GO) vet ./...
	GOOS=darwin $(GO) vet $(PURE)
	GOARCH=386 $(GO) vet $(PURE)
	@set -e; for arch in arm64 riscv64 ppc64le s390x loong64; do GOARCH=$$arch $(GO) build -o /dev/null ./cmd/mkexec; done
	$(GO) run $(STATICCHECK) ./...

# Runs every fuzz target for FUZZTIME.
fuzz:
	@set -e; for pkg in $$(grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u); do \
		for target in $$(grep -h -o '^func Fuzz[A-Za-z0-9]*' $$pkg/*_test.go | cut -c6-); do \
			echo "fuzz $$pkg $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 5x -parallel 2 $$pkg; \
		done; done

# Speed and memory, side by side with openssl and systemd-measure.
bench: build
	$(GO) run ./cmd/mkexec/internal/bench bin/mkexec
	$(GO) test -run "^$$" -bench . ./measure

# What the virtual machines need: programs are installed, files go to .cache/vm.
vm-assets:
	cmd/mkexec/internal/vm/fetch.sh $(ASSETS)

# The race detector wants a C compiler; tpm2-tools are compared with.
tools:
	@missing=; command -v gcc >/dev/null || missing="gcc libc6-dev"; \
	command -v tpm2_policypcr >/dev/null || missing="$$missing tpm2-tools"; \
	[ -z "$$missing" ] || { \
		sudo=; [ "$$(id -u)" = 0 ] || sudo="sudo -n"; \
		$$sudo apt-get update -qq && $$sudo apt-get install -qq -y --no-install-recommends $$missing; }

install: build
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/share/man/man5 $(DESTDIR)$(PREFIX)/share/man/man8 \
		$(DESTDIR)$(PREFIX)/share/bash-completion/completions $(DESTDIR)$(PREFIX)/share/zsh/site-functions $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d
	install -m 0755 bin/mkexec $(DESTDIR)$(PREFIX)/bin/mkexec
	install -m 0644 cmd/mkexec/mkexec-policy.yaml.5 $(DESTDIR)$(PREFIX)/share/man/man5/mkexec-policy.yaml.5
	install -m 0644 cmd/mkexec/mkexec.8 $(DESTDIR)$(PREFIX)/share/man/man8/mkexec.8
	bin/mkexec completion bash > $(DESTDIR)$(PREFIX)/share/bash-completion/completions/mkexec
	bin/mkexec completion zsh > $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_mkexec
	bin/mkexec completion fish > $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/mkexec.fish

uninstall:
	rm -f $(DESTDIR)$(PREFIX)/bin/mkexec $(DESTDIR)$(PREFIX)/share/man/man8/mkexec.8 \
		$(DESTDIR)$(PREFIX)/share/man/man5/mkexec-policy.yaml.5 \
		$(DESTDIR)$(PREFIX)/share/bash-completion/completions/mkexec \
		$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_mkexec $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/mkexec.fish

clean:
	rm -rf bin
