// Package compress unpacks what kernels and initrds are packed with.
//
// The input is not trusted. A reader takes its input in small pieces, unpacks
// one stream and leaves what follows it unread, gives no more output than it is
// allowed to, and refuses a stream that wants more memory than MaxWindow for
// what it has unpacked last; the rest that it needs is below 32 MiB. A stream
// that ends early is an error, and so is a checksum that does not match.
package compress

import (
	"bufio"
	"compress/bzip2"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz"
	"github.com/ulikunitz/xz/lzma"
)

// MaxWindow is the largest zstd window, or lzma or xz dictionary, that is
// accepted, in bytes. Linux takes no larger zstd window either (6.12,
// lib/decompress_unzstd.c, ZSTD_WINDOWSIZE_MAX), and builds kernels with no
// larger xz dictionary (6.12, scripts/xz_wrap.sh).
const MaxWindow = 128 << 20

// A Method is how something is compressed.
type Method string

// The methods that are recognised. Of them, LZO is not supported.
const (
	Gzip      Method = "gzip"
	Zstd      Method = "zstd"
	LZ4       Method = "lz4"        // the frame format
	LZ4Legacy Method = "lz4 legacy" // what Linux calls lz4
	LZMA      Method = "lzma"       // the .lzma format
	XZ        Method = "xz"
	Bzip2     Method = "bzip2"
	LZO       Method = "lzo" // of lzop
)

// magics are the first bytes of a stream. Linux looks at the first two of them
// (6.12, lib/decompress.c), and knows all but the lz4 frame format. For lzma it
// is the usual properties and the lower half of the dictionary's size.
var magics = []struct {
	method Method
	bytes  string
}{
	{Gzip, "\x1F\x8B"},
	{Zstd, "\x28\xB5\x2F\xFD"},
	{LZ4, "\x04\x22\x4D\x18"},
	{LZ4Legacy, "\x02\x21\x4C\x18"},
	{LZMA, "\x5D\x00\x00"},
	{XZ, "\xFD7zXZ\x00"},
	{Bzip2, "BZh"},
	{LZO, "\x89LZO\x00\r\n\x1A\n"},
}

// MagicSize is the number of bytes that Detect needs to tell all methods.
const MagicSize = 9

// Detect tells by its first bytes how something is compressed. ok is false if
// it is not, or not in a way that is known.
func Detect(head []byte) (m Method, ok bool) {
	for _, magic := range magics {
		if strings.HasPrefix(string(head[:min(len(head), MagicSize)]), magic.bytes) {
			return magic.method, true
		}
	}
	return "", false
}

// NewReader returns a reader that unpacks one stream (a gzip member, a zstd
// frame and the like) and then returns io.EOF; what follows the stream is left
// in r. Of lz4 legacy and bzip2, which have no certain end, streams that follow
// directly count as one. More than limit bytes of output are an error. An error
// names the method; one of r is wrapped.
func NewReader(m Method, r *bufio.Reader, limit int64) (io.Reader, error) {
	z := &reader{method: m, limit: limit, left: limit, size: -1}
	if err := z.open(r); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, z.fail(err)
	}
	return z, nil
}

// A reader unpacks one stream.
type reader struct {
	method Method
	r      io.Reader
	frame  *frame // what r reads from; nil if r finds the end by itself
	limit  int64
	left   int64 // of limit
	size   int64 // of the output as the stream says, -1 if it does not
	err    error
}

func (z *reader) open(r *bufio.Reader) (err error) {
	switch z.method {
	case Gzip:
		var gz *gzip.Reader
		if gz, err = gzip.NewReader(r); err != nil {
			return err
		}
		gz.Multistream(false)
		z.r = gz
	case Zstd:
		z.frame = zstdFrame(r)
		z.r, err = zstd.NewReader(z.frame, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(MaxWindow))
	case LZ4:
		z.frame, z.size, err = lz4Frame(r)
		z.r = lz4.NewReader(z.frame)
	case LZ4Legacy:
		z.r, err = newLegacyReader(r)
	case LZMA:
		if err := checkLZMA(r); err != nil {
			return err
		}
		z.r, err = lzma.ReaderConfig{DictCap: MaxWindow}.NewReader(r)
	case XZ:
		z.frame = xzFrame(r)
		z.r, err = xz.ReaderConfig{SingleStream: true}.NewReader(z.frame)
	case Bzip2:
		src := &bzip2Source{r: r}
		z.r = &bzip2Reader{bzip2.NewReader(src), src}
	default:
		return errors.New("not supported")
	}
	return err
}

// checkLZMA looks at the header of a .lzma file: properties, dictionary and
// uncompressed size (xz-utils, doc/lzma-file-format.txt).
func checkLZMA(r *bufio.Reader) error {
	h, err := r.Peek(13)
	if err != nil {
		return err
	}
	return checkWindow(uint64(binary.LittleEndian.Uint32(h[1:])))
}

func checkWindow(n uint64) error {
	if n > MaxWindow {
		return fmt.Errorf("a window of %d bytes: more than %d", n, MaxWindow)
	}
	return nil
}

// Read reads unpacked data.
func (z *reader) Read(b []byte) (int, error) {
	if z.err != nil {
		return 0, z.err
	}
	if int64(len(b))-1 > z.left { // one byte more, to see whether there is one
		b = b[:z.left+1]
	}
	n, err := z.r.Read(b)
	if int64(n) > z.left {
		n, err = int(z.left), fmt.Errorf("unpacks to more than %d bytes", z.limit)
	}
	z.left -= int64(n)
	if err == io.EOF {
		err = z.checkEnd()
	}
	if err == io.EOF {
		z.err = err
	} else if err != nil {
		z.err = z.fail(err)
	}
	return n, z.err
}

// checkEnd returns io.EOF if the stream may end here.
func (z *reader) checkEnd() error {
	if z.frame != nil && !z.frame.ended() {
		return io.ErrUnexpectedEOF
	}
	if n := z.limit - z.left; z.size >= 0 && n != z.size {
		return fmt.Errorf("unpacks to %d bytes, says that it has %d", n, z.size)
	}
	return io.EOF
}

// fail says what failed. The frame knows better than what reads from it.
func (z *reader) fail(err error) error {
	if z.frame != nil && z.frame.err != nil && z.frame.err != io.EOF {
		err = z.frame.err
	}
	return fmt.Errorf("%s stream: %w", z.method, err)
}
