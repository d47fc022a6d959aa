package measure

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
)

// A PCR is the index of a platform configuration register, 0 to 23.
type PCR int

// The PCRs that systemd-stub extends (systemd, docs/TPM2_PCR_MEASUREMENTS.md).
const (
	PCRKernelImage      PCR = 11 // the sections of the UKI, then the phase words
	PCRKernelConfig     PCR = 12 // command line, profile, addons, credentials, confexts
	PCRSystemExtensions PCR = 13 // sysexts
)

// StubPCRs returns the PCRs that starting an image may change, ascending.
func StubPCRs() []PCR { return []PCR{PCRKernelImage, PCRKernelConfig, PCRSystemExtensions} }

// PredictablePCRs returns the PCRs whose values after a kexec or a cold boot can
// be told, ascending: those that starting an image changes, and those that only
// firmware and the os-separator do. IMA (10), file systems (15) and what is free
// for all (8, 16 to 23) are not among them.
func PredictablePCRs() []PCR { return []PCR{0, 1, 2, 3, 4, 5, 6, 7, 9, 11, 12, 13, 14} }

// A Digest is the value of a PCR or of an event in one bank. Its text form is
// lower-case hexadecimal.
type Digest []byte

// String returns d in lower-case hexadecimal.
func (d Digest) String() string { return hex.EncodeToString(d) }

// MarshalText returns d in lower-case hexadecimal.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText parses hexadecimal of any length; a Digest does not know its bank.
func (d *Digest) UnmarshalText(text []byte) error {
	b, err := hex.DecodeString(string(text))
	if err != nil {
		return fmt.Errorf("digest %.140q: not hexadecimal", text)
	}
	*d = b
	return nil
}

// ParseDigest parses s, hexadecimal of either case, as a digest of bank b.
func ParseDigest(b Bank, s string) (Digest, error) {
	var d Digest
	if err := d.UnmarshalText([]byte(s)); err != nil {
		return nil, err
	}
	if len(d) != b.Size() {
		return nil, fmt.Errorf("digest %.140q: %d bytes, but %s has %d", s, len(d), b, b.Size())
	}
	return d, nil
}

// PCRs holds values of PCRs by bank. A value that is absent is unknown; it is
// never taken for zero.
type PCRs map[Bank]map[PCR]Digest

// Zero returns the given PCRs as they are after a TPM reset, all zero bytes
// (TCG PC Client Platform TPM Profile: PCR 0 to 16), in each of the banks.
func Zero(banks []Bank, pcrs ...PCR) PCRs {
	p := PCRs{}
	for _, b := range banks {
		for _, n := range pcrs {
			p.Set(b, n, make(Digest, b.Size()))
		}
	}
	return p
}

// Set makes d the value of PCR n in bank b.
func (p PCRs) Set(b Bank, n PCR, d Digest) {
	if p[b] == nil {
		p[b] = map[PCR]Digest{}
	}
	p[b][n] = d
}

// Banks returns the banks that p has values of, ascending.
func (p PCRs) Banks() []Bank { return slices.Sorted(maps.Keys(p)) }

// knows tells whether the value of PCR n is known in every bank.
func (p PCRs) knows(n PCR) bool {
	for _, values := range p {
		if values[n] == nil {
			return false
		}
	}
	return true
}

// forget makes the value of PCR n unknown.
func (p PCRs) forget(n PCR) {
	for _, values := range p {
		delete(values, n)
	}
}

// Only returns a copy of p without other PCRs than these.
func (p PCRs) Only(pcrs ...PCR) PCRs {
	some := PCRs{}
	for b, values := range p {
		some[b] = map[PCR]Digest{}
		for _, n := range pcrs {
			if values[n] != nil {
				some[b][n] = values[n]
			}
		}
	}
	return some
}

// Clone returns a copy of p that shares no map with it.
func (p PCRs) Clone() PCRs {
	c := make(PCRs, len(p))
	for b, values := range p {
		c[b] = maps.Clone(values)
	}
	return c
}

// Extend extends p in every bank that p holds:
// PCR' = H(PCR ‖ digest) (TPM 2.0 Library Part 1, 17.4 "Extend of a PCR").
// It fails, and leaves p as it was, if the event has no digest for one of the
// banks, if a digest has the wrong size, or if the PCR's value is not known.
func (p PCRs) Extend(ev Event) error {
	for b, values := range p {
		d, ok := ev.Digests[b]
		if !ok {
			return fmt.Errorf("extend PCR %d: event %q has no %s digest", ev.PCR, ev.Description, b)
		}
		if len(d) != b.Size() {
			return fmt.Errorf("extend PCR %d: event %q: %s digest of %d bytes", ev.PCR, ev.Description, b, len(d))
		}
		if len(values[ev.PCR]) != b.Size() {
			return fmt.Errorf("extend PCR %d: its %s value is not known", ev.PCR, b)
		}
	}
	for b, values := range p {
		values[ev.PCR] = b.Sum(append(slices.Clone(values[ev.PCR]), ev.Digests[b]...))
	}
	return nil
}

// A Difference is a PCR that two sets of values do not agree on. A side that
// does not know the PCR has a nil digest.
type Difference struct {
	Bank      Bank
	PCR       PCR
	Want, Got Digest
}

func (d Difference) String() string {
	return fmt.Sprintf("PCR %d (%s) is %s, not %s", d.PCR, d.Bank, orUnknown(d.Got), orUnknown(d.Want))
}

func orUnknown(d Digest) string {
	if d == nil {
		return "unknown"
	}
	return d.String()
}

// Compare returns the PCRs of want whose value in got differs or is unknown,
// by bank and then PCR. PCRs that only got holds are not looked at.
func Compare(want, got PCRs) []Difference {
	var diffs []Difference
	for _, b := range want.Banks() {
		for _, n := range slices.Sorted(maps.Keys(want[b])) {
			if w, g := want[b][n], got[b][n]; g == nil || !bytes.Equal(w, g) {
				diffs = append(diffs, Difference{b, n, w, g})
			}
		}
	}
	return diffs
}
