package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mkexec/mkexec/measure/tpm/tpmtest"
	"github.com/mkexec/mkexec/measure/uki/ukitest"
)

// TestReferenceUnlocks has systemd 262, where it is at hand below SYSTEMD_ROOT,
// really unlock volumes after what mkexec says that a kexec measures, and compares
// with what check has said before: for an image, and for one with one byte
// changed. It does not prove that a kexec measures that, which the virtual
// machines do, or anything about TPM chips. Only root can chroot.
func TestReferenceUnlocks(t *testing.T) {
	t.Parallel()
	root := tpmtest.Systemd262(t)
	for _, program := range []string{"cryptsetup", "swtpm", "tpm2_pcrextend", "jq", "objcopy"} {
		tpmtest.Require(t, program)
	}
	dir := t.TempDir()
	mkexec := filepath.Join(dir, "mkexec")
	if out, err := exec.Command("go", "build", "-o", mkexec, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var sections []ukitest.Section
	for _, name := range []string{"linux", "osrel", "cmdline", "initrd", "uname", "sbat", "pcrpkey"} {
		b, err := os.ReadFile("../../measure/stub/testdata/systemd-measure/sections/" + name)
		if err != nil {
			t.Fatal(err)
		}
		sections = append(sections, ukitest.Section{Name: "." + name, Data: b})
	}
	sections = append(sections, ukitest.Section{Name: ".pcrsig", Data: pcrsigData(t, "sign-append-policyref.json")})
	image, err := ukitest.Build(ukitest.Minimal("262.1-1"), sections...)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, image, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := write("good.efi")
	image[bytes.Index(image, []byte("quiet"))] ^= 1
	out, err := exec.Command("testdata/unlock.sh", root, mkexec, good, write("changed.efi"), "../../policy/pcrsig/testdata/pcr-pub.pem").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, volume := range []string{"literal", "pin", "signed", "signedref", "pcrlock", "sharded"} {
		for _, want := range []string{"good.efi " + volume + " 0 0\n", "changed.efi " + volume + " 1 1\n"} {
			if !strings.Contains(string(out), want) {
				t.Errorf("no %q in\n%s", want, out)
			}
		}
	}
}
