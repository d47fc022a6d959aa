package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"text/tabwriter"

	"github.com/mkexec/mkexec/kexec"
	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/tpm"
	"github.com/spf13/cobra"
)

func newStatus(sys *system, out *bytes.Buffer) *cobra.Command {
	var asJSON bool
	var device, policyPath string
	cmd := &cobra.Command{
		Use:   "status [flags]",
		Short: "Tell whether this machine is ready for a measured kexec",
		Long: "Tell whether this machine is ready: TPM and banks, kexec switches, lockdown, Secure Boot, loaded\n" +
			"image, policy. Exit status 0 is ready, 1 is not ready. Nothing is tried out or changed.",
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			s := readStatus(sys.root, device, policyPath)
			if asJSON {
				if err := printJSON(out, s); err != nil {
					return err
				}
			} else if err := s.print(out); err != nil {
				return err
			}
			if !s.Ready {
				return errNo
			}
			return nil
		},
	}
	cmd.Flags().SortFlags = false
	cmd.Flags().StringVar(&device, "tpm2-device", "auto", "the TPM, `DEVICE`: a path, swtpm:path=SOCKET, or auto (/dev/tpmrm0)")
	cmd.Flags().StringVar(&policyPath, "policy", defaultPolicy, "the policy `FILE`")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// A status is the output of status --json, version 1.
type status struct {
	Version int           `json:"version"`
	Ready   bool          `json:"ready"`
	Checks  []statusCheck `json:"checks"`
	Machine kexec.Machine `json:"machine"`
	PCRs    measure.PCRs  `json:"pcrs,omitempty"` // 11 to 13, of all active banks
}

// A statusCheck is one thing that has to be so, or that is good to know.
type statusCheck struct {
	Name string `json:"name"`
	// State is ok, no (boot would fail), or note.
	State string `json:"state"`
	Text  string `json:"text"`
}

func readStatus(root fs.FS, device, policyPath string) *status {
	s := &status{Version: 1, Ready: true, Machine: kexec.ReadMachine(root)}
	s.checkTPM(device)
	s.checkKexec()
	s.checkMachine()
	file, err := readPolicy(policyPath)
	switch {
	case errors.Is(err, os.ErrNotExist):
		s.no("policy", policyPath+": not there; boot wants it or --no-policy")
	case err != nil:
		s.no("policy", err.Error())
	default:
		s.ok("policy", fmt.Sprintf("%s, requirements: %d", policyPath, len(file.Require)))
	}
	return s
}

func (s *status) ok(name, text string) { s.Checks = append(s.Checks, statusCheck{name, "ok", text}) }
func (s *status) note(name, text string) {
	s.Checks = append(s.Checks, statusCheck{name, "note", text})
}
func (s *status) no(name, text string) {
	s.Checks = append(s.Checks, statusCheck{name, "no", text})
	s.Ready = false
}

func (s *status) checkTPM(device string) {
	dev, err := tpm.Open(device, tpm.Options{})
	if err != nil {
		s.no("tpm", err.Error())
		return
	}
	defer dev.Close()
	if s.PCRs, err = dev.Read(measure.StubPCRs()...); err != nil {
		s.no("tpm", err.Error())
		return
	}
	s.ok("tpm", "active banks: "+measure.BankNames(s.PCRs.Banks()))
	zero := measure.Zero(s.PCRs.Banks(), measure.StubPCRs()...)
	if len(measure.Compare(zero, s.PCRs)) == 0 {
		s.note("pcrs", "11, 12, 13 are zero: a kexec now leads to the PCRs of a firmware boot")
	} else {
		s.note("pcrs", "11, 12, 13 are not zero: a kexec now leads to chained PCRs, which a vendor's .pcrsig does not cover")
	}
}

func (s *status) checkKexec() {
	m := s.Machine
	must := func(name string, value, bad kexec.Tristate, text string) {
		switch value {
		case bad:
			s.no(name, text)
		case kexec.Unknown:
			s.no(name, "cannot tell whether: "+text)
		default:
			s.ok(name, string(value))
		}
	}
	if m.KexecFile == kexec.Unknown { // many systems do not have the configuration of their kernel
		s.note("kexec_file_load", "the kernel's configuration (CONFIG_KEXEC_FILE) is not there to be read")
	} else {
		must("kexec_file_load", m.KexecFile, kexec.No, "the kernel is built without it (CONFIG_KEXEC_FILE)")
	}
	if m.InitPIDNamespace == kexec.No {
		s.no("pid_namespace", "this is a container, from which the kernel does not jump")
	}
	must("cap_sys_boot", m.CapSysBoot, kexec.No, "not root, or in a container")
	must("kexec_load_disabled", m.LoadDisabled, kexec.Yes, "kexec is switched off until the next reboot")
	switch {
	case m.LoadLimit == 0:
		s.no("kexec_load_limit", "all allowed loads are used up until the next reboot")
	case m.LoadLimit > 0:
		s.note("kexec_load_limit", fmt.Sprintf("%d more loads are allowed", m.LoadLimit))
	default:
		s.ok("kexec_load_limit", "none")
	}
	switch m.Loaded {
	case kexec.Yes:
		s.note("loaded", "an image is loaded; boot replaces it, and any reboot of systemd's enters it unmeasured")
	case kexec.No:
		s.ok("loaded", "nothing")
	default:
		s.no("loaded", "no /sys/kernel/kexec_loaded: the kernel is built without kexec, or /sys is not mounted")
	}
	if m.Xen == kexec.Yes {
		s.no("xen", "a Xen control domain kexecs through the hypervisor, which is not supported")
	}
}

func (s *status) checkMachine() {
	m := s.Machine
	s.note("lockdown", m.Lockdown)
	s.note("secure_boot", string(m.SecureBoot))
	if m.ConfidentialVM == kexec.Yes {
		s.note("confidential_vm", "yes: no command line is accepted from outside the image")
	}
	if m.Systemd == kexec.Yes {
		s.note("systemd", "runs this machine: boot wants --now, which does not shut services down")
	}
	if m.Kexeced == kexec.Yes {
		s.note("kexeced", "this kernel was itself started by kexec")
	}
}

func (s *status) print(out *bytes.Buffer) error {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, c := range s.Checks {
		fmt.Fprintf(t, "%s\t%s\t%s\n", c.State, c.Name, c.Text)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	verdict := "ready"
	if !s.Ready {
		verdict = "not ready"
	}
	_, err := fmt.Fprintln(out, verdict)
	return err
}
