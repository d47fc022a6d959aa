package kexec

import (
	"errors"
	"fmt"
	"os"
)

// CarryOut does what was deferred, at the end of a shutdown: it drops whatever
// is loaded, extends the TPM from the state that it finds, if the plan knows it,
// proves the result, loads the staged image with the log behind its initrd, and
// freezes it. The caller, or who runs it, jumps.
//
// The image is loaded last, so that a process that dies on the way leaves
// nothing loaded, and the machine starts through firmware. Every error leaves
// nothing loaded, too, unless it wraps ErrStillLoaded; it wraps ErrCommitted if
// PCRs were extended, by this call or by one that did not live to its end.
func (d *Deferred) CarryOut(device Device, kernel Kernel, log Log) error {
	if log == nil {
		log = noLog{}
	}
	if err := unloadAny(kernel); err != nil {
		return err
	}
	if err := d.carryOut(device, kernel, log); err != nil {
		return errors.Join(err, unloadAny(kernel)) // what somebody else has loaded meanwhile, too
	}
	return nil
}

func (d *Deferred) carryOut(device Device, kernel Kernel, log Log) error {
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
	t, err := d.route(device)
	if err != nil {
		return err
	}
	if err := t.commit(device, log, d.pcrs()); err != nil {
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
		return fmt.Errorf("%w: %w", err, ErrCommitted)
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
	text, err := log.After("", d.Events)
	if err != nil || text == nil {
		if err != nil {
			initrd.Close()
			return nil, err
		}
		return initrd, nil
	}
	defer initrd.Close()
	return carry(initrd, d.Initrd.Size, logArchive(text))
}

// route returns the way that the shutdown went, by the state that the TPM is in.
func (d *Deferred) route(device Device) (*transition, error) {
	live, err := device.Read(d.pcrs()...)
	if err != nil {
		return nil, err
	}
	var moved error
	for _, words := range d.Shutdowns {
		t, err := d.after(words)
		if err != nil {
			return nil, err
		}
		switch n := t.progress(live); {
		case n == 0:
			return t, nil
		case n > 0: // by a process that died
			return nil, fmt.Errorf("%w: they are as after event %d of %d: %w", ErrMoved, n, len(t.events), ErrCommitted)
		case moved == nil:
			moved = fmt.Errorf("%w: %s", ErrMoved, differences(t.from, live)[0])
		}
	}
	return nil, moved
}

// CarriedOut tells whether the TPM holds what the plan leads to.
func (d *Deferred) CarriedOut(device Device) error {
	live, err := device.Read(d.pcrs()...)
	if err != nil {
		return err
	}
	var other error
	for _, words := range d.Shutdowns {
		t, err := d.after(words)
		if err != nil {
			return err
		}
		diffs := differences(t.to, live)
		if diffs == nil {
			return nil
		}
		if other == nil {
			other = fmt.Errorf("the PCRs are not what the plan leads to: %s", diffs[0])
		}
	}
	return other
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
