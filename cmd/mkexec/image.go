package main

import (
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
)

// imageFlags are the flags that predict, check and boot share: which image,
// started how, from which PCRs.
type imageFlags struct {
	cmd *cobra.Command

	linux      string
	initrds    []string
	cmdline    string
	append     string
	profile    string
	from       string
	banks      []string
	phases     []string
	device     string
	via        string
	secureBoot string
	json       bool
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
	fl.StringVar(&f.from, "from", "", "the PCRs to start from, `BASE`: zero (a cold boot) or tpm (what the TPM holds)")
	fl.StringArrayVar(&f.banks, "bank", nil, "a PCR `BANK`: sha1, sha256, sha384, sha512; may be given more than once")
	fl.StringVar(&f.device, "tpm2-device", "", "the TPM, `DEVICE`: a path, swtpm:path=SOCKET, or auto (/dev/tpmrm0)")
	fl.BoolVar(&f.json, "json", false, "print JSON")
}

func (f *imageFlags) addPhases(what string) {
	f.cmd.Flags().StringArrayVar(&f.phases, "phase", nil, what)
}

// addVia is for the verbs that may look at a start that is not a kexec.
func (f *imageFlags) addVia() {
	fl := f.cmd.Flags()
	fl.StringVar(&f.via, "via", string(stub.ViaKexec), "`WHO` starts the image: kexec, firmware or systemd-boot")
	fl.StringVar(&f.secureBoot, "secure-boot", "auto", "whether Secure Boot is on, `WHETHER`: yes, no, or auto (as on this machine)")
}

// An image is the opened files of an image.
type image struct {
	path  string
	src   kexec.Source
	files []*os.File
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

// open opens the image that the arguments and flags name.
func (f *imageFlags) open(args []string) (_ *image, err error) {
	m := &image{}
	defer func() {
		if err != nil {
			m.close()
		}
	}()
	usage := f.cmd.CommandPath() + " --help"
	if f.linux == "" {
		switch {
		case len(args) != 1:
			return nil, withHint(errors.New("no IMAGE, and no --linux=FILE either"), usage)
		case len(f.initrds) > 0:
			return nil, withHint(errors.New("--initrd goes with --linux; a UKI has its own"), usage)
		}
		m.path = args[0]
		m.src.UKI, err = m.file(args[0])
		return m, err
	}
	switch {
	case len(args) != 0:
		return nil, withHint(errors.New("either IMAGE or --linux, not both"), usage)
	case !f.cmd.Flags().Changed("cmdline"):
		return nil, withHint(errors.New("--linux wants --cmdline, which may be empty"), usage)
	case f.profile != "":
		return nil, withHint(errors.New("--profile is for UKIs, not for --linux"), usage)
	}
	m.path = f.linux
	if m.src.Linux, err = m.file(f.linux); err != nil {
		return nil, err
	}
	if m.src.Linux.Size() == 0 {
		return nil, fmt.Errorf("%s: empty", f.linux)
	}
	for _, path := range f.initrds {
		c, err := m.file(path)
		if err != nil {
			return nil, err
		}
		if c.Size() == 0 {
			return nil, fmt.Errorf("%s: empty", path)
		}
		m.src.Initrds = append(m.src.Initrds, c)
	}
	m.src.Cmdline = stub.Join(f.cmdline, f.append)
	return m, nil
}

// stubOptions says how the image is started. This machine is asked about
// Secure Boot only if the answer matters.
func (f *imageFlags) stubOptions(sys *system) (stub.Options, error) {
	opts := stub.Options{Via: stub.Via(f.via), Profile: f.profile, Append: f.append}
	if !slices.Contains(stub.Vias(), opts.Via) {
		return opts, fmt.Errorf("--via=%.40s: unknown (known: %v)", f.via, stub.Vias())
	}
	if f.linux != "" && opts.Via != stub.ViaKexec {
		return opts, errors.New("--via is for UKIs, not for --linux")
	}
	if !slices.Contains([]string{"yes", "no", "auto"}, f.secureBoot) {
		return opts, fmt.Errorf("--secure-boot=%.40s: unknown (known: yes no auto)", f.secureBoot)
	}
	passed := f.cmd.Flags().Changed("cmdline")
	if passed {
		opts.Cmdline = &f.cmdline
	}
	if f.linux != "" || !passed && f.append == "" {
		return opts, nil
	}
	machine := kexec.ReadMachine(sys.root)
	opts.ConfidentialVM = machine.ConfidentialVM == kexec.Yes
	secureBoot := kexec.Tristate(f.secureBoot)
	if secureBoot == "auto" {
		secureBoot = machine.SecureBoot
	}
	switch secureBoot {
	case kexec.Yes, kexec.No:
		opts.SecureBoot = secureBoot == kexec.Yes
	default:
		return opts, withHint(fmt.Errorf("command line: whether Secure Boot is on, and an embedded one thus binding: %w", stub.ErrCannotTell),
			"mount -t efivarfs efivarfs /sys/firmware/efi/efivars (predict and check also take --secure-boot=yes or no)")
	}
	return opts, nil
}

// load applies the stub's rules to the image.
func (m *image) load(opts stub.Options) (*stub.Boot, error) {
	if m.src.UKI == nil {
		b, err := stub.Bare(m.src.Linux, m.src.Initrds, m.src.Cmdline)
		return b, inFile(m.path, err)
	}
	u, err := uki.Open(m.src.UKI, m.src.UKI.Size())
	if err != nil {
		return nil, inFile(m.path, err)
	}
	b, err := stub.Load(u, opts)
	return b, inFile(m.path, err)
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

// base returns the PCRs to start from. Naming a TPM is asking for it.
func (f *imageFlags) base() (measure.PCRs, error) {
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
		return onlyBanks(pcrs, banks)
	}
	return nil, fmt.Errorf("--from=%.40s: unknown (known: zero tpm)", f.from)
}

func (f *imageFlags) openTPM() (*tpm.Device, error) {
	name := f.device
	if name == "" {
		name = "auto"
	}
	return tpm.Open(name, tpm.Options{})
}

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
