package tpmtest

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Systemd262 returns the root directory of a Debian with the tools of systemd 262,
// to chroot into: that of the environment's SYSTEMD_ROOT, else /var/tmp/ref/sidroot.
// Without one, or if the test does not run as root, it is skipped, or fails if the
// environment's MKEXEC_REQUIRE, words split by commas, has systemd-262.
func Systemd262(t testing.TB) string {
	t.Helper()
	root := cmp.Or(os.Getenv("SYSTEMD_ROOT"), "/var/tmp/ref/sidroot")
	_, err := os.Stat(filepath.Join(root, "usr/lib/systemd/systemd-pcrlock"))
	if err == nil && os.Getuid() != 0 {
		err = os.ErrPermission
	}
	if err == nil {
		return root
	}
	err = fmt.Errorf("no systemd 262 in SYSTEMD_ROOT, or not root: %w", err)
	if slices.Contains(strings.Split(os.Getenv("MKEXEC_REQUIRE"), ","), "systemd-262") {
		t.Fatal(err)
	}
	t.Skip(err) // Systemd262: fails instead if MKEXEC_REQUIRE has it
	return ""
}
