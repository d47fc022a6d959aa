package luks2_test

// What headers are accepted, which of the copies is taken, and with which words
// others are refused; where cryptsetup is installed, that it takes and refuses
// the same ones. It does not prove that a volume opens that has a header which
// is accepted here: key slots and segments are not looked at.

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/mkexec/mkexec/measure/tpm/tpmtest"
	"github.com/mkexec/mkexec/policy/luks2"
)

// area is the size of a copy in several.hdr.
const area = 16 << 10

func open(data []byte) (*luks2.Header, error) {
	return luks2.Open(bytes.NewReader(data), int64(len(data)))
}

// seal writes the checksum of the copy at an offset.
func seal(data []byte, offset int) {
	size := binary.BigEndian.Uint64(data[offset+8:])
	field := data[offset+448:][:64]
	clear(field)
	switch string(bytes.TrimRight(data[offset+72:][:32], "\x00")) {
	case "sha256":
		sum := sha256.Sum256(data[offset:][:size])
		copy(field, sum[:])
	case "sha512":
		sum := sha512.Sum512(data[offset:][:size])
		copy(field, sum[:])
	}
}

// build makes a header with two copies of a JSON text.
func build(size int, text string) []byte {
	data := make([]byte, 2*size)
	for i, magic := range []string{"LUKS\xba\xbe", "SKUL\xba\xbe"} {
		b := data[i*size:][:size]
		copy(b, magic)
		binary.BigEndian.PutUint16(b[6:], 2)
		binary.BigEndian.PutUint64(b[8:], uint64(size))
		binary.BigEndian.PutUint64(b[16:], 1)
		copy(b[72:], "sha256")
		copy(b[168:], "00000000-0000-0000-0000-000000000000")
		binary.BigEndian.PutUint64(b[256:], uint64(i*size))
		copy(b[4096:], text)
		seal(data, i*size)
	}
	return data
}

func TestOpen(t *testing.T) {
	t.Parallel()
	h, err := open(read(t, "live/several.hdr"))
	if err != nil {
		t.Fatal(err)
	}
	if h.UUID != strings.TrimSpace(string(read(t, "live/several.uuid"))) || h.Label != "several" || h.Damage != "" || h.SequenceID < 5 {
		t.Errorf("%+v", h)
	}
	tokens, err := h.Tokens()
	if err != nil {
		t.Fatal(err)
	}
	var want struct{ Tokens json.RawMessage }
	if err := json.Unmarshal(read(t, "live/several.json"), &want); err != nil {
		t.Fatal(err)
	}
	same, err := luks2.ParseTokens(want.Tokens)
	if err != nil || !reflect.DeepEqual(tokens, same) {
		t.Errorf("%v\n got %+v\nwant %+v", err, tokens, same)
	}
	var got []string
	for _, tok := range tokens {
		got = append(got, fmt.Sprintf("%d %s %v %v %v %v %t %t %v", tok.Number, tok.Type, tok.Keyslot, tok.PCRs, tok.Bank.Size(), tok.SignedPCRs, tok.PCRLock, tok.PIN, tok.Err))
	}
	if strings.Join(got, "\n") != `0 systemd-tpm2 1 [7 11] 32 [] false false <nil>
1 systemd-tpm2 2 [] 32 [11] false false <nil>
2 systemd-tpm2 3 [] 0 [] true false <nil>
7 clevis 0 [] 0 [] false false type "clevis": not supported: cannot tell` {
		t.Error(strings.Join(got, "\n"))
	}
	state := recorded(t).States["A"]
	src := sources(t, "live", "signature.json")
	for _, tok := range tokens[:3] {
		if err := tok.Policy(src).Check(state); err != nil {
			t.Errorf("%d: %v", tok.Number, err)
		}
	}
}

// A change is done to several.hdr. If the error is empty it is accepted, with the
// words about the damage.
type change struct {
	name          string
	change        func(b []byte) []byte
	damage, error string
	// other: cryptsetup is of another mind, for a reason
	other string
}

// in changes a copy and seals it.
func in(offset int, f func(b []byte)) func(b []byte) []byte {
	return func(b []byte) []byte {
		f(b[offset:][:area])
		seal(b, offset)
		return b
	}
}

// both changes both copies.
func both(f func(b []byte)) func(b []byte) []byte {
	return func(b []byte) []byte { return in(area, f)(in(0, f)(b)) }
}

// raw changes a byte, and no checksum.
func raw(offset int) func(b []byte) []byte {
	return func(b []byte) []byte { b[offset] ^= 1; return b }
}

func replace(old, new string) func(b []byte) {
	return func(b []byte) {
		text := bytes.TrimRight(b[4096:], "\x00")
		changed := bytes.Replace(text, []byte(old), []byte(new), 1)
		if bytes.Equal(text, changed) {
			panic(old)
		}
		clear(b[4096:])
		copy(b[4096:], changed)
	}
}

func changes() []change {
	u64 := func(at int, n uint64) func(b []byte) {
		return func(b []byte) { binary.BigEndian.PutUint64(b[at:], n) }
	}
	set := func(at int, text string) func(b []byte) { return func(b []byte) { copy(b[at:], text) } }
	return []change{
		{"nothing", func(b []byte) []byte { return b }, "", "", ""},
		{"first copy: a bit of the checksum", raw(448), "the first copy is damaged (checksum (sha256) is X, but it says X), the second is used", "", ""},
		{"first copy: a bit of the JSON", raw(4096 + 100), "the first copy is damaged (checksum (sha256) is X, but it says X), the second is used", "", ""},
		{"first copy: a bit of the padding", raw(4000), "the first copy is damaged (checksum (sha256) is X, but it says X), the second is used", "", ""},
		{"first copy: a bit of the magic", raw(0), "the first copy is damaged (no magic at offset 0), the second is used", "", ""},
		{"first copy: a bit of the size", raw(13), "the first copy is damaged (size 81920: not 16 KiB to 4 MiB in powers of two), the second is used", "", ""},
		{"second copy: a bit of the checksum", raw(area + 448), "the second copy is damaged (checksum (sha256) is X, but it says X)", "", ""},
		{"second copy: a bit of the magic", raw(area), "the second copy is damaged (no magic at offset 16384)", "", ""},
		{"no second copy", func(b []byte) []byte { return b[:area] }, "the second copy is damaged (0 bytes at offset 16384: too short)", "", "cryptsetup wants as many bytes as the key slots need"},
		{"half a second copy", func(b []byte) []byte { return b[:area+8192] }, "the second copy is damaged (size 16384 at offset 16384, but there are 24576 bytes)", "", "as above"},
		{"both copies: a bit of the checksum", func(b []byte) []byte { return raw(area + 448)(raw(448)(b)) }, "",
			"LUKS2 header: first copy: checksum (sha256) is X, but it says X; second copy: checksum (sha256) is X, but it says X", ""},
		{"first copy older", in(0, u64(16, 1)), "the first copy is older (sequence id 1, not N), the second is used", "", ""},
		{"second copy older", in(area, u64(16, 1)), "the second copy is older (sequence id 1, not N)", "", ""},
		{"sha512", both(set(72, "sha512")), "", "", ""},
		{"another label in the first", in(0, set(24, "other\x00\x00")), "", "", ""},

		{"empty", func([]byte) []byte { return nil }, "", "LUKS2 header: first copy: 0 bytes at offset 0: too short; second copy: no magic", ""},
		{"a byte too short", func(b []byte) []byte { return b[:4095] }, "", "LUKS2 header: first copy: 4095 bytes at offset 0: too short; second copy: no magic", ""},
		{"zeros", func([]byte) []byte { return make([]byte, 1<<20) }, "", "LUKS2 header: first copy: no magic at offset 0; second copy: no magic", ""},
		{"half a first copy", func(b []byte) []byte { return b[:8192] }, "", "LUKS2 header: first copy: size 16384 at offset 0, but there are 8192 bytes; second copy: no magic", ""},
		{"LUKS1", func(b []byte) []byte { b[7] = 1; return b[:area] }, "", "LUKS2 header: first copy: version 1: LUKS1, which has no tokens; second copy: no magic", ""},
		{"version 3", both(func(b []byte) { b[7] = 3 }), "", "LUKS2 header: first copy: version 3: not supported; second copy: version 3: not supported", ""},
		{"size 0", both(u64(8, 0)), "", "LUKS2 header: first copy: size 0: not 16 KiB to 4 MiB in powers of two; second copy: size 0: not 16 KiB to 4 MiB in powers of two", ""},
		{"size 2^63", func(b []byte) []byte { u64(8, 1<<63)(b); u64(8, 1<<63)(b[area:]); return b }, "",
			"LUKS2 header: first copy: size 9223372036854775808: not 16 KiB to 4 MiB in powers of two; second copy: size 9223372036854775808: not 16 KiB to 4 MiB in powers of two", ""},
		{"size of 4 MiB that is not there", func(b []byte) []byte { u64(8, 4<<20)(b); u64(8, 4<<20)(b[area:]); return b }, "",
			"LUKS2 header: first copy: size 4194304 at offset 0, but there are 32768 bytes; second copy: size 4194304, but its offset is 16384", ""},
		{"another offset", both(u64(256, 4096)), "", "LUKS2 header: first copy: at offset 0, but it says 4096; second copy: at offset 16384, but it says 4096", ""},
		{"the second copy first", func(b []byte) []byte { return append(b[area:], b[:area]...) }, "",
			"LUKS2 header: first copy: no magic at offset 0; second copy: no magic", ""},
		{"checksum algorithm", both(set(72, "md5\x00\x00\x00")), "",
			"LUKS2 header: first copy: checksum algorithm \"md5\": not supported; second copy: checksum algorithm \"md5\": not supported", ""},
		{"no checksum algorithm", both(set(72, "\x00\x00\x00\x00\x00\x00")), "",
			"LUKS2 header: first copy: checksum algorithm \"\": not supported; second copy: checksum algorithm \"\": not supported", ""},

		{"JSON to the end", both(func(b []byte) {
			for i := range b[4096:] {
				b[4096+i] = ' '
			}
		}), "", "LUKS2 header: first copy: JSON area: no NUL at its end; second copy: JSON area: no NUL at its end", ""},
		{"no JSON", both(func(b []byte) { clear(b[4096:]) }), "",
			"LUKS2 header: first copy: JSON area: not JSON: unexpected EOF; second copy: JSON area: not JSON: unexpected EOF", ""},
		{"a byte behind", both(func(b []byte) { b[area-1] = 'x' }), "",
			"LUKS2 header: first copy: JSON area: byte 0x78 behind the NUL; second copy: JSON area: byte 0x78 behind the NUL", ""},
		{"first copy: a byte behind", in(0, func(b []byte) { b[area-1] = 'x' }), "the first copy is damaged (JSON area: byte 0x78 behind the NUL), the second is used", "", ""},
		{"white space before", both(replace("{", " {")), "",
			"LUKS2 header: first copy: JSON area: begins with byte 0x20; second copy: JSON area: begins with byte 0x20", ""},
		{"another object behind", both(func(b []byte) { copy(b[4096+len(bytes.TrimRight(b[4096:], "\x00")):], "{}") }), "",
			"LUKS2 header: first copy: JSON area: something behind the object; second copy: JSON area: something behind the object", ""},
		{"a list", both(func(b []byte) { clear(b[4096:]); copy(b[4096:], "[]") }), "",
			"LUKS2 header: first copy: JSON area: begins with byte 0x5b; second copy: JSON area: begins with byte 0x5b", ""},
		{"cut off", both(func(b []byte) { clear(b[4096+500:]) }), "",
			"LUKS2 header: first copy: JSON area: not JSON: unexpected EOF; second copy: JSON area: not JSON: unexpected EOF", ""},
		{"not UTF-8", both(replace(`"segments"`, "\"seg\xffments\"")), "", "LUKS2 header: first copy: JSON area: not UTF-8; second copy: JSON area: not UTF-8", ""},
		{"a key twice", both(replace(`"segments":`, `"tokens":{},"segments":`)), "",
			`LUKS2 header: first copy: JSON area: "tokens" twice; second copy: JSON area: "tokens" twice`, "cryptsetup takes the last"},
		{"no config", both(replace(`"config"`, `"Config"`)), "", "LUKS2 header: first copy: JSON area: no config; second copy: JSON area: no config", ""},
		{"no json_size", both(replace(`"json_size"`, `"jsonsize"`)), "", "LUKS2 header: first copy: JSON area: config: no json_size; second copy: JSON area: config: no json_size", ""},
		{"another json_size", both(replace(`"json_size":"12288"`, `"json_size":"16384"`)), "",
			`LUKS2 header: first copy: JSON area: config: json_size "16384", but it has 12288 bytes; second copy: JSON area: config: json_size "16384", but it has 12288 bytes`, ""},
		{"a number for json_size", both(replace(`"json_size":"12288"`, `"json_size":12288`)), "",
			"LUKS2 header: first copy: JSON area: config: json_size: the number 12288 is not expected here; second copy: JSON area: config: json_size: the number 12288 is not expected here", ""},
	}
}

// words replaces digests and the sequence id of several.hdr.
func words(t *testing.T, s string) string {
	h, err := open(read(t, "live/several.hdr"))
	if err != nil {
		t.Fatal(err)
	}
	s = digests.ReplaceAllString(s, "X")
	return strings.Replace(s, fmt.Sprintf("not %d)", h.SequenceID), "not N)", 1)
}

func TestOpenChanged(t *testing.T) {
	t.Parallel()
	for _, c := range changes() {
		h, err := open(c.change(read(t, "live/several.hdr")))
		if err != nil {
			if got := words(t, err.Error()); got != c.error {
				t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.error)
			}
			continue
		}
		if got := words(t, h.Damage); c.error != "" || got != c.damage {
			t.Errorf("%s: accepted, %s\nwant %s%s", c.name, got, c.damage, c.error)
		}
		if tokens, err := h.Tokens(); err != nil || len(tokens) != 4 {
			t.Errorf("%s: %d tokens, %v", c.name, len(tokens), err)
		}
	}
}

// TestCryptsetup: cryptsetup accepts and refuses the same headers.
func TestCryptsetup(t *testing.T) {
	t.Parallel()
	tpmtest.Require(t, "cryptsetup")
	dir := t.TempDir()
	for i, c := range changes() {
		path := filepath.Join(dir, fmt.Sprint(i))
		data := c.change(read(t, "live/several.hdr"))
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if len(data) == 2*area { // room for the key slots, which cryptsetup wants
			if err := os.Truncate(path, 3<<20); err != nil {
				t.Fatal(err)
			}
		}
		out, err := exec.Command("cryptsetup", "luksDump", "--dump-json-metadata", path).Output()
		if (err == nil) != (c.error == "") != (c.other != "") {
			t.Errorf("%s: cryptsetup says %v, but here %q", c.name, err, c.error)
		}
		if err != nil || c.error != "" {
			continue
		}
		var dump struct{ Tokens json.RawMessage }
		if err := json.Unmarshal(out, &dump); err != nil {
			t.Fatal(err)
		}
		want, err := luks2.ParseTokens(dump.Tokens)
		if err != nil {
			t.Fatal(err)
		}
		h, err := open(data)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := h.Tokens(); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: other tokens, %v", c.name, err)
		}
	}
}

const smallest = `{"keyslots":{},"tokens":%s,"config":{"json_size":"%d"}}`

// TestSizes opens headers of every size that there is, and looks for the second
// copy where the first is damaged.
func TestSizes(t *testing.T) {
	t.Parallel()
	for kib := 16; kib <= 4096; kib *= 2 {
		size := kib << 10
		data := build(size, fmt.Sprintf(smallest, "{}", size-4096))
		if h, err := open(data); err != nil || h.Damage != "" {
			t.Errorf("%d KiB: %v", kib, err)
		}
		data[0] = 0
		if h, err := open(data); err != nil || !strings.Contains(h.Damage, "the second is used") {
			t.Errorf("%d KiB, second copy: %v", kib, err)
		}
		data[size] = 0
		if _, err := open(data); err == nil {
			t.Errorf("%d KiB: no copy, but accepted", kib)
		}
	}
	if _, err := open(build(24<<10, fmt.Sprintf(smallest, "{}", 20<<10))); err == nil {
		t.Error("24 KiB: accepted")
	}
}

// TestHuge: JSON that fills 4 MiB, in ways that cost time or depth.
func TestHuge(t *testing.T) {
	t.Parallel()
	const size = 4 << 20
	fill := func(open, one, shut string) string {
		n := (size - 4096 - 300 - len(open) - len(shut)) / len(one)
		return open + strings.Repeat(one, n) + shut
	}
	for _, test := range []struct{ name, tokens, open, list string }{
		{"deep", strings.Repeat(`{"a":`, 200000), "LUKS2 header: first copy: JSON area: not JSON: invalid character '{' exceeded max depth; second copy: JSON area: not JSON: invalid character '{' exceeded max depth", ""},
		{"deep, less so", strings.Repeat(`{"0":`, 5000) + "0" + strings.Repeat("}", 5000), "", "LUKS2 header: tokens: 0: no type"},
		{"a long list", fill(`{"0":{"type":"systemd-tpm2","keyslots":["1"],"tpm2-pcrs":[`, "7,", `7]}}`), "", ""},
		{"many tokens", fill(`{"0":{"type":"x","keyslots":[]}`, `,"1":{}`, "}"), "", `LUKS2 header: tokens: "1" twice`},
		{"many key slots", fill(`{"0":{"type":"x","keyslots":["1"`, `,"1"`, "]}}"), "", ""},
		{"a long text", fill(`{"0":{"type":"`, "x", `","keyslots":[]}}`), "", ""},
		{"a long field", fill(`{"0":{"type":"systemd-tpm2","keyslots":["1"],"tpm2-pcrs":[],"tpm2-blob":"`, "AAAA", `","tpm2-policy-hash":""}}`), "", ""},
	} {
		h, err := open(build(size, fmt.Sprintf(smallest, test.tokens, size-4096)))
		if err == nil && test.open == "" {
			_, err = h.Tokens()
		}
		if got, want := fmt.Sprint(err), test.open+test.list; got != want && (want != "" || err != nil) {
			t.Errorf("%s:\n got %.300s\nwant %s", test.name, got, want)
		}
	}
}

func TestTokensRefuses(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, json, want string }{
		{"no keyslots", `{"tokens":{},"config":{"json_size":"12288"}}`, "LUKS2 header: no keyslots"},
		{"no tokens", `{"keyslots":{},"config":{"json_size":"12288"}}`, "LUKS2 header: no tokens"},
		{"a list of tokens", fmt.Sprintf(smallest, "[]", 12288), "LUKS2 header: tokens: not an object"},
		{"a token that is none", fmt.Sprintf(smallest, `{"0":null}`, 12288), "LUKS2 header: tokens: 0: not an object"},
		{"no type", fmt.Sprintf(smallest, `{"0":{}}`, 12288), "LUKS2 header: tokens: 0: no type"},
		{"a key slot that is not there", fmt.Sprintf(smallest, `{"3":`+string(recorded(t).Tokens["none"].Token)+`}`, 12288),
			"LUKS2 header: tokens: 3 is for key slot 1, which is not there"},
	} {
		h, err := open(build(area, test.json))
		if err != nil {
			t.Fatal(test.name, err)
		}
		if _, err := h.Tokens(); fmt.Sprint(err) != test.want {
			t.Errorf("%s:\n got %v\nwant %s", test.name, err, test.want)
		}
	}
}

// broken is a disk that cannot be read from an offset on.
type broken struct {
	data []byte
	from int64
	err  error
}

func (b broken) ReadAt(p []byte, offset int64) (int, error) {
	if offset+int64(len(p)) > b.from {
		return 0, b.err
	}
	return bytes.NewReader(b.data).ReadAt(p, offset)
}

func TestUnreadable(t *testing.T) {
	t.Parallel()
	data := read(t, "live/several.hdr")
	bad := errors.New("bad sector")
	for _, test := range []struct {
		from          int64
		err           error
		damage, error string
	}{
		{area, bad, "the second copy is damaged (read 4096 bytes at offset 16384: bad sector)", ""},
		{area - 1, bad, "", "LUKS2 header: first copy: read 16384 bytes at offset 0: bad sector; second copy: read 4096 bytes at offset 16384: bad sector"},
		{0, io.EOF, "", "LUKS2 header: first copy: read 4096 bytes at offset 0: EOF; second copy: read 4096 bytes at offset 16384: EOF"},
		{0, nil, "", "LUKS2 header: first copy: read 4096 bytes at offset 0: unexpected EOF; second copy: read 4096 bytes at offset 16384: unexpected EOF"},
	} {
		h, err := luks2.Open(broken{data, test.from, test.err}, int64(len(data)))
		if test.error != "" {
			if fmt.Sprint(err) != test.error || test.err != nil && !errors.Is(err, test.err) {
				t.Errorf("\n got %v\nwant %s", err, test.error)
			}
		} else if err != nil || h.Damage != test.damage {
			t.Errorf("%v, %+v", err, h)
		}
	}
}

// FuzzHeader: a header with any JSON and one byte changed has the tokens that the
// JSON has, or is refused; its checksums are right.
func FuzzHeader(f *testing.F) {
	r := recorded(f)
	seed := func(tokens string) string { return fmt.Sprintf(smallest, tokens, area-4096) }
	f.Add([]byte(seed("{}")), uint16(0), byte(0))
	f.Add([]byte(strings.Replace(seed(`{"0":`+string(r.Tokens["literal"].Token)+`}`), `"keyslots":{}`, `"keyslots":{"1":{}}`, 1)), uint16(4096), byte(0))
	for _, at := range []uint16{0, 7, 13, 23, 72, 256, 263, 448, area, area + 16, area + 256} {
		f.Add([]byte(seed(`{"1":{"type":"x","keyslots":[]}}`)), at, byte(1))
	}
	f.Fuzz(func(t *testing.T, text []byte, at uint16, bits byte) {
		data := build(area, string(text[:min(len(text), area-4096)]))
		data[int(at)%len(data)] ^= bits
		for _, offset := range []int{0, area} {
			if binary.BigEndian.Uint64(data[offset+8:]) == area {
				seal(data, offset)
			}
		}
		h, err := open(data)
		if err != nil {
			if len(err.Error()) > 1000 {
				t.Fatalf("an error of %d bytes", len(err.Error()))
			}
			return
		}
		tokens, err := h.Tokens()
		if err != nil {
			return
		}
		used := data
		if strings.Contains(h.Damage, "the second is used") {
			used = data[area:]
		}
		var want struct{ Tokens json.RawMessage }
		if err := json.Unmarshal(bytes.TrimRight(used[4096:area], "\x00"), &want); err != nil {
			t.Fatal(err)
		}
		same, err := luks2.ParseTokens(want.Tokens)
		if len(tokens) == 0 {
			return
		}
		if err != nil || len(same) != len(tokens) || same[0].Type != tokens[0].Type {
			t.Fatalf("%v\n got %v\nwant %v", err, tokens, same)
		}
	})
}
