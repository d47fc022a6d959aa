package esp

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
)

// Lookup returns the real spelling of a path on a FAT file system, where upper
// and lower case do not differ (for ASCII, which is all that firmware folds
// everywhere). fsys may be case sensitive. A path that is not there gives an
// error that wraps fs.ErrNotExist; two names that differ in case only, and a
// symbolic link, which FAT does not have, are errors.
func Lookup(fsys fs.FS, name string) (string, error) {
	entry, err := lookup(fsys, name)
	if err != nil {
		return "", err
	}
	return entry.name, nil
}

// A found is a directory entry and its path.
type found struct {
	name string
	mode fs.FileMode // the type bits
}

func lookup(fsys fs.FS, name string) (found, error) {
	if !fs.ValidPath(name) {
		return found{}, fmt.Errorf("%.80q: not a path on the partition", name)
	}
	at := found{".", fs.ModeDir}
	if name == "." {
		return at, nil
	}
	for part := range strings.SplitSeq(name, "/") {
		if !at.mode.IsDir() {
			return found{}, fmt.Errorf("%.80q: %w: %.80q is not a directory", name, fs.ErrNotExist, at.name)
		}
		entries, err := fs.ReadDir(fsys, at.name)
		if err != nil {
			return found{}, err
		}
		var match fs.DirEntry
		for _, e := range entries {
			if fold(e.Name()) != fold(part) {
				continue
			}
			if match != nil {
				return found{}, fmt.Errorf("%.80q: ambiguous: %.80q and %.80q differ in case only",
					name, path.Join(at.name, match.Name()), path.Join(at.name, e.Name()))
			}
			match = e
		}
		if match == nil {
			return found{}, fmt.Errorf("%.80q: %w", name, fs.ErrNotExist)
		}
		at = found{path.Join(at.name, match.Name()), match.Type()}
		if at.mode&fs.ModeSymlink != 0 {
			return found{}, fmt.Errorf("%.80q: a symbolic link, which firmware does not follow", at.name)
		}
	}
	return at, nil
}

// fold maps upper case ASCII letters to lower case.
func fold(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}

// Open opens a regular file by a path as Lookup takes it. It does not wait for
// the other end of a FIFO: the kind of file is looked at first.
func Open(fsys fs.FS, name string) (*File, error) {
	at, err := lookup(fsys, name)
	if err != nil {
		return nil, err
	}
	if !at.mode.IsRegular() {
		return nil, fmt.Errorf("%.80q: not a regular file", at.name)
	}
	return open(fsys, at.name)
}

// ReadDir returns the real spelling of a directory's path, as Lookup does, and
// what is in it, in the order of the directory. A directory that is not there
// is empty.
func ReadDir(fsys fs.FS, name string) (real string, entries []fs.DirEntry, err error) {
	at, err := lookup(fsys, name)
	if errors.Is(err, fs.ErrNotExist) {
		return name, nil, nil
	}
	if err != nil {
		return "", nil, err
	}
	if !at.mode.IsDir() {
		return "", nil, fmt.Errorf("%.80q: not a directory", at.name)
	}
	f, err := fsys.Open(at.name)
	if err != nil {
		return "", nil, err
	}
	defer f.Close()
	d, ok := f.(fs.ReadDirFile)
	if !ok {
		return "", nil, fmt.Errorf("%.80q: its file system does not list directories (%T)", at.name, f)
	}
	entries, err = d.ReadDir(-1)
	return at.name, entries, err
}
