package bls

import (
	"encoding/hex"
	"encoding/json"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"unicode/utf16"

	"github.com/mkexec/mkexec/measure/esp"
	"github.com/mkexec/mkexec/measure/uki/ukitest"
)

// These tests hold the menu against that of systemd-boot 262 in a VM, and
// against bootctl 262 (testdata/README.md). They do not show that Windows, macOS
// or entries from SMBIOS are seen, which they are not.

type uefiBoot struct {
	Set      map[string]string
	Selected string
	Stub     string
	Profile  string
	Raw      map[string]string
}

type golden struct {
	Name    string
	ESP     tree
	Entries []string
	Boots   []uefiBoot
}

// A tree is what is on an ESP.
type tree struct {
	Conf       map[string]string
	UKIs       map[string]ukiSpec
	LoaderConf *string `json:"loader.conf"`
}

type ukiSpec struct {
	Osrel, Cmdline *string
	Profiles       [][2]*string
}

func (u ukiSpec) build(t testing.TB) []byte {
	t.Helper()
	var sections []ukitest.Section
	add := func(name string, text *string) {
		if text != nil {
			sections = append(sections, ukitest.Section{Name: name, Data: []byte(*text)})
		}
	}
	add(".osrel", u.Osrel)
	add(".cmdline", u.Cmdline)
	linux := "kernel"
	add(".linux", &linux)
	for _, p := range u.Profiles {
		add(".profile", p[0])
		add(".cmdline", p[1])
	}
	b, err := ukitest.Build(ukitest.Minimal("262.1-1"), sections...)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// fs makes a file system of the tree, with the files that entries in testdata refer to.
func (tr tree) fs(t testing.TB) fstest.MapFS {
	t.Helper()
	fsys := fstest.MapFS{"vmlinuz": file("k"), "initrd": file("i"), "x/a.cred": file("c"), "x/b.sysext.raw": file("s")}
	for name, text := range tr.Conf {
		fsys["loader/entries/"+name] = file(text)
	}
	for name, u := range tr.UKIs {
		fsys[path.Join("EFI/Linux", name)] = &fstest.MapFile{Data: u.build(t)}
	}
	if tr.LoaderConf != nil {
		fsys["loader/loader.conf"] = file(*tr.LoaderConf)
	}
	return fsys
}

func file(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }

// efi returns a root file system with variables.
func efi(values map[string]string) fstest.MapFS {
	fsys := fstest.MapFS{efivars + "/Boot0000-8be4df61-93ca-11d2-aa0d-00e098032b8c": file("")}
	for name, value := range values {
		b := []byte{7, 0, 0, 0}
		for _, u := range append(utf16.Encode([]rune(value)), 0) {
			b = append(b, byte(u), byte(u>>8))
		}
		fsys[efivars+"/"+name+"-"+loaderGUID] = &fstest.MapFile{Data: b}
	}
	return fsys
}

func goldens(t testing.TB) []golden {
	t.Helper()
	data, err := os.ReadFile("testdata/sdboot-262.json")
	if err != nil {
		t.Fatal(err)
	}
	var all []golden
	if err := json.Unmarshal(data, &all); err != nil || len(all) != 6 {
		t.Fatalf("%d goldens: %v", len(all), err)
	}
	return all
}

func read(t *testing.T, espFS, root fstest.MapFS) *Menu {
	t.Helper()
	m, err := readMenu(espFS, nil, root, "amd64")
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func (m *Menu) get(t *testing.T, id string) *Entry {
	t.Helper()
	for _, e := range m.Entries {
		if e.ID == id {
			return e
		}
	}
	t.Fatalf("no entry %q", id)
	return nil
}

// broken says what is broken in the corpus, and shownAnyway which of that
// systemd-boot shows all the same, to fail when it starts it or to pass over.
var broken = map[string]string{
	"twotypes.conf":      `line 3: "linux": both efi and linux`,
	"missing.conf":       `"nowhere": file does not exist`,
	"notype.conf":        "none of linux, uki, uki-url and efi",
	"empty.conf":         "none of linux, uki, uki-url and efi",
	"nul.conf":           "line 5: NUL in a text file",
	"ukipx.conf":         `line 3: "profile": "x": not a number`,
	"ukiurlrel.conf":     `line 2: "uki-url": ":u.efi": relative to where the boot loader was downloaded from`,
	"initrdmissing.conf": `"nowhere": file does not exist`,
	"dotdot.conf":        `line 2: "linux": "/EFI/../vmlinuz": not the path of a file on the partition`,
	"dir.conf":           `"EFI": not a regular file`,
	"noname.efi":         "section .osrel: none of PRETTY_NAME, IMAGE_ID, NAME and ID",
}

var shownAnyway = []string{"nul.conf", "ukipx.conf", "initrdmissing.conf", "dotdot.conf", "dir.conf"}

func TestOrder(t *testing.T) {
	t.Parallel()
	for _, g := range goldens(t) {
		var ids []string
		for _, e := range read(t, g.ESP.fs(t), efi(nil)).Entries {
			if e.Broken != nil {
				if e.Broken.Error() != broken[e.ID] {
					t.Errorf("%s: %s: broken: %v; want %q", g.Name, e.ID, e.Broken, broken[e.ID])
				}
				if !slices.Contains(shownAnyway, e.ID) {
					continue
				}
			} else if broken[e.ID] != "" {
				t.Errorf("%s: %s: not broken", g.Name, e.ID)
			}
			if e.unordered { // its place is not known; systemd-boot reads it up to the NUL
				continue
			}
			ids = append(ids, e.ID)
		}
		want := slices.DeleteFunc(slices.Clone(g.Entries), func(id string) bool { return id == "nul.conf" })
		if !slices.Equal(ids, want) {
			t.Errorf("%s:\n%s\nsystemd-boot:\n%s", g.Name, strings.Join(ids, "\n"), strings.Join(want, "\n"))
		}
	}
}

func TestDefaultAndRunning(t *testing.T) {
	t.Parallel()
	boots := 0
	for _, g := range goldens(t) {
		delete(g.ESP.Conf, "nul.conf") // with it, which entry is first cannot be told: TestCannotTell
		fsys := g.ESP.fs(t)
		for _, b := range g.Boots {
			e, err := read(t, fsys, efi(b.Set)).Default()
			switch id := b.Selected; {
			case broken[id] != "":
				if err == nil || !strings.Contains(err.Error(), broken[id]) {
					t.Errorf("%s %v: %v, %v; want %q", g.Name, b.Set, e, err, broken[id])
				}
			case err != nil:
				t.Errorf("%s %v: %v", g.Name, b.Set, err)
			case e.ID != id || !e.Default:
				t.Errorf("%s %v: %s; systemd-boot: %s", g.Name, b.Set, e.ID, id)
			}
			after := map[string]string{"LoaderEntrySelected": b.Selected, "StubImageIdentifier": b.Stub, "StubProfile": b.Profile}
			maps.DeleteFunc(after, func(_, value string) bool { return value == "" })
			wantRunning(t, read(t, fsys, efi(after)), b.Selected)
			if strings.HasPrefix(b.Stub, `\EFI\Linux\`) { // without systemd-boot there is only what the stub says
				delete(after, "LoaderEntrySelected")
				wantRunning(t, read(t, fsys, efi(after)), b.Selected)
			}
			boots++
		}
	}
	if boots != 43 {
		t.Errorf("%d boots", boots)
	}
}

func wantRunning(t *testing.T, m *Menu, id string) {
	t.Helper()
	for _, e := range m.Entries {
		if e.Running != (e.ID == id) {
			t.Errorf("%s: running: %v, but %s runs", e.ID, e.Running, id)
		}
	}
}

// TestRawVariables reads variables as efivarfs has them.
func TestRawVariables(t *testing.T) {
	t.Parallel()
	g := goldens(t)[0]
	root := efi(nil)
	for name, digits := range g.Boots[1].Raw {
		b, err := hex.DecodeString(digits)
		if err != nil {
			t.Fatal(err)
		}
		root[efivars+"/"+name+"-"+loaderGUID] = &fstest.MapFile{Data: b}
	}
	if len(root) != 4 {
		t.Fatalf("%d files", len(root))
	}
	wantRunning(t, read(t, g.ESP.fs(t), root), "multi.efi@debug")
}

// bootctl differs from systemd-boot in these: it shows no entry whose counter or
// name it cannot parse, and entries that are none; it has the profile 0 in the
// ID; it unquotes nothing and has what lies behind a NUL.
var bootctlOnly = []string{"auto-foo.conf", "auto-x.efi", "archno.conf", "multi.efi@main", "nocmd.efi@main"}

func TestBootctl(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("testdata/bootctl-262.json")
	if err != nil {
		t.Fatal(err)
	}
	var want []struct {
		Type                                            Type
		Source                                          esp.Type
		ID, Title, SortKey, Version, MachineID, Options string
		Linux, UKI, EFI, UKIURL                         string
		Initrd, Extras                                  []string
		Profile                                         int
		TriesLeft, TriesDone                            *int
	}
	if err := json.Unmarshal(data, &want); err != nil {
		t.Fatal(err)
	}
	m := read(t, goldens(t)[0].ESP.fs(t), efi(nil))
	compared := 0
	for _, w := range want {
		if slices.Contains(bootctlOnly, w.ID) {
			continue
		}
		e := m.get(t, lower(w.ID))
		if e.Broken != nil {
			continue
		}
		compared++
		if e.Type == Type2 {
			w.UKI, w.Linux, w.Options = w.Linux, "", ""
		}
		if e.ID == "multi.efi@2" {
			w.Title = "Multi (Profile #3)" // strings of systemd-bootx64.efi 262
		}
		if e.ID == "nocmd.efi@y" {
			w.Title = "N (y)"
		}
		if e.ID == "quoted.conf" {
			w.Title, w.Options = "Quoted title", "who=quoted x y z"
		}
		if e.ID == "quot.efi" {
			w.Title, w.Version = `Quo\"te`, `"unbalanced`
		}
		if e.ID == "case.conf" {
			w.Linux, w.Initrd = "/vmlinuz", []string{"/initrd"}
		}
		if e.ID == "backslash.conf" {
			w.Linux = "/vmlinuz"
		}
		if e.ID == "empties.efi" { // an empty value is none for bootctl
			w.Title = ""
		}
		left, done := 0, 0
		if w.TriesLeft != nil {
			left = *w.TriesLeft
		}
		if w.TriesDone != nil {
			done = *w.TriesDone
		}
		c := e.Counter
		if (c != nil) != (w.TriesLeft != nil) || c != nil && *c != (Counter{left, done}) {
			t.Errorf("%s: counter %v", e.ID, c)
		}
		for _, f := range [][3]string{
			{"type", string(e.Type), string(w.Type)}, {"partition", string(e.Partition), string(w.Source)},
			{"title", e.Title, w.Title}, {"sort-key", e.SortKey, w.SortKey}, {"version", e.Version, w.Version},
			{"machine-id", e.MachineID, w.MachineID}, {"options", e.Options, w.Options},
			{"linux", e.Linux, w.Linux[min(1, len(w.Linux)):]}, {"uki", e.UKI, w.UKI[min(1, len(w.UKI)):]},
			{"efi", e.EFI, w.EFI[min(1, len(w.EFI)):]}, {"uki-url", e.UKIURL, w.UKIURL},
			{"initrd", "/" + strings.Join(e.Initrds, " /"), "/" + strings.TrimPrefix(strings.Join(w.Initrd, " "), "/")},
			{"extra", "/" + strings.Join(e.Extra, " /"), "/" + strings.TrimPrefix(strings.Join(w.Extras, " "), "/")},
		} {
			if f[1] != f[2] {
				t.Errorf("%s: %s: %q; bootctl: %q", e.ID, f[0], f[1], f[2])
			}
		}
		if e.Profile != w.Profile {
			t.Errorf("%s: profile %d", e.ID, e.Profile)
		}
	}
	if compared < 45 {
		t.Errorf("only %d compared", compared)
	}
}

// TestOneByte: siblings of accepted vectors with a byte changed.
func TestOneByte(t *testing.T) {
	t.Parallel()
	conf := map[string]string{"a.conf": "title A\nlinux /vmlinuz\n", "b.conf": "title B\nlinux /vmlinuz\n"}
	ids := func(name, text string) string {
		c := maps.Clone(conf)
		c[name] = text
		var all []string
		for _, e := range read(t, tree{Conf: c}.fs(t), nil).Entries {
			s := e.ID
			if e.Broken != nil {
				s += "!"
			}
			all = append(all, s)
		}
		return strings.Join(all, " ")
	}
	for _, c := range []struct{ name, text, want string }{
		{"b.conf", "title B\nlinux /vmlinuz\n", "b.conf a.conf"},
		{"a.conf", "sort-key a\nlinux /vmlinuz\n", "a.conf b.conf"},
		{"a.conf", "sort_key a\nlinux /vmlinuz\n", "b.conf a.conf"},
		{"a.conf", "title A\nlinuX /vmlinuz\n", "b.conf a.conf!"},
		{"a.conf", "title A\nlinux /vmlinux\n", "b.conf a.conf!"},
		{"c+1.conf", "linux /vmlinuz\n", "c.conf b.conf a.conf"},
		{"c+0.conf", "linux /vmlinuz\n", "b.conf a.conf c.conf"},
		{"c-0.conf", "linux /vmlinuz\n", "c-0.conf b.conf a.conf"},
		{"c.conG", "linux /vmlinuz\n", "b.conf a.conf"},
	} {
		if got := ids(c.name, c.text); got != c.want {
			t.Errorf("%s %q: %s, want %s", c.name, c.text, got, c.want)
		}
	}
}

// TestPartitions: both are read, loader.conf only from the ESP.
func TestPartitions(t *testing.T) {
	t.Parallel()
	one := tree{Conf: map[string]string{"a.conf": "linux /vmlinuz\n", "same.conf": "title On the ESP\nlinux /vmlinuz\n"}}
	def := "default b.conf\n"
	two := tree{Conf: map[string]string{"b.conf": "linux /VMlinuz\n", "same.conf": "title Other\nlinux /vmlinuz\n"}, LoaderConf: &def}
	m, err := Read(one.fs(t), two.fs(t), efi(map[string]string{"LoaderEntrySelected": "same.conf"}))
	if err != nil {
		t.Fatal(err)
	}
	e, err := m.Default()
	if err != nil || e.ID != "same.conf" || e.Partition != esp.ESP || e.Title != "On the ESP" {
		t.Errorf("%+v, %v", e, err)
	}
	if e := m.get(t, "b.conf"); e.Partition != esp.XBOOTLDR || e.Linux != "vmlinuz" || e.Path != "loader/entries/b.conf" {
		t.Errorf("%+v", e)
	}
	for _, e := range m.Entries {
		if e.Running {
			t.Errorf("%s on %s runs, but two have this ID", e.ID, e.Partition)
		}
	}
}
