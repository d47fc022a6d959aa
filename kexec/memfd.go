package kexec

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// copyBuffer is how much is copied at a time, in bytes.
const copyBuffer = 1 << 20

// newMemfd returns an empty memory file. The name shows up in IMA's log as
// "memfd:NAME" when the kernel reads the file.
func newMemfd(name string) (*os.File, error) {
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	// With vm.memfd_noexec=2 only this flag is allowed; before Linux 6.3 it is not known.
	fd, err := unix.MemfdCreate(name, flags|unix.MFD_NOEXEC_SEAL)
	if errors.Is(err, unix.EINVAL) {
		fd, err = unix.MemfdCreate(name, flags)
	}
	if err != nil {
		return nil, fmt.Errorf("memfd_create %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// seal makes the contents and size of a memory file final: nobody, this process
// and root included, can change them any more.
func seal(f *os.File) error {
	const seals = unix.F_SEAL_WRITE | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		return fmt.Errorf("seal memfd %s: %w", f.Name(), err)
	}
	return nil
}

// copyRange copies size bytes at off of r to f at to. Less than that is an error.
func copyRange(f *os.File, to int64, r io.ReaderAt, off, size int64, buf []byte, progress func(int64)) error {
	for done := int64(0); done < size; {
		b := buf[:min(int64(len(buf)), size-done)]
		if n, err := r.ReadAt(b, off+done); n < len(b) {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("read at %d: %w", off+done+int64(n), err)
		}
		if _, err := f.WriteAt(b, to+done); err != nil {
			return fmt.Errorf("write to memory: %w", err)
		}
		done += int64(len(b))
		progress(int64(len(b)))
	}
	return nil
}
