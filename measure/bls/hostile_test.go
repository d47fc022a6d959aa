package bls

import (
	"errors"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"
)

// What hostile or damaged input leads to. It does not show what firmware would
// do with the same.

// menuOf is an ESP with one good old-style entry and the files given.
func menuOf(files fstest.MapFS) fstest.MapFS {
	fsys := fstest.MapFS{"vmlinuz": file("k"), "loader/entries/good.conf": file("linux /vmlinuz\n")}
	for name, f := range files {
		fsys[name] = f
	}
	return fsys
}

func TestHostileEntries(t *testing.T) {
	t.Parallel()
	const dir = "loader/entries/"
	for _, c := range []struct {
		name string
		f    *fstest.MapFile
		id   string
		want string // Entry.Broken
	}{
		{dir + "x.conf", file("linux /vmlinuz\x00\n"), "x.conf", "line 1: NUL in a text file"},
		{dir + "x.conf", file("title \xff\nlinux /vmlinuz\n"), "x.conf", "line 1: not UTF-8"},
		{dir + "x.conf", file(strings.Repeat("#", maxText+1)), "x.conf", "65537 bytes: more than 65536"},
		{dir + "x.conf", file("title \"\nlinux /vmlinuz"), "x.conf", `line 1: "title \"": a quote alone`},
		{dir + "x.conf", file("linux\n"), "x.conf", "none of linux, uki, uki-url and efi"},
		{dir + "x.conf", file("linux=/vmlinuz\n"), "x.conf", "none of linux, uki, uki-url and efi"},
		{dir + "x.conf", file("\r\n\r\n"), "x.conf", "none of linux, uki, uki-url and efi"},
		{dir + "x.conf", file("linux /../vmlinuz\n"), "x.conf", `line 1: "linux": "/../vmlinuz": not the path of a file on the partition`},
		{dir + "x.conf", file("linux /\n"), "x.conf", `line 1: "linux": "/": not the path of a file on the partition`},
		{dir + "x.conf", file("linux .\n"), "x.conf", `line 1: "linux": ".": not the path of a file on the partition`},
		{dir + "x.conf", file("linux /vmlinuz\ninitrd ..\\x\n"), "x.conf", `line 2: "initrd": "..\\x": not the path of a file on the partition`},
		{dir + "x.conf", file("linux /vmlinuz\nprofile -1\n"), "x.conf", `line 2: "profile": "-1": not a number`},
		{dir + "x.conf", file("linux /vmlinuz\nprofile 256\n"), "x.conf", `line 2: "profile": 256: more than 255`},
		{dir + "x.conf", file("linux /vmlinuz\nprofile 99999999999\n"), "x.conf", `line 2: "profile": "99999999999": not a number`},
		{dir + "x.conf", file("uki /vmlinuz\nuki-url http://x/\n"), "x.conf", `line 2: "uki-url": both uki and uki-url`},
		{dir + "x.conf", file("linux /loader\n"), "x.conf", `"loader": not a regular file`},
		{dir + "x.conf", file("linux /vmlinuz/x\n"), "x.conf", `"vmlinuz/x": file does not exist: "vmlinuz" is not a directory`},
		{dir + "x.conf", file("linux /" + strings.Repeat("y", 5000) + "\n"), "x.conf", `"` + strings.Repeat("y", 80) + `": file does not exist`},
		{dir + "x.conf", &fstest.MapFile{Mode: fs.ModeNamedPipe}, "x.conf", `"loader/entries/x.conf": not a regular file`},
		{dir + "x.conf", &fstest.MapFile{Mode: fs.ModeSymlink, Data: []byte("good.conf")}, "x.conf", `"loader/entries/x.conf": a symbolic link, which firmware does not follow`},
		{dir + "bell\a.conf", file("linux /vmlinuz\n"), "bell\a.conf", "file name: not UTF-8, or with control characters"},
		{dir + strings.Repeat("é", 251) + ".conf", file("linux /vmlinuz\n"), strings.Repeat("é", 251) + ".conf", "file name: more than 255 characters"},
		{dir + strings.Repeat("é", 250) + ".conf", file("linux /vmlinuz\n"), strings.Repeat("é", 250) + ".conf", ""},
		{dir + "ünï.conf", file("linux /vmlinuz\n"), "ünï.conf", ""},
		{dir + "x.conf", file("linux /vmlinuz\r\ngrub_users x\r\n"), "x.conf", ""},
		{"EFI/Linux/x.efi", file(""), "x.efi", "DOS header: truncated: wants 64 bytes at 0, the file has 0"},
		{"EFI/Linux/x.efi", file(strings.Repeat("x", 100)), "x.efi", "not a PE file: no MZ at offset 0"},
		{"EFI/Linux/x.efi", &fstest.MapFile{Mode: fs.ModeSymlink, Data: []byte("/etc/passwd")}, "x.efi", `"EFI/Linux/x.efi": a symbolic link, which firmware does not follow`},
		{"EFI/Linux/x.efi", release(t, "ID=x\nNAME=\"\n"), "x.efi", "section .osrel: line 2: \"NAME=\\\"\": a quote alone"},
		{"EFI/Linux/x.efi", release(t, "VERSION=1\n"), "x.efi", "section .osrel: none of PRETTY_NAME, IMAGE_ID, NAME and ID"},
		{"EFI/Linux/x.efi", release(t, "ID=x"), "x.efi", ""},
	} {
		m := read(t, menuOf(fstest.MapFS{c.name: c.f}), nil)
		got := ""
		if e := m.get(t, c.id); e.Broken != nil {
			got = e.Broken.Error()
		}
		if got != c.want {
			t.Errorf("%.60q %.40q:\n %s\nwant\n %s", c.name, c.f.Data, got, c.want)
		}
		if m.get(t, "good.conf").Broken != nil {
			t.Errorf("%.60q: the good entry is broken", c.name)
		}
	}
}

func release(t *testing.T, osrel string) *fstest.MapFile {
	return &fstest.MapFile{Data: ukiSpec{Osrel: &osrel}.build(t)}
}

// TestNoEntry: these files are no entries.
func TestNoEntry(t *testing.T) {
	t.Parallel()
	pe := ukiSpec{}.build(t)
	foreign := ukiSpec{Osrel: new(string)}.build(t)
	*(*[2]byte)(foreign[int(foreign[0x3c])+4:]) = [2]byte{0x64, 0xAA} // ARM64
	for goarch, want := range map[string]int{"amd64": 2, "arm64": 1} {
		m, err := readMenu(menuOf(fstest.MapFS{"loader/entries/x.conf": file("linux /vmlinuz\narchitecture X64\n")}), nil, nil, goarch)
		if err != nil || len(m.Entries) != want {
			t.Errorf("%s: %d entries, %v", goarch, len(m.Entries), err)
		}
	}
	for name, f := range map[string]*fstest.MapFile{
		"loader/entries/.x.conf":       file("linux /vmlinuz\n"),
		"loader/entries/Auto-x.conf":   file("linux /vmlinuz\n"),
		"loader/entries/x.txt":         file("linux /vmlinuz\n"),
		"loader/entries/x.conf/y":      file("linux /vmlinuz\n"),
		"loader/entries/x.d/y.conf":    file("linux /vmlinuz\n"),
		"loader/entries/arch.conf":     file("architecture z80\nlinux /nowhere\n"),
		"EFI/Linux/x.efi.extra.d/y":    file(""),
		"EFI/Linux/nothing.efi":        {Data: pe},
		"EFI/Linux/otherwise.efi":      {Data: foreign},
		"EFI/systemd/systemd-boot.efi": {Data: pe},
	} {
		if m := read(t, menuOf(fstest.MapFS{name: f}), nil); len(m.Entries) != 1 {
			t.Errorf("%s: %+v", name, m.Entries[0])
		}
	}
}

// TestCannotTell: what keeps the default from being known, and what does not.
func TestCannotTell(t *testing.T) {
	t.Parallel()
	nul := fstest.MapFS{"loader/entries/a.conf": file("\x00")}
	unmounted := fstest.MapFS{efivars: {Mode: fs.ModeDir}}
	for _, c := range []struct {
		files fstest.MapFS
		root  fstest.MapFS
		want  string // error, or ID
		is    error
	}{
		{nul, nil, `default entry: cannot tell: esp "loader/entries/a.conf" may be it, but is broken: line 1: NUL in a text file`, ErrCannotTell},
		{nul, efi(map[string]string{"LoaderEntryDefault": "good.conf"}), "good.conf", nil},
		{nul, efi(map[string]string{"LoaderEntryDefault": "a.conf"}), `default entry: "a.conf": broken: line 1: NUL in a text file`, nil},
		{nil, unmounted, "default entry: cannot tell: EFI variables are not to be had (efivarfs is not mounted)", ErrCannotTell},
		{nil, efi(map[string]string{"LoaderEntryOneShot": "auto-windows"}), `default entry: LoaderEntryOneShot: "auto-windows": is not an entry of the Boot Loader Specification`, nil},
		{nil, efi(map[string]string{"LoaderEntryOneShot": "auto-windows", "LoaderEntries": "good.conf\x00auto-reboot"}), "good.conf", nil},
		{nil, efi(map[string]string{"LoaderEntryOneShot": "*"}), "good.conf", nil},
		{nil, efi(map[string]string{"LoaderEntryDefault": "@SAVED", "LoaderEntryLastBooted": "gone.conf"}), "good.conf", nil},
		{nil, efi(map[string]string{"LoaderEntryOneShot": "@saved", "LoaderEntryLastBooted": "zero.conf"}), "good.conf", nil},
		{fstest.MapFS{"loader/entries/good.conf": file("sort-key x\nuki /vmlinuz\nprofile 1\n")}, nil, "default entry: there is none", ErrNoEntry},
		{fstest.MapFS{"loader/entries/z.conf": file("linux /nowhere\n")}, nil, `default entry: "z.conf": broken: "nowhere": file does not exist`, nil},
		{fstest.MapFS{"loader/entries/a.conf": file("linux /nowhere\n")}, nil, "good.conf", nil},
		{fstest.MapFS{"loader/entries/z.conf": file("sort-key a\nlinux /nowhere\n"), "loader/loader.conf": file("default g*\n")}, nil, "good.conf", nil},
		{fstest.MapFS{"loader/loader.conf": file("default \x00\n")}, nil, "default entry: loader/loader.conf: line 1: NUL in a text file", nil},
		{fstest.MapFS{"loader/loader.conf": file("default auto-reboot\n")}, nil, `default entry: default in loader.conf: "auto-reboot": is not an entry of the Boot Loader Specification`, nil},
		{fstest.MapFS{"loader/loader.conf": file("default @other\nPreferred x\n")}, nil, "good.conf", nil},
	} {
		m := read(t, menuOf(c.files), c.root)
		got := ""
		e, err := m.Default()
		if err != nil {
			got = err.Error()
		} else {
			got = e.ID
		}
		if got != c.want || c.is != nil && !errors.Is(err, c.is) {
			t.Errorf("%v %v:\n %s\nwant\n %s", c.files, c.root, got, c.want)
		}
		for _, other := range m.Entries {
			if other.Default != (other == e) {
				t.Errorf("%s: default: %v", other.ID, other.Default)
			}
		}
	}
}

// TestHostileVariables: a variable that is none is not passed over.
func TestHostileVariables(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, data, want string }{
		{"LoaderEntryDefault", "", "EFI variable LoaderEntryDefault: 0 bytes: not attributes and UTF-16"},
		{"LoaderEntryDefault", "\a\x00\x00", "EFI variable LoaderEntryDefault: 3 bytes: not attributes and UTF-16"},
		{"LoaderEntryOneShot", "\a\x00\x00\x00a", "EFI variable LoaderEntryOneShot: 5 bytes: not attributes and UTF-16"},
		{"LoaderEntries", strings.Repeat("x", maxVariable+2), "EFI variable LoaderEntries: more than 1048576 bytes"},
		{"LoaderEntryDefault", "\a\x00\x00\x00\x00\xd8", "EFI variable LoaderEntryDefault: not UTF-16: half a pair"},
		{"StubProfile", "\a\x00\x00\x00x\x00", `StubProfile: "x": not a number`},
		{"LoaderEntryDefault", "\a\x00\x00\x00", ""},
		{"LoaderEntryDefault", "\a\x00\x00\x00x\x00", ""},
	} {
		root := efi(nil)
		root[efivars+"/"+c.name+"-"+loaderGUID] = file(c.data)
		_, err := Read(menuOf(nil), nil, root)
		if got := text(err); got != c.want {
			t.Errorf("%s %.20q: %s; want %s", c.name, c.data, got, c.want)
		}
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// TestDirectories: a partition that cannot be listed is not an empty one.
func TestDirectories(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		fsys fstest.MapFS
		want string
	}{
		{fstest.MapFS{}, ""},
		{fstest.MapFS{"LOADER/Entries/x.CONF": file("")}, ""},
		{fstest.MapFS{"loader/entries": file("")}, `esp: "loader/entries": not a directory`},
		{fstest.MapFS{"loader/x": file(""), "Loader/x": file("")}, `esp: "loader/entries": ambiguous: "Loader" and "loader" differ in case only`},
		{fstest.MapFS{"EFI": {Mode: fs.ModeSymlink, Data: []byte("x")}}, `esp: "EFI": a symbolic link, which firmware does not follow`},
	} {
		_, err := Read(c.fsys, nil, nil)
		if got := text(err); got != c.want {
			t.Errorf("%v: %s; want %s", c.fsys, got, c.want)
		}
	}
}

// TestIgnored: keys that change nothing are named.
func TestIgnored(t *testing.T) {
	t.Parallel()
	m := read(t, menuOf(fstest.MapFS{"loader/entries/a.conf": file("uki /vmlinuz\ninitrd /gone\nid x\nTitle x\nid y\n")}), nil)
	if e := m.get(t, "a.conf"); e.Broken != nil || e.Initrds != nil || strings.Join(e.Ignored, " ") != "id Title initrd" {
		t.Errorf("%+v", e)
	}
}

// TestBrokenPlace: entries of the wrong kind keep their place.
func TestBrokenPlace(t *testing.T) {
	t.Parallel()
	m := read(t, menuOf(fstest.MapFS{"loader/entries/a.conf": file("profile x\nlinux /vmlinuz\nsort-key a\n")}), nil)
	if e := m.Entries[0]; e.ID != "a.conf" || e.Broken == nil || e.SortKey != "a" {
		t.Errorf("%+v", e)
	}
}
