package main

import "os"

// kernelLog writes lines into the kernel's log, as errors, which the console shows:
// at the end of a shutdown nothing else is left that somebody may read.
type kernelLog struct{}

// maxKernelLine is the size of a record of the kernel's log in bytes, its prefix
// included; a longer one is refused (Linux, kernel/printk, PRINTKRB_RECORD_MAX).
const maxKernelLine = 1024

func (kernelLog) Write(line []byte) (int, error) {
	f, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
	if err != nil {
		return os.Stderr.Write(line)
	}
	defer f.Close()
	record := append([]byte("<3>"), line...)
	if _, err := f.Write(record[:min(len(record), maxKernelLine-64)]); err != nil {
		return 0, err
	}
	return len(line), nil
}
