package kexec

// Which of the kernel's messages are about kexec. The records are those of Linux
// 6.1 and 6.12 in virtual machines. That a refused load is explained by them is
// shown by the VM tests in cmd/mkexec.

import "testing"

func TestKexecMessage(t *testing.T) {
	for record, want := range map[string]string{
		"3,812,5021817,-;kexec_file: Enforced kernel signature verification failed (-126).\n": "kexec_file: Enforced kernel signature verification failed (-126).",
		"5,700,4021817,-;PEFILE: Digest mismatch\n":                                           "PEFILE: Digest mismatch",
		"5,700,4021817,-;PEFILE: Unsigned PE binary\n SUBSYSTEM=x\n":                          "PEFILE: Unsigned PE binary",
		"3,1,2,-;ima: impossible to appraise a kernel image without a file descriptor":        "ima: impossible to appraise a kernel image without a file descriptor",
		"6,1,2,-;usb 1-1: new high-speed USB device; kexec\n":                                 "",
		"6,1,2,-;audit: kexec_file: no\n":                                                     "",
		"garbage":                                                                             "",
		"":                                                                                    "",
	} {
		if got := kexecMessage([]byte(record)); got != want {
			t.Errorf("%q: %q, want %q", record, got, want)
		}
	}
}

func TestKernelLogMissing(t *testing.T) {
	if got := openKernelLog(t.TempDir() + "/kmsg").last(); got != "" {
		t.Errorf("a log that is not there says %q", got)
	}
}

func TestLoadErrorQuotesTheKernel(t *testing.T) {
	e := newLoadError(callLoad, 126, Machine{}, "amd64")
	without := e.Error()
	e.Kernel = "PEFILE: Digest mismatch\x1b[2J"
	if got, want := e.Error(), without+`; the kernel says "PEFILE: Digest mismatch\x1b[2J"`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
