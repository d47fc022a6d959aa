package tpm

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/google/go-tpm/tpm2"
)

// ReadName returns the Name of an object in the TPM, such as the storage root key
// (TPM 2.0 Library Part 1, 16 "Names"). One that does not exist is an
// fs.ErrNotExist.
func (d *Device) ReadName(handle uint32) ([]byte, error) {
	object, err := tpm2.ReadPublic{ObjectHandle: tpm2.TPMHandle(handle)}.Execute(d)
	if errors.Is(err, tpm2.TPMRCHandle) {
		err = fs.ErrNotExist
	}
	if err != nil {
		return nil, fmt.Errorf("%s: object 0x%08x: %w", d.name, handle, err)
	}
	return object.Name.Buffer, nil
}
