package policy

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/bls"
)

// The reasons of image rules.
const (
	// ReasonCmdline: the command line is not one that is allowed.
	ReasonCmdline Reason = "command-line-not-allowed"
	// ReasonImage: the image is none of those that are allowed.
	ReasonImage Reason = "image-not-allowed"
)

// ImageRules say which images may be started. The zero value is that of a policy
// that does not say.
type ImageRules struct {
	// Trust says whether the signature of the image has to be trusted, and SBAT
	// whether its generations must not be revoked.
	Trust, SBAT Trust
	// Certificates are files or directories with certificates that are trusted
	// beside those of the firmware.
	Certificates []string
	// EmbeddedCmdline allows no other command line than the embedded one: what
	// addons and the SMBIOS put behind it is refused too.
	EmbeddedCmdline bool
	// Cmdlines are patterns, one of which the final command line has to match.
	// In them * stands for any ASCII text without blanks and quotes, so that a
	// line that matches has the words of the pattern and no more. Nil allows
	// every line.
	Cmdlines []string
	// Allow are rules, one of which an image has to fit. Nil allows every image.
	Allow []ImageRule
}

// A Trust says whether a check of an image is a condition.
type Trust string

// The values of a Trust.
const (
	TrustAuto     Trust = ""         // required if Secure Boot is on, else reported
	TrustRequired Trust = "required" // a no is an obstacle
	TrustReported Trust = "reported" // looked at and told, but no obstacle
)

// An ImageRule is fitted by an image that has all that it names.
type ImageRule struct {
	// SHA256 is that of the whole file.
	SHA256 measure.Digest `json:"sha256,omitempty" yaml:"sha256,omitempty"`
	// Signer is the SHA-256 of a certificate (DER) that signed the image.
	Signer measure.Digest `json:"signer,omitempty" yaml:"signer,omitempty"`
	// ID is that of [ReadRelease].
	ID string `json:"id,omitempty" yaml:"id,omitempty"`
	// MinVersion is the lowest version that is allowed, by the order of UAPI.10
	// Version Format. It goes with ID only.
	MinVersion string `json:"min-version,omitempty" yaml:"min-version,omitempty"`
}

// ImageFacts are what rules ask of an image. What is not known fits no rule that
// asks for it.
type ImageFacts struct {
	// SHA256 is that of the whole file; nil for a bare kernel, of which no file
	// is the whole.
	SHA256 measure.Digest
	// Signers are the SHA-256 of the certificates (DER) whose signature is valid
	// and trusted.
	Signers []measure.Digest
	// ID and Version are those of [ReadRelease].
	ID, Version string
	// Cmdline is the final command line and Embedded that of the image itself,
	// "" without one. Both are as the kernel would get them.
	Cmdline, Embedded string
}

// Check returns nil if the image is allowed and a [*MismatchError] if it is not.
// Trust and SBAT are not looked at.
func (r *ImageRules) Check(f *ImageFacts) error {
	if no := r.misfit(f); no != "" {
		return &MismatchError{Reason: ReasonImage, Detail: "image: " + no}
	}
	switch {
	case r.EmbeddedCmdline && f.Cmdline != f.Embedded:
		got, want := part(f.Cmdline, f.Embedded)
		no := fmt.Sprintf("only the embedded one is allowed, and at byte %d it has %.80q, there %.80q", len(f.Cmdline)-len(got), got, want)
		return &MismatchError{Reason: ReasonCmdline, Detail: "command line: " + no}
	case r.Cmdlines != nil && !slices.ContainsFunc(r.Cmdlines, func(p string) bool { return matchCmdline(p, f.Cmdline) }):
		return &MismatchError{Reason: ReasonCmdline, Detail: fmt.Sprintf("command line: %.200q is none of those that are allowed", f.Cmdline)}
	}
	return nil
}

// accepts tells whether the rules accept whatever there is.
func (r *ImageRules) accepts() bool {
	return r.Trust == TrustReported && r.SBAT == TrustReported && !r.EmbeddedCmdline && r.Cmdlines == nil && r.Allow == nil
}

// misfit says why an image fits none of the rules, "" if it fits one.
func (r *ImageRules) misfit(f *ImageFacts) string {
	const most = 3 // reasons that are told
	var why []string
	for _, rule := range r.Allow {
		no := rule.misfit(f)
		if no == "" {
			return ""
		}
		why = append(why, no)
	}
	if n := len(why) - most; n > 0 {
		why = append(why[:most], fmt.Sprintf("and %d more rules", n))
	}
	return strings.Join(why, "; ")
}

// misfit says what of a rule an image does not fit, "" if it fits all.
func (r *ImageRule) misfit(f *ImageFacts) string {
	is := func(want measure.Digest) func(measure.Digest) bool {
		return func(d measure.Digest) bool { return bytes.Equal(d, want) }
	}
	switch {
	case r.SHA256 != nil && f.SHA256 == nil:
		return fmt.Sprintf("a bare kernel is not the file with the SHA-256 %s", r.SHA256)
	case r.SHA256 != nil && !is(r.SHA256)(f.SHA256):
		return fmt.Sprintf("its SHA-256 is %s, not %s", f.SHA256, r.SHA256)
	case r.Signer != nil && !slices.ContainsFunc(f.Signers, is(r.Signer)):
		return fmt.Sprintf("it has no trusted signature by the certificate with the SHA-256 %s", r.Signer)
	case r.ID != "" && f.ID == "":
		return fmt.Sprintf("it does not say its ID, which has to be %.80q", r.ID)
	case r.ID != "" && r.ID != f.ID:
		return fmt.Sprintf("its ID is %.80q, not %.80q", f.ID, r.ID)
	case r.MinVersion != "" && f.Version == "":
		return fmt.Sprintf("it does not say its version, which has to be %.80q at least", r.MinVersion)
	case r.MinVersion != "" && bls.CompareVersions(f.Version, r.MinVersion) < 0:
		return fmt.Sprintf("its version is %.80q, older than %.80q", f.Version, r.MinVersion)
	}
	return ""
}

// part returns what two texts have behind the words that both begin with.
func part(a, b string) (restA, restB string) {
	i := 0
	for i < len(a) && i < len(b) && a[i] == b[i] {
		i++
	}
	i = strings.LastIndexByte(a[:i], ' ') + 1
	return a[i:], b[i:]
}

// matchCmdline tells whether a command line matches a pattern of [ImageRules].
// Quotes are left out because the kernel and systemd take quoted blanks for a
// part of a word: with one quote a line could hide words of the pattern.
func matchCmdline(pattern, cmdline string) bool {
	const word = `[!#-&(-~]*` // from ! to ~, but " and '
	literals := strings.Split(pattern, "*")
	for i, l := range literals {
		literals[i] = regexp.QuoteMeta(l)
	}
	re, err := regexp.Compile(`\A` + strings.Join(literals, word) + `\z`)
	return err == nil && utf8.ValidString(cmdline) && re.MatchString(cmdline)
}
