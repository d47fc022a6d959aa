package main

// A kexec in a userspace log, compared with the image that was started. The
// records are written by package eventlog, whose tests have systemd-pcrlock read
// them. That boot and load write them is for the VM tests to show.

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/eventlog"
	"github.com/mkexec/mkexec/measure/stub"
	"github.com/mkexec/mkexec/measure/uki"
)

// goldenSide is an image of the golden boots, started by kexec.
func goldenSide(t *testing.T, name string) *side {
	t.Helper()
	data, err := os.ReadFile("../../measure/stub/testdata/golden/" + name + "/uki.efi")
	if err != nil {
		t.Fatal(err)
	}
	f, err := uki.Open(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	b, err := stub.Load(f, stub.Options{Via: stub.ViaKexec, Profile: "1", Cmdline: new("x=1")})
	if err != nil {
		t.Fatal(err)
	}
	p, err := measure.Predict(&b.Image, measure.Options{Base: measure.Zero(sha256Only, measure.StubPCRs()...)})
	if err != nil {
		t.Fatal(err)
	}
	s, err := imageSide(name, b, p)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// records writes events as boot does.
func records(t *testing.T, image string, events ...sideEvent) (log []byte) {
	t.Helper()
	stamp := eventlog.Stamp{BootID: strings.Repeat("0f", 16), Image: measure.SHA256.Sum([]byte(image))}
	for _, e := range events {
		b, err := stamp.Kexec(e.Event)
		if err != nil {
			t.Fatal(err)
		}
		log = append(log, b...)
	}
	return log
}

func words(t *testing.T, list ...string) (log []byte) {
	t.Helper()
	for _, w := range list {
		b, err := eventlog.Stamp{BootID: strings.Repeat("0f", 16)}.Word(w, sha256Only)
		if err != nil {
			t.Fatal(err)
		}
		log = append(log, b...)
	}
	return log
}

func TestDiffKexec(t *testing.T) {
	t.Parallel()
	image := goldenSide(t, "profiles_1")
	earlier := slices.Concat(words(t, "enter-initrd"), records(t, "another", image.events[:3]...), words(t, "enter-initrd", "final"))
	log := slices.Concat(earlier, records(t, "this", image.events...), words(t, "enter-initrd", "leave-initrd"))
	s, err := kexecSide("x.log", log, sha256Only)
	if err != nil {
		t.Fatal(err)
	}
	if c := compared(t, image, s); !c.Same || len(c.Events) != len(image.events) || strings.Join(s.words, " ") != "enter-initrd leave-initrd" {
		t.Errorf("%+v, words %q", c, s.words)
	}
	// Another one directly before is another one.
	if s, err := kexecSide("x.log", slices.Concat(records(t, "another", image.events...), records(t, "this", image.events...)), sha256Only); err != nil || !compared(t, image, s).Same {
		t.Errorf("two kexecs: %v", err)
	}
	// One digest, and it is another image.
	changed := slices.Clone(image.events)
	last := &changed[len(changed)-1]
	last.Digests = map[measure.Bank]measure.Digest{measure.SHA256: measure.SHA256.Sum([]byte("y"))}
	s, err = kexecSide("x.log", slices.Concat(earlier, records(t, "this", changed...)), sha256Only)
	if err != nil {
		t.Fatal(err)
	}
	if c := compared(t, image, s); c.Same || len(c.Parts) != 1 || !strings.Contains(c.Parts[0].String(), last.what) {
		t.Errorf("one digest changed: %+v", c.Parts)
	}
}

func TestDiffKexecHostile(t *testing.T) {
	t.Parallel()
	image := goldenSide(t, "profiles_1")
	good := records(t, "this", image.events...)
	foreign := image.events[0]
	foreign.PCR = 7
	for want, c := range map[string]struct {
		log   []byte
		banks []measure.Bank
	}{
		"userspace log: it has no kexec by mkexec":           {words(t, "enter-initrd"), sha256Only},
		"userspace log: kexec: PCR 7: not one of [11 12 13]": {records(t, "this", foreign), sha256Only},
		"no bank sha1 (it has: sha256)":                      {good, []measure.Bank{measure.SHA1}},
		"userspace log: record 1 at offset 0: ":              {good[:40], sha256Only},
	} {
		if _, err := kexecSide("x.log", c.log, c.banks); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}
