package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/eventlog/logfile"
)

// A carriedLog is the event log of userspace that a kexec takes along. It is
// evidence, not a condition: where it cannot be taken along the kexec goes on
// without, says so, and mkexec log in the next system will say no.
type carriedLog struct {
	*logfile.Log
	sys *system
}

// log returns the log of this machine, for the events of an image, whose digest may
// be filled in later.
func (sys *system) log(image measure.Digest) *carriedLog {
	bootID, _ := sys.bootID() // records may go without
	return &carriedLog{&logfile.Log{Path: sys.logPath, BootID: bootID, Image: image}, sys}
}

func (sys *system) bootID() (string, error) {
	id, err := fs.ReadFile(sys.root, "proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(id)), err
}

// After implements kexec.Log.
func (l *carriedLog) After(shutdown measure.Phase, events []measure.Event) ([]byte, error) {
	text, err := l.Log.After(shutdown, events)
	if err != nil {
		fmt.Fprintf(l.sys.stderr, "mkexec: note: the event log is not taken along: %s\n", clean(err.Error()))
		return nil, nil
	}
	return text, nil
}

// complete puts the records of before the last kexec into the log, from the copy on
// the disk, if the log lacks them and the TPM confirms them: where the initrd of this
// system is not run by systemd, nobody else has restored the log.
func (l *carriedLog) complete(device string) {
	r := logReader{device: device, compare: true}
	if err := r.read(l.sys); err != nil || r.fromCopy == 0 {
		return // and there is nothing to complete it with
	}
	before, _, err := logfile.Read(l.sys.logCopy)
	if err == nil {
		err = l.Complete(before)
	}
	if err != nil {
		fmt.Fprintf(l.sys.stderr, "mkexec: note: the event log lacks what was before the last kexec: %s\n", clean(err.Error()))
	}
}

// keep writes the log as it will be to the disk, for a next system whose initrd does
// not restore it.
func (l *carriedLog) keep(shutdown measure.Phase, events []measure.Event) {
	text, err := l.Log.After(shutdown, events)
	if err != nil {
		return // After has said why
	}
	dir, name := filepath.Split(l.sys.logCopy)
	if err = os.MkdirAll(dir, 0o700); err == nil {
		err = writeFiles(dir, []file{{name, text}})
	}
	if err != nil {
		fmt.Fprintf(l.sys.stderr, "mkexec: note: no copy of the event log on the disk: %s\n", clean(err.Error()))
	}
}
