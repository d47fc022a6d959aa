package esp

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/mkexec/mkexec/measure"
)

// A File is an opened regular file of the partition. It is a measure.Content of
// the size that the file had when it was opened.
type File struct {
	// Path is the file's path on the partition, as it is spelled there.
	Path string

	*io.SectionReader
	f fs.File
}

var _ measure.Content = (*File)(nil)

// Name returns the last part of the path.
func (f *File) Name() string { return path.Base(f.Path) }

// Close closes the file.
func (f *File) Close() error { return f.f.Close() }

// open opens a regular file. name is spelled as it is on the partition.
func open(fsys fs.FS, name string) (_ *File, err error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%.80q: not a regular file", name)
	}
	r, ok := f.(io.ReaderAt)
	if !ok {
		return nil, fmt.Errorf("%.80q: its file system does not read at an offset (%T)", name, f)
	}
	return &File{name, io.NewSectionReader(r, 0, info.Size()), f}, nil
}

// Files are opened files of one directory, sorted by name as bytes.
type Files []*File

// Close closes all of them.
func (fs Files) Close() error {
	var errs []error
	for _, f := range fs {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// OpenDir opens the regular files of a directory, a path as Lookup takes it,
// whose names want accepts. Others are not touched, and directories are passed
// over. A directory that is not there has no files. What is neither a regular
// file nor a directory is an error, as are two names that differ in case only.
func OpenDir(fsys fs.FS, dir string, want func(name string) bool) (_ Files, err error) {
	dir, entries, err := ReadDir(fsys, dir)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	var files Files
	defer func() {
		if err != nil {
			files.Close()
		}
	}()
	seen := map[string]string{}
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		if !want(e.Name()) || e.IsDir() {
			continue
		}
		if before, ok := seen[fold(e.Name())]; ok {
			return nil, fmt.Errorf("%.80q and %.80q differ in case only", before, name)
		}
		seen[fold(e.Name())] = name
		if e.Type()&fs.ModeSymlink != 0 {
			return nil, fmt.Errorf("%.80q: a symbolic link, which firmware does not follow", name)
		}
		if !e.Type().IsRegular() {
			return nil, fmt.Errorf("%.80q: not a regular file", name)
		}
		f, err := open(fsys, name)
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}
