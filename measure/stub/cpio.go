package stub

import (
	"fmt"
	"path"
	"strings"

	"github.com/mkexec/mkexec/measure"
)

// trailer ends an archive. The stub has it as a constant: unlike in the other
// headers the name's size is in upper case, and the name shares its four bytes
// of padding with its NUL (systemd 262, src/boot/cpio.c, pack_cpio_trailer).
const trailer = "070701" +
	"00000000" + "00000000" + "00000000" + "00000000" + "00000001" +
	"00000000" + "00000000" + "00000000" + "00000000" + "00000000" +
	"00000000" + "0000000B" + "00000000" +
	"TRAILER!!!\x00\x00\x00\x00"

// Archive returns the pieces of the newc archive that the stub makes of files that
// it puts into one directory: first the directory and its parents, then the
// files, inodes from 1, no owner and no times (systemd 262, src/boot/cpio.c,
// pack_cpio_prefix, pack_cpio_one). The size is a multiple of 4.
func Archive(dir string, dirMode, fileMode uint32, files ...File) []measure.Content {
	var head strings.Builder
	inode := uint32(0)
	entry := func(mode uint32, size int64, name string) {
		inode++
		h := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
			inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, len(name)+1, 0)
		head.WriteString(h + name + "\x00" + padding(int64(len(h)+len(name)+1)))
	}
	const typeDir, typeRegular = 0o040000, 0o100000
	for i, c := range dir {
		if c == '/' {
			entry(typeDir|0o555, 0, dir[:i])
		}
	}
	entry(typeDir|dirMode, 0, dir)

	var pieces []measure.Content
	for _, f := range files {
		entry(typeRegular|fileMode, f.Content.Size(), path.Join(dir, f.Name))
		pieces = append(pieces, measure.Bytes([]byte(head.String())), f.Content)
		head.Reset()
		head.WriteString(padding(f.Content.Size()))
	}
	head.WriteString(trailer)
	return append(pieces, measure.Bytes([]byte(head.String())))
}

// padding returns the zero bytes that make size a multiple of 4.
func padding(size int64) string { return "\x00\x00\x00"[:(4-size%4)%4] }
