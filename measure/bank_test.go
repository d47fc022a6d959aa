package measure_test

// These tests cover names, values and arithmetic of PCRs. That a TPM extends as
// PCRs.Extend does is for the tests of measure/tpm to show.

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/mkexec/mkexec/measure"
)

func wantError(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || err.Error() != want {
		t.Errorf("error %v\nwant  %s", err, want)
	}
}

func TestParseBank(t *testing.T) {
	for name, size := range map[string]int{"sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64} {
		b, err := measure.ParseBank(name)
		if err != nil || b.String() != name || b.Size() != size || b.New().Size() != size {
			t.Errorf("%s: %v of %d bytes, %v", name, b, b.Size(), err)
		}
	}
	for _, name := range []string{"", "SHA256", "sha-256", "sha256 ", "md5", "sm3_256", "0x000b"} {
		_, err := measure.ParseBank(name)
		wantError(t, err, `bank "`+name+`": unknown (known: sha1 sha256 sha384 sha512)`)
	}
	_, err := measure.ParseBank(strings.Repeat("x", 100))
	wantError(t, err, `bank "`+strings.Repeat("x", 32)+`": unknown (known: sha1 sha256 sha384 sha512)`)
}

func TestBankUnknown(t *testing.T) {
	sm3 := measure.Bank(0x12)
	if sm3.String() != "alg_0x0012" || sm3.Size() != 0 {
		t.Errorf("%v of %d bytes", sm3, sm3.Size())
	}
	_, err := sm3.MarshalText()
	wantError(t, err, "bank alg_0x0012: unknown")
	defer func() {
		if got := recover(); got != "measure: no hash for alg_0x0012" {
			t.Errorf("panic %v", got)
		}
	}()
	sm3.New()
}

func TestBankJSON(t *testing.T) {
	in := map[measure.Bank]measure.Digest{measure.SHA256: {1, 0xab}, measure.SHA1: {}}
	b, err := json.Marshal(in)
	if err != nil || string(b) != `{"sha1":"","sha256":"01ab"}` {
		t.Fatalf("%s, %v", b, err)
	}
	var out map[measure.Bank]measure.Digest
	if err := json.Unmarshal(b, &out); err != nil || !bytes.Equal(out[measure.SHA256], in[measure.SHA256]) || len(out) != 2 {
		t.Errorf("%v, %v", out, err)
	}
	if err := json.Unmarshal([]byte(`{"md5":""}`), &out); err == nil || !strings.Contains(err.Error(), `bank "md5": unknown`) {
		t.Errorf("unknown bank: %v", err)
	}
}

func TestParseDigest(t *testing.T) {
	hex32 := strings.Repeat("aB", 32)
	d, err := measure.ParseDigest(measure.SHA256, hex32)
	if err != nil || d.String() != strings.ToLower(hex32) {
		t.Errorf("%v, %v", d, err)
	}
	for s, want := range map[string]string{
		"":           `digest "": 0 bytes, but sha256 has 32`,
		"00":         `digest "00": 1 bytes, but sha256 has 32`,
		"0":          `digest "0": not hexadecimal`,
		"xx":         `digest "xx": not hexadecimal`,
		"0x" + hex32: `digest "0x` + hex32 + `": not hexadecimal`,
		hex32 + "00": `digest "` + hex32 + `00": 33 bytes, but sha256 has 32`,
		hex32 + "\n": `digest "` + hex32 + `\n": not hexadecimal`,
		hex32[:40]:   `digest "` + hex32[:40] + `": 20 bytes, but sha256 has 32`,
	} {
		_, err := measure.ParseDigest(measure.SHA256, s)
		wantError(t, err, want)
	}
	_, err = measure.ParseDigest(measure.SHA1, strings.Repeat("z", 500))
	wantError(t, err, `digest "`+strings.Repeat("z", 140)+`": not hexadecimal`)
}

func TestParsePhase(t *testing.T) {
	for s, words := range map[string]int{
		"": 0, ":": 0, "enter-initrd": 1, "enter-initrd:leave-initrd:sysinit:ready:shutdown:final": 6,
		"enter-initrd:factory-reset": 2, "storage-target-mode-start:storage-target-mode-stop": 2, "ready:ready": 2,
	} {
		p, err := measure.ParsePhase(s)
		if err != nil || len(p.Words()) != words {
			t.Errorf("%q: %q, %v", s, p.Words(), err)
		}
	}
	const known = ` (known: enter-initrd leave-initrd sysinit ready shutdown final factory-reset storage-target-mode-start storage-target-mode-stop)`
	for s, want := range map[string]string{
		"enter_initrd":        `phase path "enter_initrd": unknown word "enter_initrd"` + known,
		"enter-initrd:":       `phase path "enter-initrd:": unknown word ""` + known,
		":enter-initrd":       `phase path ":enter-initrd": unknown word ""` + known,
		"enter-initrd::ready": `phase path "enter-initrd::ready": unknown word ""` + known,
		"enter-initrd:Ready":  `phase path "enter-initrd:Ready": unknown word "Ready"` + known,
		"enter-initrd,ready":  `phase path "enter-initrd,ready": unknown word "enter-initrd,ready"` + known,
		"os-separator":        `phase path "os-separator": unknown word "os-separator"` + known,
	} {
		_, err := measure.ParsePhase(s)
		wantError(t, err, want)
	}
	for _, p := range measure.DefaultPhases() {
		if q, err := measure.ParsePhase(string(p)); err != nil || q != p {
			t.Errorf("default phase %q: %v", p, err)
		}
	}
}

func event(pcr measure.PCR, text string, banks ...measure.Bank) measure.Event {
	ev := measure.Event{PCR: pcr, Type: measure.EventIPL, Description: text, Digests: map[measure.Bank]measure.Digest{}}
	for _, b := range banks {
		ev.Digests[b] = b.Sum([]byte(text))
	}
	return ev
}

func TestExtend(t *testing.T) {
	p := measure.Zero(measure.Banks(), 11, 12)
	if err := p.Extend(event(11, "enter-initrd", measure.Banks()...)); err != nil {
		t.Fatal(err)
	}
	for _, b := range measure.Banks() {
		h := b.New()
		h.Write(make([]byte, b.Size()))
		h.Write(b.Sum([]byte("enter-initrd")))
		if want := h.Sum(nil); !bytes.Equal(p[b][11], want) {
			t.Errorf("%v: %v, want %x", b, p[b][11], want)
		}
		if !bytes.Equal(p[b][12], make([]byte, b.Size())) {
			t.Errorf("%v: PCR 12 changed", b)
		}
		if _, ok := p[b][13]; ok {
			t.Errorf("%v: PCR 13 came from nowhere", b)
		}
	}
}

func TestExtendAtomic(t *testing.T) {
	all := measure.Banks()
	short := event(11, "short", all...)
	short.Digests[measure.SHA512] = short.Digests[measure.SHA512][:63]
	other := event(11, "mixed up", all...)
	other.Digests[measure.SHA384] = other.Digests[measure.SHA256]
	unknown := measure.Zero(all, 11, 12)
	delete(unknown[measure.SHA384], 11)
	damaged := measure.Zero(all, 11, 12)
	damaged[measure.SHA1][11] = damaged[measure.SHA1][11][:1]
	zero := measure.Zero(all, 11, 12)
	for name, test := range map[string]struct {
		pcrs measure.PCRs
		ev   measure.Event
		want string
	}{
		"bank missing":  {zero, event(11, "few", measure.SHA1, measure.SHA256, measure.SHA384), `extend PCR 11: event "few" has no sha512 digest`},
		"no digests":    {measure.Zero(all[:1], 11), event(11, "none"), `extend PCR 11: event "none" has no sha1 digest`},
		"short":         {zero, short, `extend PCR 11: event "short": sha512 digest of 63 bytes`},
		"wrong bank":    {zero, other, `extend PCR 11: event "mixed up": sha384 digest of 32 bytes`},
		"PCR unknown":   {zero, event(13, "x", all...), ``},
		"bank unknown":  {unknown, event(11, "x", all...), `extend PCR 11: its sha384 value is not known`},
		"value damaged": {damaged, event(11, "x", all...), `extend PCR 11: its sha1 value is not known`},
	} {
		for range 20 { // maps have no order
			before := test.pcrs.Clone()
			err := test.pcrs.Extend(test.ev)
			if test.want == "" {
				if err == nil || !strings.HasPrefix(err.Error(), "extend PCR 13: its sha") || !strings.HasSuffix(err.Error(), "value is not known") {
					t.Errorf("%s: %v", name, err)
				}
			} else {
				wantError(t, err, test.want)
			}
			if d := append(measure.Compare(before, test.pcrs), measure.Compare(test.pcrs, before)...); len(d) > 0 {
				t.Fatalf("%s: changed: %v", name, d)
			}
		}
	}
}

func TestCloneIsApart(t *testing.T) {
	p := measure.Zero(measure.Banks(), 11)
	c := p.Clone()
	if err := p.Extend(event(11, "x", measure.Banks()...)); err != nil {
		t.Fatal(err)
	}
	if d := measure.Compare(measure.Zero(measure.Banks(), 11), c); len(d) > 0 {
		t.Errorf("the clone changed: %v", d)
	}
}

func TestCompare(t *testing.T) {
	want := measure.PCRs{measure.SHA256: {12: {1}, 11: {2}}, measure.SHA1: {11: {3}, 4: {4}}}
	got := measure.PCRs{measure.SHA256: {12: {1}, 11: {9}, 13: {7}}, measure.SHA1: {4: {4}}, measure.SHA512: {11: {5}}}
	var lines []string
	for _, d := range measure.Compare(want, got) {
		lines = append(lines, d.String())
	}
	if expected := []string{"PCR 11 (sha1) is unknown, not 03", "PCR 11 (sha256) is 09, not 02"}; !slices.Equal(lines, expected) {
		t.Errorf("%q, want %q", lines, expected)
	}
	if d := measure.Compare(want, want); d != nil {
		t.Errorf("equal: %v", d)
	}
	if d := measure.Compare(want, nil); len(d) != 4 {
		t.Errorf("nothing known: %v", d)
	}
	if d := measure.Compare(nil, got); d != nil {
		t.Errorf("nothing wanted: %v", d)
	}
	if got := want.Banks(); !slices.Equal(got, []measure.Bank{measure.SHA1, measure.SHA256}) {
		t.Errorf("banks %v", got)
	}
}

// TestPhaseWords has the hashes of the words as systemd's documents list them.
func TestPhaseWords(t *testing.T) {
	path := ""
	pcr := make([]byte, 32)
	for _, w := range []struct{ word, sha256 string }{
		{"enter-initrd", "51e6b92f405d1f98d96e3de343d61d420ad6923b25de21d766f9298192f14fed"},
		{"leave-initrd", "3be261aff7db92bf507eae947f4003ffa2bcad0bffe3524601d62d0bc8be7135"},
		{"sysinit", "730bb5a583ba880c277e656d2dc8aba1a314a11b14d25b05153d2bab82567a48"},
		{"ready", "b24d6d33736ecd5604a4b17bc9c6481039fac362bb7df044ef1c10a2bfd21db6"},
		{"shutdown", "08434ba9cdf55a02284e2913400586cd289878e0f055f7bb0b07ce392caeb989"},
		{"final", "2443630b4620165c8b173e7265e17526fe2787ae594364dd6d839ad58f2fc007"},
	} {
		d, err := hex.DecodeString(w.sha256)
		if err != nil {
			t.Fatal(err)
		}
		pcr = measure.SHA256.Sum(append(pcr, d...))
		path = strings.TrimPrefix(path+":"+w.word, ":")
		phase, err := measure.ParsePhase(path)
		if err != nil {
			t.Fatal(err)
		}
		p, err := measure.Predict(&measure.Image{}, measure.Options{Base: measure.Zero([]measure.Bank{measure.SHA256}, measure.StubPCRs()...)})
		if err != nil {
			t.Fatal(err)
		}
		pcrs, err := p.At(phase)
		if err != nil || !bytes.Equal(pcrs[measure.SHA256][11], pcr) {
			t.Errorf("%s: %v, want %x: %v", path, pcrs[measure.SHA256][11], pcr, err)
		}
	}
}

func TestEventType(t *testing.T) {
	for e, want := range map[measure.EventType]string{measure.EventIPL: "EV_IPL", measure.EventTag: "EV_EVENT_TAG", 0x80000042: "0x80000042"} {
		if b, err := e.MarshalText(); err != nil || string(b) != want {
			t.Errorf("%s, want %s: %v", b, want, err)
		}
	}
}
