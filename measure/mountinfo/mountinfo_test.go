package mountinfo

// Lines as Linux writes them, and lines that it does not. It does not prove
// anything about a kernel that mangles other characters.

import (
	"strings"
	"testing"
	"testing/fstest"
)

const example = "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue" // proc_pid_mountinfo(5)

func TestRead(t *testing.T) {
	t.Parallel()
	root := func(text string) fstest.MapFS { return fstest.MapFS{"proc/self/mountinfo": {Data: []byte(text)}} }
	mounts, err := Read(root(example + "\n" + `22 1 0:26 /@ /a\040b\134\043 rw - btrfs /dev/mapper/a\134x rw` + "\n23 22 0:5 / /c rw a:1 b:2 - odd a\\b rw\n"))
	want := []Mount{
		{"36", "35", "98:0", "/mnt1", "/mnt2", "ext3", "/dev/root"},
		{"22", "1", "0:26", "/@", `/a b\#`, "btrfs", `/dev/mapper/a\x`},
		{"23", "22", "0:5", "/", "/c", "odd", `a\b`}, // not mangled
	}
	if err != nil || len(mounts) != len(want) {
		t.Fatalf("%+v, %v", mounts, err)
	}
	for i := range want {
		if mounts[i] != want[i] {
			t.Errorf("%+v, want %+v", mounts[i], want[i])
		}
	}
	for text, want := range map[string]string{
		"1 2 3\n":                               `line 1: "1 2 3": not a mount`,
		"1 1 0:2 / / rw ext4 a b\n":             `line 1: "1 1 0:2 / / rw ext4 a b": not a mount`,
		example + "\n1 1 0 / / rw - ext4 a b\n": `line 2: "0": not MAJ:MIN`,
		"1 1 0:2 /\\04 / rw - ext4 a b\n":       `line 1: "/\\04": a backslash without three octal digits`,
		"1 1 0:2 / /\\999 rw - ext4 a b\n":      `line 1: "/\\999": a backslash without three octal digits`,
		"1 1 0:2 / mnt rw - ext4 a b\n":         `line 1: "mnt": not a mount point`,
		strings.Repeat("x", 2<<20):              "bufio.Scanner: token too long",
	} {
		if _, err := Read(root(text)); err == nil || err.Error() != "proc/self/mountinfo: "+want {
			t.Errorf("%.80q: %v, want %s", text, err, want)
		}
	}
	if _, err := Read(fstest.MapFS{}); err == nil {
		t.Error("no file, and no error")
	}
}

// FuzzParse: what a line says, written as the kernel writes it, says it again,
// also with more fields before the dash.
func FuzzParse(f *testing.F) {
	for _, line := range []string{example, `1 2 8:1 /a\040b /c\134d\012 rw a:1 b:2 - vfat x rw`, `22 1 0:26 / /a\040b rw - btrfs /dev/mapper/a\134x rw`} {
		f.Add(line)
	}
	escape := strings.NewReplacer(" ", `\040`, "\t", `\011`, "\n", `\012`, `\`, `\134`, "#", `\043`)
	f.Fuzz(func(t *testing.T, line string) {
		m, err := parse(line)
		if err != nil {
			if len(err.Error()) > 400 {
				t.Fatalf("%v", err)
			}
			return
		}
		if m.ID == "" || m.Dev == "" || m.FSType == "" || m.Point == "" {
			t.Fatalf("%+v", m)
		}
		if m.Source == "" || strings.ContainsFunc(m.Root+m.Point+m.Source, func(r rune) bool {
			return r != ' ' && r != '\t' && r != '\n' && strings.TrimSpace(string(r)) == ""
		}) {
			return // blanks that the kernel does not escape, and Fields splits at
		}
		again := strings.Join([]string{m.ID, m.Parent, m.Dev, escape.Replace(m.Root), escape.Replace(m.Point), "rw shared:9 -", m.FSType, escape.Replace(m.Source), "rw"}, " ")
		if n, err := parse(again); err != nil || n != m {
			t.Errorf("%q: %+v, then %+v, %v", line, m, n, err)
		}
	})
}
