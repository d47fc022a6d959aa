package bls

import (
	"strings"
	"testing"
)

// Patterns, counters and text. Patterns of other characters than the tables have
// are not compared with anything.

// TestMatch compares with fnmatch(3) of glibc (testdata/README.md). Patterns
// that systemd-boot itself was given are in sdboot-262.json.
func TestMatch(t *testing.T) {
	t.Parallel()
	for _, r := range readTable(t, "testdata/fnmatch.tsv", 400) {
		if got := match(r[0], r[2]); got != (r[1] == "1") {
			t.Errorf("%q %q: %v", r[0], r[2], got)
		}
	}
	for _, pattern := range []string{"[", "[a", "a[", `[a\`, "[a-"} {
		if match(pattern, pattern) {
			t.Errorf("%q matches itself", pattern)
		}
	}
}

// TestCounter: names and what they become, from the comment in systemd's
// src/boot/boot.c and from sdboot-262.json.
func TestCounter(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, suffix, want string
		counter            *Counter
	}{
		{"foobar+3.efi", ".efi", "foobar.efi", &Counter{3, 0}},
		{"foobar+2-1.efi", ".efi", "foobar.efi", &Counter{2, 1}},
		{"foobar+4-0.EFI", ".efi", "foobar.EFI", &Counter{4, 0}},
		{"two+1+2.conf", ".conf", "two+1.conf", &Counter{2, 0}},
		{"x+2147483647.conf", ".conf", "x.conf", &Counter{2147483647, 0}},
		{"x+2147483648.conf", ".conf", "x+2147483648.conf", nil},
		{"x+99999999999999999999.conf", ".conf", "x+99999999999999999999.conf", nil},
		{"odd+x.conf", ".conf", "odd+x.conf", nil},
		{"odd2+1-x.conf", ".conf", "odd2+1-x.conf", nil},
		{"odd3+5-6-7.conf", ".conf", "odd3+5-6-7.conf", nil},
		{"x+.conf", ".conf", "x+.conf", nil},
		{"x+1-.conf", ".conf", "x+1-.conf", nil},
		{"x+-1.conf", ".conf", "x+-1.conf", nil},
		{"x++1.conf", ".conf", "x+.conf", &Counter{1, 0}},
		{"x+1.conf", ".efi", "x+1.conf", nil},
		{"x+1.conf.conf", ".conf", "x+1.conf.conf", nil},
		{"+1.conf", ".conf", ".conf", &Counter{1, 0}},
		{".conf", ".conf", ".conf", nil},
	} {
		got, counter := splitCounter(c.name, c.suffix)
		if got != c.want || (counter == nil) != (c.counter == nil) || counter != nil && *counter != *c.counter {
			t.Errorf("%s: %s %v", c.name, got, counter)
		}
	}
}

// FuzzType1: a text gives an entry or a reason; the text written anew from what
// was read gives the same entry.
func FuzzType1(f *testing.F) {
	for _, g := range goldens(f) {
		for _, text := range g.ESP.Conf {
			f.Add(text)
		}
	}
	f.Add("linux /a\ndevicetree /d\ndevicetree-overlay a b\nextra x\narchitecture x64\nuki y\n")
	f.Fuzz(func(t *testing.T, text string) {
		pairs, err := parsePairs(text, " \t")
		if err != nil {
			return
		}
		var b strings.Builder
		for _, p := range pairs {
			if p.key == "" || strings.ContainsAny(p.key+p.value, "\r\n\x00") || strings.ContainsAny(p.key, " \t") {
				t.Fatalf("pair %q %q", p.key, p.value)
			}
			b.WriteString(p.key + "\t\"" + p.value + "\"\n")
		}
		again, err := parsePairs(b.String(), " \t")
		if err != nil || len(again) != len(pairs) {
			t.Fatalf("%q: %v", b.String(), err)
		}
		var one, two Entry
		err1, err2 := one.parse(pairs, "amd64"), two.parse(again, "amd64")
		if (err1 == nil) != (err2 == nil) {
			t.Fatalf("%q: %v, then %v", text, err1, err2)
		}
		if one.Options != two.Options || one.Linux != two.Linux || one.Title != two.Title || one.Profile != two.Profile {
			t.Errorf("%q: %+v, then %+v", text, one, two)
		}
		if err1 != nil {
			return
		}
		programs := 0
		for _, p := range []string{one.Linux, one.UKI, one.EFI, one.UKIURL} {
			if p != "" {
				programs++
			}
		}
		if programs > 1 {
			t.Errorf("%q: %+v", text, one)
		}
		for _, name := range append(append([]string{one.Linux, one.UKI, one.EFI}, one.Initrds...), one.Extra...) {
			if strings.HasPrefix(name, "/") || strings.Contains("/"+name+"/", "/../") {
				t.Errorf("%q: path %q", text, name)
			}
		}
	})
}
