package trust

import (
	"crypto"

	"github.com/mkexec/mkexec/measure/uki"
	"github.com/mkexec/mkexec/policy/trust/sbat"
)

// CheckKernel foretells what kexec_file_load(2) makes of a kernel, a PE file of
// exactly the bytes that are passed, where signatures are enforced (Linux 6.12,
// crypto/asymmetric_keys/verify_pefile.c). It gives words to errors that have
// none: an unsigned kernel is ENODATA, another digest EKEYREJECTED, a signer
// whom nobody knows ENOKEY.
//
// Linux looks at the first signature only (before 6.3 it refuses a file with
// several), and at certificates only: that a digest of the image is in db does
// not count for it. It trusts db and MokListRT, and keys of its own that cannot be
// read from here: ReasonUntrusted means that it has to be one of those.
//
// What firmware and shim would refuse, and Linux does not look at, is a no as
// well: a digest of the kernel that is revoked, and SBAT data, which kernels may
// have since 6.16, below the level.
func CheckKernel(f *uki.File, store *Store, opts Options) (*Verdict, error) {
	signatures, err := parseSignatures(f)
	if err != nil {
		return nil, err
	}
	revoked, err := store.revoked()
	if err != nil {
		return nil, err
	}
	v := &Verdict{}
	if v.SBAT, err = sbat.ReadImage(f); err != nil {
		return nil, err
	}
	signatures = signatures[:min(len(signatures), 1)]
	digests, err := imageDigests(f, signatures, store.DBX, store.MokListX)
	if err != nil {
		if len(signatures) > 0 {
			return nil, err
		}
		digests = nil // no digest that all would agree on, and nothing that wants one
	}
	v.Digest = digests[crypto.SHA256]
	for _, s := range signatures {
		v.Signatures = append(v.Signatures, s.check(digests, store.anchors(opts), revoked, store.revoking()))
	}
	v.decideSignatures()
	v.checkSBAT(store.Level, false)
	if v.Reason == ReasonUntrusted && v.SBATReason != "" { // a key of Linux's own may vouch for it
		v.refuse(v.SBATReason, "%s", v.SBATDetail)
	}
	v.checkDigests(digests, store)
	return v, nil
}
