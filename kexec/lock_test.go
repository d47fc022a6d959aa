package kexec

import (
	"errors"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	"os"
)

// Two locks in one process stand in for two processes: flock(2) is between open
// files. That the file of sysfs can be locked is shown by the VM tests.
func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	if _, err := Lock(path); !errors.Is(err, unix.ENOENT) {
		t.Errorf("no file: %v", err)
	}
	if err := os.WriteFile(path, nil, 0o400); err != nil {
		t.Fatal(err)
	}
	unlock, err := Lock(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Lock(path); !errors.Is(err, ErrBusy) {
		t.Errorf("a second lock: %v", err)
	}
	unlock()
	unlock, err = Lock(path)
	if err != nil {
		t.Fatal(err)
	}
	unlock()
}
