// Package trust decides whether an image is one that this machine should run:
// who signed it, whether the firmware or shim trusts the signer, and whether the image,
// its signer or its generation is revoked.
//
// The reference is what EDK2 (SecurityPkg/Library/DxeImageVerificationLib) and
// shim (verify.c, sbat.c) do before they start an image. Where the two differ,
// the stricter one counts:
//
//   - An image is revoked by its digest, whatever else vouches for it (both).
//   - An image is revoked if any of its signatures leads to a revoked
//     certificate, even if another one is good (EDK2; for shim the other one
//     suffices). Every certificate from the signer on is looked at (EDK2 looks
//     at the signer and the anchor).
//   - Otherwise its digest in a database suffices, or one good signature (both).
//   - shim knows SHA-256 digests of images only, so that certificates and
//     digests in MokListRT vouch for no others.
//   - A certificate that is marked for kernel modules only is no anchor (shim).
//   - SHA-1 and MD5 count for nothing (EDK2 with DISABLE_SHA1_DEPRECATED_INTERFACES),
//     and neither do RSA keys below 2048 bits.
//   - The image's SBAT generations have to reach the level, and an image without
//     any does not (shim). The level is empty on machines without shim.
//   - Nobody checks when certificates are valid, and what else their extended
//     key usage says. A revoked certificate is revoked for ever: time stamps,
//     for which UEFI has "dbt", are not looked at.
package trust

import (
	"crypto"
	"crypto/x509"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/mkexec/mkexec/measure/uki"
	"github.com/mkexec/mkexec/policy/trust/efivar"
	"github.com/mkexec/mkexec/policy/trust/sbat"
)

// Options are what is trusted beside the store.
type Options struct {
	// Anchors are certificates that are trusted as those in db are (--trust=).
	Anchors []*x509.Certificate
}

// A Reason says why an image or a signature is not trusted, in a word that
// programs can rely on.
type Reason string

// The reasons. The later ones are nearer to being trusted: an image with
// several bad signatures has the last of their reasons.
const (
	ReasonUnsigned       Reason = "unsigned"
	ReasonWeakDigest     Reason = "weak-digest"     // SHA-1, MD5
	ReasonDigestMismatch Reason = "digest-mismatch" // the image is not the one that was signed
	ReasonBadSignature   Reason = "bad-signature"   // not made with the signer's key
	ReasonUntrusted      Reason = "untrusted-signer"
	ReasonWeakKey        Reason = "weak-key" // trusted, but by an RSA key that is too short

	ReasonRevokedHash        Reason = "revoked-hash"        // the image's digest is in dbx or MokListXRT
	ReasonRevokedCertificate Reason = "revoked-certificate" // so is a certificate
	ReasonNoSBAT             Reason = "no-sbat"             // there is a level, but the image has no SBAT data
	ReasonRevokedSBAT        Reason = "revoked-sbat"        // a generation is below the level
)

// rank orders the reasons why single signatures do not suffice.
var rank = map[Reason]int{ReasonWeakDigest: 1, ReasonDigestMismatch: 2, ReasonBadSignature: 3, ReasonUntrusted: 4, ReasonWeakKey: 5,
	ReasonRevokedCertificate: 6}

// A Verdict is what is to be said of an image.
type Verdict struct {
	Trusted bool
	// Reason is "" if the image is trusted, and Detail the same in words.
	Reason Reason
	Detail string
	// Digest is the image's Authenticode digest with SHA-256; nil if it has none
	// that all would agree on, and it is not signed.
	Digest []byte
	// Anchor is what vouches for a trusted image; nil otherwise.
	Anchor *Anchor
	// Signatures are all those in the image.
	Signatures []Signature
	// SBAT has the image's components.
	SBAT []sbat.Entry
	// SBATReason is [ReasonNoSBAT] or [ReasonRevokedSBAT] if the level of this
	// machine refuses the image, whoever signed it; "" if it does not. SBATDetail
	// says the same in words.
	SBATReason Reason
	SBATDetail string
}

// A Signature is one signature of an image.
type Signature struct {
	Signer *x509.Certificate
	// Hash is the image digest's algorithm, 0 if it is too weak.
	Hash crypto.Hash
	// Reason is "" if the signature suffices, and Detail the same in words.
	Reason Reason
	Detail string
	// Anchor is what vouches for the signer or, with ReasonRevokedCertificate, what
	// revokes it; nil if nothing does.
	Anchor *Anchor
}

// String names the signer and says what came of it.
func (s Signature) String() string {
	if s.Reason == "" {
		return fmt.Sprintf("signed by %s, trusted by %v", name(s.Signer), s.Anchor)
	}
	return fmt.Sprintf("signed by %s: %s", name(s.Signer), s.Detail)
}

// Check decides whether an image is trusted. An error means that it cannot be
// told: the image is malformed, or not understood.
func Check(f *uki.File, store *Store, opts Options) (*Verdict, error) {
	signatures, err := parseSignatures(f)
	if err != nil {
		return nil, err
	}
	v := &Verdict{}
	if v.SBAT, err = sbat.ReadImage(f); err != nil {
		return nil, err
	}
	revoked, err := store.revoked()
	if err != nil {
		return nil, err
	}
	digests, err := imageDigests(f, signatures, store.databases()...)
	if err != nil {
		if len(signatures) > 0 {
			return nil, err
		}
		v.Reason, v.Detail = ReasonUnsigned, fmt.Sprintf("not signed, and without a digest: %v", err)
		v.checkSBAT(store.Level, true)
		return v, nil
	}
	v.Digest = digests[crypto.SHA256]
	for _, s := range signatures {
		v.Signatures = append(v.Signatures, s.check(digests, shimAnchors(s.hash, store.anchors(opts)), revoked, store.revoking()))
	}
	v.decide(digests, store)
	v.checkSBAT(store.Level, true)
	return v, nil
}

// refuse says no.
func (v *Verdict) refuse(reason Reason, format string, args ...any) {
	v.Trusted, v.Anchor, v.Reason, v.Detail = false, nil, reason, fmt.Sprintf(format, args...)
}

// accept says yes.
func (v *Verdict) accept(a Anchor) { v.Trusted, v.Anchor = true, &a }

// decide makes one verdict of the signatures' and the image's digests.
func (v *Verdict) decide(digests map[crypto.Hash][]byte, store *Store) {
	if v.checkDigests(digests, store); v.Reason != "" {
		return
	}
	for _, s := range v.Signatures {
		if s.Reason == ReasonRevokedCertificate {
			v.refuse(s.Reason, "%v", s)
			return
		}
	}
	for _, d := range store.trusted() {
		for _, h := range slices.Sorted(maps.Keys(digests)) {
			if h != crypto.SHA1 && (d.source == "db" || h == crypto.SHA256) && d.db.HasImage(h, digests[h]) {
				v.accept(Anchor{Source: d.source})
				return
			}
		}
	}
	v.decideSignatures()
}

// checkDigests refuses an image that is revoked by a digest.
func (v *Verdict) checkDigests(digests map[crypto.Hash][]byte, store *Store) {
	for _, d := range store.revoking() {
		for _, h := range slices.Sorted(maps.Keys(digests)) {
			if d.db.HasImage(h, digests[h]) {
				v.refuse(ReasonRevokedHash, "the image's digest (%v) is in %s", h, d.source)
				return
			}
		}
	}
}

// decideSignatures accepts if a signature suffices.
func (v *Verdict) decideSignatures() {
	v.Reason, v.Detail = ReasonUnsigned, "not signed"
	var details []string
	for _, s := range v.Signatures {
		if s.Reason == "" {
			v.Reason, v.Detail = "", ""
			v.accept(*s.Anchor)
			return
		}
		if rank[s.Reason] > rank[v.Reason] {
			v.Reason = s.Reason
		}
		details = append(details, s.String())
	}
	if details != nil {
		v.Detail = strings.Join(details, "; ")
	}
}

// checkSBAT refuses an image whose generations are below the level, and one that
// was accepted if the level demands more.
func (v *Verdict) checkSBAT(level sbat.Level, demanded bool) {
	if e, r, yes := level.Revoked(v.SBAT); yes {
		v.SBATReason = ReasonRevokedSBAT
		v.SBATDetail = fmt.Sprintf("generation %d of %.40q is revoked: this machine demands %d (SbatLevelRT)", e.Generation, e.Component, r.Generation)
	} else if demanded && len(v.SBAT) == 0 && len(level) > 0 {
		v.SBATReason, v.SBATDetail = ReasonNoSBAT, "no SBAT data, but shim demands it"
	}
	if v.Trusted && v.SBATReason != "" {
		v.refuse(v.SBATReason, "%s", v.SBATDetail)
	}
}

// check decides whether a signature suffices.
func (s *signature) check(digests map[crypto.Hash][]byte, anchors, revoked []Anchor, revoking []database) Signature {
	out := Signature{Signer: s.signer, Hash: s.hash}
	no := func(a *Anchor, reason Reason, format string, args ...any) Signature {
		out.Anchor, out.Reason, out.Detail = a, reason, fmt.Sprintf(format, args...)
		return out
	}
	chains := s.chains(certificates(anchors))
	if a := s.revokedBy(chains, revoked, revoking); a != nil {
		return no(a, ReasonRevokedCertificate, "revoked: %v", a)
	}
	switch {
	case s.hash == 0:
		return no(nil, ReasonWeakDigest, "its digest is %s, which is too weak", s.weak)
	case string(digests[s.hash]) != string(s.digest):
		return no(nil, ReasonDigestMismatch, "the image has another digest (%v) than the one signed: %x, not %x", s.hash, digests[s.hash], s.digest)
	case s.invalid != nil:
		return no(nil, ReasonBadSignature, "the signature does not verify: %v", s.invalid)
	case len(chains) == 0:
		return no(nil, ReasonUntrusted, "neither that certificate nor an issuer of it is trusted here")
	}
	var weak *x509.Certificate
	for _, chain := range chains {
		if c := weakKey(chain); c != nil {
			weak = c
			continue
		}
		out.Anchor = find(anchors, chain[len(chain)-1])
		return out
	}
	return no(nil, ReasonWeakKey, "the RSA key of %s has less than %d bits", name(weak), minRSABits)
}

// revokedBy returns the entry that revokes one of the certificates behind the
// signature, or nil.
func (s *signature) revokedBy(chains [][]*x509.Certificate, revoked []Anchor, revoking []database) *Anchor {
	members := s.issuers()
	for _, chain := range chains {
		members = append(members, chain...)
	}
	for _, c := range members {
		for _, d := range revoking {
			if d.db.HasTBS(c.RawTBSCertificate) {
				return &Anchor{d.source, c}
			}
		}
		// a certificate's signature can be rewritten, what is signed cannot
		if a := find(revoked, c); a != nil {
			return a
		}
	}
	// and where the revoked certificate is neither in the signature nor trusted
	for _, chain := range s.chains(certificates(revoked)) {
		return find(revoked, chain[len(chain)-1])
	}
	return nil
}

// find returns the anchor that has a certificate, or nil.
func find(anchors []Anchor, c *x509.Certificate) *Anchor {
	for _, a := range anchors {
		if string(a.Certificate.RawTBSCertificate) == string(c.RawTBSCertificate) {
			return &a
		}
	}
	return nil
}

func certificates(anchors []Anchor) []*x509.Certificate {
	var all []*x509.Certificate
	for _, a := range anchors {
		all = append(all, a.Certificate)
	}
	return all
}

// shimAnchors leaves out those that only shim knows where it does not know the
// algorithm of the image's digest.
func shimAnchors(h crypto.Hash, anchors []Anchor) []Anchor {
	if h == crypto.SHA256 {
		return anchors
	}
	var all []Anchor
	for _, a := range anchors {
		if a.Source != "MokListRT" {
			all = append(all, a)
		}
	}
	return all
}

func parseSignatures(f *uki.File) ([]*signature, error) {
	entries, err := f.Certificates()
	if err != nil {
		return nil, err
	}
	var signatures []*signature
	for i, e := range entries {
		s, err := parseSignature(e)
		if err != nil {
			return nil, fmt.Errorf("signature %d: %w", i, err)
		}
		signatures = append(signatures, s)
	}
	return signatures, nil
}

func (s *Store) databases() []efivar.Database {
	return []efivar.Database{s.DB, s.DBX, s.MokList, s.MokListX}
}

// imageDigests returns the image's Authenticode digests: with SHA-256, and with
// whatever else its signatures or the databases have. The file is read once for
// each; real databases have SHA-256 only.
func imageDigests(f *uki.File, signatures []*signature, databases ...efivar.Database) (map[crypto.Hash][]byte, error) {
	wanted := map[crypto.Hash]bool{crypto.SHA256: true}
	for _, s := range signatures {
		wanted[s.hash] = s.hash != 0
	}
	for _, d := range databases {
		for entry := range d.Images {
			wanted[entry.Hash] = true
		}
	}
	digests := map[crypto.Hash][]byte{}
	for h, yes := range wanted {
		if !yes {
			continue
		}
		w := h.New()
		if err := f.Authenticode(w); err != nil {
			return nil, err
		}
		digests[h] = w.Sum(nil)
	}
	return digests, nil
}
