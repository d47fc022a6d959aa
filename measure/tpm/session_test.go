package tpm_test

// Sessions of a software TPM that others left open. That the kernel's resource
// manager hands the commands on is not proved here; the VM tests of cmd/mkexec do it.

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/tpm"
	"github.com/mkexec/mkexec/measure/tpm/tpmtest"
)

func TestFlushSessions(t *testing.T) {
	t.Parallel()
	sw := tpmtest.Start(t, measure.SHA256)
	dev, err := tpm.Open(sw.Device(), tpm.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	open := func() (n int) {
		for {
			_, _, err := tpm2.PolicySession(dev, tpm2.TPMAlgSHA256, 16)
			if errors.Is(err, tpm2.TPMRCSessionMemory) || errors.Is(err, tpm2.TPMRCSessionHandles) {
				return n
			}
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
	}
	saved := 0
	session, _, err := tpm2.PolicySession(dev, tpm2.TPMAlgSHA256, 16)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (tpm2.ContextSave{SaveHandle: session.Handle()}).Execute(dev); err != nil {
		t.Fatal(err)
	}
	saved++
	first := open()
	if first == 0 {
		t.Fatal("no session can be opened")
	}
	if n := open(); n != 0 {
		t.Fatalf("%d more sessions", n)
	}
	before, err := dev.Read(measure.StubPCRs()...)
	if err != nil {
		t.Fatal(err)
	}
	if err := dev.FlushSessions(); err != nil {
		t.Fatal(err)
	}
	if n := open(); n < first {
		t.Errorf("%d sessions afterwards, %d and %d saved before", n, first, saved)
	}
	after, err := dev.Read(measure.StubPCRs()...)
	if err != nil {
		t.Fatal(err)
	}
	if diffs := measure.Compare(before, after); diffs != nil {
		t.Error(diffs)
	}
	for _, first := range []uint32{0x02000000, 0x03000000} {
		if err := dev.FlushSessions(); err != nil {
			t.Fatal(err)
		}
		response, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: first, PropertyCount: 64}.Execute(dev)
		if err != nil {
			t.Fatal(err)
		}
		if handles, err := response.CapabilityData.Data.Handles(); err != nil || len(handles.Handle) != 0 {
			t.Errorf("0x%08x: %v are left: %v", first, handles, err)
		}
	}
}

func TestFlushSessionsFails(t *testing.T) {
	for _, test := range []struct {
		name  string
		fault tpmtest.Fault
		want  string
	}{
		{"refused", tpmtest.Fault{RC: tpmtest.RCFailure}, ""},
		{"not sent", tpmtest.Fault{Before: errors.New("told to fail")}, "TPM: list sessions: told to fail"},
		{"garbage", tpmtest.Fault{Change: func([]byte) []byte { return []byte("garbage, more than ten bytes of it") }}, "TPM: list sessions: not a TPM 2.0"},
	} {
		fake := tpmtest.NewFake()
		fake.AtCommand(1, test.fault)
		err := tpm.New(fake, tpm.Options{}).FlushSessions()
		if (err == nil) != (test.want == "") || err != nil && !strings.HasPrefix(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
	}
}
