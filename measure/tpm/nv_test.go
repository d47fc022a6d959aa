package tpm_test

// ReadNV with a real TPM in software. It does not prove anything about a TPM
// whose owner has set an authorization value.

import (
	"bytes"
	"errors"
	"io/fs"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/mkexec/mkexec/measure/tpm"
	"github.com/mkexec/mkexec/measure/tpm/tpmtest"
)

func TestReadNV(t *testing.T) {
	t.Parallel()
	d, err := tpm.Open(tpmtest.Start(t).Device(), tpm.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	const index = 0x01800100
	if _, _, err := d.ReadNV(index); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an index that does not exist: %v", err)
	}
	owner := tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}
	want := bytes.Repeat([]byte("0123456789abcdef"), 40) // more than one read
	area := tpm2.New2B(tpm2.TPMSNVPublic{
		NVIndex: index, NameAlg: tpm2.TPMAlgSHA256, DataSize: uint16(len(want)),
		Attributes: tpm2.TPMANV{OwnerWrite: true, OwnerRead: true, NT: tpm2.TPMNTOrdinary},
	})
	if _, err := (tpm2.NVDefineSpace{AuthHandle: owner, PublicInfo: area}).Execute(d); err != nil {
		t.Fatal(err)
	}
	public, content, err := d.ReadNV(index)
	if err != nil || content != nil {
		t.Errorf("never written: %x, %v", content, err)
	}
	if !bytes.Equal(public, area.Bytes()) {
		t.Errorf("public area %x, want %x", public, area.Bytes())
	}
	for off := 0; off < len(want); off += 320 {
		info, err := tpm2.NVReadPublic{NVIndex: tpm2.TPMHandle(index)}.Execute(d)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := (tpm2.NVWrite{
			AuthHandle: owner, NVIndex: tpm2.NamedHandle{Handle: index, Name: info.NVName},
			Data: tpm2.TPM2BMaxNVBuffer{Buffer: want[off:][:320]}, Offset: uint16(off),
		}).Execute(d); err != nil {
			t.Fatal(err)
		}
	}
	if _, content, err = d.ReadNV(index); err != nil || !bytes.Equal(content, want) {
		t.Errorf("%d bytes, %v", len(content), err)
	}
}
