package initrd

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
)

const (
	cpioHeaderSize = 110
	// maxPath is the longest name, NUL included, and the longest target of a
	// link. Linux skips what has more (PATH_MAX).
	maxPath = 4096
)

// The file types in a mode.
const (
	modeType      = 0o170000
	modeLink      = 0o120000
	modeRegular   = 0o100000
	modeDirectory = 0o040000
)

// An entry is a file in an archive.
type entry struct {
	name  string
	mode  uint32
	links uint32
	size  int64 // of the body
}

func (e *entry) isLink() bool      { return e.mode&modeType == modeLink }
func (e *entry) isRegular() bool   { return e.mode&modeType == modeRegular }
func (e *entry) isDirectory() bool { return e.mode&modeType == modeDirectory }

// errNoArchive: what follows is neither an entry of an archive nor padding.
var errNoArchive = errors.New("not a cpio archive")

// walkArchives goes through archives until the input ends or something else
// comes, which is errNoArchive. As for Linux, an archive needs no end: entries,
// at multiples of 4, and zero bytes follow each other (6.12, init/initramfs.c,
// unpack_to_rootfs, do_header, do_reset).
func walkArchives(in *input, files *files) error {
	for {
		b, err := in.Peek(1)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		switch {
		case b[0] == 0:
			if _, err := in.Discard(1); err != nil {
				return err
			}
		case b[0] == '0' && in.offset()%4 == 0:
			at := in.offset()
			if err := walkEntry(in, files); err != nil {
				return fmt.Errorf("cpio entry at %d: %w", at, unexpected(err))
			}
		default:
			return errNoArchive
		}
	}
}

// walkEntry reads one entry. The padding behind the body is left.
func walkEntry(in *input, files *files) error {
	h := make([]byte, cpioHeaderSize)
	if _, err := io.ReadFull(in, h); err != nil {
		return err
	}
	if magic := string(h[:6]); magic != "070701" && magic != "070702" {
		return fmt.Errorf("magic number %q: not the newc format", magic)
	}
	var fields [13]uint32
	for i := range fields {
		v, err := strconv.ParseUint(string(h[6+8*i:][:8]), 16, 32)
		if err != nil {
			return fmt.Errorf("a number that is not hexadecimal: %q", h[6+8*i:][:8])
		}
		fields[i] = uint32(v)
	}
	e := &entry{mode: fields[1], links: fields[4], size: int64(fields[6])}
	nameSize := int64(fields[11])
	padded := nameSize + (4-(cpioHeaderSize+nameSize)%4)%4
	switch {
	case nameSize == 0 || nameSize > maxPath,
		e.isLink() && e.size > maxPath,
		!e.isLink() && !e.isRegular() && e.size > 0:
		return in.skip(padded + e.size) // as Linux does
	}
	name := make([]byte, padded)
	if _, err := io.ReadFull(in, name); err != nil {
		return err
	}
	if name[nameSize-1] != 0 {
		return errors.New("a name without a NUL behind it")
	}
	e.name = string(name[:bytes.IndexByte(name, 0)])
	body := &io.LimitedReader{R: in, N: e.size}
	if e.name != "TRAILER!!!" {
		if err := files.add(e, body); err != nil {
			return err
		}
	}
	return in.skip(body.N)
}
