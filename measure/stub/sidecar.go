package stub

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"github.com/mkexec/mkexec/measure"
)

// A File is a file beside an image, by its name in its directory.
type File struct {
	Name    string
	Content measure.Content
}

// Sidecars are the files that the stub finds beside an image: in a directory of
// the image's own, and in directories for all images on the same partition.
// Which of the files count, and in what order, the stub's rules say; files that
// they do not know are passed over.
type Sidecars struct {
	// Image is addons, credentials and extensions of this image, see ImageDir.
	Image []File
	// Addons are those of AddonsDir, Credentials of CredentialsDir, Extensions
	// of ExtensionsDir.
	Addons      []File
	Credentials []File
	Extensions  []File
	// Entry are the extra files of the boot entry, in its order, which systemd-boot
	// hands over since 261 (Boot Loader Specification, key extra).
	Entry []File
}

// The directories for all images, on the partition of the image (systemd 262,
// src/boot/stub.c).
const (
	AddonsDir      = "loader/addons"
	CredentialsDir = "loader/credentials"
	ExtensionsDir  = "loader/extensions" // since 258
)

// ImageDir returns the directory of an image's own sidecars, by the path of the
// image on its partition. Stubs since 255 take a boot counter out of the path:
// what follows the first "+" in it, if that is a number, or two with a "-"
// between, and the end or a dot is behind it (systemd 262, src/boot/util.c,
// get_extra_dir, remove_boot_count).
func ImageDir(path string, major int) string {
	if major >= 255 {
		path = withoutCounter(path)
	}
	return path + ".extra.d"
}

func withoutCounter(path string) string {
	name, tail, found := strings.Cut(path, "+")
	if !found {
		return path
	}
	tail, ok := cutNumber(tail)
	if ok && strings.HasPrefix(tail, "-") {
		tail, ok = cutNumber(tail[1:])
	}
	if !ok || tail != "" && tail[0] != '.' {
		return path
	}
	return name + tail
}

// cutNumber cuts a decimal number of up to 64 bits off the beginning of s.
func cutNumber(s string) (rest string, ok bool) {
	rest = strings.TrimLeft(s, "0123456789")
	_, err := strconv.ParseUint(s[:len(s)-len(rest)], 10, 64)
	return rest, err == nil
}

// The kinds of sidecars, by the ends of their names.
const (
	SuffixAddon      = ".addon.efi"
	SuffixCredential = ".cred"
	SuffixExtension  = ".raw"
	SuffixConfext    = ".confext.raw"
)

// IsSidecar tells whether any version of the stub uses a file of that name.
func IsSidecar(name string) bool {
	return acceptsName(name) && (HasSuffix(name, SuffixAddon) || HasSuffix(name, SuffixCredential) || HasSuffix(name, SuffixExtension))
}

// acceptsName tells whether the stub looks at a file of that name: not hidden,
// ASCII, at most 255 characters (systemd 262, src/boot/cpio.c, pack_cpio, and
// stub.c, load_addons_from_dir).
func acceptsName(name string) bool {
	return name != "" && name[0] != '.' && len(name) <= 255 && isASCII(name)
}

func isASCII(name string) bool {
	return !strings.ContainsFunc(name, func(r rune) bool { return r > 0x7F })
}

// HasSuffix tells whether name ends in suffix, regardless of the case of ASCII letters.
func HasSuffix(name, suffix string) bool {
	return len(name) >= len(suffix) && strings.EqualFold(name[len(name)-len(suffix):], suffix)
}

// pick returns the files of a kind in the stub's order, that of their bytes.
// exclude is a longer suffix that is another kind, "" for none.
func pick(files []File, suffix, exclude string) []File {
	var picked []File
	for _, f := range files {
		if acceptsName(f.Name) && HasSuffix(f.Name, suffix) && (exclude == "" || !HasSuffix(f.Name, exclude)) {
			picked = append(picked, f)
		}
	}
	slices.SortStableFunc(picked, func(a, b File) int { return cmp.Compare(a.Name, b.Name) })
	return picked
}

// HasAddons tells whether there are addons.
func (s *Sidecars) HasAddons() bool {
	return len(pick(s.Addons, SuffixAddon, ""))+len(pick(s.Image, SuffixAddon, "")) > 0
}
