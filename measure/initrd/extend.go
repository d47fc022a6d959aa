package initrd

import (
	"cmp"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
)

func no(format string, a ...any) Extend      { return Extend{No, fmt.Sprintf(format, a...)} }
func unknown(format string, a ...any) Extend { return Extend{Unknown, fmt.Sprintf(format, a...)} }

// extend decides whether a service extends PCRs: /init is systemd, there is the
// service, it is started, and does what it does in the versions that are known.
func (f *files) extend(s service) Extend {
	init, ok := f.init()
	if !ok {
		return no("there is no /init")
	}
	for _, name := range slices.Sorted(maps.Keys(f.byPath)) {
		if target := f.byPath[name].target; target != "" && f.hides(name) {
			return unknown("/%s is a link to %.80q", name, target)
		}
	}
	unit, u, ok := f.unit(s.unit)
	switch {
	case !ok:
		return no("there is no %s", s.unit)
	case u.target == "/dev/null", u == file{}:
		return no("/%s is masked", unit)
	case u.target != "":
		return unknown("/%s is a link to %.80q", unit, u.target)
	case u.doubt != "":
		return unknown("/%s %s", unit, u.doubt)
	}
	want, wants := f.wanted(s.unit)
	if want == "" {
		return no("nothing starts %s", s.unit)
	}
	switch {
	case !wants:
		return unknown("whether what wants it is started is not known: /%s", want)
	case init != "systemd":
		return unknown("whether /init, %s, starts systemd is not known", init)
	case !f.has(initrdRelease):
		return no("there is no /%s", initrdRelease)
	case !f.has(programs[0]) && !f.has(programs[1]):
		return no("there is no /%s", programs[1])
	}
	if why := s.differs(u.text); why != "" {
		return unknown("/%s %s", unit, why)
	}
	for _, name := range slices.Sorted(maps.Keys(f.byPath)) {
		if d := f.byPath[name]; isDropIn(name) && appliesTo(path.Base(path.Dir(name)), s.unit) && d != (file{}) && d.target != "/dev/null" {
			return unknown("/%s %s", name, cmp.Or(d.doubt, "is a link"))
		}
	}
	return Extend{Yes, fmt.Sprintf("/%s starts it", want)}
}

func (f *files) has(name string) bool {
	_, ok := f.byPath[name]
	return ok
}

// hides tells whether a link at name hides a directory with units in it.
func (f *files) hides(name string) bool {
	for _, dir := range unitDirs {
		if rest, ok := strings.CutPrefix(name, dir+"/"); ok {
			return !strings.Contains(rest, "/") && !isUnit(rest)
		}
	}
	return ofUnits(name)
}

// init returns what /init is: "systemd", or what it is called; false if there
// is none.
func (f *files) init() (string, bool) {
	name := "init"
	for range 8 {
		at, ok := f.byPath[name]
		if !ok {
			return "", false
		}
		if at.target == "" {
			return "a file", true
		}
		target := at.target
		if !path.IsAbs(target) {
			target = path.Join(path.Dir(name), target)
		}
		if name = clean(target); strings.HasSuffix("/"+name, "/lib/systemd/systemd") {
			return "systemd", true
		}
		if !isInit(name) {
			break
		}
	}
	return fmt.Sprintf("a link to %.80q", "/"+name), true
}

// unit returns the file of a unit that counts, and its path.
func (f *files) unit(name string) (string, file, bool) {
	for _, dir := range unitDirs {
		if u, ok := f.byPath[dir+"/"+name]; ok {
			return dir + "/" + name, u, true
		}
	}
	return "", file{}, false
}

// wanted returns a link by which a unit is started, "" if there is none, and
// whether that is certain. A link to /dev/null hides others of its name in
// later directories.
func (f *files) wanted(unit string) (want string, certain bool) {
	hidden := map[string]bool{}
	for _, dir := range unitDirs {
		for _, name := range slices.Sorted(maps.Keys(f.byPath)) {
			if !isWant(name) || path.Base(name) != unit || path.Dir(path.Dir(name)) != dir {
				continue
			}
			by := path.Base(path.Dir(name))
			if hidden[by] {
				continue
			}
			if f.byPath[name].target == "/dev/null" {
				hidden[by] = true
				continue
			}
			if slices.Contains(targets, strings.TrimSuffix(strings.TrimSuffix(by, ".wants"), ".requires")) {
				return name, true
			}
			want = name
		}
	}
	return want, false
}

// appliesTo tells whether drop-ins in dir are for the unit; isDropInDir holds.
func appliesTo(dir, unit string) bool {
	name := strings.TrimSuffix(dir, ".d")
	prefix, ok := strings.CutSuffix(name, "-.service")
	return name == "service" || name == unit || ok && strings.HasPrefix(unit, prefix+"-")
}

// changes tells whether a drop-in may change what a service does or whether it
// is started.
func changes(text string) bool {
	for _, line := range lines(text) {
		for _, key := range []string{"Exec", "Condition", "Assert", "Type", "Root", "Conflicts", "After", "Requires", "BindsTo", "Requisite"} {
			if strings.HasPrefix(line, key) {
				return true
			}
		}
	}
	return false
}

// lines returns the lines of a unit file, without comments, and with those in
// one that end with a backslash (systemd.syntax(7)).
func lines(text string) []string {
	var all []string
	for _, line := range strings.Split(strings.ReplaceAll(text, "\\\n", " "), "\n") {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' && line[0] != ';' {
			all = append(all, line)
		}
	}
	return all
}

// conditions are those that the services have: an initrd, and that the boot is
// measured, which was expressed in several ways.
var conditions = []string{
	"ConditionPathExists=/etc/initrd-release",
	"AssertPathExists=/etc/initrd-release",
	"ConditionSecurity=tpm2",
	"ConditionSecurity=measured-uki",
	"ConditionSecurity=measured-os",
	"ConditionPathExists=/sys/firmware/efi/efivars/StubPcrKernelImage-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f",
}

// differs returns how a unit file differs from those that are known, "" if it
// does not.
func (s service) differs(text string) string {
	commands := 0
	for _, line := range lines(text) {
		if strings.HasPrefix(line, "Condition") || strings.HasPrefix(line, "Assert") {
			if !slices.Contains(conditions, line) {
				return fmt.Sprintf("has %.80q", line)
			}
		}
		if command, ok := strings.CutPrefix(line, "ExecStart="); ok {
			if commands++; !s.isCommand(strings.Fields(command)) {
				return fmt.Sprintf("has %.200q", line)
			}
		}
	}
	if commands != 1 {
		return fmt.Sprintf("has %d times ExecStart=", commands)
	}
	return ""
}

// isCommand tells whether a command extends the PCRs with the word.
func (s service) isCommand(args []string) bool {
	if len(args) == 0 || !isProgram(clean(strings.TrimPrefix(args[0], "-"))) {
		return false
	}
	var words []string
	var pcrs []int
	for _, arg := range args[1:] {
		option, value, _ := strings.Cut(arg, "=")
		switch option {
		case "--graceful", "--event-type":
		case "--pcr":
			n, err := strconv.Atoi(value)
			if err != nil {
				return false
			}
			pcrs = append(pcrs, n)
		default:
			words = append(words, arg)
		}
	}
	if pcrs == nil {
		pcrs = []int{11}
	}
	for _, n := range s.pcrs {
		if !slices.Contains(pcrs, n) {
			return false
		}
	}
	return slices.Equal(words, []string{s.word})
}
