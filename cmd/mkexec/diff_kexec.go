package main

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/eventlog"
)

// recordSeparator begins a record of a userspace log (RFC 7464).
const recordSeparator = '\x1e'

// kexecSide reads the events of the last kexec by mkexec that a userspace log
// has. It begins with PCRs that are zero, as images do: what they were before is
// the same for all that the kexec could have started.
func kexecSide(path string, data []byte, banks []measure.Bank) (*side, error) {
	l, err := eventlog.ParseUserspace(data)
	if err != nil {
		return nil, err
	}
	end := len(l.Records)
	for end > 0 && l.Records[end-1].Kexec == nil {
		end--
	}
	if end == 0 {
		return nil, errors.New("userspace log: it has no kexec by mkexec")
	}
	last := &l.Records[end-1]
	start := end
	for start > 0 && sameKexec(&l.Records[start-1], last) {
		start--
	}
	s := &side{kind: sideKexec, path: path, base: "zero"}
	for _, r := range l.Records[start:end] {
		ev := r.Event()
		if !slices.Contains(measure.StubPCRs(), ev.PCR) {
			return nil, fmt.Errorf("userspace log: kexec: PCR %d: not one of %v", ev.PCR, measure.StubPCRs())
		}
		for _, b := range banks {
			if ev.Digests[b] == nil {
				return nil, noBank(b, slices.Sorted(maps.Keys(ev.Digests)))
			}
		}
		s.events = append(s.events, sideEvent{Event: ev, number: len(s.events) + 1, what: r.Kexec.Description, class: classOf(r.Kexec.Description)})
	}
	for _, r := range l.Records[end:] {
		if r.EventType == "phase" && r.PCR == measure.PCRKernelImage {
			s.words = append(s.words, r.String)
		}
	}
	return s, s.replay(measure.Zero(banks, measure.StubPCRs()...))
}

// sameKexec tells whether a record is of the same kexec as another one.
func sameKexec(r, last *eventlog.Record) bool {
	return r.Kexec != nil && r.BootID == last.BootID && bytes.Equal(r.Kexec.Image, last.Kexec.Image)
}
