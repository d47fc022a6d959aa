package eventlog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/mkexec/mkexec/measure"
)

// What is refused, however well formed: logs larger than MaxFirmware bytes, and
// more algorithms than a TPM has banks (TPM 2.0 Library Part 2, HASH_COUNT, is 16
// where it is largest).
const (
	MaxFirmware   = 4 << 20
	maxAlgorithms = 16
	maxDigest     = 64 // bytes
	maxPCR        = 23
)

// ErrEmpty is wrapped in the error for a log without a single byte. Some
// virtual machines have a TPM but no log.
var ErrEmpty = errors.New("empty: the firmware has recorded nothing")

// The signatures of the record that a log begins with (TCG PC Client Platform
// Firmware Profile, 10.4.5.1 "Specification ID Version Event"; TCG EFI Platform
// Specification 1.22 for those of TPM 1.2). 16 bytes with the NUL.
const (
	specIDAgile  = "Spec ID Event03\x00"
	specIDTPM12  = "Spec ID Event00\x00"
	specIDTPM12E = "Spec ID Event02\x00"
)

// startupLocality is the signature of the record that names the locality of
// TPM2_Startup (TCG PC Client Platform Firmware Profile, 10.4.5.3).
const startupLocality = "StartupLocality\x00"

// A Firmware is the log of the firmware.
type Firmware struct {
	// Banks are the banks that the log has digests for, in its order, without
	// those whose hash algorithm is not known here, such as SM3.
	Banks []measure.Bank
	// Events are the records in order, those of type EV_NO_ACTION included, but
	// not the one that says which banks there are. Their data and digests are
	// parts of the log that was parsed.
	Events []measure.Event

	// locality is what PCR 0 begins with, as a number.
	locality byte
}

// ParseFirmware parses a log, crypto agile (TCG_PCR_EVENT2) or SHA-1 only
// (TCG_PCR_EVENT) (TCG PC Client Platform Firmware Profile, 10.2 "Event Log
// Structures"). All of data must be records; those of a crypto-agile log must
// keep to the banks that its first record names. A record may lack a bank: that
// is an error only for who replays that bank. Data that a record holds for people
// is not checked. The result refers to data.
func ParseFirmware(data []byte) (*Firmware, error) {
	l, err := parseFirmware(data)
	if err != nil {
		return nil, fmt.Errorf("firmware log: %w", err)
	}
	return l, nil
}

func parseFirmware(data []byte) (*Firmware, error) {
	switch {
	case len(data) == 0:
		return nil, ErrEmpty
	case len(data) > MaxFirmware:
		return nil, fmt.Errorf("%d bytes: more than %d", len(data), MaxFirmware)
	}
	l := &Firmware{}
	r := &reader{rest: data}
	first, err := r.event()
	if err != nil {
		return nil, fmt.Errorf("record 0 at offset 0: %w", err)
	}
	next := r.event
	switch signature := specID(first); signature {
	case specIDAgile:
		var algorithms []algorithm
		if algorithms, err = parseSpecID(first); err != nil {
			return nil, fmt.Errorf("record 0 at offset 0: %w", err)
		}
		for _, a := range algorithms {
			if a.bank.Size() > 0 {
				l.Banks = append(l.Banks, a.bank)
			}
		}
		next = func() (measure.Event, error) { return r.event2(algorithms) }
	case "": // an ordinary event
		l.Banks = []measure.Bank{measure.SHA1}
		err = l.add(first)
	case specIDTPM12, specIDTPM12E:
		l.Banks = []measure.Bank{measure.SHA1}
	default:
		err = fmt.Errorf("%.16q: not a known version of the log", signature)
	}
	if err != nil {
		return nil, fmt.Errorf("record 0 at offset 0: %w", err)
	}
	for i := 1; len(r.rest) > 0; i++ {
		off := len(data) - len(r.rest)
		ev, err := next()
		if err == nil {
			err = l.add(ev)
		}
		if err != nil {
			return nil, fmt.Errorf("record %d at offset %d: %w", i, off, err)
		}
	}
	return l, nil
}

// specID returns the signature of the record that says what log it is, "" if
// this is another record.
func specID(ev measure.Event) string {
	if ev.Type != measure.EventNoAction || len(ev.Data) < len(specIDAgile) || !bytes.HasPrefix(ev.Data, []byte("Spec ID Event")) {
		return ""
	}
	return string(ev.Data[:len(specIDAgile)])
}

// An algorithm is one that the records of a crypto-agile log have digests of.
type algorithm struct {
	bank measure.Bank
	size int // bytes of a digest
}

// parseSpecID parses the record that a crypto-agile log begins with.
func parseSpecID(ev measure.Event) ([]algorithm, error) {
	if ev.PCR != 0 || bytes.ContainsFunc(ev.Digests[measure.SHA1], func(r rune) bool { return r != 0 }) {
		return nil, errors.New("header: its PCR and digest are not zero")
	}
	r := &reader{rest: ev.Data[len(specIDAgile):]}
	fixed := r.bytes(8) // platformClass (4), specVersionMinor, specVersionMajor, specErrata, uintnSize
	if r.err == nil && (fixed[5] != 2 || fixed[4] != 0) {
		return nil, fmt.Errorf("header: version %d.%d: not 2.0", fixed[5], fixed[4])
	}
	n := r.uint32()
	if n > maxAlgorithms {
		return nil, fmt.Errorf("header: %d algorithms: more than %d", n, maxAlgorithms)
	}
	var algorithms []algorithm
	for range n {
		a := algorithm{measure.Bank(r.uint16()), int(r.uint16())}
		if r.err != nil {
			break
		}
		switch {
		case slices.ContainsFunc(algorithms, func(b algorithm) bool { return a.bank == b.bank }):
			return nil, fmt.Errorf("header: %s: named twice", a.bank)
		case a.bank.Size() > 0 && a.size != a.bank.Size(), a.size == 0, a.size > maxDigest:
			return nil, fmt.Errorf("header: %s: digests of %d bytes", a.bank, a.size)
		}
		algorithms = append(algorithms, a)
	}
	r.bytes(uint32(r.uint8())) // vendorInfo
	switch {
	case r.err != nil:
		return nil, fmt.Errorf("header: %w", r.err)
	case len(r.rest) > 0:
		return nil, fmt.Errorf("header: %d bytes behind its end", len(r.rest))
	case len(algorithms) == 0:
		return nil, errors.New("header: no algorithm")
	}
	return algorithms, nil
}

// add checks and describes an event, and puts it behind the others.
func (l *Firmware) add(ev measure.Event) error {
	if ev.Type == measure.EventNoAction && bytes.HasPrefix(ev.Data, []byte(startupLocality)) {
		if err := l.setLocality(ev); err != nil {
			return err
		}
	}
	ev.Description = Describe(ev.Type, ev.Data)
	l.Events = append(l.Events, ev)
	return nil
}

// setLocality takes the locality of TPM2_Startup from its record, which must be
// before all that is extended into PCR 0. 4 stands for an H-CRTM (TPM 2.0 Library
// Part 1, "Initializing PCR").
func (l *Firmware) setLocality(ev measure.Event) error {
	value := ev.Data[len(startupLocality):]
	switch {
	case len(value) != 1:
		return fmt.Errorf("StartupLocality: %d bytes: want 1", len(value))
	case value[0] != 0 && value[0] != 3 && value[0] != 4:
		return fmt.Errorf("StartupLocality: locality %d: not 0, 3 or 4", value[0])
	}
	for _, e := range l.Events {
		if e.Type == measure.EventNoAction && bytes.HasPrefix(e.Data, []byte(startupLocality)) {
			return errors.New("StartupLocality: the second one")
		}
		if e.Type != measure.EventNoAction && e.PCR == 0 {
			return errors.New("StartupLocality: PCR 0 was extended before")
		}
	}
	l.locality = value[0]
	return nil
}

// Replay returns the PCRs that the events lead to after a TPM reset, in the
// given banks, or in all that the log has if none is given. PCRs without events
// are as the reset left them. PCRs 17 to 22, which a dynamic launch resets, are
// not known (TCG PC Client Platform TPM Profile, "PCR Initial and Reset Values").
// A bank that the log does not have, or an event without a digest for it, is an
// error.
func (l *Firmware) Replay(banks ...measure.Bank) (measure.PCRs, error) {
	if len(banks) == 0 {
		banks = l.Banks
	}
	var static []measure.PCR
	for n := range measure.PCR(maxPCR + 1) {
		if n <= 16 || n == maxPCR {
			static = append(static, n)
		}
	}
	pcrs := measure.Zero(banks, static...)
	for _, b := range banks {
		if !slices.Contains(l.Banks, b) {
			return nil, fmt.Errorf("firmware log: replay: no bank %s (it has: %s)", b, measure.BankNames(l.Banks))
		}
		pcrs[b][0][b.Size()-1] = l.locality
	}
	for i, ev := range l.Events {
		if ev.Type == measure.EventNoAction || !slices.Contains(static, ev.PCR) {
			continue
		}
		if err := pcrs.Extend(ev); err != nil {
			return nil, fmt.Errorf("firmware log: replay: event %d: %w", i+1, err)
		}
	}
	return pcrs, nil
}

// A reader takes values off the front of bytes. After an error it returns zero
// values, and err says what is missing.
type reader struct {
	rest []byte
	err  error
}

// event reads a TCG_PCR_EVENT.
func (r *reader) event() (measure.Event, error) {
	ev := r.header()
	ev.Digests = map[measure.Bank]measure.Digest{measure.SHA1: r.bytes(uint32(measure.SHA1.Size()))}
	ev.Data = r.bytes(r.uint32())
	return ev, r.err
}

// event2 reads a TCG_PCR_EVENT2.
func (r *reader) event2(algorithms []algorithm) (measure.Event, error) {
	ev := r.header()
	n := r.uint32()
	switch {
	case r.err != nil:
		return ev, r.err
	case uint64(n) > uint64(len(algorithms)):
		return ev, fmt.Errorf("%d digests, but the log has %d algorithms", n, len(algorithms))
	case n == 0 && ev.Type != measure.EventNoAction:
		return ev, fmt.Errorf("%s: no digest", ev.Type)
	}
	seen := make([]bool, len(algorithms))
	ev.Digests = make(map[measure.Bank]measure.Digest, n)
	for range n {
		id := measure.Bank(r.uint16())
		i := slices.IndexFunc(algorithms, func(a algorithm) bool { return a.bank == id })
		switch {
		case r.err != nil:
			return ev, r.err
		case i < 0:
			return ev, fmt.Errorf("digest of %s: not an algorithm of the log", id)
		case seen[i]:
			return ev, fmt.Errorf("digest of %s: the second one", id)
		}
		seen[i] = true
		if d := r.bytes(uint32(algorithms[i].size)); id.Size() > 0 {
			ev.Digests[id] = d
		}
	}
	ev.Data = r.bytes(r.uint32())
	return ev, r.err
}

// header reads the PCR and the type that every record begins with. A record that
// extends nothing may name PCR 0xFFFFFFFF, which becomes -1.
func (r *reader) header() measure.Event {
	n, t := r.uint32(), measure.EventType(r.uint32())
	if n == 0xFFFFFFFF && t == measure.EventNoAction {
		return measure.Event{PCR: -1, Type: t}
	}
	if r.err == nil && n > maxPCR {
		r.err = fmt.Errorf("PCR %d: not 0 to %d", n, maxPCR)
	}
	return measure.Event{PCR: measure.PCR(min(n, maxPCR)), Type: t}
}

func (r *reader) uint8() (v uint8) {
	if b := r.bytes(1); b != nil {
		v = b[0]
	}
	return v
}

func (r *reader) uint16() (v uint16) {
	if b := r.bytes(2); b != nil {
		v = binary.LittleEndian.Uint16(b)
	}
	return v
}

func (r *reader) uint32() (v uint32) {
	if b := r.bytes(4); b != nil {
		v = binary.LittleEndian.Uint32(b)
	}
	return v
}

// bytes takes n bytes off, without a copy; nil if there are fewer.
func (r *reader) bytes(n uint32) []byte {
	if r.err == nil && uint64(n) > uint64(len(r.rest)) {
		r.err = fmt.Errorf("cut short: %d bytes wanted, %d are left", n, len(r.rest))
	}
	if r.err != nil {
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}
