package vm

import (
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
)

// A File is a regular file of an initrd.
type File struct {
	Data []byte
	Perm fs.FileMode
}

// Initrd returns an uncompressed initrd of the given files, by their paths, busybox and the kernel module for EFI
// variables. It needs an /init, see [Init].
func (a *Assets) Initrd(files map[string]File) ([]byte, error) {
	busybox, err := os.ReadFile(a.Busybox)
	if err != nil {
		return nil, err
	}
	module, err := os.ReadFile(a.Efivarfs)
	if err != nil {
		return nil, err
	}
	all := map[string]File{"/bin/busybox": {busybox, 0o755}, "/efivarfs.ko": {module, 0o644}}
	maps.Copy(all, files)
	return Archive(all), nil
}

// Archive returns the files and the directories that hold them as a cpio archive of the kind newc, an initrd.
func Archive(files map[string]File) []byte {
	const directory, regular = 0o040000, 0o100000
	var b bytes.Buffer
	inode := 0
	pad := func() { b.Write(make([]byte, -b.Len()&3)) }
	entry := func(name string, mode uint32, data []byte) {
		inode++
		fmt.Fprintf(&b, "070701%08x%08x", inode, mode)
		for _, field := range []int{0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0} {
			fmt.Fprintf(&b, "%08x", field) // uid, gid, links, time, size, 4 device numbers, length of the name, checksum
		}
		b.WriteString(name + "\x00")
		pad()
		b.Write(data)
		pad()
	}

	made := map[string]bool{".": true}
	var parents func(name string)
	parents = func(name string) {
		if dir := path.Dir(name); !made[dir] {
			parents(dir)
			entry(dir, directory|0o755, nil)
			made[dir] = true
		}
	}
	relative := map[string]File{}
	for name, f := range files {
		relative[strings.TrimPrefix(path.Clean(name), "/")] = f
	}
	for _, name := range slices.Sorted(maps.Keys(relative)) {
		parents(name)
		entry(name, regular|uint32(relative[name].Perm.Perm()), relative[name].Data)
	}
	entry("TRAILER!!!", 0, nil)
	return b.Bytes()
}
