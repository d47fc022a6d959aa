package stub_test

// These tests compare with what systemd-boot 262.1 measured, in virtual machines,
// of boot entries with extra files. They do not prove what 261 did, nor what
// becomes of a file that is longer than these; TestVMSystemdBoot in cmd/mkexec
// proves the initrd that the kernel gets.

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/stub"
	"github.com/mkexec/mkexec/measure/uki/ukitest"
)

// entryBoots are the extra files of the boots, in the order of the entry, and
// SHA-256 of what was logged as Entry credentials, system extension and
// configuration extension initrd, in this order.
var entryBoots = []struct {
	files   []stub.File
	want    [3]string
	ignored string
}{
	{
		files("zeta.cred", "zeta!", "Alpha.CRED", "al", "two.raw", "TT", "one.sysext.raw", "ONE", "c.confext.raw", "CCC", "other.txt", "nope"),
		[3]string{
			"688dc7f65f4d15bf3e208c2ea9fb5f5809d9d70f7d8f8fbd7858ca627d4f344c",
			"5a1cbcc7ec450707da0e4ff94fd5edda1f2e1e1b8a958f7a8815e4f64ef2f6b4",
			"7522e651834a397afd50752534e18f737d666c01b54b0c87d05b7cccdf2b3131",
		},
		"two.raw other.txt",
	},
	{
		files("one.sysext.raw", "ONE", "zeta.cred", "zeta!", "C.CONFEXT.RAW", "CCC", ".hidden.cred", "h", "Alpha.CRED", "al", "y.addon.efi", "an addon",
			"two.SYSEXT.raw", "TT", "zeta.cred", "zeta!", "plain.raw", "P", "é.cred", "e", "empty.cred", ""),
		[3]string{
			"8fcb6b1156ec4e14f473d4409e7f0c45b6ce9601afb2071c9c9d69522c05d09f",
			"8fc33bb64bdf944518174a00e5ae9a7cda764989949e39db8e1f78ac4f61e52d",
			"ed03158e99cd94644913b2aade75e0888d5d4e97b8e1543364e5d70da4eac4d3",
		},
		"y.addon.efi plain.raw é.cred empty.cred",
	},
	{
		files("é.cred", "e", "empty.cred", "", "bs.cred", "bs", "one.sysext.raw", "ONE", "zeta.cred", "zeta!", ".hidden.cred", "h", "plain.raw", "P",
			"C.CONFEXT.RAW", "CCC", "Alpha.CRED", "al"),
		[3]string{
			"5733d2154b0825034125a1c9aa7a0b06938c8169dddea406588fa5af77e60f96",
			"b1801445096d4927383b46749022ce67bb2e995bd57b6a1e1f426aca3e5d239b",
			"a88e9988351557da2cfee0f2d9d7b3a8f99ef779285159e1028dc9e77b0a3bd5",
		},
		"é.cred empty.cred plain.raw",
	},
}

func TestEntryFiles(t *testing.T) {
	t.Parallel()
	for i, test := range entryBoots {
		opts := stub.Options{Via: stub.ViaSystemdBoot, Cmdline: new("opt"), Profile: "1", Sidecars: stub.Sidecars{Entry: test.files, Image: files("a.cred", "a")}}
		b := load(t, "262", opts, linux, ukitest.Section{Name: ".profile", Data: []byte("ID=a")}, ukitest.Section{Name: ".profile", Data: []byte("ID=b")})
		wantEvents(t, test.ignored, b, "12 Entry credentials initrd", "13 Entry system extension initrd", "12 Entry configuration extension initrd",
			"12 @1 opt", "12 tag 13aed6db 1", "12 opt", "12 Credentials initrd")
		for n, want := range test.want {
			if got := sha256Of(t, b.Measurements[n].Content); got != want {
				t.Errorf("boot %d: %s is %s, systemd-boot has %s", i, b.Measurements[n].Description, got, want)
			}
		}
		var ignored []string
		for _, s := range b.Ignored {
			name, _, _ := strings.Cut(strings.TrimPrefix(s, "extra file "), ": empty, or not of a name that systemd-boot takes")
			ignored = append(ignored, name)
		}
		if got := strings.Join(ignored, " "); got != test.ignored {
			t.Errorf("boot %d: ignored: %q, want %q", i, got, test.ignored)
		}
		// One byte in one file changes one archive.
		for n, f := range test.files {
			data := []byte(read(t, f.Content))
			if len(data) == 0 || slices.Contains(strings.Fields(test.ignored), f.Name) {
				continue
			}
			data[0] ^= 1
			changed := slices.Clone(test.files)
			changed[n].Content = measure.Bytes(data)
			opts.Sidecars.Entry = changed
			c := load(t, "262", opts, linux, ukitest.Section{Name: ".profile", Data: []byte("ID=a")}, ukitest.Section{Name: ".profile", Data: []byte("ID=b")})
			different := 0
			for n, want := range test.want {
				if sha256Of(t, c.Measurements[n].Content) != want {
					different++
				}
			}
			if different != 1 {
				t.Errorf("boot %d: %s changed: archives that changed: %d", i, f.Name, different)
			}
		}
	}
}

func sha256Of(t testing.TB, c measure.Content) string {
	t.Helper()
	d, err := measure.Sum(c, measure.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	return d[measure.SHA256].String()
}

// TestEntryInitrd: the archives are between microcode and initrd (specification, 3.1).
func TestEntryInitrd(t *testing.T) {
	t.Parallel()
	ucode, initrd := ukitest.Section{Name: ".ucode", Data: []byte("ucode")}, ukitest.Section{Name: ".initrd", Data: []byte("initrd")}
	for _, via := range []stub.Via{stub.ViaSystemdBoot, stub.ViaKexec} {
		b := load(t, "262", stub.Options{Via: via, Sidecars: stub.Sidecars{Entry: files("a.cred", "1"), Image: files("b.cred", "2")}}, linux, initrd, ucode)
		got := read(t, b.Initrd...)
		want := "ucode\x00\x00\x00" + read(t, b.Measurements[0].Content) + "initrd\x00\x00" + read(t, b.Measurements[len(b.Measurements)-1].Content)
		if got != want {
			t.Errorf("%s: %q, want %q", via, got, want)
		}
	}
}

func TestEntryNotTaken(t *testing.T) {
	t.Parallel()
	opts := stub.Options{Via: stub.ViaFirmware, Sidecars: stub.Sidecars{Entry: files("a.cred", "1")}}
	b := load(t, "262", opts, linux)
	wantEvents(t, "firmware", b)
	if want := []string{"extra file a.cred: only systemd-boot hands it over"}; !slices.Equal(b.Ignored, want) {
		t.Errorf("%q, want %q", b.Ignored, want)
	}
	opts.Via = stub.ViaSystemdBoot
	_, err := loadBytes(build(t, "260", linux), opts)
	if want := "extra file a.cred: what systemd-stub 260 does with it: cannot tell"; !errors.Is(err, stub.ErrCannotTell) || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	huge := sized(1 << 32)
	opts.Sidecars.Entry[0].Content = &huge
	_, err = loadBytes(build(t, "262", linux), opts)
	if want := "a.cred: 4294967296 bytes: more than an archive can hold (4294967295)"; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}
