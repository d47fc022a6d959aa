package kexec

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/mkexec/mkexec/measure"
)

// CarryOut does what was deferred, at the end of a shutdown: it drops whatever
// is loaded, extends the TPM from the state that it finds, if the plan knows it,
// proves the result, loads the staged image with the log behind its initrd, and
// freezes it. The caller, or who runs it, jumps.
//
// The image is loaded last, so that a process that dies on the way leaves
// nothing loaded, and the machine starts through firmware. Every error leaves
// nothing loaded, too, unless it wraps ErrStillLoaded; it wraps ErrCommitted if
// PCRs were extended.
func (d *Deferred) CarryOut(device Device, kernel Kernel, log Log) error {
	if log == nil {
		log = noLog{}
	}
	if err := unloadAny(kernel); err != nil {
		return err
	}
	linux, err := d.Kernel.open(d.dir, "kernel")
	if err != nil {
		return err
	}
	defer linux.Close()
	initrd, err := d.openInitrd(log)
	if err != nil {
		return err
	}
	if initrd != nil {
		defer initrd.Close()
	}
	r, err := d.route(device)
	if err != nil {
		return err
	}
	t := transition{r.Base, d.Events, r.PCRs}
	if err := t.commit(device, log, r.pcrs()); err != nil {
		return err
	}
	err = kernel.Load(linux, initrd, d.Cmdline)
	if err == nil {
		err = checkLoaded(kernel)
	}
	if err == nil {
		err = kernel.Freeze()
	}
	if err != nil {
		return errors.Join(fmt.Errorf("%w: %w", err, ErrCommitted), unloadAny(kernel))
	}
	return nil
}

// openInitrd returns the staged initrd with the log behind it, nil if the image has none.
func (d *Deferred) openInitrd(log Log) (*os.File, error) {
	if d.Initrd == nil {
		return nil, nil
	}
	initrd, err := d.Initrd.open(d.dir, "initrd")
	if err != nil {
		return nil, err
	}
	text, err := log.After(d.Events)
	if err != nil || text == nil {
		if err != nil {
			initrd.Close()
			return nil, err
		}
		return initrd, nil
	}
	defer initrd.Close()
	return carry(initrd, d.Initrd.Size, text)
}

// route returns the one that has ended in the state that the TPM is in.
func (d *Deferred) route(device Device) (*Route, error) {
	var first []measure.Difference
	for i := range d.Routes {
		r := &d.Routes[i]
		live, err := device.Read(r.pcrs()...)
		if err != nil {
			return nil, err
		}
		diffs := differences(r.Base, live)
		if diffs == nil {
			return r, nil
		}
		if first == nil {
			first = diffs
		}
	}
	return nil, fmt.Errorf("%w: %s", ErrMoved, first[0])
}

// pcrs are those that the base knows.
func (r *Route) pcrs() []measure.PCR {
	for _, values := range r.Base {
		return slices.Sorted(maps.Keys(values))
	}
	return nil
}

// Veto drops whatever is loaded, so that what comes is a start through firmware.
// Its error wraps ErrStillLoaded.
func Veto(kernel Kernel) error { return unloadAny(kernel) }

func unloadAny(kernel Kernel) error {
	ok, err := kernel.Loaded()
	if err == nil && !ok {
		return nil
	}
	if err := kernel.Unload(); err != nil {
		return fmt.Errorf("%w: %w", ErrStillLoaded, err)
	}
	return nil
}
