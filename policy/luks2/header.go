// Package luks2 reads the headers of LUKS2 volumes and the tokens of type
// systemd-tpm2 in them, as systemd-cryptenroll of systemd 248 to 262 writes
// them, and tells whether the TPM would release the key of a token for given
// PCRs. It reads no key slot and unseals nothing.
package luks2

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/mkexec/mkexec/measure"
)

// A Header is the metadata of a LUKS2 volume (LUKS2 On-Disk Format
// Specification 1.1.4).
type Header struct {
	// UUID names the volume, as in /etc/crypttab. Label is empty if it has none.
	UUID, Label string
	// SequenceID counts the updates of the header.
	SequenceID uint64
	// Damage says in words what is wrong with the copy of the header that was not
	// used, if something is. cryptsetup repairs it when it next opens the volume
	// for writing.
	Damage string

	areaSize int64 // of a copy with its JSON area
	json     object
}

// The binary header of 4096 bytes that each copy begins with (the
// specification, 2.1), in big endian.
const (
	binarySize = 4096

	offVersion    = 6
	offSize       = 8
	offSequence   = 16
	offLabel      = 24
	offAlgorithm  = 72
	offUUID       = 168
	offOffset     = 256
	offChecksum   = 448
	checksumField = 64
)

// The copies' magics.
const (
	magic1 = "LUKS\xba\xbe"
	magic2 = "SKUL\xba\xbe"
)

// areaSizes are the sizes in bytes that a copy with its JSON area may have, and
// so the offsets of the second copy (the specification, 2.1, table 1).
func areaSizes() (sizes []int64) {
	for kib := int64(16); kib <= 4096; kib *= 2 {
		sizes = append(sizes, kib<<10)
	}
	return sizes
}

// Open reads the header of a volume, or a detached one, of size bytes. Of its two
// copies it takes the one that cryptsetup does: that with the higher sequence
// id, the first if they have the same, the one that is left if one is damaged.
// An error says what is wrong with both.
func Open(r io.ReaderAt, size int64) (*Header, error) {
	first, err1 := readCopy(r, size, 0)
	var second *Header
	var err2 error
	if err1 == nil {
		second, err2 = readCopy(r, size, first.areaSize)
	} else {
		second, err2 = findSecond(r, size)
	}
	switch {
	case err1 != nil && err2 != nil:
		return nil, fmt.Errorf("LUKS2 header: first copy: %w; second copy: %w", err1, err2)
	case err1 != nil:
		second.Damage = fmt.Sprintf("the first copy is damaged (%v), the second is used", err1)
		return second, nil
	case err2 != nil:
		first.Damage = fmt.Sprintf("the second copy is damaged (%v)", err2)
	case second.SequenceID > first.SequenceID:
		second.Damage = fmt.Sprintf("the first copy is older (sequence id %d, not %d), the second is used", first.SequenceID, second.SequenceID)
		return second, nil
	case second.SequenceID < first.SequenceID:
		first.Damage = fmt.Sprintf("the second copy is older (sequence id %d, not %d)", second.SequenceID, first.SequenceID)
	}
	return first, nil
}

// errNoMagic is that there is no copy.
var errNoMagic = errors.New("no magic")

// findSecond looks for the second copy where the first does not tell its offset.
// The error is that of the first that is there but damaged.
func findSecond(r io.ReaderAt, size int64) (h *Header, damaged error) {
	for _, offset := range areaSizes() {
		h, err := readCopy(r, size, offset)
		if err == nil {
			return h, nil
		}
		if !errors.Is(err, errNoMagic) && offset+binarySize <= size {
			damaged = cmp.Or(damaged, err)
		}
	}
	return nil, cmp.Or(damaged, errNoMagic)
}

// readCopy reads the copy at an offset: the first at zero, the second elsewhere.
func readCopy(r io.ReaderAt, size, offset int64) (*Header, error) {
	if size-offset < binarySize {
		return nil, fmt.Errorf("%d bytes at offset %d: too short", max(size-offset, 0), offset)
	}
	binaryHeader := make([]byte, binarySize)
	if err := readAt(r, binaryHeader, offset); err != nil {
		return nil, err
	}
	magic := magic1
	if offset != 0 {
		magic = magic2
	}
	if string(binaryHeader[:len(magic)]) != magic {
		return nil, fmt.Errorf("%w at offset %d", errNoMagic, offset)
	}
	if v := binary.BigEndian.Uint16(binaryHeader[offVersion:]); v == 1 {
		return nil, errors.New("version 1: LUKS1, which has no tokens")
	} else if v != 2 {
		return nil, fmt.Errorf("version %d: %w", v, errUnsupported)
	}
	u64 := func(at int) uint64 { return binary.BigEndian.Uint64(binaryHeader[at:]) }
	areaSize := int64(u64(offSize))
	if !slices.Contains(areaSizes(), areaSize) {
		return nil, fmt.Errorf("size %d: not 16 KiB to 4 MiB in powers of two", u64(offSize))
	}
	if offset != 0 && areaSize != offset {
		return nil, fmt.Errorf("size %d, but its offset is %d", areaSize, offset)
	}
	if o := u64(offOffset); o != uint64(offset) {
		return nil, fmt.Errorf("at offset %d, but it says %d", offset, o)
	}
	if areaSize > size-offset {
		return nil, fmt.Errorf("size %d at offset %d, but there are %d bytes", areaSize, offset, size)
	}
	area := make([]byte, areaSize)
	if err := readAt(r, area, offset); err != nil {
		return nil, err
	}
	if err := verify(area); err != nil {
		return nil, err
	}
	h := &Header{UUID: text(area[offUUID:][:40]), Label: text(area[offLabel:][:48]), SequenceID: u64(offSequence), areaSize: areaSize}
	var err error
	if h.json, err = parseArea(area[binarySize:]); err != nil {
		return nil, fmt.Errorf("JSON area: %w", err)
	}
	return h, nil
}

// readAt fills b, or fails.
func readAt(r io.ReaderAt, b []byte, offset int64) error {
	n, err := r.ReadAt(b, offset)
	if n == len(b) {
		return nil
	}
	return fmt.Errorf("read %d bytes at offset %d: %w", len(b), offset, cmp.Or(err, io.ErrUnexpectedEOF))
}

// verify checks the checksum of a copy, which is over all of it with the field
// of the checksum zero (the specification, 2.1). It may change area.
func verify(area []byte) error {
	name := text(area[offAlgorithm:][:32])
	alg, err := measure.ParseBank(name) // cryptsetup calls the hashes by the same names
	if err != nil {
		return fmt.Errorf("checksum algorithm %.32q: %w", name, errUnsupported)
	}
	field := area[offChecksum:][:checksumField]
	stored := slices.Clone(field[:alg.Size()])
	clear(field)
	if got := alg.Sum(area); !bytes.Equal(got, stored) {
		return fmt.Errorf("checksum (%s) is %s, but it says %s", alg, got, measure.Digest(stored))
	}
	return nil
}

// text returns a field up to its first NUL.
func text(field []byte) string {
	s, _, _ := strings.Cut(string(field), "\x00")
	return s
}

// parseArea parses a JSON area: an object that begins with the first byte, and
// NULs to the end, one at least (cryptsetup 2.8,
// lib/luks2/luks2_disk_metadata.c, validate_json_area()).
func parseArea(area []byte) (object, error) {
	end := bytes.IndexByte(area, 0)
	if end < 0 {
		return nil, errors.New("no NUL at its end")
	}
	if rest := bytes.TrimLeft(area[end:], "\x00"); len(rest) > 0 {
		return nil, fmt.Errorf("byte 0x%02x behind the NUL", rest[0])
	}
	if end > 0 && area[0] != '{' {
		return nil, fmt.Errorf("begins with byte 0x%02x", area[0])
	}
	o, err := parseObject(area[:end])
	if err != nil {
		return nil, err
	}
	config, err := o.object("config")
	if err != nil {
		return nil, err
	}
	var size string // 64-bit numbers are strings here
	if err := config.get("json_size", &size); err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	if want := fmt.Sprint(len(area)); size != want {
		return nil, fmt.Errorf("config: json_size %.20q, but it has %s bytes", size, want)
	}
	return o, nil
}
