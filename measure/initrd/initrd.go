// Package initrd looks into initrds: what userspace is in one, and whether it
// extends PCRs before the root file system is mounted.
//
// An initrd is read as Linux unpacks it (6.12, init/initramfs.c): cpio archives
// of the newc format, one after the other with zero bytes between them, plain
// or compressed. Later files replace earlier ones, so all of it is read, once
// and in small pieces. The input is not trusted: nothing is allocated by what a
// header says, and there are limits on everything that is kept.
package initrd

import (
	"bufio"
	"errors"
	"fmt"
	"io"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/compress"
)

// ErrUnreadable is the error, or wrapped in it, when an initrd cannot be
// unpacked: not a cpio archive, not compressed in a way that is known, or broken.
var ErrUnreadable = errors.New("unreadable initrd")

const (
	// maxUnpacked is how much all the compressed parts may unpack to, in bytes.
	// Linux unpacks into memory.
	maxUnpacked = 4 << 30
	// maxStreams is how many compressed parts an initrd may have. Real ones have
	// a few; each costs memory and time to set up.
	maxStreams = 256
)

// Inspect reads an initrd, given in pieces that are one directly behind the
// other, such as measure.Image.Initrd. Without any piece there is no initrd, and
// nothing in it. An error of reading the pieces is returned as it is, any other
// one wraps ErrUnreadable.
func Inspect(pieces ...measure.Content) (*Userspace, error) {
	src := &source{pieces: pieces}
	files := newFiles()
	if err := walk(newInput(src), files); err != nil {
		if src.err != nil {
			return nil, fmt.Errorf("initrd: %w", src.err)
		}
		return nil, fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	return files.userspace(), nil
}

// walk goes through all parts of an initrd.
func walk(in *input, files *files) error {
	left := int64(maxUnpacked)
	for streams := 0; ; streams++ {
		err := walkArchives(in, files)
		if err == nil {
			return nil
		}
		if err != errNoArchive {
			return err
		}
		at := in.offset()
		head, err := in.Peek(compress.MagicSize)
		if err != nil && err != io.EOF {
			return err
		}
		method, ok := compress.Detect(head)
		switch {
		case !ok:
			return fmt.Errorf("at %d: neither a cpio archive nor compressed in a known way", at)
		case method == compress.LZ4:
			return fmt.Errorf("at %d: an lz4 frame: the kernel knows lz4 -l alone", at)
		case streams == maxStreams:
			return fmt.Errorf("at %d: more than %d compressed parts", at, maxStreams)
		}
		z, err := compress.NewReader(method, in.Reader, left)
		if err != nil {
			return fmt.Errorf("at %d: %w", at, err)
		}
		unpacked := newInput(z)
		if err := walkArchives(unpacked, files); err != nil {
			return fmt.Errorf("at %d, %s: %w", at, method, err)
		}
		left -= unpacked.offset()
	}
}

// An input is a reader that knows how far it has come.
type input struct {
	*bufio.Reader
	counter *counter
}

func newInput(r io.Reader) *input {
	c := &counter{r: r}
	return &input{bufio.NewReaderSize(c, 64<<10), c}
}

// offset returns the number of bytes read so far.
func (in *input) offset() int64 { return in.counter.n - int64(in.Buffered()) }

// skip reads n bytes and forgets them.
func (in *input) skip(n int64) error {
	_, err := io.CopyN(io.Discard, in.Reader, n)
	return unexpected(err)
}

type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += int64(n)
	return n, err
}

// A source reads pieces one after the other.
type source struct {
	pieces []measure.Content
	off    int64 // in the first of them
	err    error // of a piece
}

// Read reads from the pieces.
func (s *source) Read(b []byte) (int, error) {
	for len(s.pieces) > 0 && s.off >= s.pieces[0].Size() {
		s.pieces, s.off = s.pieces[1:], 0
	}
	if s.err != nil || len(s.pieces) == 0 {
		return 0, io.EOF
	}
	p := s.pieces[0]
	b = b[:min(int64(len(b)), p.Size()-s.off)]
	n, err := p.ReadAt(b, s.off)
	s.off += int64(n)
	if n < len(b) {
		s.err = unexpected(err)
		if s.err == nil {
			s.err = io.ErrUnexpectedEOF
		}
		return n, s.err
	}
	return n, nil
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
