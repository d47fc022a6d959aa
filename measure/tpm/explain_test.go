package tpm

// The words for errors of open(2) that a test cannot bring about as root or
// without a TPM. It does not prove which of them the kernel returns when.

import (
	"errors"
	"io/fs"
	"testing"

	"golang.org/x/sys/unix"
)

func TestExplain(t *testing.T) {
	t.Parallel()
	const missing = "/dev/x: no TPM: file does not exist; is it switched on in the firmware, and has the kernel its driver?"
	for _, test := range []struct {
		err  error
		want string
		none bool // ErrNoTPM
	}{
		{unix.ENOENT, missing, true},
		{unix.ENODEV, missing, true},
		{unix.ENXIO, missing, true},
		{&fs.PathError{Op: "stat", Path: "/dev/x", Err: unix.ENOENT}, missing, true},
		{unix.EACCES, "/dev/x: permission denied; run as root or as a member of the device's group", false},
		{unix.EPERM, "/dev/x: operation not permitted; run as root or as a member of the device's group", false},
		{unix.EBUSY, "/dev/x: device or resource busy: another program has it; use /dev/tpmrm0, which programs share", false},
		{unix.EIO, "/dev/x: input/output error", false},
	} {
		err := explain("/dev/x", test.err)
		if err.Error() != test.want {
			t.Errorf("%v:\n got %v\nwant %s", test.err, err, test.want)
		}
		if got := errors.Is(err, ErrNoTPM); got != test.none {
			t.Errorf("%v: ErrNoTPM %v", test.err, got)
		}
		if !test.none && !errors.Is(err, test.err) {
			t.Errorf("%v: lost", test.err)
		}
	}
}
