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
	"slices"
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
	"github.com/mkexec/mkexec/policy/tpm2"
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

// readName reads the Name of a key in the TPM.
func (f *imageFlags) readName(handle uint32) ([]byte, error) {
	dev, err := f.openTPM()
	if err != nil {
		return nil, err
	}
	defer dev.Close()
	return dev.ReadName(handle)
}

// maxPolicySource bounds the small files that policies are read from, in bytes.
const maxPolicySource = 4 << 20

// An opener reads the policies that are not in a policy file. Nothing is
// unsealed, and no PIN is asked for.
type opener struct {
	root fs.FS // nil for the files that a person names
	// machine is the root of the machine that the image starts on, where systemd
	// looks for what is not named; nil if that is not known.
	machine fs.FS
	boot    *stub.Boot
	pcrsig  string         // a file with signed policies, in place of those that systemd finds
	also    string         // another one that is tried, too
	pcrlock string         // the policy of systemd-pcrlock; "" for the one that systemd finds
	readNV  pcrlock.ReadNV // nil without a TPM
	// readName reads the Name of a key in the TPM; nil without one.
	readName func(handle uint32) ([]byte, error)
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
	token  *luks2.Token // nil if it is none
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

// A forgetful policy is one that is asked when PCRs have been extended with what
// nobody can foretell.
type forgetful struct {
	policy.Policy
	pcrs []measure.PCR
}

// Check implements policy.Policy.
func (f forgetful) Check(pcrs measure.PCRs) error {
	pcrs = pcrs.Clone()
	for b := range pcrs {
		for _, n := range f.pcrs {
			delete(pcrs[b], n)
		}
	}
	return f.Policy.Check(pcrs)
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
		s.Policy, err = o.openCredential(r.Source.Path, r.At)
	default:
		err = fmt.Errorf("%s: unknown", r.Source.Kind)
	}
	if err != nil {
		if p, ok := err.(*fs.PathError); ok && strings.Trim(p.Path, "/") == strings.Trim(r.Source.Path, "/") {
			err = p.Err
		}
		if !strings.Contains(r.Name, r.Source.Path) {
			err = inFile(r.Source.Path, err)
		}
		s.Policy = unreadable{err}
	}
	return s
}

// errNoToken is the error for a volume that does not depend on PCRs.
var errNoToken = errors.New("no token of type " + luks2.TokenType)

// found makes a secret of what was found on the machine; nil if it turns out to
// be none that depends on PCRs.
func (o *opener) found(f discover.Found) *secret {
	at := *o
	at.pcrlock, at.also = cmp.Or(f.PCRLock, o.pcrlock), f.Signature
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
	sources := o.luksSources(s.At)
	var others []string
	for _, t := range tokens {
		if t.Type != luks2.TokenType { // a FIDO2 key, or so
			others = append(others, fmt.Sprintf("%.40q", t.Type))
			continue
		}
		s.parts = append(s.parts, way{name: fmt.Sprintf("token %d", t.Number), policy: o.inThisTPM(t, t.Policy(sources)), token: t})
	}
	if len(s.parts) == 0 && others != nil {
		return fmt.Errorf("%w: it has tokens of other types: %s", errNoToken, strings.Join(others, " "))
	}
	if len(s.parts) == 0 {
		return errNoToken
	}
	s.Policy = anyOf(s.parts)
	return nil
}

// inThisTPM adds to the policy of a token that it is this TPM that sealed its
// secret, as far as the token says and there is a TPM to ask.
func (o *opener) inThisTPM(t *luks2.Token, p policy.Policy) policy.Policy {
	if o.readName == nil || t.SRKName == nil {
		return p
	}
	name, err := o.readName(t.SRK)
	switch {
	case errors.Is(err, tpm.ErrNoTPM):
		return p
	case errors.Is(err, fs.ErrNotExist):
		return opposed{p, fmt.Errorf("the storage root key that it is sealed under, 0x%x, is not in the TPM now: %w", t.SRK, policy.ErrCannotTell)}
	case err != nil:
		return opposed{p, fmt.Errorf("storage root key: %w: %w", err, policy.ErrCannotTell)}
	case !bytes.Equal(name, t.SRKName):
		return opposed{p, &policy.MismatchError{Reason: policy.ReasonTPM, Detail: fmt.Sprintf(
			"it is sealed under another storage root key (0x%x) than the TPM has: by another TPM, or before it was cleared", t.SRK)}}
	}
	return p
}

// An opposed policy is met by no PCRs: something else is against it. If that is not
// certain, PCRs that are against it are a no all the same.
type opposed struct {
	policy.Policy
	err error
}

// Check implements policy.Policy.
func (o opposed) Check(pcrs measure.PCRs) error {
	var no *policy.MismatchError
	if err := o.Policy.Check(pcrs); errors.As(err, &no) && !errors.As(o.err, &no) {
		return err
	}
	return o.err
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
// known stays nil: a token that wants it cannot be told. One that cannot be read
// matters for the tokens that want it, and for no others.
func (o *opener) luksSources(at measure.Phase) (s luks2.Sources) {
	files, err := o.signatures(at)
	if err != nil {
		s.Signatures = noSignatures{err}
	} else if files != nil {
		s.Signatures = files
	}
	f, path, err := o.findPCRLock()
	switch {
	case err != nil:
		s.PCRLock = &luks2.PCRLock{Policy: unreadable{inFile(path, err)}}
	case f != nil:
		s.PCRLock = &luks2.PCRLock{NVName: f.NVName, Policy: &pcrlock.Policy{File: f, ReadNV: o.readNV}}
	}
	return s
}

// findPCRLock returns the policy of systemd-pcrlock that is named, or the one of
// the machine; nil if there is none.
func (o *opener) findPCRLock() (*pcrlock.File, string, error) {
	at, path := *o, o.pcrlock
	if path == "" && o.machine != nil {
		at.root, path = o.machine, discover.PCRLockFile(o.machine)
	}
	if path == "" {
		return nil, "", nil
	}
	b, err := at.read(path)
	if err != nil {
		return nil, path, err
	}
	f, err := pcrlock.Parse(b)
	return f, path, err
}

// signatureFiles are files of signed policies, any of which may have one.
type signatureFiles []*pcrsig.File

// Signed implements [luks2.Signatures].
func (fs signatureFiles) Signed(key *rsa.PublicKey, bank measure.Bank, pcrs []measure.PCR, ref string, pol tpm2.Digest) (err error) {
	for _, f := range fs {
		if no := f.Signed(key, bank, pcrs, ref, pol); no == nil {
			return nil
		} else if err == nil {
			err = no
		}
	}
	return err
}

// noSignatures are those that cannot be read.
type noSignatures struct{ err error }

// Signed implements [luks2.Signatures].
func (n noSignatures) Signed(*rsa.PublicKey, measure.Bank, []measure.PCR, string, tpm2.Digest) error {
	return unreadable(n).Check(nil)
}

// signatures returns the signed policies that the next system has at a phase:
// those that are named, or those that its systemd will find. nil if they are not
// known: the initrd may have some of its own.
func (o *opener) signatures(at measure.Phase) (files signatureFiles, err error) {
	first, err := o.firstSignatures(at)
	if err != nil {
		return nil, err
	}
	if first != nil {
		files = append(files, first)
	}
	if o.also != "" {
		f, err := o.readSignatures(o.also)
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}

func (o *opener) firstSignatures(at measure.Phase) (*pcrsig.File, error) {
	inInitrd := !slices.Contains(at.Words(), "leave-initrd")
	named := o.pcrsig != "" && o.pcrsig != policy.InImage
	switch {
	case named:
		return o.readSignatures(o.pcrsig)
	case o.machine != nil && o.pcrsig == "" && !inInitrd:
		if path := discover.SignatureFile(o.machine, o.boot.PCRSignature != nil); path != "" {
			host := *o
			host.root = o.machine
			return host.readSignatures(path)
		}
	}
	switch f, err := o.imageSignatures(); {
	case f != nil || err != nil:
		return f, err
	case o.machine != nil && !inInitrd:
		return &pcrsig.File{}, nil // there are none
	}
	return nil, nil
}

// imageSignatures returns those in the image; nil if it has none.
func (o *opener) imageSignatures() (*pcrsig.File, error) {
	if o.boot.PCRSignature == nil {
		return nil, nil
	}
	b, err := sectionBytes(o.boot.PCRSignature)
	if err != nil {
		return nil, err
	}
	f, err := pcrsig.Parse(b)
	if err != nil {
		return nil, fmt.Errorf("section .pcrsig: %w", err)
	}
	return f, nil
}

func (o *opener) readSignatures(path string) (*pcrsig.File, error) {
	b, err := o.read(path)
	if err != nil {
		return nil, err
	}
	f, err := pcrsig.Parse(b)
	return f, inFile(path, err)
}

// sectionBytes returns the contents of a section, without the zero bytes that
// may pad it.
func sectionBytes(c measure.Content) ([]byte, error) {
	b, err := measure.ReadAll(c, maxPolicySource)
	return bytes.TrimRight(b, "\x00"), err
}

// openSignature makes a policy of signed policies by themselves. Which of them a
// secret is sealed to is not known, so that in each bank one of them has to cover
// the PCRs: of those without a reference, as secrets of the disk are sealed, if
// there is one.
func (o *opener) openSignature(src *policy.Source) (policy.Policy, error) {
	var f *pcrsig.File
	var err error
	if src.Path == policy.InImage {
		if f, err = o.imageSignatures(); f == nil && err == nil {
			err = errors.New("the image has no .pcrsig section")
		}
	} else {
		f, err = o.readSignatures(src.Path)
	}
	if err != nil {
		return nil, err
	}
	key, err := o.publicKey(src.PublicKey)
	if err != nil {
		return nil, err
	}
	if len(f.Entries) == 0 {
		return nil, errors.New("no entry")
	}
	var all inEachBank
	for _, b := range measure.Banks() {
		var plain, others anyOf
		for _, e := range f.Entries {
			p := way{policy: &pcrsig.Policy{File: f, Key: key, Bank: b, PCRs: e.PCRs, Ref: e.Ref}}
			switch {
			case e.Bank != b:
			case e.Ref == "":
				plain = append(plain, p)
			default:
				others = append(others, p)
			}
		}
		if plain == nil {
			plain = others
		}
		if plain != nil {
			all = append(all, bankPolicy{b, plain})
		}
	}
	return all, nil
}

// A bankPolicy is what is asked of the PCRs of a bank.
type bankPolicy struct {
	bank   measure.Bank
	policy policy.Policy
}

// inEachBank is met if the policies of all banks are that the PCRs are known in.
// It cannot be told if some are and some are not: it depends on the bank that the
// secret is sealed in.
type inEachBank []bankPolicy

// Check implements policy.Policy.
func (a inEachBank) Check(pcrs measure.PCRs) error {
	var yes, no []measure.Bank
	var mismatch *policy.MismatchError
	var unsure error
	for _, p := range a {
		if pcrs[p.bank] == nil {
			continue
		}
		err := p.policy.Check(pcrs)
		var m *policy.MismatchError
		switch {
		case err == nil:
			yes = append(yes, p.bank)
		case errors.As(err, &m):
			no, mismatch = append(no, p.bank), cmp.Or(mismatch, m)
		default:
			unsure = cmp.Or(unsure, err)
		}
	}
	switch {
	case unsure != nil:
		return unsure
	case yes == nil && no == nil:
		return fmt.Errorf("it has no entry for the banks that are predicted: %w", policy.ErrCannotTell)
	case yes != nil && no != nil:
		return fmt.Errorf("sealed in the bank %s it will, in %s it will not: %w", measure.BankNames(yes), measure.BankNames(no), policy.ErrCannotTell)
	case no != nil:
		return mismatch
	}
	return nil
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
	at := *o
	if path == "" && o.machine != nil {
		at.root, path = o.machine, discover.PublicKeyFile(o.machine)
	}
	if path == "" {
		return nil, errors.New("no public key: the image has no .pcrpkey section")
	}
	b, err := at.read(path)
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

// openCredential reads an encrypted credential of systemd that is wanted at a phase.
func (o *opener) openCredential(path string, at measure.Phase) (policy.Policy, error) {
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
	if c.Policy.PublicKey == nil {
		return c.Policy, nil
	}
	c.Policy.Signatures, err = o.firstSignatures(at)
	return c.Policy, err
}
