package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/mkexec/mkexec/kexec"
	"github.com/mkexec/mkexec/measure/tpm"
	"github.com/spf13/cobra"
)

func newCommit(sys *system) *cobra.Command {
	return &cobra.Command{
		Use:   "commit",
		Short: "Extend the TPM for the staged plan, and load its image for good",
		Long: "Do at once what load has staged for the end of the shutdown: extend the TPM, prove that it holds what\n" +
			"was predicted, load the image, and lock it (kernel.kexec_load_disabled). It does not jump; who runs it\n" +
			"does, with kexec -e or systemctl kexec --force, and without extending any PCR in between.\n" +
			"After a failure nothing is loaded.",
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return sys.locked(func() error { return sys.tellCommit(sys.commit()) })
		},
	}
}

// tellCommit says what a commit has done.
func (sys *system) tellCommit(err error) error {
	switch {
	case err == nil:
		fmt.Fprintln(sys.stderr, "mkexec: the PCRs are extended and the image is locked in; to jump: kexec -e")
		return nil
	case errors.Is(err, kexec.ErrStillLoaded):
		return &stateError{err, stuck}
	case errors.Is(err, kexec.ErrCommitted):
		return &stateError{err, "nothing is loaded, but PCRs were extended: secrets stay locked until a reboot through firmware"}
	case errors.Is(err, kexec.ErrNoPlan):
		return &stateError{withHint(err, "mkexec load IMAGE"), "what is loaded stays so, and mkexec extended no PCR"}
	}
	return &stateError{err, "nothing is loaded and mkexec extended no PCR"}
}

// commit carries the staged plan out. That it has been carried out already is
// not an error if the TPM shows it. No signal stops it: half of the events would
// leave the PCRs of a system that never starts.
func (sys *system) commit() error {
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGPIPE, syscall.SIGTSTP}
	signal.Ignore(signals...)
	defer signal.Reset(signals...)
	plan, err := kexec.ReadDeferred(sys.planDir)
	if err != nil {
		if !errors.Is(err, kexec.ErrNoPlan) {
			err = errors.Join(err, kexec.Veto(sys.kernel))
		}
		return err
	}
	dev, err := tpm.Open(plan.TPM, tpm.Options{})
	if err != nil {
		return errors.Join(err, kexec.Veto(sys.kernel))
	}
	defer dev.Close()
	if kexec.ReadMachine(sys.root).LoadDisabled == kexec.Yes {
		if err := plan.CarriedOut(dev); err != nil {
			return fmt.Errorf("kexec is locked (kernel.kexec_load_disabled), and not by this plan: %w: %w", err, kexec.ErrStillLoaded)
		}
		return nil
	}
	if err := dev.FlushSessions(); err != nil {
		return errors.Join(err, kexec.Veto(sys.kernel))
	}
	return plan.CarryOut(dev, sys.kernel, sys.log(plan.ImageSHA256))
}
