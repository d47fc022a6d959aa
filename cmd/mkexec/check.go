package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"reflect"
	"slices"
	"strings"
	"sync"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/stub"
	"github.com/mkexec/mkexec/measure/tpm"
	"github.com/mkexec/mkexec/policy"
	"github.com/mkexec/mkexec/policy/discover"
	"github.com/spf13/cobra"
)

// The starts that check looks at.
const (
	startKexec = "kexec"
	startCold  = "cold"
	startBoth  = "both"
)

// A checker is one run of mkexec check.
type checker struct {
	imageFlags
	sys *system
	out *bytes.Buffer

	policyPath, reference string
	luks, keys, pcrsigs   []string
	publicKey, pcrlock    string
	at                    string
	start                 string
}

func newCheck(sys *system, out *bytes.Buffer) *cobra.Command {
	c := checker{sys: sys, out: out}
	cmd := &cobra.Command{
		Use:   "check [flags] [IMAGE | --linux=FILE [--initrd=FILE]... --cmdline=STR]",
		Short: "Check whether the PCRs that an image leads to are in policy",
		Long: "Predict as predict does, and tell of each policy and secret whether it will hold or open: of those\n" +
			"that are named, else of the policy of this machine and of what is found on it. Exit status 0 is\n" +
			"yes to all that is required, 1 is no, 2 is cannot tell. Nothing is unsealed, no PIN is asked for.",
		Args: oneImage,
		RunE: func(_ *cobra.Command, args []string) error { return c.check(args) },
	}
	c.add(cmd)
	c.addPhases("also print the PCRs at a phase `PATH`; the policy says itself at which phases it has to hold")
	c.addVia()
	c.addShutdown()
	c.addTrust()
	fl := cmd.Flags()
	fl.StringVar(&c.policyPath, "policy", defaultPolicy, "the policy `FILE`")
	fl.StringVar(&c.reference, "reference", "", "a known good `IMAGE` to name the first differing event against")
	fl.StringArrayVar(&c.luks, "luks", nil, "a LUKS2 `DEVICE`, header, or tokens in JSON; may be given more than once")
	fl.StringArrayVar(&c.pcrsigs, "pcrsig", nil, "signed PCR policies, `FILE`, or image; may be given more than once")
	fl.StringVar(&c.publicKey, "public-key", "", "the public key in PEM of --pcrsig, `FILE` (default: that in the image)")
	fl.StringVar(&c.pcrlock, "pcrlock", "", "the policy of systemd-pcrlock, `FILE`")
	fl.StringArrayVar(&c.keys, "key", nil, "a TPM 2.0 key `FILE`; may be given more than once")
	fl.StringVar(&c.at, "at", "enter-initrd", "the phase `PATH` at which what is named is wanted")
	fl.StringVar(&c.start, "for", startKexec, "which `START` it is about: kexec, cold, or both")
	return cmd
}

func (c *checker) check(args []string) error {
	if err := c.settleStart(); err != nil {
		return err
	}
	phases, err := c.parsePhases()
	if err != nil {
		return err
	}
	file, named, err := c.named()
	if err != nil {
		return err
	}
	v, err := c.newVerifier(c.sys, file.Image)
	if err != nil {
		return err
	}
	m, err := c.open(c.sys, args)
	if err != nil {
		return err
	}
	defer m.close()
	boot, err := m.load()
	if err != nil {
		return err
	}
	base, err := c.wholeBase()
	if err != nil {
		return err
	}
	wantsDigest := c.json
	c.json = c.json || file.Image.Allow != nil // for the SHA-256 of the file
	c.needsUserspace = true
	p, err := c.predictFrom(c.sys, m, boot, base, phases)
	if err != nil {
		return err
	}
	c.json = wantsDigest
	writeNotes(c.sys.stderr, m, boot, p.userspace)

	o := &opener{boot: boot, pcrlock: c.pcrlock}
	if c.from == "tpm" || !c.anyNamed() {
		o.readNV, o.readName, o.machine = c.readNV, c.readName, c.sys.root
	}
	if len(c.pcrsigs) > 0 {
		o.pcrsig = c.pcrsigs[0]
	}
	var secrets []*secret
	for _, r := range append(file.Require, named...) {
		secrets = append(secrets, o.resolve(r))
	}
	if !c.anyNamed() {
		o.root = c.sys.root
		found, err := c.discover(o)
		if err != nil {
			return err
		}
		secrets = append(secrets, found...)
	}
	if len(secrets) > 0 && !c.cmd.Flags().Changed("from") && c.from == "zero" && c.start != startCold {
		fmt.Fprintln(c.sys.stderr, "mkexec: note: the kexec begins with PCRs that are zero, as where systemd-stub did not start the machine; from those of this one: --from=tpm")
	}
	result := &checkJSON{
		Version: 1, OK: true, Image: p.imageJSON(), Base: p.base, Sources: []sourceJSON{}, Mismatches: []mismatchJSON{},
	}
	if file.Require != nil || !reflect.ValueOf(file.Image).IsZero() {
		result.Policy = c.policyPath
	}
	j, err := c.checkImage(result, v, m, p)
	if err != nil {
		return err
	}
	required := slices.ContainsFunc(secrets, func(s *secret) bool { return !s.Optional })
	if len(secrets) == 0 && !v.demands() {
		return withHint(errors.New("nothing to check: no policy, and no secret on this machine that depends on PCRs"), "mkexec policy init IMAGE")
	}
	by := &background{compared: c.reference != "", cold: sync.OnceValue(func() *start { return c.coldStart(m, p, j) })}
	by.known = sync.OnceValue(func() policy.Accept { return c.knownValues(p, by.cold()) })
	cannotTell := c.judge(result, secrets, p, by)
	if !required && !v.demands() {
		cannotTell = withHint(fmt.Errorf("nothing that was found is required, so that it would be yes to anything: %w", policy.ErrCannotTell),
			"to say what is: mkexec policy init IMAGE")
	}
	return c.finish(result, p, cannotTell)
}

// settleStart decides which starts it is about, and from which PCRs.
func (c *checker) settleStart() error {
	kexec := c.via == string(stub.ViaKexec)
	switch {
	case c.start != startKexec && c.start != startCold && c.start != startBoth:
		return fmt.Errorf("--for=%.40s: unknown (known: kexec cold both)", c.start)
	case kexec:
	case !c.cmd.Flags().Changed("for"):
		c.start = startCold
	case c.start != startCold:
		return fmt.Errorf("--for=%s: with --via=%.40s it is a cold boot", c.start, c.via)
	}
	if c.from == "" && !c.anyNamed() && c.start != startCold {
		c.from = "tpm" // it is about this machine
	}
	return nil
}

// named returns the policy file, and the requirements that flags make.
func (c *checker) named() (*policy.File, policy.Requirements, error) {
	at, err := measure.ParsePhase(c.at)
	if err != nil {
		return nil, nil, err
	}
	for name, paths := range map[string][]string{"luks": c.luks, "pcrsig": c.pcrsigs, "key": c.keys} {
		if slices.Contains(paths, "") {
			return nil, nil, fmt.Errorf("--%s=: no file", name)
		}
	}
	if c.publicKey != "" && len(c.pcrsigs) == 0 {
		return nil, nil, withHint(errors.New("--public-key goes with --pcrsig"), c.usage())
	}
	var rs policy.Requirements
	add := func(kind policy.SourceKind, path string) {
		rs = append(rs, policy.Requirement{Name: path, At: at, Source: &policy.Source{Kind: kind, Path: path, PublicKey: c.publicKey}})
	}
	for _, path := range c.luks {
		add(policy.SourceLUKS, path)
	}
	for _, path := range c.pcrsigs {
		if len(c.luks) == 0 || path != c.pcrsigs[0] { // otherwise it is what the tokens want
			add(policy.SourceSignature, path)
		}
	}
	if c.pcrlock != "" && len(c.luks) == 0 {
		add(policy.SourcePCRLock, c.pcrlock)
	}
	for _, path := range c.keys {
		add(policy.SourceKey, path)
	}
	file, err := readPolicy(c.policyPath)
	if errors.Is(err, fs.ErrNotExist) && !c.cmd.Flags().Changed("policy") {
		return &policy.File{}, rs, nil
	}
	return file, rs, err
}

// anyNamed tells whether the person said what to look at.
func (c *checker) anyNamed() bool {
	for _, name := range []string{"policy", "luks", "pcrsig", "pcrlock", "key"} {
		if c.cmd.Flags().Changed(name) {
			return true
		}
	}
	return false
}

// discover returns the secrets of this machine, and the image's own signed
// policies.
func (c *checker) discover(o *opener) ([]*secret, error) {
	found, err := discover.Find(c.sys.root)
	if err != nil {
		return nil, fmt.Errorf("secrets of this machine: %w", err)
	}
	var secrets []*secret
	for i, f := range found {
		s := o.found(f)
		if s == nil {
			continue
		}
		var unknown []measure.PCR
		for k, other := range found {
			if k != i { // it may be opened before
				unknown = append(unknown, other.Extends...)
			}
		}
		if _, ok := s.Policy.(unreadable); !ok && unknown != nil {
			s.Policy = forgetful{s.Policy, unknown}
		}
		secrets = append(secrets, s)
	}
	if o.boot.PCRSignature != nil {
		secrets = append(secrets, o.resolve(policy.Requirement{
			Name: "the image's .pcrsig", At: "enter-initrd", Optional: true,
			Source: &policy.Source{Kind: policy.SourceSignature, Path: policy.InImage},
		}))
	}
	return secrets, nil
}

// wholeBase is base with all PCRs that policies may name.
func (c *checker) wholeBase() (measure.PCRs, error) {
	base, err := c.base(c.sys)
	if errors.Is(err, tpm.ErrNoTPM) {
		err = withHint(err, "to check a cold boot without a TPM: --for=cold; a kexec from PCRs that are zero: --from=zero")
	}
	if err != nil || c.from != "tpm" {
		return base, err
	}
	dev, err := c.openTPM()
	if err != nil {
		return nil, err
	}
	defer dev.Close()
	banks, err := c.parseBanks()
	if err != nil {
		return nil, err
	}
	all, err := dev.Read(measure.PredictablePCRs()...)
	if err != nil {
		return nil, err
	}
	if all, err = onlyBanks(all, banks); err != nil {
		return nil, err
	}
	return all.After(c.before)
}

// checkImage looks at the signature of the image and of the kernel in it, and at
// the rules for images.
func (c *checker) checkImage(result *checkJSON, v *verifier, m *image, p *prediction) (*judgement, error) {
	whole := m.src.UKI
	if whole == nil {
		whole = m.src.Linux
	}
	j, err := v.verify(whole)
	if err == nil {
		if v.interesting() {
			result.Trust = j.String()
		}
		err = v.checkRules(p.boot, p.digest, j)
	}
	if err == nil && c.start != startCold {
		err = v.checkKernel(p.boot.Kernel)
	}
	var no *policy.MismatchError
	if errors.As(err, &no) {
		result.Trust = strings.TrimPrefix(no.Detail, "image: ")
		result.OK, result.Reason = false, no.Reason
		return j, nil
	}
	return j, inFile(m.path, err)
}

// judge asks every source about every start, and returns why something that is
// required cannot be told, nil if everything can.
func (c *checker) judge(result *checkJSON, secrets []*secret, p *prediction, by *background) (cannotTell error) {
	var starts []*start
	if c.start != startCold {
		starts = append(starts, &start{name: startKexec, Prediction: p.Prediction, userspace: p.userspace})
	}
	if c.start != startKexec {
		starts = append(starts, by.cold())
	}
	for _, s := range secrets {
		for _, start := range starts {
			verdict := s.judge(start, by)
			result.Sources = append(result.Sources, verdict.json())
			switch {
			case verdict.optional:
			case verdict.no != nil:
				result.OK = false
				if result.Reason == "" {
					result.Reason = verdict.no.Reason
				}
				for _, x := range verdict.no.Mismatches {
					result.Mismatches = append(result.Mismatches, mismatchJSON{x.Requirement, x.Phase, x.Bank, x.PCR, x.Want, x.Got})
				}
			case verdict.err != nil && cannotTell == nil:
				cannotTell = fmt.Errorf("%s: %w", s.Name, verdict.err)
				if verdict.hint != "" {
					cannotTell = withHint(cannotTell, verdict.hint)
				} else {
					cannotTell = cannotTellHint(cannotTell, p)
				}
			}
		}
	}
	return cannotTell
}

// finish prints the result. A no is one whatever else cannot be told; without
// one, what cannot be told is trouble.
func (c *checker) finish(result *checkJSON, p *prediction, cannotTell error) error {
	if !result.OK && c.reference != "" {
		// a no stays one, whatever is wrong with the reference
		var err error
		if result.FirstDifference, err = c.compare(c.sys, p, c.reference); err != nil {
			report(c.sys.stderr, fmt.Errorf("reference: %w", err))
		}
	}
	if result.OK && cannotTell != nil {
		for _, s := range result.Sources { // the rest is known, and worth telling
			for _, line := range append([]string{s.String()}, s.Notes...) {
				fmt.Fprintf(c.sys.stderr, "mkexec: note: %s\n", clean(line))
			}
		}
		return cannotTell
	}
	if len(c.phases) > 0 {
		j, err := p.json()
		if err != nil {
			return err
		}
		result.Phases = j.Phases
	}
	err := error(nil)
	if c.json {
		err = printJSON(c.out, result)
	} else {
		err = result.print(c.out)
	}
	if err == nil && !result.OK {
		return errNo
	}
	return err
}

// compare predicts the reference as p was predicted and returns the first
// event that differs, nil if none does.
func (f *imageFlags) compare(sys *system, p *prediction, reference string) (*firstDifference, error) {
	m := &image{}
	defer m.close()
	if err := m.openUKI(reference); err != nil {
		return nil, err
	}
	path, err := realPath(reference)
	if err != nil {
		return nil, err
	}
	other := *f
	if _, _, _, err := f.place(sys, path); err != nil { // it is somewhere else than the image
		other.none = true
	}
	if p.image.uki != nil {
		m.entry = p.image.entry // started the same way
	}
	if m.opts, err = other.options(sys, m); err != nil {
		return nil, err
	}
	if p.image.uki == nil { // its command line is a section, not one that is passed
		m.opts.Cmdline, m.opts.Append = nil, ""
	}
	boot, err := m.load()
	if err != nil {
		return nil, err
	}
	ref, err := measure.Predict(&boot.Image, measure.Options{Base: p.Base})
	if err != nil {
		return nil, inFile(reference, err)
	}
	i := measure.FirstDifference(p.Events, ref.Events)
	if i < 0 {
		return nil, nil
	}
	event := func(events []measure.Event) *measure.Event {
		if i < len(events) {
			return &events[i]
		}
		return nil
	}
	return &firstDifference{i + 1, event(p.Events), event(ref.Events), reference}, nil
}

// cannotTellHint is for a policy that names what was not predicted.
func cannotTellHint(err error, p *prediction) error {
	var unknown *policy.NotPredictedError
	switch {
	case hintFor(err) != "" || !errors.As(err, &unknown):
		return err
	case p.Base[unknown.Bank] == nil && p.base == "zero":
		return withHint(err, fmt.Sprintf("to predict that bank: --bank=%s", unknown.Bank))
	case p.Base[unknown.Bank][unknown.PCR] == nil && p.base == "zero":
		return withHint(err, "to begin with what the TPM of this machine holds: --from=tpm")
	case p.OSSeparator == measure.SeparatorUnknown && unknown.PCR != measure.PCRKernelImage:
		return withHint(err, "to say which systemd is in the initrd: --systemd=VERSION")
	}
	return err
}
