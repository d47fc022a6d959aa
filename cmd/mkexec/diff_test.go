package main

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mkexec/mkexec/measure"
)

// What diff makes of logs and predictions that no golden has: phase words,
// repetitions, damage. The logs begin as the real ones do (measure/stub's golden
// README.md). Not proved here: that the alignment is what a person would have
// chosen, only that nothing is lost or called the same that is not.

const goldenDir = "../../measure/stub/testdata/golden"

// sha256Only is the banks that the tests compare in.
var sha256Only = []measure.Bank{measure.SHA256}

// firstStart returns a golden log up to where the image came back to the firmware,
// and what goes on behind that.
func firstStart(t testing.TB, name string) (start, rest []byte) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(goldenDir, name, "eventlog.bin"))
	if err != nil {
		t.Fatal(err)
	}
	// The record ends with the words; before them are its head, four digests and the size.
	end := bytes.Index(data, []byte(returned))
	begin := end - 4 - (2 + 20) - (2 + 32) - (2 + 48) - (2 + 64) - 12
	if begin < 0 || binary.LittleEndian.Uint32(data[begin+4:]) != uint32(measure.EventEFIAction) {
		t.Fatalf("%s: no return to the firmware", name)
	}
	return data[:begin:begin], data[begin:]
}

// logged returns the record of an event with the digests of what is hashed.
func logged(pcr measure.PCR, typ measure.EventType, hashed, data string) []byte {
	b := binary.LittleEndian.AppendUint32(nil, uint32(pcr))
	b = binary.LittleEndian.AppendUint32(b, uint32(typ))
	b = binary.LittleEndian.AppendUint32(b, 4)
	for _, bank := range measure.Banks() {
		b = binary.LittleEndian.AppendUint16(b, uint16(bank))
		b = append(b, bank.Sum([]byte(hashed))...)
	}
	b = binary.LittleEndian.AppendUint32(b, uint32(len(data)))
	return append(b, data...)
}

func word(pcr measure.PCR, w string) []byte { return logged(pcr, measure.EventIPL, w, w) }

func parsed(t testing.TB, log []byte, whole bool) *side {
	t.Helper()
	s, err := logSide("log", log, sha256Only, whole)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func compared(t testing.TB, a, b *side) *comparison {
	t.Helper()
	c, err := compare(a, b, sha256Only)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestPhaseWords: words at the end of a log are told but not compared with an
// image; in the middle, and between two logs, they count.
func TestPhaseWords(t *testing.T) {
	t.Parallel()
	start, rest := firstStart(t, "plain_262")
	plain := parsed(t, start, false)
	all := slices.Concat(start, word(11, "enter-initrd"), word(12, "os-separator"), word(13, "os-separator"), word(11, "leave-initrd"))
	for name, log := range map[string][]byte{"at the end": all, "before a later start": slices.Concat(all, rest)} {
		s := parsed(t, log, false)
		if got := strings.Join(s.words, " "); got != "enter-initrd os-separator os-separator leave-initrd" {
			t.Errorf("%s: words %q", name, got)
		}
		if c := compared(t, plain, s); !c.Same || len(c.Events) != 12 {
			t.Errorf("%s: %+v", name, c)
		}
	}
	c := compared(t, parsed(t, start, true), parsed(t, all, true))
	if c.Same || len(c.Parts) != 3 || c.Parts[0].String() != "PCR 11 parts at event 13 of B, word enter-initrd, which only B has" {
		t.Errorf("two logs: %+v", c.Parts)
	}
	middle := slices.Concat(start, word(11, "enter-initrd"), logged(12, measure.EventIPL, "q\x00\x00\x00", "q\x00\x00\x00"))
	c = compared(t, plain, parsed(t, middle, false))
	if c.Same || len(c.Parts) != 2 || c.Parts[1].String() != "PCR 12 parts at event 14 of B, a command line, which only B has" {
		t.Errorf("in the middle: %+v", c.Parts)
	}
	// One letter less is no word, and what claims to be one need not be.
	for _, other := range [][]byte{word(11, "enter-initr"), logged(11, measure.EventIPL, "x", "enter-initrd")} {
		if s := parsed(t, slices.Concat(start, other), false); s.words != nil || compared(t, plain, s).Same {
			t.Errorf("%q is taken for a word", other)
		}
	}
}

// TestLaterStart: only what comes after the return to the firmware is later.
func TestLaterStart(t *testing.T) {
	t.Parallel()
	start, rest := firstStart(t, "plain_262")
	whole := slices.Concat(start, rest)
	if s := parsed(t, whole, false); len(s.events) != 12 || s.later != 12 {
		t.Errorf("%d events, %d later ones", len(s.events), s.later)
	}
	if s := parsed(t, whole, true); len(s.events) != 24 || s.later != 0 {
		t.Errorf("as a whole: %d events, %d later ones", len(s.events), s.later)
	}
	// One byte of the record, and it is no return.
	i := bytes.Index(whole, []byte(returned))
	whole[i] ^= 1
	if s := parsed(t, whole, false); len(s.events) != 24 || s.later != 0 {
		t.Errorf("with another record: %d events, %d later ones", len(s.events), s.later)
	}
	// The first boot option returns before anything is measured.
	first := slices.Concat(start[:65+12], []byte{}) // the Spec ID
	first = append(first, logged(4, measure.EventEFIAction, returned, returned)...)
	if s := parsed(t, slices.Concat(first, word(11, "x")), false); len(s.events) != 1 || s.later != 0 {
		t.Errorf("an empty start: %d events, %d later ones", len(s.events), s.later)
	}
}

// TestAlign is a table of events, a letter each: the upper-case letter is another
// digest of the same thing.
func TestAlign(t *testing.T) {
	t.Parallel()
	events := func(s string) (list []*sideEvent) {
		for i, r := range s {
			list = append(list, &sideEvent{
				Event:  measure.Event{PCR: 11, Digests: map[measure.Bank]measure.Digest{measure.SHA256: measure.SHA256.Sum([]byte(string(r)))}},
				number: i + 1, class: strings.ToLower(string(r)),
			})
		}
		return list
	}
	for _, c := range []struct{ a, b, want string }{
		{"", "", ""},
		{"abc", "abc", "abc"},
		{"abc", "ac", "a-bc"},
		{"ac", "abc", "a+bc"},
		{"abc", "aBc", "a!bc"},
		{"ab", "cd", "-a-b+c+d"},
		{"aab", "aAb", "a!ab"},
		{"aAb", "Ab", "-aAb"}, // the same digest counts for more than the first place
		{"abcd", "bcda", "-abcd+a"},
		{"ab", "ba", "-ab+a"},
	} {
		pairs, err := align(events(c.a), events(c.b), sha256Only)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, p := range pairs {
			one := p.a
			if one == nil {
				one = p.b
			}
			source := c.a
			if p.a == nil {
				source = c.b
			}
			got += map[string]string{isSame: "", isDifferent: "!", onlyA: "-", onlyB: "+"}[p.state] + source[one.number-1:one.number]
		}
		if got != c.want {
			t.Errorf("%s, %s: %s, want %s", c.a, c.b, got, c.want)
		}
	}
	if _, err := align(events(strings.Repeat("a", maxEvents+1)), nil, sha256Only); err == nil || err.Error() != "1001 events: more than 1000" {
		t.Errorf("too many: %v", err)
	}
}

func TestDiffText(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ a, b, words, lines string }{
		{"a b c\n", "a x c\n", "-b|+x", "@@ -1,1 +1,1 @@|-a b c|+a x c"},
		{"a b", "a  b", alike, "@@ -1,1 +1,1 @@|-a b|\\ No newline at end of file|+a  b|\\ No newline at end of file"},
		{"a\n", "a\n", alike, alike},
		{"", "-q", "+-q", "@@ -0,0 +1,1 @@|+-q|\\ No newline at end of file"},
		{"", " ", alike, "@@ -0,0 +1,1 @@|+ |\\ No newline at end of file"},
		{"a b", "b a", "-a|+a", "@@ -1,1 +1,1 @@|-a b|\\ No newline at end of file|+b a|\\ No newline at end of file"},
	} {
		if got := strings.Join(diffWords(c.a, c.b), "|"); got != c.words {
			t.Errorf("words of %q, %q: %s, want %s", c.a, c.b, got, c.words)
		}
		if got := strings.Join(diffLines(c.a, c.b), "|"); got != c.lines {
			t.Errorf("lines of %q, %q: %s, want %s", c.a, c.b, got, c.lines)
		}
	}
}

// FuzzDiff reads a log or a prediction. What is accepted is the same as itself,
// and against a real log every event of both sides is told once, in order, and a
// PCR is the same only if all of its events are.
func FuzzDiff(f *testing.F) {
	start, rest := firstStart(f, "profiles_1")
	f.Add(start)
	f.Add(slices.Concat(start, word(11, "enter-initrd"), rest))
	f.Add([]byte(`{"version":1,"base":"tpm","events":[{"pcr":11,"type":"EV_IPL","digests":{"sha256":"00"},"description":"section .linux: name"}],
		"phases":[{"phase":"","pcrs":{"sha256":{"11":"` + strings.Repeat("0", 64) + `","12":"` + strings.Repeat("0", 64) + `","13":"` + strings.Repeat("0", 64) + `"}}}]}`))
	real := parsed(f, start, false)
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := logSide("x", data, sha256Only, false)
		if err != nil {
			if s, err = predictionSide("x", data, sha256Only); err != nil {
				return
			}
		}
		if c, err := compare(s, s, sha256Only); err == nil && (!c.Same || len(c.Parts) > 0) {
			t.Errorf("not the same as itself: %+v", c.Parts)
		}
		c, err := compare(real, s, sha256Only)
		if err != nil {
			return
		}
		last := map[measure.PCR][2]int{}
		a, b := 0, 0
		same := map[measure.PCR]bool{11: true, 12: true, 13: true}
		for _, e := range c.Events {
			at := last[e.PCR]
			if e.A != nil {
				a++
				if e.A.Event <= at[0] {
					t.Errorf("event %d of A after %d", e.A.Event, at[0])
				}
				at[0] = e.A.Event
			}
			if e.B != nil {
				b++
				if e.B.Event <= at[1] {
					t.Errorf("event %d of B after %d", e.B.Event, at[1])
				}
				at[1] = e.B.Event
			}
			last[e.PCR] = at
			same[e.PCR] = same[e.PCR] && e.State == isSame
		}
		if a != len(real.events) || b != len(s.events) {
			t.Errorf("%d and %d events, want %d and %d", a, b, len(real.events), len(s.events))
		}
		for _, p := range c.PCRs {
			if s.base == "zero" && p.Same != same[p.PCR] {
				t.Errorf("PCR %d: same %v, its events %v", p.PCR, p.Same, same[p.PCR])
			}
		}
		var out bytes.Buffer
		if err := c.print(&out); err != nil || strings.ContainsAny(out.String(), "\x00\x1b\a\r") {
			t.Errorf("prints %q: %v", out.String(), err)
		}
	})
}
