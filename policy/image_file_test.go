package policy_test

// What the requirements with a source and the part image of a policy file are
// taken for. It does not prove that the files that they name exist or are right.

import (
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/policy"
	"go.yaml.in/yaml/v3"
)

// fromSource wraps keys, from line 3 on, into a requirement.
func fromSource(keys string) string {
	return "version: 1\nrequire:\n  - " + strings.ReplaceAll(strings.TrimSpace(keys), "\n", "\n    ") + "\n"
}

// ofImage wraps keys, from line 3 on, into the part image.
func ofImage(keys string) string {
	return "version: 1\nimage:\n  " + strings.ReplaceAll(strings.TrimSpace(keys), "\n", "\n  ") + "\n"
}

func TestParseFile(t *testing.T) {
	t.Parallel()
	source := func(r policy.Requirement, kind policy.SourceKind, path, key string) *policy.File {
		r.Source = &policy.Source{Kind: kind, Path: path, PublicKey: key}
		return &policy.File{Require: policy.Requirements{r}}
	}
	at := policy.Requirement{At: "enter-initrd"}
	named := func(name string) policy.Requirement {
		return policy.Requirement{Name: name, At: at.At}
	}
	image := func(r policy.ImageRules) *policy.File { return &policy.File{Image: r} }
	pcr := func(n measure.PCR) *policy.File {
		return &policy.File{Require: policy.Requirements{{Name: "requirement 1", At: "enter-initrd",
			Policy: policy.Accept{measure.SHA256: {n: {sha("x")}}}}}}
	}
	optional := source(named("luks /dev/vda3"), "luks", "/dev/vda3", "")
	optional.Require[0].Optional = true
	optional.Image.Trust = policy.TrustRequired
	both := source(named("luks /dev/vda3"), "luks", "/dev/vda3", "")
	both.Image.SBAT = policy.TrustReported
	x := sha("x").String()
	long := "/" + strings.Repeat("x", 4094)
	for _, test := range []struct {
		name, file string
		want       *policy.File
		// changed: in the sibling, from and to: another policy, or refused
		from, to string
	}{
		{"luks", fromSource("at: enter-initrd\nluks: /dev/vda3"), source(named("luks /dev/vda3"), "luks", "/dev/vda3", ""), "vda3", "vda4"},
		{"luks, named", fromSource("name: disk\nat: enter-initrd\nluks: /dev/vda3"), source(named("disk"), "luks", "/dev/vda3", ""), "disk", "dusk"},
		{"pcrsig", fromSource("at: enter-initrd\npcrsig: /etc/tpm2-pcr-signature.json"), source(named("pcrsig /etc/tpm2-pcr-signature.json"), "pcrsig", "/etc/tpm2-pcr-signature.json", ""), "/etc", "etc"},
		{"pcrsig in the image", fromSource("at: enter-initrd\npcrsig: image"), source(named("pcrsig image"), "pcrsig", "image", ""), "pcrsig: image", "pcrsig: imago"},
		{"pcrsig with a key", fromSource("at: enter-initrd\npcrsig: image\npublic-key: /etc/key.pem"), source(named("pcrsig image"), "pcrsig", "image", "/etc/key.pem"), "key.pem", "kez.pem"},
		{"pcrlock", fromSource("at: enter-initrd\npcrlock: /var/lib/systemd/pcrlock.json"), source(named("pcrlock /var/lib/systemd/pcrlock.json"), "pcrlock", "/var/lib/systemd/pcrlock.json", ""), "pcrlock: ", "pcrsig: "},
		{"key", fromSource("at: enter-initrd\nkey: /etc/x.pem"), source(named("key /etc/x.pem"), "key", "/etc/x.pem", ""), "key:", "kez:"},
		{"path in quotes", fromSource("at: enter-initrd\nkey: '/etc/a b: c'"), source(named("key /etc/a b: c"), "key", "/etc/a b: c", ""), "a b", "a d"},
		{"long path", fromSource("at: enter-initrd\nkey: " + long), source(named("requirement 1"), "key", long, ""), long, long + "x"},
		{"optional", fromSource("at: enter-initrd\nluks: /dev/vda3\noptional: yes") + "image: {trust: required}\n", optional, "yes", "no"},
		{"optional: true", fromSource("at: enter-initrd\nluks: /dev/vda3\noptional: true") + "image: {trust: required}\n", optional, "true", "false"},
		{"optional: no", fromSource("at: enter-initrd\nluks: /dev/vda3\noptional: no"), source(named("luks /dev/vda3"), "luks", "/dev/vda3", ""), "no", "yes"},
		{"optional: false", fromSource("at: enter-initrd\nluks: /dev/vda3\noptional: false"), source(named("luks /dev/vda3"), "luks", "/dev/vda3", ""), "false", "fulse"},
		{"both parts", fromSource("at: enter-initrd\nluks: /dev/vda3") + "image:\n  sbat: reported\n", both, "sbat", "trust"},
		{"PCR 0", fromSource("at: enter-initrd\npcrs: {sha256: {0: " + x + "}}"), pcr(0), "{0", "{1"},
		{"PCR 7", fromSource("at: enter-initrd\npcrs: {sha256: {7: " + x + "}}"), pcr(7), "{7", "{8"},
		{"PCR 9", fromSource("at: enter-initrd\npcrs: {sha256: {9: " + x + "}}"), pcr(9), "{9", "{10"},
		{"PCR 14", fromSource("at: enter-initrd\npcrs: {sha256: {14: " + x + "}}"), pcr(14), "{14", "{15"},

		{"trust", ofImage("trust: required"), image(policy.ImageRules{Trust: policy.TrustRequired}), "required", "requirez"},
		{"trust reported", ofImage("trust: reported"), image(policy.ImageRules{Trust: policy.TrustReported}), "trust", "sbat"},
		{"trust and SBAT", ofImage("sbat: required\ntrust: reported"), image(policy.ImageRules{Trust: policy.TrustReported, SBAT: policy.TrustRequired}), "required", "reported"},
		{"certificates", ofImage("certificates: [/etc/a.pem, /etc/keys]"), image(policy.ImageRules{Certificates: []string{"/etc/a.pem", "/etc/keys"}}), "/etc/keys", "etc/keys"},
		{"embedded", ofImage("cmdline: embedded"), image(policy.ImageRules{EmbeddedCmdline: true}), "embedded", "embeddet"},
		{"embedded as a pattern", ofImage("cmdline: [embedded]"), image(policy.ImageRules{Cmdlines: []string{"embedded"}}), "[embedded]", "embedded"},
		{"patterns", ofImage("cmdline:\n  - root=* ro\n  - '*'"), image(policy.ImageRules{Cmdlines: []string{"root=* ro", "*"}}), "'*'", "*"},
		{"digest", ofImage("allow:\n  - sha256: " + x), image(policy.ImageRules{Allow: []policy.ImageRule{{SHA256: sha("x")}}}), x, flip(sha("x")).String()},
		{"signer", ofImage("allow:\n  - signer: " + x), image(policy.ImageRules{Allow: []policy.ImageRule{{Signer: sha("x")}}}), "signer", "sha256"},
		{"ID", ofImage("allow:\n  - id: 1.10"), image(policy.ImageRules{Allow: []policy.ImageRule{{ID: "1.10"}}}), "1.10", "1.1"},
		{"ID and version", ofImage("allow:\n  - id: a\n    min-version: 1.10"), image(policy.ImageRules{Allow: []policy.ImageRule{{ID: "a", MinVersion: "1.10"}}}), "1.10", "1.1"},
		{"two rules", ofImage("allow: [{id: a, signer: " + x + "}, {sha256: " + x + "}]"), image(policy.ImageRules{Allow: []policy.ImageRule{{ID: "a", Signer: sha("x")}, {SHA256: sha("x")}}}), "}, {", ", "},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := policy.Parse([]byte(test.file))
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, test.want) {
				t.Errorf("\n got %s\nwant %s", show(t, got), show(t, test.want))
			}
			sibling := strings.Replace(test.file, test.from, test.to, 1)
			if sibling == test.file {
				t.Fatalf("no %q in it", test.from)
			}
			if got, err := policy.Parse([]byte(sibling)); err == nil && reflect.DeepEqual(got, test.want) {
				t.Errorf("%q in place of %q changes nothing", test.to, test.from)
			}
		})
	}
}

func TestParseFileRefuses(t *testing.T) {
	t.Parallel()
	x := sha("x").String()
	luks := fromSource("at: enter-initrd\nluks: /dev/vda3")
	const (
		known = "(known: [name at optional public-key pcrs luks pcrsig pcrlock key])"
		path  = ": not a text of 1 to 4095 printable characters"
		one   = "one requirement has one of [pcrs luks pcrsig pcrlock key]"
		word  = ": not letters, digits and . _ + - ^ ~ only"
	)
	for _, test := range []struct{ name, file, want string }{
		{"no source", fromSource("at: enter-initrd"), "policy: line 3: requirement 1: none of [pcrs luks pcrsig pcrlock key]: it would accept anything"},
		{"two sources", fromSource("at: enter-initrd\nluks: /dev/vda3\nkey: /etc/x"), "policy: line 5: requirement 1: key beside luks: " + one},
		{"two sources, in another order", fromSource("at: enter-initrd\nkey: /etc/x\nluks: /dev/vda3"), "policy: line 5: requirement 1: luks beside key: " + one},
		{"source and PCRs", fromSource("pcrs: {sha256: {11: " + x + "}}\nat: enter-initrd\npcrsig: image"), "policy: line 5: requirement 1: pcrsig beside pcrs: " + one},
		{"two devices", fromSource("at: enter-initrd\nluks: /dev/vda3\nluks: /dev/vda4"), `policy: line 5: a requirement: key "luks" twice`},
		{"list of devices", fromSource("at: enter-initrd\nluks: [/dev/vda3, /dev/vda4]"), "policy: line 4: luks" + path},
		{"source of another case", fromSource("at: enter-initrd\nLUKS: /dev/vda3"), `policy: line 4: a requirement: unknown key "LUKS" ` + known},
		{"source of the command line", fromSource("at: enter-initrd\npublic_key: /etc/x"), `policy: line 4: a requirement: unknown key "public_key" ` + known},
		{"relative path", fromSource("at: enter-initrd\nluks: dev/vda3"), `policy: line 4: luks: "dev/vda3": not an absolute path`},
		{"home", fromSource("at: enter-initrd\nkey: ~/x"), `policy: line 4: key: "~/x": not an absolute path`},
		{"tag", fromSource("at: enter-initrd\nluks: UUID=1234-5678"), `policy: line 4: luks: "UUID=1234-5678": not an absolute path`},
		{"long relative path", fromSource("at: enter-initrd\nluks: " + strings.Repeat("x", 4095)), `policy: line 4: luks: "` + strings.Repeat("x", 80) + `": not an absolute path`},
		{"path too long", fromSource("at: enter-initrd\nluks: /" + strings.Repeat("x", 4095)), "policy: line 4: luks" + path},
		{"path null", fromSource("at: enter-initrd\nluks:"), "policy: line 4: luks" + path},
		{"path ~", fromSource("at: enter-initrd\nluks: ~"), "policy: line 4: luks" + path},
		{"path empty", fromSource("at: enter-initrd\nluks: ''"), "policy: line 4: luks" + path},
		{"path with a line end", fromSource("at: enter-initrd\nluks: \"/dev/\\n\""), "policy: line 4: luks" + path},
		{"path with text to be turned round", fromSource("at: enter-initrd\nluks: \"/dev/\\u202Eadv\""), "policy: line 4: luks" + path},
		{"luks in the image", fromSource("at: enter-initrd\nluks: image"), `policy: line 4: luks: "image": not an absolute path`},
		{"key in the image", fromSource("at: enter-initrd\npcrsig: image\npublic-key: image"), `policy: line 5: public-key: "image": not an absolute path`},
		{"key alone", fromSource("at: enter-initrd\npublic-key: /etc/x"), "policy: line 3: requirement 1: none of [pcrs luks pcrsig pcrlock key]: it would accept anything"},
		{"key beside PCRs", fromSource("at: enter-initrd\npcrs: {sha256: {11: " + x + "}}\npublic-key: /etc/x"), "policy: line 5: public-key: goes with pcrsig, not with pcrs"},
		{"key beside pcrlock", fromSource("public-key: /etc/x\nat: enter-initrd\npcrlock: /x"), "policy: line 3: public-key: goes with pcrsig, not with pcrlock"},
		{"source without at", fromSource("luks: /dev/vda3"), "policy: line 3: requirement 1: no at: the phase at which it has to hold, such as enter-initrd"},
		{"optional maybe", fromSource("at: enter-initrd\nluks: /dev/vda3\noptional: maybe"), `policy: line 5: optional: "maybe": neither yes nor no`},
		{"optional Yes", fromSource("at: enter-initrd\nluks: /dev/vda3\noptional: Yes"), `policy: line 5: optional: "Yes": neither yes nor no`},
		{"optional null", fromSource("at: enter-initrd\nluks: /dev/vda3\noptional:"), `policy: line 5: optional: "": neither yes nor no`},
		{"optional list", fromSource("at: enter-initrd\nluks: /dev/vda3\noptional: [yes]"), `policy: line 5: optional: "": neither yes nor no`},
		{"all optional", fromSource("at: enter-initrd\nluks: /dev/vda3\noptional: yes"), "policy: line 1: nothing is required: it would accept anything"},
		{"all optional, image reported", "image: {trust: reported, sbat: reported}\n" + fromSource("at: enter-initrd\nluks: /dev/vda3\noptional: yes"), "policy: line 1: nothing is required: it would accept anything"},

		{"indented too little", "version: 1\nrequire:\n  - name: x\n  at: enter-initrd\n    luks: /dev/vda3\n", "policy: yaml: line 2: did not find expected '-' indicator"},
		{"indented too much", "version: 1\nrequire:\n  - name: x\n      at: enter-initrd\n", "policy: yaml: line 4: mapping values are not allowed in this context"},
		{"indented with a tab", "version: 1\nrequire:\n  - name: x\n\tat: enter-initrd\n", "policy: yaml: line 3: found a tab character that violates indentation"},
		{"not indented", "version: 1\nrequire:\n- at: enter-initrd\nluks: /dev/vda3\n", `policy: line 4: the policy: unknown key "luks" (known: [version require image])`},
		{"image not indented", "version: 1\nimage:\ntrust: required\n", `policy: line 3: the policy: unknown key "trust" (known: [version require image])`},
		{"no dash", "version: 1\nrequire:\n  at: enter-initrd\n  luks: /dev/vda3\n", "policy: line 3: require: not a list with at least one entry"},
		{"no blank behind the colon", "version: 1\nimage:\n  trust:required\n", "policy: line 3: image: not a mapping with at least one key"},
		{"no blank behind the dash", "version: 1\nrequire:\n  -at: enter-initrd\n", "policy: line 3: require: not a list with at least one entry"},

		{"image null", luks + "image:\n", "policy: line 5: image: not a mapping with at least one key"},
		{"image empty", luks + "image: {}\n", "policy: line 5: image: not a mapping with at least one key"},
		{"image a list", ofImage("- trust: required"), "policy: line 3: image: not a mapping with at least one key"},
		{"image a path", luks + "image: /efi/EFI/Linux/x.efi\n", "policy: line 5: image: not a mapping with at least one key"},
		{"image alias", "version: &a 1\nimage: *a\n", `policy: line 2: "image": aliases are not supported`},
		{"image unknown key", ofImage("trusted: required"), `policy: line 3: image: unknown key "trusted" (known: [trust sbat certificates cmdline allow])`},
		{"image key twice", ofImage("trust: required\ntrust: reported"), `policy: line 4: image: key "trust" twice`},
		{"all reported", ofImage("trust: reported\nsbat: reported"), "policy: line 1: nothing is required: it would accept anything"},
		{"all reported but certificates", ofImage("trust: reported\nsbat: reported\ncertificates: [/x]"), "policy: line 1: nothing is required: it would accept anything"},
		{"trust yes", ofImage("trust: yes"), `policy: line 3: trust: "yes": unknown (known: required reported)`},
		{"trust auto", ofImage("trust: auto"), `policy: line 3: trust: "auto": unknown (known: required reported)`},
		{"trust empty", ofImage("trust: ''"), `policy: line 3: trust: "": unknown (known: required reported)`},
		{"trust null", ofImage("trust:"), `policy: line 3: trust: "": unknown (known: required reported)`},
		{"trust a list", ofImage("trust: [required]"), `policy: line 3: trust: "": unknown (known: required reported)`},
		{"trust long", ofImage("trust: " + strings.Repeat("x", 1000)), `policy: line 3: trust: "` + strings.Repeat("x", 20) + `": unknown (known: required reported)`},
		{"SBAT of another case", ofImage("sbat: Required"), `policy: line 3: sbat: "Required": unknown (known: required reported)`},
		{"SBAT level", ofImage("sbat: 4"), `policy: line 3: sbat: "4": unknown (known: required reported)`},
		{"certificates a path", ofImage("certificates: /etc/x"), "policy: line 3: certificates: not a list with at least one entry"},
		{"certificates empty", ofImage("certificates: []"), "policy: line 3: certificates: not a list with at least one entry"},
		{"certificates null", ofImage("certificates:"), "policy: line 3: certificates: not a list with at least one entry"},
		{"certificate relative", ofImage("certificates:\n  - /etc/x\n  - x.pem"), `policy: line 5: certificates: "x.pem": not an absolute path`},
		{"certificate in the image", ofImage("certificates: [image]"), `policy: line 3: certificates: "image": not an absolute path`},
		{"certificate null", ofImage("certificates: [~]"), "policy: line 3: certificates" + path},
		{"certificate a mapping", ofImage("certificates:\n  - path: /x"), "policy: line 4: certificates" + path},
		{"certificate alias", ofImage("certificates: [&a /x, *a]"), "policy: line 3: certificates" + path},
		{"cmdline a line", ofImage("cmdline: root=/dev/vda2 ro"), `policy: line 3: cmdline: "root=/dev/vda2 ro": neither the word embedded nor a list of patterns`},
		{"cmdline null", ofImage("cmdline:"), `policy: line 3: cmdline: "": neither the word embedded nor a list of patterns`},
		{"cmdline empty", ofImage("cmdline: []"), "policy: line 3: cmdline: not a list with at least one entry"},
		{"cmdline a mapping", ofImage("cmdline: {root: /dev/vda2}"), "policy: line 3: cmdline: not a list with at least one entry"},
		{"pattern null", ofImage("cmdline:\n  -"), "policy: line 4: cmdline: not a text of 1 to 4095 printable characters"},
		{"pattern empty", ofImage("cmdline: ['']"), "policy: line 3: cmdline: not a text of 1 to 4095 printable characters"},
		{"pattern of two lines", ofImage("cmdline: [\"a\\nb\"]"), "policy: line 3: cmdline: not a text of 1 to 4095 printable characters"},
		{"pattern with a tab", ofImage("cmdline: [\"a\\tb\"]"), "policy: line 3: cmdline: not a text of 1 to 4095 printable characters"},
		{"pattern too long", ofImage("cmdline: [" + strings.Repeat("x", 4096) + "]"), "policy: line 3: cmdline: not a text of 1 to 4095 printable characters"},
		{"pattern with a colon", ofImage("cmdline:\n  - a: b"), "policy: line 4: cmdline: not a text of 1 to 4095 printable characters"},
		{"pattern with a star in front", ofImage("cmdline:\n  - *root"), "policy: yaml: unknown anchor 'root' referenced"},
		{"allow empty", ofImage("allow: []"), "policy: line 3: allow: not a list with at least one entry"},
		{"allow a mapping", ofImage("allow: {id: a}"), "policy: line 3: allow: not a list with at least one entry"},
		{"allow nothing", ofImage("allow: [{}]"), "policy: line 3: an allowed image: not a mapping with at least one key"},
		{"allow a digest", ofImage("allow: [" + x + "]"), "policy: line 3: an allowed image: not a mapping with at least one key"},
		{"allow unknown key", ofImage("allow:\n  - sha512: " + x), `policy: line 4: an allowed image: unknown key "sha512" (known: [sha256 signer id min-version])`},
		{"min_version", ofImage("allow:\n  - id: a\n    min_version: 1"), `policy: line 5: an allowed image: unknown key "min_version" (known: [sha256 signer id min-version])`},
		{"digest short", ofImage("allow:\n  - sha256: " + x[2:]), `policy: line 4: sha256: digest "` + x[2:] + `": 31 bytes, but sha256 has 32`},
		{"digest of colons", ofImage("allow:\n  - signer: '" + x[:2] + ":" + x[2:] + "'"), `policy: line 4: signer: digest "` + x[:2] + ":" + x[2:] + `": not hexadecimal`},
		{"digest null", ofImage("allow:\n  - sha256:"), `policy: line 4: sha256: digest "": 0 bytes, but sha256 has 32`},
		{"list of digests", ofImage("allow:\n  - sha256: [" + x + "]"), `policy: line 4: sha256: digest "": 0 bytes, but sha256 has 32`},
		{"first of two mistakes", ofImage("allow:\n  - min-version: 1\n    sha256: x"), `policy: line 5: sha256: digest "x": not hexadecimal`},
		{"ID null", ofImage("allow:\n  - id:"), "policy: line 4: id: not a text of 1 to 80 printable characters"},
		{"ID ~", ofImage("allow:\n  - id: ~"), "policy: line 4: id: not a text of 1 to 80 printable characters"},
		{"ID long", ofImage("allow:\n  - id: " + strings.Repeat("x", 81)), "policy: line 4: id: not a text of 1 to 80 printable characters"},
		{"ID with a pattern", ofImage("allow:\n  - id: 'debian*'"), `policy: line 4: id: "debian*"` + word},
		{"name in place of ID", ofImage("allow:\n  - id: Debian GNU/Linux"), `policy: line 4: id: "Debian GNU/Linux"` + word},
		{"version without ID", ofImage("allow:\n  - min-version: 1.2"), "policy: line 4: min-version: wants id: versions of one image are not those of another"},
		{"version with a signer, without ID", ofImage("allow:\n  - signer: " + x + "\n    min-version: 1.2"), "policy: line 5: min-version: wants id: versions of one image are not those of another"},
		{"version with a sign", ofImage("allow:\n  - id: a\n    min-version: '>=1.2'"), `policy: line 5: min-version: ">=1.2"` + word},
		{"version empty", ofImage("allow:\n  - id: a\n    min-version: ''"), "policy: line 5: min-version: not a text of 1 to 80 printable characters"},
		{"version a list", ofImage("allow:\n  - id: a\n    min-version: [1]"), "policy: line 5: min-version: not a text of 1 to 80 printable characters"},
		{"mistake in require before one in image", "version: 1\nimage: {x: y}\nrequire: []\n", "policy: line 3: require: not a list with at least one entry"},
	} {
		t.Run(test.name, func(t *testing.T) {
			f, err := policy.Parse([]byte(test.file))
			if fmt.Sprint(err) != test.want {
				t.Errorf("error:\n got %v\nwant %s", err, test.want)
			}
			if f != nil {
				t.Errorf("and it returns %+v", f)
			}
		})
	}
}

// show returns a policy as YAML.
func show(t testing.TB, f *policy.File) string {
	t.Helper()
	var b strings.Builder
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(f); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestShow: the policy that is written is the one that was read, in full.
func TestShow(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("testdata/policy/all.yaml")
	if err != nil {
		t.Fatal(err)
	}
	f, err := policy.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("testdata/all.shown")
	if err != nil {
		t.Fatal(err)
	}
	if got := show(t, f); got != string(want) {
		t.Errorf("got\n%s", got)
	}
	asJSON, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{show(t, f), string(asJSON)} {
		if again, err := policy.Parse([]byte(text)); err != nil || !reflect.DeepEqual(f, again) {
			t.Errorf("%v: %s", err, text)
		}
	}
}
