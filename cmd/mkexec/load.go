package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/mkexec/mkexec/kexec"
	"github.com/spf13/cobra"
)

// hookPath is the hook, below the root: systemd-shutdown runs every program of
// this directory, and of no other (systemd 262, src/shutdown/shutdown.c).
const hookPath = "usr/lib/systemd/system-shutdown/mkexec"

func newLoad(sys *system, out *bytes.Buffer) *cobra.Command {
	b := booter{sys: sys, out: out, verb: "load"}
	cmd := &cobra.Command{
		Use:   "load [flags] [IMAGE | --linux=FILE [--initrd=FILE]... --cmdline=STR]",
		Short: "Stage an image for a measured kexec at the end of the shutdown",
		Long: "Do what boot does up to the check of the policy, for the PCRs that the shutdown of this system will\n" +
			"leave, and stage the image in /run/mkexec. Then: systemctl kexec. When all services are gone and the\n" +
			"file systems unmounted, systemd runs mkexec again, which extends the TPM, proves that it holds what\n" +
			"was predicted, and loads the image for systemd to jump into. If anything is not as it was when the\n" +
			"image was staged, the machine restarts through firmware.",
		Args: oneImage,
		RunE: func(_ *cobra.Command, args []string) error { return b.run(args) },
	}
	b.addFlags(cmd)
	return cmd
}

// checkHook refuses to stage what nobody would carry out.
func (sys *system) checkHook() error {
	info, err := fs.Stat(sys.root, hookPath)
	if err == nil && (!info.Mode().IsRegular() || info.Mode()&0o111 == 0) {
		err = errors.New("not a program")
	}
	if err != nil {
		return withHint(fmt.Errorf("/%s, which systemd has to run at the end of the shutdown: %w", hookPath, inner(err)),
			"make install, or install mkexec's package; without a shutdown: mkexec boot --now …")
	}
	return nil
}

// inner takes the path out of an error of package fs.
func inner(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// loadsNeeded is how many calls a staged plan takes of kernel.kexec_load_limit_reboot,
// which counts every one: the image, the placeholder, unloading that, and the image.
const loadsNeeded = 4

func (sys *system) checkLoadLimit() error {
	if n := kexec.ReadMachine(sys.root).LoadLimit; n >= 0 && n < loadsNeeded {
		return fmt.Errorf("kernel.kexec_load_limit_reboot allows %d more calls, and this takes %d", n, loadsNeeded)
	}
	return nil
}

// loadDeferred stages the plan and, for boot, asks systemd to shut down and jump.
func (b *booter) loadDeferred(plan *kexec.Plan, m *image) error {
	interrupted := holdSignals()
	defer signal.Reset()
	if err := b.stage(plan, m, interrupted); err != nil {
		return err
	}
	switch {
	case b.verb == "boot":
		if _, err := b.sys.systemctl("kexec"); err != nil { // as it is when a signal stops it
			return errors.Join(fmt.Errorf("systemctl kexec: %w", err), b.sys.unload())
		}
		return nil
	case kexec.ReadMachine(b.sys.root).Systemd == kexec.Yes:
		fmt.Fprintf(b.sys.stderr, "mkexec: %s is staged: %d events for the end of the shutdown; to start it: systemctl kexec\n", m.path, len(plan.Prediction.Events))
	default:
		fmt.Fprintf(b.sys.stderr, "mkexec: %s is staged: %d events; to start it: mkexec commit, and then kexec -e\n", m.path, len(plan.Prediction.Events))
	}
	return nil
}

// holdSignals keeps the signals that stop a program from doing so. It returns a
// function that tells whether there was one.
func holdSignals() (interrupted func() error) {
	signals := make(chan os.Signal, 1)
	signal.Ignore(syscall.SIGTSTP)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	return func() error {
		select {
		case s := <-signals:
			return fmt.Errorf("stopped: %v", s)
		default:
			return nil
		}
	}
}

// stage writes the checked plan and loads it. A signal undoes both.
func (b *booter) stage(plan *kexec.Plan, m *image, interrupted func() error) error {
	unlock, err := b.sys.lock()
	if err != nil {
		return err
	}
	defer unlock()
	b.log.complete(b.deviceName())
	path, err := filepath.Abs(m.path)
	if err != nil {
		return err
	}
	bootID, err := b.sys.bootID()
	if err != nil {
		return err
	}
	deferral, err := plan.Defer(b.sys.planDir, kexec.Deferred{
		Time: time.Now().UTC().Truncate(time.Second), BootID: bootID, TPM: b.deviceName(), Image: path,
	})
	if err != nil {
		if errors.Is(err, syscall.ENOSPC) {
			err = withHint(err, "to make room: mount -o remount,size=50% /run")
		}
		return err
	}
	if err := plan.Load(); err != nil {
		if loaded, _ := b.sys.kernel.Loaded(); loaded { // what was there before
			return errors.Join(err, deferral.Undo())
		}
		return errors.Join(err, kexec.RemoveDeferred(b.sys.planDir))
	}
	b.loaded = true
	b.log.keep(b.before, plan.Prediction.Events)
	if err := cmp.Or(interrupted(), deferral.Keep()); err != nil {
		return errors.Join(err, plan.Abandon(), kexec.RemoveDeferred(b.sys.planDir))
	}
	return nil
}

// unload drops the plan and what is loaded.
func (sys *system) unload() error {
	if m := kexec.ReadMachine(sys.root); m.Loaded == kexec.Yes && m.LoadDisabled == kexec.Yes {
		return withHint(fmt.Errorf("kexec is locked (kernel.kexec_load_disabled): %w", kexec.ErrStillLoaded),
			"to restart through firmware: SYSTEMCTL_SKIP_AUTO_KEXEC=1 systemctl reboot")
	}
	// first what makes a plan of it: without one the hook unloads, too
	return errors.Join(kexec.RemoveDeferred(sys.planDir), kexec.Veto(sys.kernel))
}

// locked does something while no other instance does anything.
func (sys *system) locked(do func() error) error {
	unlock, err := sys.lock()
	if err != nil {
		return err
	}
	defer unlock()
	return do()
}

func newUnload(sys *system) *cobra.Command {
	return &cobra.Command{
		Use:   "unload",
		Short: "Drop the staged plan and the loaded image",
		Long: "Drop what load has staged, and whatever is loaded for a kexec. Where there is nothing, nothing is done.\n" +
			"After a commit it is too late: the PCRs are extended, and only a restart through firmware resets them.",
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return sys.locked(sys.unload) },
	}
}

// deferPlan makes the options those of a plan for after the shutdown.
func (b *booter) deferPlan(opts *kexec.Options) (done func(), err error) {
	if opts.Shutdowns, err = b.shutdowns(b.sys); err != nil {
		return nil, err
	}
	b.before = opts.Shutdowns[0]
	program, err := b.sys.program()
	if err != nil {
		return nil, err
	}
	info, err := program.Stat()
	if err != nil {
		program.Close()
		return nil, err
	}
	opts.Placeholder = io.NewSectionReader(program, 0, info.Size())
	return func() { program.Close() }, nil
}
