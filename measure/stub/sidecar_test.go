package stub_test

// These tests have files beside images of package ukitest, and expectations
// written by hand from the specification of systemd-stub (2.2, 2.5 to 2.7, 3.1).
// They do not prove that specification; vm_golden_test.go and golden_test.go do,
// for the files that were there. That the files are found on the partition is
// for cmd/mkexec to prove.

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/stub"
)

var allVersions = []string{"252", "253", "254", "255", "256", "257", "258", "259", "260", "261", "262"}

// events returns what is measured into PCR 12 and 13, such as
// "13 System extension initrd", "12 tag 49dffe0f b.addon.efi", "12 quiet".
func events(t testing.TB, b *stub.Boot) []string {
	t.Helper()
	list := []string{}
	for _, m := range b.Measurements {
		text, data := "", m.Data
		switch {
		case m.PCR == measure.PCRKernelImage:
			continue
		case m.Type == measure.EventTag:
			if len(data) < 10 || int(data[4])+int(data[5])<<8 != len(data)-8 {
				t.Fatalf("%s: event data %x", m.Description, data)
			}
			text = fmt.Sprintf("tag %02x%02x%02x%02x ", data[3], data[2], data[1], data[0])
			data = data[8:]
		case m.Type != measure.EventIPL:
			t.Fatalf("%s: type %v", m.Description, m.Type)
		}
		if n := len(data); n < 2 || n%2 != 0 || data[n-1] != 0 || data[n-2] != 0 {
			t.Fatalf("%s: event data %x does not end with a NUL", m.Description, data)
		}
		list = append(list, fmt.Sprintf("%d %s%s", m.PCR, text, fromUTF16z(data)))
	}
	return list
}

func wantEvents(t testing.TB, what string, b *stub.Boot, want ...string) {
	t.Helper()
	if got := events(t, b); !slices.Equal(got, want) {
		t.Errorf("%s: PCR 12 and 13:\n%q\nwant\n%q", what, got, want)
	}
}

// archived returns the files in the archives of the initrd, by path.
func archived(t testing.TB, b *stub.Boot) map[string]cpioEntry {
	t.Helper()
	found := map[string]cpioEntry{}
	for _, a := range unpack(t, read(t, b.Initrd...)) {
		for _, e := range a.entries {
			if e.mode&^0o777 == 0o100000 {
				found[e.name] = e
			}
		}
	}
	return found
}

func TestSidecarNames(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", 251)
	const none = ""
	for name, want := range map[string]struct{ v255, v256 string }{
		"a.cred":                    {"credentials", "credentials"},
		"A.CRED":                    {"credentials", "credentials"},
		"a.cReD":                    {"credentials", "credentials"},
		"a b.cred":                  {"credentials", "credentials"},
		"a\x7f.cred":                {"credentials", "credentials"},
		"a..cred":                   {"credentials", "credentials"},
		"a.raw.cred":                {"credentials", "credentials"},
		".cred":                     {none, none},
		".a.cred":                   {none, none},
		"..cred":                    {none, none},
		"cred":                      {none, none},
		"acred":                     {none, none},
		"a.cred~":                   {none, none},
		"a.cred ":                   {none, none},
		"a.creds":                   {none, none},
		"ä.cred":                    {none, none},
		"a\x80.cred":                {none, none},
		long[:250] + ".cred":        {"credentials", "credentials"}, // 255
		long + ".cred":              {none, none},
		"a.raw":                     {"sysext", "sysext"},
		"a.RAW":                     {"sysext", "sysext"},
		"a.sysext.raw":              {"sysext", "sysext"},
		"aconfext.raw":              {"sysext", "sysext"},
		"confext.raw":               {"sysext", "sysext"},
		"a.confext.raw":             {"sysext", "confext"},
		"a.CONFEXT.raw":             {"sysext", "confext"},
		"a.confext.RaW":             {"sysext", "confext"},
		"a.confext.raw.raw":         {"sysext", "sysext"},
		"a.raw.confext.raw":         {"sysext", "confext"},
		".confext.raw":              {none, none},
		".a.raw":                    {none, none},
		"raw":                       {none, none},
		"a.raw.xz":                  {none, none},
		long[:247] + ".confext.raw": {none, none}, // 259
		long[:243] + ".confext.raw": {"sysext", "confext"},
		long[:244] + ".confext.raw": {none, none}, // 256
		long + ".raw":               {"sysext", "sysext"},
		long + "a.raw":              {none, none},
		"README":                    {none, none},
		"":                          {none, none},
	} {
		list := files(name, "contents")
		for version, want := range map[string]string{"252": want.v255, "255": want.v255, "256": want.v256, "262": want.v256} {
			b := load(t, version, stub.Options{Via: stub.ViaKexec, Sidecars: stub.Sidecars{Image: list}}, linux)
			got := []string{}
			for path := range archived(t, b) {
				got = append(got, path)
			}
			if want != none {
				want = ".extra/" + want + "/" + name
			}
			if strings.Join(got, " ") != want {
				t.Errorf("%q: %s puts it at %q, want %q", name, version, got, want)
			}
		}
		if got := stub.IsSidecar(name); got != (want.v256 != none) {
			t.Errorf("%q is a sidecar: %v", name, got)
		}
	}
	for name, want := range map[string]bool{
		"a.addon.efi": true, "A.ADDON.EFI": true, "addon.efi": false, ".addon.efi": false, ".a.addon.efi": false, "a.efi": false,
		long[:245] + ".addon.efi": true, long[:246] + ".addon.efi": false, "ä.addon.efi": false,
	} {
		if got := stub.IsSidecar(name); got != want {
			t.Errorf("%q is a sidecar: %v", name, got)
		}
	}
}

// TestSidecarDirectories: only some kinds count in each directory for all images.
func TestSidecarDirectories(t *testing.T) {
	t.Parallel()
	all := files("a.cred", "1", "b.raw", "22", "c.confext.raw", "333", "README", "4444")
	for name, test := range map[string]struct {
		sidecars stub.Sidecars
		want     []string
	}{
		"image":       {stub.Sidecars{Image: all}, []string{"12 Credentials initrd", "13 System extension initrd", "12 Configuration extension initrd"}},
		"addons":      {stub.Sidecars{Addons: all}, nil},
		"credentials": {stub.Sidecars{Credentials: all}, []string{"12 Global credentials initrd"}},
		"extensions":  {stub.Sidecars{Extensions: all}, []string{"13 Global system extension initrd", "12 Global configuration extension initrd"}},
	} {
		wantEvents(t, name, load(t, "262", stub.Options{Via: stub.ViaKexec, Sidecars: test.sidecars}, linux), test.want...)
	}
}

// TestSidecarOrder: files are in the order of their bytes, upper case first,
// whatever the order of the directory is.
func TestSidecarOrder(t *testing.T) {
	t.Parallel()
	want := []string{"!.cred", "-.cred", "0.cred", "10.cred", "9.cred", "A.cred", "B.CRED", "Z.cred", "_.cred", "a-b.cred", "a.b.cred",
		"a.cred", "a0.cred", "aB.cred", "a_.cred", "ab.Cred", "ab.cred", "z.cred", "~.cred"}
	for _, order := range [][]string{want, reversed(want), slices.Concat(want[7:], want[:7])} {
		var list []stub.File
		for _, name := range order {
			list = append(list, files(name, "contents of "+name)...)
		}
		b := load(t, "262", stub.Options{Via: stub.ViaKexec, Sidecars: stub.Sidecars{Image: list, Credentials: list}}, linux)
		archives := unpack(t, read(t, b.Initrd...))
		if len(archives) != 2 {
			t.Fatalf("%d archives", len(archives))
		}
		for i, dir := range []string{".extra/credentials", ".extra/global_credentials"} {
			var got []string
			for n, e := range archives[i].entries {
				if e.inode != n+1 {
					t.Errorf("%s: inode %d, want %d", e.name, e.inode, n+1)
				}
				if name, ok := strings.CutPrefix(e.name, dir+"/"); ok {
					got = append(got, name)
					if e.data != "contents of "+name {
						t.Errorf("%s: %q", e.name, e.data)
					}
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s: %q\nwant %q", dir, got, want)
			}
		}
	}
}

func reversed(list []string) []string {
	list = slices.Clone(list)
	slices.Reverse(list)
	return list
}

// TestArchives has every kind of file everywhere. The table is that of the
// specification, 2.7, with the versions of 2.5.
func TestArchives(t *testing.T) {
	t.Parallel()
	list := func(name string) []stub.File {
		return files(name+".cred", "1", name+".raw", "22", name+".confext.raw", "333")
	}
	sidecars := stub.Sidecars{Image: list("i"), Addons: list("a"), Credentials: list("c"), Extensions: list("e")}
	type archive struct {
		pcr              measure.PCR
		event, dir       string
		dirMode, fileMod int
		names            string
	}
	var (
		credentials       = archive{12, "Credentials initrd", ".extra/credentials", 0o500, 0o400, "i.cred"}
		globalCredentials = archive{12, "Global credentials initrd", ".extra/global_credentials", 0o500, 0o400, "c.cred"}
		anyRaw            = archive{13, "System extension initrd", ".extra/sysext", 0o555, 0o444, "i.confext.raw i.raw"}
		sysext            = archive{13, "System extension initrd", ".extra/sysext", 0o555, 0o444, "i.raw"}
		globalSysext      = archive{13, "Global system extension initrd", ".extra/global_sysext", 0o555, 0o444, "e.raw"}
		confext           = archive{12, "Configuration extension initrd", ".extra/confext", 0o555, 0o444, "i.confext.raw"}
		globalConfext     = archive{12, "Global configuration extension initrd", ".extra/global_confext", 0o555, 0o444, "e.confext.raw"}
	)
	for _, version := range allVersions {
		var want []archive
		switch {
		case version < "256":
			want = []archive{credentials, globalCredentials, anyRaw}
		case version < "258":
			want = []archive{credentials, globalCredentials, sysext, confext}
		default:
			want = []archive{credentials, globalCredentials, sysext, globalSysext, confext, globalConfext}
		}
		b := load(t, version, stub.Options{Via: stub.ViaKexec, Sidecars: sidecars}, linux, sec(".initrd", "initrd"))
		initrd, ok := strings.CutPrefix(read(t, b.Initrd...), "initrd\x00\x00")
		if !ok {
			t.Fatalf("%s: the initrd begins with %.10q", version, read(t, b.Initrd...))
		}
		archives := unpack(t, initrd)
		if len(archives) != len(want) {
			t.Errorf("%s: %d archives, want %d", version, len(archives), len(want))
			continue
		}
		wanted := []string{}
		i := 0
		for _, m := range b.Measurements {
			if m.PCR == measure.PCRKernelImage {
				continue
			}
			if got := read(t, m.Content); got != archives[i].raw {
				t.Errorf("%s: %s: measured is not what is in the initrd", version, m.Description)
			}
			i++
		}
		for i, w := range want {
			wanted = append(wanted, fmt.Sprintf("%d %s", w.pcr, w.event))
			var names []string
			for n, e := range archives[i].entries {
				path, mode := ".extra", 0o040555
				switch {
				case n == 1:
					path, mode = w.dir, 0o040000|w.dirMode
				case n > 1:
					path, mode = e.name, 0o100000|w.fileMod
					name, _ := strings.CutPrefix(e.name, w.dir+"/")
					names = append(names, name)
				}
				if e.name != path || e.mode != mode || e.inode != n+1 || e.uid != 0 || e.gid != 0 || e.mtime != 0 {
					t.Errorf("%s: %s: entry %d is %+v, want %s with mode %o", version, w.event, n, e, path, mode)
				}
			}
			if got := strings.Join(names, " "); got != w.names {
				t.Errorf("%s: %s: files %s, want %s", version, w.event, got, w.names)
			}
		}
		wantEvents(t, version, b, wanted...)
	}
}

// TestArchiveDescription: what is said to people of an archive is short.
func TestArchiveDescription(t *testing.T) {
	t.Parallel()
	for names, want := range map[string]string{
		"a.cred":                      "Credentials initrd: a.cred",
		"d.cred c.cred b.cred a.cred": "Credentials initrd: a.cred, b.cred, c.cred, d.cred",
		"f.cred e.cred x.raw d.cred c.cred b.cred a.cred": "Credentials initrd: a.cred, b.cred, c.cred, d.cred, 2 more",
	} {
		var list []stub.File
		for _, name := range strings.Fields(names) {
			list = append(list, files(name, "1")...)
		}
		b := load(t, "262", stub.Options{Via: stub.ViaKexec, Sidecars: stub.Sidecars{Image: list}}, linux)
		if got := b.Measurements[2].Description; got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// TestEmptySidecar: a file without contents is archived and measured.
func TestEmptySidecar(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"252", "262"} {
		b := load(t, version, stub.Options{Via: stub.ViaKexec, Sidecars: stub.Sidecars{Image: files("a.cred", "", "b.cred", "1", "c.raw", "")}}, linux)
		wantEvents(t, version, b, "12 Credentials initrd", "13 System extension initrd")
		got := archived(t, b)
		if a, ok := got[".extra/credentials/a.cred"]; !ok || a.size != 0 || got[".extra/credentials/b.cred"].data != "1" || len(got) != 3 {
			t.Errorf("%s: %+v", version, got)
		}
	}
}

// A sized content has a size, but its bytes must not be asked for.
type sized int64

func (s *sized) Size() int64                       { return int64(*s) }
func (s *sized) ReadAt([]byte, int64) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestHugeSidecar(t *testing.T) {
	t.Parallel()
	const most = math.MaxUint32
	for _, test := range []struct {
		name string
		size int64
		want string
	}{
		{"a.raw", most, ""},
		{"a.raw", most + 1, "a.raw: 4294967296 bytes: more than an archive can hold (4294967295)"},
		{"a.cred", 1 << 40, "a.cred: 1099511627776 bytes: more than an archive can hold (4294967295)"},
		{"a.img", 1 << 40, ""}, // nobody wants it
		{".a.raw", 1 << 40, ""},
	} {
		opts := stub.Options{Via: stub.ViaKexec, Sidecars: stub.Sidecars{Image: []stub.File{{Name: test.name, Content: new(sized(test.size))}}}}
		if test.want != "" {
			wantError(t, loadError(t, "262", opts, linux), test.want)
		} else {
			load(t, "262", opts, linux)
		}
	}
	opts := stub.Options{Via: stub.ViaKexec, Sidecars: stub.Sidecars{Extensions: []stub.File{{Name: "a.raw", Content: new(sized(most + 1))}}}}
	load(t, "257", opts, linux) // knows no extensions for all images
	wantError(t, loadError(t, "258", opts, linux), "a.raw: 4294967296 bytes: more than an archive can hold (4294967295)")
}

func TestImageDir(t *testing.T) {
	t.Parallel()
	const highest = "18446744073709551615"     // 64 bits
	for path, want := range map[string]string{ // since 255
		"EFI/Linux/uki.efi":              "EFI/Linux/uki.efi",
		"uki+3.efi":                      "uki.efi",
		"uki+3-0.efi":                    "uki.efi",
		"uki+3-10.efi":                   "uki.efi",
		"uki+0-0.efi":                    "uki.efi",
		"uki+0003.efi":                   "uki.efi",
		"uki+3":                          "uki",
		"uki+3-1":                        "uki",
		"uki+3.5.efi":                    "uki.5.efi",
		"+3.efi":                         ".efi",
		"uki+" + highest + ".efi":        "uki.efi",
		"uki+1-" + highest:               "uki",
		"uki+18446744073709551616":       "uki+18446744073709551616", // more than 64 bits
		"uki+1-99999999999999999999.efi": "uki+1-99999999999999999999.efi",
		"uki+.efi":                       "uki+.efi",
		"uki+":                           "uki+",
		"uki+-1.efi":                     "uki+-1.efi",
		"uki+a.efi":                      "uki+a.efi",
		"uki+3a.efi":                     "uki+3a.efi",
		"uki+3-.efi":                     "uki+3-.efi",
		"uki+3-a.efi":                    "uki+3-a.efi",
		"uki+3-1a.efi":                   "uki+3-1a.efi",
		"uki+3-1-2.efi":                  "uki+3-1-2.efi",
		"uki+ 3.efi":                     "uki+ 3.efi",
		"uki++3.efi":                     "uki++3.efi",
		"uki+3+4.efi":                    "uki+3+4.efi", // only the first + counts
		"uki+x+4.efi":                    "uki+x+4.efi",
		"uki+3_.efi":                     "uki+3_.efi",
		"uki+0x3.efi":                    "uki+0x3.efi",
		"uki+٣.efi":                      "uki+٣.efi",
		"a+b/uki+3.efi":                  "a+b/uki+3.efi", // in the whole path
		"a+1.d/uki+3.efi":                "a.d/uki+3.efi",
		"a+1/uki.efi":                    "a+1/uki.efi",
		"EFI/x/uki+3-0.EFI":              "EFI/x/uki.EFI",
		"EFI/x/g+1.b+3-0.efi":            "EFI/x/g.b+3-0.efi",
		"":                               "",
	} {
		for _, major := range []int{255, 256, 257, 262} {
			if got := stub.ImageDir(path, major); got != want+".extra.d" {
				t.Errorf("%d: %q: %q", major, path, got)
			}
		}
		for _, major := range []int{252, 253, 254} {
			if got := stub.ImageDir(path, major); got != path+".extra.d" {
				t.Errorf("%d: %q: %q", major, path, got)
			}
		}
	}
}
