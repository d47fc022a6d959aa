package tpm

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/go-tpm/tpm2"

	"github.com/mkexec/mkexec/measure"
)

// maxPCR is the last PCR of a PC client TPM (TCG PC Client Platform TPM
// Profile, 4.6 "PCR Requirements").
const maxPCR measure.PCR = 23

// Banks returns the banks that PCR 11, 12 and 13 exist in, ascending
// (TPM2_GetCapability of TPM_CAP_PCRS, TPM 2.0 Library Part 3, 30.2).
//
// All of them are extended or none, so it is an error if there is none, if a
// bank has some of these PCRs only, or if any PCR is in a bank whose digests
// mkexec cannot compute.
func (d *Device) Banks() ([]measure.Bank, error) {
	allocation, err := d.getAllocation()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.name, err)
	}
	banks, err := activeBanks(allocation)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.name, err)
	}
	return banks, nil
}

// getAllocation asks the TPM, once, which PCRs its banks have.
func (d *Device) getAllocation() ([]tpm2.TPMSPCRSelection, error) {
	if d.allocation != nil {
		return d.allocation, nil
	}
	response, err := tpm2.GetCapability{Capability: tpm2.TPMCapPCRs, PropertyCount: 64}.Execute(d)
	if err != nil {
		return nil, fmt.Errorf("list banks: %w", err)
	}
	list, err := response.CapabilityData.Data.AssignedPCR()
	if err != nil {
		return nil, fmt.Errorf("list banks: the answer is about something else: %w", err)
	}
	if response.MoreData { // one cannot ask for the rest: "property" must be 0
		return nil, errors.New("list banks: the TPM left some out")
	}
	d.allocation = append([]tpm2.TPMSPCRSelection{}, list.PCRSelections...)
	return d.allocation, nil
}

func activeBanks(allocation []tpm2.TPMSPCRSelection) ([]measure.Bank, error) {
	var banks []measure.Bank
	seen := map[measure.Bank]bool{}
	for _, s := range allocation {
		b, pcrs := measure.Bank(s.Hash), selected(s)
		if seen[b] {
			return nil, fmt.Errorf("bank %s: the TPM lists it twice", bankName(b))
		}
		seen[b] = true
		if len(pcrs) == 0 {
			continue
		}
		if b.Size() == 0 {
			return nil, fmt.Errorf("bank %s: active, but mkexec cannot compute its digests; deactivate it in the firmware setup or with tpm2_pcrallocate", bankName(b))
		}
		missing := slices.DeleteFunc(measure.StubPCRs(), func(n measure.PCR) bool { return slices.Contains(pcrs, n) })
		switch len(missing) {
		case 0:
			banks = append(banks, b)
		case len(measure.StubPCRs()):
			// nobody can extend what we extend in this bank
		default:
			return nil, fmt.Errorf("bank %s: has no %s; deactivate it or allocate all its PCRs, in the firmware setup or with tpm2_pcrallocate", b, pcrNames(missing))
		}
	}
	if len(banks) == 0 {
		return nil, fmt.Errorf("no bank has %s; activate sha256 in the firmware setup or with tpm2_pcrallocate", pcrNames(measure.StubPCRs()))
	}
	slices.Sort(banks)
	return banks, nil
}

// maxSnapshots is how often Read reads anew because a PCR was extended meanwhile.
const maxSnapshots = 20

// Read returns the values of the PCRs in all active banks (TPM2_PCR_Read, TPM
// 2.0 Library Part 3, 22.4). They are of one moment: if the TPM's counter of PCR
// updates moves while they are read, all are read again. A value that the TPM
// does not return is an error.
func (d *Device) Read(pcrs ...measure.PCR) (measure.PCRs, error) {
	banks, err := d.Banks()
	if err != nil {
		return nil, err
	}
	fail := func(err error) (measure.PCRs, error) {
		return nil, fmt.Errorf("%s: read %s (%s): %w", d.name, pcrNames(pcrs), measure.BankNames(banks), err)
	}
	for _, n := range pcrs {
		if err := checkPCR(n); err != nil {
			return fail(err)
		}
	}
	for range maxSnapshots {
		values, err := d.snapshot(banks, pcrs)
		if err != nil {
			return fail(err)
		}
		if values != nil {
			return values, nil
		}
	}
	return fail(fmt.Errorf("PCRs were extended in each of %d tries", maxSnapshots))
}

// snapshot reads the PCRs with as many commands as it takes. It returns nil if a
// PCR was extended between two of them.
func (d *Device) snapshot(banks []measure.Bank, pcrs []measure.PCR) (measure.PCRs, error) {
	values := measure.PCRs{}
	var counter uint32
	for {
		var missing tpm2.TPMLPCRSelection
		var first string
		for _, b := range banks {
			var indices []uint
			for _, n := range pcrs {
				if values[b][n] == nil {
					indices = append(indices, uint(n))
				}
			}
			if len(indices) == 0 {
				continue
			}
			if first == "" {
				first = fmt.Sprintf("PCR %d (%s)", indices[0], b)
			}
			missing.PCRSelections = append(missing.PCRSelections,
				tpm2.TPMSPCRSelection{Hash: tpm2.TPMAlgID(b), PCRSelect: tpm2.PCClientCompatible.PCRs(indices...)})
		}
		if first == "" {
			return values, nil
		}
		response, err := tpm2.PCRRead{PCRSelectionIn: missing}.Execute(d)
		if err != nil {
			return nil, err
		}
		if len(values) > 0 && response.PCRUpdateCounter != counter {
			return nil, nil
		}
		counter = response.PCRUpdateCounter
		if len(response.PCRValues.Digests) == 0 {
			return nil, fmt.Errorf("the TPM does not return %s", first)
		}
		if err := collect(values, banks, pcrs, response); err != nil {
			return nil, err
		}
	}
}

// collect adds the values of one response of TPM2_PCR_Read.
func collect(values measure.PCRs, banks []measure.Bank, pcrs []measure.PCR, response *tpm2.PCRReadResponse) error {
	digests := response.PCRValues.Digests
	for _, s := range response.PCRSelectionOut.PCRSelections {
		b := measure.Bank(s.Hash)
		for _, n := range selected(s) {
			if !slices.Contains(banks, b) || !slices.Contains(pcrs, n) || values[b][n] != nil {
				return fmt.Errorf("the TPM returns PCR %d (%s), which it was not asked for", n, bankName(b))
			}
			if len(digests) == 0 {
				return fmt.Errorf("the TPM returns no value of PCR %d (%s)", n, b)
			}
			if len(digests[0].Buffer) != b.Size() {
				return fmt.Errorf("the TPM returns %d bytes for PCR %d (%s)", len(digests[0].Buffer), n, b)
			}
			values.Set(b, n, digests[0].Buffer)
			digests = digests[1:]
		}
	}
	if len(digests) > 0 {
		return fmt.Errorf("the TPM returns %d values too many", len(digests))
	}
	return nil
}

// An ExtendError is the error of Device.Extend.
type ExtendError struct {
	// Device names the TPM.
	Device string
	// Event is what was to be extended, Banks in which banks.
	Event measure.Event
	Banks []measure.Bank
	// Unknown is true if the TPM may have extended the PCR all the same: it was
	// sent the command and did not refuse it. False means that it has not.
	Unknown bool
	// Err is the reason. It wraps the tpm2.TPMRC if there is one.
	Err error
}

// Error names the device, PCR, banks and event, and the reason.
func (e *ExtendError) Error() string {
	s := fmt.Sprintf("%s: extend PCR %d (%s) with %.80q: %v", e.Device, e.Event.PCR, measure.BankNames(e.Banks), e.Event.Description, e.Err)
	if e.Unknown {
		s += "; it may be extended all the same"
	}
	return s
}

// Unwrap returns Err.
func (e *ExtendError) Unwrap() error { return e.Err }

// Extend extends one PCR in all active banks, with one command (TPM2_PCR_Extend,
// TPM 2.0 Library Part 3, 22.2). Digests for other banks are not looked at.
// Before it sends anything it fails if the event lacks a digest for an active
// bank or has one of the wrong size. The error is an error of Banks or an
// *ExtendError. No error means that the TPM said success: read back what it did.
func (d *Device) Extend(ev measure.Event) error {
	banks, err := d.Banks()
	if err != nil {
		return err
	}
	fail := &ExtendError{Device: d.name, Event: ev, Banks: banks}
	digests, err := digestValues(ev, banks)
	if err != nil {
		fail.Err = err
		return fail
	}
	_, err = tpm2.PCRExtend{PCRHandle: tpm2.TPMHandle(ev.PCR), Digests: digests}.Execute(d)
	if err == nil {
		return nil
	}
	// A response code means that the command had no effect, other than
	// TPM_RC_FAILURE: the TPM may have failed in the middle of it.
	var rc tpm2.TPMRC
	refused := errors.As(err, &rc) && rc != tpm2.TPMRCFailure
	fail.Unknown = !refused && !errors.Is(err, ErrUnusable)
	fail.Err = err
	return fail
}

// digestValues returns the digests of an event in all banks.
func digestValues(ev measure.Event, banks []measure.Bank) (list tpm2.TPMLDigestValues, err error) {
	if err := checkPCR(ev.PCR); err != nil {
		return list, err
	}
	for _, b := range banks {
		digest, ok := ev.Digests[b]
		if !ok {
			return list, fmt.Errorf("the event has no %s digest, but the bank is active", b)
		}
		if len(digest) != b.Size() {
			return list, fmt.Errorf("the event's %s digest has %d bytes, not %d", b, len(digest), b.Size())
		}
		list.Digests = append(list.Digests, tpm2.TPMTHA{HashAlg: tpm2.TPMAlgID(b), Digest: digest})
	}
	return list, nil
}

func checkPCR(n measure.PCR) error {
	if n < 0 || n > maxPCR {
		return fmt.Errorf("PCR %d: a TPM has PCR 0 to %d", n, maxPCR)
	}
	return nil
}

// selected returns the PCRs that s selects, ascending (TPM 2.0 Library Part 2,
// 10.6.1 "TPMS_PCR_SELECTION": bit n%8 of byte n/8).
func selected(s tpm2.TPMSPCRSelection) []measure.PCR {
	var pcrs []measure.PCR
	for n := range 8 * len(s.PCRSelect) {
		if s.PCRSelect[n/8]>>(n%8)&1 != 0 {
			pcrs = append(pcrs, measure.PCR(n))
		}
	}
	return pcrs
}

// bankName is Bank.String with names for the banks that a TPM may have and
// package measure does not know (TCG Algorithm Registry, table 3).
func bankName(b measure.Bank) string {
	switch tpm2.TPMAlgID(b) {
	case 0x0012:
		return "sm3_256"
	case tpm2.TPMAlgSHA3256:
		return "sha3_256"
	case tpm2.TPMAlgSHA3384:
		return "sha3_384"
	case tpm2.TPMAlgSHA3512:
		return "sha3_512"
	}
	return b.String()
}

func pcrNames(pcrs []measure.PCR) string {
	return "PCR " + strings.Trim(fmt.Sprint(pcrs), "[]")
}
