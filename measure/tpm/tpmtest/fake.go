package tpmtest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"slices"
	"sync"
	"time"

	"github.com/mkexec/mkexec/measure"
)

// Response codes for Fault.RC (TPM 2.0 Library Part 2, 6.6.3 "TPM_RC").
const (
	RCFailure  = 0x101
	RCLocality = 0x907
	RCYielded  = 0x908
	RCTesting  = 0x90A
	RCRetry    = 0x922
)

// A Fault is what goes wrong with one command. Its fields are looked at in
// their order.
type Fault struct {
	Delay  time.Duration       // the TPM takes so long
	Hang   bool                // it never answers; Send returns on Close
	RC     uint32              // it answers with this and does nothing
	Before error               // Send fails with this, and nothing is done
	Other  []measure.Event     // somebody else extends these first
	Drop   bool                // it answers success and does nothing
	After  error               // it does what it is told, then Send fails with this
	Change func([]byte) []byte // changes the response
}

// A Fake is a TPM in memory that knows TPM2_GetCapability of TPM_CAP_PCRS,
// TPM2_PCR_Read and TPM2_PCR_Extend without sessions. It is a tpm.Transport. It
// reads commands strictly, and extends as a real TPM: banks that it does not
// have are passed over silently.
type Fake struct {
	mu                sync.Mutex
	closed            chan struct{}
	algs              []uint16 // banks in the order of the answer
	allocated         map[uint16][]measure.PCR
	values            measure.PCRs
	counter           uint32
	commands, extends int
	atCommand         map[int]Fault
	atExtend          map[int]Fault
}

// NewFake returns a TPM that has the given banks, or all four if none is given,
// with 24 PCRs that are zero.
func NewFake(banks ...measure.Bank) *Fake {
	f := &Fake{
		closed: make(chan struct{}), allocated: map[uint16][]measure.PCR{}, values: measure.PCRs{},
		atCommand: map[int]Fault{}, atExtend: map[int]Fault{},
	}
	if len(banks) == 0 {
		banks = measure.Banks()
	}
	for _, b := range banks {
		f.Allocate(uint16(b), allPCRs()...)
	}
	return f
}

// Allocate gives the bank of an algorithm, known or not, these PCRs, zero, and
// no others. Without PCRs the bank is listed, but not active.
func (f *Fake) Allocate(alg uint16, pcrs ...measure.PCR) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !slices.Contains(f.algs, alg) {
		f.algs = append(f.algs, alg)
	}
	f.allocated[alg] = pcrs
	delete(f.values, measure.Bank(alg))
	for _, n := range pcrs {
		f.values.Set(measure.Bank(alg), n, make([]byte, measure.Bank(alg).Size()))
	}
}

// AtCommand lets the n-th command from now, 1 being the next, meet a fault, and
// those that follow it the other faults. A command that is sent again counts
// again.
func (f *Fake) AtCommand(n int, faults ...Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, fault := range faults {
		f.atCommand[f.commands+n+i] = fault
	}
}

// AtExtend is AtCommand counting only TPM2_PCR_Extend.
func (f *Fake) AtExtend(n int, faults ...Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, fault := range faults {
		f.atExtend[f.extends+n+i] = fault
	}
}

// Commands returns how many commands have been sent.
func (f *Fake) Commands() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.commands
}

// PCRs returns the values of all PCRs.
func (f *Fake) PCRs() measure.PCRs {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.values.Clone()
}

// ExtendAs extends as somebody else, without a command.
func (f *Fake) ExtendAs(ev measure.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.extend(ev)
}

func (f *Fake) extend(ev measure.Event) {
	for b, d := range ev.Digests {
		if old := f.values[b][ev.PCR]; old != nil {
			f.values[b][ev.PCR] = b.Sum(slices.Concat(old, d))
			f.counter++
		}
	}
}

// Close ends the wait of commands that hang.
func (f *Fake) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	select {
	case <-f.closed:
	default:
		close(f.closed)
	}
	return nil
}

// Command codes (TPM 2.0 Library Part 2, 6.5.2 "TPM_CC").
const (
	ccGetCapability = 0x17A
	ccPCRRead       = 0x17E
	ccPCRExtend     = 0x182
)

// Send runs one command.
func (f *Fake) Send(command []byte) ([]byte, error) {
	fault := f.nextFault(command)
	time.Sleep(fault.Delay)
	if fault.Hang {
		<-f.closed
		return nil, fs.ErrClosed
	}
	if fault.RC != 0 {
		return respond(fault.RC, nil, false), nil
	}
	if fault.Before != nil {
		return nil, fault.Before
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, ev := range fault.Other {
		f.extend(ev)
	}
	response := f.execute(command, fault.Drop)
	if fault.After != nil {
		return nil, fault.After
	}
	if fault.Change != nil {
		response = fault.Change(response)
	}
	return response, nil
}

func (f *Fake) nextFault(command []byte) Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.commands++
	if len(command) >= 10 && binary.BigEndian.Uint32(command[6:]) == ccPCRExtend {
		f.extends++
		if fault, ok := f.atExtend[f.extends]; ok {
			return fault
		}
	}
	return f.atCommand[f.commands]
}

// respond frames a response. With a session, it has the size of the parameters
// before and an answer to a password after them.
func respond(rc uint32, parameters []byte, session bool) []byte {
	tag := uint16(0x8001)
	if session {
		tag = 0x8002
		parameters = slices.Concat(be32(len(parameters)), parameters, []byte{0, 0, 1, 0, 0})
	}
	b := binary.BigEndian.AppendUint16(nil, tag)
	b = append(b, be32(10+len(parameters))...)
	b = binary.BigEndian.AppendUint32(b, rc)
	return append(b, parameters...)
}

// execute runs one command. What it does not understand to the last byte it
// answers with TPM_RC_SIZE, TPM_RC_VALUE or TPM_RC_COMMAND_CODE.
func (f *Fake) execute(command []byte, drop bool) []byte {
	r := &reader{b: command}
	tag, size, code := r.uint(2), r.uint(4), r.uint(4)
	var parameters []byte
	var err error
	switch {
	case r.bad || size != len(command):
		err = errSize
	case code == ccGetCapability && tag == 0x8001:
		parameters, err = f.getCapability(r)
	case code == ccPCRRead && tag == 0x8001:
		parameters, err = f.pcrRead(r)
	case code == ccPCRExtend && tag == 0x8002:
		err = f.pcrExtend(r, drop)
	default:
		return respond(0x143, nil, false)
	}
	switch err {
	case errSize:
		return respond(0x95, nil, false)
	case errValue:
		return respond(0x84, nil, false)
	}
	return respond(0, parameters, tag == 0x8002)
}

var (
	errSize  = errors.New("TPM_RC_SIZE")
	errValue = errors.New("TPM_RC_VALUE")
)

func (f *Fake) getCapability(r *reader) ([]byte, error) {
	capability, property, _ := r.uint(4), r.uint(4), r.uint(4)
	if !r.end() {
		return nil, errSize
	}
	if capability != 5 || property != 0 { // TPM_CAP_PCRS
		return nil, errValue
	}
	out := slices.Concat([]byte{0}, be32(5), be32(len(f.algs)))
	for _, alg := range f.algs {
		out = appendSelection(out, alg, f.allocated[alg])
	}
	return out, nil
}

func (f *Fake) pcrRead(r *reader) ([]byte, error) {
	var selections, digests []byte
	left := 8 // digests that one response holds (Part 2, 10.9.6 "TPML_DIGEST")
	count := r.uint(4)
	for range min(count, 16) {
		alg, mask := uint16(r.uint(2)), r.bytes(r.uint(1))
		var pcrs []measure.PCR
		for _, n := range allPCRs() {
			if int(n)/8 < len(mask) && mask[n/8]>>(n%8)&1 != 0 && left > 0 && slices.Contains(f.allocated[alg], n) {
				d := f.values[measure.Bank(alg)][n]
				digests = append(binary.BigEndian.AppendUint16(digests, uint16(len(d))), d...)
				pcrs = append(pcrs, n)
				left--
			}
		}
		selections = appendSelection(selections, alg, pcrs)
	}
	if !r.end() || count > 16 {
		return nil, errSize
	}
	return slices.Concat(be32(int(f.counter)), be32(count), selections, be32(8-left), digests), nil
}

func (f *Fake) pcrExtend(r *reader, drop bool) error {
	ev := measure.Event{PCR: measure.PCR(r.uint(4)), Digests: map[measure.Bank]measure.Digest{}}
	// one authorization: TPM_RS_PW, no nonce, continueSession or not, no password
	authSize, session, nonce, attributes, password := r.uint(4), r.uint(4), r.uint(2), r.uint(1), r.uint(2)
	if authSize != 9 || nonce != 0 || password != 0 {
		return errSize
	}
	if session != 0x40000009 || attributes > 1 || !slices.Contains(allPCRs(), ev.PCR) {
		return errValue
	}
	for range min(r.uint(4), 16) {
		b := measure.Bank(r.uint(2))
		if ev.Digests[b] = r.bytes(b.Size()); b.Size() == 0 {
			return errValue
		}
	}
	if !r.end() {
		return errSize
	}
	if !drop {
		f.extend(ev)
	}
	return nil
}

func allPCRs() (pcrs []measure.PCR) {
	for n := range measure.PCR(24) {
		pcrs = append(pcrs, n)
	}
	return pcrs
}

// appendSelection appends a TPMS_PCR_SELECTION.
func appendSelection(b []byte, alg uint16, pcrs []measure.PCR) []byte {
	var mask [3]byte
	for _, n := range pcrs {
		mask[n/8] |= 1 << (n % 8)
	}
	return append(append(binary.BigEndian.AppendUint16(b, alg), 3), mask[:]...)
}

func be32(n int) []byte { return binary.BigEndian.AppendUint32(nil, uint32(n)) }

// A reader reads big-endian numbers and notes if there was too little.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) bytes(n int) []byte {
	if n > len(r.b) {
		r.bad, n = true, 0
	}
	b := bytes.Clone(r.b[:n])
	r.b = r.b[n:]
	return b
}

func (r *reader) uint(n int) (v int) {
	for _, c := range r.bytes(n) {
		v = v<<8 | int(c)
	}
	return v
}

// end reports whether all was read and there was no less.
func (r *reader) end() bool { return !r.bad && len(r.b) == 0 }
