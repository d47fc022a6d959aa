package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/eventlog"
	"github.com/mkexec/mkexec/measure/eventlog/logfile"
	"github.com/mkexec/mkexec/measure/tpm"
	"github.com/spf13/cobra"
)

func newLog(sys *system, out *bytes.Buffer) *cobra.Command {
	var l logReader
	var asJSON, asCEL bool
	var bank string
	cmd := &cobra.Command{
		Use:   "log [flags]",
		Short: "Show what was extended since power-on, and whether the TPM confirms it",
		Long: "Show the events of firmware, systemd-stub, systemd and mkexec since power-on, over all kexecs,\n" +
			"and replay them: exit status 0 says that they lead to what the TPM holds, in every bank.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if asJSON && asCEL {
				return errors.New("--json and --cel: one of them")
			}
			l.named = cmd.Flags().Changed("firmware-log") || cmd.Flags().Changed("userspace-log")
			l.compare = !l.named || cmd.Flags().Changed("tpm2-device")
			if err := l.read(sys); err != nil {
				return err
			}
			show, err := l.shownBank(bank)
			if err != nil {
				return err
			}
			switch {
			case asCEL:
				var b []byte
				if b, err = l.timeline.CEL(); err == nil {
					_, err = out.Write(append(b, '\n'))
				}
			case asJSON:
				err = printJSON(out, l.json())
			default:
				err = l.print(out, show)
			}
			if err == nil && l.no() {
				err = errNo
			}
			return err
		},
	}
	fl := cmd.Flags()
	fl.SortFlags = false
	fl.StringVar(&l.device, "tpm2-device", "auto", "the TPM, `DEVICE`: a path, swtpm:path=SOCKET, or auto (/dev/tpmrm0)")
	fl.StringVar(&bank, "bank", "", "show digests of this `BANK` (default: sha256); all are replayed")
	fl.StringVar(&l.firmwarePath, "firmware-log", "", "read this `FILE`, and no log of this machine; compare with no TPM but --tpm2-device")
	fl.StringVar(&l.userspacePath, "userspace-log", "", "the same for the log of userspace, `FILE`")
	fl.BoolVar(&asJSON, "json", false, "print JSON")
	fl.BoolVar(&asCEL, "cel", false, "print CEL-JSON, as systemd-pcrlock cel does")
	return cmd
}

// Where the logs are, below the root.
const (
	firmwareLogPath  = "sys/kernel/security/tpm0/binary_bios_measurements"
	userspaceLogPath = "run/log/systemd/tpm2-measure.log"
	imaListPath      = "sys/kernel/security/ima/ascii_runtime_measurements"
)

// A logReader reads the logs, of this machine or of files that are named, and
// compares them with the TPM.
type logReader struct {
	firmwarePath, userspacePath string
	device                      string
	named                       bool // the logs are files that were named
	compare                     bool // with a TPM

	timeline eventlog.Timeline
	fromCopy int                // records that are from the copy on disk
	live     measure.PCRs       // nil without a TPM
	verdicts []eventlog.Verdict // of the live PCRs
	ima      *eventlog.IMA      // nil if there is none
	notes    []string
}

func (l *logReader) note(format string, args ...any) {
	l.notes = append(l.notes, fmt.Sprintf(format, args...))
}

// read reads everything.
func (l *logReader) read(sys *system) error {
	if err := l.readFirmware(sys); err != nil {
		return err
	}
	userspace, incomplete, err := l.readStill(sys)
	if err != nil {
		return err
	}
	if incomplete {
		l.note("the log of userspace is marked as incomplete: a program died, or could not write, between an extend and its record")
	}
	l.timeline.Records, err = parseUserspace(userspace)
	if err != nil {
		return inFile(cmp.Or(l.userspacePath, "/"+userspaceLogPath), err)
	}
	l.verdicts = l.timeline.Judge(l.live)
	if !l.named {
		l.useCopy(sys, userspace)
		l.readIMA(sys)
	}
	if l.timeline.Firmware == nil && len(l.timeline.Records) == 0 {
		return withHint(errors.New("there is no event log, of firmware or of userspace"), "mount -t securityfs securityfs /sys/kernel/security")
	}
	l.noteUnmeasured()
	if l.compare {
		return l.checkBanks()
	}
	return nil
}

// noteUnmeasured notes kernels that no kexec in the log has started.
func (l *logReader) noteUnmeasured() {
	steps := l.timeline.Steps()
	for i := 1; i < len(steps); i++ {
		if hop := steps[i].Hop; hop > 1 && hop != steps[i-1].Hop && steps[i-1].Record.Kexec == nil {
			l.note("hop %d was started by a kexec that is not in the log", hop)
		}
	}
}

// checkBanks notes banks of the TPM that no event is in.
func (l *logReader) checkBanks() error {
	logged := l.timeline.Banks()
	var missing []measure.Bank
	for _, b := range l.live.Banks() {
		if !slices.Contains(logged, b) {
			missing = append(missing, b)
		}
	}
	if len(missing) == len(l.live) {
		return fmt.Errorf("the logs have no bank of the TPM (the TPM: %s; the logs: %s)", measure.BankNames(l.live.Banks()), measure.BankNames(logged))
	}
	for _, b := range missing {
		l.note("bank %s is active in the TPM, but no event is logged for it", b)
	}
	return nil
}

func (l *logReader) readFirmware(sys *system) error {
	var f fs.File
	var err error
	path := "/" + firmwareLogPath
	switch {
	case l.firmwarePath != "":
		path = l.firmwarePath
		f, err = openRegular(path)
	case l.named:
		return nil
	default:
		f, err = sys.root.Open(firmwareLogPath)
	}
	if errors.Is(err, fs.ErrNotExist) && l.firmwarePath == "" {
		l.note("there is no log of the firmware")
		return nil
	}
	if err != nil {
		return asRoot(err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, eventlog.MaxFirmware+1))
	if err == nil {
		l.timeline.Firmware, err = eventlog.ParseFirmware(data)
	}
	if errors.Is(err, eventlog.ErrEmpty) && l.firmwarePath == "" {
		l.note("the log of the firmware is empty")
		return nil
	}
	return inFile(path, err)
}

// asRoot adds the way out to an error of permissions.
func asRoot(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return withHint(err, "sudo mkexec log")
	}
	return err
}

// maxTries is how often the log and the TPM are read anew because the log grew meanwhile.
const maxTries = 5

// readStill reads the log of userspace and the TPM as they are at one moment.
func (l *logReader) readStill(sys *system) (data []byte, incomplete bool, err error) {
	if data, incomplete, err = l.readUserspace(sys); err != nil || !l.compare {
		return data, incomplete, err
	}
	dev, err := tpm.Open(l.device, tpm.Options{})
	if err != nil {
		return nil, false, withHint(err, "to look at a log without a TPM: mkexec log --userspace-log=FILE")
	}
	defer dev.Close()
	for range maxTries {
		if l.live, err = dev.Read(allPCRs()...); err != nil {
			return nil, false, err
		}
		again, mark, err := l.readUserspace(sys)
		if err != nil || bytes.Equal(again, data) {
			return again, mark, err
		}
		data = again
	}
	return nil, false, errors.New("the log of userspace grows faster than it can be read")
}

// allPCRs are those that a TPM has.
func allPCRs() (all []measure.PCR) {
	for n := range measure.PCR(24) {
		all = append(all, n)
	}
	return all
}

// readUserspace returns nothing where there is no such log.
func (l *logReader) readUserspace(sys *system) (data []byte, incomplete bool, err error) {
	var f fs.File
	switch {
	case l.userspacePath != "":
		f, err = openRegular(l.userspacePath)
	case l.named:
		return nil, false, nil
	default:
		f, err = sys.root.Open(userspaceLogPath)
	}
	if errors.Is(err, fs.ErrNotExist) && l.userspacePath == "" {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, asRoot(err)
	}
	defer f.Close()
	return logfile.ReadFile(f)
}

func parseUserspace(data []byte) ([]eventlog.Record, error) {
	u, err := eventlog.ParseUserspace(data)
	if err != nil {
		return nil, err
	}
	return u.Records, nil
}

// useCopy puts the records of the copy on disk, which has the log as the last load
// planned it, before those in /run, if the log did not cross the kexec: the TPM has
// to confirm every PCR that the copy is about, and not to do so without it.
func (l *logReader) useCopy(sys *system, userspace []byte) {
	if !l.no() {
		return
	}
	data, _, err := logfile.Read(sys.logCopy)
	if errors.Is(err, fs.ErrNotExist) || err == nil && bytes.HasPrefix(userspace, data) {
		return
	}
	records, err := parseUserspace(data)
	if err != nil {
		l.note("the copy of the log on disk is not used: %v", inFile(sys.logCopy, err))
		return
	}
	with := eventlog.Timeline{Firmware: l.timeline.Firmware, Records: slices.Concat(records, l.timeline.Records)}
	verdicts := with.Judge(l.live)
	for _, v := range verdicts {
		if v.State.No() && slices.ContainsFunc(records, func(r eventlog.Record) bool { return r.PCR == v.PCR }) {
			return
		}
	}
	l.timeline, l.verdicts, l.fromCopy = with, verdicts, len(records)
	l.note("the log in /run lacks the records of before the kexec: they are from %s, and the TPM confirms them", sys.logCopy)
}

// readIMA reads the list of IMA, which explains nothing here: that it cannot be
// read is not an error.
func (l *logReader) readIMA(sys *system) {
	f, err := sys.root.Open(imaListPath)
	if err != nil {
		return
	}
	defer f.Close()
	if l.ima, err = eventlog.ParseIMA(f); err != nil {
		l.note("%v", err)
	}
}

// no tells whether the TPM holds something that the logs do not lead to.
func (l *logReader) no() bool {
	return slices.ContainsFunc(l.verdicts, func(v eventlog.Verdict) bool { return v.State.No() })
}

// shownBank returns the bank whose digests are shown.
func (l *logReader) shownBank(name string) (measure.Bank, error) {
	logged := l.timeline.Banks()
	if name == "" {
		if len(logged) > 0 && !slices.Contains(logged, measure.SHA256) {
			return logged[0], nil
		}
		return measure.SHA256, nil
	}
	b, err := measure.ParseBank(name)
	if err == nil && !slices.Contains(logged, b) {
		err = fmt.Errorf("bank %s: not in the logs (they have: %s)", b, measure.BankNames(logged))
	}
	return b, err
}
