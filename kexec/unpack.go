package kexec

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/compress"
	"github.com/mkexec/mkexec/measure/uki"
)

// maxKernel is the largest kernel that is unpacked, in bytes. Distributions'
// are below 100 MiB.
const maxKernel = 512 << 20

// unpackKernel returns what a kernel is packed in, and a reader that unpacks
// it: on some architectures (GOARCH) kernels are shipped compressed, or in an
// EFI file that unpacks them, and kexec_file_load(2) takes neither. Where the
// kernel is loaded as it is, r is nil. All of r has to be read: it is the last
// read that tells whether the kernel was whole. The result still has to pass
// checkKernel, which takes no kernel that is packed twice.
func unpackKernel(linux measure.Content, arch string) (what string, r io.Reader, err error) {
	switch arch {
	case "arm64", "riscv64", "loong64":
	default:
		return "", nil, nil
	}
	head := make([]byte, min(linux.Size(), zbootHeaderSize))
	if n, err := linux.ReadAt(head, 0); n < len(head) {
		return "", nil, fmt.Errorf("kernel: %w", err)
	}
	if isZboot(head) {
		what, r, err = unpackZboot(linux, head, arch)
	} else if m, ok := compress.Detect(head); ok {
		what = string(m)
		r, err = unpackStream(linux, m)
	}
	if err != nil {
		return "", nil, fmt.Errorf("kernel: %w", err)
	}
	return what, r, nil
}

// unpackStream unpacks a kernel that is one compressed stream, such as
// Image.gz (Linux 6.12, arch/arm64/boot/Makefile). What pads a section may
// follow it.
func unpackStream(linux measure.Content, m compress.Method) (io.Reader, error) {
	in := bufio.NewReader(io.NewSectionReader(linux, 0, linux.Size()))
	z, err := compress.NewReader(m, in, maxKernel)
	if err != nil {
		return nil, err
	}
	return &unpacker{"kernel", z, 0, func(int64) error {
		for {
			b, err := in.ReadByte()
			if err == io.EOF {
				return nil
			}
			if err != nil {
				return err
			}
			if b != 0 {
				return fmt.Errorf("%s stream: something follows it that is not padding", m)
			}
		}
	}}, nil
}

// zbootHeaderSize is the size of the header of an EFI zboot image (Linux 6.12,
// drivers/firmware/efi/libstub/zboot-header.S): MZ, "zimg" at offset 4, offset
// and size of the payload at 8 and 12, and at 24 the name of the compression.
const zbootHeaderSize = 64

func isZboot(head []byte) bool {
	return len(head) >= zbootHeaderSize && string(head[:2]) == "MZ" && string(head[4:8]) == "zimg"
}

// zbootMethods are the compressions by the names that the kernel's build gives
// them (Linux 6.12, drivers/firmware/efi/libstub/Makefile.zboot, comp-type).
// Newer kernels call zstd22 zstd. What they call lz4 is lz4 -l.
var zbootMethods = map[string]compress.Method{
	"gzip":   compress.Gzip,
	"zstd22": compress.Zstd,
	"zstd":   compress.Zstd,
	"lz4":    compress.LZ4Legacy,
	"lzma":   compress.LZMA,
	"xzkern": compress.XZ,
	"xz":     compress.XZ,
	"lzo":    compress.LZO,
}

// unpackZboot unpacks the kernel in an EFI zboot image. The payload is one
// stream. The kernel's size is the last four bytes of a gzip stream, which
// always has it there, and else in the four bytes behind the payload
// (Makefile.zboot, zboot-size-len; scripts/Makefile.lib, size_append).
func unpackZboot(linux measure.Content, head []byte, arch string) (what string, _ io.Reader, err error) {
	f, err := uki.Open(linux, linux.Size())
	if err != nil {
		return "", nil, fmt.Errorf("EFI zboot: %w", err)
	}
	if f.Machine.Arch() != arch {
		return "", nil, fmt.Errorf("EFI zboot: it is for %s, this machine is %s", f.Machine, arch)
	}
	name, _, _ := strings.Cut(string(head[24:56]), "\x00")
	method, ok := zbootMethods[name]
	if !ok {
		return "", nil, fmt.Errorf("EFI zboot: compression %q: unknown", name)
	}
	off, size := int64(binary.LittleEndian.Uint32(head[8:])), int64(binary.LittleEndian.Uint32(head[12:]))
	sizeOff := off + size
	if method == compress.Gzip {
		sizeOff -= 4
	}
	if off < zbootHeaderSize || size < 4 || max(off+size, sizeOff+4) > linux.Size() {
		return "", nil, fmt.Errorf("EFI zboot: payload of %d bytes at %d: outside the file (%d bytes)", size, off, linux.Size())
	}
	in := bufio.NewReader(io.NewSectionReader(linux, off, size))
	magic, err := in.Peek(compress.MagicSize)
	if err != nil && err != io.EOF {
		return "", nil, fmt.Errorf("EFI zboot: %w", err)
	}
	if m, _ := compress.Detect(magic); m != method {
		return "", nil, fmt.Errorf("EFI zboot: the payload is not of the compression %q", name)
	}
	b := make([]byte, 4)
	if n, err := linux.ReadAt(b, sizeOff); n < len(b) {
		return "", nil, fmt.Errorf("EFI zboot: read at %d: %w", sizeOff, err)
	}
	want := int64(binary.LittleEndian.Uint32(b))
	if want > maxKernel {
		return "", nil, fmt.Errorf("EFI zboot: a kernel of %d bytes: more than %d", want, maxKernel)
	}
	z, err := compress.NewReader(method, in, want)
	if err != nil {
		return "", nil, fmt.Errorf("EFI zboot: %w", err)
	}
	atEnd := func(got int64) error {
		if got != want {
			return fmt.Errorf("unpacks to %d bytes, says that it has %d", got, want)
		}
		_, err := in.Peek(1)
		if err == nil {
			return errors.New("something follows the stream in the payload")
		}
		if err == io.EOF {
			return nil
		}
		return err
	}
	return "EFI zboot, " + name, &unpacker{"kernel: EFI zboot", z, 0, atEnd}, nil
}

// An unpacker reads a kernel, and at its end looks whether that is right.
type unpacker struct {
	what  string // for errors
	z     io.Reader
	got   int64 // bytes read
	atEnd func(got int64) error
}

// Read reads from the unpacked kernel.
func (u *unpacker) Read(b []byte) (int, error) {
	n, err := u.z.Read(b)
	u.got += int64(n)
	if err == io.EOF {
		if err = u.atEnd(u.got); err == nil {
			return n, io.EOF
		}
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", u.what, err)
	}
	return n, err
}
