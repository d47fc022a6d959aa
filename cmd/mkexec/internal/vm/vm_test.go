//go:build linux

package vm

// These tests show that the machines start, the stub measures in them and their reports arrive. They do not
// show anything about mkexec.

import (
	"bytes"
	"context"
	"crypto"
	_ "crypto/sha1"
	_ "crypto/sha256"
	_ "crypto/sha512"
	"debug/pe"
	"encoding/hex"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mkexec/mkexec/measure/uki/ukitest"
)

var banks = map[string]crypto.Hash{"sha1": crypto.SHA1, "sha256": crypto.SHA256, "sha384": crypto.SHA384, "sha512": crypto.SHA512}

// boot runs a machine whose /init makes one report, and returns that.
func boot(t *testing.T, a *Assets, c Config) *Report {
	t.Helper()
	r, err := a.Run(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	s := Sections(r.Serial)
	if len(s) != 1 || s[0].Name != "boot" {
		t.Fatalf("sections %q of %q", s, r.Serial)
	}
	report, err := ParseReport(s[0].Text)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%v", r.Took.Round(time.Millisecond))
	return report
}

func reporter(t *testing.T, a *Assets) []byte {
	t.Helper()
	initrd, err := a.Initrd(map[string]File{"/init": Init("section boot report")})
	if err != nil {
		t.Fatal(err)
	}
	return initrd
}

// pcr11 extends zero by the named sections of an image, each by name and content.
func pcr11(t *testing.T, h crypto.Hash, image []byte, names ...string) string {
	t.Helper()
	f, err := pe.NewFile(bytes.NewReader(image))
	if err != nil {
		t.Fatal(err)
	}
	pcr := make([]byte, h.Size())
	extend := func(data []byte) {
		d := h.New()
		d.Write(data)
		event := d.Sum(nil)
		d.Reset()
		d.Write(pcr)
		d.Write(event)
		pcr = d.Sum(nil)
	}
	for _, name := range names {
		s := f.Section(name)
		data, err := s.Data()
		if err != nil {
			t.Fatal(err)
		}
		extend([]byte(name + "\x00"))
		extend(data[:s.VirtualSize])
	}
	return hex.EncodeToString(pcr)
}

func TestFirmwareBoot(t *testing.T) {
	t.Parallel()
	a := Require(t)
	for _, c := range []struct {
		name     string
		stub     string
		measured []string
		extra    []string
	}{
		{"252", a.Stub252, []string{".linux", ".osrel", ".cmdline", ".initrd", ".pcrpkey"},
			[]string{"tpm2-pcr-public-key.pem", "tpm2-pcr-signature.json"}},
		{"257", a.Stub257, []string{".linux", ".osrel", ".cmdline", ".initrd", ".sbat", ".pcrpkey"},
			[]string{"os-release", "tpm2-pcr-public-key.pem", "tpm2-pcr-signature.json"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			stub, err := os.ReadFile(c.stub)
			if err != nil {
				t.Fatal(err)
			}
			kernel, err := os.ReadFile(a.Kernel)
			if err != nil {
				t.Fatal(err)
			}
			files := map[string]string{ // by their names in /.extra
				"os-release":              "ID=test\n",
				"tpm2-pcr-signature.json": "{}\n",
				"tpm2-pcr-public-key.pem": "a key\n",
			}
			image, err := ukitest.Build(stub,
				ukitest.Section{Name: ".osrel", Data: []byte(files["os-release"])},
				ukitest.Section{Name: ".cmdline", Data: []byte(Quiet + " a=b")},
				ukitest.Section{Name: ".pcrsig", Data: []byte(files["tpm2-pcr-signature.json"])},
				ukitest.Section{Name: ".pcrpkey", Data: []byte(files["tpm2-pcr-public-key.pem"])},
				ukitest.Section{Name: ".linux", Data: kernel},
				ukitest.Section{Name: ".initrd", Data: reporter(t, a)})
			if err != nil {
				t.Fatal(err)
			}
			r := boot(t, a, Config{ESP: map[string][]byte{"EFI/BOOT/BOOTX64.EFI": image}})
			for bank, h := range banks {
				if want := pcr11(t, h, image, c.measured...); r.PCRs[bank][11] != want {
					t.Errorf("PCR 11 %s: %s, want %s", bank, r.PCRs[bank][11], want)
				}
				for _, pcr := range []int{12, 13} {
					if r.PCRs[bank][pcr] != strings.Repeat("00", h.Size()) {
						t.Errorf("PCR %d %s: %s", pcr, bank, r.PCRs[bank][pcr])
					}
				}
			}
			if r.Cmdline != Quiet+" a=b" || r.KexecLoaded {
				t.Errorf("%+v", r)
			}
			want := map[string]Extra{}
			for _, name := range c.extra {
				h := crypto.SHA256.New()
				h.Write([]byte(files[name]))
				want["/.extra/"+name] = Extra{"444", hex.EncodeToString(h.Sum(nil))}
			}
			if !maps.Equal(r.Extra, want) {
				t.Errorf("/.extra: %v, want %v", r.Extra, want)
			}
		})
	}
}

func TestKernelBoot(t *testing.T) {
	t.Parallel()
	a := Require(t)
	r := boot(t, a, Config{Kernel: a.Kernel, Initrd: reporter(t, a), Cmdline: Quiet + " c=d"})
	for bank, h := range banks {
		for _, pcr := range []int{11, 12, 13} {
			if r.PCRs[bank][pcr] != strings.Repeat("00", h.Size()) {
				t.Errorf("PCR %d %s: %s", pcr, bank, r.PCRs[bank][pcr])
			}
		}
	}
	if r.Cmdline != Quiet+" c=d" || len(r.Extra) != 0 {
		t.Errorf("%+v", r)
	}
}

func TestRunEnds(t *testing.T) {
	t.Parallel()
	a := Require(t)
	tmp := t.TempDir()
	initrd, err := a.Initrd(map[string]File{"/init": Init("echo here I am; sleep 1000")})
	if err != nil {
		t.Fatal(err)
	}
	c := Config{Kernel: a.Kernel, Initrd: initrd, Cmdline: Quiet, Until: "here I am", TPM: tmp}
	if r, err := a.Run(t.Context(), c); err != nil || !strings.Contains(r.Serial, c.Until) {
		t.Errorf("%v: %q", err, r.Serial)
	}
	if state, err := filepath.Glob(filepath.Join(tmp, "tpm2-*")); err != nil || len(state) == 0 {
		t.Errorf("the TPM left no state: %v", err)
	}
	c.Timeout = time.Second
	if _, err := a.Run(t.Context(), c); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("after the timeout: %v", err)
	}
	c.Timeout, c.Args = 0, []string{"-nonsense"}
	if _, err := a.Run(t.Context(), c); err == nil || !strings.Contains(err.Error(), "nonsense") {
		t.Errorf("an argument that QEMU does not know: %v", err)
	}
	c.Until, c.Args = "", nil
	c.ESP = map[string][]byte{"../x": nil}
	if _, err := a.Run(t.Context(), c); err == nil || !strings.Contains(err.Error(), "not a path") {
		t.Errorf("a path outside the ESP: %v", err)
	}
}

func TestFind(t *testing.T) {
	if _, err := Find(t.TempDir()); err == nil || !strings.Contains(err.Error(), "run: make vm-assets") {
		t.Errorf("an empty directory: %v", err)
	}
}

// spy is a TB that notes what happened.
type spy struct{ failed, skipped bool }

func (s *spy) Helper()      {}
func (s *spy) Fatal(...any) { s.failed = true }
func (s *spy) Skip(...any)  { s.skipped = true }

func TestRequire(t *testing.T) {
	t.Setenv("MKEXEC_VM_ASSETS", t.TempDir())
	for words, fails := range map[string]bool{"": false, "swtpm": false, "qemu": true, "swtpm,qemu": true} {
		t.Setenv("MKEXEC_REQUIRE", words)
		var s spy
		Require(&s)
		if s.failed != fails || !fails && !s.skipped {
			t.Errorf("%q: %+v", words, s)
		}
	}
}

func TestArchive(t *testing.T) {
	files := map[string]File{"/init": {[]byte("abc"), 0o755}, "/a/b/c": {[]byte("four"), 0o600}, "a/b/d": {nil, 0o644}}
	archive := Archive(files)
	if len(archive)%4 != 0 {
		t.Errorf("%d bytes", len(archive))
	}
	list := exec.Command(Require(t).Busybox, "cpio", "-tv")
	list.Stdin = bytes.NewReader(archive)
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		got = append(got, strings.Join([]string{f[0], f[2], f[len(f)-1]}, " "))
	}
	want := []string{"drwxr-xr-x 0 a", "drwxr-xr-x 0 a/b", "-rw------- 4 a/b/c", "-rw-r--r-- 0 a/b/d", "-rwxr-xr-x 3 init"}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

func TestSections(t *testing.T) {
	log := "\x1b[2J\x1b[01;01HMKEXEC-BEGIN one\r\nfirst\r\n\r\nsecond\r\n\r\nMKEXEC-END one\r\nnoise\r\n" +
		"MKEXEC-BEGIN cut\nlost\nMKEXEC-BEGIN one\nMKEXEC-END two\nthird\nMKEXEC-END one\nMKEXEC-END one\nMKEXEC-BEGIN open\nx"
	want := []Section{{"one", "first\n\nsecond"}, {"one", "MKEXEC-END two\nthird"}}
	if got := Sections(log); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

func TestParseReport(t *testing.T) {
	r, err := ParseReport("pcr sha1 11 AB00\ncmdline a  b\nkexec_loaded 1\nextra 444 cd /.extra/a b")
	if err != nil {
		t.Fatal(err)
	}
	if r.PCRs["sha1"][11] != "ab00" || r.Cmdline != "a  b" || !r.KexecLoaded || r.Extra["/.extra/a b"] != (Extra{"444", "cd"}) {
		t.Errorf("%+v", r)
	}
	for _, bad := range []string{"pcr sha1 11", "pcr sha1 x ab", "extra 444", "[ 1.0] tpm: noise"} {
		if _, err := ParseReport(bad); err == nil || !strings.Contains(err.Error(), "report: ") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
