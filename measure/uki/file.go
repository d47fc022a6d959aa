// Package uki reads Unified Kernel Images and addons: PE files whose sections
// hold a kernel, an initrd, a command line and more (UAPI Group Specification
// "UKI"; Microsoft PE/COFF specification).
//
// A file is read from an io.ReaderAt. Only headers and small sections are read
// unless a section's contents are asked for, so looking at an image of any size
// is quick. Every length in the headers is checked against the file before it
// is used; a file that firmware would map differently from what this package
// shows (overlaps, ranges outside the file) is refused.
package uki

import (
	"bytes"
	"cmp"
	"debug/pe"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

const (
	// maxSections is far above what images have: 256 profiles of sixteen sections.
	maxSections = 4096
	// maxZeroFill bounds the zero bytes that a section may claim beyond what the
	// file backs. systemd-pcrlock has the same limit (systemd 262,
	// src/shared/pe-binary.c); file alignment pads by far less.
	maxZeroFill = 64 << 20

	sectionHeaderSize = 40
	coffHeaderSize    = 20
)

// A Machine is the architecture field of a PE header.
type Machine uint16

// archByMachine gives the GOARCH of the PE machine types that systemd-stub is
// built for.
var archByMachine = map[Machine]string{
	pe.IMAGE_FILE_MACHINE_I386:        "386",
	pe.IMAGE_FILE_MACHINE_AMD64:       "amd64",
	pe.IMAGE_FILE_MACHINE_ARM:         "arm",
	pe.IMAGE_FILE_MACHINE_ARMNT:       "arm",
	pe.IMAGE_FILE_MACHINE_ARM64:       "arm64",
	pe.IMAGE_FILE_MACHINE_LOONGARCH64: "loong64",
	pe.IMAGE_FILE_MACHINE_RISCV64:     "riscv64",
}

// Arch returns the architecture as Go spells it (GOARCH), "" if it is not one
// that systemd-stub is built for.
func (m Machine) Arch() string { return archByMachine[m] }

// String returns the architecture, or the number if it is not known.
func (m Machine) String() string {
	if a := m.Arch(); a != "" {
		return a
	}
	return fmt.Sprintf("0x%04x", uint16(m))
}

// A File is a PE file: a UKI, an addon, or anything else that is one.
type File struct {
	Machine Machine
	// Sections are in the order of the section table.
	Sections []*Section

	r           io.ReaderAt
	size        int64
	headers     []byte // SizeOfHeaders bytes
	checksumOff int    // of the optional header's CheckSum
	certDirOff  int    // of data directory 4, 0 if there is none
	cert        extent
}

// An extent is a range of the file.
type extent struct{ off, size int64 }

func (e extent) end() int64 { return e.off + e.size }

// Open reads the headers of a PE file of the given size in bytes.
func Open(r io.ReaderAt, size int64) (*File, error) {
	f := &File{r: r, size: size}

	dos := make([]byte, 64)
	if err := f.read("DOS header", dos, 0); err != nil {
		return nil, err
	}
	if dos[0] != 'M' || dos[1] != 'Z' {
		return nil, fmt.Errorf("not a PE file: no MZ at offset 0")
	}
	peOff := int64(binary.LittleEndian.Uint32(dos[0x3C:]))
	coff := make([]byte, 4+coffHeaderSize)
	if err := f.read("PE header", coff, peOff); err != nil {
		return nil, err
	}
	if string(coff[:4]) != "PE\x00\x00" {
		return nil, fmt.Errorf("not a PE file: no PE signature at offset %d", peOff)
	}
	f.Machine = Machine(binary.LittleEndian.Uint16(coff[4:]))
	count := int(binary.LittleEndian.Uint16(coff[6:]))
	optSize := int64(binary.LittleEndian.Uint16(coff[20:]))
	if f.Machine.Arch() == "" {
		return nil, fmt.Errorf("PE header: machine %v: unknown", f.Machine)
	}
	if count > maxSections {
		return nil, fmt.Errorf("PE header: %d sections: more than %d", count, maxSections)
	}

	optOff := peOff + int64(len(coff))
	tableOff := optOff + optSize
	tableEnd := tableOff + int64(count)*sectionHeaderSize
	opt := make([]byte, optSize)
	if err := f.read("optional header", opt, optOff); err != nil {
		return nil, err
	}
	sizeOfImage, sizeOfHeaders, err := f.parseOptional(opt, optOff)
	if err != nil {
		return nil, err
	}
	if tableEnd > sizeOfHeaders {
		return nil, fmt.Errorf("section table: ends at %d, beyond the headers (%d bytes)", tableEnd, sizeOfHeaders)
	}
	if sizeOfHeaders > size {
		return nil, fmt.Errorf("optional header: SizeOfHeaders %d: the file has %d bytes", sizeOfHeaders, size)
	}
	if sizeOfHeaders > 1<<20 {
		return nil, fmt.Errorf("optional header: SizeOfHeaders %d: more than %d", sizeOfHeaders, 1<<20)
	}
	f.headers = make([]byte, sizeOfHeaders)
	if err := f.read("headers", f.headers, 0); err != nil {
		return nil, err
	}

	zeroFill := int64(0)
	for i := range count {
		h := f.headers[tableOff+int64(i)*sectionHeaderSize:][:sectionHeaderSize]
		s := &Section{
			Name:           strings.TrimRight(string(h[:8]), "\x00"),
			VirtualSize:    binary.LittleEndian.Uint32(h[8:]),
			VirtualAddress: binary.LittleEndian.Uint32(h[12:]),
			RawSize:        binary.LittleEndian.Uint32(h[16:]),
			RawOffset:      binary.LittleEndian.Uint32(h[20:]),
			r:              r,
		}
		if err := s.check(size, sizeOfHeaders, sizeOfImage); err != nil {
			return nil, err
		}
		_, backed := s.FileRange()
		if zeroFill += s.Size() - backed; zeroFill > maxZeroFill {
			return nil, fmt.Errorf("section %q: claims %d bytes, but the file has %d of them; with the sections before it, more than %d are missing", s.Name, s.Size(), backed, maxZeroFill)
		}
		f.Sections = append(f.Sections, s)
	}
	if err := f.checkOverlaps(); err != nil {
		return nil, err
	}
	return f, nil
}

// read fills b from the file at off.
func (f *File) read(what string, b []byte, off int64) error {
	if off+int64(len(b)) > f.size {
		return fmt.Errorf("%s: truncated: wants %d bytes at %d, the file has %d", what, len(b), off, f.size)
	}
	if n, err := f.r.ReadAt(b, off); n < len(b) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("%s: read at %d: %w", what, off, err)
	}
	return nil
}

// parseOptional reads what is needed of the optional header, which starts at off.
func (f *File) parseOptional(opt []byte, off int64) (sizeOfImage, sizeOfHeaders int64, err error) {
	if len(opt) < 2 {
		return 0, 0, fmt.Errorf("optional header: %d bytes: too short", len(opt))
	}
	var dirs int // offset of the data directories, PE/COFF "Optional Header"
	switch magic := binary.LittleEndian.Uint16(opt); magic {
	case 0x10b: // PE32
		dirs = 96
	case 0x20b: // PE32+
		dirs = 112
	default:
		return 0, 0, fmt.Errorf("optional header: magic 0x%04x: neither PE32 nor PE32+", magic)
	}
	if len(opt) < dirs {
		return 0, 0, fmt.Errorf("optional header: %d bytes: too short, wants %d", len(opt), dirs)
	}
	sizeOfImage = int64(binary.LittleEndian.Uint32(opt[56:]))
	sizeOfHeaders = int64(binary.LittleEndian.Uint32(opt[60:]))
	f.checksumOff = int(off) + 64

	count := int64(binary.LittleEndian.Uint32(opt[dirs-4:]))
	if int64(len(opt)) < int64(dirs)+count*8 {
		return 0, 0, fmt.Errorf("optional header: %d data directories do not fit into %d bytes", count, len(opt))
	}
	if count > pe.IMAGE_DIRECTORY_ENTRY_SECURITY {
		d := dirs + pe.IMAGE_DIRECTORY_ENTRY_SECURITY*8
		f.certDirOff = int(off) + d
		f.cert = extent{int64(binary.LittleEndian.Uint32(opt[d:])), int64(binary.LittleEndian.Uint32(opt[d+4:]))}
		if f.cert.size > 0 && f.cert.end() > f.size {
			return 0, 0, fmt.Errorf("certificate table: %d bytes at %d: outside the file (%d bytes)", f.cert.size, f.cert.off, f.size)
		}
	}
	return sizeOfImage, sizeOfHeaders, nil
}

// checkOverlaps refuses files in which two sections share bytes of the file. In
// memory, real files have such sections: see Overlapping.
func (f *File) checkOverlaps() error {
	var sorted []*Section
	for _, s := range f.Sections {
		if s.RawSize > 0 {
			sorted = append(sorted, s)
		}
	}
	slices.SortStableFunc(sorted, func(a, b *Section) int { return cmp.Compare(a.RawOffset, b.RawOffset) })
	for i := 1; i < len(sorted); i++ {
		if a, b := sorted[i-1], sorted[i]; a.raw().end() > b.raw().off {
			return fmt.Errorf("sections %q and %q overlap in the file at %d", a.Name, b.Name, b.RawOffset)
		}
	}
	return nil
}

// Overlapping returns another section that shares memory with s, or nil.
// Firmware copies sections one over the other then, so that neither is in
// memory what its header says. UKIs with systemd-stub 252 have this harmlessly:
// ukify lets .sbat, which that stub does not use, grow into .sdmagic.
func (f *File) Overlapping(s *Section) *Section {
	for _, o := range f.Sections {
		if o != s && o.mapped().size > 0 && s.mapped().size > 0 &&
			o.mapped().off < s.mapped().end() && s.mapped().off < o.mapped().end() {
			return o
		}
	}
	return nil
}

// Size returns the size of the file in bytes.
func (f *File) Size() int64 { return f.size }

// ReadAt reads from the file.
func (f *File) ReadAt(b []byte, off int64) (int, error) { return f.r.ReadAt(b, off) }

// Signed tells whether the file has a certificate table. It says nothing about
// what is in it.
func (f *File) Signed() bool { return f.cert.size > 0 }

// TrimPadding returns the size of the file without zero bytes behind its
// certificate table. A signed kernel that is taken out of a section may have
// the section's padding behind it, which would break its signature (the kernel
// hashes trailing bytes: Linux 6.12, crypto/asymmetric_keys/verify_pefile.c).
// Where the file is not signed, or the bytes are not zero, it is the whole size.
func (f *File) TrimPadding() (int64, error) {
	if f.cert.size == 0 || f.size-f.cert.end() > maxZeroFill {
		return f.size, nil
	}
	tail := make([]byte, min(f.size-f.cert.end(), 64<<10))
	for off := f.cert.end(); off < f.size; off += int64(len(tail)) {
		tail = tail[:min(int64(len(tail)), f.size-off)]
		if err := f.read("padding", tail, off); err != nil {
			return 0, err
		}
		if len(bytes.Trim(tail, "\x00")) != 0 {
			return f.size, nil
		}
	}
	return f.cert.end(), nil
}
