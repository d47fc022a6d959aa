package main

import (
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/stub"
	"github.com/mkexec/mkexec/measure/uki"
	"github.com/mkexec/mkexec/policy"
	"github.com/mkexec/mkexec/policy/trust"
)

// A verifier decides whether this machine should run an image: by its signature,
// and by the rules of the policy file.
type verifier struct {
	store    *trust.Store
	opts     trust.Options
	rules    policy.ImageRules
	required bool // the signature has to be trusted
	insist   bool // --no-verify
}

// newVerifier reads what this machine and the flags trust. Where nothing is to
// be verified it does without.
func (f *imageFlags) newVerifier(sys *system, rules policy.ImageRules) (*verifier, error) {
	v := &verifier{rules: rules, insist: f.noVerify}
	for _, name := range append(rules.Certificates, f.trust...) {
		certs, err := readCertificates(name)
		if err != nil {
			return nil, err
		}
		v.opts.Anchors = append(v.opts.Anchors, certs...)
	}
	var err error
	if v.store, err = trust.ReadStore(sys.root); err != nil {
		if v.insist {
			v.store = &trust.Store{}
			return v, nil
		}
		return nil, withHint(fmt.Errorf("what this machine trusts: %w", err), "to start the image without: --no-verify")
	}
	v.required = rules.Trust == policy.TrustRequired || rules.Trust == policy.TrustAuto && v.store.Enforced()
	return v, nil
}

// addTrust is for the verbs that look at signatures.
func (f *imageFlags) addTrust() {
	f.cmd.Flags().StringArrayVar(&f.trust, "trust", nil, "trust what `CERT|DIR` signed, beside what the firmware trusts; may be given more than once")
}

// interesting tells whether what is found is worth telling: something is
// required, or something is there to trust.
func (v *verifier) interesting() bool {
	return v.required || v.store.SecureBoot || len(v.opts.Anchors) > 0 || len(v.store.DB.Certificates) > 0
}

// needsSBAT tells whether generations below this machine's level are a no.
func (v *verifier) needsSBAT() bool {
	return v.rules.SBAT == policy.TrustRequired || v.rules.SBAT == policy.TrustAuto && v.store.Enforced()
}

// demands tells whether anything is asked of images, be it waived by --no-verify.
func (v *verifier) demands() bool {
	return v.required || v.needsSBAT() || v.rules.EmbeddedCmdline || v.rules.Cmdlines != nil || v.rules.Allow != nil
}

// acceptAddons answers for the firmware of this machine which addons it loads.
func acceptAddons(sys *system) (func(string, *uki.File) (bool, error), error) {
	store, err := trust.ReadStore(sys.root)
	if err != nil {
		return nil, withHint(fmt.Errorf("what this machine trusts: %w", err), "to take addons as trusted: --no-verify")
	}
	return trust.AcceptAddon(store, trust.Options{}), nil
}

// checkKernel tells of the kernel in an image what Linux will say in one word: it
// is not signed, or changed after it was. Who signed it Linux knows better. And it
// tells what Linux does not look at: that the kernel is revoked.
func (v *verifier) checkKernel(kernel measure.Content) error {
	if v.insist || !v.store.Enforced() {
		return nil
	}
	f, err := uki.Open(kernel, kernel.Size())
	if err != nil {
		return nil // no PE file: other kernels are signed in other ways
	}
	verdict, err := trust.CheckKernel(f, v.store, v.opts)
	switch {
	case err != nil:
		return fmt.Errorf("kernel: signature: %w: %w", err, policy.ErrCannotTell)
	case verdict.Trusted || verdict.Reason == trust.ReasonUntrusted:
		return nil
	case verdict.Reason == trust.ReasonRevokedSBAT && !v.needsSBAT():
		return nil
	case verdict.Reason == trust.ReasonRevokedHash || verdict.Reason == trust.ReasonRevokedSBAT:
		return withHint(&policy.MismatchError{Reason: policy.Reason(verdict.Reason), Detail: "kernel: " + verdict.Detail},
			"to start it all the same: --no-verify")
	}
	return withHint(&policy.MismatchError{Reason: policy.Reason(verdict.Reason), Detail: "kernel: Linux will refuse it: " + verdict.Detail},
		"to see what the image holds: mkexec inspect --digests IMAGE; the kernel in it has a signature of its own")
}

// A judgement is what a verifier says of an image.
type judgement struct {
	*trust.Verdict       // nil if the image cannot have a signature, or none that is understood
	err            error // why it is not understood
	bare           bool  // a kernel without a UKI around it
	signers        []measure.Digest
}

// String says it in one line.
func (j *judgement) String() string {
	switch {
	case j.err != nil:
		return fmt.Sprintf("cannot be told: %v", j.err)
	case j.Verdict == nil:
		return "not a PE file, which alone can be signed"
	case j.Trusted:
		return fmt.Sprintf("trusted: %v", j.Anchor)
	case j.SBATReason != "" && j.Reason != j.SBATReason:
		return fmt.Sprintf("not trusted: %s; %s", j.Detail, j.SBATDetail)
	}
	return "not trusted: " + j.Detail
}

// isTrusted tells whether the image is trusted, leaving aside what SBAT says.
func (j *judgement) isTrusted() bool {
	return j.Verdict != nil && (j.Trusted || j.SBATReason != "" && j.Reason == j.SBATReason)
}

// verify looks at the signature of an image. An image that has to be trusted and
// is not is a *policy.MismatchError.
func (v *verifier) verify(image measure.Content) (*judgement, error) {
	j := &judgement{bare: !isUKI(image)}
	f, err := uki.Open(image, image.Size())
	if err == nil {
		check := trust.Check
		if j.bare { // shim does not ask a kernel for SBAT data
			check = trust.CheckKernel
		}
		if j.Verdict, j.err = check(f, v.store, v.opts); j.err != nil && !v.insist && (v.required || v.needsSBAT()) {
			return nil, fmt.Errorf("signature: %w: %w", j.err, policy.ErrCannotTell)
		}
	}
	if j.isTrusted() {
		for _, s := range j.Signatures {
			if s.Reason == "" {
				d := sha256.Sum256(s.Signer.Raw)
				j.signers = append(j.signers, d[:])
			}
		}
	}
	switch {
	case v.insist:
	case v.required && !j.isTrusted():
		return j, j.refused()
	case v.needsSBAT() && j.Verdict != nil && j.SBATReason != "":
		return j, withHint(&policy.MismatchError{Reason: policy.Reason(j.SBATReason), Detail: "image: not trusted: " + j.SBATDetail},
			"to start it all the same: --no-verify")
	}
	return j, nil
}

// refused is the no for an image that nobody who counts has signed.
func (j *judgement) refused() error {
	reason, hint := trust.ReasonUnsigned, "to start it all the same: --no-verify"
	if j.Verdict != nil {
		reason = j.Reason
	}
	if reason == trust.ReasonUntrusted {
		hint = "to trust its signer: --trust=CERTIFICATE; " + hint
	}
	return withHint(&policy.MismatchError{Reason: policy.Reason(reason), Detail: "image: " + j.String()}, hint)
}

// checkRules holds an image against the rules of the policy file.
func (v *verifier) checkRules(boot *stub.Boot, sha256 measure.Digest, j *judgement) error {
	facts := &policy.ImageFacts{SHA256: sha256, Signers: j.signers, Cmdline: boot.Cmdline, Embedded: boot.Embedded}
	if boot.OSRelease == "" && boot.Embedded == "" && sha256 != nil && j.bare {
		facts.SHA256 = nil // of a kernel alone: it says nothing of the initrd
	}
	facts.ID, facts.Version = policy.ReadRelease(boot.OSRelease)
	return v.rules.Check(facts)
}

// readCertificates reads a file or directory that --trust names.
func readCertificates(name string) ([]*x509.Certificate, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	dir, base := filepath.Split(filepath.Clean(name))
	if info.IsDir() {
		dir, base = name, "."
	}
	if dir == "" {
		dir = "."
	}
	certs, err := trust.ReadCertificates(os.DirFS(dir), base)
	var missing *fs.PathError
	switch {
	case err == nil || errors.As(err, &missing):
	case base == ".":
		err = fmt.Errorf("%s: %s", name, strings.TrimPrefix(err.Error(), ".: "))
	default:
		err = inFile(dir, err)
	}
	return certs, err
}
