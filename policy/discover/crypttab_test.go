package discover

// /etc/crypttab as systemd-cryptsetup-generator 262 reads it: testdata/crypttab.units
// is what it made of testdata/crypttab (record.sh). It does not prove what
// systemd-cryptsetup does with options, but for how they are split.

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/mkexec/mkexec/policy"
)

func readTestdata(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// unit says what an entry says in the words of crypttab.units.
func (e *entry) unit() string {
	how := "cryptsetup.target.requires"
	if e.yes("nofail", "fail") {
		how = "cryptsetup.target.wants"
	}
	if e.has("_netdev") {
		how = "remote-" + how
	}
	if e.yes("noauto", "auto") {
		how = "-"
	}
	if e.inInitrd() {
		how += " initrd"
	}
	return fmt.Sprintf("'%s' '%s'; %s", e.name, e.device, how)
}

func TestGenerator(t *testing.T) {
	t.Parallel()
	want := map[string][3]string{} // name: unit, key, options
	for l := range strings.Lines(readTestdata(t, "crypttab.units")) {
		attach, how, _ := strings.Cut(strings.TrimSpace(l), "; ")
		args := strings.Split(strings.TrimSuffix(strings.TrimPrefix(attach, "'"), "'"), "' '")
		want[args[0]] = [3]string{fmt.Sprintf("'%s' '%s'; %s", args[0], args[1], how), args[2], args[3]}
	}
	entries := parseCrypttab([]byte(readTestdata(t, "crypttab")))
	if len(entries) != len(want)+1 {
		t.Errorf("%d entries, %d units", len(entries), len(want))
	}
	for _, e := range entries {
		if e.name == "" { // the generator says that it does not understand this line
			if e.line != 28 || e.err == nil || e.err.Error() != `/etc/crypttab: line 28: "one": no device: cannot tell` {
				t.Errorf("line %d: %v", e.line, e.err)
			}
			continue
		}
		w := want[e.name]
		if e.name == "backslash" { // what is refused here is not known to be right there
			const text = `/etc/crypttab: line 16: options "tpm2-device=auto,tpm2-signature=/a\\\\b\\c\\": a backslash that is not before a comma: cannot tell`
			if e.err == nil || e.err.Error() != text {
				t.Errorf("backslash: %v", e.err)
			}
			continue
		}
		if e.err != nil || e.unit() != w[0] {
			t.Errorf("line %d: %s, %v, want %s", e.line, e.unit(), e.err, w[0])
		}
		// the generator lets systemd-cryptsetup pass over "none" and what is relative; keys on devices it mounts
		if key := w[1]; path.IsAbs(key) != (e.key != "") || e.name != "keydev" && path.IsAbs(key) && e.key != key {
			t.Errorf("line %d: key %q, want %q", e.line, e.key, key)
		}
		// it puts the last header= at the end, and mounts one that is on a device
		header, err := e.header()
		_, last, ok := strings.Cut(w[2], "header=")
		switch {
		case e.name == "headerdev":
			if want := `header="/h.img:LABEL=x": on another device: cannot tell`; err == nil || err.Error() != want || !ok {
				t.Errorf("headerdev: %v, want %s", err, want)
			}
		case !ok && header != e.device || ok && header != last || err != nil:
			t.Errorf("line %d: header %q, %v, want %q", e.line, header, err, last)
		}
		if options := strings.ReplaceAll(strings.Join(e.options, ","), "/a,b", `/a\,b`); !ok && strings.ReplaceAll(options, ",,", ",") != w[2] {
			t.Errorf("line %d: options %q, want %q", e.line, options, w[2])
		}
	}
}

func TestOptions(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		options  string
		extends  string
		isLUKS   bool
		optional bool
	}{
		{"", "[]", true, false},
		{"tpm2-measure-pcr=yes", "[15]", true, false},
		{"tpm2-measure-pcr=True", "[15]", true, false},
		{"tpm2-measure-pcr=no", "[]", true, false},
		{"tpm2-measure-pcr=yes,tpm2-measure-pcr=off", "[]", true, false},
		{"tpm2-measure-pcr=1", "[1]", true, false},
		{"tpm2-measure-pcr=0x0b", "[11]", true, false},
		{"tpm2-measure-pcr=23", "[23]", true, false},
		{"tpm2-measure-pcr=24", "[]", true, false},
		{"tpm2-measure-pcr=9,tpm2-measure-pcr=24,tpm2-measure-pcr=maybe", "[9]", true, false},
		{"tpm2-measure-pcr", "[]", true, false},
		{"tmp=ext4", "[]", false, false},
		{"swap,luks", "[]", false, false},
		{"tcrypt-hidden", "[]", false, false},
		{"bitlk,nofail", "[]", false, true},
		{"plainly,tmpfs,NOFAIL", "[]", true, false},
		{"noauto", "[]", true, true},
		{"noauto,auto", "[]", true, false},
		{"auto,noauto", "[]", true, true},
	} {
		e := parseEntry(1, "x /dev/x - "+test.options)
		if got := fmt.Sprint(e.measured()); got != test.extends || e.isLUKS() != test.isLUKS || e.isOptional() != test.optional {
			t.Errorf("%s: extends %s, LUKS %v, optional %v", test.options, got, e.isLUKS(), e.isOptional())
		}
	}
}

func TestCrypttabRefuses(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ text, want string }{
		{"a", `line 1: "a": no device`},
		{"#\n\n \t \na\t", `line 4: "a": no device`},
		{strings.Repeat("a", 100), `line 1: "` + strings.Repeat("a", 80) + `": no device`},
		{"a sda3", `line 1: device "sda3": not an absolute path`},
		{"a ID=5", `line 1: device "ID=5": not an absolute path`},
		{"a uuid=5", `line 1: device "uuid=5": not an absolute path`},
		{"a /dev/x\x00", `line 1: "a /dev/x\x00": a control character`},
		{"a /dev/x - luks\rb /dev/y", `line 1: "a /dev/x - luks\rb /dev/y": a control character`},
		{`a /dev/x - tpm2-signature=\`, `line 1: options "tpm2-signature=\\": a backslash that is not before a comma`},
		{`a /dev/x - x\\,y`, `line 1: options "x\\\\,y": a backslash that is not before a comma`},
		{`a /dev/x - x\x2c`, `line 1: options "x\\x2c": a backslash that is not before a comma`},
	} {
		entries := parseCrypttab([]byte(test.text))
		if len(entries) != 1 || entries[0].err == nil || entries[0].err.Error() != "/etc/crypttab: "+test.want+": cannot tell" || !errors.Is(entries[0].err, policy.ErrCannotTell) {
			t.Errorf("%q: %+v, want %s", test.text, entries, test.want)
		}
	}
}

// TestDeviceNode: more of udev's escapes than the generator was asked for. The
// rule is that of systemd 262, src/shared/device-nodes.c.
func TestDeviceNode(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"/dev/sda1":           "/dev/sda1",
		`LABEL="`:             `/dev/disk/by-label/\x22`,
		`LABEL=""`:            "/dev/disk/by-label/",
		`LABEL="x'`:           `/dev/disk/by-label/\x22x\x27`,
		"LABEL=a\xffb":        `/dev/disk/by-label/a\xffb`,
		"LABEL=a\xe4\xbd\xa0": "/dev/disk/by-label/a\xe4\xbd\xa0",
		"LABEL=../../etc":     `/dev/disk/by-label/..\x2f..\x2fetc`,
		"PARTUUID=A-1":        "/dev/disk/by-partuuid/A-1",
	} {
		if got := deviceNode(text); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}

// FuzzCrypttab: every entry is one line, with a name and an absolute path or an
// error, and its fields written as a line again give the same entry.
func FuzzCrypttab(f *testing.F) {
	f.Add([]byte(readTestdata(f, "crypttab")))
	f.Add([]byte("a /dev/x /k noauto,a\\,b,,\nb\x00\nc LABEL=\"x\" - \\"))
	f.Fuzz(func(t *testing.T, data []byte) {
		entries := parseCrypttab(data)
		if n := bytes.Count(data, []byte("\n")) + 1; len(entries) > n {
			t.Fatalf("%d entries in %d lines", len(entries), n)
		}
		for _, e := range entries {
			if e.err != nil {
				if !errors.Is(e.err, policy.ErrCannotTell) || len(e.err.Error()) > 600 {
					t.Fatalf("%v", e.err)
				}
				continue
			}
			if e.name == "" || !path.IsAbs(e.device) || strings.ContainsAny(e.name+e.device, " \t\n\x00") {
				t.Fatalf("%+v", e)
			}
			key := e.key
			if key == "" {
				key = "-"
			}
			fields := []string{e.name, e.device, key}
			if e.options != nil {
				var options []string
				for _, o := range e.options {
					options = append(options, strings.ReplaceAll(o, ",", `\,`))
				}
				fields = append(fields, strings.Join(options, ","))
			}
			again := parseEntry(e.line, strings.Join(fields, " "))
			if len(fields) == 4 && fields[3] == "" {
				again.options = e.options
			}
			if !reflect.DeepEqual(e, again) || !slices.Equal(e.options, again.options) {
				t.Fatalf("%+v, again %+v", e, again)
			}
			e.measured()
			if h, err := e.header(); err == nil && !path.IsAbs(h) {
				t.Fatalf("header %q", h)
			}
		}
	})
}
