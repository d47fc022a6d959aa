// Package ukitest assembles unified kernel images for tests, laid out as ukify lays them out.
package ukitest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
)

// A Section is one section to add to a stub.
type Section struct {
	Name        string // at most 8 bytes
	Data        []byte
	VirtualSize uint32 // 0: len(Data)
}

// Offsets in the PE headers: of the file, the COFF header, the optional header (PE32+) and a section header.
const (
	peOffset = 0x3c

	coffSections     = 2
	coffSymbols      = 8
	coffSymbolCount  = 12
	coffOptionalSize = 16
	coffFlags        = 18
	coffSize         = 20

	optInitialized  = 8
	optSectionAlign = 32
	optFileAlign    = 36
	optImageSize    = 56
	optHeadersSize  = 60
	optCheckSum     = 64
	optDLLFlags     = 70
	optSecurityDir  = 112 + 4*8
	optSize         = 112 + 16*8

	secVirtualSize = 8
	secVirtualAddr = 12
	secRawSize     = 16
	secRawPointer  = 20
	secFlags       = 36
	secSize        = 40
)

const (
	dllNXCompat    = 0x0100
	scnCode        = 0x00000020
	scnInitialized = 0x00000040
	scnRead        = 0x40000000
)

var le = binary.LittleEndian

// Build appends sections to stub, a PE32+ file such as systemd-stub or the result of [Minimal], and returns
// the image. The section table keeps the order given, after the stub's own sections. A section that
// the stub has already, .sbat in practice, takes the place of that one's contents and must fit there.
func Build(stub []byte, sections ...Section) ([]byte, error) {
	im, err := open(stub)
	if err != nil {
		return nil, fmt.Errorf("stub: %w", err)
	}
	own := im.count()
	added := 0
	for _, s := range sections {
		if im.find(s.Name, own) == nil {
			added++
		}
	}
	if err := im.reserve(own + added); err != nil {
		return nil, err
	}
	for _, s := range sections {
		if err := im.add(s, own); err != nil {
			return nil, fmt.Errorf("section %s: %w", s.Name, err)
		}
	}
	return im.file, nil
}

// image is a PE file being changed. The header positions stay valid since headers only grow at their end.
type image struct {
	file      []byte
	coff, opt int
	table     int
}

func open(stub []byte) (*image, error) {
	opt, err := optional(stub)
	if err != nil {
		return nil, err
	}
	im := &image{file: slices.Clone(stub), coff: opt - coffSize, opt: opt}
	im.table = opt + int(le.Uint16(stub[im.coff+coffOptionalSize:]))
	if im.table-opt < optSize || im.count() == 0 || len(stub) < im.table+im.count()*secSize {
		return nil, errors.New("no section table")
	}
	if im.u32(opt+optSecurityDir) != 0 {
		return nil, errors.New("signed")
	}
	im.stripSymbols()
	im.put(opt+optCheckSum, 0)
	return im, nil
}

// optional returns where the optional header of a PE32+ file is.
func optional(file []byte) (int, error) {
	if len(file) < peOffset+4 {
		return 0, errors.New("not a PE file")
	}
	pe := int(le.Uint32(file[peOffset:]))
	opt := pe + 4 + coffSize
	if len(file) < opt+optDLLFlags+2 || string(file[pe:pe+4]) != "PE\x00\x00" || le.Uint16(file[opt:]) != 0x20b {
		return 0, errors.New("not a PE32+ file")
	}
	return opt, nil
}

func (im *image) u32(at int) uint32     { return le.Uint32(im.file[at:]) }
func (im *image) put(at int, v uint32)  { le.PutUint32(im.file[at:], v) }
func (im *image) count() int            { return int(le.Uint16(im.file[im.coff+coffSections:])) }
func (im *image) header(i int) []byte   { return im.file[im.table+i*secSize:][:secSize] }
func (im *image) fileAlign(n int) int   { return align(n, int(im.u32(im.opt+optFileAlign))) }
func (im *image) memAlign(n uint32) int { return align(int(n), int(im.u32(im.opt+optSectionAlign))) }

// find returns the header of the section called name among the first n, or nil.
func (im *image) find(name string, n int) []byte {
	for i := range n {
		if h := im.header(i); strings.TrimRight(string(h[:8]), "\x00") == name {
			return h
		}
	}
	return nil
}

// stripSymbols drops a symbol table at the end of the file, which stubs up to 253 have.
func (im *image) stripSymbols() {
	start := int(im.u32(im.coff + coffSymbols))
	strings := start + 18*int(im.u32(im.coff+coffSymbolCount))
	if start == 0 || strings+4 > len(im.file) || strings+int(im.u32(strings)) != len(im.file) {
		return
	}
	im.file = im.file[:start]
	im.put(im.coff+coffSymbols, 0)
	im.put(im.coff+coffSymbolCount, 0)
}

// reserve makes room for n section headers, if need be by moving the contents of all sections.
func (im *image) reserve(n int) error {
	if n > math.MaxUint16 {
		return fmt.Errorf("%d sections: too many", n)
	}
	room, first := len(im.file), uint32(math.MaxUint32)
	for i := range im.count() {
		h := im.header(i)
		first = min(first, le.Uint32(h[secVirtualAddr:]))
		if p := int(le.Uint32(h[secRawPointer:])); p != 0 {
			room = min(room, p)
		}
	}
	end := im.table + n*secSize
	if end > int(first) {
		return fmt.Errorf("%d section headers do not fit before the first section at %#x", n, first)
	}
	if grow := im.fileAlign(max(0, end-room)); grow > 0 {
		im.file = slices.Insert(im.file, room, make([]byte, grow)...)
		for i := range im.count() {
			if p := im.header(i)[secRawPointer:]; le.Uint32(p) != 0 {
				le.PutUint32(p, le.Uint32(p)+uint32(grow))
			}
		}
		if p := im.u32(im.coff + coffSymbols); p != 0 {
			im.put(im.coff+coffSymbols, p+uint32(grow))
		}
	}
	size := max(im.fileAlign(end), im.fileAlign(int(im.u32(im.opt+optHeadersSize))))
	im.put(im.opt+optHeadersSize, uint32(size))
	return nil
}

// add appends one section, or puts its data into the section of that name among the stub's own.
func (im *image) add(s Section, own int) error {
	if len(s.Name) > 8 {
		return errors.New("name longer than 8 bytes")
	}
	size := s.VirtualSize
	if size == 0 {
		size = uint32(len(s.Data))
	}
	if h := im.find(s.Name, own); h != nil {
		raw := im.file[le.Uint32(h[secRawPointer:]):][:le.Uint32(h[secRawSize:])]
		if len(s.Data) > len(raw) {
			return fmt.Errorf("%d bytes do not fit in the %d that the stub has for it", len(s.Data), len(raw))
		}
		clear(raw[copy(raw, s.Data):])
		le.PutUint32(h[secVirtualSize:], size)
		return nil
	}

	n := im.count()
	last := im.header(n - 1)
	addr := im.memAlign(le.Uint32(last[secVirtualAddr:]) + le.Uint32(last[secVirtualSize:]))
	start := im.fileAlign(len(im.file))
	end := im.fileAlign(start + len(s.Data))
	if end > math.MaxInt32 || addr+int(size) > math.MaxInt32 {
		return errors.New("image too large")
	}
	flags := uint32(scnRead | scnInitialized)
	if s.Name == ".linux" {
		flags = scnRead | scnCode // kernels before the EFI handover protocol went away run in place
		im.matchNX(s.Data)
	}
	im.file = slices.Grow(im.file, end-len(im.file))[:end]
	clear(im.file[start+copy(im.file[start:], s.Data):])

	h := im.header(n)
	clear(h)
	copy(h, s.Name)
	le.PutUint32(h[secVirtualSize:], size)
	le.PutUint32(h[secVirtualAddr:], uint32(addr))
	le.PutUint32(h[secRawSize:], uint32(end-start))
	le.PutUint32(h[secRawPointer:], uint32(start))
	le.PutUint32(h[secFlags:], flags)
	le.PutUint16(im.file[im.coff+coffSections:], uint16(n+1))
	im.put(im.opt+optInitialized, im.u32(im.opt+optInitialized)+size)
	im.put(im.opt+optImageSize, uint32(im.memAlign(uint32(addr)+size)))
	return nil
}

// matchNX clears the NX_COMPAT flag of the image if kernel is a PE file without it: firmware wants them equal.
func (im *image) matchNX(kernel []byte) {
	opt, err := optional(kernel)
	if err == nil && le.Uint16(kernel[opt+optDLLFlags:])&dllNXCompat == 0 {
		im.file[im.opt+optDLLFlags+1] &^= dllNXCompat >> 8
	}
}

func align(n, to int) int {
	if to <= 1 {
		return n
	}
	return (n + to - 1) / to * to
}

// Minimal returns a small PE file that passes for the systemd-stub of the given version, such as "257.13-1".
// It has the sections .text and .sdmagic and room for 66 more. Started, it returns at once.
func Minimal(version string) []byte {
	const (
		pe      = 0x40
		opt     = pe + 4 + coffSize
		table   = opt + optSize
		headers = 0xc00 // 0x148 + 68 * 40, aligned
	)
	magic := fmt.Sprintf("#### LoaderInfo: systemd-stub %s ####", version)
	f := make([]byte, headers)
	copy(f, "MZ")
	le.PutUint32(f[peOffset:], pe)
	copy(f[pe:], "PE\x00\x00")
	le.PutUint16(f[pe+4:], 0x8664)
	le.PutUint16(f[pe+4+coffOptionalSize:], optSize)
	le.PutUint16(f[pe+4+coffFlags:], 0x22e) // executable, large addresses, no line numbers, symbols, debug data
	le.PutUint16(f[opt:], 0x20b)
	le.PutUint32(f[opt+16:], 0x1000) // entry point
	le.PutUint32(f[opt+20:], 0x1000) // base of code
	le.PutUint32(f[opt+optSectionAlign:], 4096)
	le.PutUint32(f[opt+optFileAlign:], 512)
	le.PutUint32(f[opt+optHeadersSize:], headers)
	le.PutUint16(f[opt+68:], 10) // EFI application
	le.PutUint16(f[opt+optDLLFlags:], 0x160)
	le.PutUint32(f[opt+108:], 16) // data directories

	section := func(i int, name string, flags uint32, data []byte) {
		h := f[table+i*secSize:]
		copy(h, name)
		le.PutUint32(h[secVirtualSize:], uint32(len(data)))
		le.PutUint32(h[secVirtualAddr:], uint32(i+1)*4096)
		le.PutUint32(h[secRawSize:], uint32(align(len(data), 512)))
		le.PutUint32(h[secRawPointer:], uint32(len(f)))
		le.PutUint32(h[secFlags:], flags)
		f = append(f, data...)
		f = append(f, make([]byte, align(len(f), 512)-len(f))...)
		le.PutUint16(f[pe+4+coffSections:], uint16(i+1))
		le.PutUint32(f[opt+optImageSize:], uint32(i+2)*4096)
	}
	section(0, ".text", 0x60000020, []byte{0x31, 0xc0, 0xc3}) // xor eax, eax; ret
	section(1, ".sdmagic", scnRead|scnInitialized, []byte(magic))
	return f
}
