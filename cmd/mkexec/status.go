package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"text/tabwriter"
	"time"

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
			"image, policy; what load has staged, what that leads to, and whether it still holds. Exit status 0\n" +
			"is ready, 1 is not ready, or that the staged plan will not be carried out. Nothing is tried out or\n" +
			"changed.",
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			s := readStatus(sys, device, policyPath)
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
	Staged  *stagedJSON   `json:"staged,omitempty"`
}

// A stagedJSON is the plan that waits for the end of the shutdown.
type stagedJSON struct {
	Image   string         `json:"image"` // its path when it was staged
	SHA256  measure.Digest `json:"sha256"`
	Time    time.Time      `json:"time"`
	Cmdline string         `json:"cmdline"`
	// Shutdowns are the words of the ways of shutting down whose outcome is accepted.
	Shutdowns []measure.Phase `json:"shutdowns"`
	Events    []measure.Event `json:"events"`
	// PCRs are what it leads to after the expected shutdown, which is the first.
	PCRs measure.PCRs `json:"pcrs"`
	// Holds: if nothing changes it will be carried out.
	Holds bool `json:"holds"`
}

// A statusCheck is one thing that has to be so, or that is good to know.
type statusCheck struct {
	Name string `json:"name"`
	// State is ok, no (boot would fail), or note.
	State string `json:"state"`
	Text  string `json:"text"`
}

func readStatus(sys *system, device, policyPath string) *status {
	s := &status{Version: 1, Ready: true, Machine: kexec.ReadMachine(sys.root)}
	plan, err := kexec.ReadDeferred(sys.planDir)
	if err != nil && !errors.Is(err, kexec.ErrNoPlan) {
		s.no("staged", err.Error())
	}
	s.checkTPM(device, plan)
	s.checkKexec(plan)
	s.checkMachine(sys)
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

func (s *status) checkTPM(device string, plan *kexec.Deferred) {
	dev, err := tpm.Open(device, tpm.Options{})
	if err != nil {
		s.no("tpm", err.Error())
		return
	}
	defer dev.Close()
	if plan != nil {
		defer s.checkPlan(dev, plan)
	}
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

// checkPlan tells of the staged plan what it is, and whether it still holds.
func (s *status) checkPlan(dev kexec.Device, plan *kexec.Deferred) {
	s.note("staged", fmt.Sprintf("%s, SHA-256 %s, at %s; %d events", plan.Image, plan.ImageSHA256, plan.Time.Format(time.RFC3339), len(plan.Events)))
	p, err := plan.Prediction()
	if err == nil {
		s.Staged = &stagedJSON{
			Image: plan.Image, SHA256: plan.ImageSHA256, Time: plan.Time, Cmdline: plan.Cmdline, Shutdowns: plan.Shutdowns, Events: plan.Events,
		}
		s.Staged.PCRs, err = p.At("")
	}
	if err == nil {
		err = plan.Check(dev)
	}
	if err != nil {
		s.no("plan", "will not be carried out; the machine will restart through firmware: "+err.Error())
		return
	}
	s.Staged.Holds = true
	s.ok("plan", fmt.Sprintf("holds; after %s PCR 11 becomes", orNothing(plan.Shutdowns[0])))
	for _, b := range s.Staged.PCRs.Banks() {
		s.note("", fmt.Sprintf("  %d:%s=%s", measure.PCRKernelImage, b, s.Staged.PCRs[b][measure.PCRKernelImage]))
	}
}

func orNothing(words measure.Phase) string {
	if words == "" {
		return "no word"
	}
	return string(words)
}

func (s *status) checkKexec(plan *kexec.Deferred) {
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
	switch {
	case m.Loaded == kexec.Yes && plan != nil:
		s.ok("loaded", "a placeholder: systemctl kexec, and systemctl reboot, start the staged image")
	case m.Loaded == kexec.Yes:
		s.note("loaded", "an image that mkexec has not staged; load and boot replace it, and at the end of a shutdown it is dropped")
	case m.Loaded == kexec.No && plan != nil:
		s.no("loaded", "nothing, although an image is staged: systemctl kexec will not start it; stage it again")
	case m.Loaded == kexec.No:
		s.ok("loaded", "nothing")
	default:
		s.no("loaded", "no /sys/kernel/kexec_loaded: the kernel is built without kexec, or /sys is not mounted")
	}
	if m.Xen == kexec.Yes {
		s.no("xen", "a Xen control domain kexecs through the hypervisor, which is not supported")
	}
}

func (s *status) checkMachine(sys *system) {
	m := s.Machine
	s.note("lockdown", m.Lockdown)
	s.note("secure_boot", string(m.SecureBoot))
	if m.ConfidentialVM == kexec.Yes {
		s.note("confidential_vm", "yes: no command line is accepted from outside the image")
	}
	if m.Systemd == kexec.Yes {
		if err := sys.checkHook(); err != nil {
			s.no("hook", err.Error())
		} else {
			s.ok("hook", "/"+hookPath)
		}
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
