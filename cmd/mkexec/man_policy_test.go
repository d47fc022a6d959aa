package main

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/stub"
	"github.com/mkexec/mkexec/policy"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// The manual page of policy files against the parser. It does not prove that
// what the page says of a key is true.

func policyPage(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile("mkexec-policy.yaml.5")
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(string(page), `\-`, "-")
}

// manSection returns a section of a manual page.
func manSection(t *testing.T, page, name string) string {
	t.Helper()
	_, section, ok := strings.Cut(page, "\n.SH "+name+"\n")
	if !ok {
		t.Fatalf("no section %s", name)
	}
	section, _, _ = strings.Cut(section, "\n.SH ")
	return section
}

// knownKeys asks the parser which keys it knows: a file with another names them.
func knownKeys(t *testing.T, file string) []string {
	t.Helper()
	_, err := policy.Parse([]byte(file))
	_, list, ok := strings.Cut(fmt.Sprint(err), `unknown key "x" (known: [`)
	if !ok {
		t.Fatalf("%s: %v", file, err)
	}
	return strings.Fields(strings.TrimSuffix(list, "])"))
}

func TestPolicyPageNamesEveryKey(t *testing.T) {
	t.Parallel()
	page := policyPage(t)
	total := 0
	for section, file := range map[string]string{
		"KEYS OF THE FILE":         "x: 1",
		"KEYS OF A REQUIREMENT":    "version: 1\nrequire: [{x: 1}]",
		"KEYS OF IMAGE":            "version: 1\nimage: {x: 1}",
		"KEYS OF AN ALLOWED IMAGE": "version: 1\nimage: {allow: [{x: 1}]}",
	} {
		var described []string
		for _, m := range regexp.MustCompile(`(?m)^\.TP\n\.B (.*)\n`).FindAllStringSubmatch(manSection(t, page, section), -1) {
			described = append(described, m[1])
		}
		known := knownKeys(t, file)
		total += len(known)
		slices.Sort(known)
		slices.Sort(described)
		if !slices.Equal(known, described) {
			t.Errorf("%s: described %v, known %v", section, described, known)
		}
	}
	if total < 20 {
		t.Errorf("only %d keys", total)
	}
	requirement := manSection(t, page, "KEYS OF A REQUIREMENT")
	for _, b := range measure.Banks() {
		if !strings.Contains(requirement, b.String()) {
			t.Errorf("bank %s is not named", b)
		}
	}
	if want := []measure.PCR{0, 1, 2, 3, 4, 5, 6, 7, 9, 11, 12, 13, 14}; !slices.Equal(measure.PredictablePCRs(), want) ||
		!strings.Contains(requirement, "PCRs 0 to 7, 9 and 11 to 14 can be named") {
		t.Error("other PCRs can be named")
	}
}

// TestPolicyPageExamples: the examples are policies, and together have every key.
func TestPolicyPageExamples(t *testing.T) {
	t.Parallel()
	examples := regexp.MustCompile(`(?s)\n\.nf\n(.*?)\.fi\n`).FindAllStringSubmatch(manSection(t, policyPage(t), "EXAMPLES")+"\n", -1)
	if len(examples) < 3 {
		t.Fatalf("%d examples", len(examples))
	}
	all := ""
	for _, e := range examples {
		if _, err := policy.Parse([]byte(e[1])); err != nil {
			t.Errorf("%v:\n%s", err, e[1])
		}
		all += e[1]
	}
	hasEveryKey(t, all)
}

// hasEveryKey: text has a line with each key that the parser knows.
func hasEveryKey(t *testing.T, text string) {
	t.Helper()
	var keys []string
	for _, file := range []string{"x: 1", "version: 1\nrequire: [{x: 1}]", "version: 1\nimage: {x: 1}", "version: 1\nimage: {allow: [{x: 1}]}"} {
		keys = append(keys, knownKeys(t, file)...)
	}
	for _, key := range keys {
		if !regexp.MustCompile(`(?m)^[ -]*` + regexp.QuoteMeta(key) + `:`).MatchString(text) {
			t.Errorf("no %s in\n%s", key, text)
		}
	}
}

// TestPolicyPageErrors: the errors that the page shows are those of the parser.
func TestPolicyPageErrors(t *testing.T) {
	t.Parallel()
	_, shown, ok := strings.Cut(manSection(t, policyPage(t), "ERRORS"), "\n.nf\n")
	if !ok {
		t.Fatal("none")
	}
	shown, _, _ = strings.Cut(shown, "\n.fi\n")
	const head = "version: 1\nrequire:\n  - name: disk\n    at: enter-initrd\n" // four lines
	files := []string{
		head + "\n\n    luk: /dev/vda3\n",
		head + "    pcrs:\n      sha256:\n        10: 00\n",
		head + "    pcrs:\n      sha256:\n        11: 4c5a\n",
		head + "\n    luks: /dev/vda3\n    key: /etc/key.pem\n",
		"version: 1\n",
	}
	lines := strings.Split(shown, "\n")
	if len(lines) != len(files) {
		t.Fatalf("%d errors", len(lines))
	}
	for i, line := range lines {
		pattern := strings.ReplaceAll(regexp.QuoteMeta(line), `\.\.\.`, ".*")
		_, err := policy.Parse([]byte(files[i]))
		if !regexp.MustCompile("^" + pattern + "$").MatchString(fmt.Sprint(err)) {
			t.Errorf("shown %s\n  got %v", line, err)
		}
	}
}

func TestPolicyPageRequests(t *testing.T) {
	t.Parallel()
	for line := range strings.Lines(policyPage(t)) {
		request, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		if (strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'")) &&
			!slices.Contains([]string{".TH", ".SH", ".TP", ".B", ".BR", ".PP", ".nf", ".fi"}, request) {
			t.Errorf("%q: not a request", line)
		}
	}
}

// TestManNamesPolicyVerbs: what is below policy is described in mkexec(8).
func TestManNamesPolicyVerbs(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("mkexec.8")
	if err != nil {
		t.Fatal(err)
	}
	cmd, _, err := newRoot(&system{}, new(bytes.Buffer)).Find([]string{"policy"})
	if err != nil || len(cmd.Commands()) != 3 {
		t.Fatalf("%v %v", cmd.Commands(), err)
	}
	for _, c := range cmd.Commands() {
		for _, want := range []string{`\fBmkexec policy ` + c.Name() + `\fR`, `\fB` + c.Name() + `\fR `} {
			if !strings.Contains(string(page), want) {
				t.Errorf("mkexec.8: no %q", want)
			}
		}
	}
	// init takes what predict takes to say which image is started how
	predict, _, err := cmd.Root().Find([]string{"predict"})
	if err != nil {
		t.Fatal(err)
	}
	initCmd, _, err := cmd.Find([]string{"init"})
	if err != nil {
		t.Fatal(err)
	}
	var flags imageFlags
	only := &cobra.Command{}
	flags.add(only)
	flags.addVia()
	flags.addShutdown()
	for name, cmd := range map[string]*cobra.Command{"predict": predict, "init": initCmd} {
		only.Flags().VisitAll(func(fl *pflag.Flag) {
			if fl.Name != "json" && cmd.Flags().Lookup(fl.Name) == nil {
				t.Errorf("%s has no --%s", name, fl.Name)
			}
		})
	}
}

// TestPolicyInitExamples: what init writes is a policy, and still is one with
// all examples taken out of the comments; then it has every key.
func TestPolicyInitExamples(t *testing.T) {
	t.Parallel()
	p, err := measure.Predict(&measure.Image{}, measure.Options{Base: measure.Zero(measure.Banks(), measure.StubPCRs()...)})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	hostile := &image{path: "a\n#b\x1b\u2028\u0085.efi"}
	pred := &prediction{Prediction: p, boot: &stub.Boot{Image: measure.Image{Cmdline: "x\ny: z\r\"'\u202e"}}, image: hostile, userspace: &userspace{}, base: "tpm"}
	if err := pred.printPolicy(&out, &system{root: fstest.MapFS{}}); err != nil {
		t.Fatal(err)
	}
	f, err := policy.Parse(out.Bytes())
	if err != nil {
		t.Fatalf("%v:\n%s", err, &out)
	}
	if len(f.Require) != 1 || f.Require[0].Source != nil || f.Require.Check(p) != nil {
		t.Errorf("%+v", f)
	}
	if f.Image.Allow != nil || f.Image.Trust != "" {
		t.Errorf("%+v", f.Image)
	}
	all := regexp.MustCompile(`(?m)^#(  |[a-z])`).ReplaceAllString(out.String(), "$1")
	if f, err = policy.Parse([]byte(all)); err != nil {
		t.Fatalf("%v:\n%s", err, all)
	}
	if len(f.Require) != 5 || len(f.Image.Allow) != 2 || f.Image.Trust != policy.TrustRequired {
		t.Errorf("%+v", f)
	}
	hasEveryKey(t, all)

	// what is not known is not written
	p.OSSeparator = measure.SeparatorUnknown
	pred.userspace.why = "no idea"
	if err := pred.printPolicy(new(bytes.Buffer), &system{root: fstest.MapFS{}}); fmt.Sprint(err) != "PCR 12 (sha1) at enter-initrd: cannot tell: no idea" {
		t.Error(err)
	}
}

// TestReasonsAreDescribed: every reason code is in the manual page, and no other.
func TestReasonsAreDescribed(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("mkexec.8")
	if err != nil {
		t.Fatal(err)
	}
	section := manSection(t, strings.ReplaceAll(string(page), `\-`, "-"), "REASONS")
	var described []string
	for _, m := range regexp.MustCompile(`(?m)^\.BR? (.*)$`).FindAllStringSubmatch(section, -1) {
		described = append(described, strings.Fields(strings.ReplaceAll(m[1], `", "`, ""))...)
	}
	var known []string
	for _, file := range []string{"../../policy/policy.go", "../../policy/image.go", "../../policy/trust/trust.go"} {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`Reason[A-Za-z]+ +Reason += "([a-z-]+)"`).FindAllStringSubmatch(string(source), -1) {
			known = append(known, m[1])
		}
	}
	slices.Sort(described)
	slices.Sort(known)
	if len(known) < 15 || !slices.Equal(described, known) {
		t.Errorf("described %q, known %q", described, known)
	}
}
