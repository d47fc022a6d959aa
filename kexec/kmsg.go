package kexec

import (
	"bytes"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// A kernelLog is a place in the kernel's log. What the kernel says of a refused
// load it says there only; reading it takes root, or kernel.dmesg_restrict=0.
type kernelLog struct{ f *os.File }

// openKernelLog returns the place behind the last record.
func openKernelLog(path string) kernelLog {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return kernelLog{}
	}
	f := os.NewFile(uintptr(fd), path)
	if _, err := unix.Seek(fd, 0, unix.SEEK_END); err != nil {
		f.Close()
		return kernelLog{}
	}
	return kernelLog{f}
}

// last closes the log and returns the last message about kexec since it was opened,
// "" if there is none.
func (l kernelLog) last() (message string) {
	if l.f == nil {
		return ""
	}
	defer l.f.Close()
	record := make([]byte, 8192) // one is read at a time, whole (Linux, Documentation/ABI/testing/dev-kmsg)
	for range 1000 {
		n, err := unix.Read(int(l.f.Fd()), record)
		if err == unix.EPIPE { // overwritten meanwhile
			continue
		}
		if err != nil || n <= 0 {
			break
		}
		if m := kexecMessage(record[:n]); m != "" {
			message = m
		}
	}
	return message
}

// The beginnings of what Linux says about refused kernels (Linux 6.12,
// kernel/kexec_file.c, arch/x86/kernel/kexec-bzimage64.c,
// crypto/asymmetric_keys/verify_pefile.c, security/integrity/ima, security/lockdown).
var kexecPrefixes = []string{"kexec", "PEFILE", "PKCS7", "ima:", "Lockdown:"}

// kexecMessage returns the text of a record if it is about kexec: what is behind
// the first semicolon, up to the end of the line.
func kexecMessage(record []byte) string {
	_, text, _ := bytes.Cut(record, []byte(";"))
	line, _, _ := strings.Cut(string(text), "\n")
	for _, p := range kexecPrefixes {
		if strings.HasPrefix(line, p) {
			return line
		}
	}
	return ""
}
