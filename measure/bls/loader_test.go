package bls

// Entries that systemd-boot takes otherwise than 262 does, by its version. The
// programs are empty but for their version; TestVMSystemdBoot in cmd/mkexec
// starts real ones.

import (
	"bytes"
	"errors"
	"testing"
	"testing/fstest"

	"github.com/mkexec/mkexec/measure/uki/ukitest"
)

func image(t *testing.T, version string, sections ...ukitest.Section) *fstest.MapFile {
	t.Helper()
	b, err := ukitest.Build(ukitest.Minimal(version), sections...)
	if err != nil {
		t.Fatal(err)
	}
	return &fstest.MapFile{Data: b}
}

// boot is a systemd-boot.
func boot(t *testing.T, version string) *fstest.MapFile {
	f := image(t, version, ukitest.Section{Name: ".osrel", Data: []byte("ID=x\n")})
	f.Data = bytes.ReplaceAll(f.Data, []byte("LoaderInfo: systemd-stub"), []byte("LoaderInfo: systemd-boot"))
	return f
}

func TestOldLoader(t *testing.T) {
	t.Parallel()
	profiles := image(t, "262", ukitest.Section{Name: ".osrel", Data: []byte("ID=x\n")}, ukitest.Section{Name: ".linux", Data: []byte("k")},
		ukitest.Section{Name: ".profile", Data: []byte("ID=a\n")}, ukitest.Section{Name: ".profile", Data: []byte("ID=b\n")})
	counted := fstest.MapFS{"EFI/Linux/x+3-0.efi": profiles}
	type1 := func(text string) fstest.MapFS {
		return fstest.MapFS{"x.efi": profiles, "loader/entries/z.conf": file("sort-key a\n" + text)}
	}
	const key = `: cannot tell: whether systemd-boot 258 takes an entry with the key uki, uki-url or profile`
	for _, c := range []struct {
		files   fstest.MapFS
		version string // of systemd-boot, "" if there is none
		want    string // error, or ID
	}{
		{counted, "261", `default entry: "x.efi": cannot tell: which profile of a UKI with a boot counter systemd-boot 261 starts`},
		{counted, "262", "x.efi"},
		{counted, "", "x.efi"},
		{type1("uki /x.efi\n"), "258", `default entry: "z.conf"` + key},
		{type1("uki-url http://localhost/x\n"), "258", `default entry: "z.conf"` + key},
		{type1("uki /x.efi\n"), "259", "z.conf"},
		{type1("uki /x.efi\nprofile 1\n"), "258", `default entry: "z.conf"` + key},
		{type1("uki /x.efi\nprofile 1\n"), "259", "z.conf"},
		{type1("uki /x.efi\n"), "", "z.conf"},
		{type1("efi /x.efi\n"), "252", "z.conf"},
		{type1("linux /vmlinuz\n"), "252", "z.conf"},
	} {
		esp := menuOf(c.files)
		if c.files["x.efi"] != nil { // a further profile is not the default by itself
			esp["loader/loader.conf"] = file("default z.conf\n")
		}
		if c.version != "" {
			esp["EFI/systemd/systemd-bootx64.efi"] = boot(t, c.version)
		}
		e, err := read(t, esp, nil).Default()
		switch {
		case err == nil && e.ID != c.want:
			t.Errorf("%s: %s, want %s", c.version, e.ID, c.want)
		case err != nil && (err.Error() != c.want || !errors.Is(err, ErrCannotTell)):
			t.Errorf("%s: %v, want %s", c.version, err, c.want)
		}
	}
}
