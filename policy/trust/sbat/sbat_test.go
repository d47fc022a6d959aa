package sbat_test

// The rules are shim's; its own tests (rhboot/shim, test-sbat.c) are followed in
// the cases below, none of which was run against shim.

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"github.com/mkexec/mkexec/measure/uki"
	"github.com/mkexec/mkexec/measure/uki/ukitest"
	"github.com/mkexec/mkexec/policy/trust/sbat"
)

// Sections and levels of real files: systemd-boot 257 and 262 as Debian builds them, and shim 16.1's .sbatlevel.
const (
	stub = "sbat,1,SBAT Version,sbat,1,https://github.com/rhboot/shim/blob/main/SBAT.md\n" +
		"systemd-stub,1,The systemd Developers,systemd,257,https://systemd.io/\n" +
		"systemd-stub.debian,1,Debian,systemd,257.13-1~deb13u1,https://tracker.debian.org/pkg/systemd\n"
	latest = "sbat,1,2025051000\nshim,4\ngrub,5\ngrub.proxmox,2\n"
)

func wantError(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want %q", err, want)
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	image, err := sbat.ParseImage([]byte(stub))
	if err != nil || len(image) != 3 {
		t.Fatalf("%+v, %v", image, err)
	}
	if want := (sbat.Entry{Component: "systemd-stub.debian", Generation: 1, Vendor: "Debian", Package: "systemd",
		Version: "257.13-1~deb13u1", URL: "https://tracker.debian.org/pkg/systemd"}); image[2] != want {
		t.Errorf("%+v", image[2])
	}
	level, err := sbat.ParseLevel([]byte(latest))
	if err != nil || len(level) != 4 || level[3] != (sbat.Requirement{Component: "grub.proxmox", Generation: 2}) {
		t.Fatalf("%+v, %v", level, err)
	}
	for name, text := range map[string]string{
		"empty": "", "zero": "\x00\x00", "blank lines": "\r\n\n\r", "byte order mark": "\xef\xbb\xbf",
	} {
		if image, err := sbat.ParseImage([]byte(text)); image != nil || err != nil {
			t.Errorf("%s: %+v, %v", name, image, err)
		}
		if level, err := sbat.ParseLevel([]byte(text)); level != nil || err != nil {
			t.Errorf("%s: %+v, %v", name, level, err)
		}
	}
	for name, text := range map[string]string{
		"carriage returns":     "\xef\xbb\xbfa,1,b,c,d,e\r\rb,65535,b,c,d,e\r\n\x00\x00",
		"more fields":          "a,1,b,c,d,e,f,g\nb,65535,b,c,d,e,,",
		"no newline at end":    "a,1,b,c,d,e\nb,65535,b,c,d,e",
		"zeros before a digit": "a,01,b,c,d,e\nb,065535,b,c,d,e\n",
	} {
		image, err := sbat.ParseImage([]byte(text))
		if err != nil || len(image) != 2 || image[0] != (sbat.Entry{Component: "a", Generation: 1, Vendor: "b", Package: "c", Version: "d", URL: "e"}) || image[1].Generation != 65535 {
			t.Errorf("%s: %+v, %v", name, image, err)
		}
	}
}

func TestRevoked(t *testing.T) {
	t.Parallel()
	image, err := sbat.ParseImage([]byte("sbat,1,a,b,c,d\nshim,3,a,b,c,d\ngrub,5,a,b,c,d\n"))
	if err != nil {
		t.Fatal(err)
	}
	for level, want := range map[string]string{
		"":                                      "",
		"sbat,1,2021030218\n":                   "",
		"sbat,2,2021030218\n":                   "sbat 1<2",
		"sbat,1,2022052400\nshim,2\ngrub,3\n":   "",
		"sbat,1,2025051000\nshim,3\ngrub,5\n":   "",
		"sbat,1,2025051000\nshim,4\ngrub,5\n":   "shim 3<4",
		"sbat,1,2025051000\nshim,3\ngrub,6\n":   "grub 5<6",
		"sbat,1\ngrub,6\nshim,4\n":              "shim 3<4", // in the order of the image
		"sbat,1\nshim.debian,9\nShim,9\n":       "",
		"sbat,1\nshim,3\nshim,9\n":              "", // the first of a name counts
		"sbat,1\nshim,65535\n":                  "shim 3<65535",
		"sbat,1,2021030218\nsystemd-stub,1\n":   "",
		"sbat,1,2021030218,\nsystemd-stub,1\n":  "error",
		"sbat,1,2021030218\nsystemd-stub,-1\n":  "error",
		"sbat,1,2021030218\nsystemd-stub, 1\n":  "error",
		"sbat,1,2021030218\nsystemd-stub,1x\n":  "error",
		"sbat,1,2021030218\nsystemd-stub,1\x00": "",
	} {
		l, err := sbat.ParseLevel([]byte(level))
		got := ""
		if e, r, yes := l.Revoked(image); yes {
			got = fmt.Sprintf("%s %d<%d", e.Component, e.Generation, r.Generation)
		}
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("%q: %q, want %q (%v)", level, got, want, err)
		}
	}
}

func TestBad(t *testing.T) {
	t.Parallel()
	const good = "sbat,1,a,b,c,d\n"
	for text, want := range map[string]string{
		"sbat\n":                            "line 1: 1 fields: wants 6",
		good + "\n\nshim,1,a,b,c\n":         "line 4: 5 fields: wants 6",
		good + "shim,1,a,b,,d\n":            "line 2: field 5 is empty",
		good + ",1,a,b,c,d\n":               "line 2: field 1 is empty",
		good + "shim,,a,b,c,d\n":            "line 2: field 2 is empty",
		good + "shim,x,a,b,c,d\n":           `line 2: generation "x": not a number up to 65535`,
		good + "shim,-1,a,b,c,d\n":          `line 2: generation "-1": not a number up to 65535`,
		good + "shim,+1,a,b,c,d\n":          `line 2: generation "+1": not a number up to 65535`,
		good + "shim, 1,a,b,c,d\n":          `line 2: generation " 1": not a number up to 65535`,
		good + "shim,4 ,a,b,c,d\n":          `line 2: generation "4 ": not a number up to 65535`,
		good + "shim,0x4,a,b,c,d\n":         `line 2: generation "0x4": not a number up to 65535`,
		good + "shim,65540,a,b,c,d\n":       `line 2: generation "65540": not a number up to 65535`, // shim: 4
		good + "\x00shim,1,a,b,c,d\n":       "NUL at 15: there is text behind it",
		good + "\x00\x00\x00\x00\x00\n\x00": "NUL at 15: there is text behind it",
		strings.Repeat(good, 1025):          "line 1025: more than 1024 lines",
		strings.Repeat("\n", 64<<10+1):      "65537 bytes: more than 65536",
	} {
		image, err := sbat.ParseImage([]byte(text))
		wantError(t, err, want)
		if image != nil {
			t.Errorf("%.80q: %+v", text, image)
		}
	}
	for text, want := range map[string]string{
		"sbat\n":                  "line 1: 1 fields: wants 2",
		"sbat,1,2021030218,x":     "line 1: 4 fields: more than 3",
		"shim,1\nsbat,1\n":        `line 1: component "shim": the first one has to be "sbat"`,
		"sbat,1\nshim,\n":         "line 2: field 2 is empty",
		"sbat,1\nshim,70000\n":    `line 2: generation "70000": not a number up to 65535`,
		"sbat,1\n\x00shim,9\n":    "NUL at 7: there is text behind it",
		"\xff\xfes\x00b\x00a\x00": "NUL at 3: there is text behind it",
	} {
		level, err := sbat.ParseLevel([]byte(text))
		wantError(t, err, want)
		if level != nil {
			t.Errorf("%.80q: %+v", text, level)
		}
	}
}

func image(t *testing.T, sections ...ukitest.Section) []byte {
	t.Helper()
	b, err := ukitest.Build(ukitest.Minimal("262.1-1"), sections...)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func readImage(t *testing.T, b []byte) ([]sbat.Entry, error) {
	t.Helper()
	f, err := uki.Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	return sbat.ReadImage(f)
}

func TestReadImage(t *testing.T) {
	t.Parallel()
	section := ukitest.Section{Name: ".sbat", Data: []byte(stub)}
	b := image(t, section)
	if entries, err := readImage(t, b); err != nil || len(entries) != 3 {
		t.Errorf("%+v, %v", entries, err)
	}
	if entries, err := readImage(t, image(t)); err != nil || entries != nil {
		t.Errorf("%+v, %v", entries, err)
	}
	_, err := readImage(t, image(t, section, section))
	wantError(t, err, "section .sbat: there are two")
	_, err = readImage(t, image(t, ukitest.Section{Name: ".sbat", Data: []byte(stub), VirtualSize: 5000}))
	wantError(t, err, "section .sbat: the file has 512 bytes of 5000")
	_, err = readImage(t, image(t, ukitest.Section{Name: ".sbat", Data: make([]byte, 64<<10+1)}))
	wantError(t, err, "section .sbat: 66048 bytes: more than 65536")

	// what shim reads in the padding, which is not in memory
	i := bytes.Index(b, []byte(stub))
	copy(b[i+len(stub):], "systemd-stub,0,a,b,c,d\n")
	if entries, err := readImage(t, b); err != nil || len(entries) != 4 {
		t.Errorf("%+v, %v", entries, err)
	}
	b[i+len(stub)] = 0
	_, err = readImage(t, b)
	wantError(t, err, fmt.Sprintf("section .sbat: NUL at %d: there is text behind it", len(stub)))

	// no bytes in the file
	b = image(t, section)
	h := bytes.Index(b, []byte(".sbat\x00"))
	binary.LittleEndian.PutUint32(b[h+16:], 0)
	if entries, err := readImage(t, b); err != nil || entries != nil {
		t.Errorf("%+v, %v", entries, err)
	}
}

func FuzzSBAT(f *testing.F) {
	for _, s := range []string{stub, latest, "sbat,1,a,b,c,d\n", "a,65535,b,c,d,e\r\nb,0,b,c,d,e\x00", "\xef\xbb\xbfsbat,1,2021030218\n", "sbat,01\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if image, err := sbat.ParseImage(b); err == nil {
			var text strings.Builder
			for _, e := range image {
				fmt.Fprintf(&text, "%s,%d,%s,%s,%s,%s\n", e.Component, e.Generation, e.Vendor, e.Package, e.Version, e.URL)
			}
			again, err := sbat.ParseImage([]byte(text.String()))
			if err != nil && !strings.Contains(err.Error(), "more than") || err == nil && fmt.Sprint(again) != fmt.Sprint(image) && !strings.Contains(text.String(), "\xef\xbb\xbf") {
				t.Fatalf("%+v, then %+v (%v)", image, again, err)
			}
			// the image itself as a level revokes nothing, one generation more does
			var level sbat.Level
			for _, e := range image {
				level = append(level, sbat.Requirement{Component: e.Component, Generation: e.Generation})
			}
			if e, r, yes := level.Revoked(image[:min(1, len(image))]); yes {
				t.Fatalf("%+v, %+v", e, r)
			}
			if len(image) > 0 && image[0].Generation < 65535 {
				level[0].Generation++
				if _, _, yes := level.Revoked(image); !yes {
					t.Fatalf("not revoked: %+v", level)
				}
			}
		}
		if level, err := sbat.ParseLevel(b); err == nil && len(level) > 0 && level[0].Component != "sbat" {
			t.Fatalf("%+v", level)
		}
	})
}
