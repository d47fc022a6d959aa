package main

import (
	"bytes"
	"errors"
	"fmt"
	"os/signal"
	"slices"
	"syscall"

	"github.com/mkexec/mkexec/kexec"
	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/stub"
	"github.com/mkexec/mkexec/measure/tpm"
	"github.com/mkexec/mkexec/policy"
	"github.com/spf13/cobra"
)

func newBoot(sys *system, out *bytes.Buffer) *cobra.Command {
	b := booter{sys: sys, out: out, verb: "boot"}
	cmd := &cobra.Command{
		Use:   "boot [flags] [IMAGE | --linux=FILE [--initrd=FILE]... --cmdline=STR]",
		Short: "Boot an image by a measured kexec",
		Long: "Stage the image in sealed memory, predict, check the policy, load, extend the TPM, prove that\n" +
			"it holds what was predicted, and jump. Every failure ends with nothing done, or says that the\n" +
			"PCRs were extended and the machine must be rebooted through firmware. Where systemd runs the\n" +
			"machine this is load and then systemctl kexec; --now jumps at once.",
		Args: oneImage,
		RunE: func(_ *cobra.Command, args []string) error { return b.run(args) },
	}
	b.addFlags(cmd)
	cmd.Flags().BoolVar(&b.now, "now", false, "jump at once, without shutting systemd's services down")
	cmd.MarkFlagsMutuallyExclusive("now", "shutdown")
	return cmd
}

// addFlags adds the flags that boot and load share.
func (b *booter) addFlags(cmd *cobra.Command) {
	b.add(cmd)
	b.addTrust()
	b.addPhases("a phase `PATH` to print for --dry-run and --json")
	b.addShutdown()
	fl := cmd.Flags()
	fl.StringVar(&b.policy, "policy", defaultPolicy, "the policy `FILE`")
	fl.BoolVar(&b.noPolicy, "no-policy", false, "go without a policy")
	fl.BoolVar(&b.noVerify, "no-verify", false, "boot although the signature of the image, or of an addon, is not trusted")
	fl.BoolVar(&b.ignoreDTB, "ignore-dtb", false, "boot an image with a devicetree, which is then measured but not used")
	fl.BoolVar(&b.dryRun, "dry-run", false, "print every event in order and stop before anything changes")
	cmd.MarkFlagsMutuallyExclusive("policy", "no-policy")
}

// A booter is one run of mkexec boot, or of mkexec load.
type booter struct {
	imageFlags
	sys  *system
	out  *bytes.Buffer
	verb string

	policy    string
	noPolicy  bool
	ignoreDTB bool
	dev       *tpm.Device
	log       *carriedLog
	now       bool
	dryRun    bool
	deferred  bool // to the end of the shutdown

	loaded bool // the kernel has taken the image
}

const (
	untouched = "nothing was loaded and mkexec extended no PCR"
	unloaded  = "the image was unloaded again and mkexec extended no PCR"
	poisoned  = "the image was unloaded again, but PCRs were extended: secrets stay locked until a reboot through firmware"
	stuck     = "the image is still loaded; whether PCRs were extended, the error says"
)

func (b *booter) run(args []string) error {
	signal.Ignore(syscall.SIGPIPE) // whether somebody reads along does not matter
	err := b.tryRun(args)
	var no *policy.MismatchError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, kexec.ErrStillLoaded):
		return &stateError{err, stuck}
	case errors.Is(err, kexec.ErrCommitted):
		return &stateError{err, poisoned}
	case b.loaded:
		return &stateError{err, unloaded}
	case errors.As(err, &no) && hintFor(err) == "":
		err = withHint(err, "to see what differs: mkexec check --reference=GOOD-IMAGE IMAGE")
	}
	return &stateError{err, untouched}
}

func (b *booter) tryRun(args []string) error {
	file, err := b.readPolicy()
	if err != nil {
		return err
	}
	v, err := b.newVerifier(b.sys, file.Image)
	if err != nil {
		return err
	}
	phases, err := b.parsePhases()
	if err != nil {
		return err
	}
	b.via, b.secureBoot, b.real = string(stub.ViaKexec), "auto", true
	switch b.from {
	case "":
		b.from = "tpm"
	case "tpm", "zero":
	default:
		return fmt.Errorf("--from=%.40s: unknown (known: zero tpm)", b.from)
	}
	m, err := b.open(b.sys, args)
	if err != nil {
		return err
	}
	defer m.close()
	var userspace *userspace
	var judged *judgement
	b.log = b.sys.log(nil)
	opts := kexec.Options{
		Verify: func(image measure.Content) (err error) {
			judged, err = v.verify(image)
			return err
		},
		PCRs: otherPCRs(), Log: b.log,
		Stub: m.opts, IgnoreDevicetree: b.ignoreDTB, InitrdDigest: b.json,
		OSSeparator: func(boot *stub.Boot) (separator measure.Separator, err error) {
			if userspace, err = b.findUserspace(b.sys, m, boot); err != nil {
				return measure.SeparatorUnknown, err
			}
			return userspace.separator, nil
		},
	}
	dev, err := b.openTPM()
	if err != nil {
		return err
	}
	defer dev.Close()
	b.dev = dev
	banks, err := b.banksOf(dev)
	if err != nil {
		return err
	}
	if b.from == "zero" {
		opts.Base = measure.Zero(banks, measure.StubPCRs()...)
	}
	if b.deferred {
		closeProgram, err := b.deferPlan(&opts)
		if err != nil {
			return err
		}
		defer closeProgram()
	}

	bar := startProgress(b.sys.stderr, "copying and hashing", 2*m.size)
	opts.Progress = bar.add
	plan, err := kexec.NewPlan(m.src, dev, b.sys.kernel, opts)
	bar.finish()
	if err != nil {
		return inFile(m.path, err)
	}
	defer plan.Close()
	if err := b.decide(plan, file, v, judged, userspace); err != nil {
		return inFile(m.path, err)
	}
	b.note(m, plan.Boot, userspace)
	if err := b.print(m, plan, userspace, phases); err != nil || b.dryRun {
		return err
	}
	if b.log.Image, err = plan.ImageDigest(); err != nil {
		return err
	}
	if b.deferred {
		return b.loadDeferred(plan, m)
	}
	return b.jump(plan)
}

// readPolicy returns what has to agree, and refuses to go without it.
func (b *booter) readPolicy() (*policy.File, error) {
	if b.json && !b.dryRun && b.verb == "boot" {
		return nil, withHint(errors.New("--json goes with --dry-run: after the jump nobody is left to print"), "mkexec boot --dry-run --json ...")
	}
	systemd := kexec.ReadMachine(b.sys.root).Systemd == kexec.Yes
	if b.deferred = b.verb == "load" || systemd && !b.now; systemd && b.deferred && !b.dryRun {
		if err := errors.Join(b.sys.checkHook(), b.sys.checkLoadLimit()); err != nil {
			return nil, err
		}
	}
	if !b.deferred && b.cmd.Flags().Changed("shutdown") {
		return nil, errors.New("--shutdown: this boot is without a shutdown")
	}
	if kexec.ReadMachine(b.sys.root).InitPIDNamespace == kexec.No {
		return nil, errors.New("this is a container (a PID namespace of its own), from which the kernel does not jump")
	}
	if b.noPolicy {
		return &policy.File{}, nil
	}
	file, err := readPolicy(b.policy)
	if err != nil {
		return nil, withHint(err, "to write one: mkexec policy init IMAGE; to insist on having none: mkexec boot --no-policy …")
	}
	return file, nil
}

// otherPCRs are those that policies may name beside those that the image changes.
func otherPCRs() []measure.PCR {
	return slices.DeleteFunc(measure.PredictablePCRs(), func(n measure.PCR) bool { return slices.Contains(measure.StubPCRs(), n) })
}

// decide asks the policy about the plan.
func (b *booter) decide(plan *kexec.Plan, file *policy.File, v *verifier, j *judgement, u *userspace) error {
	if v.interesting() && !b.dryRun {
		fmt.Fprintf(b.sys.stderr, "mkexec: note: image: %s\n", clean(j.String()))
	}
	var digest measure.Digest
	if file.Image.Allow != nil {
		var err error
		if digest, err = plan.ImageDigest(); err != nil {
			return err
		}
	}
	if err := v.checkKernel(plan.Boot.Kernel); err != nil {
		return err
	}
	if err := v.checkRules(plan.Boot, digest, j); err != nil {
		return err
	}
	if len(file.Require) == 0 {
		return plan.Check(kexec.AcceptAnything{}) // the rules for images were all that is asked, or nothing is
	}
	if err := u.reaches(file.Require); err != nil {
		return err
	}
	o := &opener{boot: plan.Boot, machine: b.sys.root, readName: b.dev.ReadName, readNV: func(index uint32) ([]byte, []byte, error) { return readNV(b.dev, index) }}
	var rs policy.Requirements
	for _, r := range file.Require {
		rs = append(rs, o.resolve(r).Requirement)
	}
	return plan.Check(rs)
}

// note tells, on stderr, what a person who did not ask may want to know.
func (b *booter) note(m *image, boot *stub.Boot, u *userspace) {
	if b.dryRun {
		return // it is in the result
	}
	writeNotes(b.sys.stderr, m, boot, u)
}

// banksOf returns the active banks. All of them are extended, so naming others,
// or some, would only hide what is done.
func (b *booter) banksOf(dev interface {
	Banks() ([]measure.Bank, error)
}) ([]measure.Bank, error) {
	active, err := dev.Banks()
	if err != nil {
		return nil, err
	}
	named, err := b.parseBanks()
	if err != nil {
		return nil, err
	}
	return active, checkActive(active, named)
}

// print prints what is going to happen: to stdout for a dry run, and in short to
// stderr otherwise.
func (b *booter) print(m *image, plan *kexec.Plan, userspace *userspace, phases []measure.Phase) error {
	p := &prediction{Prediction: plan.Prediction, boot: plan.Boot, image: m, userspace: userspace, base: b.from, shutdown: b.before, phases: phases}
	if b.json {
		var err error
		if p.digest, err = plan.ImageDigest(); err != nil {
			return inFile(m.path, err)
		}
	}
	j, err := p.json()
	if err != nil {
		return err
	}
	switch {
	case b.json:
		err = printJSON(b.out, j)
	case b.dryRun:
		err = p.print(b.out, j.Phases)
	case b.deferred:
		// said when it is true
	default:
		fmt.Fprintf(b.sys.stderr, "mkexec: %s: loading, extending %d events, jumping\n", m.path, len(p.Events))
	}
	return err
}

// jump loads, commits and jumps. A signal stops it up to the first extend; from
// then on stopping would leave the PCRs of a system that never started.
func (b *booter) jump(plan *kexec.Plan) error {
	unlock, err := b.sys.lock()
	if err != nil {
		return err
	}
	defer unlock()
	b.log.complete(b.deviceName())
	b.log.keep("", plan.Prediction.Events)
	// From here on nothing is printed: writing to a closed pipe would end the
	// process, and to a full one hold it, with the image loaded.
	interrupted := holdSignals()
	defer signal.Reset()
	if err := plan.Load(); err != nil {
		return err
	}
	b.loaded = true
	if err := interrupted(); err != nil {
		return errors.Join(err, plan.Abandon())
	}
	if err := plan.Commit(); err != nil {
		return err
	}
	return plan.Exec()
}
