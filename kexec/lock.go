package kexec

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// ErrBusy: another process holds the lock.
var ErrBusy = errors.New("busy: another mkexec is loading an image")

// Lock takes an exclusive flock(2) on a file, so that no two instances load and
// commit at a time: one would jump into the image of the other. Every machine
// with kexec has /sys/kernel/kexec_loaded for it. It does not wait; the error
// is ErrBusy if another process has the lock.
func Lock(path string) (unlock func(), err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrBusy
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { f.Close() }, nil
}
