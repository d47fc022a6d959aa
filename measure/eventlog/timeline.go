package eventlog

import (
	"bytes"
	"slices"

	"github.com/mkexec/mkexec/measure"
)

// A Timeline is everything that the logs say was extended since the TPM was reset.
type Timeline struct {
	// Firmware is nil if there is no such log.
	Firmware *Firmware
	// Records are those of userspace, of all kernels since.
	Records []Record
}

// A Step is one event of a timeline. The steps are numbered from 1 on, as
// systemd-pcrlock cel numbers them.
type Step struct {
	// Event is the extend. Its PCR is -1 if it is of an NvPCR.
	Event measure.Event
	// Record is nil for an event of the firmware's log.
	Record *Record
	// Hop tells by which kernel since the reset, from 1 on; 0 for firmware.
	Hop int
}

// Steps returns the events in order, without those that extend nothing. A hop
// begins with a boot id that the record before has not.
func (t *Timeline) Steps() []Step {
	var steps []Step
	if t.Firmware != nil {
		for _, ev := range t.Firmware.Events {
			if ev.Type != measure.EventNoAction {
				steps = append(steps, Step{Event: ev})
			}
		}
	}
	hop, bootID := 0, ""
	for i := range t.Records {
		r := &t.Records[i]
		if hop == 0 || r.BootID != "" && r.BootID != bootID {
			if hop == 0 || bootID != "" {
				hop++
			}
			bootID = r.BootID
		}
		steps = append(steps, Step{r.Event(), r, hop})
	}
	return steps
}

// A State is how the value of a PCR compares with the logs.
type State string

// The states of a PCR.
const (
	// Replayed: the events lead to what the TPM holds.
	Replayed State = "replayed"
	// Untouched: no event is for it, and the TPM holds what a reset leaves.
	Untouched State = "untouched"
	// Unlogged: no event is for it, but the TPM holds something else.
	Unlogged State = "unlogged"
	// Behind: the TPM holds what an event before the last one leads to.
	Behind State = "behind"
	// Differs: no event leads to what the TPM holds.
	Differs State = "differs"
	// NoDigest: an event has no digest for the bank.
	NoDigest State = "no-digest"
	// NotJudged: no log could explain the PCR. See Judged.
	NotJudged State = "not-judged"
)

// No tells whether the logs do not explain the PCR.
func (s State) No() bool { return s != Replayed && s != Untouched && s != NotJudged }

// A Verdict is how one PCR of one bank compares with the logs.
type Verdict struct {
	Bank  measure.Bank
	PCR   measure.PCR
	State State
	// Last is the number of the last event of the log for the PCR, 0 if there is
	// none; Match that of the event which leads to what the TPM holds, 0 if it is
	// none, or if the TPM holds what a reset leaves. With NoDigest, Last is the
	// event that has none.
	Last, Match int
	// TPM is what the TPM holds, Log what the events lead to.
	TPM, Log measure.Digest
}

// Judged tells whether a PCR has to be what the logs lead to. IMA extends PCR 10,
// and has a log of its own; anybody can reset PCRs 16 and 23, and a dynamic launch
// PCRs 17 to 22, which no log tells (TCG PC Client Platform TPM Profile, "PCR
// Attributes").
func Judged(n measure.PCR) bool { return n >= 0 && n < 16 && n != 10 }

// Judge compares what a TPM holds with what the events lead to, in every bank
// that it has and that some event has, by bank and then PCR. Without a firmware
// log PCRs are taken to begin with zero bytes.
func (t *Timeline) Judge(live measure.PCRs) []Verdict {
	steps := t.Steps()
	var verdicts []Verdict
	for _, b := range t.Banks() {
		for n := range measure.PCR(maxPCR + 1) {
			if live[b][n] != nil {
				verdicts = append(verdicts, t.judge(steps, b, n, live[b][n]))
			}
		}
	}
	return verdicts
}

func (t *Timeline) judge(steps []Step, b measure.Bank, n measure.PCR, live measure.Digest) Verdict {
	v := Verdict{Bank: b, PCR: n, TPM: live, Log: t.reset(b, n)}
	matched := bytes.Equal(v.Log, live)
	v.State = Untouched
	if !matched {
		v.State = Unlogged
	}
	for i, s := range steps {
		if s.Event.PCR != n {
			continue
		}
		v.Last = i + 1
		d := s.Event.Digests[b]
		if len(d) != b.Size() {
			v.State, v.Log = NoDigest, nil
			break
		}
		v.Log = b.Sum(append(slices.Clone(v.Log), d...))
		v.State = Replayed
		if bytes.Equal(v.Log, live) {
			matched, v.Match = true, i+1
		} else if matched {
			v.State = Behind
		} else {
			v.State = Differs
		}
	}
	if !Judged(n) {
		v.State = NotJudged
	}
	return v
}

// reset returns what a PCR holds after a TPM reset.
func (t *Timeline) reset(b measure.Bank, n measure.PCR) measure.Digest {
	d := make(measure.Digest, b.Size())
	switch {
	case n == 0 && t.Firmware != nil:
		d[len(d)-1] = t.Firmware.locality
	case n >= 17 && n <= 22:
		d = bytes.Repeat([]byte{0xFF}, b.Size())
	}
	return d
}

// Banks returns the banks that any event has a digest for, ascending.
func (t *Timeline) Banks() []measure.Bank {
	var banks []measure.Bank
	for _, s := range t.Steps() {
		for b := range s.Event.Digests {
			if !slices.Contains(banks, b) {
				banks = append(banks, b)
			}
		}
	}
	slices.Sort(banks)
	return banks
}
