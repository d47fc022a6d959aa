package pcrlock_test

// What is refused, and with which words. It does not prove that encoding/json
// refuses all that RFC 8259 does.

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/policy"
	"github.com/mkexec/mkexec/policy/pcrlock"
)

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	good := string(read(t, "single.json"))
	const (
		d13   = "eb2e689efd3df45454cc10c542678d165b41dfecb1f5f23db5fa67a6a12c3b20"
		index = "29098050" // 0x1bc0042
		name  = "000bdbcfd8f1f6fd8cd286bd04c3b4151cf05b11b2e0a9c09296fefd8106006e9f79"
		// of nvPublic, in base64 and hexadecimal
		public    = "AC4BvABCAAsAAhAIACD4jTkpMsUzzGAvs4qcNtlwVcBFRQj0a9XBGW7YMuGCVwAi"
		publicHex = "002e" + "01bc0042" + "000b" + "00021008" + "0020" + "f88d392932c533cc602fb38a9c36d97055c0454508f46bd5c1196ed832e18257" + "0022"
	)
	written := strings.Replace(publicHex, "00021008", "20021008", 1)
	handleHex := "01bc0042" + "0022" + name + "00000002" + written
	with := func(old, new string) string {
		if strings.Count(good, old) != 1 {
			t.Fatalf("%q is there %d times", old, strings.Count(good, old))
		}
		return strings.Replace(good, old, new, 1)
	}
	b64 := func(s string) string {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return base64.StdEncoding.EncodeToString(b)
	}
	if b64(publicHex) != public {
		t.Fatal(b64(publicHex))
	}
	nvPublic := func(old, new string) string {
		return with(`"nvPublic":"`+public, `"nvPublic":"`+b64(strings.Replace(publicHex, old, new, 1)))
	}
	nvHandle := func(old, new string) string {
		return with(`"nvHandle":"`+b64(handleHex), `"nvHandle":"`+b64(strings.Replace(handleHex, old, new, 1)))
	}
	drop := func(key, next string) string {
		i, j := strings.Index(good, `"`+key), strings.Index(good, `"`+next)
		return good[:i] + good[j:]
	}
	values := func(n int) string {
		var list []string
		for i := range n {
			list = append(list, fmt.Sprintf(`"%s%02x"`, d13[2:], i))
		}
		return strings.Join(list, ",")
	}
	const known = " (known: pcrBank pcrValues nvIndex nvPublic nvHandle srkHandle pinPublic pinPrivate)"
	for _, test := range []struct{ name, file, want string }{
		{"empty", "", "offset 0: unexpected end of JSON input"},
		{"cut", good[:100], "offset 100: unexpected end of JSON input"},
		{"two", strings.TrimSpace(good) + "{}", "offset 1002: invalid character '{' after top-level value"},
		{"not UTF-8", with("sha256", "sha\xff"), "not UTF-8"},
		{"too large", good + strings.Repeat(" ", pcrlock.MaxSize), "more than 1048576 bytes"},
		{"null", "null", "not an object"},
		{"list", "[]", "not an object"},
		{"empty object", "{}", "no pcrBank"},
		{"unknown key", with("{\"pcrBank", `{"pcrbank":1,"pcrBank`), `unknown key "pcrbank"` + known + ": cannot tell"},
		{"unknown long key", with("{\"pcrBank", `{"`+strings.Repeat("k", 1000)+`":1,"pcrBank`), `unknown key "` + strings.Repeat("k", 40) + `"` + known + ": cannot tell"},
		{"key twice", with("{\"pcrBank", `{"pcrBank":"sha1","pcrBank`), `key "pcrBank" twice`},
		{"no pcrValues", drop("pcrValues", "nvIndex"), "no pcrValues"},
		{"no nvIndex", drop("nvIndex", "nvHandle"), "no nvIndex"},
		{"no nvHandle", drop("nvHandle", "nvPublic"), "no nvHandle"},
		{"no nvPublic", drop("nvPublic", "srkHandle"), "no nvPublic"},
		{"no srkHandle", drop("srkHandle", "pinPublic"), "no srkHandle"},
		{"no pinPublic", drop("pinPublic", "pinPrivate"), "no pinPublic"},

		{"bank unknown", with(`"sha256"`, `"sm3_256"`), `pcrBank: bank "sm3_256": unknown (known: sha1 sha256 sha384 sha512): cannot tell`},
		{"bank a number", with(`"sha256"`, "11"), "pcrBank: not a string"},
		{"other bank", with(`"sha256"`, `"sha384"`), `pcrValues: PCR 13: digest "` + d13 + `": 32 bytes, but sha384 has 48`},
		{"values an object", good[:strings.Index(good, `[{"pcr"`)] + "{}" + good[strings.Index(good, `,"nvIndex`):], "pcrValues: not an array"},
		{"values null", good[:strings.Index(good, `[{"pcr"`)] + "null" + good[strings.Index(good, `,"nvIndex`):], "pcrValues: not an array"},
		{"value null", with(`{"pcr":14,`, `null,{"pcr":14,`), "pcrValues: entry 2: not an object"},
		{"value unknown key", with(`"pcr":14,`, `"pcr":14,"bank":1,`), `pcrValues: entry 2: unknown key "bank" (known: pcr values): cannot tell`},
		{"PCR missing", with(`"pcr":14,`, ""), `pcrValues: entry 2: pcr "": not a number from 0 to 23`},
		{"PCR 24", with(`"pcr":14`, `"pcr":24`), `pcrValues: entry 2: pcr "24": not a number from 0 to 23`},
		{"PCR -1", with(`"pcr":14`, `"pcr":-1`), `pcrValues: entry 2: pcr "-1": not a number from 0 to 23`},
		{"PCR 1.0", with(`"pcr":14`, `"pcr":1.0`), `pcrValues: entry 2: pcr "1.0": not a number from 0 to 23`},
		{"PCR a text", with(`"pcr":14`, `"pcr":"14"`), `pcrValues: entry 2: pcr "\"14\"": not a number from 0 to 23`},
		{"PCR huge", with(`"pcr":14`, `"pcr":`+strings.Repeat("9", 100)), `pcrValues: entry 2: pcr "99999999999999999999": not a number from 0 to 23`},
		{"PCR twice", with(`"pcr":14`, `"pcr":13`), "pcrValues: PCR 13 twice"},
		{"digests missing", with(`,"values":["`+d13+`"]`, ""), "pcrValues: PCR 13: values: not an array"},
		{"digests a text", with(`["`+d13+`"]`, `"`+d13+`"`), "pcrValues: PCR 13: values: not an array"},
		{"digest null", with(`"`+d13+`"`, "null"), "pcrValues: PCR 13: not a string"},
		{"digest short", with(d13, d13[2:]), `pcrValues: PCR 13: digest "` + d13[2:] + `": 31 bytes, but sha256 has 32`},
		{"digest not hex", with(d13, "x"+d13[1:]), `pcrValues: PCR 13: digest "x` + d13[1:] + `": not hexadecimal`},
		{"digest twice", with(`"`+d13+`"`, `"`+d13+`","`+strings.ToUpper(d13)+`"`), "pcrValues: PCR 13: value " + d13 + " twice"},
		{"nine digests", with(`"`+d13+`"`, values(9)), "pcrValues: PCR 13: 9 values, but a policy takes 8: cannot tell"},

		{"index 0", with(index, "0"), `nvIndex: "0": not the handle of an NV index`},
		{"index of a key", with(index, "2164260865"), `nvIndex: "2164260865": not the handle of an NV index`},
		{"index too large", with(index, "4294967296"), `nvIndex: "4294967296": not the handle of an NV index`},
		{"index a text", with(index, `"`+index+`"`), `nvIndex: "\"29098050\"": not the handle of an NV index`},
		{"other index", with(index, "29098051"), "nvPublic: of NV index 0x1bc0042, not 0x1bc0043"},

		{"public not base64", with(`"nvPublic":"AC4`, `"nvPublic":"*C4`), `nvPublic: "*` + public[1:] + `": not base64`},
		{"public empty", nvPublic(publicHex, ""), "nvPublic: 0 bytes that are no TPM2B_NV_PUBLIC"},
		{"public longer than it is", nvPublic("002e", "002f"), "nvPublic: 48 bytes that are no TPM2B_NV_PUBLIC"},
		{"public shorter than it is", nvPublic("002e", "002d"), "nvPublic: 48 bytes that are no TPM2B_NV_PUBLIC"},
		{"public of 0", nvPublic(publicHex, "0000"), "nvPublic: NV public area of 0 bytes: too short"},
		{"public with a large policy", nvPublic("0020f8", "fffff8"), "nvPublic: NV public area of 46 bytes, not 65549 as its policy's size has it"},
		{"public of unknown hash", nvPublic("000b", "0012"), "nvPublic: NV public area: name algorithm alg_0x0012: unknown: cannot tell"},
		{"public of another size", nvPublic("0022", "0020"), "nvPublic: an NV index of 32 bytes, not 34"},
		{"public of another attribute", nvPublic("00021008", "00021009"),
			"nvHandle: of another NV index than nvPublic: name " + name + ", not 000bf248e73d5acd8e5ba4269ca2e4e49e8b8ac2fd04c417f9f00715725937f9058c"},

		{"handle not base64", with(`"nvHandle":"AbwA`, `"nvHandle":"Abw"`), "offset 248: invalid character 'Q' after object key:value pair"},
		{"handle empty", nvHandle(handleHex, ""), "nvHandle: 0 bytes that are no serialized handle of an NV index"},
		{"handle cut", nvHandle(handleHex, handleHex[:16]), "nvHandle: 8 bytes that are no serialized handle of an NV index"},
		{"handle without an end", nvHandle(handleHex, handleHex[:len(handleHex)-2]), "nvHandle: 91 bytes that are no serialized handle of an NV index"},
		{"handle with more", nvHandle(handleHex, handleHex+"00"), "nvHandle: 93 bytes that are no serialized handle of an NV index"},
		{"handle of a key", nvHandle("00000002", "00000001"), "nvHandle: 92 bytes that are no serialized handle of an NV index"},
		{"handle with a large name", nvHandle("0022000b", "ffff000b"), "nvHandle: 92 bytes that are no serialized handle of an NV index"},
		{"handle of another index", nvHandle("01bc0042", "01bc0043"), "nvHandle: of NV index 0x1bc0043, not 0x1bc0042"},
		{"handle with another name", nvHandle(name, name[:66]+"7a"), "nvHandle: of another NV index than nvPublic: name " + name[:66] + "7a, not " + name},
		{"handle with another policy", nvHandle("f88d", "f88e"), "nvHandle: of another NV index than nvPublic: name " + name + ", not " + name},
	} {
		t.Run(test.name, func(t *testing.T) {
			f, err := pcrlock.Parse([]byte(test.file))
			if fmt.Sprint(err) != "pcrlock: "+test.want {
				t.Errorf("\n got %v\nwant pcrlock: %s", err, test.want)
			}
			if f != nil {
				t.Error("and returns a file")
			}
			if errors.Is(err, policy.ErrCannotTell) != strings.HasSuffix(test.want, "cannot tell") {
				t.Error("whether it cannot tell is not told")
			}
		})
	}
	for _, file := range []string{good, with(`"`+d13+`"`, values(8)), with(`"`+d13+`"`, ""), with(d13, strings.ToUpper(d13))} {
		if _, err := pcrlock.Parse([]byte(file)); err != nil {
			t.Errorf("%v: %s", err, file)
		}
	}
}

// TestEveryByte changes every byte of the values in a file: it is refused, or
// makes another policy than the one in the TPM.
func TestEveryByte(t *testing.T) {
	t.Parallel()
	good := read(t, "mixed.json")
	want, err := parse(t, "mixed").SuperPolicy()
	if err != nil {
		t.Fatal(err)
	}
	for i := range bytes.Index(good, []byte(`"nvIndex"`)) {
		changed := bytes.Clone(good)
		changed[i] ^= 1
		f, err := pcrlock.Parse(changed)
		if err != nil {
			continue
		}
		if d, err := f.SuperPolicy(); err == nil && d == want {
			t.Errorf("%q at %d for %q changes nothing", changed[i], i, good[i])
		}
	}
}

// FuzzParse holds that what is accepted has a policy, and one that depends on
// the values.
func FuzzParse(f *testing.F) {
	seeds, err := filepath.Glob("testdata/*.json")
	if err != nil || len(seeds) == 0 {
		f.Fatal("no seeds", err)
	}
	for _, name := range seeds {
		f.Add(read(f, filepath.Base(name)))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := pcrlock.Parse(data)
		if err != nil {
			text := err.Error()
			if file != nil || len(text) > 1000 || !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7F }) {
				t.Errorf("%v, error %q", file, text)
			}
			return
		}
		d, err := file.SuperPolicy()
		if err != nil {
			t.Fatal(err)
		}
		values, some := measure.PCRs{}, false
		for n, accepted := range file.Values {
			if len(accepted) > pcrlock.MaxValues || n < 0 || n > 23 {
				t.Fatalf("PCR %d has %d values", n, len(accepted))
			}
			for _, digest := range accepted {
				if len(digest) != file.Bank.Size() {
					t.Fatalf("%d bytes", len(digest))
				}
				values.Set(file.Bank, n, digest)
				some = true
			}
		}
		if d.IsZero() == some {
			t.Errorf("values: %v, policy %s", some, d)
		}
		// what it accepts it accepts, but for the TPM, which is not there
		if err := (&pcrlock.Policy{File: file}).Check(values); !errors.Is(err, policy.ErrCannotTell) {
			t.Error(err)
		}
	})
}
