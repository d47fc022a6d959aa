package kexec

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// A LoadError is a kexec call that the kernel refused. The number alone is
// ambiguous, so the cause is worked out from the state of the machine too.
type LoadError struct {
	Call  string     // the system call
	Errno unix.Errno // what it returned
	Cause string     // what that means here
	Hint  string     // what to do about it; "" if there is nothing to suggest
}

// Error gives the call, the cause and the name of the errno.
func (e *LoadError) Error() string {
	name := unix.ErrnoName(e.Errno)
	if name == "" {
		name = fmt.Sprintf("errno %d", int(e.Errno))
	}
	return fmt.Sprintf("%s: %s (%s)", e.Call, e.Cause, name)
}

// Unwrap returns the errno.
func (e *LoadError) Unwrap() error { return e.Errno }

// enotsupp is what some crypto code returns; it has no place in the system call API.
const enotsupp = unix.Errno(524)

// newLoadError explains an errno (Linux 6.12, kernel/kexec_file.c,
// kernel/kexec_core.c, crypto/asymmetric_keys, security/integrity/ima).
func newLoadError(call string, errno unix.Errno, m Machine, arch string) *LoadError {
	cause, hint := explain(errno, m, arch)
	return &LoadError{call, errno, cause, hint}
}

func explain(errno unix.Errno, m Machine, arch string) (cause, hint string) {
	const sign = "sign the kernel in the image with a key that the firmware (db) or shim (MOK) trusts: sbsign --key KEY --cert CERT VMLINUZ"
	switch errno {
	case unix.EPERM:
		switch {
		case m.CapSysBoot == No:
			return "CAP_SYS_BOOT is missing", "run as root, outside of containers"
		case m.LoadDisabled == Yes:
			return "kexec is switched off until the next reboot (kernel.kexec_load_disabled=1)", "systemctl reboot"
		case m.LoadLimit == 0:
			return "all loads that kernel.kexec_load_limit_reboot allows are used up", "systemctl reboot"
		case m.Lockdown == "integrity" || m.Lockdown == "confidentiality":
			return fmt.Sprintf("the kernel is locked down (%s) and does not accept the signature of the kernel in the image", m.Lockdown), sign
		}
		return "not permitted", "run as root, outside of containers; see dmesg"
	case unix.EACCES:
		return "a security module (IMA appraisal, IPE, SELinux, LoadPin) refuses the kernel", "see dmesg and the audit log"
	case unix.ENOKEY:
		return "the kernel in the image is signed by a key that this system does not trust", sign
	case unix.EKEYREJECTED:
		return "the signature of the kernel in the image does not match it, or its key is revoked", "build the image again from the kernel as it was shipped; see dmesg"
	case unix.EKEYEXPIRED:
		return "the key that signed the kernel in the image has expired in the kernel's keyring", sign
	case unix.EKEYREVOKED:
		return "the key that signed the kernel in the image is revoked in the kernel's keyring", sign
	case unix.ENODATA:
		return "the kernel in the image is not signed", sign
	case unix.ELIBBAD:
		return "the kernel in the image is a damaged PE file, or its certificate table is", "build the image again from the kernel as it was shipped"
	case unix.EBADMSG:
		return "the signature of the kernel in the image is garbage", sign
	case unix.ENOPKG:
		return "the signature uses an algorithm that this kernel does not have", "modprobe the hash or key algorithm, or sign with RSA and SHA-256"
	case unix.EMSGSIZE, unix.EOPNOTSUPP, enotsupp:
		return "the signature has a structure that this kernel does not support", sign
	case unix.ENOEXEC:
		return fmt.Sprintf("not a kernel format that this kernel loads on %s", arch), "kernels must be a bzImage on amd64, and unpacked (Image) elsewhere"
	case unix.EINVAL:
		if m.Loaded == No && m.CapSysBoot == Yes {
			return "not a kernel of this architecture, or too large: kernel and initrd may fill half of memory, and nothing is loaded", "see dmesg"
		}
		return "the kernel refuses the kernel file, its size or the command line", "see dmesg"
	case unix.EBADF:
		return "a staged file cannot be read", "this is a bug in mkexec"
	case unix.ETXTBSY:
		return "the kernel file is open for writing somewhere", "try again"
	case unix.EBUSY:
		return "another kexec load is going on", "try again"
	case unix.EADDRNOTAVAIL:
		return "no free piece of physical memory is large enough", "free memory, or reboot through firmware: systemctl reboot"
	case unix.ENOMEM:
		return "not enough memory for the kernel's own copy of kernel and initrd", "free memory, or reboot through firmware: systemctl reboot"
	case unix.EFBIG:
		return "kernel or initrd are larger than the kernel reads", "make the initrd smaller"
	case unix.ENOSYS:
		return "this kernel has no kexec_file_load (CONFIG_KEXEC_FILE)", "use a kernel that has it; kexec_load cannot check signatures and is not used"
	case unix.EFAULT:
		return "a bad pointer", "this is a bug in mkexec"
	case unix.EINTR:
		return "interrupted by a signal while reading", "try again"
	case unix.ENOENT:
		return "nothing to do", ""
	}
	return errno.Error(), "see dmesg"
}
