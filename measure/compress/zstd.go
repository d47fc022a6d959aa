package compress

import (
	"bufio"
	"encoding/binary"
	"errors"
)

// zstdFrame passes on one zstd frame (RFC 8878, 3.1.1): a header, blocks, and
// a checksum if the header says so.
func zstdFrame(r *bufio.Reader) *frame {
	f := &frame{r: r}
	var checksum bool
	block := func() error {
		b, err := f.take(3)
		if err != nil {
			return err
		}
		h := uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16
		f.body = int64(h >> 3)
		switch h >> 1 & 3 {
		case 1: // one byte, many times
			f.body = 1
		case 3:
			return errors.New("a block of a reserved type")
		}
		if h&1 != 0 { // the last one
			f.step = nil
			if checksum {
				f.step = func() error {
					f.step = nil
					_, err := f.take(4)
					return err
				}
			}
		}
		return nil
	}
	f.step = func() error {
		window, err := f.takeZstdHeader(&checksum)
		if err != nil {
			return err
		}
		f.step = block
		return checkWindow(window)
	}
	return f
}

// takeZstdHeader takes the magic number and the frame header (RFC 8878, 3.1.1.1).
func (f *frame) takeZstdHeader(checksum *bool) (window uint64, err error) {
	b, err := f.take(5)
	if err != nil {
		return 0, err
	}
	flags := b[4]
	*checksum = flags&4 != 0
	single := flags&0x20 != 0 // the window is the whole content
	if flags&3 != 0 {
		return 0, errors.New("needs a dictionary")
	}
	size := [...]int{0, 2, 4, 8}[flags>>6]
	if single && size == 0 {
		size = 1
	}
	if !single {
		b, err := f.take(1)
		if err != nil {
			return 0, err
		}
		window = 1 << (10 + b[0]>>3)
		window += window / 8 * uint64(b[0]&7)
	}
	if b, err = f.take(size); err != nil || !single {
		return window, err
	}
	window = binary.LittleEndian.Uint64(append(b[:size:size], make([]byte, 8)...))
	if size == 2 {
		window += 256
	}
	return window, nil
}
