package kexec

import (
	"fmt"

	"github.com/mkexec/mkexec/measure"
)

// A transition is what a commit does to the PCRs.
type transition struct {
	from   measure.PCRs
	events []measure.Event
	to     measure.PCRs
}

// commit extends the TPM with the events, if it holds what they start from, and
// proves, by reading it back, that it then holds what they lead to. The error
// wraps ErrMoved if it does not hold what they start from, and ErrCommitted if
// any PCR may have changed.
func (t *transition) commit(device Device, log Log, pcrs []measure.PCR) error {
	live, err := device.Read(pcrs...)
	if err != nil {
		return err
	}
	if diffs := differences(t.from, live); diffs != nil {
		return fmt.Errorf("%w: %s", ErrMoved, diffs[0])
	}
	for i, ev := range t.events {
		if err := log.Record(ev, func() error { return device.Extend(ev) }); err != nil {
			err = fmt.Errorf("event %d of %d (%s): %w", i+1, len(t.events), ev.Description, err)
			return t.touched(err, device, pcrs)
		}
	}
	if live, err = device.Read(pcrs...); err != nil {
		return fmt.Errorf("%w: read back: %w", ErrCommitted, err)
	}
	if diffs := differences(t.to, live); diffs != nil {
		return fmt.Errorf("%w: read back: %s", ErrCommitted, diffs[0])
	}
	return nil
}

// touched adds ErrCommitted to err unless the TPM shows that nothing was extended.
func (t *transition) touched(err error, device Device, pcrs []measure.PCR) error {
	if live, readErr := device.Read(pcrs...); readErr == nil && differences(t.from, live) == nil {
		return fmt.Errorf("%w (no PCR has changed)", err)
	}
	return fmt.Errorf("%w: %w", err, ErrCommitted)
}

// progress returns after how many of the events the PCRs are what the TPM holds,
// -1 if they never are.
func (t *transition) progress(live measure.PCRs) int {
	pcrs := t.from.Clone()
	for n := 0; ; n++ {
		if differences(pcrs, live) == nil {
			return n
		}
		if n == len(t.events) || pcrs.Extend(t.events[n]) != nil {
			return -1
		}
	}
}

// differences compares both ways, so that a bank that one side lacks is seen.
func differences(want, got measure.PCRs) []measure.Difference {
	diffs := measure.Compare(want, got)
	for _, d := range measure.Compare(got, want) {
		if d.Got == nil { // want does not know it
			diffs = append(diffs, measure.Difference{Bank: d.Bank, PCR: d.PCR, Got: d.Want})
		}
	}
	return diffs
}
