package kexec

import "golang.org/x/sys/unix"

// dropEFIBC takes the module efibc out of the kernel, if it is there. At a kexec it
// would store EFI variables, LoaderEntryOneShot among them, for a boot loader that
// does not run then, and the next start through firmware would meet them (Linux,
// drivers/firmware/efi/efibc.c). Where it is built in nothing can be done here.
func dropEFIBC() {
	_ = unix.DeleteModule("efibc", unix.O_NONBLOCK) // not there, in use, not permitted: all the same
}
