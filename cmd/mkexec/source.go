package main

import (
	"bytes"
	"cmp"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/stub"
	"github.com/mkexec/mkexec/measure/tpm"
	"github.com/mkexec/mkexec/policy"
	"github.com/mkexec/mkexec/policy/creds"
	"github.com/mkexec/mkexec/policy/discover"
	"github.com/mkexec/mkexec/policy/luks2"
	"github.com/mkexec/mkexec/policy/pcrlock"
	"github.com/mkexec/mkexec/policy/pcrsig"
	"github.com/mkexec/mkexec/policy/tss2"
)

// readNV reads an NV index for package pcrlock.
func readNV(dev *tpm.Device, index uint32) (public, content []byte, err error) {
	public, content, err = dev.ReadNV(index)
	if errors.Is(err, fs.ErrNotExist) && !errors.Is(err, tpm.ErrNoTPM) {
		err = fmt.Errorf("%w: %w", err, pcrlock.ErrNoIndex)
	}
	return public, content, err
}

// readNV reads an NV index of the TPM.
func (f *imageFlags) readNV(index uint32) (public, content []byte, err error) {
	dev, err := f.openTPM()
	if err != nil {
		return nil, nil, err
	}
	defer dev.Close()
	return readNV(dev, index)
}

// maxPolicySource bounds the small files that policies are read from, in bytes.
const maxPolicySource = 4 << 20

// An opener reads the policies that are not in a policy file. Nothing is
// unsealed, and no PIN is asked for.
type opener struct {
	root    fs.FS // nil for the files that a person names
	boot    *stub.Boot
	pcrsig  string         // a file with signed policies, in place of the image's
	pcrlock string         // the policy of systemd-pcrlock
	readNV  pcrlock.ReadNV // nil without a TPM
}

// A secret is what has to stay within reach, or a condition by itself.
type secret struct {
	policy.Requirement
	orAt []measure.Phase // where it may be wanted instead: it has to hold there, too
	note string
	// parts are the tokens of a volume, any of which opens it.
	parts []way
}

// A way is one way to a secret.
type way struct {
	name   string
	policy policy.Policy
}

// anyOf is met if one of the policies is: a volume opens by any of its tokens.
type anyOf []way

// Check implements policy.Policy.
func (a anyOf) Check(pcrs measure.PCRs) error {
	var no *policy.MismatchError
	var unsure error
	for _, p := range a {
		err := p.policy.Check(pcrs)
		var mismatch *policy.MismatchError
		switch {
		case err == nil:
			return nil
		case errors.As(err, &mismatch):
			no = cmp.Or(no, mismatch)
		default:
			unsure = cmp.Or(unsure, err)
		}
	}
	if unsure != nil {
		return unsure
	}
	return no
}

// unreadable is the policy of a source that cannot be read, or followed.
type unreadable struct{ err error }

func (u unreadable) Check(measure.PCRs) error {
	if errors.Is(u.err, policy.ErrCannotTell) {
		return u.err
	}
	return fmt.Errorf("%w: %w", u.err, policy.ErrCannotTell)
}

// resolve fills in the policy of a requirement. A source that cannot be read
// cannot be told, which is not a failure of the others.
func (o *opener) resolve(r policy.Requirement) *secret {
	s := &secret{Requirement: r}
	if r.Source == nil {
		return s
	}
	var err error
	switch r.Source.Kind {
	case policy.SourceLUKS:
		err = o.openLUKS(s)
	case policy.SourceSignature:
		s.Policy, err = o.openSignature(r.Source)
	case policy.SourcePCRLock:
		s.Policy, err = o.openPCRLock(r.Source.Path)
	case policy.SourceKey:
		s.Policy, err = o.openKey(r.Source.Path)
	case discover.SourceCredential:
		s.Policy, err = o.openCredential(r.Source.Path)
	default:
		err = fmt.Errorf("%s: unknown", r.Source.Kind)
	}
	if err != nil {
		s.Policy = unreadable{inFile(r.Source.Path, err)}
	}
	return s
}

// errNoToken is the error for a volume that does not depend on PCRs.
var errNoToken = errors.New("no token for a TPM: it does not depend on PCRs")

// found makes a secret of what was found on the machine; nil if it turns out to
// be none that depends on PCRs.
func (o *opener) found(f discover.Found) *secret {
	at := *o
	at.pcrlock = cmp.Or(f.PCRLock, o.pcrlock)
	if o.boot.PCRSignature == nil { // which systemd finds first
		at.pcrsig = cmp.Or(o.pcrsig, f.Signature)
	}
	s := at.resolve(policy.Requirement{Name: f.Name, At: f.At, Source: &f.Source, Optional: f.Optional})
	if u, ok := s.Policy.(unreadable); ok && errors.Is(u.err, errNoToken) {
		return nil
	}
	s.orAt, s.note = f.OrAt, strings.TrimSpace(f.Note+" "+s.note)
	if f.Err != nil {
		s.Policy = unreadable{f.Err}
	}
	return s
}

func (o *opener) open(path string) (fs.File, error) {
	if o.root != nil {
		return o.root.Open(strings.TrimPrefix(path, "/"))
	}
	return os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
}

// read reads a small regular file.
func (o *opener) read(path string) ([]byte, error) {
	f, err := o.open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, cmp.Or(err, errors.New("not a regular file"))
	}
	b, err := io.ReadAll(io.LimitReader(f, maxPolicySource+1))
	if err == nil && len(b) > maxPolicySource {
		err = fmt.Errorf("more than %d bytes", maxPolicySource)
	}
	return b, err
}

// openLUKS reads the tokens of a header, on a device or in a file, or those of a
// file in JSON.
func (o *opener) openLUKS(s *secret) error {
	f, err := o.open(s.Source.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	r, ok := f.(interface {
		io.ReaderAt
		io.Seeker
	})
	if !ok {
		return errors.New("cannot be read at an offset")
	}
	size, err := r.Seek(0, io.SeekEnd) // a device says no size
	if err != nil {
		return err
	}
	tokens, damage, err := readTokens(r, size)
	if err != nil {
		return err
	}
	if damage != "" {
		s.note = damage
	}
	sources, err := o.luksSources()
	if err != nil {
		return err
	}
	for _, t := range tokens {
		if t.Type != luks2.TokenType { // a FIDO2 key, or so
			continue
		}
		p := way{"token " + fmt.Sprint(t.Number), t.Policy(sources)}
		if t.PIN {
			p.name += ", with its PIN"
		}
		s.parts = append(s.parts, p)
	}
	if len(s.parts) == 0 {
		return errNoToken
	}
	s.Policy = anyOf(s.parts)
	return nil
}

// readTokens reads the TPM tokens of a LUKS2 header, or of a file in JSON.
func readTokens(r io.ReaderAt, size int64) (tokens []*luks2.Token, damage string, err error) {
	first := make([]byte, 1)
	if n, err := r.ReadAt(first, 0); n == 1 && (first[0] == '{' || first[0] == ' ' || first[0] == '\n') {
		b := make([]byte, min(size, maxPolicySource))
		if n, err := r.ReadAt(b, 0); n < len(b) {
			return nil, "", err
		}
		tokens, err = luks2.ParseTokens(b)
		return tokens, "", err
	} else if n < 1 {
		return nil, "", cmp.Or(err, io.ErrUnexpectedEOF)
	}
	h, err := luks2.Open(r, size)
	if err != nil {
		return nil, "", err
	}
	tokens, err = h.Tokens()
	return tokens, h.Damage, err
}

// luksSources returns what tokens depend on beside PCRs. A source that is not
// there stays nil: a token that wants it cannot be told.
func (o *opener) luksSources() (s luks2.Sources, err error) {
	if f, err := o.signatures(); err == nil && f != nil {
		s.Signatures = f
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return s, err
	}
	if o.pcrlock == "" {
		return s, nil
	}
	b, err := o.read(o.pcrlock)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return s, inFile(o.pcrlock, err)
	}
	f, err := pcrlock.Parse(b)
	if err != nil {
		return s, inFile(o.pcrlock, err)
	}
	s.PCRLock = &luks2.PCRLock{NVName: f.NVName, Policy: &pcrlock.Policy{File: f, ReadNV: o.readNV}}
	return s, nil
}

// signatures returns the signed policies that the next system has: those that
// are named, or those in the image. nil if there are none.
func (o *opener) signatures() (*pcrsig.File, error) {
	if o.pcrsig != "" && o.pcrsig != policy.InImage {
		b, err := o.read(o.pcrsig)
		if err != nil {
			return nil, err
		}
		f, err := pcrsig.Parse(b)
		return f, inFile(o.pcrsig, err)
	}
	if o.boot.PCRSignature == nil {
		return nil, nil
	}
	b, err := sectionBytes(o.boot.PCRSignature)
	if err != nil {
		return nil, err
	}
	f, err := pcrsig.Parse(b)
	if err != nil {
		err = fmt.Errorf("section .pcrsig: %w", err)
	}
	return f, err
}

// sectionBytes returns the contents of a section, without the zero bytes that
// may pad it.
func sectionBytes(c measure.Content) ([]byte, error) {
	b, err := measure.ReadAll(c, maxPolicySource)
	return bytes.TrimRight(b, "\x00"), err
}

// openSignature makes a policy of signed policies by themselves: one of them, for
// PCR 11 and without a reference, has to cover the PCRs.
func (o *opener) openSignature(src *policy.Source) (policy.Policy, error) {
	at := *o
	at.pcrsig = src.Path
	f, err := at.signatures()
	if err != nil {
		return nil, err
	}
	if f == nil {
		return nil, errors.New("the image has no .pcrsig section")
	}
	key, err := o.publicKey(src.PublicKey)
	if err != nil {
		return nil, err
	}
	var any anyOf
	for _, b := range measure.Banks() {
		for _, e := range f.Entries {
			if e.Bank == b {
				any = append(any, way{b.String(), &pcrsig.Policy{File: f, Key: key, Bank: b, PCRs: e.PCRs, Ref: e.Ref}})
				break
			}
		}
	}
	if len(any) == 0 {
		return nil, errors.New("no entry")
	}
	return any, nil
}

// publicKey returns the key that signed policies are by: the one that is named,
// the one in the image, or the one that systemd has.
func (o *opener) publicKey(path string) (*rsa.PublicKey, error) {
	if path == "" && o.boot.PCRPublicKey != nil {
		b, err := sectionBytes(o.boot.PCRPublicKey)
		if err != nil {
			return nil, err
		}
		key, err := pcrsig.ParsePublicKey(b)
		if err != nil {
			err = fmt.Errorf("section .pcrpkey: %w", err)
		}
		return key, err
	}
	if path == "" {
		return nil, errors.New("no public key: the image has no .pcrpkey section")
	}
	b, err := o.read(path)
	if err != nil {
		return nil, err
	}
	key, err := pcrsig.ParsePublicKey(b)
	return key, inFile(path, err)
}

func (o *opener) openPCRLock(path string) (policy.Policy, error) {
	b, err := o.read(path)
	if err != nil {
		return nil, err
	}
	f, err := pcrlock.Parse(b)
	if err != nil {
		return nil, err
	}
	return &pcrlock.Policy{File: f, ReadNV: o.readNV}, nil
}

// openKey reads a TPM 2.0 key file.
func (o *opener) openKey(path string) (policy.Policy, error) {
	b, err := o.read(path)
	if err != nil {
		return nil, err
	}
	return tss2.Parse(b)
}

// openCredential reads an encrypted credential of systemd.
func (o *opener) openCredential(path string) (policy.Policy, error) {
	b, err := o.read(path)
	if err != nil {
		return nil, err
	}
	c, err := creds.Parse(b)
	if err != nil {
		return nil, err
	}
	if c.Policy == nil || !c.Policy.IsBound() {
		return nil, errors.New("it does not depend on PCRs")
	}
	c.Policy.Signatures, err = o.signatures()
	return c.Policy, err
}
