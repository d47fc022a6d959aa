package kexec

// What is refused as a kernel, and why. The checks are Linux's, read from its
// sources; that Linux takes what passes here is for the VM tests to prove, and
// no other architecture than amd64 has been tried at all.

import (
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/uki/ukitest"
)

// peKernel returns a bzImage that is also a PE file, as kernels with an EFI stub
// are.
func peKernel(machine uint16) []byte {
	b := ukitest.Minimal("257.1")
	copy(b[strings.Index(string(b), ".sdmagic"):], ".notmagi")
	binary.LittleEndian.PutUint16(b[0x44:], machine)
	putBzImage(b)
	return b
}

func TestCheckKernel(t *testing.T) {
	change := func(off int, v ...byte) []byte {
		b := bzImage(0x1000)
		copy(b[off:], v)
		return b
	}
	other := func(magic string) []byte {
		b := make([]byte, 64)
		copy(b[56:], magic)
		return b
	}
	size := func(n uint32) []byte { return change(0x238, binary.LittleEndian.AppendUint32(nil, n)...) }
	text := func(n int) string { return strings.Repeat("x", n) }
	elf := append([]byte("\x7fELF"), make([]byte, 60)...)
	const none = "<nil>"
	for _, test := range []struct {
		name, arch string
		kernel     []byte
		cmdline    string
		want       string
	}{
		{"good", "amd64", bzImage(0x1000), "quiet", none},
		{"with an EFI stub", "amd64", peKernel(0x8664), "quiet", none},
		{"smallest", "amd64", bzImage(0x268), "", none},
		{"header cut", "amd64", bzImage(0x268)[:0x267], "", "kernel: not a bzImage: unexpected EOF"},
		{"empty", "amd64", nil, "", "kernel: not a bzImage: unexpected EOF"},
		{"HdrS, first byte", "amd64", change(0x202, 'h'), "", "kernel: not a bzImage: no HdrS at offset 0x202"},
		{"HdrS, last byte", "amd64", change(0x205, 's'), "", "kernel: not a bzImage: no HdrS at offset 0x202"},
		{"0x55", "amd64", change(0x1FE, 0x54), "", "kernel: not a bzImage: no HdrS at offset 0x202"},
		{"0xAA", "amd64", change(0x1FF, 0xAB), "", "kernel: not a bzImage: no HdrS at offset 0x202"},
		{"protocol 2.12", "amd64", change(0x206, 0x0C, 2), "", none},
		{"protocol 2.11", "amd64", change(0x206, 0x0B, 2), "", "kernel: bzImage protocol 2.11: older than 2.12"},
		{"protocol 2.09", "amd64", change(0x206, 0x09, 2), "", "kernel: bzImage protocol 2.09: older than 2.12"},
		{"loaded low", "amd64", change(0x211, 0x80), "", "kernel: bzImage: not loaded high"},
		{"32 bit", "amd64", change(0x236, 0x3E), "", "kernel: bzImage: not a 64-bit kernel"},
		{"below 4 GiB", "amd64", change(0x236, 0x3D), "", "kernel: bzImage: cannot be loaded above 4 GiB"},
		{"the two bits alone", "amd64", change(0x236, 3, 0), "", none},

		{"2016", "amd64", bzImage(0x1000), text(2016), none},
		{"2017", "amd64", bzImage(0x1000), text(2017), "command line: 2017 bytes: by kexec this kernel takes 2016 at most"},
		{"bytes, not characters", "amd64", bzImage(0x1000), strings.Repeat("ä", 1009), "command line: 2018 bytes: by kexec this kernel takes 2016 at most"},
		{"cmdline_size 255", "amd64", size(255), text(224), none},
		{"cmdline_size 255, one more", "amd64", size(255), text(225), "command line: 225 bytes: by kexec this kernel takes 224 at most"},
		{"cmdline_size 32", "amd64", size(32), "x", none},
		{"cmdline_size 31", "amd64", size(31), "x", "command line: 1 bytes: by kexec this kernel takes 0 at most"},
		{"cmdline_size 0", "amd64", size(0), "x", "command line: 1 bytes: by kexec this kernel takes 0 at most"},
		{"cmdline_size 0, none", "amd64", size(0), "", none},
		{"cmdline_size 0xffffffff", "amd64", size(0xFFFFFFFF), text(100000), none},

		{"other architecture", "amd64", peKernel(0xAA64), "", "kernel: it is for arm64, this machine is amd64"},
		{"the other way round", "arm64", peKernel(0x8664), "", "kernel: it is for amd64, this machine is arm64"},
		{"386", "amd64", peKernel(0x014C), "", "kernel: it is for 386, this machine is amd64"},
		{"UKI", "amd64", build(t, "257.13-1", ukitest.Section{Name: ".linux", Data: bzImage(0x1000)}), "", "kernel: it is itself a UKI (systemd-stub 257.13-1)"},
		{"ELF", "amd64", elf, "", "kernel: not a bzImage: unexpected EOF"},

		{"good", "arm64", other("ARM\x64"), text(2047), none},
		{"one more", "arm64", other("ARM\x64"), text(2048), "command line: 2048 bytes: by kexec this kernel takes 2047 at most"},
		{"magic", "arm64", other("ARM\x65"), "", "kernel: not an arm64 Image: no ARM\\x64 at offset 56"},
		{"cut", "arm64", other("ARM\x64")[:63], "", "kernel: not an arm64 Image: no ARM\\x64 at offset 56"},
		{"gzip", "arm64", append([]byte("\x1f\x8b"), make([]byte, 100)...), "", "kernel: not an arm64 Image: no ARM\\x64 at offset 56"},

		{"Image", "riscv64", other("RSC\x05"), text(1023), none},
		{"one more", "riscv64", other("RSC\x05"), text(1024), "command line: 1024 bytes: by kexec this kernel takes 1023 at most"},
		{"magic", "riscv64", other("RSC\x04"), "", "kernel: neither a riscv Image nor an ELF file"},
		{"ELF", "riscv64", elf, "", none},
		{"ELF, one byte", "riscv64", append([]byte("\x7fELE"), elf[4:]...), "", "kernel: neither a riscv Image nor an ELF file"},
		{"cut", "riscv64", elf[:63], "", "kernel: neither a riscv Image nor an ELF file"},

		{"unlooked at", "s390x", elf, text(4095), none},
		{"one more", "s390x", elf, text(4096), "command line: 4096 bytes: by kexec this kernel takes 4095 at most"},
		{"unknown", "386", bzImage(0x1000), "", "kernel: how 386 loads kernels is not known"},
		{"unknown", "mips64", elf, "", "kernel: how mips64 loads kernels is not known"},
	} {
		t.Run(test.arch+"/"+test.name, func(t *testing.T) {
			err := checkKernel(measure.Bytes(test.kernel), test.cmdline, test.arch)
			if fmt.Sprint(err) != test.want {
				t.Errorf("error:\n got %v\nwant %s", err, test.want)
			}
		})
	}
}

func TestCheckKernelUnreadable(t *testing.T) {
	src := &turncoat{before: bzImage(0x1000), after: make([]byte, 0x200), at: 1}
	if err := checkKernel(src, "", "amd64"); err == nil || err.Error() != "kernel: EOF" {
		t.Error(err)
	}
}
