// Command mkexec boots the next kernel by a measured kexec, and predicts and
// checks what that does to the PCRs of the TPM. See mkexec(8).
//
// Conventions: results go to stdout, everything else to stderr. The exit status
// is 0 for yes or done, 1 for no, 2 for trouble; with 2 nothing is on stdout.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime/debug"

	"github.com/mkexec/mkexec/kexec"
	"github.com/mkexec/mkexec/measure/eventlog/logfile"
	"github.com/mkexec/mkexec/policy"
	"github.com/spf13/cobra"
)

// The exit statuses, as those of diff(1).
const (
	exitYes     = 0
	exitNo      = 1
	exitTrouble = 2
)

// A system is the world outside of the program.
type system struct {
	stdout, stderr io.Writer
	root           fs.FS // for /proc, /sys and /run
	kernel         kexec.Kernel
	lock           func() (unlock func(), err error)            // against other instances
	systemctl      func(args ...string) (out string, err error) // out also with an error
	program        func() (*os.File, error)                     // this program
	planDir        string                                       // of a staged plan
	logPath        string                                       // the event log of userspace
	logCopy        string                                       // file for the event log as planned
}

func main() {
	root := os.DirFS("/")
	sys := &system{
		stdout: os.Stdout, stderr: os.Stderr,
		root: root, kernel: kexec.Linux{Root: root},
		lock:      func() (func(), error) { return kexec.Lock("/sys/kernel/kexec_loaded") },
		systemctl: systemctl,
		program:   func() (*os.File, error) { return os.Open("/proc/self/exe") },
		planDir:   "/run/mkexec",
		logPath:   logfile.Path,
		logCopy:   "/var/lib/mkexec/tpm2-measure.log",
	}
	switch {
	case os.Args[0] == kexec.PlaceholderInit && os.Getpid() == 1:
		os.Exit(runPlaceholder(sys))
	case isHook(os.Args[0]):
		sys.stderr = kernelLog{}
		os.Exit(runHook(os.Args[1:], sys))
	}
	os.Exit(run(os.Args[1:], sys))
}

// errNo is the error of a verb whose result, on stdout, is a no.
var errNo = errors.New("no")

// run runs one command line and returns the exit status.
func run(args []string, sys *system) int {
	var out bytes.Buffer // kept until the exit status is known
	cmd := newRoot(sys, &out)
	cmd.SetArgs(args)
	err := cmd.Execute()
	status := exitStatus(err)
	if err != nil && !errors.Is(err, errNo) {
		report(sys.stderr, err)
	}
	if status == exitTrouble {
		return status
	}
	if _, err := out.WriteTo(sys.stdout); err != nil {
		report(sys.stderr, fmt.Errorf("write the result: %w", err))
		return exitTrouble
	}
	return status
}

func exitStatus(err error) int {
	var no *policy.MismatchError
	switch {
	case err == nil:
		return exitYes
	case errors.Is(err, kexec.ErrCommitted):
		return exitTrouble
	case errors.Is(err, errNo), errors.As(err, &no):
		return exitNo
	}
	return exitTrouble
}

func newRoot(sys *system, out *bytes.Buffer) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "mkexec",
		Short: "Measured kexec: predict, check, extend the TPM, jump",
		Long: "mkexec boots a Unified Kernel Image by kexec the way systemd-stub would boot it from firmware:\n" +
			"it predicts every PCR 11, 12 and 13 measurement, checks the outcome against this machine's\n" +
			"policy, loads the image, extends the TPM, proves that it holds what was predicted, and jumps.",
		Version:       version(),
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return withHint(errors.New("no verb"), "mkexec --help")
		},
	}
	cmd.SetOut(out)
	cmd.SetErr(sys.stderr)
	cmd.SetVersionTemplate("mkexec {{.Version}}\n")
	cmd.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return withHint(err, c.CommandPath()+" --help")
	})
	cmd.AddCommand(newInspect(sys, out), newPredict(sys, out), newCheck(sys, out), newBoot(sys, out), newStatus(sys, out))
	cmd.AddCommand(newLoad(sys, out), newCommit(sys), newUnload(sys))
	cmd.AddCommand(newList(sys, out), newDiff(sys, out), newPolicy(sys, out), newLog(sys, out))
	strictHelp(cmd)
	return cmd
}

// strictHelp makes cobra's own verbs refuse what they do not know, as ours do.
func strictHelp(root *cobra.Command) {
	root.SetHelpCommand(&cobra.Command{
		Use:   "help [verb]",
		Short: "Help about any verb",
		RunE: func(_ *cobra.Command, args []string) error {
			c, rest, err := root.Find(args)
			if err == nil && len(rest) > 0 {
				err = fmt.Errorf("unknown command %q", rest[0])
			}
			if err != nil {
				return withHint(err, "mkexec --help")
			}
			return c.Help()
		},
	})
	root.InitDefaultCompletionCmd()
	if c, _, err := root.Find([]string{"completion"}); err == nil {
		c.Args = cobra.NoArgs
		c.RunE = func(*cobra.Command, []string) error {
			return withHint(errors.New("completion: for which shell?"), "mkexec completion --help")
		}
	}
}

// packaged is the version of the package that the program is of; the linker sets it.
var packaged string

// version returns that, or what the build recorded: the tag, or the commit.
func version() string {
	if packaged != "" {
		return packaged
	}
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(unknown)"
	}
	return info.Main.Version
}
