package trust

import "github.com/mkexec/mkexec/measure/uki"

// CheckKernel foretells what kexec_file_load(2) makes of a kernel, a PE file of
// exactly the bytes that are passed, where signatures are enforced (Linux 6.12,
// crypto/asymmetric_keys/verify_pefile.c). It gives words to errors that have
// none: an unsigned kernel is ENODATA, another digest EKEYREJECTED, a signer
// whom nobody knows ENOKEY.
//
// Linux looks at the first signature only (before 6.3 it refuses a file with
// several), and at certificates only: neither a digest of the image nor SBAT
// counts for it. It trusts db and MokListRT, and keys of its own that cannot be
// read from here: ReasonUntrusted means that it has to be one of those.
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
	if len(signatures) > 0 {
		s := signatures[0]
		digests, err := imageDigests(f, signatures[:1])
		if err != nil {
			return nil, err
		}
		v.Signatures = []Signature{s.check(digests, store.anchors(opts), revoked, store.revoking())}
	}
	v.decideSignatures()
	return v, nil
}
