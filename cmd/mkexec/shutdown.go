package main

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"

	"github.com/mkexec/mkexec/kexec"
	"github.com/mkexec/mkexec/measure"
)

// The words of --shutdown that are no words of systemd's.
const (
	shutdownAuto = "auto"
	shutdownNone = "none"
)

// shutdownPhase returns the words that the shutdown of this system extends PCR 11
// with before a kexec: those of --shutdown, or those that systemd will.
func (f *imageFlags) shutdownPhase(sys *system) (measure.Phase, error) {
	switch f.shutdown {
	case shutdownNone:
		return "", nil
	case shutdownAuto:
		if kexec.ReadMachine(sys.root).Systemd != kexec.Yes {
			return "", nil
		}
		return sys.shutdownPhase()
	}
	path, err := measure.ParsePhase(f.shutdown)
	if err != nil {
		return "", fmt.Errorf("--shutdown: %w; or none, or auto", err)
	}
	return path, nil
}

// shutdownUnits extend PCR 11 when they are stopped, in this order (systemd 262,
// units/systemd-pcrphase.service.in, systemd-pcrphase-sysinit.service.in; their
// names are those of 252).
var shutdownUnits = []struct {
	unit string
	word measure.Phase
}{
	{"systemd-pcrphase.service", "shutdown"},
	{"systemd-pcrphase-sysinit.service", "final"},
}

// shutdownPhase asks systemd: a unit that is not active does nothing at its stop.
func (sys *system) shutdownPhase() (measure.Phase, error) {
	args := []string{"is-active"}
	for _, u := range shutdownUnits {
		args = append(args, u.unit)
	}
	out, err := sys.systemctl(args...) // its status is that of the units
	states := strings.Fields(out)
	if len(states) != len(shutdownUnits) {
		return "", withHint(fmt.Errorf("which words the shutdown will extend: systemctl is-active: %.80q, %w", out, orNil(err)),
			"to say it: --shutdown=shutdown:final, or --shutdown=none")
	}
	var words []string
	for i, u := range shutdownUnits {
		switch states[i] {
		case "active":
			words = append(words, string(u.word))
		case "inactive", "failed", "unknown":
		default:
			return "", withHint(fmt.Errorf("which words the shutdown will extend: %s is %.20q", u.unit, states[i]),
				"to wait for the end of the boot: systemctl is-system-running --wait")
		}
	}
	return measure.Phase(strings.Join(words, ":")), nil
}

func orNil(err error) error {
	if err == nil {
		return errors.New("status 0")
	}
	return err
}

// shutdowns returns the ways that the shutdown before a kexec may take: the
// expected one, and that of systemctl --force, which stops no unit.
func (f *imageFlags) shutdowns(sys *system) ([]measure.Phase, error) {
	expected, err := f.shutdownPhase(sys)
	if err != nil {
		return nil, err
	}
	if expected == "" {
		return []measure.Phase{""}, nil
	}
	return []measure.Phase{expected, ""}, nil
}

// systemctl runs systemctl(1).
func systemctl(args ...string) (string, error) {
	out, err := exec.Command("systemctl", args...).Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) && len(exit.Stderr) > 0 {
		err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(exit.Stderr)))
	}
	return string(out), err
}
