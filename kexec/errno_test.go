package kexec

// What is said for each errno. That Linux returns it for that cause is taken
// from its sources and from the laboratory; this does not prove it.

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"

	"golang.org/x/sys/unix"
)

// fine is a machine that gives no reason to refuse.
var fine = Machine{
	KexecFile: Yes, CapSysBoot: Yes, Loaded: No, LoadDisabled: No, LoadLimit: -1,
	Lockdown: "none", SecureBoot: No, Kexeced: No, Systemd: Yes, Xen: No, ConfidentialVM: No,
}

func with(change func(*Machine)) Machine {
	m := fine
	change(&m)
	return m
}

var (
	noCap        = with(func(m *Machine) { m.CapSysBoot = No })
	disabled     = with(func(m *Machine) { m.LoadDisabled = Yes })
	usedUp       = with(func(m *Machine) { m.LoadLimit = 0 })
	integrity    = with(func(m *Machine) { m.Lockdown = "integrity" })
	confidential = with(func(m *Machine) { m.Lockdown = "confidentiality" })
)

var errnoTests = []struct {
	errno unix.Errno
	m     Machine
	name  string // of the errno
	cause string // a part of it that no other cause has
	hint  string // a part of it
}{
	{unix.EPERM, noCap, "EPERM", "CAP_SYS_BOOT is missing", "root"},
	{unix.EPERM, disabled, "EPERM", "kernel.kexec_load_disabled=1", "systemctl reboot"},
	{unix.EPERM, usedUp, "EPERM", "kernel.kexec_load_limit_reboot allows are used up", "systemctl reboot"},
	{unix.EPERM, integrity, "EPERM", "locked down (integrity)", "sbsign"},
	{unix.EPERM, confidential, "EPERM", "locked down (confidentiality)", "sbsign"},
	{unix.EPERM, fine, "EPERM", "not permitted", "dmesg"},
	{unix.EACCES, fine, "EACCES", "a security module", "dmesg"},
	{unix.ENOKEY, fine, "ENOKEY", "signed by a key that this system does not trust", "sbsign"},
	{unix.EKEYREJECTED, fine, "EKEYREJECTED", "does not match it, or its key is revoked", "dmesg"},
	{unix.EKEYEXPIRED, fine, "EKEYEXPIRED", "has expired", "sbsign"},
	{unix.EKEYREVOKED, fine, "EKEYREVOKED", "is revoked in the kernel's keyring", "sbsign"},
	{unix.ENODATA, fine, "ENODATA", "is not signed", "sbsign"},
	{unix.ELIBBAD, fine, "ELIBBAD", "damaged PE file", "as it was shipped"},
	{unix.EBADMSG, fine, "EBADMSG", "is garbage", "sbsign"},
	{unix.ENOPKG, fine, "ENOPKG", "algorithm that this kernel does not have", "modprobe"},
	{unix.EMSGSIZE, fine, "EMSGSIZE", "structure that this kernel does not support", "sbsign"},
	{unix.EOPNOTSUPP, fine, "ENOTSUP", "structure that this kernel does not support", "sbsign"},
	{524, fine, "errno 524", "structure that this kernel does not support", "sbsign"},
	{unix.ENOEXEC, fine, "ENOEXEC", "not a kernel format that this kernel loads on loong64", "bzImage"},
	{unix.EINVAL, fine, "EINVAL", "not an unpacked kernel for loong64", "dmesg"},
	{unix.EBADF, fine, "EBADF", "cannot be read", "bug in mkexec"},
	{unix.ETXTBSY, fine, "ETXTBSY", "open for writing", "again"},
	{unix.EBUSY, fine, "EBUSY", "another kexec load", "again"},
	{unix.EADDRNOTAVAIL, fine, "EADDRNOTAVAIL", "no free piece of physical memory", "systemctl reboot"},
	{unix.ENOMEM, fine, "ENOMEM", "not enough memory", "systemctl reboot"},
	{unix.EFBIG, fine, "EFBIG", "larger than the kernel reads", "smaller"},
	{unix.ENOSYS, fine, "ENOSYS", "CONFIG_KEXEC_FILE", "a kernel that has it"},
	{unix.EFAULT, fine, "EFAULT", "bad pointer", "bug in mkexec"},
	{unix.EINTR, fine, "EINTR", "interrupted", "again"},
	{unix.EXDEV, fine, "EXDEV", "invalid cross-device link", "dmesg"}, // not in the table
	{4000, fine, "errno 4000", "errno 4000", "dmesg"},
}

func TestExplain(t *testing.T) {
	for _, test := range errnoTests {
		t.Run(test.name+" "+test.cause, func(t *testing.T) {
			var err error = fmt.Errorf("load: %w", newLoadError("kexec_file_load", test.errno, test.m, "loong64"))
			var e *LoadError
			if !errors.As(err, &e) {
				t.Fatal("not a *LoadError")
			}
			if e.Errno != test.errno || !errors.Is(err, test.errno) {
				t.Errorf("errno %v", e.Errno)
			}
			if errors.Is(err, unix.EIO) {
				t.Error("it is also EIO")
			}
			if want := fmt.Sprintf("kexec_file_load: %s (%s)", e.Cause, test.name); e.Error() != want {
				t.Errorf("error:\n got %s\nwant %s", e, want)
			}
			if !strings.Contains(e.Cause, test.cause) {
				t.Errorf("cause %q, want %q in it", e.Cause, test.cause)
			}
			if !strings.Contains(e.Hint, test.hint) || e.Hint == "" {
				t.Errorf("hint %q, want %q in it", e.Hint, test.hint)
			}
			for _, other := range errnoTests {
				if other.cause != test.cause && strings.Contains(e.Cause, other.cause) {
					t.Errorf("cause %q: has %q of %s in it", e.Cause, other.cause, other.name)
				}
			}
		})
	}
}

// TestExplainEINVAL: the errno that means most things.
func TestExplainEINVAL(t *testing.T) {
	for _, test := range []struct{ call, arch, cause string }{
		{callLoad, "amd64", "larger than half of memory, or the command line is too long"}, // another format is ENOEXEC
		{callLoad, "arm64", "not an unpacked kernel for arm64"},
		{callExec, "amd64", "nothing is loaded, or this is a container"},
	} {
		if e := newLoadError(test.call, unix.EINVAL, fine, test.arch); !strings.Contains(e.Cause, test.cause) {
			t.Errorf("%s on %s: cause %q, want %q in it", test.call, test.arch, e.Cause, test.cause)
		}
	}
}

// TestExplainFirstReason: the kernel looks at the capability first, then at the
// switch, then at the limit, and at signatures only after that.
func TestExplainFirstReason(t *testing.T) {
	m := confidential
	for _, step := range []struct {
		change func()
		want   string
	}{
		{func() { m.LoadLimit = 0 }, "used up"},
		{func() { m.LoadDisabled = Yes }, "kexec_load_disabled"},
		{func() { m.CapSysBoot = No }, "CAP_SYS_BOOT"},
	} {
		step.change()
		if e := newLoadError("kexec_file_load", unix.EPERM, m, "amd64"); !strings.Contains(e.Cause, step.want) {
			t.Errorf("cause %q, want %q", e.Cause, step.want)
		}
	}
	// what is not known is not given as a reason
	unknown := ReadMachine(fstest.MapFS{})
	if e := newLoadError("kexec_file_load", unix.EPERM, unknown, "amd64"); e.Cause != "not permitted" {
		t.Errorf("cause %q", e.Cause)
	}
	for _, lockdown := range []string{"none", "unknown", ""} {
		unknown.Lockdown = lockdown
		if e := newLoadError("kexec_file_load", unix.EPERM, unknown, "amd64"); e.Cause != "not permitted" {
			t.Errorf("lockdown %q: cause %q", lockdown, e.Cause)
		}
	}
}

func TestExplainCall(t *testing.T) {
	m := ReadMachine(fstest.MapFS{"proc/sys/kernel/kexec_load_disabled": {Data: []byte("1\n")}})
	if err := explainCall("call", nil, m); err != nil {
		t.Errorf("no error became %v", err)
	}
	err := explainCall("call", syscall.EPERM, m)
	if want := "call: kexec is switched off until the next reboot (kernel.kexec_load_disabled=1) (EPERM)"; fmt.Sprint(err) != want {
		t.Errorf("error:\n got %v\nwant %s", err, want)
	}
	if !errors.Is(err, fs.ErrPermission) { // as of any errno
		t.Error("not fs.ErrPermission")
	}
	if err := explainCall("call", errFake, m); fmt.Sprint(err) != "call: told to fail" || !errors.Is(err, errFake) {
		t.Error(err)
	}
}

func TestLinuxLoaded(t *testing.T) {
	for text, want := range map[string]bool{"1\n": true, "0\n": false, "": false} {
		l := Linux{Root: fstest.MapFS{"sys/kernel/kexec_loaded": {Data: []byte(text)}}}
		if got, err := l.Loaded(); got != want || err != nil {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	if _, err := (Linux{Root: fstest.MapFS{}}).Loaded(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without the file: %v", err)
	}
}
