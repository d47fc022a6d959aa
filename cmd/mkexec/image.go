package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"syscall"

	"github.com/mkexec/mkexec/kexec"
	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/stub"
	"github.com/mkexec/mkexec/measure/tpm"
	"github.com/mkexec/mkexec/measure/uki"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// imageFlags are the flags that predict, check and boot share: which image,
// started how, from which PCRs.
type imageFlags struct {
	cmd *cobra.Command
	sidecarFlags
	machineFlags

	linux    string
	initrds  []string
	cmdline  string
	append   string
	profile  string
	stub     string
	systemd  string
	from     string
	banks    []string
	phases   []string
	device   string
	shutdown string
	before   measure.Phase // what --shutdown comes to, where that matters
	via      string
	noVerify bool
	// needsUserspace: somebody wants to know what systemd in the initrd does.
	needsUserspace bool
	trust          []string
	json           bool
}

func (f *imageFlags) add(cmd *cobra.Command) {
	f.cmd = cmd
	fl := cmd.Flags()
	fl.SortFlags = false
	fl.StringVar(&f.linux, "linux", "", "a bare kernel `FILE`, in place of IMAGE; wants --cmdline")
	fl.StringArrayVar(&f.initrds, "initrd", nil, "an initrd `FILE` for --linux; may be given more than once")
	fl.StringVar(&f.cmdline, "cmdline", "", "the kernel command line, `STR`, in place of the embedded one")
	fl.StringVar(&f.append, "append", "", "`STR` to put behind the command line")
	fl.StringVar(&f.profile, "profile", "", "the profile of the image, by number or ID: `N|ID` (default 0)")
	f.sidecarFlags.add(fl)
	f.machineFlags.add(fl)
	fl.StringVar(&f.stub, "stub", "", "go by the rules of systemd-stub `VERSION`, whatever the image says")
	fl.StringVar(&f.systemd, "systemd", "", "the `VERSION` of systemd in the initrd (default: looked up there)")
	fl.StringVar(&f.from, "from", "", "the PCRs to start from, `BASE`: zero (a cold boot) or tpm (what the TPM holds)")
	fl.StringArrayVar(&f.banks, "bank", nil, "a PCR `BANK`: sha1, sha256, sha384, sha512; may be given more than once")
	fl.StringVar(&f.device, "tpm2-device", "", "the TPM, `DEVICE`: a path, swtpm:path=SOCKET, or auto (/dev/tpmrm0)")
	fl.BoolVar(&f.json, "json", false, "print JSON")
}

func (f *imageFlags) addPhases(what string) {
	f.cmd.Flags().StringArrayVar(&f.phases, "phase", nil, what)
}

// addShutdown is for the verbs that may look at what comes after a shutdown.
func (f *imageFlags) addShutdown() {
	f.cmd.Flags().StringVar(&f.shutdown, "shutdown", shutdownAuto,
		"the words that this system's shutdown extends PCR 11 with before: a phase `PATH`, none, or auto (ask systemd)")
}

// addVia is for the verbs that may look at a start that is not a kexec, or not
// on this machine.
func (f *imageFlags) addVia() {
	fl := f.cmd.Flags()
	fl.StringVar(&f.via, "via", string(stub.ViaKexec), "`WHO` starts the image: kexec, firmware or systemd-boot")
	fl.StringVar(&f.secureBoot, "secure-boot", "auto", "whether Secure Boot is on, `WHETHER`: yes, no, or auto (as on this machine)")
	fl.BoolVar(&f.noVerify, "no-verify", false, "under Secure Boot, take addons as trusted by the firmware")
}

// An image is the opened files of an image, and how it is started.
type image struct {
	path  string
	entry *bootEntry // that it is of; nil if it was named
	src   kexec.Source
	uki   *uki.File // nil for a bare kernel
	dir   string    // of the partition that it is on; "" if that is not known
	opts  stub.Options
	files []io.Closer
	size  int64 // of all files, in bytes
	// ignored says which files of the entry are not used, and why.
	ignored []string
}

func (m *image) close() {
	for _, f := range m.files {
		f.Close()
	}
}

// file opens a regular file as content.
func (m *image) file(path string) (measure.Content, error) {
	f, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	m.files = append(m.files, f)
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	m.size += info.Size()
	return io.NewSectionReader(f, 0, info.Size()), nil
}

// openRegular opens a regular file. It does not wait for the other end of a FIFO.
func openRegular(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s: not a regular file", path)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// open opens the image that the arguments and flags name, or that of the default
// boot entry, and decides how it is started.
func (f *imageFlags) open(sys *system, args []string) (_ *image, err error) {
	if err := refuseEmpty(f.cmd); err != nil {
		return nil, err
	}
	m := &image{}
	defer func() {
		if err != nil {
			m.close()
		}
	}()
	switch {
	case f.linux != "":
		err = f.openLinux(m, args)
	case len(f.initrds) > 0:
		err = withHint(errors.New("--initrd goes with --linux; a UKI has its own"), f.usage())
	case len(args) > 0:
		err = m.openUKI(args[0])
	default:
		if err = f.openDefault(sys, m); err != nil {
			err = fmt.Errorf("no IMAGE, and no --linux=FILE either; of the boot entries: %w", err)
			if hintFor(err) == "" {
				err = withHint(err, f.usage())
			}
		}
	}
	if err != nil {
		return nil, err
	}
	m.opts, err = f.options(sys, m)
	return m, err
}

// openUKI opens a UKI.
func (m *image) openUKI(path string) (err error) {
	m.path = path
	if m.src.UKI, err = m.file(path); err != nil {
		return err
	}
	m.uki, err = uki.Open(m.src.UKI, m.src.UKI.Size())
	return inFile(path, err)
}

// openLinux opens a bare kernel and its initrds.
func (f *imageFlags) openLinux(m *image, args []string) (err error) {
	switch {
	case len(args) != 0:
		return withHint(errors.New("either IMAGE or --linux, not both"), f.usage())
	case !f.cmd.Flags().Changed("cmdline"):
		return withHint(errors.New("--linux wants --cmdline, which may be empty"), f.usage())
	}
	m.path = f.linux
	if m.src.Linux, err = m.nonEmptyFile(f.linux); err != nil {
		return err
	}
	if isUKI(m.src.Linux) {
		return withHint(fmt.Errorf("%s: it is a UKI", f.linux), "leave out --linux: "+f.cmd.CommandPath()+" "+f.linux)
	}
	for _, path := range f.initrds {
		c, err := m.nonEmptyFile(path)
		if err != nil {
			return err
		}
		m.src.Initrds = append(m.src.Initrds, c)
	}
	m.src.Cmdline = stub.Join(f.cmdline, f.append)
	return f.onlyUKI()
}

// isUKI tells whether systemd-stub is in a kernel.
func isUKI(linux measure.Content) bool {
	f, err := uki.Open(linux, linux.Size())
	if err != nil {
		return false
	}
	s, err := f.Stub()
	return err == nil && s.Kind == uki.StubKindStub
}

// oneImage refuses more than one IMAGE.
func oneImage(cmd *cobra.Command, args []string) error {
	if len(args) > 1 {
		return withHint(fmt.Errorf("want one IMAGE, not %d", len(args)), cmd.CommandPath()+" --help")
	}
	return nil
}

// mayBeEmpty are the flags whose empty value means something.
var mayBeEmpty = []string{"cmdline", "append", "smbios-cmdline", "phase"}

// refuseEmpty refuses other empty values: they are variables of scripts that are
// not set, and must not be the same as no flag.
func refuseEmpty(cmd *cobra.Command) (err error) {
	cmd.Flags().Visit(func(fl *pflag.Flag) {
		empty := fl.Value.String() == "" || fl.Value.String() == "[]"
		if empty && err == nil && !slices.Contains(mayBeEmpty, fl.Name) {
			err = withHint(fmt.Errorf("--%s: empty", fl.Name), cmd.CommandPath()+" --help")
		}
	})
	return err
}

func (f *imageFlags) usage() string { return f.cmd.CommandPath() + " --help" }

// onlyUKI refuses flags that mean something for a UKI only.
func (f *imageFlags) onlyUKI() error {
	for _, name := range append([]string{"profile", "stub", "hardware", "smbios-cmdline"}, sidecarFlagNames...) {
		if fl := f.cmd.Flags().Lookup(name); fl != nil && fl.Changed {
			return withHint(fmt.Errorf("--%s is for UKIs, not for --linux", name), f.usage())
		}
	}
	return nil
}

func (m *image) nonEmptyFile(path string) (measure.Content, error) {
	c, err := m.file(path)
	if err == nil && c.Size() == 0 {
		err = fmt.Errorf("%s: empty", path)
	}
	return c, err
}

// options says how the image is started. This machine is asked only about what
// matters for the answer.
func (f *imageFlags) options(sys *system, m *image) (stub.Options, error) {
	opts := stub.Options{Via: stub.Via(f.via), Profile: f.profile, Append: f.append, Version: f.stub}
	if !slices.Contains(stub.Vias(), opts.Via) {
		return opts, fmt.Errorf("--via=%.40s: unknown (known: kexec firmware systemd-boot)", f.via)
	}
	if m.entry != nil {
		m.entry.apply(&opts)
	}
	if f.cmd.Flags().Changed("cmdline") {
		opts.Cmdline, opts.IgnoreRefused = &f.cmdline, false
	}
	if f.append != "" {
		opts.IgnoreRefused = false
	}
	if m.uki == nil {
		if m.entry == nil && opts.Via == stub.ViaSystemdBoot {
			return opts, errors.New("--via=systemd-boot is for UKIs and boot entries, not for --linux")
		}
		if opts.Via == stub.ViaSystemdBoot && m.entry.mounted {
			return opts, settleBootSMBIOS(sys)
		}
		return opts, nil
	}
	version, err := stub.Rules(m.uki, f.stub)
	if err != nil {
		err = inFile(m.path, err)
		if !slices.ContainsFunc(m.uki.Sections, func(s *uki.Section) bool { return s.Name == ".linux" || s.Name == ".sdmagic" }) {
			err = withHint(err, fmt.Sprintf("if it is a kernel by itself: %s --linux=%s --cmdline=STR", f.cmd.CommandPath(), m.path))
		}
		return opts, err
	}
	mounted, err := f.find(sys, m, version.Major, &opts.Sidecars)
	if err != nil {
		return opts, err
	}
	if !f.none {
		if err := m.openExtra(&opts.Sidecars); err != nil {
			return opts, err
		}
	}
	if opts.Via == stub.ViaSystemdBoot && opts.Cmdline == nil {
		if err := m.checkLoader(); err != nil {
			return opts, err
		}
	}
	if f.noVerify {
		opts.AcceptAddon = stub.AcceptAnyAddon
	}
	asks := opts.Cmdline != nil || f.append != "" || opts.Sidecars.HasAddons() && !f.noVerify
	here := mounted || f.real || f.from == "tpm" || f.device != ""
	if err := f.settle(sys, here, asks, version.Major, &opts); err != nil {
		return opts, err
	}
	if opts.SecureBoot && here && f.hardware == "" && opts.AcceptAddon == nil && opts.Sidecars.HasAddons() {
		opts.AcceptAddon, err = acceptAddons(sys)
	}
	return opts, err
}

// load applies the stub's rules to the image.
func (m *image) load() (*stub.Boot, error) {
	if m.uki != nil {
		b, err := stub.Load(m.uki, m.opts)
		return b, inFile(m.path, err)
	}
	b, err := m.loadBare()
	return b, inFile(m.path, err)
}

// loadBare does so for a bare kernel: what a kexec measures as a UKI, systemd-boot
// measures by its load options only, and firmware not at all.
func (m *image) loadBare() (*stub.Boot, error) {
	switch m.opts.Via {
	case stub.ViaKexec:
		return stub.Bare(m.src.Linux, m.src.Initrds, m.src.Cmdline)
	case stub.ViaSystemdBoot:
		var initrds []stub.File
		for i, c := range m.src.Initrds {
			initrds = append(initrds, stub.File{Name: m.entry.InitrdValues[i], Content: c})
		}
		return stub.LinuxEntry(m.src.Linux, initrds, m.src.Cmdline)
	}
	b, err := stub.Bare(m.src.Linux, m.src.Initrds, m.src.Cmdline)
	if err != nil {
		return nil, err
	}
	b.Measurements = nil
	return b, nil
}

func inFile(path string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", path, err)
}

// parsePhases returns the phases that --phase names, or the defaults.
func (f *imageFlags) parsePhases() ([]measure.Phase, error) {
	if len(f.phases) == 0 {
		return measure.DefaultPhases(), nil
	}
	var phases []measure.Phase
	for _, s := range f.phases {
		p, err := measure.ParsePhase(s)
		if err != nil {
			return nil, err
		}
		phases = append(phases, p)
	}
	return phases, nil
}

// parseBanks returns the banks that --bank names, nil if it is not given.
func (f *imageFlags) parseBanks() ([]measure.Bank, error) {
	var banks []measure.Bank
	for _, s := range f.banks {
		b, err := measure.ParseBank(s)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(banks, b) {
			banks = append(banks, b)
		}
	}
	return banks, nil
}

// base returns the PCRs to start from. Naming a TPM is asking for it. For a kexec
// from what the TPM holds they are those after the shutdown of this system.
func (f *imageFlags) base(sys *system) (measure.PCRs, error) {
	banks, err := f.parseBanks()
	if err != nil {
		return nil, err
	}
	if f.from == "" {
		f.from = "zero"
		if f.device != "" {
			f.from = "tpm"
		}
	}
	switch f.from {
	case "zero":
		if banks == nil {
			banks = []measure.Bank{measure.SHA256}
		}
		return measure.Zero(banks, measure.StubPCRs()...), nil
	case "tpm":
		dev, err := f.openTPM()
		if err != nil {
			return nil, err
		}
		defer dev.Close()
		pcrs, err := dev.Read(measure.StubPCRs()...)
		if err != nil {
			return nil, err
		}
		if pcrs, err = onlyBanks(pcrs, banks); err != nil {
			return nil, err
		}
		if f.via == string(stub.ViaKexec) {
			if f.before, err = f.shutdownPhase(sys); err != nil {
				return nil, err
			}
		}
		return pcrs.After(f.before)
	}
	return nil, fmt.Errorf("--from=%.40s: unknown (known: zero tpm)", f.from)
}

func (f *imageFlags) openTPM() (*tpm.Device, error) {
	return tpm.Open(f.deviceName(), tpm.Options{})
}

func (f *imageFlags) deviceName() string { return cmp.Or(f.device, "auto") }

// onlyBanks returns the values of the given banks, of all if none is given.
func onlyBanks(pcrs measure.PCRs, banks []measure.Bank) (measure.PCRs, error) {
	if banks == nil {
		return pcrs, nil
	}
	if err := checkActive(pcrs.Banks(), banks); err != nil {
		return nil, err
	}
	some := measure.PCRs{}
	for _, b := range banks {
		some[b] = pcrs[b]
	}
	return some, nil
}

// checkActive refuses a bank that the TPM does not have.
func checkActive(active, named []measure.Bank) error {
	for _, b := range named {
		if !slices.Contains(active, b) {
			return fmt.Errorf("bank %s: not active in this TPM (active: %s)", b, measure.BankNames(active))
		}
	}
	return nil
}

// printJSON prints v as one JSON document.
func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}
