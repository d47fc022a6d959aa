package compress

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/pierrec/lz4/v4"
)

// lz4Frame passes on one lz4 frame (lz4, doc/lz4_Frame_format.md): a header,
// blocks, an end mark, and checksums if the header says so. It returns the size
// of the content, too, -1 if the header does not have it. The library takes the
// end of the input for the end mark, and does not compare the size.
func lz4Frame(r *bufio.Reader) (_ *frame, size int64, err error) {
	f := &frame{r: r}
	b, err := f.take(7) // magic, flags, block descriptor, and more
	if err != nil {
		return f, -1, err
	}
	flags := b[4]
	if flags&1 != 0 {
		return f, -1, errors.New("needs a dictionary")
	}
	size = -1
	if flags&8 != 0 {
		if _, err := f.take(8); err != nil {
			return f, -1, err
		}
		if size = int64(binary.LittleEndian.Uint64(f.head[6:])); size < 0 {
			return f, -1, fmt.Errorf("a content of %d bytes", uint64(size))
		}
	}
	checksum := func(flag byte) int64 {
		if flags&flag != 0 {
			return 4
		}
		return 0
	}
	f.step = func() error {
		b, err := f.take(4)
		if err != nil {
			return err
		}
		h := binary.LittleEndian.Uint32(b)
		if h == 0 { // the end mark
			f.step = nil
			f.body = checksum(4)
			return nil
		}
		f.body = int64(h&0x7FFFFFFF) + checksum(0x10) // the high bit: not compressed
		return nil
	}
	return f, size, nil
}

// A legacyReader unpacks the format that Linux calls lz4, of lz4 -l: a magic
// number, then blocks of at most 8 MiB with their compressed size before them.
// It has no end mark. As Linux does (6.12, lib/decompress_unlz4.c), it ends at
// the end of the input and where the size is 0, which is padding.
type legacyReader struct {
	r       *bufio.Reader
	packed  bytes.Buffer
	buf     []byte // a block
	pending []byte // of buf
}

const (
	legacyMagic = 0x184C2102
	legacyBlock = 8 << 20
	// legacyBound is the size of a block that cannot be compressed
	// (lz4.h, LZ4_COMPRESSBOUND).
	legacyBound = legacyBlock + legacyBlock/255 + 16
)

func newLegacyReader(r *bufio.Reader) (*legacyReader, error) {
	b, err := r.Peek(4)
	if err != nil {
		return nil, err
	}
	if binary.LittleEndian.Uint32(b) != legacyMagic {
		return nil, errors.New("no magic number")
	}
	return &legacyReader{r: r}, nil
}

// Read reads unpacked data.
func (l *legacyReader) Read(b []byte) (int, error) {
	for len(l.pending) == 0 {
		if err := l.next(); err != nil {
			return 0, err
		}
	}
	n := copy(b, l.pending)
	l.pending = l.pending[n:]
	return n, nil
}

// next unpacks the next block. At the end it returns io.EOF.
func (l *legacyReader) next() error {
	b, err := l.r.Peek(4)
	if err == io.EOF && len(bytes.Trim(b, "\x00")) == 0 {
		return io.EOF // padding, if anything
	}
	if err != nil {
		return unexpected(err)
	}
	size := binary.LittleEndian.Uint32(b)
	if size == 0 {
		return io.EOF
	}
	if _, err := l.r.Discard(4); err != nil {
		return err
	}
	if size == legacyMagic { // another stream
		return nil
	}
	if size > legacyBound {
		return fmt.Errorf("a block of %d bytes: more than %d", size, legacyBound)
	}
	l.packed.Reset()
	if _, err := io.CopyN(&l.packed, l.r, int64(size)); err != nil {
		return unexpected(err)
	}
	if l.buf == nil {
		l.buf = make([]byte, legacyBlock)
	}
	n, err := lz4.UncompressBlock(l.packed.Bytes(), l.buf)
	if err != nil {
		return err
	}
	l.pending = l.buf[:n]
	return nil
}
