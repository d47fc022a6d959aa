package hwid

import (
	"encoding/binary"
	"fmt"
)

// edidSize is the size in bytes of the base block of an EDID, and maxEDID that of
// the longest one, with 255 extension blocks (VESA E-EDID 1.4).
const (
	edidSize = 128
	maxEDID  = 256 * edidSize
)

// parseEDID returns the panel that an EDID is of, as in Machine.Panel (systemd
// 262, src/fundamental/edid.c). As there, only the header is looked at.
func parseEDID(b []byte) (string, error) {
	if len(b) < edidSize || len(b) > maxEDID {
		return "", fmt.Errorf("EDID: %d bytes: not %d to %d", len(b), edidSize, maxEDID)
	}
	if string(b[:8]) != "\x00\xff\xff\xff\xff\xff\xff\x00" {
		return "", fmt.Errorf("EDID: header %x: not that of an EDID", b[:8])
	}
	id := binary.BigEndian.Uint16(b[8:])
	var letters [3]byte
	for i := range letters {
		n := byte(id>>(10-5*i)) & 0x1f // 1 is A
		if n > 26 {
			return "", fmt.Errorf("EDID: manufacturer 0x%04x: not three letters", id)
		}
		letters[i] = '@' + n
	}
	return fmt.Sprintf("%s%04x", letters[:], binary.LittleEndian.Uint16(b[10:])), nil
}
