package policy_test

// What policy files are accepted, and with which words others are refused. It
// does not prove that the YAML library reads all of YAML as its specification
// has it, only that what it makes of a file is taken strictly.

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/policy"
)

// Digests that YAML would take for something else, if it were asked.
var (
	d1      = strings.Repeat("1a", 32)
	d2      = strings.Repeat("2B", 32)
	decimal = strings.Repeat("12", 32)                                // an integer
	octal   = "0" + strings.Repeat("1", 63)                           // an octal integer
	float   = strings.Repeat("1", 40) + "e" + strings.Repeat("2", 23) // a float
	short   = strings.Repeat("12", 20)                                // of sha1
)

// good wraps PCRs into a file; the PCRs begin in line 6.
func good(pcrs string) string {
	return "version: 1\nrequire:\n  - name: disk\n    at: enter-initrd\n    pcrs:\n" + pcrs
}

func TestParse(t *testing.T) {
	digests := func(texts ...string) (ds []measure.Digest) {
		for _, text := range texts {
			d, err := hex.DecodeString(text)
			if err != nil {
				t.Fatal(err)
			}
			ds = append(ds, d)
		}
		return ds
	}
	type sha256 = map[measure.PCR][]measure.Digest
	one := func(name string, at measure.Phase, pcrs sha256) policy.Requirements {
		return policy.Requirements{{Name: name, At: at, Policy: policy.Accept{measure.SHA256: pcrs}}}
	}
	for _, test := range []struct {
		name, file string
		want       policy.Requirements
	}{
		{"one", good("      sha256:\n        11: " + d1 + "\n"), one("disk", "enter-initrd", sha256{11: digests(d1)})},
		{"list", good("      sha256:\n        11: [" + d1 + ", " + d2 + "]\n        12:\n          - " + d2 + "\n        13: " + d1 + "\n"),
			one("disk", "enter-initrd", sha256{11: digests(d1, d2), 12: digests(d2), 13: digests(d1)})},
		{"decimal digest", good("      sha256: {11: " + decimal + "}\n"), one("disk", "enter-initrd", sha256{11: digests(decimal)})},
		{"octal digest", good("      sha256: {11: " + octal + "}\n"), one("disk", "enter-initrd", sha256{11: digests(octal)})},
		{"float digest", good("      sha256: {11: " + float + "}\n"), one("disk", "enter-initrd", sha256{11: digests(float)})},
		{"zero digest", good("      sha256: {11: " + strings.Repeat("0", 64) + "}\n"), one("disk", "enter-initrd", sha256{11: {make(measure.Digest, 32)}})},
		{"quoted", good("      \"sha256\": {'11': \"" + d1 + "\"}\n"), one("disk", "enter-initrd", sha256{11: digests(d1)})},
		{"anchor without an alias", good("      sha256: {11: &a " + d1 + "}\n"), one("disk", "enter-initrd", sha256{11: digests(d1)})},
		{"no name", "version: 1\nrequire:\n  - {at: enter-initrd, pcrs: {sha256: {11: " + d1 + "}}}\n", one("requirement 1", "enter-initrd", sha256{11: digests(d1)})},
		{"JSON", `{"version": 1, "require": [{"at": "enter-initrd", "pcrs": {"sha256": {"11": "` + d1 + `"}}}]}`, one("requirement 1", "enter-initrd", sha256{11: digests(d1)})},
		{"path", "require: [{at: 'enter-initrd:leave-initrd', pcrs: {sha256: {11: " + d1 + "}}}]\nversion: 1", one("requirement 1", "enter-initrd:leave-initrd", sha256{11: digests(d1)})},
		{"before the first phase", "version: 1\nrequire: [{at: '', pcrs: {sha256: {11: " + d1 + "}}}]\n", one("requirement 1", "", sha256{11: digests(d1)})},
		{"before the first phase, as systemd-measure has it", "version: 1\nrequire: [{at: ':', pcrs: {sha256: {11: " + d1 + "}}}]\n", one("requirement 1", "", sha256{11: digests(d1)})},
		{"comments and markers", "# a policy\n%YAML 1.1\n---\nversion: 1 # the first\nrequire: [{at: ready, pcrs: {sha256: {11: " + d1 + "}}}]\n...\n", one("requirement 1", "ready", sha256{11: digests(d1)})},
		{"CRLF", strings.ReplaceAll(good("      sha256: {11: "+d1+"}\n"), "\n", "\r\n"), one("disk", "enter-initrd", sha256{11: digests(d1)})},
		{"name of 80", strings.Replace(good("      sha256: {11: "+d1+"}\n"), "disk", strings.Repeat("x", 80), 1), one(strings.Repeat("x", 80), "enter-initrd", sha256{11: digests(d1)})},
		{"as large as allowed", pad(good("      sha256: {11: "+d1+"}\n"), policy.MaxFileSize), one("disk", "enter-initrd", sha256{11: digests(d1)})},
		{"two", good("      sha1: {12: "+short+"}\n      sha384: {13: "+d1+d1[:32]+"}\n      sha512: {13: "+d1+d2+"}\n") + "  - {name: other, at: ready, pcrs: {sha256: {11: " + d2 + "}}}\n",
			policy.Requirements{
				{Name: "disk", At: "enter-initrd", Policy: policy.Accept{
					measure.SHA1: {12: digests(short)}, measure.SHA384: {13: digests(d1 + d1[:32])}, measure.SHA512: {13: digests(d1 + d2)},
				}},
				{Name: "other", At: "ready", Policy: policy.Accept{measure.SHA256: {11: digests(d2)}}},
			}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := parse([]byte(test.file))
			if err != nil {
				t.Fatal(err)
			}
			if fmt.Sprint(got) != fmt.Sprint(test.want) {
				t.Errorf("\n got %v\nwant %v", got, test.want)
			}
			// the sibling: a digit of the last digest that is no digit
			i := strings.LastIndexFunc(test.file, func(r rune) bool { return strings.ContainsRune("0123456789abcdefB", r) })
			if test.name == "as large as allowed" {
				i = strings.Index(test.file, d1)
			}
			changed := []byte(test.file)
			changed[i] = 'g'
			if _, err := parse(changed); err == nil {
				t.Errorf("accepted with %q in place of %q at %d", "g", test.file[i], i)
			}
		})
	}
}

// pad makes a file longer, by a comment.
func pad(file string, size int) string {
	return file + "#" + strings.Repeat("x", size-len(file)-1)
}

func TestParseRefuses(t *testing.T) {
	line := func(pcrs string) string { return good("      sha256:\n        " + pcrs + "\n") }
	head := func(s string) string { return strings.Replace(line("11: "+d1), "version: 1", s, 1) }
	at := func(s string) string { return strings.Replace(line("11: "+d1), "at: enter-initrd", s, 1) }
	name := func(s string) string { return strings.Replace(line("11: "+d1), "name: disk", "name: "+s, 1) }
	const notHex = ": not hexadecimal"
	for _, test := range []struct{ name, file, want string }{
		{"empty", "", "policy: empty"},
		{"only a comment", "# nothing\n", "policy: empty"},
		{"only a marker", "---\n", "policy: line 2: the policy: not a mapping with at least one key"},
		{"null", "~\n", "policy: line 1: the policy: not a mapping with at least one key"},
		{"text", "accept everything\n", "policy: line 1: the policy: not a mapping with at least one key"},
		{"list", "[]\n", "policy: line 1: the policy: not a mapping with at least one key"},
		{"empty mapping", "{}\n", "policy: line 1: the policy: not a mapping with at least one key"},
		{"not YAML", "version: 1\nrequire: [\n", "policy: yaml: line 2: did not find expected node content"},
		{"tab", "version: 1\nrequire:\n\t- a\n", "policy: yaml: line 3: found character that cannot start any token"},
		{"NUL", "version: 1\x00\n", "policy: yaml: control characters are not allowed"},
		{"NUL in a digest", line("11: " + d1[:62] + "\x00\x00"), "policy: yaml: control characters are not allowed"},
		{"not UTF-8", "version: \xff\n", "policy: yaml: invalid leading UTF-8 octet"},
		{"two documents", line("11: "+d1) + "---\nversion: 1\n", "policy: more than one document"},
		{"the same document twice", line("11: "+d1) + "---\n" + line("11: "+d1), "policy: more than one document"},
		{"garbage behind", line("11: "+d1) + "...\n[\n", "policy: more than one document"},
		{"too large", pad(line("11: "+d1), policy.MaxFileSize+1), "policy: more than 1048576 bytes"},
		{"deep", "version: 1\nrequire: " + strings.Repeat("[", 20000) + strings.Repeat("]", 20000), "policy: yaml: line 2: exceeded max depth of 10000"},
		{"deep, less so", "version: 1\nrequire: " + strings.Repeat("[", 5000) + strings.Repeat("]", 5000), "policy: line 2: a requirement: not a mapping with at least one key"},

		{"unknown key", line("11: "+d1) + "requires: []\n", `policy: line 8: the policy: unknown key "requires" (known: [version require image])`},
		{"key twice", line("11: "+d1) + "version: 1\n", `policy: line 8: the policy: key "version" twice`},
		{"key of another case", head("Version: 1"), `policy: line 1: the policy: unknown key "Version" (known: [version require image])`},
		{"a list as a key", "version: 1\n? [require]\n: []\n", "policy: line 2: the policy: a key that is not a plain word"},
		{"merge", "version: 1\n<<: {require: []}\n", `policy: line 2: the policy: unknown key "<<" (known: [version require image])`},
		{"long key", strings.Repeat("k", 1000) + ": 1\n", `policy: line 1: the policy: unknown key "` + strings.Repeat("k", 40) + `" (known: [version require image])`},

		{"no version", strings.Replace(line("11: "+d1), "version: 1\n", "", 1), "policy: line 1: no version (this is version 1)"},
		{"version 2", head("version: 2"), `policy: line 1: version "2": unknown (known: 1)`},
		{"version 1.0", head("version: 1.0"), `policy: line 1: version "1.0": unknown (known: 1)`},
		{"version 01", head("version: 01"), `policy: line 1: version "01": unknown (known: 1)`},
		{"version empty", head("version:"), `policy: line 1: version "": unknown (known: 1)`},
		{"version a list", head("version: [1]"), `policy: line 1: version "": unknown (known: 1)`},
		{"version long", head("version: " + strings.Repeat("1", 1000)), `policy: line 1: version "` + strings.Repeat("1", 20) + `": unknown (known: 1)`},

		{"requires nothing", "version: 1\n", "policy: line 1: nothing is required: it would accept anything"},
		{"require empty", "version: 1\nrequire: []\n", "policy: line 2: require: not a list with at least one entry"},
		{"require null", "version: 1\nrequire:\n", "policy: line 2: require: not a list with at least one entry"},
		{"require a mapping", "version: 1\nrequire: {at: enter-initrd}\n", "policy: line 2: require: not a list with at least one entry"},
		{"requirement null", "version: 1\nrequire:\n  -\n", "policy: line 3: a requirement: not a mapping with at least one key"},
		{"requirement empty", "version: 1\nrequire:\n  - {}\n", "policy: line 3: a requirement: not a mapping with at least one key"},
		{"requirement unknown key", strings.Replace(line("11: "+d1), "name:", "nam:", 1), `policy: line 3: a requirement: unknown key "nam" (known: [name at optional public-key pcrs luks pcrsig pcrlock key])`},
		{"second requirement", line("11: "+d1) + "  - {at: enter-initrd}\n", "policy: line 8: requirement 2: none of [pcrs luks pcrsig pcrlock key]: it would accept anything"},

		{"name empty", name("''"), "policy: line 3: name: not a text of 1 to 80 printable characters"},
		{"name null", name(""), "policy: line 3: name: not a text of 1 to 80 printable characters"},
		{"name long", name(strings.Repeat("x", 81)), "policy: line 3: name: not a text of 1 to 80 printable characters"},
		{"name with an escape", name(`"\e[31m"`), "policy: line 3: name: not a text of 1 to 80 printable characters"},
		{"name with a line end", name(`"a\nb"`), "policy: line 3: name: not a text of 1 to 80 printable characters"},
		{"name a list", name("[disk]"), "policy: line 3: name: not a text of 1 to 80 printable characters"},

		{"no at", strings.Replace(at(""), "    \n", "", 1), "policy: line 3: requirement 1: no at: the phase at which it has to hold, such as enter-initrd"},
		{"at without a word", at("at:"), "policy: line 3: requirement 1: no at: the phase at which it has to hold, such as enter-initrd"},
		{"at a list", at("at: [enter-initrd]"), "policy: line 3: requirement 1: no at: the phase at which it has to hold, such as enter-initrd"},
		{"at ~", at("at: ~"), "policy: line 3: requirement 1: no at: the phase at which it has to hold, such as enter-initrd"},
		{"unknown phase", at("at: enter-initr"), `policy: line 4: at: phase path "enter-initr": unknown word "enter-initr" (known: enter-initrd leave-initrd sysinit ready shutdown final factory-reset storage-target-mode-start storage-target-mode-stop)`},
		{"unknown second phase", at("at: 'enter-initrd:'"), `policy: line 4: at: phase path "enter-initrd:": unknown word "" (known: enter-initrd leave-initrd sysinit ready shutdown final factory-reset storage-target-mode-start storage-target-mode-stop)`},

		{"pcrs empty", good("      {}\n"), "policy: line 6: pcrs: not a mapping with at least one key"},
		{"pcrs null", good(""), "policy: line 5: pcrs: not a mapping with at least one key"},
		{"pcrs without a bank", good("      11: " + d1 + "\n"), `policy: line 6: bank "11": unknown (known: sha1 sha256 sha384 sha512)`},
		{"unknown bank", good("      sha255:\n        11: " + d1 + "\n"), `policy: line 6: bank "sha255": unknown (known: sha1 sha256 sha384 sha512)`},
		{"bank in upper case", good("      SHA256:\n        11: " + d1 + "\n"), `policy: line 6: bank "SHA256": unknown (known: sha1 sha256 sha384 sha512)`},
		{"bank twice", line("11: "+d1) + "      sha256:\n        12: " + d1 + "\n", `policy: line 8: pcrs: key "sha256" twice`},
		{"bank empty", good("      sha256: {}\n"), "policy: line 6: sha256: not a mapping with at least one key"},
		{"bank null", good("      sha256:\n"), "policy: line 6: sha256: not a mapping with at least one key"},
		{"bank a digest", good("      sha256: " + d1 + "\n"), "policy: line 6: sha256: not a mapping with at least one key"},
		{"second of two errors is not reported", good("      sha255: {}\n      sha256: {}\n      sha257: {}\n"), `policy: line 6: bank "sha255": unknown (known: sha1 sha256 sha384 sha512)`},

		{"PCR 10", line("10: " + d1), `policy: line 7: PCR "10": not one that is predicted (predicted: 0 1 2 3 4 5 6 7 9 11 12 13 14)`},
		{"PCR 011", line("011: " + d1), `policy: line 7: PCR "011": not one that is predicted (predicted: 0 1 2 3 4 5 6 7 9 11 12 13 14)`},
		{"PCR +11", line("+11: " + d1), `policy: line 7: PCR "+11": not one that is predicted (predicted: 0 1 2 3 4 5 6 7 9 11 12 13 14)`},
		{"PCR 0xb", line("0xb: " + d1), `policy: line 7: PCR "0xb": not one that is predicted (predicted: 0 1 2 3 4 5 6 7 9 11 12 13 14)`},
		{"PCR 11.0", line("11.0: " + d1), `policy: line 7: PCR "11.0": not one that is predicted (predicted: 0 1 2 3 4 5 6 7 9 11 12 13 14)`},
		{"PCR -1", line("-1: " + d1), `policy: line 7: PCR "-1": not one that is predicted (predicted: 0 1 2 3 4 5 6 7 9 11 12 13 14)`},
		{"PCR 15", line("15: " + d1), `policy: line 7: PCR "15": not one that is predicted (predicted: 0 1 2 3 4 5 6 7 9 11 12 13 14)`},
		{"PCR by name", line("kernel-boot: " + d1), `policy: line 7: PCR "kernel-boot": not one that is predicted (predicted: 0 1 2 3 4 5 6 7 9 11 12 13 14)`},
		{"PCR huge", line(strings.Repeat("9", 100) + ": " + d1), `policy: line 7: PCR "99999999999999999999": not one that is predicted (predicted: 0 1 2 3 4 5 6 7 9 11 12 13 14)`},
		{"PCR twice", line("11: " + d1 + "\n        11: " + d1), `policy: line 8: sha256: key "11" twice`},
		{"PCR twice, quoted once", line("11: " + d1 + "\n        '11': " + d1), `policy: line 8: sha256: key "11" twice`},

		{"digest too short", line("11: " + d1[2:]), `policy: line 7: digest "` + d1[2:] + `": 31 bytes, but sha256 has 32`},
		{"digest too long", line("11: " + d1 + "00"), `policy: line 7: digest "` + d1 + `00": 33 bytes, but sha256 has 32`},
		{"digest of half a byte", line("11: " + d1[1:]), `policy: line 7: digest "` + d1[1:] + `"` + notHex},
		{"digest of another bank", line("11: " + short), `policy: line 7: digest "` + short + `": 20 bytes, but sha256 has 32`},
		{"digest not hex", line("11: " + d1[:63] + "g"), `policy: line 7: digest "` + d1[:63] + `g"` + notHex},
		{"digest with 0x", line("11: 0x" + d1[2:]), `policy: line 7: digest "0x` + d1[2:] + `"` + notHex},
		{"digest with a bank", line("11: sha256:" + d1), `policy: line 7: digest "sha256:` + d1 + `"` + notHex},
		{"digest with underscores", line("11: 1_2" + d1[3:]), `policy: line 7: digest "1_2` + d1[3:] + `"` + notHex},
		{"decimal too short", line("11: " + decimal[2:]), `policy: line 7: digest "` + decimal[2:] + `": 31 bytes, but sha256 has 32`},
		{"float", line("11: 1e5"), `policy: line 7: digest "1e5"` + notHex},
		{"digest null", line("11:"), `policy: line 7: digest "": 0 bytes, but sha256 has 32`},
		{"digest empty", line("11: ''"), `policy: line 7: digest "": 0 bytes, but sha256 has 32`},
		{"digest folded", line("11: \"" + d1[:32] + "\n          " + d1[32:] + "\""), `policy: line 7: digest "` + d1[:32] + " " + d1[32:] + `"` + notHex},
		{"digest huge", line("11: " + strings.Repeat("g", 1000)), `policy: line 7: digest "` + strings.Repeat("g", 140) + `"` + notHex},
		{"digest a mapping", line("11: {a: b}"), "policy: line 7: not a digest"},
		{"list empty", line("11: []"), "policy: line 7: no value: nothing would be accepted"},
		{"list of lists", line("11:\n          - " + d1 + "\n          - [" + d1 + "]"), "policy: line 9: not a digest"},
		{"second of a list", line("11:\n          - " + d1 + "\n          - " + d1 + "0"), `policy: line 9: digest "` + d1 + `0"` + notHex},

		{"alias of a digest", line("11: &a " + d1 + "\n        12: *a"), `policy: line 8: "12": aliases are not supported`},
		{"alias in a list", line("11: &a " + d1 + "\n        12: [*a]"), "policy: line 8: not a digest"},
		{"alias of a requirement", strings.Replace(line("11: "+d1), "- name", "- &a\n    name", 1) + "  - *a\n", "policy: line 9: a requirement: not a mapping with at least one key"},
		{"alias as a key", "version: &a 1\n*a : 1\n", "policy: line 2: the policy: a key that is not a plain word"},
		{"alias to nowhere", line("11: *a"), "policy: yaml: unknown anchor 'a' referenced"},
		{"alias to a long nowhere", line("11: *" + strings.Repeat("a", 1000)), "policy: yaml: unknown anchor '" + strings.Repeat("a", 200-len("yaml: unknown anchor '"))},
		{"alias, key with an escape", good("      \"\\e[31m\": *a\n      sha256: &a {11: " + d1 + "}\n"), "policy: yaml: unknown anchor 'a' referenced"},
		{"alias behind an escape", good("      sha256: &a {11: " + d1 + "}\n      \"\\e[31m\": *a\n"), `policy: line 7: "\x1b[31m": aliases are not supported`},
		{"billion laughs", "a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\n", `policy: line 1: the policy: unknown key "a" (known: [version require image])`},
	} {
		t.Run(test.name, func(t *testing.T) {
			rs, err := parse([]byte(test.file))
			if fmt.Sprint(err) != test.want {
				t.Errorf("error:\n got %v\nwant %s", err, test.want)
			}
			if rs != nil {
				t.Errorf("and it returns %v", rs)
			}
		})
	}
}

// TestParseEveryByte changes every byte of the digests in a file: the file is
// refused, or a digest is another.
func TestParseEveryByte(t *testing.T) {
	file := []byte(good("      sha256:\n        11: " + d1 + "\n"))
	want, err := parse(file)
	if err != nil {
		t.Fatal(err)
	}
	start := bytes.Index(file, []byte(d1))
	for i := start; i < start+len(d1); i++ {
		for _, c := range []byte("0f\x00 \n:#") {
			if file[i] == c {
				continue
			}
			changed := slices.Clone(file)
			changed[i] = c
			if rs, err := parse(changed); err == nil && fmt.Sprint(rs) == fmt.Sprint(want) {
				t.Errorf("%q at %d changes nothing", c, i)
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	seeds, err := filepath.Glob("testdata/policy/*.yaml")
	if err != nil || len(seeds) == 0 {
		f.Fatal("no seeds", err)
	}
	for _, name := range seeds {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(good("      sha256: &a {11: [" + d1 + ", " + d2 + "], 12: *a}\n")))
	f.Add([]byte("---\n"))
	f.Add([]byte(fromSource("at: ''\nkey: /\u00e9\nname: '1e5'") + ofImage("cmdline: ['*', '~', \"<&\"]")[len("version: 1\n"):]))
	f.Add([]byte("\xff\xfev\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := policy.Parse(data)
		again, err2 := policy.Parse(data)
		if !reflect.DeepEqual(file, again) || fmt.Sprint(err) != fmt.Sprint(err2) {
			t.Fatalf("two answers:\n%v %v\n%v %v", file, err, again, err2)
		}
		if err != nil {
			if file != nil {
				t.Error("a policy with an error")
			}
			// bounded, and nothing that a terminal obeys
			text := err.Error()
			if len(text) > 1000 || !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7F }) {
				t.Errorf("error %q", text)
			}
			return
		}
		for _, r := range file.Require {
			checkRequirement(t, &r)
		}
		checkImage(t, &file.Image)
		asJSON, err := json.Marshal(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{show(t, file), string(asJSON)} {
			if again, err := policy.Parse([]byte(text)); err != nil || !reflect.DeepEqual(file, again) {
				t.Errorf("shown as %s: %v", text, err)
			}
		}
	})
}

// checkRequirement: a requirement asks for something that can be told.
func checkRequirement(t *testing.T, r *policy.Requirement) {
	if _, err := measure.ParsePhase(string(r.At)); err != nil {
		t.Error(err)
	}
	if r.Name == "" || utf8.RuneCountInString(r.Name) > 80 {
		t.Errorf("name %q", r.Name)
	}
	if r.Source != nil {
		if r.Policy != nil || r.Source.Path == "" || r.Source.PublicKey != "" && r.Source.Kind != policy.SourceSignature {
			t.Errorf("%+v", r)
		}
		return
	}
	accept := r.Policy.(policy.Accept)
	if len(accept) == 0 {
		t.Errorf("empty requirement %+v", r)
	}
	for b, pcrs := range accept {
		if len(pcrs) == 0 {
			t.Errorf("%s: empty", b)
		}
		for n, digests := range pcrs {
			if len(digests) == 0 || !slices.Contains(measure.PredictablePCRs(), n) {
				t.Errorf("%s: PCR %d: %d values", b, n, len(digests))
			}
			for _, d := range digests {
				if len(d) != b.Size() || b.Size() == 0 {
					t.Errorf("%s: PCR %d: value of %d bytes", b, n, len(d))
				}
			}
		}
	}
}

// checkImage: no list is there and empty, and no rule asks for nothing.
func checkImage(t *testing.T, r *policy.ImageRules) {
	if r.EmbeddedCmdline && r.Cmdlines != nil || r.Cmdlines != nil && len(r.Cmdlines) == 0 || r.Allow != nil && len(r.Allow) == 0 {
		t.Errorf("%+v", r)
	}
	for _, a := range r.Allow {
		switch {
		case a.SHA256 == nil && a.Signer == nil && a.ID == "",
			a.SHA256 != nil && len(a.SHA256) != 32, a.Signer != nil && len(a.Signer) != 32, a.MinVersion != "" && a.ID == "":
			t.Errorf("%+v", a)
		}
	}
	nobody := policy.ImageFacts{Cmdline: "\x00", Embedded: "\x01"}
	if err := r.Check(&nobody); (err == nil) != (r.Allow == nil && r.Cmdlines == nil && !r.EmbeddedCmdline) {
		t.Errorf("an image that fits nothing: %v", err)
	}
}

// parse returns the requirements of a policy file.
func parse(data []byte) (policy.Requirements, error) {
	f, err := policy.Parse(data)
	if f == nil {
		return nil, err
	}
	return f.Require, err
}
