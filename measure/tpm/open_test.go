package tpm_test

// Open, and the two transports over a pseudo terminal, which is a character
// device, and over UNIX sockets. It does not prove anything about the kernel's
// TPM driver: a terminal may return a response in parts and be read from at any
// time, which /dev/tpm* may not, and a TPM's device is busy within write.

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/tpm"
	"github.com/mkexec/mkexec/measure/tpm/tpmtest"
)

func TestOpenErrors(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"file", "tpm0"} {
		if err := os.WriteFile(path(name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("unix", path("dead"))
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()

	const forms = ": not understood: use auto, an absolute path, device:/dev/tpm0 or swtpm:path=/run/swtpm.sock"
	const missing = ": no TPM: file does not exist; is it switched on in the firmware, and has the kernel its driver?"
	for _, test := range []struct {
		device, want string
		is           error
	}{
		{"", `TPM device ""` + forms, nil},
		{"list", `TPM device "list"` + forms, nil},
		{"tpmrm0", `TPM device "tpmrm0"` + forms, nil},
		{"device:tpmrm0", `TPM device "device:tpmrm0"` + forms, nil},
		{"swtpm:path=", `TPM device "swtpm:path="` + forms, nil},
		{"swtpm:host=localhost,port=2321", `TPM device "swtpm:host=localhost,port=2321"` + forms, nil},
		{"mssim:\n" + strings.Repeat("x", 99), `TPM device "mssim:\n` + strings.Repeat("x", 73) + `"` + forms, nil},
		{"DIR/none", "DIR/none" + missing, tpm.ErrNoTPM},
		{"device:DIR/none", "DIR/none" + missing, fs.ErrNotExist},
		{"swtpm:path=DIR/none", "DIR/none" + missing, fs.ErrNotExist},
		{"DIR/file/none", "DIR/file/none" + missing, tpm.ErrNoTPM},
		{"DIR/tpmrm0", "DIR/tpmrm0: no TPM: file does not exist: but there is DIR/tpm0, so this is a TPM 1.2; set the firmware to TPM 2.0", tpm.ErrNoTPM},
		{"DIR/file", "DIR/file: not a TPM device: it is not a character device or UNIX socket", nil},
		{"DIR", "DIR: not a TPM device: it is not a character device or UNIX socket", nil},
		{"device:DIR/dead", "DIR/dead: not a TPM device: it is not a character device", nil},
		{"swtpm:path=/dev/null", "/dev/null: not a TPM device: it is not a UNIX socket", nil},
		{"DIR/dead", "DIR/dead: list banks: dial: connect: connection refused", syscall.ECONNREFUSED},
		{"/dev/null", "/dev/null: list banks: not a TPM 2.0: its response ends after 0 bytes", tpm.ErrNotTPM2},
		{"device:/dev/zero", "/dev/zero: list banks: not a TPM 2.0: its response says it has 0 bytes", tpm.ErrNotTPM2},
		{"/dev/full", "/dev/full: list banks: write: no space left on device", syscall.ENOSPC},
	} {
		t.Run(test.device, func(t *testing.T) {
			t.Parallel()
			d, err := tpm.Open(strings.ReplaceAll(test.device, "DIR", dir), tpm.Options{})
			if d != nil {
				t.Error("a device with an error")
			}
			checkError(t, err, strings.ReplaceAll(test.want, "DIR", dir))
			if test.is != nil && !errors.Is(err, test.is) {
				t.Errorf("not %v", test.is)
			}
			if errors.Is(err, tpm.ErrNoTPM) && !errors.Is(err, fs.ErrNotExist) {
				t.Error("ErrNoTPM, but not fs.ErrNotExist")
			}
		})
	}
}

// A server answers one command; it may write what it likes, when it likes.
type server func(w io.Writer, command []byte)

// of answers as f does.
func of(f *tpmtest.Fake) server {
	return func(w io.Writer, command []byte) {
		response, err := f.Send(command)
		if err == nil {
			w.Write(response)
		}
	}
}

// serve answers commands until r ends.
func serve(rw io.ReadWriter, s server) {
	for {
		command := make([]byte, 10)
		if _, err := io.ReadFull(rw, command); err != nil {
			return
		}
		command = append(command, make([]byte, int(command[4])<<8+int(command[5])-10)...)
		if _, err := io.ReadFull(rw, command[10:]); err != nil {
			return
		}
		s(rw, command)
	}
}

// onTerminal serves on a pseudo terminal and returns its path.
func onTerminal(t *testing.T, s server) string {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := master.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var n int
	control := func(fd uintptr) {
		if n, err = unix.IoctlGetInt(int(fd), unix.TIOCGPTN); err == nil {
			err = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0)
		}
		if err == nil { // raw: bytes pass as they are
			err = unix.IoctlSetTermios(int(fd), unix.TCSETS, &unix.Termios{Cflag: unix.CS8 | unix.CREAD, Cc: [19]uint8{unix.VMIN: 1}})
		}
	}
	if e := conn.Control(control); e != nil || err != nil {
		t.Fatal(e, err)
	}
	// a slave that stays open: the master sees no hang-up between opens
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		serve(master, s)
	}()
	t.Cleanup(func() {
		master.Close()
		slave.Close()
		<-done
	})
	return slave.Name()
}

// onSocket serves on a UNIX socket, one connection at a time, and returns its path.
func onSocket(t *testing.T, s server) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "tpm")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			serve(conn, s)
			conn.Close()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
		os.RemoveAll(dir)
	})
	return path
}

var transports = map[string]func(*testing.T, server) string{"file": onTerminal, "socket": onSocket}

// onBoth runs a subtest for each transport.
func onBoth(t *testing.T, run func(t *testing.T, listen func(*testing.T, server) string)) {
	t.Parallel()
	for name, listen := range transports {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run(t, listen)
		})
	}
}

func mustExtend(t *testing.T, d *tpm.Device, f *tpmtest.Fake) {
	t.Helper()
	want := f.PCRs()
	ev := event(11, "x", all...)
	if err := want.Extend(ev); err != nil {
		t.Fatal(err)
	}
	if err := d.Extend(ev); err != nil {
		t.Fatal(err)
	}
	got, err := d.Read(measure.StubPCRs()...)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range all {
		for _, n := range measure.StubPCRs() {
			if !bytes.Equal(got[b][n], want[b][n]) {
				t.Errorf("PCR %d (%s) is %v, not %v", n, b, got[b][n], want[b][n])
			}
		}
	}
}

func TestSplitResponse(t *testing.T) {
	onBoth(t, func(t *testing.T, listen func(*testing.T, server) string) {
		f := tpmtest.NewFake()
		d, err := tpm.Open(listen(t, func(w io.Writer, command []byte) {
			response, _ := f.Send(command)
			for _, at := range []int{3, 10, 17} {
				at = min(at, len(response))
				w.Write(response[:at])
				response = response[at:]
				time.Sleep(2 * time.Millisecond)
			}
			w.Write(response)
		}), tpm.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		mustExtend(t, d, f)
	})
}

// Signals land in reads and writes; SIGURG is one that nothing else minds.
func TestSignals(t *testing.T) {
	onBoth(t, func(t *testing.T, listen func(*testing.T, server) string) {
		stop, stopped := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(stopped)
			for {
				select {
				case <-stop:
					return
				case <-time.After(100 * time.Microsecond):
					tasks, _ := os.ReadDir("/proc/self/task")
					for _, task := range tasks {
						var tid int
						fmt.Sscan(task.Name(), &tid)
						unix.Tgkill(os.Getpid(), tid, unix.SIGURG)
					}
				}
			}
		}()
		defer func() { close(stop); <-stopped }()
		f := tpmtest.NewFake()
		d, err := tpm.Open(listen(t, func(w io.Writer, command []byte) {
			time.Sleep(5 * time.Millisecond)
			of(f)(w, command)
		}), tpm.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		for range 5 {
			mustExtend(t, d, f)
		}
	})
}

func TestBadResponses(t *testing.T) {
	onBoth(t, func(t *testing.T, listen func(*testing.T, server) string) {
		for _, test := range []struct{ response, want string }{
			{"\x80\x01\xff\xff\xff\xff\x00\x00\x00\x00", "not a TPM 2.0: its response says it has 4294967295 bytes"},
			{"\x80\x01\x00\x00\x40\x01\x00\x00\x00\x00", "not a TPM 2.0: its response says it has 16385 bytes"},
			{"\x80\x01\x00\x00\x00\x09\x00\x00\x00\x00", "not a TPM 2.0: its response says it has 9 bytes"},
			{"\x80\x01\x00\x00\x00\x0a\x00\x00\x00\x00more", "not a TPM 2.0: 4 bytes after its response"},
			{"\x00\xc4\x00\x00\x00\x0a\x00\x00\x00\x1e", "not a TPM 2.0: it answers as a TPM 1.2 does"},
			{"HTTP/1.1 400 Bad Request", "not a TPM 2.0: its response says it has 1414541105 bytes"},
			{"\x80\x01\x00\x00\x00\x0b\x00\x00\x00\x00", "no answer from the TPM within 300ms"}, // a byte is missing
			{"\x80\x01", "no answer from the TPM within 300ms"},
			{"", "no answer from the TPM within 300ms"},
		} {
			t.Run(fmt.Sprintf("%q", test.response), func(t *testing.T) {
				t.Parallel()
				path := listen(t, func(w io.Writer, _ []byte) { io.WriteString(w, test.response) })
				opts := tpm.Options{}
				if strings.HasPrefix(test.want, "no answer") {
					opts.Timeout = 300 * time.Millisecond
				}
				d, err := tpm.Open(path, opts)
				if d != nil {
					t.Error("a device with an error")
				}
				checkError(t, err, path+": list banks: "+test.want)
			})
		}
	})
}

// A server that closes the connection in the middle of a response.
func TestSocketClosedEarly(t *testing.T) {
	t.Parallel()
	path := onSocket(t, func(w io.Writer, _ []byte) {
		io.WriteString(w, "\x80\x01\x00\x00\x00\x2b\x00\x00\x00\x00\x00")
		w.(net.Conn).Close()
	})
	_, err := tpm.Open("swtpm:path="+path, tpm.Options{})
	checkError(t, err, path+": list banks: not a TPM 2.0: its response ends after 11 bytes")
}

// The answer to a command that was given up is not read by the next command.
func TestLateAnswerOnTransport(t *testing.T) {
	onBoth(t, func(t *testing.T, listen func(*testing.T, server) string) {
		f := tpmtest.NewFake(measure.SHA256)
		path := listen(t, of(f))
		d, err := tpm.Open(path, tpm.Options{Timeout: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		f.AtCommand(1, tpmtest.Fault{Delay: 1500 * time.Millisecond})
		_, err = d.Read(11)
		checkError(t, err, path+": read PCR 11 (sha256): no answer from the TPM within 1s")
		time.Sleep(time.Second)
		_, err = d.Read(12)
		checkError(t, err, path+": read PCR 12 (sha256): no longer usable: no answer from the TPM within 1s")
	})
}
