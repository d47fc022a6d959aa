package hwid_test

// The sections are those of ukify 262.1; that the stub selects them by this name
// is in boots_test.go. It does not prove what a longer header means.

import (
	"bytes"
	"testing"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/hwid"
)

// efifws returns two sections of ukify's, with the names fw-one and fw-two.
func efifws(t testing.TB) [][]byte {
	t.Helper()
	for _, b := range unmarshal[[]boot](t, "boots.json") {
		if len(b.EFIFWs) == 2 {
			return b.EFIFWs
		}
	}
	t.Fatal("no boot with two sections .efifw")
	return nil
}

func TestFirmwareID(t *testing.T) {
	t.Parallel()
	for i, want := range []string{"fw-one", "fw-two"} {
		section := efifws(t)[i]
		got, err := hwid.FirmwareID(measure.Bytes(section))
		if err != nil || got != want {
			t.Errorf("%q, %v, want %q", got, err, want)
		}
		for off := range 16 + len(want) + 1 { // the header and the name
			b := bytes.Clone(section)
			b[off] ^= 1
			if got, err := hwid.FirmwareID(measure.Bytes(b)); err == nil && got == want && off != 12 {
				t.Errorf("offset %d changed: %q", off, got) // at 12 a shorter firmware, with something behind it
			}
		}
		b := bytes.Clone(section)
		b[12]++ // a longer firmware
		if got, err := hwid.FirmwareID(measure.Bytes(b)); err == nil {
			t.Errorf("firmware beyond the end: %q", got)
		}
	}
	long := append([]byte{0xad, 0xde, 0xed, 0xfe, 20, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 1, 2, 3, 4}, "a\x00xyz"...)
	if got, err := hwid.FirmwareID(measure.Bytes(long)); err != nil || got != "a" {
		t.Errorf("longer header: %q, %v", got, err)
	}
}

func TestFirmwareIDHostile(t *testing.T) {
	t.Parallel()
	section := efifws(t)[0] // 16 bytes, "fw-one\0", "firmware fw-one"
	with := func(off int, to ...byte) []byte {
		b := bytes.Clone(section)
		copy(b[off:], to)
		return b
	}
	for _, test := range []struct {
		name string
		b    []byte
		want string
	}{
		{"empty", nil, "section .efifw: 0 bytes: no header"},
		{"short", section[:15], "section .efifw: 15 bytes: no header"},
		{"header only", section[:16], "section .efifw: header, name and firmware have 38 bytes, the section 16"},
		{"truncated", section[:37], "section .efifw: header, name and firmware have 38 bytes, the section 37"},
		{"magic", with(0, 0), "section .efifw: magic 0xfeedde00: not 0xfeeddead"},
		{"header too short", with(4, 15), "section .efifw: header of 15 bytes: shorter than 16"},
		{"header too long", with(4, 0xff, 0xff, 0xff, 0xff), "section .efifw: header, name and firmware have 4294967317 bytes, the section 38"},
		{"name too long", with(8, 0xff, 0xff, 0xff, 0xff), "section .efifw: header, name and firmware have 4294967326 bytes, the section 38"},
		{"all too long", with(4, bytes.Repeat([]byte{0xff}, 12)...), "section .efifw: header, name and firmware have 12884901885 bytes, the section 38"},
		{"no name", with(8, 0), "section .efifw: name of 0 bytes: not 2 to 4096"},
		{"empty name", with(8, 1), "section .efifw: name of 1 bytes: not 2 to 4096"},
		{"name of 4097", append(with(8, 1, 0x10), make([]byte, 4096)...), "section .efifw: name of 4097 bytes: not 2 to 4096"},
		{"no NUL", with(22, 'x'), `section .efifw: name "fw-onex": its NUL is not its last byte`},
		{"NUL inside", with(20, 0), `section .efifw: name "fw-o\x00e\x00": its NUL is not its last byte`},
		{"NUL and more", append(with(8, 8), 0), `section .efifw: name "fw-one\x00f": its NUL is not its last byte`},
	} {
		if _, err := hwid.FirmwareID(measure.Bytes(test.b)); err == nil || err.Error() != test.want {
			t.Errorf("%s: %v\nwant %s", test.name, err, test.want)
		}
	}
}

func FuzzFirmwareID(f *testing.F) {
	for _, b := range efifws(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := hwid.FirmwareID(measure.Bytes(b))
		if err != nil {
			return
		}
		header := int(b[4]) | int(b[5])<<8 | int(b[6])<<16 | int(b[7])<<24
		if s == "" || !bytes.HasPrefix(b[header:], []byte(s+"\x00")) {
			t.Fatalf("%q: not behind the header of %d bytes", s, header)
		}
	})
}
