package uki

import (
	"cmp"
	"fmt"
	"hash"
	"io"
	"slices"
)

// Authenticode writes what an Authenticode signature covers to h: the headers
// without the checksum and the certificate table's directory entry, the
// sections in the order of the file, and what is behind them, but not the
// certificate table (Microsoft, "Windows Authenticode Portable Executable
// Signature Format", "Calculating the PE Image Hash"). A file whose size is not
// a multiple of 8 is hashed with the zero bytes that signing it would append.
//
// It reads the whole file. Files that the firmware's and the kernel's readings
// of that text would hash differently are refused: gaps between sections, and a
// certificate table that is not the end of the file or that does not start at a
// multiple of 8, so that what is hashed would end there.
func (f *File) Authenticode(h hash.Hash) error {
	end := f.size
	if f.cert.size > 0 {
		if f.cert.end() != f.size {
			return fmt.Errorf("certificate table: ends at %d, not at the end of the file (%d bytes)", f.cert.end(), f.size)
		}
		if f.cert.off%8 != 0 {
			return fmt.Errorf("certificate table: starts at %d, not at a multiple of 8", f.cert.off)
		}
		end = f.cert.off
	}
	covered := int64(len(f.headers))
	sorted := slices.SortedFunc(slices.Values(f.Sections), func(a, b *Section) int {
		return cmp.Compare(a.raw().off, b.raw().off)
	})
	for _, s := range sorted {
		if s.RawSize == 0 {
			continue
		}
		if s.raw().off != covered {
			return fmt.Errorf("section %q: starts at %d, but what is before it ends at %d", s.Name, s.raw().off, covered)
		}
		covered = s.raw().end()
	}
	if covered > end {
		return fmt.Errorf("certificate table: starts at %d, inside the sections (%d)", end, covered)
	}

	rest := f.headers
	skip := func(from, size int) { // hash up to from, then leave out size bytes
		done := len(f.headers) - len(rest)
		h.Write(rest[:from-done])
		rest = rest[from-done+size:]
	}
	skip(f.checksumOff, 4)
	if f.certDirOff != 0 {
		skip(f.certDirOff, 8)
	}
	h.Write(rest)
	body := io.NewSectionReader(f.r, int64(len(f.headers)), end-int64(len(f.headers)))
	n, err := io.CopyBuffer(h, body, make([]byte, 256<<10))
	if err != nil {
		return fmt.Errorf("read at %d: %w", int64(len(f.headers))+n, err)
	}
	if n != body.Size() {
		return fmt.Errorf("read at %d: %w", int64(len(f.headers))+n, io.ErrUnexpectedEOF)
	}
	h.Write(make([]byte, (8-end%8)%8))
	return nil
}
