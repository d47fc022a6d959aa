package bls

import (
	"fmt"
	"io/fs"

	"github.com/mkexec/mkexec/measure/esp"
	"github.com/mkexec/mkexec/measure/uki"
)

// loaderDir is where bootctl installs systemd-boot.
const loaderDir = "EFI/systemd"

// Loader returns the oldest systemd-boot that is installed on a partition, the
// zero Stub if there is none.
func Loader(fsys fs.FS) (oldest uki.Stub, err error) {
	files, err := esp.OpenDir(fsys, loaderDir, func(name string) bool {
		return hasPrefixFold(name, "systemd-boot") && hasSuffixFold(name, ".efi")
	})
	if err != nil {
		return oldest, err
	}
	defer files.Close()
	for _, f := range files {
		program, err := uki.Open(f, f.Size())
		if err != nil {
			return oldest, fmt.Errorf("%s: %w", f.Path, err)
		}
		v, err := program.Stub()
		if err != nil {
			return oldest, fmt.Errorf("%s: %w", f.Path, err)
		}
		if v.Kind == uki.StubKindBoot && (oldest.Major == 0 || v.Major < oldest.Major) {
			oldest = v
		}
	}
	return oldest, nil
}
