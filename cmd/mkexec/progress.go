package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A progressBar draws how far some work has come, in bytes, if the work takes
// long enough for somebody to ask and there is a terminal to draw on.
type progressBar struct {
	done  atomic.Int64
	total int64
	stop  chan struct{}
	ended chan struct{}
}

// startProgress starts a bar of total bytes. The caller must call finish.
func startProgress(w io.Writer, what string, total int64) *progressBar {
	p := &progressBar{total: max(total, 1), stop: make(chan struct{}), ended: make(chan struct{})}
	if !isTerminal(w) {
		close(p.ended)
		return p
	}
	go p.draw(w, what)
	return p
}

// add says that n more bytes are done.
func (p *progressBar) add(n int64) { p.done.Add(n) }

// finish takes the bar away.
func (p *progressBar) finish() {
	close(p.stop)
	<-p.ended
}

func (p *progressBar) draw(w io.Writer, what string) {
	defer close(p.ended)
	const width = 30
	wait := 500 * time.Millisecond
	drawn := false
	for {
		select {
		case <-p.stop:
			if drawn {
				fmt.Fprint(w, "\r\x1b[K")
			}
			return
		case <-time.After(wait):
		}
		wait, drawn = 100*time.Millisecond, true
		done := min(p.done.Load(), p.total)
		filled := int(done * width / p.total)
		fmt.Fprintf(w, "\r%s [%s%s] %3d%%", what, strings.Repeat("#", filled), strings.Repeat(" ", width-filled), done*100/p.total)
	}
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
