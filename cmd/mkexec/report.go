package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/mkexec/mkexec/kexec"
	"github.com/mkexec/mkexec/measure/stub"
	"github.com/mkexec/mkexec/measure/tpm"
)

// A hintError adds a way out, which is a command line, to an error.
type hintError struct {
	error
	hint string
}

func (e *hintError) Unwrap() error { return e.error }

func withHint(err error, hint string) error { return &hintError{err, hint} }

// A stateError adds what has been done to the machine to an error.
type stateError struct {
	error
	state string
}

func (e *stateError) Unwrap() error { return e.error }

// report writes an error for a person: what and why, the state of the machine
// where it could have been changed, and a way out where there is one.
func report(w io.Writer, err error) {
	fmt.Fprintf(w, "mkexec: error: %s\n", clean(strings.ReplaceAll(err.Error(), "\n", "; ")))
	var state *stateError
	if errors.As(err, &state) {
		fmt.Fprintf(w, "mkexec: state: %s\n", state.state)
	}
	if hint := hintFor(err); hint != "" {
		fmt.Fprintf(w, "mkexec: hint: %s\n", hint)
	}
}

// hintFor returns the hint of an error: its own, or that of its kind.
func hintFor(err error) string {
	var hinted *hintError
	var load *kexec.LoadError
	outermost, _ := err.(*hintError)
	switch {
	case outermost != nil:
		return outermost.hint
	case errors.Is(err, kexec.ErrStillLoaded):
		return "kexec --unload, and then reboot -f"
	case errors.Is(err, kexec.ErrCommitted):
		return "reboot -f"
	case errors.As(err, &hinted):
		return hinted.hint
	case errors.As(err, &load):
		return load.Hint
	case errors.Is(err, kexec.ErrMoved):
		return "to predict from what the TPM holds now: mkexec predict --from=tpm IMAGE"
	case errors.Is(err, tpm.ErrNoTPM):
		return "to predict a cold boot without a TPM: mkexec predict --from=zero IMAGE"
	case errors.Is(err, kexec.ErrDevicetree):
		return "to boot it all the same: mkexec boot --ignore-dtb …"
	case errors.Is(err, stub.ErrHardware):
		return "to say what machine it starts on: --hardware=FILE"
	case errors.Is(err, stub.ErrUnknownVersion), errors.Is(err, stub.ErrFeatures):
		return "to go by the rules of a version that is known: --stub=VERSION"
	case errors.Is(err, stub.ErrUntrusted):
		return "to take addons as trusted: --no-verify; to leave them out: --no-sidecars"
	case errors.Is(err, stub.ErrCmdlineRefused):
		return "to use the command line in the image leave out --cmdline and --append"
	}
	return ""
}
