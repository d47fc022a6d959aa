package esp

import (
	"errors"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"
)

// Mounts as the kernel lists them (proc_pid_mountinfo(5)); the lines are of a
// Debian machine with systemd, their paths changed. These tests do not show that
// an automount point is triggered: TestAutomount shows that it is entered.

const (
	rootLine  = "26 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw\n"
	procLine  = "24 26 0:22 / /proc rw,nosuid shared:12 - proc proc rw\n"
	efiLine   = "30 26 254:15 / /efi rw,relatime shared:30 - vfat /dev/vda15 rw,fmask=0077\n"
	bootLine  = "31 26 254:16 / /boot rw,relatime shared:31 - vfat /dev/vda16 rw\n"
	bootExt4  = "31 26 254:16 / /boot rw,relatime shared:31 - ext4 /dev/vda16 rw\n"
	nested    = "32 31 254:15 / /boot/efi rw,relatime shared:32 - vfat /dev/vda15 rw\n"
	nestedBtr = "32 26 254:15 / /boot/efi rw,relatime shared:32 - vfat /dev/vda15 rw\n"

	typeESP   = "I:1\nE:ID_PART_ENTRY_SCHEME=gpt\nE:ID_PART_ENTRY_TYPE=c12a7328-f81f-11d2-ba4b-00a0c93ec93b\nG:systemd\n"
	typeXBoot = "E:ID_PART_ENTRY_TYPE=bc13c2ff-59e6-4262-a352-b275fd6f7172\n"
	typeOther = "E:ID_PART_ENTRY_TYPE=0fc63daf-8483-4772-8e79-3d69d8477de4\n"
)

// machine returns a root with mounts, and what udev knows of 254:15 and 254:16.
func machine(mounts, udev15, udev16 string) fstest.MapFS {
	fsys := fstest.MapFS{"proc/self/mountinfo": {Data: []byte(rootLine + procLine + mounts)}}
	for dev, data := range map[string]string{"254:15": udev15, "254:16": udev16} {
		if data != "" {
			fsys["run/udev/data/b"+dev] = &fstest.MapFile{Data: []byte(data)}
		}
	}
	return fsys
}

func TestMounted(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, mounts, udev15, udev16 string
		esp, xbootldr                string
	}{
		{"nothing", "", "", "", "", ""},
		{"efi", efiLine, typeESP, "", "/efi", ""},
		{"efi, type not known", efiLine, "", "", "/efi", ""},
		{"efi, udev knows no type", efiLine, "I:1\n", "", "/efi", ""},
		{"efi, of another type", efiLine, typeOther, "", "", ""},
		{"efi, not vfat", strings.Replace(efiLine, "vfat", "ext4", 1), typeESP, "", "", ""},
		{"efi and boot", efiLine + bootLine, typeESP, typeXBoot, "/efi", "/boot"},
		{"efi and boot, types not known", efiLine + bootLine, "", "", "/efi", "/boot"},
		{"efi and a boot of another type", efiLine + bootLine, typeESP, typeOther, "/efi", ""},
		{"boot is ext4", efiLine + bootExt4, typeESP, "", "/efi", ""},
		{"boot is ext4 and XBOOTLDR", efiLine + bootExt4, typeESP, typeXBoot, "/efi", "/boot"},
		{"boot is the ESP", bootLine, "", typeESP, "/boot", ""},
		{"boot, type not known", bootLine, "", "", "/boot", ""},
		{"boot and boot/efi", bootLine + nested, typeESP, typeXBoot, "/boot/efi", "/boot"},
		{"boot and boot/efi, types not known", bootLine + nested, "", "", "/boot/efi", "/boot"},
		{"boot on the root, boot/efi", nestedBtr, typeESP, "", "/boot/efi", ""},
		{"a known ESP before an unknown one", efiLine + bootLine, "", typeESP, "/boot", ""},
		{"MBR", efiLine + bootLine, "E:ID_PART_ENTRY_TYPE=0xef\n", "E:ID_PART_ENTRY_TYPE=0xea\n", "/efi", "/boot"},
		{"the same partition twice", efiLine + strings.Replace(bootLine, "254:16", "254:15", 1), "", "", "/efi", ""},
		{"a directory of a partition", strings.Replace(efiLine, " / /efi", " /sub /efi", 1), typeESP, "", "", ""},
		{"covered", efiLine + "33 30 0:40 / /efi rw - tmpfs tmpfs rw\n", typeESP, "", "", ""},
		{"below a covered directory", nestedBtr + "33 26 0:40 / /boot rw - tmpfs tmpfs rw\n", typeESP, "", "", ""},
		{"another mount point", strings.Replace(efiLine, "/efi", "/mnt", 1), typeESP, "", "", ""},
	} {
		gotESP, gotX, err := Mounted(machine(c.mounts, c.udev15, c.udev16))
		if err != nil || gotESP != c.esp || gotX != c.xbootldr {
			t.Errorf("%s: %q %q %v; want %q %q", c.name, gotESP, gotX, err, c.esp, c.xbootldr)
		}
	}
}

// An automount mounts when a directory is read.
type automount struct {
	before, after fstest.MapFS
	point         string
	entered       bool
}

func (a *automount) Open(name string) (fs.File, error) {
	if name == a.point {
		a.entered = true
	}
	if a.entered {
		return a.after.Open(name)
	}
	return a.before.Open(name)
}

func TestAutomount(t *testing.T) {
	t.Parallel()
	auto := "29 26 0:35 / /efi rw,relatime shared:30 - autofs systemd-1 rw,fd=61\n"
	mounted := machine(auto+strings.Replace(efiLine, "30 26", "30 29", 1), typeESP, "")
	mounted["efi/EFI"] = &fstest.MapFile{Mode: fs.ModeDir}
	a := &automount{before: machine(auto, typeESP, ""), after: mounted, point: "efi"}
	if got, _, err := Mounted(a); got != "/efi" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	broken := &automount{before: machine(auto, typeESP, ""), point: "none"}
	if got, _, err := Mounted(broken); got != "" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

func TestHolding(t *testing.T) {
	t.Parallel()
	bind := strings.Replace(efiLine, "30 26 254:15 / /efi", `40 26 254:15 /EFI/Li\040nux /srv/u\134k\011i`, 1)
	for _, c := range []struct {
		name, mounts, file string
		udev               string
		dir, path          string
	}{
		{"efi", efiLine, "/efi/EFI/Linux/x.efi", typeESP, "/efi", "EFI/Linux/x.efi"},
		{"vfat of no known type", efiLine, "/efi/x.efi", "", "/efi", "x.efi"},
		{"any vfat", strings.Replace(efiLine, "/efi", "/media/stick", 1), "/media/stick/x.efi", typeOther, "/media/stick", "x.efi"},
		{"not on it", efiLine, "/efiX/x.efi", typeESP, "", ""},
		{"XBOOTLDR with ext4", strings.Replace(efiLine, "vfat", "ext4", 1), "/efi/x", typeXBoot, "/efi", "x"},
		{"ext4", strings.Replace(efiLine, "vfat", "ext4", 1), "/efi/x", typeOther, "", ""},
		{"nested", bootExt4 + nested, "/boot/efi/EFI/x", typeESP, "/boot/efi", "EFI/x"},
		{"above the nested", bootExt4 + nested, "/boot/x", typeESP, "", ""},
		{"covered", efiLine + "33 30 0:40 / /efi/EFI rw - tmpfs tmpfs rw\n", "/efi/EFI/x", typeESP, "", ""},
		{"a directory and all of it", efiLine + bind, "/srv/u\\k\ti/x.efi", typeESP, "/efi", "EFI/Li nux/x.efi"},
		{"two whole mounts", efiLine + strings.Replace(efiLine, "30 26 254:15 / /efi", "31 26 254:15 / /mnt", 1), "/mnt/x", typeESP, "/mnt", "x"},
	} {
		dir, path, ok, err := Holding(machine(c.mounts, c.udev, ""), c.file)
		if err != nil || dir != c.dir || path != c.path || ok != (c.dir != "") {
			t.Errorf("%s: %q %q %v %v; want %q %q", c.name, dir, path, ok, err, c.dir, c.path)
		}
	}
	for _, c := range []struct{ mounts, file, want string }{
		{bind, "/srv/u\\k\ti/x.efi", `"/srv/u\\k\ti/x.efi": of its partition (device 254:15) only "/EFI/Li nux" is mounted: cannot tell`},
		// the whole partition is mounted, but something else over it
		{bind + efiLine + "33 30 0:40 / /efi rw - tmpfs tmpfs rw\n", "/srv/u\\k\ti/x.efi", `"/srv/u\\k\ti/x.efi": of its partition (device 254:15) only "/EFI/Li nux" is mounted: cannot tell`},
	} {
		_, _, ok, err := Holding(machine(c.mounts, typeESP, ""), c.file)
		if ok || !errors.Is(err, ErrCannotTell) || err.Error() != c.want {
			t.Errorf("%v, %v; want %s", ok, err, c.want)
		}
	}
	for file, want := range map[string]string{
		"efi/x":     `"efi/x": not an absolute path, or not a clean one`,
		"/efi/../x": `"/efi/../x": not an absolute path, or not a clean one`,
		"":          `"": not an absolute path, or not a clean one`,
	} {
		if _, _, _, err := Holding(machine(efiLine, "", ""), file); err == nil || err.Error() != want {
			t.Errorf("%q: %v", file, err)
		}
	}
}

func TestHostileMountinfo(t *testing.T) {
	t.Parallel()
	const at = "proc/self/mountinfo: line 1: "
	for text, want := range map[string]string{
		"x\n":                                     at + `"x": not a mount`,
		"\n":                                      at + `"": not a mount`,
		"1 2 8:1 / /efi rw - vfat\n":              at + `"1 2 8:1 / /efi rw - vfat": not a mount`,
		"1 2 8:1 / /efi rw vfat /dev/x rw\n":      at + `"1 2 8:1 / /efi rw vfat /dev/x rw": not a mount`,
		"1 2 ../8 / /efi rw - vfat /dev/x rw\n":   at + `"../8": not MAJ:MIN`,
		"1 2 8:1: / /efi rw - vfat /dev/x rw\n":   at + `"8:1:": not MAJ:MIN`,
		"1 2 8:1 / efi rw - vfat /dev/x rw\n":     at + `"efi": not a mount point`,
		"1 2 8:1 / /e\\04 rw - vfat /dev/x rw\n":  at + `"/e\\04": a backslash without three octal digits`,
		"1 2 8:1 / /e\\999 rw - vfat /dev/x rw\n": at + `"/e\\999": a backslash without three octal digits`,
		"1 2 8:1 / /e\\777 rw - vfat /dev/x rw\n": at + `"/e\\777": a backslash without three octal digits`,
		"1 2 8:1 \\ /e rw - vfat /dev/x rw\n":     at + `"\\": a backslash without three octal digits`,
		strings.Repeat("x", 2<<20):                "proc/self/mountinfo: bufio.Scanner: token too long",
	} {
		_, _, err := Mounted(fstest.MapFS{"proc/self/mountinfo": {Data: []byte(text)}})
		if err == nil || err.Error() != want {
			t.Errorf("%.40q: %v; want %s", text, err, want)
		}
	}
	if _, _, err := Mounted(fstest.MapFS{}); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	// a circle of mounts, or one on itself, must end
	for _, text := range []string{
		"1 2 8:1 / / rw - ext4 x rw\n2 1 8:2 / /efi rw - vfat x rw\n",
		"1 1 8:1 / / rw - rootfs x rw\n2 1 8:2 / /efi rw - vfat x rw\n2 2 8:2 / /efi rw - vfat x rw\n",
	} {
		if _, _, err := Mounted(fstest.MapFS{"proc/self/mountinfo": {Data: []byte(text)}}); err != nil {
			t.Error(err)
		}
	}
}
