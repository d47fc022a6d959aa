package tpm

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// autoPath is the device of the kernel's resource manager, which programs share.
const autoPath = "/dev/tpmrm0"

// Open opens a TPM. device is spelled as for systemd's --tpm2-device=:
//
//	auto                 /dev/tpmrm0
//	/dev/tpmrm0          a character device, or a UNIX socket
//	device:/dev/tpm0     a character device
//	swtpm:path=/sock     the UNIX socket that swtpm takes commands from (--server)
//
// Open asks for the PCR allocation, to see that a TPM 2.0 answers. Its errors
// are ErrNoTPM, ErrNotTPM2, ErrTimeout, fs.ErrPermission, and others.
func Open(device string, opts Options) (*Device, error) {
	path, want, err := parseDevice(device)
	if err != nil {
		return nil, err
	}
	t, err := openTransport(path, want, opts)
	if err != nil {
		return nil, err
	}
	d := New(t, opts)
	d.name = path
	if _, err := d.getAllocation(); err != nil {
		t.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return d, nil
}

// parseDevice returns the path of a device and which of os.ModeCharDevice and
// os.ModeSocket it may be.
func parseDevice(device string) (path string, want os.FileMode, err error) {
	path, want = device, os.ModeCharDevice|os.ModeSocket
	if device == "auto" {
		path, want = autoPath, os.ModeCharDevice
	} else if p, ok := strings.CutPrefix(device, "device:"); ok {
		path, want = p, os.ModeCharDevice
	} else if p, ok := strings.CutPrefix(device, "swtpm:path="); ok {
		path, want = p, os.ModeSocket
	}
	if !filepath.IsAbs(path) {
		return "", 0, fmt.Errorf("TPM device %.80q: not understood: use auto, an absolute path, device:/dev/tpm0 or swtpm:path=/run/swtpm.sock", device)
	}
	return path, want, nil
}

func openTransport(path string, want os.FileMode, opts Options) (Transport, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, explain(path, err)
	}
	switch info.Mode() & want {
	case os.ModeCharDevice:
		return openFile(path)
	case os.ModeSocket:
		return &socket{path, New(nil, opts).timeout}, nil
	}
	return nil, fmt.Errorf("%s: not a TPM device: it is not a %s", path, map[os.FileMode]string{
		os.ModeCharDevice:                 "character device",
		os.ModeSocket:                     "UNIX socket",
		os.ModeCharDevice | os.ModeSocket: "character device or UNIX socket",
	}[want])
}

// explain says what an error of opening path means for a TPM.
func explain(path string, err error) error {
	var inner *fs.PathError
	if errors.As(err, &inner) {
		err = inner.Err
	}
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENOTDIR):
		old := strings.Replace(path, "tpmrm", "tpm", 1)
		if _, err := os.Stat(old); err == nil && old != path {
			return fmt.Errorf("%s: %w: but there is %s, so this is a TPM 1.2; set the firmware to TPM 2.0", path, ErrNoTPM, old)
		}
		return fmt.Errorf("%s: %w; is it switched on in the firmware, and has the kernel its driver?", path, ErrNoTPM)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s: %w; run as root or as a member of the device's group", path, err)
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("%s: %w: another program has it; use %s, which programs share", path, err, autoPath)
	case errors.Is(err, unix.ECONNREFUSED):
		return fmt.Errorf("%s: %w; nothing listens there, is swtpm running?", path, err)
	}
	return fmt.Errorf("%s: %w", path, err)
}

// A file is the device file of a TPM. Its descriptor is a blocking one: the
// kernel then runs the command within write, and a response is there to read
// when write returns, whole if there is room for it. [os.File] repeats calls
// that a signal interrupts, and keeps the descriptor open while a call that
// was left behind uses it.
type file struct{ *os.File }

func openFile(path string) (Transport, error) {
	for {
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, explain(path, err)
		}
		return file{os.NewFile(uintptr(fd), path)}, nil
	}
}

func (f file) Send(command []byte) ([]byte, error) {
	if _, err := f.Write(command); err != nil {
		return nil, inner(err)
	}
	return readResponse(f)
}

// A socket is the UNIX socket of a software TPM. Each command has a connection
// of its own: swtpm serves one at a time, and so the TPM is not kept from
// others between commands.
type socket struct {
	path    string
	timeout time.Duration
}

func (s *socket) Send(command []byte) ([]byte, error) {
	deadline := time.Now().Add(s.timeout)
	conn, err := net.Dial("unix", s.path)
	for errors.Is(err, unix.EAGAIN) && time.Now().Before(deadline) { // too many wait to be served
		time.Sleep(time.Millisecond)
		conn, err = net.Dial("unix", s.path)
	}
	if err != nil {
		return nil, inner(err)
	}
	defer conn.Close()
	conn.SetDeadline(deadline)
	if _, err := conn.Write(command); err != nil {
		return nil, inner(err)
	}
	return readResponse(conn)
}

func (s *socket) Close() error { return nil }

// readResponse reads one response. It reads as much at a time as a response may
// have: older kernels drop what one read of a device does not take.
func readResponse(r io.Reader) ([]byte, error) {
	b := bufio.NewReaderSize(r, maxResponse)
	header, err := b.Peek(headerSize)
	if err != nil {
		return nil, endsEarly(len(header), err)
	}
	size, err := responseSize(header)
	if err != nil {
		return nil, err
	}
	response, err := b.Peek(size)
	if err != nil {
		return nil, endsEarly(len(response), err)
	}
	if n := b.Buffered(); n > size {
		return nil, fmt.Errorf("%w: %d bytes after its response", ErrNotTPM2, n-size)
	}
	return slices.Clone(response), nil
}

func endsEarly(n int, err error) error {
	if err == io.EOF {
		return fmt.Errorf("%w: its response ends after %d bytes", ErrNotTPM2, n)
	}
	return inner(err)
}

// inner takes the path out of an error of package os or net; a Device's errors
// begin with it.
func inner(err error) error {
	var p *fs.PathError
	var o *net.OpError
	if errors.As(err, &p) {
		return fmt.Errorf("%s: %w", p.Op, p.Err)
	}
	if errors.As(err, &o) {
		return fmt.Errorf("%s: %w", o.Op, o.Err)
	}
	return err
}
