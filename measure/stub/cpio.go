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
	var c cpio
	c.directory(dir, dirMode)
	for _, f := range files {
		c.file(dir, fileMode, f)
	}
	return c.end()
}

// A cpio is an archive that is being written.
type cpio struct {
	inode  uint32 // of the last entry
	head   strings.Builder
	pieces []measure.Content
}

const typeDir, typeRegular = 0o040000, 0o100000

func (c *cpio) entry(mode uint32, size int64, name string) {
	c.inode++
	h := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		c.inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, len(name)+1, 0)
	c.head.WriteString(h + name + "\x00" + padding(int64(len(h)+len(name)+1)))
}

// directory adds a directory, after its parents.
func (c *cpio) directory(dir string, mode uint32) {
	for i, r := range dir {
		if r == '/' {
			c.entry(typeDir|0o555, 0, dir[:i])
		}
	}
	c.entry(typeDir|mode, 0, dir)
}

func (c *cpio) file(dir string, mode uint32, f File) {
	c.entry(typeRegular|mode, f.Content.Size(), path.Join(dir, f.Name))
	c.pieces = append(c.pieces, measure.Bytes([]byte(c.head.String())), f.Content)
	c.head.Reset()
	c.head.WriteString(padding(f.Content.Size()))
}

// end ends the archive and returns its pieces.
func (c *cpio) end() []measure.Content {
	return append(c.pieces, measure.Bytes([]byte(c.head.String()+trailer)))
}

// padding returns the zero bytes that make size a multiple of 4.
func padding(size int64) string { return "\x00\x00\x00"[:(4-size%4)%4] }
