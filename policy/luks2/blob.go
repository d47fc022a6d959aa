package luks2

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mkexec/mkexec/policy/tpm2"
)

// A cursor takes a structure of the TPM apart. After the first thing that is
// not there all of it is zero, and ok is false.
type cursor struct {
	rest []byte
	bad  bool
}

func (c *cursor) bytes(n int) []byte {
	if n > len(c.rest) {
		c.bad, c.rest = true, nil
		return make([]byte, n) // two bytes have its size: at most 64 KiB
	}
	b := c.rest[:n]
	c.rest = c.rest[n:]
	return b
}

func (c *cursor) u16() int    { return int(binary.BigEndian.Uint16(c.bytes(2))) }
func (c *cursor) u32() uint32 { return binary.BigEndian.Uint32(c.bytes(4)) }

// sized takes a TPM2B: a size of two bytes, and so many bytes.
func (c *cursor) sized() []byte { return c.bytes(c.u16()) }

// end tells whether everything was there, and nothing more.
func (c *cursor) end() bool { return !c.bad && len(c.rest) == 0 }

// Algorithms (TCG Algorithm Registry, table 3).
const (
	algKeyedHash = 0x0008
	algSHA256    = 0x000B
	algNull      = 0x0010
)

// parseBlob returns the authPolicy of a sealed object: TPM2B_PRIVATE ‖
// TPM2B_PUBLIC, and TPM2B_ENCRYPTED_SECRET if it was sealed without the TPM
// (systemd 262, src/shared/tpm2-util.c, tpm2_unmarshal_blob()).
func parseBlob(blob []byte) (policy tpm2.Digest, err error) {
	c := cursor{rest: blob}
	c.sized()
	public := cursor{rest: c.sized()}
	if len(c.rest) > 0 {
		c.sized()
	}
	if !c.end() {
		return policy, errors.New("not a sealed object: its sizes do not add up")
	}
	// TPMT_PUBLIC (TPM 2.0 Library Part 2, 12.2.4)
	typ, nameAlg, _, authPolicy, scheme := public.u16(), public.u16(), public.u32(), public.sized(), public.u16()
	public.sized()
	switch {
	case public.bad:
		return policy, errors.New("public area: its sizes do not add up")
	case typ != algKeyedHash:
		return policy, fmt.Errorf("public area: type 0x%04x: %w", typ, errUnsupported)
	case nameAlg != algSHA256:
		return policy, fmt.Errorf("public area: name algorithm 0x%04x: %w", nameAlg, errUnsupported)
	case scheme != algNull:
		return policy, fmt.Errorf("public area: scheme 0x%04x: %w", scheme, errUnsupported)
	case !public.end():
		return policy, errors.New("public area: its sizes do not add up")
	}
	return tpm2.ParseDigest(authPolicy)
}

// The kinds of resources in a serialized handle (tpm2-tss,
// src/tss2-esys/esys_types.h, IESYSC_KEY_RSRC, IESYSC_NV_RSRC).
const (
	rsrcKey = 1
	rsrcNV  = 2
)

// parseKeyHandle returns the handle and the Name of the key whose handle tpm2-tss
// serialized: handle, TPM2B_NAME, kind of resource, TPM2B_PUBLIC.
func parseKeyHandle(data []byte) (handle uint32, name []byte, err error) {
	c := cursor{rest: data}
	handle, name, kind, public := c.u32(), c.sized(), c.u32(), c.sized()
	switch {
	case !c.end():
		return 0, nil, errors.New("not a handle of a key: its sizes do not add up")
	case kind != rsrcKey:
		return 0, nil, fmt.Errorf("resource of kind %d: %w", kind, errUnsupported)
	case len(public) < 4 || binary.BigEndian.Uint16(public[2:]) != algSHA256:
		return 0, nil, fmt.Errorf("a key whose name is not of SHA-256: %w", errUnsupported)
	}
	sum := sha256.Sum256(public)
	if want := append(binary.BigEndian.AppendUint16(nil, algSHA256), sum[:]...); !bytes.Equal(name, want) {
		return 0, nil, fmt.Errorf("name %x, but that of its public area is %x", name, want)
	}
	return handle, name, nil
}

// parseNVHandle returns the Name of the NV index whose handle tpm2-tss
// serialized: handle, TPM2B_NAME, kind of resource, TPM2B_NV_PUBLIC.
func parseNVHandle(data []byte) (name []byte, err error) {
	c := cursor{rest: data}
	_, stored, kind, public := c.u32(), c.sized(), c.u32(), c.sized()
	if !c.end() {
		return nil, errors.New("not a handle of an NV index: its sizes do not add up")
	}
	if kind != rsrcNV {
		return nil, fmt.Errorf("resource of kind %d: %w", kind, errUnsupported)
	}
	if name, err = tpm2.NVName(public, true); err != nil {
		return nil, err
	}
	if !bytes.Equal(name, stored) {
		return nil, fmt.Errorf("name %x, but that of its public area is %x", stored, name)
	}
	return name, nil
}
