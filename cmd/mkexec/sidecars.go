package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/mkexec/mkexec/measure/esp"
	"github.com/mkexec/mkexec/measure/stub"
	"github.com/spf13/pflag"
)

// sidecarFlags say which files beside an image count.
type sidecarFlags struct {
	esp         string
	xbootldr    string
	none        bool
	addons      []string
	credentials []string
	sysexts     []string
	confexts    []string
}

// sidecarFlagNames are the flags, for messages.
var sidecarFlagNames = []string{"no-sidecars", "addon", "credential", "sysext", "confext"}

func (f *sidecarFlags) add(fl *pflag.FlagSet) {
	addPartitionFlags(fl, &f.esp, &f.xbootldr)
	fl.BoolVar(&f.none, "no-sidecars", false, "take none of the addons, credentials and extensions on the partition")
	fl.StringArrayVar(&f.addons, "addon", nil, "an addon `FILE` for the image; may be given more than once")
	fl.StringArrayVar(&f.credentials, "credential", nil, "a credential `FILE` for the image; may be given more than once")
	fl.StringArrayVar(&f.sysexts, "sysext", nil, "a system extension `FILE` for the image; may be given more than once")
	fl.StringArrayVar(&f.confexts, "confext", nil, "a configuration extension `FILE` for the image; may be given more than once")
}

// find opens the files beside the image: those on its partition as the stub of
// that version finds them, and those that are named. It tells whether the image
// is on a mounted partition of this machine.
func (f *sidecarFlags) find(sys *system, m *image, version int, into *stub.Sidecars) (mounted bool, err error) {
	path, err := realPath(m.path)
	if err != nil {
		return false, err
	}
	dir, name, mounted, err := f.place(sys, path)
	m.dir = dir
	switch {
	case f.none: // where the image is does not matter much
	case err != nil:
		return false, withHint(err, "say where its partition is, or that nothing beside it counts: --esp=DIR, --no-sidecars")
	case dir != "":
		if err := m.openPartition(dir, stub.ImageDir(name, version), into); err != nil {
			return false, err
		}
	default:
		beside := stub.ImageDir(path, version)
		if _, err := os.Lstat(beside); err == nil {
			return false, withHint(fmt.Errorf("%s: there are files for %s, which is on no mounted ESP or XBOOTLDR", beside, m.path),
				"say whether they count: --esp=DIR, --no-sidecars")
		}
	}
	for _, x := range []struct {
		what, end string
		paths     []string
	}{
		{"addon", stub.SuffixAddon, f.addons},
		{"credential", stub.SuffixCredential, f.credentials},
		{"sysext", stub.SuffixExtension, f.sysexts},
		{"confext", stub.SuffixConfext, f.confexts},
	} {
		for _, path := range x.paths {
			if err := m.addSidecar(x.what, x.end, path, into); err != nil {
				return false, err
			}
		}
	}
	return mounted, nil
}

// place returns the directory of the partition that holds the image, "" if none
// does, the path of the image on it, and whether it is mounted here.
func (f *sidecarFlags) place(sys *system, path string) (dir, name string, mounted bool, err error) {
	if f.esp == "" && f.xbootldr == "" {
		dir, name, mounted, err = esp.Holding(sys.root, path)
		if errors.Is(err, fs.ErrNotExist) { // no /proc: not Linux, or a bare chroot
			return "", "", false, nil
		}
		return dir, name, mounted, err
	}
	for _, dir := range []string{f.esp, f.xbootldr} {
		if dir == "" {
			continue
		}
		if dir, err = realPath(dir); err != nil {
			return "", "", false, err
		}
		if name, err = filepath.Rel(dir, path); err == nil && filepath.IsLocal(name) {
			return dir, name, isMounted(sys, dir), nil
		}
	}
	return "", "", false, fmt.Errorf("%s: not below what --esp and --xbootldr name", path)
}

// realPath returns the absolute path of a file, without symbolic links.
func realPath(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(path)
}

// openPartition opens the sidecars on a partition.
func (m *image) openPartition(dir, imageDir string, into *stub.Sidecars) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, x := range []struct {
		dir  string
		into *[]stub.File
	}{
		{imageDir, &into.Image},
		{stub.AddonsDir, &into.Addons},
		{stub.CredentialsDir, &into.Credentials},
		{stub.ExtensionsDir, &into.Extensions},
	} {
		files, err := esp.OpenDir(root.FS(), filepath.ToSlash(x.dir), stub.IsSidecar)
		if err != nil {
			return inFile(dir, err)
		}
		for _, f := range files {
			m.files = append(m.files, f)
			m.size += f.Size()
			*x.into = append(*x.into, stub.File{Name: f.Name(), Content: f})
		}
	}
	return nil
}

// addSidecar opens a file that is named as if it were in the directory of the image.
func (m *image) addSidecar(what, end, path string, into *stub.Sidecars) error {
	name := filepath.Base(path)
	isConfext := stub.HasSuffix(name, stub.SuffixConfext)
	wanted := end
	if what == "sysext" {
		wanted += ", not in " + stub.SuffixConfext
	}
	if !stub.IsSidecar(name) || !stub.HasSuffix(name, end) || what == "sysext" && isConfext {
		return fmt.Errorf("--%s=%s: no stub takes it for one by its name: want ASCII, not hidden, at most 255 characters, ending in %s", what, path, wanted)
	}
	for _, f := range into.Image {
		if strings.EqualFold(f.Name, name) {
			return fmt.Errorf("--%s=%s: the image has another file of that name beside it", what, path)
		}
	}
	c, err := m.file(path)
	if err != nil {
		return err
	}
	into.Image = append(into.Image, stub.File{Name: name, Content: c})
	return nil
}
