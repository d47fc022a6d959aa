package main

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/mkexec/mkexec/kexec"
)

// isHook tells whether systemd-shutdown has started this program, as one of
// /usr/lib/systemd/system-shutdown.
func isHook(name string) bool { return filepath.Base(filepath.Dir(name)) == "system-shutdown" }

// runHook is what happens at the end of a shutdown, with the verb of systemd-shutdown
// (systemd 262, src/shutdown/shutdown.c: poweroff, reboot, halt, kexec, exit). All
// processes are gone, the file systems are unmounted or read-only, /run and the TPM
// are there, and nobody looks at the exit status. So the one way to say no is to
// leave nothing loaded, or to restart.
func runHook(args []string, sys *system) int {
	if len(args) != 1 || args[0] != "kexec" {
		return exitYes // the machine goes through firmware
	}
	err := sys.hook()
	if err == nil {
		return exitYes
	}
	report(sys.stderr, &stateError{err, "no kexec; the machine restarts through firmware"})
	if errors.Is(err, kexec.ErrStillLoaded) {
		report(sys.stderr, sys.kernel.Restart())
	}
	return exitTrouble
}

// hook carries the staged plan out, or leaves nothing loaded. What somebody else has
// loaded is not measured, and not started either.
func (sys *system) hook() error {
	err := sys.commit()
	if !errors.Is(err, kexec.ErrNoPlan) {
		return err
	}
	if loaded, loadedErr := sys.kernel.Loaded(); loadedErr == nil && !loaded {
		return nil
	}
	return errors.Join(fmt.Errorf("%w: what is loaded was not measured", err), kexec.Veto(sys.kernel))
}

// runPlaceholder is the only program of the placeholder (kexec.PlaceholderInit).
func runPlaceholder(sys *system) int {
	fmt.Fprintln(sys.stderr, "mkexec: this kexec was not measured; restarting through firmware")
	report(sys.stderr, sys.kernel.Restart())
	return exitTrouble // of PID 1: a panic, and panic=-1
}
