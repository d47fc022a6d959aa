package kexec

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/uki"
)

// commandLineSize is the longest command line, NUL included, that the kernels
// of an architecture take, where the image does not say it itself
// (COMMAND_LINE_SIZE, Linux 6.12, arch/*/include/uapi/asm/setup.h; riscv has
// more from 7.2 on). A longer one is cut off without a word.
var commandLineSize = map[string]int{
	"arm64":   2048,
	"riscv64": 1024,
	"loong64": 4096,
	"ppc64le": 2048,
	"ppc64":   2048,
	"s390x":   4096,
}

// elfcorehdrSize is what x86 reserves on the command line for
// " elfcorehdr=0x…", for crash kernels and others alike
// (Linux 6.12, arch/x86/kernel/kexec-bzimage64.c, MAX_ELFCOREHDR_STR_LEN).
const elfcorehdrSize = 30

// checkKernel refuses what the kernel of an architecture (GOARCH) would refuse
// to load, or would load and then not start as it was asked to.
func checkKernel(linux measure.Content, cmdline, arch string) error {
	head := make([]byte, min(linux.Size(), 0x268))
	if n, err := linux.ReadAt(head, 0); n < len(head) {
		return fmt.Errorf("kernel: %w", err)
	}
	if f, err := uki.Open(linux, linux.Size()); err == nil {
		if f.Machine.Arch() != arch {
			return fmt.Errorf("kernel: it is for %s, this machine is %s", f.Machine, arch)
		}
		if s, err := f.Stub(); err == nil && s.Kind == uki.StubKindStub {
			return fmt.Errorf("kernel: it is itself a UKI (%s)", s)
		}
	}

	size, known := commandLineSize[arch]
	limit := size - 1
	switch arch {
	case "amd64":
		size, err := checkBzImage(head)
		if err != nil {
			return err
		}
		limit, known = max(0, size-elfcorehdrSize-1), true
	case "arm64":
		if len(head) < 64 || string(head[56:60]) != "ARM\x64" {
			return fmt.Errorf("kernel: not an arm64 Image: no ARM\\x64 at offset 56")
		}
	case "riscv64":
		if len(head) < 64 || string(head[56:60]) != "RSC\x05" && string(head[:4]) != "\x7fELF" {
			return fmt.Errorf("kernel: neither a riscv Image nor an ELF file")
		}
	}
	if !known {
		return fmt.Errorf("kernel: how %s loads kernels is not known", arch)
	}
	if len(cmdline) > limit {
		return fmt.Errorf("command line: %d bytes: by kexec this kernel takes %d at most", len(cmdline), limit)
	}
	return nil
}

// checkBzImage checks what Linux checks (6.12,
// arch/x86/kernel/kexec-bzimage64.c, bzImage64_probe) and returns the kernel's
// limit on the command line (Documentation/arch/x86/boot.rst, cmdline_size).
func checkBzImage(head []byte) (cmdlineSize int, err error) {
	if len(head) < 0x268 {
		return 0, fmt.Errorf("kernel: not a bzImage: %w", io.ErrUnexpectedEOF)
	}
	u16 := func(off int) uint16 { return binary.LittleEndian.Uint16(head[off:]) }
	switch {
	case string(head[0x202:0x206]) != "HdrS" || u16(0x1FE) != 0xAA55:
		return 0, fmt.Errorf("kernel: not a bzImage: no HdrS at offset 0x202")
	case u16(0x206) < 0x020C:
		return 0, fmt.Errorf("kernel: bzImage protocol %d.%02d: older than 2.12", u16(0x206)>>8, u16(0x206)&0xFF)
	case head[0x211]&1 == 0:
		return 0, fmt.Errorf("kernel: bzImage: not loaded high")
	case u16(0x236)&1 == 0:
		return 0, fmt.Errorf("kernel: bzImage: not a 64-bit kernel")
	case u16(0x236)&2 == 0:
		return 0, fmt.Errorf("kernel: bzImage: cannot be loaded above 4 GiB")
	}
	return int(binary.LittleEndian.Uint32(head[0x238:])), nil
}
