package hwid_test

// The sections are those of ukify 262.1. It does not prove what the stub does
// with a section that is refused here: it may well use it.

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/hwid"
)

// The section says what the files say that ukify made it of.
func TestParseHWIDs(t *testing.T) {
	t.Parallel()
	want := map[string]bool{}
	files, _ := filepath.Glob("testdata/aa64/*.json")
	for _, name := range files {
		var device struct {
			Name, Compatible string
			HWIDs            []string
		}
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(b, &device); err != nil {
			t.Fatal(err)
		}
		for _, id := range device.HWIDs {
			want[fmt.Sprintf("1 %s %s %s", id, device.Name, device.Compatible)] = true
		}
	}
	entries, err := hwid.ParseHWIDs(measure.Bytes(testdata(t, "aa64.hwids")))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		line := fmt.Sprintf("%d %s %s %s", e.Type, e.CHID, e.Name, e.Text)
		if !want[line] {
			t.Errorf("%s: not in the files", line)
		}
		delete(want, line)
	}
	if len(want) > 0 || len(files) != 3 {
		t.Errorf("%d files; missing: %v", len(files), want)
	}
	if entries, err := hwid.ParseHWIDs(measure.Bytes(make([]byte, 28))); err != nil || len(entries) != 0 {
		t.Errorf("no entries: %v, %v", entries, err)
	}
}

// There is no byte without a meaning.
func TestParseHWIDsEveryByte(t *testing.T) {
	t.Parallel()
	section := testdata(t, "aa64.hwids")
	want, err := hwid.ParseHWIDs(measure.Bytes(section))
	if err != nil {
		t.Fatal(err)
	}
	for off := range section {
		b := bytes.Clone(section)
		b[off] ^= 1
		got, err := hwid.ParseHWIDs(measure.Bytes(b))
		if err == nil && reflect.DeepEqual(got, want) {
			t.Errorf("offset %d changed: the same entries", off)
		}
	}
}

func TestParseHWIDsHostile(t *testing.T) {
	t.Parallel()
	one := func(change func(b []byte)) []byte { // one entry, and the string "x" at 56
		b := make([]byte, 58)
		binary.LittleEndian.PutUint32(b, 0x1000001C)
		b[4] = 1
		b[20], b[24], b[56] = 56, 56, 'x'
		change(b)
		return b
	}
	if e, err := hwid.ParseHWIDs(measure.Bytes(one(func([]byte) {}))); err != nil || len(e) != 1 || e[0].Text != "x" {
		t.Fatalf("%v, %v", e, err)
	}
	if e, err := hwid.ParseHWIDs(measure.Bytes(one(func(b []byte) { b[20], b[24] = 0, 0 }))); err != nil || e[0].Text != "" || e[0].Name != "" {
		t.Errorf("without strings: %v, %v", e, err)
	}
	for _, test := range []struct {
		name string
		b    []byte
		want string
	}{
		{"empty", nil, "section .hwids: offset 0: no entry of zero bytes before the end"},
		{"zero bytes only", make([]byte, 27), "section .hwids: offset 0: no entry of zero bytes before the end"},
		{"no end", one(func([]byte) {})[:28], "section .hwids: offset 28: no entry of zero bytes before the end"},
		{"end cut", one(func([]byte) {})[:55], "section .hwids: offset 28: no entry of zero bytes before the end"},
		{"end not zero", one(func(b []byte) { b[55] = 1 }), "section .hwids: offset 28: the entry that ends them is not all zero bytes"},
		{"type 0", one(func(b []byte) { b[3] = 0 }), "section .hwids: entry 0 at offset 0: type 0: unknown"},
		{"type 3", one(func(b []byte) { b[3] = 0x30 }), "section .hwids: entry 0 at offset 0: type 3: unknown"},
		{"size", one(func(b []byte) { b[0] = 29 }), "section .hwids: entry 0 at offset 0: 29 bytes: not 28"},
		{"zero CHID", one(func(b []byte) { b[4] = 0 }), "section .hwids: entry 0 at offset 0: CHID 00000000-0000-0000-0000-000000000000"},
		{"name among entries", one(func(b []byte) { b[20] = 55 }), "section .hwids: entry 0 at offset 0: name: offset 55: outside the strings (56 to 58)"},
		{"name behind the end", one(func(b []byte) { b[20] = 58 }), "section .hwids: entry 0 at offset 0: name: offset 58: outside the strings (56 to 58)"},
		{"name far behind the end", one(func(b []byte) { b[23] = 0xff }), "section .hwids: entry 0 at offset 0: name: offset 4278190136: outside the strings (56 to 58)"},
		{"text among entries", one(func(b []byte) { b[24] = 1 }), "section .hwids: entry 0 at offset 0: compatible or firmware: offset 1: outside the strings (56 to 58)"},
		{"no NUL", one(func(b []byte) { b[57] = 'y' }), "section .hwids: entry 0 at offset 0: name: offset 56: no NUL before the end"},
		{"too large", make([]byte, 1<<20+1), "section .hwids: 1048577 bytes: more than 1048576"},
	} {
		if _, err := hwid.ParseHWIDs(measure.Bytes(test.b)); err == nil || err.Error() != test.want {
			t.Errorf("%s: %v\nwant %s", test.name, err, test.want)
		}
	}
}

func FuzzParseHWIDs(f *testing.F) {
	f.Add(testdata(f, "aa64.hwids"))
	for _, b := range unmarshal[[]boot](f, "boots.json") {
		f.Add(b.HWIDs)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		entries, err := hwid.ParseHWIDs(measure.Bytes(b))
		if err != nil {
			return
		}
		if len(b) < 28*(len(entries)+1) {
			t.Fatalf("%d entries in %d bytes", len(entries), len(b))
		}
		for i, e := range entries {
			record := b[28*i:][:28]
			if e.CHID == (hwid.CHID{}) || !bytes.Equal(e.CHID[8:], record[12:20]) || binary.BigEndian.Uint32(e.CHID[:]) != binary.LittleEndian.Uint32(record[4:]) {
				t.Fatalf("entry %d: CHID %s of %x", i, e.CHID, record)
			}
			if strings.Contains(e.Text, "\x00") || e.Text != "" && !bytes.Contains(b, []byte(e.Text+"\x00")) {
				t.Fatalf("entry %d: text %q", i, e.Text)
			}
		}
	})
}
