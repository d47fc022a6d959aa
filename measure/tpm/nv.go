package tpm

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/google/go-tpm/tpm2"
)

// nvRead is how much of an NV index is read at a time, in bytes. A TPM says how
// much it takes (TPM_PT_NV_BUFFER_MAX); all take 512 (TCG PC Client Platform TPM
// Profile).
const nvRead = 512

// ReadNV returns the public area of an NV index (TPMS_NV_PUBLIC, TPM 2.0 Library
// Part 2, 13.5) and what is in it, as the owner of the TPM, with an empty
// authorization value. An index that does not exist is an fs.ErrNotExist. One
// that has never been written has no contents.
func (d *Device) ReadNV(index uint32) (public, content []byte, err error) {
	fail := func(err error) ([]byte, []byte, error) {
		if errors.Is(err, tpm2.TPMRCHandle) {
			err = fs.ErrNotExist
		}
		return nil, nil, fmt.Errorf("%s: NV index 0x%08x: %w", d.name, index, err)
	}
	handle := tpm2.TPMHandle(index)
	info, err := tpm2.NVReadPublic{NVIndex: handle}.Execute(d)
	if err != nil {
		return fail(err)
	}
	area, err := info.NVPublic.Contents()
	if err != nil {
		return fail(err)
	}
	public = info.NVPublic.Bytes()
	if !area.Attributes.Written {
		return public, nil, nil
	}
	for len(content) < int(area.DataSize) {
		part, err := tpm2.NVRead{
			AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
			NVIndex:    tpm2.NamedHandle{Handle: handle, Name: info.NVName},
			Size:       uint16(min(nvRead, int(area.DataSize)-len(content))),
			Offset:     uint16(len(content)),
		}.Execute(d)
		if err != nil {
			return fail(err)
		}
		if len(part.Data.Buffer) == 0 {
			return fail(errors.New("the TPM returned nothing of it"))
		}
		content = append(content, part.Data.Buffer...)
	}
	return public, content, nil
}
