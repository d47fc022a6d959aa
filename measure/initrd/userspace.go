package initrd

import (
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"
)

// A Userspace is what is in an initrd.
type Userspace struct {
	// Systemd is the version of systemd as the name of its library has it, such
	// as "262" or "257.9-1.fc42" (libsystemd-shared-VERSION.so). Empty if there
	// is none, or several that differ. It alone does not say that systemd is
	// started: udev comes with it, too.
	Systemd string
	// Major is the number that Systemd begins with, 0 if it is empty.
	Major int
	// EnterInitrd tells whether PCR 11 is extended with "enter-initrd", and later
	// with "leave-initrd" (systemd-pcrphase-initrd.service, systemd 252 and newer).
	EnterInitrd Extend
	// OSSeparator tells whether PCRs 12 and 13, among others, are extended with
	// "os-separator" (systemd-pcrosseparator.service, systemd 261 and newer).
	OSSeparator Extend
}

// An Extend tells whether an initrd has PCRs extended with a word. It speaks of
// the initrd alone. What systemd finds when it runs may still keep it from
// that: there has to be a TPM, the boot has to be measured (ConditionSecurity=,
// which systemd.tpm2_measured_os=0 on the command line makes untrue), and the
// command line may start another program (rdinit=) or unit (rd.systemd.unit=,
// systemd.mask=).
type Extend struct {
	Answer Answer
	// Why says what decided it, for a person.
	Why string
}

// An Answer is yes, no, or that it is not known.
type Answer int

// The answers.
const (
	Unknown Answer = iota
	No
	Yes
)

// String returns the answer as a word.
func (a Answer) String() string { return [...]string{"unknown", "no", "yes"}[a] }

// unitDirs are where systemd finds units, the first counts
// (systemd 262, systemd.unit(5)). What is in /run and below is not there yet.
var unitDirs = []string{"etc/systemd/system", "usr/local/lib/systemd/system", "usr/lib/systemd/system"}

// A service is a unit that extends PCRs, once.
type service struct {
	unit string
	word string
	pcrs []int // that have to be among those it extends
}

// The services, and the word and the PCRs that their ExecStart= has (systemd
// 252 to 262, units/systemd-pcrphase-initrd.service.in; 262,
// units/systemd-pcrosseparator.service.in).
var (
	enterInitrd = service{"systemd-pcrphase-initrd.service", "enter-initrd", []int{11}}
	osSeparator = service{"systemd-pcrosseparator.service", "os-separator", []int{12, 13}}
)

// targets are what systemd starts in every initrd: initrd.target requires
// basic.target, and that sysinit.target.
var targets = []string{"initrd.target", "basic.target", "sysinit.target"}

// programs extend PCRs; systemd 255 renamed the first to the second.
var programs = []string{"usr/lib/systemd/systemd-pcrphase", "usr/lib/systemd/systemd-pcrextend"}

const initrdRelease = "etc/initrd-release"

const (
	// maxFiles is how many files are kept.
	maxFiles = 4096
	// maxText is how much is read of a unit or drop-in file, in bytes.
	maxText = 64 << 10
)

// A file is what is kept of a file of interest.
type file struct {
	target string // of a symbolic link, else ""
	text   string // of a unit
	doubt  string // what of a unit is not known, or how a drop-in may change one
}

// files are the files of interest by path, without a slash in front.
type files struct {
	byPath   map[string]file
	versions map[string]bool // of systemd, two at most
}

func newFiles() *files { return &files{map[string]file{}, map[string]bool{}} }

// clean returns a path without a slash in front. /lib and the like are taken
// for links to /usr/lib, as they are wherever systemd 255 or newer is.
func clean(name string) string {
	name = path.Clean("/" + name)[1:]
	first, _, below := strings.Cut(name, "/")
	if below && (first == "bin" || first == "sbin" || strings.HasPrefix(first, "lib")) {
		return "usr/" + name
	}
	return name
}

// add keeps a file if it is of interest. It reads of the body what it needs.
func (f *files) add(e *entry, body io.Reader) error {
	name := clean(e.name)
	if v, ok := systemdVersion(name); ok && len(f.versions) < 2 {
		f.versions[v] = true
	}
	kept := file{}
	switch {
	case e.isDirectory():
		delete(f.byPath, name) // Linux replaces what is there
		return nil
	case e.isLink() && (isKnown(name) || ofUnits(name)):
		b, err := io.ReadAll(body) // at most maxPath
		if err != nil {
			return err
		}
		kept.target, _, _ = strings.Cut(string(b), "\x00")
		if kept.target == "" {
			return nil // Linux makes no such link
		}
	case isUnitFile(name), isDropIn(name):
		b, err := io.ReadAll(io.LimitReader(body, maxText+1))
		if err != nil {
			return err
		}
		kept = newText(e, string(b), isDropIn(name))
	case e.isRegular() && (isKnown(name) || isWant(name)):
	default:
		return nil
	}
	if f.byPath[name] = kept; len(f.byPath) > maxFiles {
		return fmt.Errorf("more than %d units", maxFiles)
	}
	return nil
}

// newText keeps a unit or a drop-in.
func newText(e *entry, text string, dropIn bool) file {
	switch {
	case !e.isRegular():
		return file{doubt: "is not a file"}
	case len(text) > maxText:
		return file{doubt: fmt.Sprintf("has more than %d bytes", maxText)}
	case e.size == 0 && e.links > 1:
		return file{doubt: "is a hard link"}
	case dropIn && changes(text):
		return file{doubt: "may change it"}
	case dropIn:
		return file{}
	}
	return file{text: text}
}

// systemdVersion returns the version in the path of systemd's library. It is in
// /usr/lib/systemd or, with distributions that have them, in a directory of the
// architecture.
func systemdVersion(name string) (string, bool) {
	v, ok := strings.CutPrefix(path.Base(name), "libsystemd-shared-")
	if !ok || path.Base(path.Dir(name)) != "systemd" {
		return "", false
	}
	v, ok = strings.CutSuffix(v, ".so")
	_, err := strconv.Atoi(v[:digits(v)])
	return v, ok && err == nil
}

func digits(s string) int {
	return len(s) - len(strings.TrimLeft(s, "0123456789"))
}

// isKnown tells whether a name is one of those that have to be there.
func isKnown(name string) bool {
	return isInit(name) || isProgram(name) || name == initrdRelease
}

func isProgram(name string) bool { return name == programs[0] || name == programs[1] }

// isInit tells whether the name is /init, or where it may lead to.
func isInit(name string) bool {
	return name == "init" || name == "usr/sbin/init" || name == "usr/bin/init"
}

// ofUnits tells whether a link at name decides about units: one in a directory
// of units, or one that the directory is reached by.
func ofUnits(name string) bool {
	for _, dir := range unitDirs {
		if strings.HasPrefix(dir+"/", name+"/") {
			return true
		}
		if rest, ok := strings.CutPrefix(name, dir+"/"); ok {
			first, _, _ := strings.Cut(rest, "/")
			if isUnit(first) || isDropInDir(first) || hasWants(first) && (first == rest || isWant(name)) {
				return true
			}
		}
	}
	return false
}

func isUnit(name string) bool { return name == enterInitrd.unit || name == osSeparator.unit }

func hasWants(dir string) bool {
	return strings.HasSuffix(dir, ".wants") || strings.HasSuffix(dir, ".requires")
}

// isWant tells whether name makes a unit want one of the services.
func isWant(name string) bool {
	dir := path.Dir(name)
	return isUnit(path.Base(name)) && hasWants(path.Base(dir)) && isUnitDir(path.Dir(dir))
}

func isUnitDir(dir string) bool { return slices.Contains(unitDirs, dir) }

// isDropInDir tells whether dir is one of those that systemd takes drop-ins of
// the services from: of the unit, of what its name begins with up to a dash,
// and of all services (systemd.unit(5)).
func isDropInDir(dir string) bool {
	name, ok := strings.CutSuffix(dir, ".d")
	if !ok {
		return false
	}
	if name == "service" || isUnit(name) {
		return true
	}
	prefix, ok := strings.CutSuffix(name, "-.service")
	return ok && (strings.HasPrefix(enterInitrd.unit, prefix+"-") || strings.HasPrefix(osSeparator.unit, prefix+"-"))
}

func isUnitFile(name string) bool { return isUnit(path.Base(name)) && isUnitDir(path.Dir(name)) }

func isDropIn(name string) bool {
	dir := path.Dir(name)
	return strings.HasSuffix(name, ".conf") && isDropInDir(path.Base(dir)) && isUnitDir(path.Dir(dir))
}

// userspace decides from the files.
func (f *files) userspace() *Userspace {
	u := &Userspace{EnterInitrd: f.extend(enterInitrd), OSSeparator: f.extend(osSeparator)}
	if len(f.versions) == 1 {
		for v := range f.versions {
			u.Systemd = v
			u.Major, _ = strconv.Atoi(v[:digits(v)]) // systemdVersion has tried
		}
	}
	return u
}
