package stub

import (
	"fmt"
	"math"

	"github.com/mkexec/mkexec/measure"
)

// ExtraSince is the version of systemd-boot that takes extra files of a boot
// entry, and of the stub that takes the initrd which is made of them (systemd
// NEWS, 261).
const ExtraSince = 261

// suffixEntrySysext is what the name of a system extension ends in if it is an
// extra file; in the other places the end of it is enough.
const suffixEntrySysext = ".sysext.raw"

// entryArchives are the archives that systemd-boot makes of the extra files of a
// boot entry, in the order in which it measures them and hands them over. No
// source was at hand; all of it is from boots of systemd-boot 262 (TestVMSystemdBoot).
var entryArchives = []struct {
	suffix, description, dir string
	dirMode, fileMode        uint32
	pcr                      measure.PCR
}{
	{SuffixCredential, "Entry credentials initrd", ".extra/credentials", 0o500, 0o400, measure.PCRKernelConfig},
	{suffixEntrySysext, "Entry system extension initrd", ".extra/sysext", 0o555, 0o444, measure.PCRSystemExtensions},
	{SuffixConfext, "Entry configuration extension initrd", ".extra/confext", 0o555, 0o444, measure.PCRKernelConfig},
}

// addEntryFiles measures the archives of the extra files, before the load
// options, and returns their pieces. Unlike the stub systemd-boot takes hidden
// files and leaves out empty ones, keeps the order of the entry, puts the
// directories before each file again, and counts inodes over all archives.
func (b *Boot) addEntryFiles(files []File, via Via) ([][]measure.Content, error) {
	writers := make([]cpio, len(entryArchives))
	taken := make([][]File, len(entryArchives))
	inode := uint32(0)
	for _, f := range files {
		kind := entryKind(f)
		switch {
		case via == ViaFirmware:
			b.Ignored = append(b.Ignored, fmt.Sprintf("extra file %s: only systemd-boot hands it over", f.Name))
			continue
		case kind < 0:
			b.Ignored = append(b.Ignored, fmt.Sprintf("extra file %s: empty, or not of a name that systemd-boot takes", f.Name))
			continue
		case b.Stub.Major < ExtraSince:
			return nil, fmt.Errorf("extra file %s: what %s does with it: %w", f.Name, b.Stub, ErrCannotTell)
		case f.Content.Size() > math.MaxUint32:
			return nil, fmt.Errorf("%s: %d bytes: more than an archive can hold (%d)", f.Name, f.Content.Size(), uint32(math.MaxUint32))
		}
		a, w := entryArchives[kind], &writers[kind]
		w.inode = inode
		w.directory(a.dir, a.dirMode)
		w.file(a.dir, a.fileMode, f)
		inode = w.inode
		taken[kind] = append(taken[kind], f)
	}
	var parts [][]measure.Content
	for i, a := range entryArchives {
		if len(taken[i]) > 0 {
			pieces := writers[i].end()
			b.measureArchive(a.description, a.pcr, taken[i], pieces)
			parts = append(parts, pieces)
		}
	}
	return parts, nil
}

// entryKind returns the index of the archive that an extra file goes into, -1 if
// it is for none.
func entryKind(f File) int {
	if f.Content.Size() == 0 || !isASCII(f.Name) {
		return -1
	}
	for i, a := range entryArchives {
		if HasSuffix(f.Name, a.suffix) {
			return i
		}
	}
	return -1
}
