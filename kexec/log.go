package kexec

import (
	"fmt"
	"io"
	"os"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/stub"
)

// A Log is systemd's userspace event log. Package measure/eventlog/logfile has
// the real one.
type Log interface {
	// Record calls extend, which extends the TPM with the event, and notes the
	// event, so that the order of the log is that of the extends. It fails if
	// extend does; that the log could not be written is not an error of its own.
	Record(ev measure.Event, extend func() error) error
	// After returns the whole log as it will be when the words of a shutdown, and
	// then the events, are noted in it. Nil is a log that is not taken along.
	After(shutdown measure.Phase, events []measure.Event) ([]byte, error)
}

// noLog notes nothing.
type noLog struct{}

func (noLog) Record(_ measure.Event, extend func() error) error    { return extend() }
func (noLog) After(measure.Phase, []measure.Event) ([]byte, error) { return nil, nil }

// Where the log is in the initrd of the next system, and what restores it there:
// a unit that systemd-tmpfiles is run by before systemd's own first record (a
// line among systemd's own tmpfiles is too late: systemd-pcrmachine has made a
// log of its own by then).
const (
	carriedDir  = ".mkexec"
	carriedLog  = "tpm2-measure.log"
	carriedUnit = "mkexec-log.service"

	tmpfiles = "d /run/log 0755 - - -\n" +
		"d /run/log/systemd 0755 - - -\n" +
		"C /run/log/systemd/tpm2-measure.log 0600 - - - /" + carriedDir + "/" + carriedLog + "\n"

	restoreUnit = `[Unit]
Description=Restore the TPM event log of before the kexec
Documentation=man:mkexec(8)
DefaultDependencies=no
After=systemd-journald.socket
Before=systemd-pcrosseparator.service systemd-pcrphase-initrd.service systemd-pcrmachine.service
Before=systemd-pcrphase-sysinit.service systemd-tpm2-setup-early.service systemd-tpm2-setup.service
Before=systemd-pcrnvdone.service systemd-pcrproduct.service systemd-pcrextend.socket systemd-pcrfs-root.service
Before=systemd-pcrlogin.socket systemd-imdsd.socket cryptsetup-pre.target sysinit.target shutdown.target
Conflicts=shutdown.target
ConditionPathExists=!/run/log/systemd/tpm2-measure.log

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=systemd-tmpfiles --create /` + carriedDir + `/tmpfiles.conf
`
	// A link in sysinit.target.wants would do, too, but the stub's archives have none.
	restoreWants = "[Unit]\nWants=" + carriedUnit + "\n"
)

// logArchive returns the archive that takes a log to the next system. None of it
// is measured: it is beside what the stub would make, outside of /.extra, and
// what it says is proved by the TPM.
func logArchive(log []byte) []measure.Content {
	const units = "etc/systemd/system"
	file := func(name, content string) stub.File {
		return stub.File{Name: name, Content: measure.Bytes([]byte(content))}
	}
	pieces := stub.Archive(carriedDir, 0o700, 0o600, stub.File{Name: carriedLog, Content: measure.Bytes(log)}, file("tmpfiles.conf", tmpfiles))
	pieces = append(pieces, stub.Archive(units, 0o755, 0o644, file(carriedUnit, restoreUnit))...)
	pieces = append(pieces, stub.Archive(units+"/sysinit.target.d", 0o755, 0o644, file("mkexec-log.conf", restoreWants))...)
	for _, dir := range []string{units, "etc/systemd", "etc"} { // the stub's rules make parents 0555, but these are the initrd's
		pieces = append(pieces, stub.Archive(dir, 0o755, 0o644)...)
	}
	return pieces
}

// carry returns a sealed copy of an initrd of size bytes with archives behind it.
func carry(initrd io.ReaderAt, size int64, archives []measure.Content) (_ *os.File, err error) {
	f, err := newMemfd("initrd")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	buf := make([]byte, copyBuffer)
	if err := copyRange(f, 0, initrd, 0, size, buf, func(int64) {}); err != nil {
		return nil, fmt.Errorf("initrd: %w", err)
	}
	size = (size + 3) &^ 3 // as between all pieces of an initrd
	for _, c := range archives {
		if err := copyRange(f, size, c, 0, c.Size(), buf, func(int64) {}); err != nil {
			return nil, fmt.Errorf("behind the initrd: %w", err)
		}
		size += c.Size()
	}
	return f, seal(f)
}
