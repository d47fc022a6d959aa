//go:build linux && amd64

// Command kexecload loads a kernel for kexec, measures nothing and starts nothing: kexecload KERNEL INITRD CMDLINE
// Without arguments it jumps into what is loaded.
package main

import (
	"fmt"
	"os"
	"syscall"
	"unsafe"
)

// kexecFileLoad is the number of the system call (Linux, arch/x86/entry/syscalls/syscall_64.tbl).
const kexecFileLoad = 320

func main() {
	var err error
	if len(os.Args) > 1 {
		err = load(os.Args[1], os.Args[2], os.Args[3])
	} else {
		err = syscall.Reboot(syscall.LINUX_REBOOT_CMD_KEXEC)
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

func load(kernel, initrd, cmdline string) error {
	k, err := os.Open(kernel)
	if err != nil {
		return err
	}
	defer k.Close()
	i, err := os.Open(initrd)
	if err != nil {
		return err
	}
	defer i.Close()
	text, err := syscall.BytePtrFromString(cmdline)
	if err != nil {
		return err
	}
	_, _, errno := syscall.Syscall6(kexecFileLoad, k.Fd(), i.Fd(), uintptr(len(cmdline)+1), uintptr(unsafe.Pointer(text)), 0, 0)
	if errno != 0 {
		return fmt.Errorf("kexec_file_load: %w", errno)
	}
	return nil
}
