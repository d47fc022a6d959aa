package pcrsig_test

// What is refused, and with which words. It does not prove that encoding/json
// refuses all that RFC 8259 does.

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/policy"
	"github.com/mkexec/mkexec/policy/pcrsig"
)

const (
	goodFP  = "caccb33bfdac557660f938c2caee59c5d6e954217bcbd083f0382e950301f26a"
	goodPol = "2ad3fafe8f2fdeb320539b7f13d931320348f6bbf0b9e41a0aba638c9e2e3c2b"
)

// one is a file with one entry, with a text in it replaced.
func one(old, new string) string {
	const good = `{"sha256":[{"pcrs":[11],"pkfp":"` + goodFP + `","pol":"` + goodPol + `","sig":"AAEC"}]}`
	if !strings.Contains(good, old) {
		panic(old)
	}
	return strings.Replace(good, old, new, 1)
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, file, want string }{
		{"empty", "", "offset 0: unexpected end of JSON input"},
		{"cut", one(`"}]}`, `"}]`), "offset 185: unexpected end of JSON input"},
		{"two", one("", "") + "{}", "offset 187: invalid character '{' after top-level value"},
		{"NUL behind", one("", "") + "\x00", `offset 187: invalid character '\x00' after top-level value`},
		{"not UTF-8", "{\"\xff\":[]}", "not UTF-8"},
		{"too large", one("", "") + strings.Repeat(" ", pcrsig.MaxSize), "more than 1048576 bytes"},
		{"deep", strings.Repeat("[", 20000), "offset 10001: invalid character '[' exceeded max depth"},
		{"null", "null", "not an object"},
		{"list", "[]", "not an object"},
		{"number", "1", "not an object"},
		{"unknown bank", one("sha256", "sha3_256"), `bank "sha3_256": unknown (known: sha1 sha256 sha384 sha512): cannot tell`},
		{"bank of another case", one("sha256", "SHA256"), `bank "SHA256": unknown (known: sha1 sha256 sha384 sha512): cannot tell`},
		{"long bank", one("sha256", strings.Repeat("x", 1000)), `bank "` + strings.Repeat("x", 32) + `": unknown (known: sha1 sha256 sha384 sha512): cannot tell`},
		{"bank twice", `{"sha1":[],"sha1":[]}`, `key "sha1" twice`},
		{"bank twice, escaped", `{"sha1":[],"\u0073ha1":[]}`, `key "sha1" twice`},
		{"bank an object", `{"sha1":{}}`, "sha1: not an array"},
		{"bank null", `{"sha1":null}`, "sha1: not an array"},
		{"entry null", `{"sha1":[null]}`, "sha1: entry 1: not an object"},
		{"entry a list", `{"sha1":[[]]}`, "sha1: entry 1: not an object"},
		{"entry empty", `{"sha1":[{}]}`, "sha1: entry 1: no pcrs"},
		{"second entry", one("]}", ",7]}"), "sha256: entry 2: not an object"},
		{"unknown key", one(`"pcrs"`, `"pcr":1,"pcrs"`), `sha256: entry 1: unknown key "pcr" (known: pcrs pkfp ref pol sig): cannot tell`},
		{"key of another case", one(`"pcrs"`, `"PCRs"`), `sha256: entry 1: unknown key "PCRs" (known: pcrs pkfp ref pol sig): cannot tell`},
		{"key twice", one(`"pcrs"`, `"pcrs":[11],"pcrs"`), `sha256: entry 1: key "pcrs" twice`},
		{"unsigned", string(read(t, "policy-digest.json")), `sha256: entry 1: unknown key "tbs" (known: pcrs pkfp ref pol sig): cannot tell`},
		{"no pkfp", one(`"pkfp":"`+goodFP+`",`, ""), "sha256: entry 1: no pkfp"},
		{"no pol", one(`"pol":"`+goodPol+`",`, ""), "sha256: entry 1: no pol"},
		{"no sig", one(`,"sig":"AAEC"`, ""), "sha256: entry 1: no sig"},

		{"pcrs empty", one("[11]", "[]"), "sha256: entry 1: pcrs: none"},
		{"pcrs null", one("[11]", "null"), "sha256: entry 1: pcrs: not an array"},
		{"pcrs a number", one("[11]", "11"), "sha256: entry 1: pcrs: not an array"},
		{"PCR null", one("[11]", "[null]"), `sha256: entry 1: pcrs: "null": not a number from 0 to 23`},
		{"PCR 24", one("[11]", "[24]"), `sha256: entry 1: pcrs: "24": not a number from 0 to 23`},
		{"PCR -1", one("[11]", "[-1]"), `sha256: entry 1: pcrs: "-1": not a number from 0 to 23`},
		{"PCR 1e1", one("[11]", "[1e1]"), `sha256: entry 1: pcrs: "1e1": not a number from 0 to 23`},
		{"PCR a text", one("[11]", `["11"]`), `sha256: entry 1: pcrs: "\"11\"": not a number from 0 to 23`},
		{"PCR huge", one("[11]", "["+strings.Repeat("9", 100)+"]"), `sha256: entry 1: pcrs: "99999999999999999999": not a number from 0 to 23`},
		{"PCR twice", one("[11]", "[11,7,11]"), "sha256: entry 1: pcrs: PCR 11 twice"},

		{"pkfp not hex", one(goodFP, "g"+goodFP[1:]), `sha256: entry 1: pkfp: "g` + goodFP[1:] + `": not hexadecimal`},
		{"pkfp short", one(goodFP, goodFP[2:]), `sha256: entry 1: pkfp: "` + goodFP[2:] + `": 31 bytes, not 32`},
		{"pkfp null", one(`"`+goodFP+`"`, "null"), "sha256: entry 1: pkfp: not a string"},
		{"pol not hex", one(goodPol, goodPol+"x"), `sha256: entry 1: pol: "` + goodPol + `x": not hexadecimal`},
		{"pol long", one(goodPol, goodPol+"00"), `sha256: entry 1: pol: "` + goodPol + `00": 33 bytes, not 32`},
		{"pol a number", one(`"`+goodPol+`"`, "1"), "sha256: entry 1: pol: not a string"},
		{"pol half a surrogate", one(goodPol, `\ud800`), `sha256: entry 1: pol: not a plain text: "�"`},
		{"ref empty", one(`"pol"`, `"ref":"","pol"`), "sha256: entry 1: ref: empty"},
		{"ref null", one(`"pol"`, `"ref":null,"pol"`), "sha256: entry 1: ref: not a string"},
		{"ref with NUL", one(`"pol"`, `"ref":"a\u0000","pol"`), `sha256: entry 1: ref: not a plain text: "a\x00"`},

		{"sig not base64", one("AAEC", "AA*C"), `sha256: entry 1: sig: "AA*C": not base64`},
		{"sig without padding", one("AAEC", "AAE"), `sha256: entry 1: sig: "AAE": not base64`},
		{"sig with bits in the padding", one("AAEC", "AAF="), `sha256: entry 1: sig: "AAF=": not base64`},
		{"sig URL alphabet", one("AAEC", "AA_-"), `sha256: entry 1: sig: "AA_-": not base64`},
		{"sig with a line feed", one("AAEC", `AA\nEC`), `sha256: entry 1: sig: "AA\nEC": not base64`},
		{"sig empty", one("AAEC", ""), "sha256: entry 1: sig: 0 bytes, not 1 to 1024"},
		{"sig large", one("AAEC", strings.Repeat("AAEC", 400)), "sha256: entry 1: sig: 1200 bytes, not 1 to 1024"},
		{"too many entries", one("]}", strings.Repeat(","+one("", "")[11:len(one("", ""))-2], pcrsig.MaxEntries)+"]}"), "more than 4096 entries"},
	} {
		t.Run(test.name, func(t *testing.T) {
			f, err := pcrsig.Parse([]byte(test.file))
			if fmt.Sprint(err) != "pcrsig: "+test.want {
				t.Errorf("\n got %v\nwant pcrsig: %s", err, test.want)
			}
			if f != nil {
				t.Error("and returns a file")
			}
			if errors.Is(err, policy.ErrCannotTell) != strings.HasSuffix(test.want, "cannot tell") {
				t.Error("whether it cannot tell is not told")
			}
		})
	}
}

// TestParseAccepts has what is unusual, but meant.
func TestParseAccepts(t *testing.T) {
	t.Parallel()
	for _, file := range []string{
		"{}", ` { "sha1" : [ ] } `, one("", ""), one(goodFP, strings.ToUpper(goodFP)),
		one("[11]", "[12,11]"), one(`"pcrs"`, `"\u0070crs"`), one(`"pol"`, `"ref":"\n","pol"`),
	} {
		if _, err := pcrsig.Parse([]byte(file)); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
	f, err := pcrsig.Parse([]byte(one("[11]", "[12,0,11]")))
	if err != nil || fmt.Sprint(f.Entries[0].PCRs) != "[0 11 12]" {
		t.Error(f, err)
	}
}

func TestParsePublicKeyRefuses(t *testing.T) {
	t.Parallel()
	rsa := string(read(t, "pcr-pub.pem"))
	// of openssl: genrsa 512, rsa -pubout; genpkey -algorithm ed25519, pkey -pubout
	const (
		rsa512  = "-----BEGIN PUBLIC KEY-----\nMFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBAKGHrbIjXOsm9TKqrZaA/L8PAZTzl/JV\nSnrkwvFHBytuJ5+opOLg2OjP7XCx9fopbd7OQsQbi0UvZfFI9QyKLK8CAwEAAQ==\n-----END PUBLIC KEY-----\n"
		ed25519 = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAZAjXIQ9hQ4fO65ejU1J0uclVdCwyrxfJkjQacbIKQXA=\n-----END PUBLIC KEY-----\n"
	)
	for _, test := range []struct{ name, file, want string }{
		{"empty", "", "no PEM block"},
		{"DER", "0\x82", "no PEM block"},
		{"cut", rsa[:200], "no PEM block"},
		{"too large", strings.Repeat("\n", 64<<10) + rsa, "more than 65536 bytes"},
		{"certificate", strings.ReplaceAll(rsa, "PUBLIC KEY", "CERTIFICATE"), `PEM block "CERTIFICATE": not supported (supported: PUBLIC KEY): cannot tell`},
		{"PKCS #1", strings.ReplaceAll(rsa, "PUBLIC KEY", "RSA PUBLIC KEY"), `PEM block "RSA PUBLIC KEY": not supported (supported: PUBLIC KEY): cannot tell`},
		{"long type", strings.ReplaceAll(rsa, "PUBLIC KEY", strings.Repeat("X", 100)), `PEM block "` + strings.Repeat("X", 40) + `": not supported (supported: PUBLIC KEY): cannot tell`},
		{"EC", string(read(t, "ec-pub.pem")), "EC P-256: not supported, systemd verifies RSA only: cannot tell"},
		{"Ed25519", ed25519, "ed25519.PublicKey: not supported, systemd verifies RSA only: cannot tell"},
		{"RSA 512", rsa512, "RSA of 512 bits: not supported (supported: 1024 to 4096): cannot tell"},
		{"garbage in it", "-----BEGIN PUBLIC KEY-----\nMIIBIjAN\n-----END PUBLIC KEY-----\n", "asn1: syntax error: data truncated"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := pcrsig.ParsePublicKey([]byte(test.file))
			if fmt.Sprint(err) != "public key: "+test.want {
				t.Errorf("\n got %v\nwant public key: %s", err, test.want)
			}
			if errors.Is(err, policy.ErrCannotTell) != strings.HasSuffix(test.want, "cannot tell") {
				t.Error("whether it cannot tell is not told")
			}
		})
	}
	if _, err := pcrsig.ParsePublicKey([]byte("a key:\n" + rsa + "trailer\x00\x00")); err != nil {
		t.Error(err)
	}
}

// FuzzParse also writes what was accepted and parses that again.
func FuzzParse(f *testing.F) {
	seeds, err := filepath.Glob("testdata/*.json")
	if err != nil || len(seeds) == 0 {
		f.Fatal("no seeds", err)
	}
	for _, name := range seeds {
		f.Add(read(f, filepath.Base(name)))
	}
	f.Add([]byte(one("[11]", "[12,0,11]")))
	f.Add([]byte(one(`"pol"`, `"ref":"initrd","pol"`)))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := pcrsig.Parse(data)
		if err != nil {
			text := err.Error()
			if file != nil || len(text) > 1000 || !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7F }) {
				t.Errorf("%v, error %q", file, text)
			}
			return
		}
		again, err := pcrsig.Parse(write(t, file))
		if err != nil || fmt.Sprint(again) != fmt.Sprint(file) {
			t.Fatalf("%v\n%v, %v", file, again, err)
		}
		if 16*len(file.Entries) > len(data) {
			t.Errorf("%d entries of %d bytes", len(file.Entries), len(data))
		}
	})
}

// write writes a file as systemd-measure does.
func write(t *testing.T, f *pcrsig.File) []byte {
	type entry struct {
		PCRs []measure.PCR `json:"pcrs"`
		PKFP string        `json:"pkfp"`
		Ref  string        `json:"ref,omitempty"`
		Pol  string        `json:"pol"`
		Sig  string        `json:"sig"`
	}
	var b strings.Builder
	b.WriteString("{")
	var bank measure.Bank
	for i, e := range f.Entries {
		switch {
		case i == 0:
			fmt.Fprintf(&b, "%q:[", e.Bank)
		case e.Bank != bank:
			fmt.Fprintf(&b, "],%q:[", e.Bank)
		default:
			b.WriteString(",")
		}
		bank = e.Bank
		j, err := json.Marshal(entry{e.PCRs, e.Key.String(), e.Ref, e.Policy.String(), base64.StdEncoding.EncodeToString(e.Signature)})
		if err != nil {
			t.Fatal(err)
		}
		b.Write(j)
	}
	if bank != 0 {
		b.WriteString("]")
	}
	b.WriteString("}")
	return []byte(b.String())
}

func FuzzParsePublicKey(f *testing.F) {
	for _, name := range []string{"pcr-pub.pem", "rsa4096-pub.pem", "ec-pub.pem"} {
		f.Add(read(f, name))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		key, err := pcrsig.ParsePublicKey(data)
		if (key == nil) == (err == nil) {
			t.Fatal(key, err)
		}
		if err != nil {
			return
		}
		// no signature is one of any key that somebody brings along
		e := pcrsig.Entry{Bank: measure.SHA256, Key: pcrsig.KeyFingerprint(key), Signature: make([]byte, key.Size())}
		if e.Verify(key) == nil {
			t.Error("verified")
		}
	})
}
