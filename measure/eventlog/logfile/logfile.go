// Package logfile reads and writes the file of the userspace event log, beside
// systemd and by its rules (systemd 262, src/shared/tpm2-util.c,
// tpm2_userspace_log_open(), tpm2_userspace_log_dirty(), tpm2_userspace_log()):
//
// A writer holds an exclusive flock(2) from before the extend until the record is
// written, so that the order of the log is that of the extends. It sets the sticky
// bit of the file before the extend and takes it away after the record: a bit that
// is set and a lock that nobody holds say that a writer died in between, and that
// an event is missing. Who finds it set writes on and leaves it (systemd up to 257
// logs nothing then).
//
// The log is evidence, not a condition: an extend is done whether it can be logged
// or not.
package logfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/eventlog"
)

// Path is where systemd has the log.
const Path = "/run/log/systemd/tpm2-measure.log"

var (
	// ErrUnreadable: the log is there but is not one. Nothing of it can be taken to
	// another system: its readers would stop at the same place. The way on is to do
	// without, and then nobody can replay the PCRs any more until the next reboot
	// through firmware.
	ErrUnreadable = errors.New("cannot be read as a userspace event log")
	// ErrLocked: another process has held the lock for too long.
	ErrLocked = errors.New("locked by another process")
)

// lockWait is how long to wait for the lock. Holders extend a TPM once, which
// takes milliseconds.
const lockWait = 5 * time.Second

// A Log is the log in a file. Its methods may be called from several goroutines.
type Log struct {
	// Path is the file, Path of this package where it is systemd's.
	Path string
	// BootID is the running kernel's, as in /proc/sys/kernel/random/boot_id.
	BootID string
	// Image is the SHA-256 of the image whose events are recorded, nil if it is not known.
	Image measure.Digest

	mu  sync.Mutex
	err error
}

// Err returns why an event could not be logged: the first reason there was, nil
// if all events are in the log.
func (l *Log) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// note remembers why an event is not in the log.
func (l *Log) note(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil && err != nil {
		l.err = fmt.Errorf("the event log lacks an event: %w", err)
	}
}

// Record calls extend, which extends the TPM with the event, once, and then notes
// the event. It returns the error of extend, and no other: Err tells what is wrong
// with the log. If extend fails the log stays marked as incomplete, as the PCR may
// be extended all the same. A record that cannot be written is taken back as a
// whole, and the mark stays, as it does if an event before it could not be logged.
func (l *Log) Record(ev measure.Event, extend func() error) error {
	before := l.Err()
	f, err := l.open()
	if err != nil {
		l.note(err)
		return extend()
	}
	defer f.Close() // unlocks
	wasDirty, err := markDirty(f)
	if err != nil {
		l.note(err)
		return extend()
	}
	if err := extend(); err != nil {
		return err
	}
	wasDirty = wasDirty || before != nil // and marked from here on
	record, err := l.stamp(wasDirty).Kexec(ev)
	if err == nil {
		err = appendRecord(f, record)
	}
	if err == nil && !wasDirty {
		err = unmark(f)
	}
	l.note(err)
	return nil
}

// stamp returns what the records of this moment have in common.
func (l *Log) stamp(incomplete bool) eventlog.Stamp {
	var t unix.Timespec
	unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) // fails for unknown clocks only
	return eventlog.Stamp{
		BootID:    strings.ReplaceAll(l.BootID, "-", ""),
		Timestamp: time.Duration(t.Nano()), Image: l.Image, Incomplete: incomplete,
	}
}

// open opens and locks the file, and makes it if it is not there.
func (l *Log) open() (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(l.Path), 0o755); err != nil {
		return nil, err
	}
	f, err := openFile(l.Path, unix.O_CREAT|unix.O_WRONLY)
	if err != nil {
		return nil, err
	}
	wait := lockWait
	if errors.Is(l.Err(), ErrLocked) {
		wait = 0 // has been waited for: a shutdown must not wait for each event
	}
	if err := lock(f, unix.LOCK_EX, wait); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// openFile opens a regular file, through no link. It does not wait for the other
// end of a FIFO.
func openFile(path string, flags int) (*os.File, error) {
	f, err := os.OpenFile(path, flags|unix.O_CLOEXEC|unix.O_NOCTTY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s: not a regular file", path)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// lock waits for a lock, but not for ever.
func lock(f *os.File, how int, wait time.Duration) error {
	for deadline := time.Now().Add(wait); ; time.Sleep(10 * time.Millisecond) {
		err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		if err == nil {
			return nil
		}
		switch {
		case errors.Is(err, unix.EINTR):
		case !errors.Is(err, unix.EWOULDBLOCK):
			return fmt.Errorf("%s: lock: %w", f.Name(), err)
		case time.Now().After(deadline):
			return fmt.Errorf("%s: %w", f.Name(), ErrLocked)
		}
	}
}

// The mode of the file, and the mark on it.
const (
	mode  = 0o600
	dirty = mode | fs.ModeSticky
)

// markDirty marks the log as incomplete, and tells whether it was already.
func markDirty(f *os.File) (was bool, err error) {
	info, err := f.Stat()
	if err != nil {
		return false, err
	}
	if info.Mode()&fs.ModeSticky != 0 {
		return true, nil
	}
	return false, f.Chmod(dirty)
}

// unmark takes the mark away, once the record is on the disk.
func unmark(f *os.File) error {
	if err := f.Chmod(mode); err != nil {
		return err
	}
	return syncAll(f)
}

// syncAll has a file and its entry in the directory written to disk.
func syncAll(f *os.File) error {
	if err := f.Sync(); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(f.Name()))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// appendRecord writes a record behind the others, or nothing.
func appendRecord(f *os.File, record []byte) error {
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if _, err := f.Write(record); err != nil {
		return errors.Join(err, f.Truncate(end))
	}
	return f.Sync()
}

// Complete puts records before those that the log has: those of before a kexec that
// the log did not cross. The log stays marked as incomplete if it was, or if Complete
// dies in the middle. On an error the log is what it was, unless the error is of
// writing it.
func (l *Log) Complete(before []byte) error {
	f, err := l.open()
	if err != nil {
		return err
	}
	defer f.Close() // unlocks
	data, wasDirty, err := readLocked(l.Path)
	if err != nil {
		return err
	}
	whole := slices.Concat(before, data)
	if _, err := eventlog.ParseUserspace(whole); err != nil {
		return fmt.Errorf("%s: %w: %w", l.Path, ErrUnreadable, err)
	}
	if _, err := markDirty(f); err != nil {
		return err
	}
	if _, err := f.WriteAt(whole, 0); err != nil {
		return err
	}
	if wasDirty {
		return f.Sync()
	}
	return unmark(f)
}

// readLocked reads the log of who has locked it.
func readLocked(path string) (data []byte, dirty bool, err error) {
	f, err := openFile(path, unix.O_RDONLY)
	if err != nil {
		return nil, false, err
	}
	defer f.Close()
	return read(f, path)
}

// After returns the log as it will be after the words of a shutdown and then the
// events: what is in the file now, and records of what is to come. Nothing is
// written. A file that is not there is an empty log.
//
// A log that is not one is an error that wraps ErrUnreadable, and so is a log that
// would become too large to be read. One that is marked as incomplete is returned:
// each record in it was extended, and the PCR that lacks one does not replay. The
// mark itself stays behind, as systemd up to 257 would log nothing in the next
// system with it; the records of the events say it instead.
func (l *Log) After(shutdown measure.Phase, events []measure.Event) ([]byte, error) {
	data, wasDirty, err := Read(l.Path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if _, err := eventlog.ParseUserspace(data); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", l.Path, ErrUnreadable, err)
	}
	if len(events) == 0 && shutdown != "" {
		return nil, fmt.Errorf("%s: no event tells the banks that %q is extended in", l.Path, shutdown)
	}
	stamp := l.stamp(wasDirty)
	for _, w := range shutdown.Words() {
		var banks []measure.Bank
		for b := range events[0].Digests {
			banks = append(banks, b)
		}
		record, err := stamp.Word(w, banks)
		if err != nil {
			return nil, err
		}
		data = append(data, record...)
	}
	for _, ev := range events {
		record, err := stamp.Kexec(ev)
		if err != nil {
			return nil, err
		}
		data = append(data, record...)
	}
	if len(data) > eventlog.MaxUserspace {
		return nil, fmt.Errorf("%s: %w: %d bytes with what is to come: more than %d", l.Path, ErrUnreadable, len(data), eventlog.MaxUserspace)
	}
	return data, nil
}

// Read returns the bytes of a log, of a moment when no writer was in the middle of
// one, and whether it is marked as incomplete. A writer that holds the lock for
// seconds is ErrLocked.
func Read(path string) (data []byte, dirty bool, err error) {
	f, err := openFile(path, unix.O_RDONLY)
	if err != nil {
		return nil, false, err
	}
	defer f.Close()
	return ReadFile(f)
}

// ReadFile is Read of a file that is open. Files that are not an *os.File are not locked.
func ReadFile(f fs.File) (data []byte, dirty bool, err error) {
	name := "userspace log"
	if file, ok := f.(*os.File); ok {
		name = file.Name()
		if err := lock(file, unix.LOCK_SH, lockWait); err != nil {
			return nil, false, err
		}
		defer unix.Flock(int(file.Fd()), unix.LOCK_UN)
	}
	return read(f, name)
}

func read(f fs.File, name string) (data []byte, dirty bool, err error) {
	info, err := f.Stat()
	if err != nil {
		return nil, false, err
	}
	if !info.Mode().IsRegular() {
		return nil, false, fmt.Errorf("%s: not a regular file", name)
	}
	data, err = io.ReadAll(io.LimitReader(f, eventlog.MaxUserspace+1))
	if err != nil {
		return nil, false, err
	}
	if len(data) > eventlog.MaxUserspace {
		return nil, false, fmt.Errorf("%s: %w: more than %d bytes", name, ErrUnreadable, eventlog.MaxUserspace)
	}
	return data, info.Mode()&fs.ModeSticky != 0, nil
}
