package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mkexec/mkexec/cmd/mkexec/internal/vm"
	"github.com/mkexec/mkexec/measure/uki/ukitest"
)

// These tests start systemd-boot. They do not prove anything about entries that
// it finds elsewhere than on the partition, about a person at its menu, about
// EFI variables that choose an entry (measure/bls has boots with those), nor
// about an extra command line in the SMBIOS, which it adds for kernels without a
// stub and which predict does not know.

// A menuTest is a partition, and what systemd-boot starts from it.
type menuTest struct {
	systemd     systemdRelease
	esp         map[string][]byte // without systemd-boot
	after       map[string][]byte // what mkexec list reads of it in the guest, beside loader/; nil: there is no mkexec
	entry       string            // the ID of the entry that is started
	predict     []string          // arguments for predict, if the choice is not left to it
	console     string            // what the stub adds to the command line
	credentials string            // the one that the stub finds
}

const menuCmdline = vm.Quiet + " from=menu"

// menuImage builds a UKI, with two profiles if asked to.
func menuImage(t *testing.T, stub string, linux, initrd []byte, profiles bool, more ...ukitest.Section) []byte {
	t.Helper()
	data, err := os.ReadFile(stub)
	if err != nil {
		t.Fatal(err)
	}
	text := func(name, s string) ukitest.Section { return ukitest.Section{Name: name, Data: []byte(s)} }
	sections := []ukitest.Section{
		text(".osrel", "ID=menu\nPRETTY_NAME=Menu\n"), text(".cmdline", menuCmdline),
		{Name: ".linux", Data: linux}, {Name: ".initrd", Data: initrd},
	}
	sections = append(sections, more...)
	if profiles {
		sections = append(sections, text(".profile", "ID=main\n"), text(".profile", "ID=debug\n"), text(".cmdline", menuCmdline+" debug=1"))
	}
	image, err := ukitest.Build(data, sections...)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// zipped compresses an initrd. Its size is odd.
func zipped(t *testing.T, initrd []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(initrd); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return append(b.Bytes(), make([]byte, 1+b.Len()%2)...)
}

// menus are the names of the tests with a systemd.
func (s systemdRelease) menus() []string {
	if s.version < 255 {
		return []string{"embedded"}
	}
	if s.version < 261 {
		return []string{"counter", "profile", "linux"}
	}
	return []string{"counter", "profile", "linux", "extra"}
}

func newMenuTest(t *testing.T, m *vmImages, systemd systemdRelease, name string) *menuTest {
	linux, err := os.ReadFile(m.assets.Kernel)
	if err != nil {
		t.Fatal(err)
	}
	initrd, err := m.assets.Initrd(map[string]vm.File{"init": vm.Init(witness + `
mount_esp() { # the variables are said of a partition that is mounted, and udev would know it
	mkdir -p /efi /run/udev/data
	mount -t tmpfs tmpfs /efi && cp -r /esp/. /efi &&
		echo E:ID_PART_ENTRY_TYPE=c12a7328-f81f-11d2-ba4b-00a0c93ec93b >/run/udev/data/b$(awk '$5 == "/efi" { print $3 }' /proc/self/mountinfo)
}
variable() { tail -c +5 /sys/firmware/efi/efivars/$1-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f | tr -d '\000'; }
section selected variable LoaderEntrySelected
[ ! -e /mkexec ] || { mount_esp && section list /mkexec list --json --esp=/efi; }
`)})
	if err != nil {
		t.Fatal(err)
	}
	initrd = zipped(t, initrd)
	// A stand-in for the image in that image itself: what mkexec list reads of it is the same.
	small := []byte("not started")
	newest := systemd.version >= 262

	var c *menuTest
	switch name {
	case "embedded":
		// Up to 254 systemd-boot reads the embedded command line and passes it, so that it is measured, twice; predict
		// goes by newer ones, which do not (systemd pull request 28924).
		return &menuTest{
			systemd: systemd, entry: "x.efi",
			esp: map[string][]byte{
				"EFI/Linux/x.efi":                menuImage(t, systemd.stub, linux, initrd, false),
				"EFI/Linux/x.efi.extra.d/a.cred": []byte("a"),
			},
			predict:     []string{"--cmdline=" + menuCmdline, "EFI/Linux/x.efi"},
			credentials: "a.cred",
		}
	case "counter":
		c = &menuTest{
			systemd: systemd, entry: "x.efi", credentials: "a.cred",
			esp: map[string][]byte{
				"EFI/Linux/x+3-0.efi":                menuImage(t, systemd.stub, linux, initrd, newest),
				"EFI/Linux/x.efi.extra.d/a.cred":     []byte("a"),
				"EFI/Linux/x+3-0.efi.extra.d/b.cred": []byte("not taken"),
				"EFI/Linux/x+2-1.efi.extra.d/c.cred": []byte("not taken"),
				"loader/entries/b.conf":              []byte("title B\nsort-key z\nefi /EFI/BOOT/BOOTX64.EFI\n"),
				"loader/loader.conf":                 []byte("timeout 0\n"),
			},
			after: map[string][]byte{
				"EFI/Linux/x+2-1.efi": menuImage(t, systemd.stub, small, small, newest), "EFI/BOOT/BOOTX64.EFI": small,
			},
		}
	case "profile":
		c = &menuTest{
			systemd: systemd, entry: "p.conf", credentials: "a.cred",
			esp: map[string][]byte{
				"EFI/x.efi":                menuImage(t, systemd.stub, linux, initrd, true),
				"EFI/x.efi.extra.d/a.cred": []byte("a"),
				"loader/loader.conf":       []byte("timeout 0\ndefault p.conf\n"),
			},
		}
		if newest {
			c.esp["loader/entries/p.conf"] = []byte("title P\nuki /EFI/x.efi\nprofile 1\noptions foo=bar\n")
			c.console = " console=uart,io,0x3f8"
			break
		}
		// There is no key for the profile yet. What begins like one in the options is refused by mkexec in an entry.
		c.esp["loader/entries/p.conf"] = []byte("title P\nefi /EFI/x.efi\noptions @1 foo=bar\n")
		c.predict = []string{"--profile=1", "--cmdline=foo=bar", "EFI/x.efi"}
	case "linux":
		c = &menuTest{
			systemd: systemd, entry: "linux.conf",
			esp: map[string][]byte{
				"l/vmlinuz":             linux,
				"l/base.img":            initrd,
				"loader/loader.conf":    []byte("timeout 0\ndefault linux.*\n"),
				"loader/entries/a.conf": []byte("title A\nsort-key a\nefi /l/vmlinuz\n"),
				"l/x.cred":              []byte("not taken"),
				"loader/entries/linux.conf": []byte("title L\nlinux /l/vmlinuz\ninitrd /l/base.img\ninitrd l//tools.img\nextra /l/x.cred\n" +
					"options " + menuCmdline + "\noptions second=2 \n"),
			},
			after: map[string][]byte{"l/vmlinuz": small, "l/base.img": small, "l/tools.img": small, "l/x.cred": small},
		}
	case "extra":
		// What counts of the extra files, and how, is known from boots like this one only; see measure/stub/entry_test.go.
		c = &menuTest{
			systemd: systemd, entry: "extra.conf", credentials: ".hidden.cred Upper.CRED a.cred zeta.cred", console: " console=uart,io,0x3f8",
			esp: map[string][]byte{
				"EFI/x.efi": menuImage(t, systemd.stub, linux, initrd, true,
					ukitest.Section{Name: ".ucode", Data: initrdOf("payload/ucode", "of the image")}),
				"EFI/x.efi.extra.d/a.cred": []byte("a"),
				"loader/loader.conf":       []byte("timeout 0\ndefault extra.*\n"),
				"loader/entries/extra.conf": []byte("title E\nuki /EFI/x.efi\noptions @01 foo=bar\n" +
					"extra /x/one.sysext.raw\nextra \\x\\zeta.cred\nextra /x/empty.sysext.raw\nextra /x/one.confext.raw\n" +
					"extra /x/UPPER.cred\nextra /x/plain.raw\nextra /x/a.addon.efi\nextra /x/.hidden.cred\nextra /x/zeta.cred\nextra /x/é.cred\n"),
				"x/one.sysext.raw": bytes.Repeat([]byte("SYSEXT"), 1000), "x/empty.sysext.raw": nil, "x/one.confext.raw": []byte("CONFEXT"),
				"x/zeta.cred": []byte("zeta!"), "x/Upper.CRED": []byte("u"), "x/.hidden.cred": []byte("h"), "x/é.cred": []byte("e"), "x/plain.raw": []byte("p"),
				"x/a.addon.efi": buildAddon(t, systemd.addon, ukitest.Section{Name: ".cmdline", Data: []byte("not taken")}),
			},
		}
	}
	c.addTools(t, m)
	return c
}

// addTools puts mkexec and a copy of the partition into the guest: as an initrd
// addon, or as the second initrd of an entry for a kernel.
func (c *menuTest) addTools(t *testing.T, m *vmImages) {
	if c.after == nil {
		return
	}
	files := map[string]vm.File{"mkexec": {Data: m.mkexec, Perm: 0o755}}
	for name, data := range c.esp {
		if strings.HasPrefix(name, "loader/") {
			files["esp/"+name] = vm.File{Data: data, Perm: 0o644}
		}
	}
	for name, data := range c.after {
		files["esp/"+name] = vm.File{Data: data, Perm: 0o644}
	}
	tools := zipped(t, vm.Archive(files))
	if c.esp["l/base.img"] != nil {
		c.esp["l/tools.img"] = tools
		return
	}
	c.esp["EFI/Linux/x.efi.extra.d/tools.addon.efi"] = buildAddon(t, c.systemd.addon, ukitest.Section{Name: ".initrd", Data: tools})
}

// TestVMSystemdBoot: what systemd-boot starts is what mkexec takes for the
// default entry, and PCRs and command line are those that predict says. Under
// systemd-boot, mkexec reads the same from its EFI variables.
//
// It does not show what systemd-boot 257 does with an image of several profiles
// and a boot counter in its name: both have the same ID there and the last
// profile is started, which the rules of mkexec, those of 262, do not say.
func TestVMSystemdBoot(t *testing.T) {
	for _, systemd := range systemdReleases(t) {
		for _, name := range systemd.menus() {
			t.Run(fmt.Sprintf("%d/%s", systemd.version, name), func(t *testing.T) {
				t.Parallel()
				m := newVM(t)
				newMenuTest(t, m, systemd, name).run(t, m)
			})
		}
	}
}

func (c *menuTest) run(t *testing.T, m *vmImages) {
	var err error
	if c.esp["EFI/BOOT/BOOTX64.EFI"], err = os.ReadFile(c.systemd.boot); err != nil {
		t.Fatal(err)
	}
	dir := writeTree(t, t.TempDir(), c.esp)
	args := []string{"--via=systemd-boot", "--esp=" + dir}
	if c.predict != nil {
		last := len(c.predict) - 1
		args = append(append(args, c.predict[:last]...), filepath.Join(dir, filepath.FromSlash(c.predict[last])))
	}
	p := predict(t, args...)
	if c.predict == nil && p.Image.Entry != c.entry {
		t.Errorf("mkexec takes %q for the default entry", p.Image.Entry)
	}

	got := m.run(t, vm.Config{ESP: c.esp})
	if got["selected"] != c.entry {
		t.Errorf("systemd-boot started %q, want %q", got["selected"], c.entry)
	}
	report := reportOf(t, got, "second")
	wantPCRs(t, "systemd-boot", report, p.Phases[0].PCRs)
	wantEvents(t, got, p)
	if report.Cmdline != p.Cmdline+c.console {
		t.Errorf("command line %q, predicted %q", report.Cmdline, p.Cmdline)
	}
	var credentials []string
	for path := range report.Extra {
		if name, ok := strings.CutPrefix(path, "/.extra/credentials/"); ok {
			credentials = append(credentials, name)
		}
	}
	slices.Sort(credentials)
	if strings.Join(credentials, " ") != c.credentials {
		t.Errorf("credentials: %q, want %q", credentials, c.credentials)
	}
	if c.after != nil {
		c.wantList(t, got["list"])
	}
}

// wantList compares the menu that mkexec found in the guest.
func (c *menuTest) wantList(t *testing.T, text string) {
	t.Helper()
	var list entryList
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		t.Fatalf("list: %v in %q", err, text)
	}
	if list.Default != c.entry {
		t.Errorf("list: default is %q, want %q", list.Default, c.entry)
	}
	for _, e := range list.Entries {
		if e.Running != (e.ID == c.entry) || e.Default != (e.ID == c.entry) {
			t.Errorf("list: %s: running: %v, default: %v", e.ID, e.Running, e.Default)
		}
		if counted := strings.Contains(e.Path, "+"); counted && (e.TriesLeft == nil || *e.TriesLeft != 2 || *e.TriesDone != 1) {
			t.Errorf("list: %s: not counted by systemd-boot", e.Path)
		}
	}
	if len(list.Entries) < 2 {
		t.Errorf("list: %q", text)
	}
}
