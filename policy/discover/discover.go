// Package discover finds the secrets of a machine that open only in a certain
// state of the TPM: LUKS2 volumes, by what is active and by /etc/crypttab, the
// policy of systemd-pcrlock, and encrypted credentials.
//
// It says where they are, not what they depend on. No secret is read, and
// everything is read from an fs.FS that is the root of the machine.
package discover

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/mountinfo"
	"github.com/mkexec/mkexec/policy"
)

// SourceCredential is the kind of a [policy.Source] that is an encrypted
// credential of systemd: see [github.com/mkexec/mkexec/policy/creds].
const SourceCredential policy.SourceKind = "credential"

// A Found is one secret, or what stands in the way of finding it.
type Found struct {
	// Name is for people: "root (/dev/vda3)", the name in /etc/crypttab and the
	// device, the path of a credential.
	Name string
	// Source is where its policy is. The path is absolute. Whether a LUKS2
	// header has a token at all is to be seen there.
	Source policy.Source
	// Signature and PCRLock are the files with signed PCR policies and with the
	// policy of systemd-pcrlock that /etc/crypttab names for this device. systemd
	// tries the token with the files that it finds itself first, see
	// SignatureFile, and then with these. "" if none is named.
	Signature, PCRLock string
	// At is the phase at which the secret is wanted, and OrAt are others at which
	// it may be wanted instead: only in all of them it is certain to open.
	At   measure.Phase
	OrAt []measure.Phase
	// Extends are PCRs that are extended with a value that only the volume key
	// tells when the secret is opened: their values are not known from then on
	// (crypttab(5), tpm2-measure-pcr=).
	Extends []measure.PCR
	// Optional: the machine starts without it.
	Optional bool
	// Note is what a person has to know about it, "" for nothing.
	Note string
	// Err says why it cannot be told what the secret depends on: it exists, but
	// cannot be followed. It wraps [policy.ErrCannotTell].
	Err error
}

// The phases at which secrets are wanted (systemd 262, units/systemd-pcrphase*.service.in
// and cryptsetup.target): volumes of the initrd before the root file system is
// there, those of /etc/crypttab before sysinit.target, those of the network
// before the system is ready.
const (
	inInitrd measure.Phase = "enter-initrd"
	inHost   measure.Phase = "enter-initrd:leave-initrd"
	sysinit  measure.Phase = "enter-initrd:leave-initrd:sysinit"
	ready    measure.Phase = "enter-initrd:leave-initrd:sysinit:ready"
)

// Find returns the secrets of the machine below root, those that the root file
// system is on first, then /usr, then other active volumes, those of
// /etc/crypttab that are not active, the policy of systemd-pcrlock and
// credentials. An error is that the list may not be complete; what was found is
// returned with it.
//
// The /etc/crypttab of an initrd, units with a credential in them, and volumes
// that only the kernel command line names are not seen.
func Find(root fs.FS) ([]Found, error) {
	var errs []error
	volumes, err := activeVolumes(root)
	errs = append(errs, err)
	mounts, err := mountinfo.Read(root)
	errs = append(errs, err)
	roots, usr := carriersOf(root, mounts, "/"), carriersOf(root, mounts, "/usr")
	entries, err := readCrypttab(root)
	errs = append(errs, err)

	var found []Found
	for _, s := range join(volumes, entries, roots, usr) {
		found = append(found, s.found(root))
	}
	if path := PCRLockFile(root); path != "" {
		found = append(found, Found{
			Name: path, Source: policy.Source{Kind: policy.SourcePCRLock, Path: path}, At: inInitrd, Optional: true,
			Note: "what tokens that refer to it depend on",
		})
	}
	credentials, err := findCredentials(root)
	errs = append(errs, err)
	return append(found, credentials...), errors.Join(errs...)
}

// cannotTell returns an error that wraps [policy.ErrCannotTell].
func cannotTell(format string, args ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), policy.ErrCannotTell)
}
