package kexec

import (
	"fmt"

	"github.com/mkexec/mkexec/measure"
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

// tryCmdline is the placeholder's command line, made as long as another: with it
// and with placeholderArchive behind its initrd, the kernel can be asked to take an
// image that could not be started meanwhile.
func tryCmdline(cmdline string) string {
	return fmt.Sprintf("%-*s", len(cmdline), placeholderCmdline)
}

func placeholderArchive(program measure.Content) []measure.Content {
	return stub.Archive(placeholderDir, 0o755, 0o755, stub.File{Name: placeholderName, Content: program})
}

// loadPlaceholder puts the placeholder in the place of what is loaded.
func (p *Plan) loadPlaceholder() error {
	initrd, err := carry(nil, 0, placeholderArchive(p.placeholder))
	if err != nil {
		return err
	}
	defer initrd.Close()
	if err := p.kernel.Load(p.image.kernel, initrd, placeholderCmdline); err != nil {
		return fmt.Errorf("placeholder: %w", err)
	}
	return nil
}

// Restart restarts the machine through firmware, at once: LINUX_REBOOT_CMD_RESTART
// of reboot(2), after writing cached file data to disk. It returns only if that fails.
func (l Linux) Restart() error {
	unix.Sync()
	return explainCall(callRestart, unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART), ReadMachine(l.Root))
}
