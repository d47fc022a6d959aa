package compress

import (
	"bufio"
	"io"
)

// A frame passes on exactly one stream. The libraries read on behind it, for
// more streams; they find the end there. On the way it refuses headers that
// would make them allocate too much, or that they do not know.
type frame struct {
	r    *bufio.Reader
	step func() error // takes the next header; nil behind the last one
	head []byte       // taken and not yet passed on
	body int64        // bytes to pass on before the next step
	err  error
}

// Read passes on bytes of the stream.
func (f *frame) Read(b []byte) (n int, err error) {
	if len(b) == 0 {
		return 0, nil
	}
	for f.err == nil && len(f.head) == 0 && f.body == 0 {
		if f.step == nil {
			f.err = io.EOF
		} else if err := f.step(); err != nil {
			f.err = err
		}
	}
	switch {
	case f.err != nil:
		return 0, f.err
	case len(f.head) > 0:
		n = copy(b, f.head)
		f.head = f.head[n:]
		return n, nil
	}
	n, err = f.r.Read(b[:min(int64(len(b)), f.body)])
	f.body -= int64(n)
	if err != nil {
		f.err = unexpected(err)
	}
	return n, f.err
}

// take reads n bytes of a header, which are passed on, too.
func (f *frame) take(n int) ([]byte, error) {
	at := len(f.head)
	f.head = append(f.head, make([]byte, n)...)
	_, err := io.ReadFull(f.r, f.head[at:])
	return f.head[at:], unexpected(err)
}

// ended tells whether all of the stream has been passed on.
func (f *frame) ended() bool { return f.step == nil && len(f.head) == 0 && f.body == 0 }

func unexpected(err error) error {
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}
