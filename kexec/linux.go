package kexec

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Linux is the kernel that runs this process.
type Linux struct {
	// Root is the root file system, for /proc and /sys: os.DirFS("/").
	Root fs.FS
}

// Load calls kexec_file_load(2). The error is a *LoadError.
func (l Linux) Load(linux, initrd *os.File, cmdline string) error {
	flags, initrdFd := 0, -1
	if initrd == nil {
		flags = unix.KEXEC_FILE_NO_INITRAMFS
	} else {
		initrdFd = int(initrd.Fd())
	}
	before := ReadMachine(l.Root) // even a refused call uses up the load limit
	words := openKernelLog("/dev/kmsg")
	err := unix.KexecFileLoad(int(linux.Fd()), initrdFd, cmdline, flags)
	// The kernel reads by number: the files must not be finalized before it has.
	runtime.KeepAlive(linux)
	runtime.KeepAlive(initrd)
	said := words.last()
	err = explainCall(callLoad, err, before)
	var refused *LoadError
	if errors.As(err, &refused) {
		refused.Kernel = said
	}
	return err
}

// Loaded reads /sys/kernel/kexec_loaded.
func (l Linux) Loaded() (bool, error) {
	b, err := fs.ReadFile(l.Root, "sys/kernel/kexec_loaded")
	if err != nil {
		return false, fmt.Errorf("is an image loaded: %w", err)
	}
	return strings.TrimSpace(string(b)) == "1", nil
}

// Unload drops the loaded image. The error is a *LoadError.
func (l Linux) Unload() error {
	before := ReadMachine(l.Root)
	return explainCall(callUnload, unix.KexecFileLoad(-1, -1, "", unix.KEXEC_FILE_UNLOAD), before)
}

// Freeze sets kernel.kexec_load_disabled, which stays until the next boot. Since
// somebody else jumps then, it does what else Exec does before.
func (l Linux) Freeze() error {
	dropEFIBC()
	f, err := os.OpenFile("/proc/sys/kernel/kexec_load_disabled", os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("freeze what is loaded: %w", err)
	}
	defer f.Close()
	if _, err := f.WriteString("1\n"); err != nil {
		return fmt.Errorf("freeze what is loaded: %w", err)
	}
	return nil
}

// Exec calls reboot(2) with LINUX_REBOOT_CMD_KEXEC, after writing cached file
// data to disk: the kernel does not do that itself. The module efibc, if it is
// loaded, is unloaded before.
func (l Linux) Exec() error {
	dropEFIBC()
	unix.Sync()
	return explainCall(callExec, unix.Reboot(unix.LINUX_REBOOT_CMD_KEXEC), ReadMachine(l.Root))
}

func explainCall(call string, err error, m Machine) error {
	if err == nil {
		return nil
	}
	var errno unix.Errno
	if !errors.As(err, &errno) {
		return fmt.Errorf("%s: %w", call, err)
	}
	return newLoadError(call, errno, m, runtime.GOARCH)
}
