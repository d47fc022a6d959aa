package eventlog_test

import (
	"bytes"
	"crypto"
	"encoding/binary"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"unsafe"

	"github.com/google/go-attestation/attest"
	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/eventlog"
)

// The logs are those of real firmware (testdata/README.md), the values those of
// the TPM; go-attestation is the second opinion. Not proved here: logs with
// algorithms beyond SHA-2, StartupLocality and H-CRTM on hardware that really
// starts in another locality, and dynamic launches. No log at hand has them.

// logs returns the real logs by name.
func logs(t testing.TB) map[string][]byte {
	t.Helper()
	found := map[string][]byte{}
	for _, pattern := range []string{"testdata/vm/*.bin", "testdata/go-attestation/*_eventlog", "../stub/testdata/golden/*/eventlog.bin"} {
		paths, err := filepath.Glob(pattern)
		if err != nil || len(paths) == 0 {
			t.Fatalf("%s: nothing there: %v", pattern, err)
		}
		for _, path := range paths {
			if found[path], err = os.ReadFile(path); err != nil {
				t.Fatal(err)
			}
		}
	}
	return found
}

// TestReplay: the log leads to what the TPM held.
func TestReplay(t *testing.T) {
	t.Parallel()
	for path, data := range logs(t) {
		name, ok := strings.CutSuffix(path, ".bin")
		if !ok || !strings.HasPrefix(path, "testdata/vm/") {
			continue
		}
		t.Run(filepath.Base(name), func(t *testing.T) {
			t.Parallel()
			raw, err := os.ReadFile(name + ".json")
			if err != nil {
				t.Fatal(err)
			}
			var want measure.PCRs
			if err := json.Unmarshal(raw, &want); err != nil {
				t.Fatal(err)
			}
			for _, values := range want {
				delete(values, 10) // the kernel's
			}
			l, err := eventlog.ParseFirmware(data)
			if err != nil {
				t.Fatal(err)
			}
			got, err := l.Replay()
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range measure.Compare(want, got) {
				t.Error(d)
			}
			if n := len(want[measure.SHA256]); n < 17 || len(want) < 3 {
				t.Errorf("only %d PCRs in %d banks", n, len(want))
			}
			one, err := l.Replay(measure.SHA384)
			if err != nil || len(one) != 1 || one[measure.SHA384][11].String() != got[measure.SHA384][11].String() {
				t.Errorf("one bank: %v, %v", one, err)
			}
		})
	}
}

// TestStubEvents finds the events that the stub was seen to measure.
func TestStubEvents(t *testing.T) {
	t.Parallel()
	for path, data := range logs(t) {
		dir, ok := strings.CutSuffix(path, "/eventlog.bin")
		if !ok {
			continue
		}
		raw, err := os.ReadFile(filepath.Join(dir, "expected.json"))
		if err != nil {
			t.Fatal(err)
		}
		var want struct {
			Events []struct {
				PCR     measure.PCR
				Type    uint32
				Digests map[measure.Bank]measure.Digest
				Data    measure.Digest
			}
		}
		if err := json.Unmarshal(raw, &want); err != nil {
			t.Fatal(err)
		}
		l, err := eventlog.ParseFirmware(data)
		if err != nil {
			t.Fatal(err)
		}
		i := 0
		for _, ev := range l.Events {
			if ev.PCR < 11 || ev.PCR > 13 || i == len(want.Events) {
				continue
			}
			w := want.Events[i]
			if ev.PCR != w.PCR || uint32(ev.Type) != w.Type || !bytes.Equal(ev.Data, w.Data) || !reflect.DeepEqual(ev.Digests, w.Digests) {
				t.Errorf("%s: event %d: %+v, want %+v", dir, i, ev, w)
			}
			i++
		}
		if i == 0 || i < len(want.Events) {
			t.Errorf("%s: %d events, want %d", dir, i, len(want.Events))
		}
	}
}

// TestSecondOpinion: go-attestation finds the same records, and its replay agrees.
func TestSecondOpinion(t *testing.T) {
	t.Parallel()
	for path, data := range logs(t) {
		l, err := eventlog.ParseFirmware(data)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		other, err := attest.ParseEventLog(data)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if err := sameRecords(l, other); err != "" {
			t.Errorf("%s: %s", path, err)
		}
		pcrs, err := l.Replay()
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		for bank, hash := range map[measure.Bank]crypto.Hash{measure.SHA1: crypto.SHA1, measure.SHA256: crypto.SHA256, measure.SHA384: crypto.SHA384} {
			var values []attest.PCR
			for n, v := range pcrs[bank] {
				values = append(values, attest.PCR{Index: int(n), Digest: v, DigestAlg: hash})
			}
			if values == nil {
				continue
			}
			if _, err := other.Verify(values); err != nil {
				t.Errorf("%s: %s: %v", path, bank, err)
			}
		}
	}
}

// sameRecords says in what the records differ from those that go-attestation has,
// "" if in nothing.
func sameRecords(l *eventlog.Firmware, other *attest.EventLog) string {
	for _, bank := range l.Banks {
		events := other.Events(attest.HashAlg(bank))
		if len(events) == len(l.Events)+1 && events[0].Type == attest.EventType(measure.EventNoAction) {
			events = events[1:] // it counts the Spec ID of a SHA-1 log
		}
		if len(events) != len(l.Events) {
			return "another number of records"
		}
		for i, ev := range l.Events {
			o := events[i]
			if ev.PCR != measure.PCR(int32(o.Index)) || uint32(ev.Type) != uint32(o.Type) || !bytes.Equal(ev.Data, o.Data) {
				return ev.Description + ": another record"
			}
			if bank != measure.SHA512 && !bytes.Equal(ev.Digests[bank], o.Digest) { // that it has no name for
				return ev.Description + ": another " + bank.String() + " digest"
			}
		}
	}
	return ""
}

// TestEventTypeNames compares the names of types with those of go-attestation.
func TestEventTypeNames(t *testing.T) {
	t.Parallel()
	known := 0
	for _, base := range []uint32{0, 0x80000000} {
		for n := base; n < base+0x100; n++ {
			want := attest.EventType(n).String()
			if !strings.HasPrefix(want, "EV_") || want == "EV_EFI_EVENT_BASE" {
				continue
			}
			known++
			var e measure.EventType
			if got := measure.EventType(n).String(); got != want || e.UnmarshalText([]byte(want)) != nil || uint32(e) != n {
				t.Errorf("0x%08x: %s, want %s", n, got, want)
			}
		}
	}
	if known < 29 {
		t.Errorf("only %d names", known)
	}
}

// TestEveryByteCounts changes each byte of a log and wants it refused or noticed.
func TestEveryByteCounts(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"testdata/vm/basic.bin", "testdata/go-attestation/ebs_event_missing_eventlog"} {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		want, err := eventlog.ParseFirmware(data)
		if err != nil {
			t.Fatal(err)
		}
		ignored, refused := 0, 0
		for i := range data {
			changed := bytes.Clone(data)
			changed[i] ^= 0x10
			got, err := eventlog.ParseFirmware(changed)
			switch {
			case err != nil:
				refused++
			case reflect.DeepEqual(got, want):
				ignored++
			}
		}
		// platformClass, specErrata and uintnSize of a crypto-agile log
		if most := 6; ignored > most || refused < 100 {
			t.Errorf("%s: of %d bytes %d were ignored, %d refused", path, len(data), ignored, refused)
		}
	}
}

// TestChangedDigest: a digest with another bit leads to another PCR, in its bank alone.
func TestChangedDigest(t *testing.T) {
	t.Parallel()
	data := logs(t)["testdata/vm/sidecar.bin"]
	l, err := eventlog.ParseFirmware(data)
	if err != nil {
		t.Fatal(err)
	}
	want, err := l.Replay()
	if err != nil {
		t.Fatal(err)
	}
	for i, ev := range l.Events {
		for _, bank := range l.Banks {
			l.Events[i].Digests[bank][7] ^= 1
			got, err := l.Replay()
			if err != nil {
				t.Fatal(err)
			}
			if diffs := measure.Compare(want, got); len(diffs) != 1 || diffs[0].PCR != ev.PCR || diffs[0].Bank != bank {
				t.Errorf("event %d (%s): %v", i, ev.Type, diffs)
			}
			l.Events[i].Digests[bank][7] ^= 1
		}
	}
}

// sha1Record returns the bytes of a TCG_PCR_EVENT with a digest of ones.
func sha1Record(pcr, typ uint32, data string) string {
	b := binary.LittleEndian.AppendUint32(nil, pcr)
	b = binary.LittleEndian.AppendUint32(b, typ)
	b = append(b, make([]byte, 20)...)
	if typ != 3 {
		copy(b[8:], strings.Repeat("\x01", 20))
	}
	b = binary.LittleEndian.AppendUint32(b, uint32(len(data)))
	return string(b) + data
}

// specID returns a Spec ID record with algorithms, pairs of an id and a size.
func specID(algorithms ...uint16) string {
	b := append([]byte("Spec ID Event03\x00"), 0, 0, 0, 0, 0, 2, 106, 2)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(algorithms)/2))
	for _, v := range algorithms {
		b = binary.LittleEndian.AppendUint16(b, v)
	}
	return sha1Record(0, 3, string(b)+"\x00")
}

// agile returns the bytes of a TCG_PCR_EVENT2 with digests of ones.
func agile(pcr, typ uint32, data string, algorithms ...uint16) string {
	b := binary.LittleEndian.AppendUint32(nil, pcr)
	b = binary.LittleEndian.AppendUint32(b, typ)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(algorithms)/2))
	for i := 0; i < len(algorithms); i += 2 {
		b = binary.LittleEndian.AppendUint16(b, algorithms[i])
		b = append(b, strings.Repeat("\x01", int(algorithms[i+1]))...)
	}
	b = binary.LittleEndian.AppendUint32(b, uint32(len(data)))
	return string(b) + data
}

// with returns s with other bytes at an offset.
func with(s string, off int, b string) string { return s[:off] + b + s[off+len(b):] }

const locality = "StartupLocality\x00"

func TestHostile(t *testing.T) {
	t.Parallel()
	sha256 := specID(0x000B, 32)
	four := "\xff\xff\xff\xff"
	for _, c := range []struct{ name, log, want string }{
		{"empty", "", "firmware log: empty: the firmware has recorded nothing"},
		{"large", strings.Repeat("\x00", eventlog.MaxFirmware+1), "4194305 bytes: more than 4194304"},
		{"one byte", "\x00", "record 0 at offset 0: cut short: 4 bytes wanted, 1 are left"},
		{"a PE file", "MZ" + strings.Repeat("\x00", 62), "record 0 at offset 0: PCR 23117: not 0 to 23"},
		{"header cut", sha256[:31], "record 0 at offset 0: cut short: 4 bytes wanted, 3 are left"},
		{"first data cut", with(sha256, 28, four), "record 0 at offset 0: cut short: 4294967295 bytes wanted, 33 are left"},
		{"other version", with(sha256, 32, "Spec ID Event04\x00"), `"Spec ID Event04\x00": not a known version of the log`},
		{"Spec ID without NUL", with(sha256, 47, "x"), `"Spec ID Event03x": not a known version of the log`},
		{"Spec ID 1.0", with(sha256, 53, "\x01"), "header: version 1.0: not 2.0"},
		{"Spec ID 2.1", with(sha256, 52, "\x01"), "header: version 2.1: not 2.0"},
		{"Spec ID with a digest", with(sha256, 8, "\x01"), "header: its PCR and digest are not zero"},
		{"Spec ID in PCR 1", with(sha256, 0, "\x01"), "header: its PCR and digest are not zero"},
		{"Spec ID cut in the version", sha1Record(0, 3, "Spec ID Event03\x00\x00\x00"), "header: cut short: 8 bytes wanted, 2 are left"},
		{"algorithms by the billion", with(sha256, 56, four), "header: 4294967295 algorithms: more than 16"},
		{"algorithms missing", with(sha256, 56, "\x03"), "header: cut short: 2 bytes wanted, 1 are left"},
		{"no algorithm", specID(), "header: no algorithm"},
		{"algorithm twice", specID(0x000B, 32, 0x000B, 32), "header: sha256: named twice"},
		{"known algorithm, other size", specID(0x000B, 31), "header: sha256: digests of 31 bytes"},
		{"unknown algorithm, no size", specID(0x0012, 0), "header: alg_0x0012: digests of 0 bytes"},
		{"unknown algorithm, large", specID(0x0012, 65), "header: alg_0x0012: digests of 65 bytes"},
		{"vendor info missing", with(sha256, 64, "\x01"), "header: cut short: 1 bytes wanted, 0 are left"},
		{"behind the vendor info", with(sha256, 28, "\x22") + "x", "header: 1 bytes behind its end"},
		{"record cut", sha256 + agile(0, 8, "", 0x000B, 32)[:11], "record 1 at offset 65: cut short: 4 bytes wanted, 3 are left"},
		{"zeros behind the end", sha256 + strings.Repeat("\x00", 16), "record 1 at offset 65: EV_PREBOOT_CERT: no digest"},
		{"digests by the billion", sha256 + "\x00\x00\x00\x00\x08\x00\x00\x00" + four, "record 1 at offset 65: 4294967295 digests, but the log has 1 algorithms"},
		{"digest of another algorithm", sha256 + agile(0, 8, "", 0x0004, 20), "record 1 at offset 65: digest of sha1: not an algorithm of the log"},
		{"digest twice", specID(0x000B, 32, 0x0004, 20) + agile(0, 8, "", 0x0004, 20, 0x0004, 20), "record 1 at offset 69: digest of sha1: the second one"},
		{"digest cut", sha256 + agile(0, 8, "", 0x000B, 31)[:45], "record 1 at offset 65: cut short: 32 bytes wanted, 31 are left"},
		{"PCR 24", sha256 + agile(24, 8, "", 0x000B, 32), "record 1 at offset 65: PCR 24: not 0 to 23"},
		{"PCR -1", sha256 + agile(0xFFFFFFFF, 8, "", 0x000B, 32), "record 1 at offset 65: PCR 4294967295: not 0 to 23"},
		{"data cut", sha256 + agile(0, 8, "abc", 0x000B, 32) + agile(0, 8, "abc", 0x000B, 32)[:52], "record 2 at offset 118: cut short: 3 bytes wanted, 2 are left"},
		{"locality without value", sha256 + agile(0, 3, locality), "record 1 at offset 65: StartupLocality: 0 bytes: want 1"},
		{"locality 2", sha256 + agile(0, 3, locality+"\x02"), "record 1 at offset 65: StartupLocality: locality 2: not 0, 3 or 4"},
		{"locality twice", sha1Record(0, 3, locality+"\x03") + sha1Record(0, 3, locality+"\x03"), "record 1 at offset 49: StartupLocality: the second one"},
		{"locality too late", sha256 + agile(0, 8, "", 0x000B, 32) + agile(0, 3, locality+"\x03"), "record 2 at offset 115: StartupLocality: PCR 0 was extended before"},
		{"first locality", sha1Record(0, 3, locality+"\x05"), "record 0 at offset 0: StartupLocality: locality 5: not 0, 3 or 4"},
	} {
		l, err := eventlog.ParseFirmware([]byte(c.log))
		if err == nil || !strings.HasSuffix(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "firmware log: ") {
			t.Errorf("%s: %v, %v\nwant %s", c.name, l, err, c.want)
		}
	}
}

// TestAccepted: what a strict reader still has to take.
func TestAccepted(t *testing.T) {
	t.Parallel()
	sha256 := specID(0x000B, 32)
	for _, c := range []struct {
		name, log string
		banks     string
		events    int
	}{
		{"nothing but the Spec ID", sha256, "sha256", 0},
		{"SHA-1, TPM 1.2", sha1Record(0, 3, "Spec ID Event02\x00 and more") + sha1Record(0, 8, "x"), "sha1", 1},
		{"SHA-1, no Spec ID", sha1Record(0, 8, "x") + sha1Record(4, 13, "y"), "sha1", 2},
		{"SM3 beside SHA-256", specID(0x000B, 32, 0x0012, 32) + agile(0, 8, "", 0x0012, 32, 0x000B, 32), "sha256", 1},
		{"PCR -1, no digest, but nothing is extended", sha256 + agile(0xFFFFFFFF, 3, "x"), "sha256", 1},
		{"an unknown type", sha256 + agile(0, 0x12345678, "", 0x000B, 32), "sha256", 1},
	} {
		l, err := eventlog.ParseFirmware([]byte(c.log))
		if err != nil || measure.BankNames(l.Banks) != c.banks || len(l.Events) != c.events {
			t.Errorf("%s: %+v, %v", c.name, l, err)
		} else if _, err := l.Replay(); err != nil {
			t.Errorf("%s: replay: %v", c.name, err)
		}
	}
}

// TestReplayRules has values computed here, after TPM 2.0 Library Part 1,
// "Initializing PCR".
func TestReplayRules(t *testing.T) {
	t.Parallel()
	ones := bytes.Repeat([]byte{1}, 32)
	begin := make([]byte, 32)
	begin[31] = 3
	l, err := eventlog.ParseFirmware([]byte(specID(0x000B, 32, 0x0004, 20) + agile(0, 3, locality+"\x03") +
		agile(0, 8, "", 0x000B, 32) + agile(17, 8, "", 0x000B, 32) + agile(16, 8, "", 0x000B, 32)))
	if err != nil {
		t.Fatal(err)
	}
	pcrs, err := l.Replay(measure.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	want := map[measure.PCR][]byte{0: measure.SHA256.Sum(append(begin, ones...)), 16: measure.SHA256.Sum(append(make([]byte, 32), ones...)), 1: make([]byte, 32), 23: make([]byte, 32), 17: nil}
	for n, v := range want {
		if got := pcrs[measure.SHA256][n]; !bytes.Equal(got, v) {
			t.Errorf("PCR %d: %v, want %x", n, got, v)
		}
	}
	for _, c := range []struct {
		bank measure.Bank
		want string
	}{
		{measure.SHA512, "firmware log: replay: no bank sha512 (it has: sha256 sha1)"},
		{measure.SHA1, `firmware log: replay: event 2: extend PCR 0: event "0 bytes of data" has no sha1 digest`},
	} {
		if _, err := l.Replay(c.bank); err == nil || err.Error() != c.want {
			t.Errorf("%s: %v\nwant %s", c.bank, err, c.want)
		}
	}
}

func TestDescriptions(t *testing.T) {
	t.Parallel()
	const ipl, tag, separator, action, variable = 13, 6, 4, 0x80000007, 0x80000001
	u16 := func(s string) (z string) {
		for _, b := range []byte(s) {
			z += string([]byte{b, 0})
		}
		return z
	}
	for _, c := range []struct {
		typ        uint32
		data, want string
	}{
		{ipl, u16(".linux\x00"), ".linux"},
		{ipl, u16("\x00"), ""},
		{ipl, "MokList\x00", "MokList"},
		{ipl, "grub_cmd: set a=b\x00", "grub_cmd: set a=b"},
		{ipl, u16("a\x00b\x00"), "8 bytes of data"},
		{ipl, "\x00\xd8\x00\x00", "\uFFFD"}, // half a surrogate pair
		{ipl, "\x1b[2J", "4 bytes of data"},
		{ipl, u16("\x1b[2J\x00"), "\x1b[2J"}, // who prints it must quote it
		{tag, "\xdb\xd6\xae\x13\x04\x00\x00\x001\x00\x00\x00", "UKI profile: 1"},
		{tag, "\xdb\xd6\xae\x13\x05\x00\x00\x001\x00\x00\x00", "12 bytes of data"},
		{tag, "\xdb\xd6\xae\x13\xff\xff\xff\xff1\x00\x00\x00", "12 bytes of data"},
		{tag, "\xdb\xd6\xae", "3 bytes of data"},
		{tag, "\xec\x22\x3b\x8f\x0d\x00\x00\x00Linux initrd\x00", "Linux initrd: Linux initrd"},
		{tag, "\x01\x00\x00\x00\x02\x00\x00\x00\xff\xfe", "tag 0x00000001: 2 bytes of data"},
		{separator, "\x00\x00\x00\x00", "separator"},
		{separator, "\xff\xff\xff\xff", "separator"},
		{separator, "\x01\x00\x00\x00", "separator after an error"},
		{separator, "WBCL", "separator 0x4c434257"},
		{separator, "\x00", "1 bytes of data"},
		{action, "Calling EFI Application from Boot Option", "Calling EFI Application from Boot Option"},
		{action, "\xff\xff", "2 bytes of data"},
		{variable, strings.Repeat("g", 16) + "\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" + u16("db"), "variable db"},
		{variable, strings.Repeat("g", 16) + "\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" + u16("db"), "36 bytes of data"},
		{variable, strings.Repeat("\xff", 32), "32 bytes of data"},
		{variable, "short", "5 bytes of data"},
	} {
		l, err := eventlog.ParseFirmware([]byte(sha1Record(0, 8, "") + sha1Record(1, c.typ, c.data)))
		if err != nil || l.Events[1].Description != c.want {
			t.Errorf("%s %q: %q, %v, want %q", measure.EventType(c.typ), c.data, l.Events[1].Description, err, c.want)
		}
	}
}

// FuzzParseFirmware: whatever is accepted lies in the log, in order and without
// overlaps, is replayed or says which digest is missing, and is what
// go-attestation reads where it reads the log at all.
func FuzzParseFirmware(f *testing.F) {
	for _, data := range logs(f) {
		f.Add(data)
	}
	f.Add([]byte(specID(0x000B, 32, 0x0012, 32) + agile(0, 3, locality+"\x04") + agile(11, 13, "x", 0x0012, 32, 0x000B, 32)))
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := eventlog.ParseFirmware(data)
		if err != nil {
			if l != nil {
				t.Error("a log and an error")
			}
			return
		}
		end := uintptr(0)
		for _, ev := range l.Events {
			if len(ev.Data) > 0 {
				at := uintptr(unsafe.Pointer(&ev.Data[0])) - uintptr(unsafe.Pointer(&data[0]))
				if at < end || at+uintptr(len(ev.Data)) > uintptr(len(data)) || cap(ev.Data) != len(ev.Data) {
					t.Fatalf("data at %d of %d bytes, behind %d", at, len(ev.Data), end)
				}
				end = at + uintptr(len(ev.Data))
			}
			for bank, d := range ev.Digests {
				if len(d) != bank.Size() {
					t.Fatalf("%s: digest of %d bytes", bank, len(d))
				}
			}
		}
		if _, err := l.Replay(); err != nil && !strings.Contains(err.Error(), " digest") {
			t.Error(err)
		}
		if other, err := attest.ParseEventLog(data); err == nil {
			if diff := sameRecords(l, other); diff != "" {
				t.Error(diff)
			}
		}
	})
}
