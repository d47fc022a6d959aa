package hwid

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/mkexec/mkexec/measure"
)

// An EntryType is what an entry of .hwids is for.
type EntryType uint32

// The types of entries (systemd 262, src/boot/chid.h). TypeFirmware is in 258
// and newer.
const (
	TypeDevicetree EntryType = 1
	TypeFirmware   EntryType = 2
)

const (
	// entrySize is the size in bytes of a Device (systemd 262, src/boot/chid.h).
	entrySize = 28
	// maxHWIDs bounds the section, in bytes. With all that systemd 262 has for
	// arm64 it is below 64 KiB.
	maxHWIDs = 1 << 20
)

// An Entry of the section .hwids says what the machines with one CHID need.
type Entry struct {
	Type EntryType
	CHID CHID
	// Name is for people, "" if there is none.
	Name string
	// Text is the compatible string of a devicetree, or the name of a firmware;
	// "" if there is none.
	Text string
}

// ParseHWIDs parses the section .hwids: entries of 28 bytes, one of zero bytes,
// and the strings that the entries refer to by their offset in the section
// (systemd 262, src/boot/chid.h, src/ukify/ukify.py, parse_hwid_dir).
//
// It takes less than the stub does: it refuses a size other than that of the
// types, a zero CHID (the stub takes it for that of a machine without a panel),
// a section that does not end its entries, and strings among the entries.
func ParseHWIDs(c measure.Content) ([]Entry, error) {
	data, err := measure.ReadAll(c, maxHWIDs)
	if err != nil {
		return nil, fmt.Errorf("section .hwids: %w", err)
	}
	count := 0
	for ; ; count++ {
		off := count * entrySize
		if len(data)-off < entrySize {
			return nil, fmt.Errorf("section .hwids: offset %d: no entry of zero bytes before the end", off)
		}
		if binary.LittleEndian.Uint32(data[off:]) == 0 {
			if [entrySize]byte(data[off:]) != [entrySize]byte{} {
				return nil, fmt.Errorf("section .hwids: offset %d: the entry that ends them is not all zero bytes", off)
			}
			break
		}
	}
	text := string(data) // shared by all strings
	entries := make([]Entry, 0, count)
	for i := range count {
		e, err := parseEntry(data[i*entrySize:][:entrySize], text, (count+1)*entrySize)
		if err != nil {
			return nil, fmt.Errorf("section .hwids: entry %d at offset %d: %w", i, i*entrySize, err)
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// parseEntry parses an entry. The strings begin at the offset pool of text.
func parseEntry(b []byte, text string, pool int) (e Entry, err error) {
	descriptor := binary.LittleEndian.Uint32(b)
	e = Entry{Type: EntryType(descriptor >> 28), CHID: guid([16]byte(b[4:]))}
	if e.Type != TypeDevicetree && e.Type != TypeFirmware {
		return e, fmt.Errorf("type %d: unknown", e.Type)
	}
	if size := descriptor & 0x0FFFFFFF; size != entrySize {
		return e, fmt.Errorf("%d bytes: not %d", size, entrySize)
	}
	if e.CHID == (CHID{}) {
		return e, fmt.Errorf("CHID %s", e.CHID)
	}
	if e.Name, err = poolString(text, pool, binary.LittleEndian.Uint32(b[20:])); err != nil {
		return e, fmt.Errorf("name: %w", err)
	}
	if e.Text, err = poolString(text, pool, binary.LittleEndian.Uint32(b[24:])); err != nil {
		return e, fmt.Errorf("compatible or firmware: %w", err)
	}
	return e, nil
}

// poolString returns the string at off, "" if off is 0.
func poolString(text string, pool int, off uint32) (string, error) {
	if off == 0 {
		return "", nil
	}
	if int64(off) < int64(pool) || int64(off) >= int64(len(text)) {
		return "", fmt.Errorf("offset %d: outside the strings (%d to %d)", off, pool, len(text))
	}
	s, _, terminated := strings.Cut(text[off:], "\x00")
	if !terminated {
		return "", fmt.Errorf("offset %d: no NUL before the end", off)
	}
	return s, nil
}
