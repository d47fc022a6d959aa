package compress

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/ulikunitz/xz/lzma"
)

// maxOpenBlocks is how many blocks of an xz stream may leave open how much they
// unpack to, which xz without threads does. For each block a dictionary is
// allocated, so that many small ones would take a long time.
const maxOpenBlocks = 256

// An xzParser finds its way through an xz stream (xz-utils,
// doc/xz-file-format.txt): a header, blocks, an index and a footer. What
// matches what is the library's business.
type xzParser struct {
	*frame
	check  int    // size of the check behind each block, in bytes
	size   int    // of the block's data or of the index, so far, modulo 4
	open   int    // blocks that do not tell their size
	remain uint64 // numbers in the index to come
}

// xzFrame passes on one xz stream.
func xzFrame(r *bufio.Reader) *frame {
	x := &xzParser{frame: &frame{r: r}}
	x.step = x.header
	return x.frame
}

// header takes the stream header (2.1.1).
func (x *xzParser) header() error {
	b, err := x.take(12)
	if err != nil {
		return err
	}
	if string(b[:6]) != "\xFD7zXZ\x00" {
		return errors.New("no magic number")
	}
	sizes := map[byte]int{0: 0, 1: 4, 4: 8, 10: 32} // none, CRC32, CRC64, SHA-256
	size, ok := sizes[b[7]]
	if !ok {
		return fmt.Errorf("check type %d: not known", b[7])
	}
	x.check, x.step = size, x.block
	return nil
}

// block takes a block header (3.1), or the indicator that the index begins.
func (x *xzParser) block() error {
	b, err := x.take(1)
	if err != nil {
		return err
	}
	x.size = 0
	if b[0] == 0 {
		x.size = 1
		x.step = x.index
		return nil
	}
	b, err = x.take(int(b[0])*4 + 3)
	if err != nil {
		return err
	}
	flags, b := b[0], b[1:]
	number := func() (v uint64) {
		if err == nil {
			v, b, err = cutNumber(b)
		}
		return v
	}
	if flags&0x40 != 0 {
		number() // compressed size
	}
	if flags&0x80 != 0 {
		number() // uncompressed size
	} else if x.open++; x.open > maxOpenBlocks {
		return fmt.Errorf("more than %d blocks of unknown size", maxOpenBlocks)
	}
	id, size := number(), number() // of the first filter and of its properties
	switch {
	case err != nil:
		return err
	case id != 0x21 || flags&3 != 0:
		return fmt.Errorf("filter 0x%x: not supported, only LZMA2 alone is", id)
	case size != 1 || len(b) == 0:
		return errors.New("block header: no dictionary size")
	}
	dict, err := lzma.DecodeDictCap(b[0])
	if err != nil {
		return err
	}
	x.step = x.chunk
	return checkWindow(uint64(dict))
}

// chunk takes a chunk of LZMA2 data, or its end with the padding and the check
// of the block behind it.
func (x *xzParser) chunk() error {
	b, err := x.take(1)
	if err != nil {
		return err
	}
	control, head := b[0], 2 // the size of what is not compressed
	switch {
	case control == 0:
		x.step = x.block
		x.body = int64(3-x.size&3) + int64(x.check)
		return nil
	case control >= 0xC0: // uncompressed and compressed size, properties
		head = 5
	case control >= 0x80:
		head = 4
	case control > 2:
		return fmt.Errorf("LZMA2 chunk of type 0x%02x", control)
	}
	if b, err = x.take(head); err != nil {
		return err
	}
	if control >= 0x80 {
		b = b[2:]
	}
	x.body = int64(binary.BigEndian.Uint16(b)) + 1
	x.size = (x.size + 1 + head + int(x.body)) & 3
	return nil
}

// index takes the number of records in the index (4), each of two numbers.
func (x *xzParser) index() error {
	n, err := x.takeNumber()
	if err != nil {
		return err
	}
	x.remain = n
	x.step = x.records
	return nil
}

// records takes a record of the index, and behind the last one the padding, the
// CRC32 and the footer of the stream.
func (x *xzParser) records() error {
	if x.remain == 0 {
		x.step = nil
		x.body = int64(-x.size&3) + 4 + 12
		return nil
	}
	x.remain--
	for range 2 {
		if _, err := x.takeNumber(); err != nil {
			return err
		}
	}
	return nil
}

// takeNumber takes a number of up to nine bytes (1.2).
func (x *xzParser) takeNumber() (uint64, error) {
	at := len(x.head)
	for range 9 {
		b, err := x.take(1)
		if err != nil {
			return 0, err
		}
		x.size++
		if b[0] < 0x80 {
			n, _, err := cutNumber(x.head[at:])
			return n, err
		}
	}
	return 0, errNumber
}

var errNumber = errors.New("a number without an end")

func cutNumber(b []byte) (uint64, []byte, error) {
	v, n := binary.Uvarint(b[:min(len(b), 9)])
	if n <= 0 {
		return 0, nil, errNumber
	}
	return v, b[n:], nil
}
