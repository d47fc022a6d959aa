package main

import (
	"fmt"
	"testing"

	"github.com/mkexec/mkexec/measure"
)

// TestOnlyBanks: what is named must be there. The software TPM of the scripts
// has all banks; that a TPM's own are read rightly is shown in measure/tpm.
func TestOnlyBanks(t *testing.T) {
	pcrs := measure.Zero([]measure.Bank{measure.SHA1, measure.SHA256}, measure.StubPCRs()...)
	for _, test := range []struct {
		named []measure.Bank
		want  string // the banks, or the error
	}{
		{nil, "sha1 sha256"},
		{[]measure.Bank{measure.SHA256}, "sha256"},
		{[]measure.Bank{measure.SHA256, measure.SHA384}, "bank sha384: not active in this TPM (active: sha1 sha256)"},
	} {
		some, err := onlyBanks(pcrs, test.named)
		got := measure.BankNames(some.Banks())
		if err != nil {
			got = fmt.Sprint(err)
		}
		if got != test.want {
			t.Errorf("%v: %q, want %q", test.named, got, test.want)
		}
	}
}
