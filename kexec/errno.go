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
	// Kernel is what the kernel said last about it in its log; "" if that is not known.
	Kernel string
}

// Error gives the call, the cause and the name of the errno.
func (e *LoadError) Error() string {
	name := unix.ErrnoName(e.Errno)
	if name == "" {
		name = fmt.Sprintf("errno %d", int(e.Errno))
	}
	text := fmt.Sprintf("%s: %s (%s)", e.Call, e.Cause, name)
	if e.Kernel != "" {
		text += fmt.Sprintf("; the kernel says %.200q", e.Kernel)
	}
	return text
}

// Unwrap returns the errno.
func (e *LoadError) Unwrap() error { return e.Errno }

// enotsupp is what some crypto code returns; it has no place in the system call API.
const enotsupp = unix.Errno(524)

// The calls that can fail, as LoadError.Call.
const (
	callLoad   = "kexec_file_load"
	callUnload = "kexec_file_load(KEXEC_FILE_UNLOAD)"
	callExec   = "reboot(LINUX_REBOOT_CMD_KEXEC)"
	// callRestart fails only without CAP_SYS_BOOT.
	callRestart = "reboot(LINUX_REBOOT_CMD_RESTART)"
)

// newLoadError explains an errno (Linux 6.12, kernel/kexec_file.c,
// kernel/kexec_core.c, crypto/asymmetric_keys, security/integrity/ima). m is the
// machine as it was before the call.
func newLoadError(call string, errno unix.Errno, m Machine, arch string) *LoadError {
	why := explain(call, errno, m, arch)
	return &LoadError{Call: call, Errno: errno, Cause: why.cause, Hint: why.hint}
}

// An explanation is what an errno means, and a way out.
type explanation struct{ cause, hint string }

const (
	signKernel  = "sign the kernel in the image with a key that the firmware (db) or shim (MOK) trusts: sbsign --key KEY --cert CERT VMLINUZ"
	rebuild     = "build the image again from the kernel as it was shipped; the kernel's own words: dmesg | tail"
	seeDmesg    = "the kernel's own words: dmesg | tail"
	coldReboot  = "systemctl reboot"
	tryAgain    = "try again"
	reportBug   = "this is a bug in mkexec; please report it"
	unsupported = "the signature of the kernel in the image has a structure that this kernel does not support"
)

// explanations holds the errnos that mean one thing.
var explanations = map[unix.Errno]explanation{
	unix.EACCES:        {"a security module (IMA appraisal, IPE, SELinux, LoadPin) refuses the kernel", seeDmesg},
	unix.ENOKEY:        {"the kernel in the image is signed by a key that this system does not trust", signKernel},
	unix.EKEYREJECTED:  {"the signature of the kernel in the image does not match it, or its key is revoked", rebuild},
	unix.EKEYEXPIRED:   {"the key that signed the kernel in the image has expired in the kernel's keyring", signKernel},
	unix.EKEYREVOKED:   {"the key that signed the kernel in the image is revoked in the kernel's keyring", signKernel},
	unix.ENODATA:       {"the kernel in the image is not signed", signKernel},
	unix.ELIBBAD:       {"the kernel in the image is a damaged PE file, or its certificate table is", rebuild},
	unix.EBADMSG:       {"the signature of the kernel in the image is garbage", signKernel},
	unix.ENOPKG:        {"the signature uses an algorithm that this kernel does not have", "modprobe the hash or key algorithm, or sign with RSA and SHA-256"},
	unix.EMSGSIZE:      {unsupported, signKernel},
	unix.EOPNOTSUPP:    {unsupported, signKernel},
	enotsupp:           {unsupported, signKernel},
	unix.EBADF:         {"a staged file cannot be read", reportBug},
	unix.ETXTBSY:       {"the kernel file is open for writing somewhere", tryAgain},
	unix.EBUSY:         {"another kexec load is going on", tryAgain},
	unix.EADDRNOTAVAIL: {"no free piece of physical memory is large enough", coldReboot},
	unix.ENOMEM:        {"not enough memory for the kernel's own copy of kernel and initrd", coldReboot},
	unix.EFBIG:         {"kernel or initrd are larger than the kernel reads", "make the initrd smaller"},
	unix.ENOSYS:        {"this kernel has no kexec_file_load (CONFIG_KEXEC_FILE)", "use a kernel that has it; kexec_load cannot check signatures and is not used"},
	unix.EFAULT:        {"a bad pointer", reportBug},
	unix.EINTR:         {"interrupted by a signal while reading", tryAgain},
}

func explain(call string, errno unix.Errno, m Machine, arch string) explanation {
	switch errno {
	case unix.EPERM:
		return explainEPERM(m)
	case unix.EINVAL:
		return explainEINVAL(call, arch)
	case unix.ENOEXEC:
		return explanation{fmt.Sprintf("not a kernel format that this kernel loads on %s", arch), "use a bzImage on amd64, and an unpacked Image elsewhere"}
	}
	if e, ok := explanations[errno]; ok {
		return e
	}
	return explanation{errno.Error(), seeDmesg}
}

// explainEPERM goes through the reasons in the order in which the kernel does.
func explainEPERM(m Machine) explanation {
	switch {
	case m.CapSysBoot == No:
		return explanation{"CAP_SYS_BOOT is missing", "run as root, outside of containers: sudo mkexec ..."}
	case m.LoadDisabled == Yes:
		return explanation{"kexec is switched off until the next reboot (kernel.kexec_load_disabled=1)", coldReboot}
	case m.LoadLimit == 0:
		return explanation{"all loads that kernel.kexec_load_limit_reboot allows are used up", coldReboot}
	case m.Lockdown == "integrity" || m.Lockdown == "confidentiality":
		return explanation{fmt.Sprintf("the kernel is locked down (%s) and does not accept the signature of the kernel in the image", m.Lockdown), signKernel}
	}
	return explanation{"not permitted", seeDmesg}
}

func explainEINVAL(call, arch string) explanation {
	switch {
	case call == callExec:
		return explanation{"nothing is loaded, or this is a container", seeDmesg}
	case arch == "amd64":
		return explanation{"kernel and initrd are larger than half of memory, or the command line is too long", seeDmesg}
	}
	return explanation{fmt.Sprintf("not an unpacked kernel for %s, or kernel and initrd are larger than half of memory", arch), seeDmesg}
}
