package uki

import (
	"errors"
	"fmt"
	"io"
)

// A Section is one section of a PE file. It reads as what firmware maps into
// memory, VirtualSize bytes: the bytes of the file, without the padding to the
// file alignment, and zero bytes where the file has fewer. That is what
// systemd-stub measures and uses.
type Section struct {
	// Name is at most 8 bytes; NUL bytes at the end are cut off.
	Name           string
	VirtualSize    uint32 // bytes in memory
	VirtualAddress uint32 // where in memory, from the start of the image
	RawSize        uint32 // bytes in the file, padding included
	RawOffset      uint32 // where in the file

	r io.ReaderAt
}

// Size returns the number of bytes in memory.
func (s *Section) Size() int64 { return int64(s.VirtualSize) }

// FileRange returns the range of the file that backs the section, without padding.
func (s *Section) FileRange() (off, size int64) {
	return int64(s.RawOffset), int64(min(s.VirtualSize, s.RawSize))
}

// Prefix returns the section cut to its first size bytes, all of them backed by
// the file. size is at most what FileRange returns.
func (s *Section) Prefix(size int64) *Section {
	p := *s
	p.VirtualSize, p.RawSize = uint32(size), uint32(size)
	return &p
}

// raw returns the range of the file that the section header claims.
func (s *Section) raw() extent { return extent{int64(s.RawOffset), int64(s.RawSize)} }

// mapped returns the range of memory that firmware fills.
func (s *Section) mapped() extent {
	size := s.VirtualSize
	if size == 0 { // EDK2 then copies the raw data (PeCoffLoaderLoadImage)
		size = s.RawSize
	}
	return extent{int64(s.VirtualAddress), int64(size)}
}

// check checks the header against the sizes of the file, of its headers and of
// the image in memory.
func (s *Section) check(size, sizeOfHeaders, sizeOfImage int64) error {
	if r := s.raw(); r.size > 0 {
		if r.end() > size {
			return fmt.Errorf("section %q: %d bytes at %d: outside the file (%d bytes)", s.Name, r.size, r.off, size)
		}
		if r.off < sizeOfHeaders {
			return fmt.Errorf("section %q: at %d: inside the headers (%d bytes)", s.Name, r.off, sizeOfHeaders)
		}
	}
	if m := s.mapped(); m.size > 0 {
		if m.end() > 1<<32 {
			return fmt.Errorf("section %q: %d bytes at address 0x%x: wraps around 4 GiB", s.Name, m.size, m.off)
		}
		if m.end() > sizeOfImage {
			return fmt.Errorf("section %q: ends at address 0x%x, beyond the image (0x%x)", s.Name, m.end(), sizeOfImage)
		}
	}
	if _, backed := s.FileRange(); s.Size()-backed > maxZeroFill {
		return fmt.Errorf("section %q: claims %d bytes, but the file has %d of them; more than %d are missing", s.Name, s.Size(), backed, maxZeroFill)
	}
	return nil
}

// ReadAt reads the section as it is in memory.
func (s *Section) ReadAt(b []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("section %q: read at %d: negative offset", s.Name, off)
	}
	if off >= s.Size() {
		return 0, io.EOF
	}
	var atEnd error
	if rest := s.Size() - off; int64(len(b)) > rest {
		b, atEnd = b[:rest], io.EOF
	}
	start, backed := s.FileRange()
	n := 0
	if off < backed {
		want := b[:min(int64(len(b)), backed-off)]
		var err error
		if n, err = s.r.ReadAt(want, start+off); n < len(want) {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return n, fmt.Errorf("section %q: read at %d: %w", s.Name, start+off, err)
		}
	}
	clear(b[n:])
	return len(b), atEnd
}
