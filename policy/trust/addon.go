package trust

import (
	"fmt"
	"slices"

	"github.com/mkexec/mkexec/measure/stub"
	"github.com/mkexec/mkexec/measure/uki"
)

// AcceptAddon returns a stub.Options.AcceptAddon that answers as the firmware of
// this machine does under Secure Boot, if opts is empty. Check may err towards
// no; here a wrong no would be a wrong prediction, too. What this machine's
// firmware and shim may disagree about is an error that wraps stub.ErrCannotTell.
func AcceptAddon(store *Store, opts Options) func(name string, f *uki.File) (bool, error) {
	return func(_ string, f *uki.File) (bool, error) {
		v, err := Check(f, store, opts)
		if err != nil {
			return false, fmt.Errorf("%w: %w", err, stub.ErrCannotTell)
		}
		if v.Trusted {
			return true, nil
		}
		unsure := func(why string) (bool, error) {
			return false, fmt.Errorf("%s: %s: %w", v.Detail, why, stub.ErrCannotTell)
		}
		hasSBAT := slices.ContainsFunc(f.Sections, func(s *uki.Section) bool { return s.Name == ".sbat" })
		switch {
		case v.Reason == ReasonNoSBAT && !hasSBAT:
			// shim demands SBAT data of what it loads itself, not of what it is asked about (shim, sbat.c,
			// verify_sbat_section, in_protocol; seen with 16.1 and stub 257); firmware knows no SBAT
			return true, nil
		case v.Reason == ReasonNoSBAT || v.Reason == ReasonRevokedSBAT:
			return unsure("shim refuses it by SBAT, the firmware does not know SBAT")
		}
		for _, s := range v.Signatures {
			switch {
			case s.Reason == ReasonWeakDigest || s.Reason == ReasonWeakKey:
				return unsure("old firmware accepts that")
			case s.Reason == "" && v.Reason == ReasonRevokedCertificate:
				return unsure("shim is content with another signature")
			}
		}
		if store.IgnoreDB {
			all := *store
			all.IgnoreDB = false
			if v, err := Check(f, &all, opts); err != nil || v.Trusted {
				return unsure("shim ignores db, the firmware does not")
			}
		}
		return false, nil
	}
}
