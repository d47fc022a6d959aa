package policy_test

// Which images rules allow. It does not prove that the facts that they ask for
// are true: signatures, digests and command lines are found out elsewhere.

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/policy"
)

func sha(text string) measure.Digest { return measure.SHA256.Sum([]byte(text)) }

// facts are those of one image; each test changes one of them.
func facts() *policy.ImageFacts {
	return &policy.ImageFacts{
		SHA256: sha("image"), Signers: []measure.Digest{sha("signer"), sha("other")},
		ID: "appliance", Version: "2.10", Cmdline: "root=/dev/vda2 ro quiet", Embedded: "root=/dev/vda2 ro quiet",
	}
}

func TestImageRules(t *testing.T) {
	t.Parallel()
	type rule = policy.ImageRule
	allow := func(rules ...rule) policy.ImageRules { return policy.ImageRules{Allow: rules} }
	cmdline := func(patterns ...string) policy.ImageRules { return policy.ImageRules{Cmdlines: patterns} }
	const none = "policy not met: image: "
	for _, test := range []struct {
		name   string
		rules  policy.ImageRules
		change func(*policy.ImageFacts) // makes a no of a yes
		want   string                   // the no
	}{
		{"digest", allow(rule{SHA256: sha("image")}), func(f *policy.ImageFacts) { f.SHA256 = flip(f.SHA256) },
			none + "its SHA-256 is " + flip(sha("image")).String() + ", not " + sha("image").String()},
		{"digest of a part", allow(rule{SHA256: sha("image")}), func(f *policy.ImageFacts) { f.SHA256 = f.SHA256[:31] },
			none + "its SHA-256 is " + sha("image")[:31].String() + ", not " + sha("image").String()},
		{"digest of a bare kernel", allow(rule{SHA256: sha("image")}), func(f *policy.ImageFacts) { f.SHA256 = nil },
			none + "a bare kernel is not the file with the SHA-256 " + sha("image").String()},
		{"signer", allow(rule{Signer: sha("signer")}), func(f *policy.ImageFacts) { f.Signers[0] = flip(f.Signers[0]) },
			none + "it has no trusted signature by the certificate with the SHA-256 " + sha("signer").String()},
		{"second signer", allow(rule{Signer: sha("other")}), func(f *policy.ImageFacts) { f.Signers = f.Signers[:1] },
			none + "it has no trusted signature by the certificate with the SHA-256 " + sha("other").String()},
		{"unsigned", allow(rule{Signer: sha("signer")}), func(f *policy.ImageFacts) { f.Signers = nil },
			none + "it has no trusted signature by the certificate with the SHA-256 " + sha("signer").String()},
		{"ID", allow(rule{ID: "appliance"}), func(f *policy.ImageFacts) { f.ID = "applianca" }, none + `its ID is "applianca", not "appliance"`},
		{"ID of another case", allow(rule{ID: "appliance"}), func(f *policy.ImageFacts) { f.ID = "Appliance" }, none + `its ID is "Appliance", not "appliance"`},
		{"ID with more", allow(rule{ID: "appliance"}), func(f *policy.ImageFacts) { f.ID = "appliance2" }, none + `its ID is "appliance2", not "appliance"`},
		{"no ID", allow(rule{ID: "appliance"}), func(f *policy.ImageFacts) { f.ID = "" }, none + `it does not say its ID, which has to be "appliance"`},
		{"long ID", allow(rule{ID: "appliance"}), func(f *policy.ImageFacts) { f.ID = strings.Repeat("x", 1000) },
			none + `its ID is "` + strings.Repeat("x", 80) + `", not "appliance"`},
		{"version", allow(rule{ID: "appliance", MinVersion: "2.10"}), func(f *policy.ImageFacts) { f.Version = "2.9" },
			none + `its version is "2.9", older than "2.10"`},
		{"no version", allow(rule{ID: "appliance", MinVersion: "2.10"}), func(f *policy.ImageFacts) { f.Version = "" },
			none + `it does not say its version, which has to be "2.10" at least`},
		{"version of another image", allow(rule{ID: "appliance", MinVersion: "2.10"}), func(f *policy.ImageFacts) { f.ID, f.Version = "other", "99" },
			none + `its ID is "other", not "appliance"`},
		{"all of a rule, ID", allow(rule{SHA256: sha("image"), Signer: sha("signer"), ID: "appliance", MinVersion: "1"}), func(f *policy.ImageFacts) { f.ID = "x" },
			none + `its ID is "x", not "appliance"`},
		{"all of a rule, signer", allow(rule{Signer: sha("signer"), ID: "appliance"}), func(f *policy.ImageFacts) { f.Signers = nil },
			none + "it has no trusted signature by the certificate with the SHA-256 " + sha("signer").String()},
		{"one of two rules", allow(rule{ID: "x"}, rule{ID: "appliance"}), func(f *policy.ImageFacts) { f.ID = "y" },
			none + `its ID is "y", not "x"; its ID is "y", not "appliance"`},
		{"parts of two rules", allow(rule{ID: "appliance"}, rule{ID: "x", MinVersion: "3"}), func(f *policy.ImageFacts) { f.ID = "x" },
			none + `its ID is "x", not "appliance"; its version is "2.10", older than "3"`},
		{"many rules", allow(rule{ID: "a"}, rule{ID: "b"}, rule{ID: "c"}, rule{ID: "d"}, rule{ID: "appliance"}), func(f *policy.ImageFacts) { f.ID = "y" },
			none + `its ID is "y", not "a"; its ID is "y", not "b"; its ID is "y", not "c"; and 2 more rules`},

		{"embedded", policy.ImageRules{EmbeddedCmdline: true}, func(f *policy.ImageFacts) { f.Cmdline = "root=/dev/vda3 ro quiet" },
			`policy not met: command line: only the embedded one is allowed, and at byte 0 it has "root=/dev/vda3 ro quiet", there "root=/dev/vda2 ro quiet"`},
		{"embedded, more", policy.ImageRules{EmbeddedCmdline: true}, func(f *policy.ImageFacts) { f.Cmdline += " init=/bin/sh" },
			`policy not met: command line: only the embedded one is allowed, and at byte 18 it has "quiet init=/bin/sh", there "quiet"`},
		{"embedded, none", policy.ImageRules{EmbeddedCmdline: true}, func(f *policy.ImageFacts) { f.Embedded = "" },
			`policy not met: command line: only the embedded one is allowed, and at byte 0 it has "root=/dev/vda2 ro quiet", there ""`},
		{"line", cmdline("root=/dev/vda2 ro quiet"), func(f *policy.ImageFacts) { f.Cmdline = "root=/dev/vda2 rw quiet" },
			`policy not met: command line: "root=/dev/vda2 rw quiet" is none of those that are allowed`},
		{"line, embedded does not matter", cmdline("root=/dev/vda2 ro quiet"), func(f *policy.ImageFacts) { f.Cmdline, f.Embedded = f.Embedded+"\n", f.Cmdline },
			`policy not met: command line: "root=/dev/vda2 ro quiet\n" is none of those that are allowed`},
		{"second line", cmdline("quiet", "root=/dev/vda2 ro quiet"), func(f *policy.ImageFacts) { f.Cmdline = "" },
			`policy not met: command line: "" is none of those that are allowed`},
		{"pattern", cmdline("root=* ro quiet"), func(f *policy.ImageFacts) { f.Cmdline = "root=/dev/vda2 init=/bin/sh ro quiet" },
			`policy not met: command line: "root=/dev/vda2 init=/bin/sh ro quiet" is none of those that are allowed`},
		{"long line", cmdline("root=* ro quiet"), func(f *policy.ImageFacts) { f.Cmdline = strings.Repeat("x", 1000) },
			`policy not met: command line: "` + strings.Repeat("x", 200) + `" is none of those that are allowed`},

		{"both, image", policy.ImageRules{Allow: []rule{{ID: "appliance"}}, EmbeddedCmdline: true}, func(f *policy.ImageFacts) { f.ID, f.Cmdline = "x", "y" },
			none + `its ID is "x", not "appliance"`},
		{"both, command line", policy.ImageRules{Allow: []rule{{ID: "appliance"}}, EmbeddedCmdline: true}, func(f *policy.ImageFacts) { f.Cmdline += " x" },
			`policy not met: command line: only the embedded one is allowed, and at byte 18 it has "quiet x", there "quiet"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := facts()
			if err := test.rules.Check(f); err != nil {
				t.Errorf("refused: %v", err)
			}
			test.change(f)
			err := test.rules.Check(f)
			if fmt.Sprint(err) != test.want {
				t.Errorf("error:\n got %v\nwant %s", err, test.want)
			}
			want := policy.ReasonImage
			if strings.HasPrefix(test.want, "policy not met: command line") {
				want = policy.ReasonCmdline
			}
			var no *policy.MismatchError
			if !errors.As(err, &no) || no.Reason != want {
				t.Errorf("%#v", err)
			}
		})
	}
}

// TestImageRulesSilent: what says nothing allows everything.
func TestImageRulesSilent(t *testing.T) {
	t.Parallel()
	for _, rules := range []policy.ImageRules{
		{}, {Trust: policy.TrustRequired, SBAT: policy.TrustReported, Certificates: []string{"/etc/x"}},
	} {
		if err := rules.Check(facts()); err != nil {
			t.Error(err)
		}
		if err := rules.Check(&policy.ImageFacts{}); err != nil {
			t.Error(err)
		}
	}
}

// TestMinVersion: the pairs are examples of UAPI.10 Version Format, and the
// verdicts those of systemd-analyze compare-versions 262.
func TestMinVersion(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		version, min string
		ok           bool
	}{
		{"2.10", "2.10", true}, {"2.11", "2.10", true}, {"2.9", "2.10", false}, {"3", "2.10", true}, {"1.99", "2.10", false},
		{"2.10.1", "2.10", true}, {"2.10~rc1", "2.10", false}, {"2.10", "2.10~rc1", true}, {"2.10-1", "2.10", true}, {"2.10", "2.10-1", false},
		{"2.10^post", "2.10", true}, {"2.010", "2.10", true}, {"2.1", "2.10", false}, {"20251124", "20251123", true}, {"20251122", "20251123", false},
		{"13", "13", true}, {"12", "13", false}, {"6.12.9-arch1", "6.12.10-arch1", false}, {"6.12.10-arch2", "6.12.10-arch1", true},
		{"2.10b", "2.10a", true}, {"2.10A", "2.10a", false},
	} {
		rules := policy.ImageRules{Allow: []policy.ImageRule{{ID: "x", MinVersion: test.min}}}
		if err := rules.Check(&policy.ImageFacts{ID: "x", Version: test.version}); (err == nil) != test.ok {
			t.Errorf("%s at least %s: %v", test.version, test.min, err)
		}
	}
}

// TestCmdlinePattern: each line that a pattern matches has a sibling that it does not.
func TestCmdlinePattern(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ pattern, yes, no string }{
		{"ro", "ro", "rO"},
		{"ro", "ro", "ro "},
		{"ro", "ro", " ro"},
		{"ro", "ro", "ro\n"},
		{"ro quiet", "ro quiet", "ro  quiet"},
		{"ro quiet", "ro quiet", "ro\tquiet"},
		{"root=*", "root=/dev/vda2", "Root=/dev/vda2"},
		{"root=*", "root=", "root= "},
		{"root=*", "root=UUID=a-b", "root=UUID=a-b init=/bin/sh"},
		{"root=* ro", "root=/dev/vda2 ro", "root=/dev/vda2 rw ro"},
		{"root=* ro", "root=/dev/vda2 ro", "root=/dev/vda2\tx ro"},
		{"root=* ro", "root=/dev/vda2 ro", "root=/dev/vda2\nx ro"},
		{"root=* ro", "root=/dev/vda2 ro", "root=/dev/vda2\xa0x ro"}, // a blank to the kernel (lib/ctype.c)
		{"root=* ro", "root=/dev/vda2 ro", "root=\u00a0x ro"},
		{"root=* ro", "root=/dev/vda2 ro", "root=\"/dev/vda2 ro"}, // ro would be a part of the word
		{"root=* ro", "root=/dev/vda2 ro", "root='/dev/vda2 ro"},
		{"root=* ro", "root=/dev/vda2 ro", "root=\x00 ro"},
		{"root=* ro", "root=/dev/vda2 ro", "root=\x7f ro"},
		{"a*b*c", "a1b2c", "a1c2b"},
		{"a*b*c", "abbcc", "abbc c"},
		{"a*a", "aa", "a"},
		{"*", "x", "x y"},
		{"*", "", " "},
		{"**", "xy", "x\ty"},
		{"* *", "x y", "x y z"},
		{"dyndbg=\"file * +p\"", "dyndbg=\"file a.c +p\"", "dyndbg=\"file a.c +p"},
		{"x=[1-3]", "x=[1-3]", "x=2"},
		{"x=a?c", "x=a?c", "x=abc"},
		{`x=\*`, `x=\y`, "x=*"},
		{"x=.", "x=.", "x=y"},
		{"x=(a|b)", "x=(a|b)", "x=a"},
		{"größe=*", "größe=1", "grösse=1"},
		{"x=\ufffd", "x=\ufffd", "x=\xff"},
	} {
		rules := policy.ImageRules{Cmdlines: []string{test.pattern}}
		if err := rules.Check(&policy.ImageFacts{Cmdline: test.yes}); err != nil {
			t.Errorf("%q does not match %q", test.yes, test.pattern)
		}
		if err := rules.Check(&policy.ImageFacts{Cmdline: test.no}); err == nil {
			t.Errorf("%q matches %q", test.no, test.pattern)
		}
	}
	// a pattern that a matcher could take for ever on
	pattern, line := strings.Repeat("*a", 100), strings.Repeat("a", 2000)
	rules := policy.ImageRules{Cmdlines: []string{pattern}}
	if err := rules.Check(&policy.ImageFacts{Cmdline: line}); err != nil {
		t.Error("a long line does not match a long pattern")
	}
	if err := rules.Check(&policy.ImageFacts{Cmdline: line + "b"}); err == nil {
		t.Error("a long line matches another long pattern")
	}
}

// FuzzCmdlinePattern: a line that matches has as many words as its pattern, and
// a line is matched by itself.
func FuzzCmdlinePattern(f *testing.F) {
	f.Add("root=* ro", "root=/dev/vda2 ro")
	f.Add("a*b*c", "abc c")
	f.Add(`x="* y"`, `x="z y"`)
	f.Fuzz(func(t *testing.T, pattern, line string) {
		check := func(pattern, line string) bool {
			rules := policy.ImageRules{Cmdlines: []string{pattern}}
			return rules.Check(&policy.ImageFacts{Cmdline: line}) == nil
		}
		// the characters that the kernel and systemd split at, or join words by
		count := func(s string) int {
			return strings.Count(s, " ") + strings.Count(s, "\t") + strings.Count(s, "\n") + strings.Count(s, `"`) + strings.Count(s, "'")
		}
		if check(pattern, line) && count(pattern) != count(line) {
			t.Errorf("%q matches %q", line, pattern)
		}
		if strings.ToValidUTF8(line, "") == line && !strings.Contains(line, "*") && !check(line, line) {
			t.Errorf("%q does not match itself", line)
		}
	})
}
