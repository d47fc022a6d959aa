package hwid

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/mkexec/mkexec/measure"
)

const (
	efifwMagic      = int64(0xFEEDDEAD)
	efifwHeaderSize = 16
	// maxFirmwareName bounds the name of a firmware, in bytes. ukify makes it of
	// the name of a directory, which is shorter.
	maxFirmwareName = 4096
)

// FirmwareID returns the name of the firmware in an .efifw section. The section
// is a header of four little-endian numbers (magic, size of the header, of the
// name with its NUL, of the firmware), the name and the firmware; what follows is
// not looked at (systemd 262, src/boot/efi-firmware.h, efifw_validate_header).
// The header may be longer than its four numbers. The firmware is not read.
func FirmwareID(efifw measure.Content) (string, error) {
	var h [efifwHeaderSize]byte
	if efifw.Size() < efifwHeaderSize {
		return "", fmt.Errorf("section .efifw: %d bytes: no header", efifw.Size())
	}
	if err := readAt(efifw, h[:], 0); err != nil {
		return "", fmt.Errorf("section .efifw: %w", err)
	}
	number := func(off int) int64 { return int64(binary.LittleEndian.Uint32(h[off:])) }
	header, name, payload := number(4), number(8), number(12)
	if magic := number(0); magic != efifwMagic {
		return "", fmt.Errorf("section .efifw: magic 0x%08x: not 0x%08x", magic, efifwMagic)
	}
	if header < efifwHeaderSize {
		return "", fmt.Errorf("section .efifw: header of %d bytes: shorter than %d", header, efifwHeaderSize)
	}
	if sum := header + name + payload; sum > efifw.Size() {
		return "", fmt.Errorf("section .efifw: header, name and firmware have %d bytes, the section %d", sum, efifw.Size())
	}
	if name < 2 || name > maxFirmwareName {
		return "", fmt.Errorf("section .efifw: name of %d bytes: not 2 to %d", name, maxFirmwareName)
	}
	b := make([]byte, name)
	if err := readAt(efifw, b, header); err != nil {
		return "", fmt.Errorf("section .efifw: name: %w", err)
	}
	if i := bytes.IndexByte(b, 0); i != len(b)-1 {
		return "", fmt.Errorf("section .efifw: name %.80q: its NUL is not its last byte", b)
	}
	return string(b[:len(b)-1]), nil
}
