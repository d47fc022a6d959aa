// Package esp finds the EFI system partition of the running machine and reads
// it as firmware does: names regardless of case, and no symbolic links.
//
// Everything is read from an fs.FS, so that tests and image builders can give
// another one than the root of this machine.
package esp

import (
	"cmp"
	"fmt"
	"io/fs"
	"path"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/mountinfo"
)

// A Type is what a partition that firmware or boot loader reads is.
type Type string

// The types (UAPI.1 Boot Loader Specification, "The Partitions"). On disks
// with an MBR they are 0xef and 0xea.
const (
	ESP      Type = "esp"      // EFI system partition
	XBOOTLDR Type = "xbootldr" // extended boot loader partition

	other Type = "other"
)

// ErrCannotTell is the error of a question that has an answer which is not to
// be had from here.
var ErrCannotTell = measure.ErrCannotTell

// Mounted returns the mount points of the EFI system partition and of the
// extended boot loader partition, "" for one that is not mounted. root holds
// /proc, /run/udev and the mount points.
//
// As bootctl does (systemd 262, src/shared/find-esp.c), it looks at /efi, /boot
// and /boot/efi in this order for a vfat file system on a partition of the
// right type, and at /boot for XBOOTLDR, with any file system. Where udev knows
// no type a vfat file system counts as the ESP if none else does, /boot last,
// and else on /boot as XBOOTLDR. An automount point is entered.
func Mounted(root fs.FS) (espDir, xbootldrDir string, err error) {
	const efi, boot, bootEFI = "/efi", "/boot", "/boot/efi"
	mounts, err := mountinfo.Read(root)
	if err != nil {
		return "", "", err
	}
	at := map[string]Type{} // "" of a vfat file system whose partition is not known
	dev := map[string]string{}
	for _, point := range []string{efi, boot, bootEFI} {
		m, ok := holding(mounts, point)
		if ok && m.Point == point && m.FSType == "autofs" {
			// what there is to be mounted is mounted now; if nothing can be, there is nothing to list either
			_, _ = fs.ReadDir(root, point[1:])
			if mounts, err = mountinfo.Read(root); err != nil {
				return "", "", err
			}
			m, ok = holding(mounts, point)
		}
		if !ok || m.Point != point || m.Root != "/" {
			continue
		}
		t, err := partitionType(root, m)
		if err != nil {
			return "", "", err
		}
		if t == XBOOTLDR || m.FSType == "vfat" && t != other {
			at[point], dev[point] = t, m.Dev
		}
	}
	first := func(want Type, points ...string) string {
		for _, point := range points {
			if t, ok := at[point]; ok && t == want {
				return point
			}
		}
		return ""
	}
	espDir = cmp.Or(first(ESP, efi, boot, bootEFI), first("", efi, bootEFI, boot))
	xbootldrDir = first(XBOOTLDR, boot)
	if dev[espDir] != dev[boot] {
		xbootldrDir = cmp.Or(xbootldrDir, first("", boot))
	}
	return espDir, xbootldrDir, nil
}

// Holding returns the mount point of the partition that holds a file, and the
// file's path on that partition, without a slash at its start. The path given
// is absolute and leads over no symbolic link.
//
// The partition is one with a vfat file system, which firmware reads, or an
// ESP or XBOOTLDR by its type; ok is false for a file that is on none. Where
// only a directory of the partition is mounted over the file, the answer is
// another mount, of all of it; without one the error wraps ErrCannotTell,
// since what lies beside the file on the partition cannot be looked at.
func Holding(root fs.FS, file string) (dir, name string, ok bool, err error) {
	if !path.IsAbs(file) || path.Clean(file) != file {
		return "", "", false, fmt.Errorf("%.80q: not an absolute path, or not a clean one", file)
	}
	mounts, err := mountinfo.Read(root)
	if err != nil {
		return "", "", false, err
	}
	m, found := holding(mounts, file)
	if !found { // in a chroot, whose root need not be a mount
		return "", "", false, nil
	}
	t, err := partitionType(root, m)
	if err != nil {
		return "", "", false, err
	}
	if m.FSType != "vfat" && t != ESP && t != XBOOTLDR {
		return "", "", false, nil
	}
	inMount, _ := below(file, m.Point)
	onPartition := path.Join(m.Root, inMount)
	if m.Root == "/" {
		return m.Point, onPartition[1:], true, nil
	}
	for _, whole := range mounts {
		if whole.Dev != m.Dev || whole.Root != "/" {
			continue
		}
		if top, _ := holding(mounts, whole.Point); top == whole { // nothing is mounted over it
			return whole.Point, onPartition[1:], true, nil
		}
	}
	return "", "", false, fmt.Errorf("%.80q: of its partition (device %s) only %.80q is mounted: %w", file, m.Dev, m.Root, ErrCannotTell)
}
