// Package vm runs virtual machines with a firmware, a TPM and a small Linux, for the tests and the demo of mkexec.
//
// What a guest has to say it prints between marker lines on its serial console; [Init] and [Sections] are the two ends.
package vm

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// The programs that make up a machine.
const (
	qemu  = "qemu-system-x86_64"
	swtpm = "swtpm"

	sbsign   = "sbsign"
	sbattach = "sbattach"
)

// Assets are the files that fetch.sh puts into a directory.
type Assets struct {
	Kernel   string // a bzImage of Debian, signed
	Release  string // its release, as uname -r prints it
	Efivarfs string // its module for EFI variables
	Busybox  string // a static one
	Code     string // OVMF
	Vars     string // OVMF's empty variable store

	// Of systemd in Debian bookworm (252) and trixie (257).
	Stub252, Stub257 string // systemd-stub
	Addon257         string // the stub of addons, which 252 does not know
	Boot252, Boot257 string // systemd-boot

	System257 System // Debian trixie
	System262 System // Debian sid; none unless fetch.sh found one in SYSTEMD_ROOT
	EmptyRoot string // an ext4 with nothing in it

	// For Secure Boot.
	SecureCode, SecureVars    string // OVMF, and variables with a key of its own in PK, KEK and db
	SnakeoilKey, SnakeoilCert string // that key, in PEM
	Shim                      string // not signed
}

// Find returns the assets in dir. It fails unless all of them and the programs to run them are there.
func Find(dir string) (*Assets, error) {
	missing := func(what string) (*Assets, error) {
		return nil, fmt.Errorf("%s: not there; run: make vm-assets", what)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	a := &Assets{
		Kernel:   filepath.Join(dir, "vmlinuz"),
		Efivarfs: filepath.Join(dir, "efivarfs.ko"),
		Busybox:  filepath.Join(dir, "busybox"),
		Code:     filepath.Join(dir, "OVMF_CODE.fd"),
		Vars:     filepath.Join(dir, "OVMF_VARS.fd"),
		Stub252:  filepath.Join(dir, "stub-252.efi"),
		Stub257:  filepath.Join(dir, "stub-257.efi"),
		Addon257: filepath.Join(dir, "addon-257.efi"),
		Boot252:  filepath.Join(dir, "sdboot-252.efi"),
		Boot257:  filepath.Join(dir, "sdboot-257.efi"),

		System257: systemIn(dir, 257),
		EmptyRoot: filepath.Join(dir, "root.ext4"),

		SecureCode:   filepath.Join(dir, "OVMF_CODE.secboot.fd"),
		SecureVars:   filepath.Join(dir, "OVMF_VARS.snakeoil.fd"),
		SnakeoilKey:  filepath.Join(dir, "snakeoil.key"),
		SnakeoilCert: filepath.Join(dir, "snakeoil.pem"),
		Shim:         filepath.Join(dir, "shim.efi"),
	}
	for _, f := range []string{a.Kernel, a.Efivarfs, a.Busybox, a.Code, a.Vars, a.Stub252, a.Stub257, a.Addon257, a.Boot252, a.Boot257,
		a.System257.Archive, a.System257.Initrd, a.EmptyRoot, a.SecureCode, a.SecureVars, a.SnakeoilKey, a.SnakeoilCert, a.Shim} {
		if _, err := os.Stat(f); err != nil {
			return missing(f)
		}
	}
	for _, p := range []string{qemu, swtpm, sbsign, sbattach} {
		if _, err := exec.LookPath(p); err != nil {
			return missing(p)
		}
	}
	newer := systemIn(dir, 262)
	if _, err := os.Stat(newer.Initrd); err == nil {
		a.System262 = newer
	}
	release, err := os.ReadFile(filepath.Join(dir, "version"))
	if err != nil {
		return missing(filepath.Join(dir, "version"))
	}
	a.Release = strings.TrimSpace(string(release))
	return a, nil
}

// Dir is where the assets are: $MKEXEC_VM_ASSETS, or .cache/vm at the top of the module that holds the working directory.
func Dir() (string, error) {
	if dir := os.Getenv("MKEXEC_VM_ASSETS"); dir != "" {
		return dir, nil
	}
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return filepath.Join(dir, ".cache", "vm"), nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", fmt.Errorf("vm assets: no go.mod above the working directory, and MKEXEC_VM_ASSETS is not set")
		}
		dir = up
	}
}

// TB is the part of testing.TB that [Require] uses.
type TB interface {
	Helper()
	Fatal(...any)
	Skip(...any)
}

// Require returns the assets, or ends the test: it fails if the words in $MKEXEC_REQUIRE, which
// commas separate, have qemu among them, else it is skipped.
func Require(t TB) *Assets {
	t.Helper()
	dir, err := Dir()
	if err == nil {
		var a *Assets
		if a, err = Find(dir); err == nil {
			return a
		}
	}
	for word := range strings.SplitSeq(os.Getenv("MKEXEC_REQUIRE"), ",") {
		if word == "qemu" {
			t.Fatal(err)
		}
	}
	t.Skip(err)
	return nil
}
