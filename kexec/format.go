package kexec

import (
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/compress"
	"github.com/mkexec/mkexec/measure/uki"
)

// A kernelCheck checks a kernel as kexec_file_load(2) of one architecture does,
// before Linux does it, and returns the longest command line that the kernel
// takes by kexec, in bytes without the NUL.
type kernelCheck func(k *kernelFile) (maxCmdline int, err error)

// kernelChecks are the checks by GOARCH. The sources are Linux 6.12's unless
// another version is named.
var kernelChecks = map[string]kernelCheck{
	"amd64":   checkBzImage,
	"arm64":   checkARM64,
	"riscv64": checkRISCV,
	"loong64": checkLoongArch,
	"ppc64":   checkPPC64,
	"ppc64le": checkPPC64,
	"s390x":   checkS390,
}

// The command line's size, NUL included, of kernels that do not say it
// (COMMAND_LINE_SIZE, arch/*/include/uapi/asm/setup.h; riscv has more from 7.2
// on). A longer one is cut off without a word.
const (
	arm64CommandLine     = 2048
	riscvCommandLine     = 1024
	loongArchCommandLine = 4096
	ppc64CommandLine     = 2048
)

// checkKernel refuses what the kernel of an architecture (GOARCH) would refuse
// to load, or would load and then not start as it was asked to. A packed kernel
// has to be unpacked before; see unpackKernel.
func checkKernel(linux measure.Content, cmdline, arch string) error {
	check, ok := kernelChecks[arch]
	if !ok {
		return fmt.Errorf("kernel: how %s loads kernels is not known", arch)
	}
	k := &kernelFile{linux, make([]byte, min(linux.Size(), 0x268))}
	if n, err := linux.ReadAt(k.head, 0); n < len(k.head) {
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
	if isZboot(k.head) {
		return errors.New("kernel: it is packed (EFI zboot)")
	}
	if m, ok := compress.Detect(k.head); ok {
		return fmt.Errorf("kernel: it is packed (%s)", m)
	}
	limit, err := check(k)
	if err != nil {
		return fmt.Errorf("kernel: %w", err)
	}
	if len(cmdline) > limit {
		return fmt.Errorf("command line: %d bytes: by kexec this kernel takes %d at most", len(cmdline), limit)
	}
	return nil
}

// A kernelFile is a kernel with the first bytes of it.
type kernelFile struct {
	measure.Content
	head []byte // at most 0x268
}

// has tells whether the head has s at off.
func (k *kernelFile) has(s string, off int) bool {
	return len(k.head) >= off+len(s) && string(k.head[off:off+len(s)]) == s
}

// bytes reads n bytes at off.
func (k *kernelFile) bytes(off uint64, n int) ([]byte, error) {
	if err := k.within(off, uint64(n)); err != nil {
		return nil, err
	}
	b := make([]byte, n)
	if got, err := k.ReadAt(b, int64(off)); got < n {
		return nil, fmt.Errorf("read at %d: %w", off, err)
	}
	return b, nil
}

// within checks that the file has n bytes at off.
func (k *kernelFile) within(off, n uint64) error {
	if size := uint64(k.Size()); off > size || n > size-off {
		return fmt.Errorf("%d bytes at %d: outside the file (%d bytes)", n, off, size)
	}
	return nil
}

// checkBzImage checks what Linux checks (arch/x86/kernel/kexec-bzimage64.c,
// bzImage64_probe and bzImage64_load). The kernel has a limit on the command
// line in its header (Documentation/arch/x86/boot.rst, cmdline_size), of which
// 30 bytes are reserved for " elfcorehdr=0x…", for crash kernels and others
// alike (MAX_ELFCOREHDR_STR_LEN).
func checkBzImage(k *kernelFile) (int, error) {
	if len(k.head) < 0x268 {
		return 0, fmt.Errorf("not a bzImage: %w", io.ErrUnexpectedEOF)
	}
	u16 := func(off int) uint16 { return binary.LittleEndian.Uint16(k.head[off:]) }
	switch {
	case !k.has("HdrS", 0x202) || u16(0x1FE) != 0xAA55:
		return 0, errors.New("not a bzImage: no HdrS at offset 0x202")
	case u16(0x206) < 0x020C:
		return 0, fmt.Errorf("bzImage protocol %d.%02d: older than 2.12", u16(0x206)>>8, u16(0x206)&0xFF)
	case k.head[0x211]&1 == 0:
		return 0, errors.New("bzImage: not loaded high")
	case u16(0x236)&1 == 0:
		return 0, errors.New("bzImage: not a 64-bit kernel")
	case u16(0x236)&2 == 0:
		return 0, errors.New("bzImage: cannot be loaded above 4 GiB")
	}
	size := int64(binary.LittleEndian.Uint32(k.head[0x238:]))
	return int(min(max(0, size-30-1), 1<<30)), nil
}

// Images of arm64, riscv and LoongArch have headers of one kind, of 64 bytes
// (Documentation/arch/arm64/booting.rst, arch/riscv/boot-image-header.rst;
// Linux 7.2, arch/loongarch/include/asm/image.h).
const imageHeaderSize = 64

// checkImageSize checks the image's size in memory at offset 16. Where it is 0
// Linux cannot know how much is the kernel's, and does not load it.
func (k *kernelFile) checkImageSize(what string) error {
	if binary.LittleEndian.Uint64(k.head[16:]) == 0 {
		return fmt.Errorf("%s: no image size at offset 16", what)
	}
	return nil
}

// checkARM64 checks what Linux checks (arch/arm64/kernel/kexec_image.c), except
// for what depends on the processor: byte order and page size.
func checkARM64(k *kernelFile) (int, error) {
	if len(k.head) < imageHeaderSize || !k.has("ARM\x64", 56) {
		return 0, errors.New("not an arm64 Image: no ARM\\x64 at offset 56")
	}
	return arm64CommandLine - 1, k.checkImageSize("arm64 Image")
}

// checkRISCV checks what Linux checks (arch/riscv/kernel/kexec_elf.c; Linux
// 7.2, kexec_image.c, for Images). The magic number at offset 56 is there since
// version 0.2 of the header. Before, there is another one at 48; Linux does not
// look at that, and so takes other files for Images.
func checkRISCV(k *kernelFile) (int, error) {
	if k.has(elf.ELFMAG, 0) {
		_, err := k.checkELF(elf.EM_RISCV, elf.ELFDATA2LSB)
		return riscvCommandLine - 1, err
	}
	if len(k.head) < imageHeaderSize {
		return 0, errors.New("neither a riscv Image nor an ELF file")
	}
	const version02 = 2 // major 0 in the upper half
	if binary.LittleEndian.Uint32(k.head[32:]) >= version02 {
		if !k.has("RSC\x05", 56) {
			return 0, errors.New("neither a riscv Image nor an ELF file: no RSC\\x05 at offset 56")
		}
	} else if !k.has("RISCV\x00\x00\x00", 48) {
		return 0, errors.New("neither a riscv Image nor an ELF file: no RISCV at offset 48")
	}
	if k.head[24]&1 != 0 {
		return 0, errors.New("riscv Image: big-endian")
	}
	return riscvCommandLine - 1, k.checkImageSize("riscv Image")
}

// checkLoongArch checks what Linux checks (7.2, arch/loongarch/kernel,
// kexec_efi.c and kexec_elf.c), and that an EFI file is Linux: of any other,
// such as a UKI, Linux sees but the MZ (include/linux/pe.h, LINUX_PE_MAGIC;
// there since Linux 6.2). In front of the command line Linux puts "kexec_file "
// and "initrd=0x…,0x… " with two numbers of 64 bits (machine_kexec_file.c).
func checkLoongArch(k *kernelFile) (int, error) {
	const limit = loongArchCommandLine - 1 - len("kexec_file ") - len("initrd=0x,0x ") - 2*16
	if k.has(elf.ELFMAG, 0) {
		_, err := k.checkELF(elf.EM_LOONGARCH, elf.ELFDATA2LSB)
		return limit, err
	}
	if len(k.head) < imageHeaderSize || !k.has("MZ", 0) || !k.has("\xCD\x23\x82\x81", 56) {
		return 0, errors.New("neither a LoongArch EFI kernel (MZ, 0x818223cd at offset 56) nor an ELF file")
	}
	return limit, k.checkImageSize("LoongArch EFI kernel")
}

// checkPPC64 checks what Linux checks (arch/powerpc/kexec/elf_64.c). A kernel
// may be of the other byte order.
func checkPPC64(k *kernelFile) (int, error) {
	if !k.has(elf.ELFMAG, 0) {
		return 0, errors.New("not an ELF file")
	}
	_, err := k.checkELF(elf.EM_PPC64, elf.ELFDATA2LSB, elf.ELFDATA2MSB)
	return ppc64CommandLine - 1, err
}

// Offsets into an s390 kernel in memory (arch/s390/include/asm/setup.h).
const (
	s390EntryName      = 0x10008 // EP_OFFSET
	s390MaxCommandLine = 0x10430 // struct parmarea, max_command_line_size
	s390CommandLine    = 0x10480 // struct parmarea, command_line

	s390LegacyCommandLine = 896 // where the kernel does not say it
)

// checkS390 checks what Linux checks (arch/s390/kernel, kexec_image.c,
// kexec_elf.c and machine_kexec_file.c), and that what is no ELF file is Linux:
// Linux takes everything else for an Image. The kernel has a limit on the
// command line, NUL included, in its parameter area; it must be greater, not
// equal, and the file must have the room.
func checkS390(k *kernelFile) (int, error) {
	var base uint64
	if k.has(elf.ELFMAG, 0) {
		segments, err := k.checkELF(elf.EM_S390, elf.ELFDATA2MSB)
		if err != nil {
			return 0, err
		}
		entry := binary.BigEndian.Uint64(k.head[24:])
		ok := false
		for _, p := range segments {
			if p.Type == uint32(elf.PT_LOAD) && entry-p.Paddr < p.Memsz {
				base, ok = p.Off, true
			}
		}
		if !ok {
			return 0, errors.New("ELF file: its entry is in no segment")
		}
	}
	name, err := k.bytes(base+s390EntryName, 6)
	if err != nil {
		return 0, err
	}
	if string(name) != "S390EP" {
		return 0, errors.New("not an s390 kernel: no S390EP at offset 0x10008")
	}
	b, err := k.bytes(base+s390MaxCommandLine, 8)
	if err != nil {
		return 0, err
	}
	size := binary.BigEndian.Uint64(b)
	if size == 0 {
		size = s390LegacyCommandLine
	}
	if err := k.within(s390CommandLine, size); err != nil {
		return 0, fmt.Errorf("room for the command line: %w", err)
	}
	return int(max(size, 2)) - 2, nil
}

// The sizes of the headers of 64-bit ELF files.
const (
	elfHeaderSize  = 64
	elfSegmentSize = 56
	elfSectionSize = 64
)

// checkELF checks a vmlinux and returns its segments. The rules are those of
// kernel/kexec_elf.c and, stricter in the type and the byte order, of
// arch/s390/kernel/kexec_elf.c.
func (k *kernelFile) checkELF(machine elf.Machine, data ...elf.Data) ([]elf.Prog64, error) {
	h, err := k.bytes(0, elfHeaderSize)
	if err != nil {
		return nil, fmt.Errorf("ELF file: %w", err)
	}
	var order binary.ByteOrder = binary.LittleEndian
	if elf.Data(h[elf.EI_DATA]) == elf.ELFDATA2MSB {
		order = binary.BigEndian
	}
	var eh elf.Header64
	if _, err := binary.Decode(h, order, &eh); err != nil {
		return nil, err
	}
	known := false
	for _, d := range data {
		known = known || d == elf.Data(h[elf.EI_DATA])
	}
	switch {
	case elf.Class(h[elf.EI_CLASS]) != elf.ELFCLASS64:
		return nil, errors.New("ELF file: not of 64 bits")
	case !known:
		return nil, errors.New("ELF file: the wrong byte order")
	case elf.Machine(eh.Machine) != machine:
		return nil, fmt.Errorf("ELF file: for machine %d, not %d (%s)", eh.Machine, machine, machine)
	case elf.Version(h[elf.EI_VERSION]) != elf.EV_CURRENT, eh.Version != uint32(elf.EV_CURRENT):
		return nil, errors.New("ELF file: unknown version")
	case eh.Ehsize != elfHeaderSize, eh.Phentsize != elfSegmentSize, eh.Shnum > 0 && eh.Shentsize != elfSectionSize:
		return nil, errors.New("ELF file: headers of unknown size")
	case elf.Type(eh.Type) != elf.ET_EXEC && (elf.Type(eh.Type) != elf.ET_DYN || machine == elf.EM_S390):
		return nil, fmt.Errorf("ELF file: type %d: not an executable", eh.Type)
	case eh.Phoff == 0 || eh.Phnum == 0:
		return nil, errors.New("ELF file: no segments")
	}
	if eh.Shoff > 0 && eh.Shnum > 0 {
		if err := k.within(eh.Shoff, uint64(eh.Shnum)*elfSectionSize); err != nil {
			return nil, fmt.Errorf("ELF file: sections: %w", err)
		}
	}
	table, err := k.bytes(eh.Phoff, int(eh.Phnum)*elfSegmentSize)
	if err != nil {
		return nil, fmt.Errorf("ELF file: segments: %w", err)
	}
	segments := make([]elf.Prog64, eh.Phnum)
	if _, err := binary.Decode(table, order, segments); err != nil {
		return nil, err
	}
	loads := false
	for i, p := range segments {
		if elf.ProgType(p.Type) == elf.PT_INTERP {
			return nil, errors.New("ELF file: wants an interpreter: not a kernel")
		}
		if err := k.within(p.Off, p.Filesz); err != nil {
			return nil, fmt.Errorf("ELF file: segment %d: %w", i, err)
		}
		if p.Paddr+p.Memsz < p.Paddr {
			return nil, fmt.Errorf("ELF file: segment %d: 0x%x bytes at address 0x%x", i, p.Memsz, p.Paddr)
		}
		loads = loads || elf.ProgType(p.Type) == elf.PT_LOAD
	}
	if !loads {
		return nil, errors.New("ELF file: no segment to load")
	}
	return segments, nil
}
