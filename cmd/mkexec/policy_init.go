package main

import (
	"bytes"
	"fmt"
	"io"
	"strings"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/policy"
	"github.com/mkexec/mkexec/policy/discover"
	"github.com/mkexec/mkexec/policy/trust"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func newPolicyInit(sys *system, out *bytes.Buffer) *cobra.Command {
	var f imageFlags
	cmd := &cobra.Command{
		Use:   "init [flags] [IMAGE | --linux=FILE [--initrd=FILE]... --cmdline=STR]",
		Short: "Write a policy file that accepts an image",
		Long: "Write a policy file to stdout. It requires what is found on this machine: that the LUKS2 volumes\n" +
			"with TPM tokens unlock and, where Secure Boot is on, that images are signed. Where there is no such\n" +
			"volume it requires the PCRs that predict says the image leads to when its initrd begins. It has an\n" +
			"example of everything else that a policy can require, as comments.",
		Args: oneImage,
		RunE: func(_ *cobra.Command, args []string) error {
			f.needsUserspace = true
			p, err := f.predict(sys, args)
			if err != nil {
				return err
			}
			return p.printPolicy(out, sys)
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

// printPolicy writes a policy for this machine that accepts the prediction, by
// what it unlocks or, where that is nothing, by its PCRs.
func (p *prediction) printPolicy(w io.Writer, sys *system) error {
	at := measure.Phase("enter-initrd")
	if p.userspace.silent {
		at = ""
	}
	pcrs, err := p.At(at)
	if err != nil {
		return err
	}
	fmt.Fprint(w, policyHead)
	volumes := p.volumes(w, sys)
	mark := ""
	if volumes {
		fmt.Fprintln(w, "\n  # What is sealed to PCRs decides. To accept no other image take the # away:")
		mark = "#"
	}
	fmt.Fprintf(w, "  # What starting %.200q leads to,\n  # with the command line %.200q.\n", p.image.path, p.boot.Cmdline)
	if p.base == "tpm" {
		fmt.Fprint(w, "  # The PCRs start from what the TPM holds now: this is good for one kexec from here.\n")
	}
	if p.userspace.silent {
		fmt.Fprintf(w, "  # No phase is measured: %s.\n", clean(p.userspace.why))
	}
	fmt.Fprintf(w, "%[1]s  - name: image\n%[1]s    at: %[2]q\n%[1]s    pcrs:\n", mark, string(at))
	for _, b := range pcrs.Banks() {
		fmt.Fprintf(w, "%s      %s:\n", mark, b)
		for _, n := range measure.StubPCRs() {
			if pcrs[b][n] == nil && volumes {
				continue
			}
			if pcrs[b][n] == nil {
				return withHint(fmt.Errorf("PCR %d (%s) at %s: %w: %s", n, b, at, measure.ErrCannotTell, p.userspace.why),
					"to say which systemd is in the initrd: --systemd=VERSION")
			}
			fmt.Fprintf(w, "%s        %d: %q\n", mark, n, pcrs[b][n].String())
		}
	}
	fmt.Fprint(w, policySecrets)
	fmt.Fprint(w, "\n# Which images may be started.\n")
	if store, err := trust.ReadStore(sys.root); err == nil && store.Enforced() {
		fmt.Fprint(w, "image:\n  trust: required # as is the default where Secure Boot is on, as it is here\n")
	} else {
		fmt.Fprint(w, "#image:\n#  trust: required\n")
	}
	_, err = fmt.Fprint(w, policyImages)
	return err
}

// volumes writes a requirement for each LUKS2 volume of this machine that has a
// token for a TPM, and tells whether there is one that is required.
func (p *prediction) volumes(w io.Writer, sys *system) (required bool) {
	found, err := discover.Find(sys.root)
	if err != nil {
		fmt.Fprintf(w, "  # Not all secrets of this machine were found: %s\n", clean(strings.ReplaceAll(err.Error(), "\n", "; ")))
	}
	o := &opener{root: sys.root, boot: p.boot}
	for _, f := range found {
		if f.Source.Kind != policy.SourceLUKS {
			continue
		}
		s := o.found(f)
		if s == nil {
			continue
		}
		if u, ok := s.Policy.(unreadable); ok {
			fmt.Fprintf(w, "  # %s: %s\n", clean(f.Name), clean(u.err.Error()))
			continue
		}
		fmt.Fprintf(w, "  - name: %.80q\n    at: %q\n    luks: %q\n", f.Name, string(f.At), discover.StablePath(sys.root, f.Source.Path))
		if f.Optional {
			fmt.Fprintln(w, "    optional: yes")
		}
		required = required || !f.Optional
	}
	return required
}

const policyHead = `# The policy of this machine. mkexec-policy.yaml(5) describes it, and
# "mkexec policy lint" says in words what it requires. To use an example,
# take the # at the beginning of its lines away.
version: 1

require:
`

const policySecrets = `
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
`

const policyImages = `#  sbat: required
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
