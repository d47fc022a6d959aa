package main

import (
	"bytes"
	"fmt"
	"io"

	"github.com/mkexec/mkexec/measure"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func newPolicyInit(sys *system, out *bytes.Buffer) *cobra.Command {
	var f imageFlags
	cmd := &cobra.Command{
		Use:   "init [flags] [IMAGE | --linux=FILE [--initrd=FILE]... --cmdline=STR]",
		Short: "Write a policy file that accepts an image",
		Long: "Write a policy file to stdout. It requires the PCRs that predict says the image leads to when its\n" +
			"initrd begins, and has an example of everything else that a policy can require, as comments.",
		Args: oneImage,
		RunE: func(_ *cobra.Command, args []string) error {
			f.needsUserspace = true
			p, err := f.predict(sys, args)
			if err != nil {
				return err
			}
			return p.printPolicy(out)
		},
	}
	// the flags of predict, but for --json: a policy has one form
	all := &cobra.Command{}
	f.add(all)
	f.addVia()
	f.addShutdown()
	f.cmd = cmd
	cmd.Flags().SortFlags = false
	all.Flags().SortFlags = false
	all.Flags().VisitAll(func(fl *pflag.Flag) {
		if fl.Name != "json" {
			cmd.Flags().AddFlag(fl)
		}
	})
	return cmd
}

// printPolicy writes a policy that accepts the prediction.
func (p *prediction) printPolicy(w io.Writer) error {
	at := measure.Phase("enter-initrd")
	if p.userspace.silent {
		at = ""
	}
	pcrs, err := p.At(at)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, policyHead, p.image.path, p.boot.Cmdline)
	if p.base == "tpm" {
		fmt.Fprint(w, "  # The PCRs start from what the TPM holds now: this is good for one kexec from here.\n")
	}
	if p.userspace.silent {
		fmt.Fprintf(w, "  # No phase is measured: %s.\n", clean(p.userspace.why))
	}
	fmt.Fprintf(w, "  - name: image\n    at: %q\n    pcrs:\n", string(at))
	for _, b := range pcrs.Banks() {
		fmt.Fprintf(w, "      %s:\n", b)
		for _, n := range measure.StubPCRs() {
			if pcrs[b][n] == nil {
				return withHint(fmt.Errorf("PCR %d (%s) at %s: %w: %s", n, b, at, measure.ErrCannotTell, p.userspace.why),
					"to say which systemd is in the initrd: --systemd=VERSION")
			}
			fmt.Fprintf(w, "        %d: %q\n", n, pcrs[b][n].String())
		}
	}
	_, err = fmt.Fprint(w, policyExamples)
	return err
}

const policyHead = `# The policy of this machine. mkexec-policy.yaml(5) describes it, and
# "mkexec policy lint" says in words what it requires. To use an example,
# take the # at the beginning of its lines away.
version: 1

require:
  # What starting %.200q leads to,
  # with the command line %.200q.
`

const policyExamples = `
  # To allow another image too, put its values beside these, each as a list:
  # 11: [VALUE, VALUE].

  # Secrets that have to stay within reach, each a requirement of its own.
#  - name: root disk
#    at: enter-initrd
#    luks: /dev/disk/by-partlabel/root
#  - name: signed PCRs
#    at: enter-initrd
#    pcrsig: image
#    public-key: /etc/systemd/tpm2-pcr-public-key.pem
#  - name: systemd-pcrlock
#    at: enter-initrd
#    pcrlock: /var/lib/systemd/pcrlock.json
#    optional: yes
#  - name: key of a service
#    at: enter-initrd:leave-initrd:sysinit:ready
#    key: /etc/keys/service.pem

# Which images may be started.
#image:
#  trust: required
#  sbat: required
#  certificates:
#    - /etc/mkexec/certificates
#  cmdline:
#    - root=* ro quiet
#  allow:
#    - signer: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855
#      id: debian
#      min-version: "13"
#    - sha256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855
`
