package kexec

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/stub"
	"github.com/mkexec/mkexec/measure/uki"
)

// ErrChanged is the error when an image changes while it is staged.
var ErrChanged = errors.New("the image has changed since it was first read")

// A Source says where the bytes of an image come from. It is read once.
type Source struct {
	// UKI is a Unified Kernel Image. If it is nil, Linux is a bare kernel.
	UKI measure.Content
	// Linux, Initrds and Cmdline are an image without a UKI around it.
	Linux   measure.Content
	Initrds []measure.Content
	Cmdline string
}

// staged is an image in sealed memory, laid out as the kernel wants it. What is
// hashed and what is loaded are the same bytes.
type staged struct {
	boot   *stub.Boot
	whole  measure.Content // the UKI, or the bare kernel
	linux  *os.File
	initrd *os.File // nil if there is none
	rest   *os.File // the bytes of the UKI that are in neither; nil without one
	beside *os.File // the sidecars, one after the other; nil if there are none

	// kernel is what is loaded: linux, or what that unpacks to.
	kernel *os.File
}

func (s *staged) close() {
	for _, f := range []*os.File{s.linux, s.initrd, s.rest, s.beside, s.kernel} {
		if f != nil {
			f.Close()
		}
	}
}

// stage copies the source into sealed memory and applies the stub's rules to the copy.
func stage(src Source, opts stub.Options, progress func(int64)) (_ *staged, err error) {
	s := &staged{}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if s.linux, err = newMemfd("linux"); err != nil {
		return nil, err
	}
	if src.UKI == nil {
		return s, s.stageBare(src, progress)
	}
	if opts.Sidecars, err = s.stageSidecars(opts.Sidecars, progress); err != nil {
		return nil, err
	}
	return s, s.stageUKI(src.UKI, opts, progress)
}

// stageSidecars copies the files beside an image and returns the copies.
func (s *staged) stageSidecars(in stub.Sidecars, progress func(int64)) (out stub.Sidecars, err error) {
	if len(in.Image)+len(in.Addons)+len(in.Credentials)+len(in.Extensions)+len(in.Entry) == 0 {
		return in, nil
	}
	if s.beside, err = newMemfd("sidecars"); err != nil {
		return out, err
	}
	buf := make([]byte, copyBuffer)
	at := int64(0)
	stageFiles := func(files []stub.File) (copies []stub.File, err error) {
		for _, f := range files {
			size := f.Content.Size()
			if err := copyRange(s.beside, at, f.Content, 0, size, buf, progress); err != nil {
				return nil, fmt.Errorf("%s: %w", f.Name, err)
			}
			copies = append(copies, stub.File{Name: f.Name, Content: io.NewSectionReader(s.beside, at, size)})
			at += size
		}
		return copies, nil
	}
	for _, x := range []struct {
		in  []stub.File
		out *[]stub.File
	}{{in.Image, &out.Image}, {in.Addons, &out.Addons}, {in.Credentials, &out.Credentials}, {in.Extensions, &out.Extensions}, {in.Entry, &out.Entry}} {
		if *x.out, err = stageFiles(x.in); err != nil {
			return out, err
		}
	}
	return out, seal(s.beside)
}

// stageUKI copies a UKI. A first look at it tells where its kernel and the
// pieces of its initrd are, so that each byte is copied once, to where it is
// needed. Then everything is decided anew from the sealed copy.
func (s *staged) stageUKI(src measure.Content, opts stub.Options, progress func(int64)) error {
	look, err := load(src, opts)
	if err != nil {
		return err
	}
	if s.rest, err = newMemfd("uki"); err != nil {
		return err
	}
	view := &view{size: src.Size(), rest: s.rest, extents: s.layout(look)}
	if len(look.Initrd) > 0 {
		if s.initrd, err = newMemfd("initrd"); err != nil {
			return err
		}
		view.setInitrd(s.initrd)
		if err := s.initrd.Truncate(look.InitrdSize()); err != nil {
			return fmt.Errorf("initrd in memory: %w", err)
		}
	}
	if err := view.fill(src, progress); err != nil {
		return err
	}
	s.whole = view
	for _, f := range []*os.File{s.linux, s.rest} {
		if err := seal(f); err != nil {
			return err
		}
	}

	if s.boot, err = load(view, opts); err != nil {
		return err
	}
	if !slices.Equal(view.places(), places(s.layout(s.boot))) || s.boot.InitrdSize() != look.InitrdSize() {
		return ErrChanged
	}
	if s.initrd == nil {
		return nil
	}
	if err := writeGenerated(s.initrd, s.boot.Initrd); err != nil {
		return err
	}
	return seal(s.initrd)
}

func load(c measure.Content, opts stub.Options) (*stub.Boot, error) {
	f, err := uki.Open(c, c.Size())
	if err != nil {
		return nil, err
	}
	return stub.Load(f, opts)
}

// stageBare copies a kernel and initrds.
func (s *staged) stageBare(src Source, progress func(int64)) error {
	buf := make([]byte, copyBuffer)
	if err := copyRange(s.linux, 0, src.Linux, 0, src.Linux.Size(), buf, progress); err != nil {
		return fmt.Errorf("kernel: %w", err)
	}
	look, err := stub.Bare(src.Linux, src.Initrds, src.Cmdline)
	if err != nil {
		return err
	}
	linux := io.NewSectionReader(s.linux, 0, src.Linux.Size())
	var initrds []measure.Content
	if len(look.Initrd) > 0 {
		if s.initrd, err = newMemfd("initrd"); err != nil {
			return err
		}
		off := int64(0)
		for i, c := range look.Initrd { // padding included
			if err := copyRange(s.initrd, off, c, 0, c.Size(), buf, progress); err != nil {
				return fmt.Errorf("initrd, piece %d: %w", i+1, err)
			}
			off += c.Size()
		}
		initrds = []measure.Content{io.NewSectionReader(s.initrd, 0, off)}
		if err := seal(s.initrd); err != nil {
			return err
		}
	}
	if err := seal(s.linux); err != nil {
		return err
	}
	s.whole = linux
	s.boot, err = stub.Bare(linux, initrds, src.Cmdline)
	return err
}

// prepareKernel unpacks the kernel if kexec_file_load(2) does not take it as it
// is, and checks that it will take it. What is measured is the kernel as shipped.
func (s *staged) prepareKernel(arch string) error {
	what, r, err := unpackKernel(s.boot.Kernel, arch)
	if err != nil {
		return err
	}
	s.kernel = s.linux
	content := s.boot.Kernel
	if r != nil {
		if s.kernel, err = newMemfd("kernel"); err != nil {
			return err
		}
		size, err := io.Copy(s.kernel, r)
		if err != nil {
			return fmt.Errorf("unpack (%s): %w", what, err)
		}
		if err := seal(s.kernel); err != nil {
			return err
		}
		content = io.NewSectionReader(s.kernel, 0, size)
	}
	return checkKernel(content, s.boot.Cmdline, arch)
}

// writeGenerated writes the pieces of an initrd that are not sections of the
// UKI, which are there already, to where they belong: headers of archives, and
// sidecars.
func writeGenerated(f *os.File, pieces []measure.Content) error {
	buf := make([]byte, copyBuffer)
	off := int64(0)
	for _, c := range pieces {
		if _, ok := c.(*uki.Section); !ok {
			if err := copyRange(f, off, c, 0, c.Size(), buf, func(int64) {}); err != nil {
				return err
			}
		}
		off += c.Size()
	}
	return nil
}

// layout returns the ranges of the UKI that are staged as the kernel or in the
// initrd, in the order of the file.
func (s *staged) layout(b *stub.Boot) []extent {
	off, size := b.Kernel.(*uki.Section).FileRange() // what stub.Load makes it
	extents := []extent{{place{off, size, false, 0}, s.linux}}
	at := int64(0)
	for _, c := range b.Initrd {
		if section, ok := c.(*uki.Section); ok {
			off, size := section.FileRange()
			if size == 0 { // all zero fill; its offset may be anything
				at += c.Size()
				continue
			}
			extents = append(extents, extent{place{off, size, true, at}, s.initrd})
		}
		at += c.Size()
	}
	slices.SortFunc(extents, func(a, b extent) int { return cmp.Compare(a.off, b.off) })
	return extents
}

// A place says where a range of the UKI is staged.
type place struct {
	off, size int64 // in the UKI
	initrd    bool  // in the initrd rather than the kernel
	at        int64 // there
}

// An extent is a place with its file.
type extent struct {
	place
	f *os.File
}

func places(extents []extent) []place {
	var ps []place
	for _, e := range extents {
		ps = append(ps, e.place)
	}
	return ps
}

// A view is the staged UKI, byte for byte, put together from where it is staged.
type view struct {
	size    int64
	extents []extent // ascending, not overlapping
	rest    *os.File // everything else, at the same offsets
}

func (v *view) places() []place { return places(v.extents) }

func (v *view) setInitrd(f *os.File) {
	for i := range v.extents {
		if v.extents[i].initrd {
			v.extents[i].f = f
		}
	}
}

// fill copies the UKI to its places.
func (v *view) fill(src io.ReaderAt, progress func(int64)) error {
	buf := make([]byte, copyBuffer)
	off := int64(0)
	for _, e := range v.extents {
		if err := copyRange(v.rest, off, src, off, e.off-off, buf, progress); err != nil {
			return err
		}
		if err := copyRange(e.f, e.at, src, e.off, e.size, buf, progress); err != nil {
			return err
		}
		off = e.off + e.size
	}
	return copyRange(v.rest, off, src, off, v.size-off, buf, progress)
}

// Size returns the size of the UKI in bytes.
func (v *view) Size() int64 { return v.size }

// ReadAt reads from the staged UKI.
func (v *view) ReadAt(b []byte, off int64) (int, error) {
	n := 0
	for n < len(b) && off < v.size {
		f, at, size := v.find(off)
		want := b[n:][:min(int64(len(b)-n), size)]
		got, err := f.ReadAt(want, at)
		n += got
		if got < len(want) {
			return n, err
		}
		off += int64(got)
	}
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

// find returns where the byte at off is staged, and how many follow it there.
func (v *view) find(off int64) (f *os.File, at, size int64) {
	for _, e := range v.extents {
		if off < e.off {
			return v.rest, off, e.off - off
		}
		if off < e.off+e.size {
			return e.f, e.at + off - e.off, e.off + e.size - off
		}
	}
	return v.rest, off, v.size - off
}
