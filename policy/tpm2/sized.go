package tpm2

import "encoding/binary"

// Sized splits off a TPM2B, a size of two bytes and so many bytes (TPM 2.0 Library
// Part 2, 10.4). ok is false if b does not have them.
func Sized(b []byte) (content, rest []byte, ok bool) {
	if len(b) < 2 || len(b)-2 < int(binary.BigEndian.Uint16(b)) {
		return nil, nil, false
	}
	end := 2 + int(binary.BigEndian.Uint16(b))
	return b[2:end], b[end:], true
}
