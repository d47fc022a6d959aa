package main

import (
	"crypto/rsa"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/stub"
	"github.com/mkexec/mkexec/measure/uki"
	"github.com/mkexec/mkexec/policy/pcrsig"
	"github.com/mkexec/mkexec/policy/trust"
)

// A trustJSON says whether this machine trusts an image.
type trustJSON struct {
	Trusted    bool     `json:"trusted"`
	Reason     string   `json:"reason,omitempty"`
	Detail     string   `json:"detail,omitempty"`
	Signatures []string `json:"signatures,omitempty"`
	SBAT       string   `json:"sbat,omitempty"` // what is to be said of the generations
}

func newTrustJSON(v *trust.Verdict) *trustJSON {
	j := &trustJSON{Trusted: v.Trusted, Reason: string(v.Reason), Detail: v.Detail}
	for _, s := range v.Signatures {
		j.Signatures = append(j.Signatures, s.String())
	}
	return j
}

// addTrust says who signed the file and the kernel in it, and whether this
// machine trusts and has not revoked them.
func (r *inspection) addTrust(sys *system, u *uki.File) error {
	store, err := trust.ReadStore(sys.root)
	if err != nil {
		r.Trust = &trustJSON{Detail: fmt.Sprintf("cannot be told: what this machine trusts: %v", err)}
		return nil
	}
	v, err := trust.Check(u, store, trust.Options{})
	if err != nil {
		r.Trust = &trustJSON{Detail: fmt.Sprintf("cannot be told: %v", err)}
		return nil
	}
	r.Trust = newTrustJSON(v)
	switch {
	case v.SBATReason != "":
		r.Trust.SBAT = v.SBATDetail
	case len(store.Level) == 0:
		r.Trust.SBAT = "this machine demands no generations"
	default:
		r.Trust.SBAT = "not revoked by this machine"
	}
	for _, e := range v.SBAT {
		r.SBAT = append(r.SBAT, fmt.Sprintf("%s,%d", e.Component, e.Generation))
	}
	boot, err := stub.Load(u, stub.Options{Via: stub.ViaFirmware})
	if err != nil {
		return nil // not an image that can be started by itself; that is not what is asked
	}
	kernel, err := uki.Open(boot.Kernel, boot.Kernel.Size())
	if err != nil {
		return nil // no PE file
	}
	if v, err = trust.CheckKernel(kernel, store, trust.Options{}); err != nil {
		r.Kernel = &trustJSON{Detail: fmt.Sprintf("cannot be told: %v", err)}
		return nil
	}
	r.Kernel = newTrustJSON(v)
	return nil
}

// printTrust prints the same for a person.
func (r *inspection) printTrust(w io.Writer) {
	for _, s := range r.Trust.Signatures {
		fmt.Fprintf(w, "signed %s\n", clean(strings.TrimPrefix(s, "signed ")))
	}
	fmt.Fprintf(w, "trust  %s\n", clean(r.Trust.verdict()))
	if r.Kernel != nil {
		for _, s := range r.Kernel.Signatures {
			fmt.Fprintf(w, "kernel %s\n", clean(s))
		}
		fmt.Fprintf(w, "kernel %s\n", clean(r.Kernel.verdict()))
	}
	if r.SBAT != nil || r.Trust.SBAT != "" {
		fmt.Fprintf(w, "sbat   %s\n", clean(strings.TrimPrefix(strings.Join(r.SBAT, " ")+": "+r.Trust.SBAT, ": ")))
	}
}

// verdict says it in one line.
func (j *trustJSON) verdict() string {
	switch {
	case j.Trusted:
		return "trusted by this machine"
	case strings.HasPrefix(j.Detail, "cannot be told"):
		return j.Detail
	}
	return "not trusted by this machine: " + j.Detail
}

// addPCRSignatures decodes .pcrsig of the base and of each profile. Which phases
// the entries are for, and whether .pcrpkey made them, is found out if all is
// hashed anyway.
func (r *inspection) addPCRSignatures(u *uki.File, base []*uki.Section, profiles []uki.Profile, digests bool) error {
	if err := r.addEntries(u, base, "", 0, digests); err != nil {
		return err
	}
	for i, p := range profiles {
		if err := r.addEntries(u, p.Sections, fmt.Sprintf("profile %d, ", i), i, digests); err != nil {
			return err
		}
	}
	return nil
}

// addEntries decodes the .pcrsig among sections, which a profile uses.
func (r *inspection) addEntries(u *uki.File, sections []*uki.Section, where string, profile int, digests bool) error {
	for _, s := range sections {
		if s.Name != ".pcrsig" || s.Size() == 0 {
			continue
		}
		b, err := sectionBytes(s)
		if err != nil {
			return err
		}
		file, err := pcrsig.Parse(b)
		if err != nil {
			r.PCRSignatures = append(r.PCRSignatures, fmt.Sprintf("%snot understood: %v", where, err))
			continue
		}
		phases := make([][]measure.Phase, len(file.Entries))
		var key *rsa.PublicKey
		if digests {
			if phases, key, err = signedPhases(u, file, profile); err != nil {
				r.PCRSignatures = append(r.PCRSignatures, fmt.Sprintf("%swhat it is for cannot be told: %v", where, err))
				phases = make([][]measure.Phase, len(file.Entries))
			}
		}
		for i, e := range file.Entries {
			text := where + e.String()
			for _, phase := range phases[i] {
				text += fmt.Sprintf(", phase %q", phase)
			}
			switch {
			case key != nil && e.Verify(key) == nil:
				text += ", signed by .pcrpkey"
			case key != nil:
				text += ", not signed by .pcrpkey"
			}
			r.PCRSignatures = append(r.PCRSignatures, text)
		}
	}
	return nil
}

// signedPhases tells which phases of a cold boot the entries are for, and returns
// the key in .pcrpkey, nil without one.
func signedPhases(u *uki.File, file *pcrsig.File, profile int) ([][]measure.Phase, *rsa.PublicKey, error) {
	boot, err := stub.Load(u, stub.Options{Via: stub.ViaFirmware, Profile: strconv.Itoa(profile)})
	if err != nil {
		return nil, nil, err
	}
	p, err := measure.Predict(&boot.Image, measure.Options{Base: measure.Zero(measure.Banks(), measure.StubPCRs()...)})
	if err != nil {
		return nil, nil, err
	}
	phases, err := file.PhasesOf(p.At)
	if err != nil {
		return nil, nil, err
	}
	key, err := (&opener{boot: boot}).publicKey("")
	if err != nil {
		key = nil // and nothing is said of it
	}
	return phases, key, nil
}
