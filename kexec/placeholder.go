package kexec

import (
	"github.com/mkexec/mkexec/measure/stub"
	"golang.org/x/sys/unix"
)

// Until a deferred plan is carried out, what the kernel holds for it is a
// placeholder: the plan's own kernel, with an initrd that has one program, which
// restarts the machine through firmware. So nothing that has not been measured can
// be started by who jumps too early, or without CarryOut having run.
const (
	placeholderDir  = "mkexec"
	placeholderName = "restart"
	// PlaceholderInit is the path of the program in the placeholder, and the name
	// that it is started by.
	PlaceholderInit = "/" + placeholderDir + "/" + placeholderName
	// What does not get as far as the program ends in a panic, and restarts too.
	placeholderCmdline = "rdinit=" + PlaceholderInit + " panic=-1 quiet"
)

// loadPlaceholder puts the placeholder in the place of what is loaded.
func (p *Plan) loadPlaceholder() error {
	initrd, err := newMemfd("placeholder")
	if err != nil {
		return err
	}
	defer initrd.Close()
	buf := make([]byte, copyBuffer)
	at := int64(0)
	for _, c := range stub.Archive(placeholderDir, 0o755, 0o755, stub.File{Name: placeholderName, Content: p.placeholder}) {
		if err := copyRange(initrd, at, c, 0, c.Size(), buf, func(int64) {}); err != nil {
			return err
		}
		at += c.Size()
	}
	if err := seal(initrd); err != nil {
		return err
	}
	return p.kernel.Load(p.image.kernel, initrd, placeholderCmdline)
}

// Restart restarts the machine through firmware, at once: LINUX_REBOOT_CMD_RESTART
// of reboot(2), after writing cached file data to disk. It returns only if that fails.
func (l Linux) Restart() error {
	unix.Sync()
	return explainCall(callRestart, unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART), ReadMachine(l.Root))
}
