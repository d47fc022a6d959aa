package compress

import (
	"bufio"
	"compress/bzip2"
	"io"
)

// A bzip2Source gives compress/bzip2 its input byte by byte. Where a stream ends
// is known to that package alone, and it looks at the two bytes behind: they
// are the magic number of another stream, or an error. So the last two bytes
// given stay in r, and behind the end of r there are two zero bytes.
type bzip2Source struct {
	r     *bufio.Reader
	given int // bytes of r that were given, and are still in it; at most 2
	zeros int // given, behind the end of r
}

// ReadByte gives the next byte.
func (s *bzip2Source) ReadByte() (byte, error) {
	b, err := s.r.Peek(s.given + 1)
	switch {
	case err == io.EOF && s.zeros < 2:
		s.zeros++
		return 0, nil
	case err != nil:
		return 0, err
	case s.given < 2:
		s.given++
		return b[s.given-1], nil
	}
	next := b[2]
	_, err = s.r.Discard(1)
	return next, err
}

// Read gives one byte; compress/bzip2 does not use it.
func (s *bzip2Source) Read(b []byte) (n int, err error) {
	if len(b) > 0 {
		b[0], err = s.ReadByte()
		n = 1
	}
	return n, err
}

// end takes out of r what belongs to the stream.
func (s *bzip2Source) end() error {
	_, err := s.r.Discard(max(0, s.given+s.zeros-2))
	return err
}

// errNoStream is what compress/bzip2 says when no stream follows.
const errNoStream = bzip2.StructuralError("bad magic value in continuation file")

// A bzip2Reader ends where no stream follows, and only there: another end, or
// other error, behind the end of the input is not one of the stream.
type bzip2Reader struct {
	r   io.Reader
	src *bzip2Source
}

// Read reads unpacked data.
func (z *bzip2Reader) Read(b []byte) (int, error) {
	n, err := z.r.Read(b)
	switch {
	case err == errNoStream:
		if err = z.src.end(); err == nil {
			err = io.EOF
		}
	case err != nil && z.src.zeros > 0:
		err = io.ErrUnexpectedEOF
	}
	return n, err
}
