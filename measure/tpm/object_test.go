package tpm_test

// The Names of keys in a TPM in software, against those that go-tpm computes of
// their public areas. It does not prove anything about TPM chips.

import (
	"bytes"
	"errors"
	"io/fs"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/mkexec/mkexec/measure/tpm"
	"github.com/mkexec/mkexec/measure/tpm/tpmtest"
)

func TestReadName(t *testing.T) {
	t.Parallel()
	d, err := tpm.Open(tpmtest.Start(t).Device(), tpm.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	const srk = 0x81000001
	if _, err := d.ReadName(srk); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("without one: %v", err)
	}
	key, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}.Execute(d)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (tpm2.EvictControl{
		Auth:             tpm2.TPMRHOwner,
		ObjectHandle:     &tpm2.NamedHandle{Handle: key.ObjectHandle, Name: key.Name},
		PersistentHandle: srk,
	}).Execute(d); err != nil {
		t.Fatal(err)
	}
	public, err := key.OutPublic.Contents()
	if err != nil {
		t.Fatal(err)
	}
	want, err := tpm2.ObjectName(public)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := d.ReadName(srk); err != nil || !bytes.Equal(got, want.Buffer) {
		t.Errorf("%x, %v, want %x", got, err, want.Buffer)
	}
}
