package hwid_test

// The devicetrees are those of dtc 1.6.1. It does not prove that a devicetree is
// valid beyond what is read of it.

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/hwid"
)

func TestFirstCompatible(t *testing.T) {
	t.Parallel()
	dtb := testdata(t, "full.dtb")
	for name, b := range map[string][]byte{
		"full.dtb":    dtb,
		"with a tail": append(bytes.Clone(dtb), make([]byte, 64)...), // as in a section that is padded
	} {
		if got, err := hwid.FirstCompatible(measure.Bytes(b)); err != nil || got != "mkexec,board-rev2" { // fdtget
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	i := bytes.Index(dtb, []byte("mkexec,board-rev2"))
	for off := range len("mkexec,board-rev2") {
		b := bytes.Clone(dtb)
		b[i+off] ^= 0x20
		if got, err := hwid.FirstCompatible(measure.Bytes(b)); err != nil || got == "mkexec,board-rev2" {
			t.Errorf("offset %d changed: %q, %v", i+off, got, err)
		}
	}
}

// Offsets in full.dtb, by its hexdump.
const (
	fullStructure  = 0x48
	fullFirstProp  = 0x50
	fullCompatible = 0xc4 // its token
	fullValue      = 0xd0
	fullStrings    = 0x158
)

func TestFirstCompatibleHostile(t *testing.T) {
	t.Parallel()
	dtb := testdata(t, "full.dtb")
	put := func(off int, n uint32) []byte {
		b := bytes.Clone(dtb)
		binary.BigEndian.PutUint32(b[off:], n)
		return b
	}
	for _, test := range []struct {
		name string
		b    []byte
		want string
	}{
		{"empty", nil, "devicetree: 0 bytes: no header"},
		{"short", dtb[:39], "devicetree: 39 bytes: no header"},
		{"magic", put(0, 0xd00dfeee), "devicetree: magic 0xd00dfeee: not 0xd00dfeed"},
		{"version 16", put(20, 16), "devicetree: version 16, compatible down to 16: not 17"},
		{"version 18 only", put(24, 18), "devicetree: version 17, compatible down to 18: not 17"},
		{"truncated", dtb[:len(dtb)-1], "devicetree: says that it has 449 bytes, but has 448"},
		{"size", put(4, 0xffffffff), "devicetree: says that it has 4294967295 bytes, but has 449"},
		{"size too small", put(4, 448), "devicetree: strings of 105 bytes at 344: outside its 448 bytes"},
		{"structure in header", put(8, 36), "devicetree: structure of 272 bytes at 36: inside the header, not aligned to 4, or beyond the strings at 344"},
		{"structure not aligned", put(8, 70), "devicetree: structure of 272 bytes at 70: inside the header"},
		{"structure size not aligned", put(36, 271), "devicetree: structure of 271 bytes at 72: inside the header"},
		{"structure beyond strings", put(36, 276), "devicetree: structure of 276 bytes at 72: inside the header, not aligned to 4, or beyond the strings at 344"},
		{"structure wraps", put(36, 0xfffffffc), "devicetree: structure of 4294967292 bytes at 72: inside"},
		{"strings outside", put(32, 106), "devicetree: strings of 106 bytes at 344: outside its 449 bytes"},
		{"strings wrap", put(32, 0xffffffff), "devicetree: strings of 4294967295 bytes at 344: outside its 449 bytes"},
		{"no structure", put(36, 0), "devicetree: structure: offset 0: ends, or goes on for more than 1048576 bytes"},
		{"structure ends after the begin", put(36, 4), "devicetree: structure: offset 4: ends"},
		{"structure ends in a property", put(36, 12), "devicetree: structure: offset 12: ends"},
		{"structure ends in its name", put(36, 16), "devicetree: structure: offset 16: ends"},
		{"structure ends in its value", put(36, 20), "devicetree: structure: offset 8: property of 4 bytes: beyond the structure"},
		{"no begin", put(fullStructure, 3), "devicetree: structure: offset 0: token 3: not the begin of the root node"},
		{"named root", put(fullStructure+4, 0x61000000), "devicetree: structure: offset 4: the root node has a name"},
		{"token", put(fullFirstProp, 5), "devicetree: structure: offset 8: token 5: unknown"},
		{"end", put(fullFirstProp, 9), "devicetree: structure: offset 8: token 9: unknown"},
		{"property size", put(fullFirstProp+4, 0xffffffff), "devicetree: structure: offset 8: property of 4294967295 bytes: beyond the structure"},
		{"property name", put(fullFirstProp+8, 105), "devicetree: structure: offset 8: name at 105: outside the strings (105 bytes)"},
		{"node first", put(fullCompatible, 1), "devicetree: no compatible property in the root node"},
		{"node ends first", put(fullCompatible, 2), "devicetree: no compatible property in the root node"},
		{"name", put(fullStrings+0x35, 0x626f6d70), "devicetree: no compatible property in the root node"},
		{"no NUL", put(fullCompatible+4, 0x29), `devicetree: structure: offset 124: compatible "mkexec,board-rev2\x00mkexec,board\x00vendor,soc": not strings, each with a NUL`},
		{"empty value", put(fullCompatible+4, 0), `devicetree: structure: offset 124: compatible "": not strings, each with a NUL`},
		{"empty first string", put(fullValue, 0), `devicetree: structure: offset 124: compatible "\x00\x00\x00\x00ec,board-rev2`},
		{"none", testdata(t, "none.dtb"), "devicetree: no compatible property in the root node"},
	} {
		got, err := hwid.FirstCompatible(measure.Bytes(test.b))
		if err == nil || !strings.HasPrefix(err.Error(), test.want) || got != "" {
			t.Errorf("%s: %q, %v\nwant %s", test.name, got, err, test.want)
		}
	}
}

// A content that ends before its size.
type short struct{ measure.Content }

func (s short) Size() int64 { return s.Content.Size() + 100 }

func TestShortContent(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		err  func() error
		want string
	}{
		{func() error { _, err := hwid.FirstCompatible(&short{measure.Bytes(nil)}); return err }, "devicetree: read at 0: unexpected EOF"},
		{func() error { _, err := hwid.ParseHWIDs(&short{measure.Bytes(nil)}); return err }, "section .hwids: unexpected EOF"},
		{func() error { _, err := hwid.FirmwareID(&short{measure.Bytes(nil)}); return err }, "section .efifw: read at 0: unexpected EOF"},
	} {
		if err := test.err(); err == nil || err.Error() != test.want {
			t.Errorf("%v\nwant %s", err, test.want)
		}
	}
	if _, err := hwid.FirstCompatible(failing{}); !errors.Is(err, errFailing) {
		t.Errorf("%v: not the error of the content", err)
	}
}

var errFailing = errors.New("failing")

type failing struct{}

func (failing) Size() int64                       { return 1000 }
func (failing) ReadAt([]byte, int64) (int, error) { return 0, errFailing }

func FuzzFirstCompatible(f *testing.F) {
	f.Add(testdata(f, "full.dtb"))
	f.Add(testdata(f, "none.dtb"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := hwid.FirstCompatible(measure.Bytes(b))
		if (err == nil) != (s != "") {
			t.Fatalf("%q, %v", s, err)
		}
		if err == nil && (strings.Contains(s, "\x00") || !bytes.Contains(b, []byte(s+"\x00"))) {
			t.Fatalf("%q: not a string of the devicetree", s)
		}
	})
}
