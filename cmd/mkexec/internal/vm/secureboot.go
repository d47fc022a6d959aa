package vm

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"unicode/utf16"
)

// Sign returns the image with a signature by a key, for Secure Boot; key and cert are the paths of PEM files.
func Sign(image []byte, key, cert string) ([]byte, error) {
	return convert(image, func(in, out string) *exec.Cmd {
		return exec.Command(sbsign, "--key", key, "--cert", cert, "--output", out, in)
	})
}

// SecureKernel returns Assets.Kernel with a signature by SnakeoilKey in place of Debian's: a Linux that enforces
// signatures trusts Debian's keys on its own, but this one only because the firmware does.
func (a *Assets) SecureKernel() ([]byte, error) {
	kernel, err := os.ReadFile(a.Kernel)
	if err != nil {
		return nil, err
	}
	bare, err := convert(kernel, func(in, out string) *exec.Cmd {
		// In place; Linux before 6.3 refuses a kernel with two signatures.
		return exec.Command("sh", "-e", "-c", sbattach+` --remove "$0"; mv "$0" "$1"`, in, out)
	})
	if err != nil {
		return nil, err
	}
	return Sign(bare, a.SnakeoilKey, a.SnakeoilCert)
}

// convert runs a command that makes the file out of the file in.
func convert(data []byte, command func(in, out string) *exec.Cmd) ([]byte, error) {
	dir, err := os.MkdirTemp("", "mkexec-vm-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	in, out := filepath.Join(dir, "in.efi"), filepath.Join(dir, "out.efi")
	if err := os.WriteFile(in, data, 0o600); err != nil {
		return nil, err
	}
	cmd := command(in, out)
	if said, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%s: %w: %s", cmd, err, said)
	}
	return os.ReadFile(out)
}

// revoke puts an image's digest into dbx, in a variable store of OVMF. The dbx there has a single digest, that of nothing
// at all, whose place it takes. The store is that of EDK2, MdeModulePkg/Include/Guid/VariableFormat.h
// (AUTHENTICATED_VARIABLE_HEADER), the variable an EFI_SIGNATURE_LIST of EFI_CERT_SHA256_GUID (UEFI 2.11, "Signature Database").
func revoke(store, digest []byte) error {
	if len(digest) != sha256.Size {
		return fmt.Errorf("dbx: a digest of %d bytes", len(digest))
	}
	// What is before the digest: the vendor, EFI_IMAGE_SECURITY_DATABASE_GUID, the name, and the list's type and three sizes.
	before := []byte("\xcb\xb2\x19\xd7\x3a\x3d\x96\x45\xa3\xbc\xda\xd0\x0e\x67\x65\x6f")
	for _, c := range utf16.Encode([]rune("dbx\x00")) {
		before = binary.LittleEndian.AppendUint16(before, c)
	}
	before = append(before, "\x26\x16\xc4\xc1\x4c\x50\x92\x40\xac\xa9\x41\xf9\x36\x93\x43\x28"...)
	for _, size := range []uint32{28 + 16 + sha256.Size, 0, 16 + sha256.Size} {
		before = binary.LittleEndian.AppendUint32(before, size)
	}
	const owner = 16
	at := bytes.Index(store, before) + len(before) + owner
	if bytes.Count(store, before) != 1 || at+len(digest) > len(store) {
		return errors.New("dbx: not one list of one digest")
	}
	if nothing := sha256.Sum256(nil); !bytes.Equal(store[at:at+len(digest)], nothing[:]) {
		return errors.New("dbx: it forbids something already")
	}
	copy(store[at:], digest)
	return nil
}
