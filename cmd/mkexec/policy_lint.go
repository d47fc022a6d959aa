package main

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/policy"
	"github.com/spf13/cobra"
)

func newPolicyLint(out *bytes.Buffer) *cobra.Command {
	return &cobra.Command{
		Use:   "lint FILE",
		Short: "Check a policy file for mistakes and say what it requires",
		Long: "Check a policy file for mistakes and say in words what it requires. What it names (devices, keys,\n" +
			"certificates) is not looked at: the file may be for another machine. Exit status 2 is a mistake.",
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return withHint(fmt.Errorf("want one FILE, not %d", len(args)), "mkexec policy lint --help")
			}
			f, err := readPolicy(args[0])
			if err != nil {
				return err
			}
			fmt.Fprintf(out, "%s: no mistakes\n", clean(args[0]))
			t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
			for _, r := range f.Require {
				for _, what := range requires(&r) {
					fmt.Fprintf(t, "%s\t%s\n", map[bool]string{false: "required", true: "optional"}[r.Optional], what)
				}
			}
			for _, what := range imageWords(&f.Image) {
				fmt.Fprintf(t, "image\t%s\n", what)
			}
			return t.Flush()
		},
	}
}

// requires says what a requirement asks for, a sentence a line.
func requires(r *policy.Requirement) []string {
	at := "before the first phase"
	if r.At != "" {
		at = "at " + string(r.At)
	}
	var what []string
	if r.Source != nil {
		what = append(what, sourceWords(r.Source))
	}
	accept, _ := r.Policy.(policy.Accept)
	for _, b := range slices.Sorted(maps.Keys(accept)) {
		for _, n := range slices.Sorted(maps.Keys(accept[b])) {
			what = append(what, fmt.Sprintf("PCR %d (%s) is %s", n, b, oneOf(accept[b][n])))
		}
	}
	for i := range what {
		what[i] = fmt.Sprintf("%s, %s: %s", r.Name, at, what[i])
	}
	return what
}

func oneOf(values []measure.Digest) string {
	var texts []string
	for _, d := range values {
		texts = append(texts, d.String())
	}
	return strings.Join(texts, " or ")
}

func sourceWords(s *policy.Source) string {
	switch s.Kind {
	case policy.SourceLUKS:
		return "a TPM2 token of " + s.Path + " unlocks it"
	case policy.SourcePCRLock:
		return "the policy of systemd-pcrlock in " + s.Path + " holds"
	case policy.SourceKey:
		return "the TPM unseals the key in " + s.Path
	}
	where := s.Path
	if where == policy.InImage {
		where = "the image's .pcrsig"
	}
	key := "the image's .pcrpkey or that of this machine"
	if s.PublicKey != "" {
		key = s.PublicKey
	}
	return fmt.Sprintf("a signature in %s, by %s, is for these PCRs", where, key)
}

// imageWords says what the rules for images ask for, a sentence a line.
func imageWords(r *policy.ImageRules) []string {
	whether := map[policy.Trust]string{
		policy.TrustAuto:     "required if Secure Boot is on, else reported",
		policy.TrustRequired: "required",
		policy.TrustReported: "reported",
	}
	signature := "a signature that the firmware trusts"
	if r.Certificates != nil {
		signature += ", or by " + strings.Join(r.Certificates, " or ")
	}
	what := []string{signature + ": " + whether[r.Trust], "SBAT generations that are not revoked: " + whether[r.SBAT]}
	if r.EmbeddedCmdline {
		what = append(what, "command line: only the embedded one")
	}
	for i, p := range r.Cmdlines {
		what = append(what, fmt.Sprintf("command line%s: %q", or(i), p))
	}
	for i, a := range r.Allow {
		what = append(what, fmt.Sprintf("allowed%s: %s", or(i), ruleWords(&a)))
	}
	return what
}

// or tells an alternative from the first.
func or(i int) string {
	if i > 0 {
		return ", or"
	}
	return ""
}

func ruleWords(a *policy.ImageRule) string {
	var all []string
	if a.SHA256 != nil {
		all = append(all, "SHA-256 "+a.SHA256.String())
	}
	if a.Signer != nil {
		all = append(all, "signed by the certificate with SHA-256 "+a.Signer.String())
	}
	if a.ID != "" {
		all = append(all, "ID "+a.ID)
	}
	if a.MinVersion != "" {
		all = append(all, "version "+a.MinVersion+" or newer")
	}
	return strings.Join(all, ", ")
}
