package main

import (
	"os"
	"strings"
	"testing"

	"github.com/mkexec/mkexec/kexec"
)

// The failures that mkexec-systemd(7) lists are those that the program has. That
// each comes up when the page says so is shown by testdata/tpm/load.txtar and the
// VM tests.
func TestManSystemdFailures(t *testing.T) {
	page, err := os.ReadFile("mkexec-systemd.7")
	if err != nil {
		t.Fatal(err)
	}
	failures := manSection(t, strings.ReplaceAll(string(page), `\-`, "-"), "FAILURES")
	for _, text := range []string{
		kexec.ErrMoved.Error(), kexec.ErrChanged.Error(), kexec.ErrNoPlan.Error() + ": what is loaded was not measured",
		"kexec is locked", "and not by this plan", "read back: PCR", "no answer from the TPM", "no TPM",
	} {
		if !strings.Contains(failures, text) {
			t.Errorf("FAILURES does not say %q", text)
		}
	}
}
