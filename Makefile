# mkexec: `make demo` and `make test` need nothing but Debian and Go; what else they use they install.
# `make build`, `install` and `package` install nothing and need Go (and git, for the version of a package).
PREFIX  ?= /usr/local
DESTDIR ?=
# systemd-shutdown runs the programs of this folder, which systemd was built with, and of no other.
SHUTDOWNDIR ?= /usr/lib/systemd/system-shutdown
PACKAGEDIR ?= bin
DEST    = "$(DESTDIR)$(PREFIX)"
HOOKS   = "$(DESTDIR)$(SHUTDOWNDIR)"
GO      ?= go
# A number of runs: go test -fuzz takes the end of a time for a failure at times (golang.org/issue/75804).
FUZZTIME ?= 5000x
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.6.1
NFPM    = github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.48.0
ASSETS  = .cache/vm
# The packages that need no Linux, TPM or root.
PURE    = ./measure ./measure/bls ./measure/compress ./measure/esp ./measure/eventlog ./measure/hwid ./measure/initrd ./measure/mountinfo \
	./measure/strictyaml ./measure/stub ./measure/uki \
	./policy ./policy/creds ./policy/discover ./policy/luks2 ./policy/pcrlock ./policy/pcrsig ./policy/strictjson ./policy/tpm2 ./policy/trust/... ./policy/tss2

export CGO_ENABLED = 0

.PHONY: build demo test lint fuzz bench vm-assets tools install uninstall package clean

build:
	$(GO) build -trimpath -o bin/mkexec ./cmd/mkexec

# After a build the install needs no Go: sudo may not find it, and would leave files of root behind.
bin/mkexec: go.mod go.sum $(shell find cmd kexec measure policy -not -path '*/testdata*' -not -name '*_test.go')
	$(GO) build -trimpath -o bin/mkexec ./cmd/mkexec

# A measured kexec in a virtual machine with a software TPM, explained as it goes.
demo: build vm-assets
	$(GO) run ./cmd/mkexec/internal/demo bin/mkexec

# Everything: linters, unit tests with the race detector, software TPMs, virtual machines, and each fuzz target for a moment.
test: lint vm-assets tools
	CGO_ENABLED=1 $(GO) test -race -timeout 20m $$($(GO) list ./... | grep -v -e /cmd/mkexec)
	CGO_ENABLED=1 $(GO) test -race -p 1 -timeout 40m ./cmd/...
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

# The race detector wants a C compiler; tests of kexec run strace, cpio and systemd-tmpfiles; packages are looked at by lintian and
# rpm; the others make what is tested with, or are compared with.
tools:
	@PATH=$$PATH:/usr/sbin:/sbin; missing=; command -v gcc >/dev/null || missing="gcc libc6-dev"; \
	command -v tpm2_policypcr >/dev/null || missing="$$missing tpm2-tools"; \
	command -v strace >/dev/null || missing="$$missing strace"; \
	command -v cpio >/dev/null || missing="$$missing cpio"; \
	command -v systemd-cryptenroll >/dev/null && command -v systemd-tmpfiles >/dev/null || missing="$$missing systemd"; \
	command -v lintian >/dev/null || missing="$$missing lintian"; \
	command -v rpm >/dev/null || missing="$$missing rpm"; \
	command -v cryptsetup >/dev/null || missing="$$missing cryptsetup-bin"; \
	command -v osslsigncode >/dev/null || missing="$$missing osslsigncode"; \
	command -v cert-to-efi-sig-list >/dev/null || missing="$$missing efitools"; \
	command -v faketime >/dev/null || missing="$$missing faketime"; \
	command -v jq >/dev/null || missing="$$missing jq"; \
	command -v xxd >/dev/null || missing="$$missing xxd"; \
	[ -z "$$missing" ] || { \
		command -v apt-get >/dev/null || { echo "this is not Debian; install by hand: $$missing" >&2; exit 1; }; \
		sudo=; [ "$$(id -u)" = 0 ] || sudo="sudo -n"; \
		$$sudo apt-get update -qq && $$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $$missing; }

# What is on neither / nor the file system of the hook is unmounted when the hook runs, and nobody measures. The hook of
# another mkexec, a package's perhaps, is not ours to replace or remove.
install: bin/mkexec
	install -d $(DEST)/bin $(DEST)/share/man/man5 $(DEST)/share/man/man7 $(DEST)/share/man/man8 $(DEST)/share/doc/mkexec \
		$(DEST)/share/bash-completion/completions $(DEST)/share/zsh/site-functions $(DEST)/share/fish/vendor_completions.d \
		$(HOOKS) "$(DESTDIR)"/etc/mkexec
	@stat -c %d "$(DESTDIR)"/ $(HOOKS) | grep -qxF "$$(stat -c %d $(DEST)/bin)" || { \
		echo $(DEST)"/bin: a file system that is unmounted when the shutdown hook runs: make install PREFIX=/usr" >&2; exit 1; }
	@[ ! -e $(HOOKS)/mkexec ] || [ $(HOOKS)/mkexec -ef $(DEST)/bin/mkexec ] || { \
		echo $(HOOKS)"/mkexec: there is another mkexec, to be removed before" >&2; exit 1; }
	install -m 0755 bin/mkexec $(DEST)/bin/mkexec
	install -m 0644 cmd/mkexec/mkexec-policy.yaml.5 $(DEST)/share/man/man5/mkexec-policy.yaml.5
	install -m 0644 cmd/mkexec/mkexec-systemd.7 $(DEST)/share/man/man7/mkexec-systemd.7
	install -m 0644 cmd/mkexec/mkexec.8 $(DEST)/share/man/man8/mkexec.8
	install -m 0644 README.md cmd/mkexec/packaging/copyright $(DEST)/share/doc/mkexec
	bin/mkexec completion bash > $(DEST)/share/bash-completion/completions/mkexec
	bin/mkexec completion zsh > $(DEST)/share/zsh/site-functions/_mkexec
	bin/mkexec completion fish > $(DEST)/share/fish/vendor_completions.d/mkexec.fish
	chmod 0644 $(DEST)/share/bash-completion/completions/mkexec \
		$(DEST)/share/zsh/site-functions/_mkexec $(DEST)/share/fish/vendor_completions.d/mkexec.fish
	ln -srfT $(DEST)/bin/mkexec $(HOOKS)/mkexec

# The folders that others use too stay.
uninstall:
	@[ -n "$(DESTDIR:/=)" ] || [ ! -x "$(PREFIX)"/bin/mkexec ] || PATH="$(PREFIX)/bin:$$PATH" sh cmd/mkexec/packaging/preremove remove
	@[ "$$(realpath -m $(HOOKS)/mkexec)" != "$$(realpath -m $(DEST)/bin/mkexec)" ] || rm -f $(HOOKS)/mkexec
	rm -f $(DEST)/bin/mkexec $(DEST)/share/man/man8/mkexec.8 \
		$(DEST)/share/man/man5/mkexec-policy.yaml.5 $(DEST)/share/man/man7/mkexec-systemd.7 \
		$(DEST)/share/doc/mkexec/README.md $(DEST)/share/doc/mkexec/copyright \
		$(DEST)/share/bash-completion/completions/mkexec \
		$(DEST)/share/zsh/site-functions/_mkexec $(DEST)/share/fish/vendor_completions.d/mkexec.fish
	@for dir in $(DEST)/share/doc/mkexec "$(DESTDIR)"/etc/mkexec; do \
		[ ! -d "$$dir" ] || rmdir --ignore-fail-on-non-empty "$$dir"; done

# A deb and an rpm for GOARCH, by default the host's. The same commit gives the same bytes.
package:
	@GO="$(GO)" NFPM="$(NFPM)" MAKE="$(MAKE)" cmd/mkexec/packaging/build.sh "$(PACKAGEDIR)"

clean:
	rm -rf bin
