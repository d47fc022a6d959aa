package eventlog_test

import (
	"bytes"
	"crypto"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-attestation/attest"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/eventlog"
)

// These tests read logs that systemd 257 and 262 wrote (testdata/README.md) and
// hold the replay against what the TPM held, and the CEL-JSON against that of
// systemd-pcrlock. They do not prove anything about the records that those runs do
// not have: volume keys, key slots, verity, IMDS and logins.

var recorded = []string{"systemd-257", "systemd-262"}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func parseLog(t testing.TB, data []byte) *eventlog.Userspace {
	t.Helper()
	u, err := eventlog.ParseUserspace(data)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// readPCRs reads what tpm2_pcrread printed.
func readPCRs(t testing.TB, path string) measure.PCRs {
	t.Helper()
	pcrs := measure.PCRs{}
	var bank measure.Bank
	for line := range strings.Lines(string(readFile(t, path))) {
		name, value, _ := strings.Cut(line, ":")
		if name, value = strings.TrimSpace(name), strings.TrimSpace(value); value == "" {
			var err error
			if bank, err = measure.ParseBank(name); err != nil {
				t.Fatal(err)
			}
			continue
		}
		var n measure.PCR
		if _, err := fmt.Sscan(name, &n); err != nil {
			t.Fatal(err)
		}
		d, err := measure.ParseDigest(bank, strings.TrimPrefix(value, "0x"))
		if err != nil {
			t.Fatal(err)
		}
		pcrs.Set(bank, n, d)
	}
	return pcrs
}

// TestUserspaceReplay: the log leads to what the TPM held, in all banks, and one
// bit in a digest leads away from it.
func TestUserspaceReplay(t *testing.T) {
	t.Parallel()
	for _, name := range recorded {
		live := readPCRs(t, "testdata/systemd/"+name+".pcrs")
		u := parseLog(t, readFile(t, "testdata/systemd/"+name+".log"))
		line := eventlog.Timeline{Records: u.Records}
		replayed := 0
		for _, v := range line.Judge(live) {
			if v.State.No() {
				t.Errorf("%s: %+v", name, v)
			}
			if v.State == eventlog.Replayed {
				replayed++
			}
			if !bytes.Equal(v.Log, v.TPM) {
				t.Errorf("%s: PCR %d (%s): %s", name, v.PCR, v.Bank, v.Log)
			}
		}
		if len(live) != 4 || replayed < 4*2 {
			t.Errorf("%s: %d banks, %d PCRs replayed", name, len(live), replayed)
		}
		for i, r := range u.Records {
			for b := range r.Digests {
				r.Digests[b][3] ^= 1
				want := eventlog.Differs
				for _, v := range line.Judge(live) {
					hit := v.PCR == r.PCR && v.Bank == b
					if hit && v.State != want || !hit && v.State.No() {
						t.Errorf("%s: record %d, %s: %+v", name, i+1, b, v)
					}
				}
				r.Digests[b][3] ^= 1
			}
		}
	}
}

// TestRecords looks at the records of every kind that systemd 262 wrote.
func TestRecords(t *testing.T) {
	t.Parallel()
	u := parseLog(t, readFile(t, "testdata/systemd/systemd-262.log"))
	var got []string
	for _, r := range u.Records {
		if len(r.BootID) != 32 || r.Timestamp <= 0 || r.Timestamp > 1000*time.Hour || r.ContentType != eventlog.ContentSystemd {
			t.Errorf("%+v", r)
		}
		text := r.Describe()
		if r.EventType == "nvpcr-init" {
			text, _, _ = strings.Cut(text, ":000b")
		}
		got = append(got, fmt.Sprintf("%d %x %s %s %.40s", r.PCR, r.NVIndex, r.EventType, r.Text, text))
	}
	want := []string{
		"11 0 phase hashed enter-initrd",
		"9 0 nvpcr-init hashed nvpcr-init:verity:0x1d10202",
		"9 0 nvpcr-init hashed nvpcr-init:hardware:0x1d10200",
		"9 0 nvpcr-init hashed nvpcr-init:cryptsetup:0x1d10201",
		"9 0 nvpcr-init hashed nvpcr-init:login:0x1d10203",
		"-1 1d10200 product-id hashed NvPCR hardware: product-id:missing",
		"12 0 os-separator hashed os-separator",
		"15 0 machine-id hashed machine-id:8398d4eeade24f52a30c979d95c67",
		"15 0 filesystem hashed file-system:/::::::",
		"11 0 phase hashed leave-initrd",
		`15 0 phase hashed a\"b\\c\t\303\244`,
		"15 0 phase cut 0000000000000000000000000000000000000000",
		"15 0 phase hashed 0000000000000000000000000000000000000000",
	}
	if !slices.Equal(got, want) {
		t.Errorf("%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if n := len(parseLog(t, readFile(t, "testdata/systemd/sample.log")).Records); n != 4 {
		t.Errorf("sample: %d records", n)
	}
}

// TestCEL: byte for byte what systemd-pcrlock cel prints.
func TestCEL(t *testing.T) {
	t.Parallel()
	firmware, err := eventlog.ParseFirmware(readFile(t, "testdata/vm/sidecar.bin"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range recorded {
		u := parseLog(t, readFile(t, "testdata/systemd/"+name+".log"))
		line := eventlog.Timeline{Firmware: firmware, Records: u.Records}
		got, err := line.CEL()
		if err != nil {
			t.Fatal(err)
		}
		if want := bytes.TrimSpace(readFile(t, "testdata/systemd/"+name+".cel.json")); !bytes.Equal(got, want) {
			i := 0
			for i < min(len(got), len(want)) && got[i] == want[i] {
				i++
			}
			t.Errorf("%s: differs at byte %d: %.200s\nwant %.200s", name, i, got[i:], want[i:])
		}
	}
}

// TestReadBySystemd: what systemd-pcrlock of 262 was seen to make of a log with
// records of ours: all of them, and PCRs that are what the TPM held.
func TestReadBySystemd(t *testing.T) {
	t.Parallel()
	line := eventlog.Timeline{Records: parseLog(t, readFile(t, "testdata/systemd/mkexec.log")).Records}
	b, err := line.CEL()
	if err != nil {
		t.Fatal(err)
	}
	type celRecord struct {
		PCR     int
		RecNum  int
		Digests []map[string]string
		Content map[string]any
	}
	var ours, theirs []celRecord
	if err := json.Unmarshal(b, &ours); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(readFile(t, "testdata/systemd/mkexec.cel.json"), &theirs); err != nil {
		t.Fatal(err)
	}
	kexecs := 0
	for i := range ours {
		if line.Records[i].Kexec != nil {
			kexecs++
			ours[i].Content = nil // systemd leaves out what it does not know
		}
	}
	if kexecs != 4 || len(ours) != 9 || !reflect.DeepEqual(ours, theirs) {
		t.Errorf("%d records, %d of ours\n%v\nwant\n%v", len(ours), kexecs, ours, theirs)
	}

	var log struct {
		PCRs []map[string]any `json:"pcrs"`
	}
	if err := json.Unmarshal(readFile(t, "testdata/systemd/mkexec.pcrlock.json"), &log); err != nil {
		t.Fatal(err)
	}
	live := measure.PCRs{}
	for _, p := range log.PCRs {
		if p["hashMatchesEventLog"] == false {
			t.Errorf("PCR %v", p["pcr"])
		}
		for _, b := range measure.Banks() {
			d, err := measure.ParseDigest(b, p["observed"+strings.ToUpper(b.String())].(string))
			if err != nil {
				t.Fatal(err)
			}
			live.Set(b, measure.PCR(p["pcr"].(float64)), d)
		}
	}
	replayed := 0
	for _, v := range line.Judge(live) {
		if v.State.No() {
			t.Errorf("%+v", v)
		}
		if v.State == eventlog.Replayed {
			replayed++
		}
	}
	if replayed != 4*3 { // PCRs 11, 12, 13
		t.Errorf("%d replayed", replayed)
	}
}

// TestEveryByteOfUserspaceCounts changes each byte of records of three kinds and
// wants it refused or noticed.
func TestEveryByteOfUserspaceCounts(t *testing.T) {
	t.Parallel()
	lines := bytes.SplitAfter(readFile(t, "testdata/systemd/systemd-262.log"), []byte("\n"))
	for _, data := range [][]byte{lines[0], lines[5], lines[8]} { // a phase, an NvPCR, a file system
		want := parseLog(t, data)
		refused := 0
		for i := range data {
			changed := bytes.Clone(data)
			changed[i] ^= 0x01
			got, err := eventlog.ParseUserspace(changed)
			if err != nil {
				refused++
			} else if reflect.DeepEqual(got, want) {
				t.Errorf("byte %d of %q was ignored", i, data)
			}
		}
		if refused < len(data)/2 { // the rest is when and where
			t.Errorf("of %d bytes %d were refused", len(data), refused)
		}
	}
}

// record returns the bytes of a record.
func record(text string) string { return "\x1e" + text + "\n" }

// digestsOf returns the digests of a text in JSON.
func digestsOf(text string, banks ...measure.Bank) string {
	var list []string
	for _, b := range banks {
		list = append(list, fmt.Sprintf(`{"hashAlg":"%s","digest":"%s"}`, b, b.Sum([]byte(text))))
	}
	return `"digests":[` + strings.Join(list, ",") + "]"
}

func TestHostileUserspace(t *testing.T) {
	t.Parallel()
	d := digestsOf("x", measure.SHA256)
	sum := measure.SHA256.Sum([]byte("x")).String()
	zeros := strings.Repeat("00", 32)
	good := record(`{"pcr":11,` + d + `}`)
	systemd := func(content string) string {
		return record(`{"pcr":11,` + d + `,"content_type":"systemd","content":` + content + `}`)
	}
	kexec := func(content string) string {
		return record(`{"pcr":11,` + d + `,"content_type":"mkexec","content":` + content + `}`)
	}
	for _, c := range []struct{ name, log, want string }{
		{"large", strings.Repeat("\x1e", eventlog.MaxUserspace+1), "userspace log: 4194305 bytes: more than 4194304"},
		{"first byte", `{"pcr":11}` + "\n", "record 1 at offset 0: begins with byte 0x7b, not 0x1e"},
		{"empty record", "\x1e", "record 1 at offset 0: cut short: no line feed at its end"},
		{"two separators", "\x1e" + good, "record 1 at offset 0: cut short: no line feed at its end"},
		{"only a line feed", "\x1e\n", "record 1 at offset 0: not JSON: unexpected end of JSON input, byte 0 of it"},
		{"second record", good + "\x1e{\n", fmt.Sprintf("record 2 at offset %d: not JSON: unexpected end of JSON input, byte 1 of it", len(good))},
		{"garbage between", good + "x\n" + good, "record 1 at offset 0: not JSON: invalid character 'x' after top-level value, byte 121 of it"},
		{"last record cut", good + good[:40], fmt.Sprintf("record 2 at offset %d: cut short: no line feed at its end", len(good))},
		{"last line feed cut", good + good[:len(good)-1], fmt.Sprintf("record 2 at offset %d: cut short: no line feed at its end", len(good))},
		{"NUL", good[:5] + "\x00" + good[5:], "record 1 at offset 0: NUL at offset 5 of it"},
		{"zeros behind the end", good + "\x00\x00", "record 1 at offset 0: NUL at offset 121 of it"},
		{"not UTF-8", record("{\"pcr\":11,\"\xff\":0}"), "record 1 at offset 0: not UTF-8"},
		{"not an object", record("[]"), "record 1 at offset 0: not a JSON object"},
		{"null", record("null"), "record 1 at offset 0: not a JSON object"},
		{"key twice", record(`{"pcr":11,"pcr":12,` + d + `}`), `record 1 at offset 0: key "pcr" twice`},
		{"escaped key twice", record(`{"pcr":11,"\u0070cr":12,` + d + `}`), `record 1 at offset 0: key "pcr" twice`},
		{"key twice, deep", record(`{"pcr":11,` + d + `,"content_type":"z","content":[[{"a":[1,{}],"b":{"c":1,"d":"c","c":2}}]]}`), `record 1 at offset 0: key "c" twice`},
		{"other case", record(`{"PCR":11,` + d + `}`), `record 1 at offset 0: unknown key "PCR"`},
		{"recnum", record(`{"recnum":-1,"pcr":11,` + d + `}`), `recnum: "-1": not an integer, or too large`},
		{"no register", record(`{` + d + `}`), "neither pcr nor nv_index"},
		{"two registers", record(`{"pcr":11,"nv_index":30474752,` + d + `}`), "both pcr and nv_index"},
		{"PCR 24", record(`{"pcr":24,` + d + `}`), "pcr 24: not 0 to 23"},
		{"PCR -1", record(`{"pcr":-1,` + d + `}`), "pcr -1: not 0 to 23"},
		{"PCR 11.0", record(`{"pcr":11.0,` + d + `}`), "pcr 11.0: not 0 to 23"},
		{"PCR 1e1", record(`{"pcr":1e1,` + d + `}`), "pcr 1e1: not 0 to 23"},
		{"PCR as text", record(`{"pcr":"11",` + d + `}`), `pcr "11": not 0 to 23`},
		{"a handle that is no NV index", record(`{"nv_index":2164260864,` + d + `}`), "nv_index 2164260864: not an NV index"},
		{"no digests", record(`{"pcr":11}`), "digests: not an array with something in it"},
		{"empty digests", record(`{"pcr":11,"digests":[]}`), "digests: not an array with something in it"},
		{"17 digests", record(`{"pcr":11,"digests":[` + strings.Repeat("1,", 16) + `1]}`), "digests: 17 of them: more than 16"},
		{"a digest that is none", record(`{"pcr":11,"digests":[1]}`), "digests: not a JSON object"},
		{"no algorithm", record(`{"pcr":11,"digests":[{"digest":"` + sum + `"}]}`), "digests: want hashAlg and digest, both strings, and no more"},
		{"more in a digest", record(`{"pcr":11,"digests":[{"hashAlg":"sha256","digest":"` + sum + `","x":1}]}`), "digests: want hashAlg and digest, both strings, and no more"},
		{"unknown algorithm", record(`{"pcr":11,"digests":[{"hashAlg":"md5","digest":"` + sum + `"}]}`), `digests: bank "md5": unknown (known: sha1 sha256 sha384 sha512)`},
		{"bank twice", record(`{"pcr":11,` + d[:len(d)-1] + "," + d[len(`"digests":[`):] + `}`), "digests: sha256: the second one"},
		{"short digest", record(`{"pcr":11,"digests":[{"hashAlg":"sha256","digest":"` + sum[2:] + `"}]}`), "31 bytes, but sha256 has 32"},
		{"not hexadecimal", record(`{"pcr":11,"digests":[{"hashAlg":"sha256","digest":"` + sum[:62] + `zz"}]}`), "not hexadecimal"},
		{"SM3, short", record(`{"pcr":11,"digests":[{"hashAlg":"sm3_256","digest":"00"}]}`), `digests: sm3_256: "00": twice, or not 32 bytes`},
		{"SM3 twice", record(`{"pcr":11,"digests":[{"hashAlg":"sm3_256","digest":"` + zeros + `"},{"hashAlg":"sm3_256","digest":"` + zeros + `"}]}`), `: twice, or not 32 bytes`},
		{"content type", record(`{"pcr":11,` + d + `,"content_type":7}`), "content_type: not a string"},
		{"no content", record(`{"pcr":11,` + d + `,"content_type":"systemd"}`), "content: not there"},
		{"content is text", systemd(`"x"`), "content: not a JSON object"},
		{"another string", systemd(`{"string":"y","eventType":"phase"}`), `content: string "y": does not hash to the sha256 digest`},
		{"another escaped string", systemd(`{"string":"\\171","eventType":"phase"}`), `content: string "\\171": does not hash to the sha256 digest`},
		{"not an escape", systemd(`{"string":"\\x78","eventType":"phase"}`), `content: string "\\x78": does not hash to the sha256 digest`},
		{"cut too early", systemd(`{"string":"` + strings.Repeat("y", 1023) + `...","eventType":"phase"}`), `: does not hash to the sha256 digest`},
		{"cut too late", systemd(`{"string":"` + strings.Repeat("y", 1025) + `...","eventType":"phase"}`), `: does not hash to the sha256 digest`},
		{"string is a number", systemd(`{"string":1}`), "content: string: not a string"},
		{"NUL in the string", systemd(`{"string":"x\u0000"}`), "content: string: NUL in it"},
		{"boot id", systemd(`{"bootId":"D57D4B1039504D7D8F30A20ED44FADC6"}`), `content: bootId "D57D4B1039504D7D8F30A20ED44FADC6": not 32 hexadecimal digits`},
		{"empty boot id", systemd(`{"bootId":""}`), `content: bootId "": not 32 hexadecimal digits`},
		{"timestamp", systemd(`{"timestamp":-5}`), `content: timestamp: "-5": not an integer, or too large`},
		{"timestamp of the far future", systemd(`{"timestamp":9007199254740992}`), `content: timestamp: "9007199254740992": not an integer, or too large`},
		{"event type", systemd(`{"eventType":null}`), `content: eventType: not a string`},
		{"name of an NvPCR", systemd(`{"nvIndexName":[]}`), `content: nvIndexName: not a string`},
		{"ours: type", kexec(`{"eventType":"kexec","type":"EV_NONE"}`), `content: event type "EV_NONE": unknown`},
		{"ours: size", kexec(`{"eventType":"kexec","type":"EV_IPL","size":"1"}`), `content: size: "\"1\"": not an integer, or too large`},
		{"ours: image", kexec(`{"eventType":"kexec","type":"EV_IPL","image":"00"}`), `content: image: digest "00": 1 bytes, but sha256 has 32`},
		{"ours: description", kexec(`{"eventType":"kexec","type":"EV_IPL","description":{}}`), `content: description: not a string`},
		{"ours: incomplete", kexec(`{"eventType":"kexec","type":"EV_IPL","incomplete":null}`), `content: incomplete: not a boolean`},
	} {
		u, err := eventlog.ParseUserspace([]byte(c.log))
		if err == nil || !strings.HasSuffix(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "userspace log: ") {
			t.Errorf("%s: %v, %v\nwant %s", c.name, u, err, c.want)
		}
	}
}

// TestAcceptedUserspace: what a strict reader still has to take, and what it says of it.
func TestAcceptedUserspace(t *testing.T) {
	t.Parallel()
	two := []measure.Bank{measure.SHA1, measure.SHA384}
	for _, c := range []struct{ name, log, want string }{
		{"nothing", "", ""},
		{"no content type", record(`{"pcr":0,` + digestsOf("x", two...) + `}`), `0   content of type ""`},
		{"unknown content type", record(`{"pcr":0,` + digestsOf("x", two...) + `,"content_type":"ima_template","content":{"string":"y"}}`), `0   content of type "ima_template"`},
		{"no string, as ours once had", record(`{"pcr":23,` + digestsOf("x", two...) + `,"content_type":"systemd","content":{"eventType":"phase"}}`), "23 phase  no text"},
		{"unknown event type", record(`{"pcr":12,` + digestsOf("x", two...) + `,"content_type":"systemd","content":{"string":"y","eventType":"imds-userdata"}}`), "12 imds-userdata other y (not what was hashed)"},
		{"unknown event type that hashes", record(`{"pcr":12,` + digestsOf("x", two...) + `,"content_type":"systemd","content":{"string":"x","eventType":"zip"}}`), "12 zip hashed x"},
		{"HMAC", record(`{"pcr":15,` + digestsOf("x", two...) + `,"content_type":"systemd","content":{"string":"cryptsetup:root:1","eventType":"volume-key"}}`), "15 volume-key hmac cryptsetup:root:1 (HMAC with the volume key)"},
		{"not escaped though it could be", record(`{"nv_index":30474753,` + digestsOf(`a\x3ab`, two...) + `,"content_type":"systemd","content":{"string":"a\\x3ab","eventType":"keyslot","nvIndexName":"cryptsetup"}}`), `-1 keyslot hashed NvPCR cryptsetup: a\x3ab`},
		{"SM3 alone", record(`{"pcr":1,"digests":[{"hashAlg":"sm3_256","digest":"` + strings.Repeat("00", 32) + `"}],"content_type":"systemd","content":{"string":"y","eventType":"phase"}}`), "1 phase other y (not what was hashed)"},
		{"white space, recnum", record(" {\n\"recnum\" : 7, \"pcr\" :1 , " + digestsOf("x", two...) + " } \n"), `1   content of type ""`},
		{"ours, of a later version", record(`{"pcr":11,` + digestsOf("x", two...) + `,"content_type":"mkexec","content":{"eventType":"luo"}}`), `11 luo  content of type "mkexec"`},
	} {
		u, err := eventlog.ParseUserspace([]byte(c.log))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		got := ""
		for _, r := range u.Records {
			got += fmt.Sprintf("%d %s %s %s", r.PCR, r.EventType, r.Text, r.Describe())
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// TestStamp: what is written is read again, and what could not be is not written.
// That systemd reads it is shown in package logfile.
func TestStamp(t *testing.T) {
	t.Parallel()
	s := eventlog.Stamp{BootID: strings.Repeat("0f", 16), Timestamp: 1234567 * time.Microsecond, Image: measure.SHA256.Sum([]byte("image")), Incomplete: true}
	ev := measure.Event{PCR: 12, Type: measure.EventTag, Description: "<\x1e\x00é\">", Size: 1 << 40, Digests: map[measure.Bank]measure.Digest{}}
	ev.Digests[measure.SHA512], ev.Digests[measure.SHA1] = measure.SHA512.Sum(nil), measure.SHA1.Sum(nil)
	if b, err := s.Kexec(ev); err == nil || !strings.HasSuffix(err.Error(), "content: description: NUL in it") {
		t.Errorf("%q, %v", b, err)
	}
	ev.Description = "<\x1eé\">"
	b, err := s.Kexec(ev)
	if err != nil {
		t.Fatal(err)
	}
	r := parseLog(t, b).Records[0]
	if got := r.Event(); !reflect.DeepEqual(got, ev) || r.BootID != s.BootID || r.Timestamp != s.Timestamp || !bytes.Equal(r.Kexec.Image, s.Image) || !r.Kexec.Incomplete {
		t.Errorf("%+v, %+v", r, r.Kexec)
	}
	if !json.Valid(b[1:]) || bytes.Count(b, []byte("\x1e")) != 1 || bytes.Contains(b, []byte(`"string"`)) {
		t.Errorf("%q", b)
	}
	// as systemd 262 wrote it, but for when and where
	want := parseLog(t, readFile(t, "testdata/systemd/systemd-262.log")).Records[0]
	s.BootID, s.Timestamp = want.BootID, want.Timestamp
	b, err = s.Word("enter-initrd", measure.Banks())
	if first, _, _ := bytes.Cut(readFile(t, "testdata/systemd/systemd-262.log"), []byte("\n")); err != nil || string(b) != string(first)+"\n" {
		t.Errorf("%q, %v, want %q", b, err, first)
	}
	for _, c := range []struct {
		stamp eventlog.Stamp
		ev    measure.Event
		want  string
	}{
		{eventlog.Stamp{BootID: "1-2"}, ev, `bootId "1-2": not 32 hexadecimal digits`},
		{s, measure.Event{PCR: 24, Digests: ev.Digests}, "pcr 24: not 0 to 23"},
		{s, measure.Event{PCR: 1}, "digests: not an array with something in it"},
		{s, measure.Event{Type: 0x99, Digests: ev.Digests}, `event type "0x00000099": unknown`},
	} {
		if b, err := c.stamp.Kexec(c.ev); err == nil || !strings.HasSuffix(err.Error(), c.want) {
			t.Errorf("%q, %v, want %s", b, err, c.want)
		}
	}
}

// TestTimeline has values computed here: the states of PCRs, and the hops.
func TestTimeline(t *testing.T) {
	t.Parallel()
	a, b := strings.Repeat("a", 32), strings.Repeat("b", 32)
	word := func(pcr int, text, boot string) string {
		return record(fmt.Sprintf(`{"pcr":%d,%s,"content_type":"systemd","content":{"string":"%s","bootId":"%s","eventType":"phase"}}`, pcr, digestsOf(text, measure.SHA256), text, boot))
	}
	other := record(fmt.Sprintf(`{"pcr":4,%s,"content_type":"x","content":1}`, digestsOf("x", measure.SHA1)))
	u := parseLog(t, []byte(word(11, "one", a)+word(11, "two", a)+word(9, "one", b)+other+word(11, "three", b)+word(23, "x", a)))
	line := eventlog.Timeline{Records: u.Records}
	var hops []int
	for _, s := range line.Steps() {
		hops = append(hops, s.Hop)
	}
	if !slices.Equal(hops, []int{1, 1, 2, 2, 2, 3}) {
		t.Errorf("hops %v", hops)
	}
	extend := func(words ...string) measure.Digest {
		v := make(measure.Digest, 32)
		for _, w := range words {
			v = measure.SHA256.Sum(append(v, measure.SHA256.Sum([]byte(w))...))
		}
		return v
	}
	ff := measure.Digest(bytes.Repeat([]byte{0xFF}, 32))
	for _, c := range []struct {
		pcr         measure.PCR
		tpm         measure.Digest
		state       eventlog.State
		last, match int
	}{
		{11, extend("one", "two", "three"), eventlog.Replayed, 5, 5},
		{11, extend("one", "two"), eventlog.Behind, 5, 2},
		{11, extend(), eventlog.Behind, 5, 0},
		{11, extend("two", "one", "three"), eventlog.Differs, 5, 0},
		{11, extend("one", "two", "three", "four"), eventlog.Differs, 5, 0},
		{9, extend("one"), eventlog.Replayed, 3, 3},
		{4, extend("x"), eventlog.NoDigest, 4, 0},
		{0, extend(), eventlog.Untouched, 0, 0},
		{0, extend("one"), eventlog.Unlogged, 0, 0},
		{15, ff, eventlog.Unlogged, 0, 0},
		{10, extend("one"), eventlog.NotJudged, 0, 0},
		{16, extend("one"), eventlog.NotJudged, 0, 0},
		{17, ff, eventlog.NotJudged, 0, 0},
		{23, extend(), eventlog.NotJudged, 6, 0},
	} {
		live := measure.PCRs{measure.SHA256: {c.pcr: c.tpm}, measure.SHA512: {c.pcr: make(measure.Digest, 64)}}
		got := line.Judge(live)
		if len(got) != 1 || got[0].State != c.state || got[0].Last != c.last || got[0].Match != c.match || got[0].PCR != c.pcr || !bytes.Equal(got[0].TPM, c.tpm) {
			t.Errorf("PCR %d, %s: %+v", c.pcr, c.state, got)
		}
		if no := slices.Contains([]eventlog.State{eventlog.Behind, eventlog.Differs, eventlog.NoDigest, eventlog.Unlogged}, c.state); got[0].State.No() != no {
			t.Errorf("%s: a no: %v", c.state, !no)
		}
	}
}

// TestWholeTimeline: firmware and what systemd extends after it. The TPM is
// computed from what it held when the firmware was done.
func TestWholeTimeline(t *testing.T) {
	t.Parallel()
	firmware, err := eventlog.ParseFirmware(readFile(t, "testdata/vm/sidecar.bin"))
	if err != nil {
		t.Fatal(err)
	}
	var live measure.PCRs
	if err := json.Unmarshal(readFile(t, "testdata/vm/sidecar.json"), &live); err != nil {
		t.Fatal(err)
	}
	u := parseLog(t, readFile(t, "testdata/systemd/systemd-262.log"))
	line := eventlog.Timeline{Firmware: firmware, Records: u.Records}
	noes := func() (n int) {
		for _, v := range line.Judge(live) {
			if v.State.No() {
				n++
			}
		}
		return n
	}
	if n := noes(); n != 4*len(live) || len(live) < 3 { // PCRs 9, 11, 12, 15
		t.Errorf("before: %d", n)
	}
	for _, r := range u.Records {
		for bank, d := range r.Digests {
			if r.PCR >= 0 && live[bank] != nil {
				live[bank][r.PCR] = bank.Sum(append(slices.Clone(live[bank][r.PCR]), d...))
			}
		}
	}
	if n := noes(); n != 0 {
		t.Errorf("after: %d", n)
	}

	// go-attestation agrees, given the records in the form of firmware
	more := []byte(specID(0x000B, 32))
	for _, r := range u.Records {
		if r.PCR < 0 {
			continue
		}
		more = binary.LittleEndian.AppendUint32(more, uint32(r.PCR))
		more = binary.LittleEndian.AppendUint32(more, uint32(measure.EventIPL))
		more = append(more, 1, 0, 0, 0, 0x0B, 0)
		more = append(more, r.Digests[measure.SHA256]...)
		more = append(more, 0, 0, 0, 0)
	}
	whole, err := attest.AppendEvents(readFile(t, "testdata/vm/sidecar.bin"), more)
	if err != nil {
		t.Fatal(err)
	}
	other, err := attest.ParseEventLog(whole)
	if err != nil {
		t.Fatal(err)
	}
	verify := func() error {
		var values []attest.PCR
		for n, v := range live[measure.SHA256] {
			if eventlog.Judged(n) {
				values = append(values, attest.PCR{Index: int(n), Digest: v, DigestAlg: crypto.SHA256})
			}
		}
		_, err := other.Verify(values)
		return err
	}
	if err := verify(); err != nil {
		t.Error(err)
	}
	live[measure.SHA256][15][0] ^= 1
	if err := verify(); err == nil {
		t.Error("go-attestation takes anything")
	}
}

func TestIMA(t *testing.T) {
	t.Parallel()
	sum := "sha256:" + strings.Repeat("0a", 32)
	line := func(template, rest string) string {
		return "10 91f34b5c671d73504b274a919661cf80dab1e127 " + template + " " + sum + " " + rest + "\n"
	}
	list := line("ima-ng", "boot_aggregate") + line("ima-sig", "memfd:kernel 030204") + line("ima-ng", "/usr/bin/with space") +
		line("ima-buf", "kexec-cmdline "+hex.EncodeToString([]byte("quiet\n"))) + line("ima-buf", "kexec_execute 00")
	l, err := eventlog.ParseIMA(strings.NewReader(list))
	want := []eventlog.IMARecord{{2, sum, "memfd:kernel", ""}, {4, sum, "kexec-cmdline", "quiet\n"}, {5, sum, "kexec_execute", "\x00"}}
	if err != nil || l.Count != 5 || !slices.Equal(l.Kexec, want) {
		t.Errorf("%+v, %v", l, err)
	}
	for _, c := range []struct{ list, want string }{
		{"10 aa ima-ng x\n", `IMA: record 1: "10 aa ima-ng x": fewer than 5 fields`},
		{line("ima-ng", "x") + line("ima-buf", "kexec-cmdline zz"), `IMA: record 2: buffer "zz": not hexadecimal`},
		{line("ima-ng", strings.Repeat("x", 1<<20)), "IMA: record 1: longer than 1048576 bytes"},
	} {
		if l, err := eventlog.ParseIMA(strings.NewReader(c.list)); err == nil || err.Error() != c.want {
			t.Errorf("%+v, %v, want %s", l, err, c.want)
		}
	}
}

func FuzzParseUserspace(f *testing.F) {
	for _, name := range append(recorded, "sample") {
		f.Add(readFile(f, "testdata/systemd/"+name+".log"))
	}
	f.Add([]byte("\x1e{}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		u, err := eventlog.ParseUserspace(data)
		if err != nil {
			return
		}
		line := eventlog.Timeline{Records: u.Records}
		if _, err := line.CEL(); err != nil {
			t.Errorf("what was read cannot be written: %v", err)
		}
		line.Judge(measure.Zero(measure.Banks(), 0, 11))
		if bytes.Count(data, []byte("\x1e")) != len(u.Records) {
			t.Errorf("%d records", len(u.Records))
		}
	})
}
