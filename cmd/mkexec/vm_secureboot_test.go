package main

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mkexec/mkexec/cmd/mkexec/internal/vm"
	"github.com/mkexec/mkexec/measure/uki"
	"github.com/mkexec/mkexec/measure/uki/ukitest"
)

// This test boots a machine with Secure Boot on: OVMF with a key of its own in
// db and the digest of an image in dbx, a real shim (Debian's, signed by that
// key), the real systemd-stub, and Debian's kernel, which is locked down and
// trusts the kernel in the image by that key only. The firmware, the stub and
// the kernel are asked about the same files as mkexec.
//
// It does not prove anything about the keys of machine owners (MokListRT has
// Debian's certificate only), about certificates in dbx, about an SBAT level
// other than the one that this shim brings, machines without shim, Linux before
// it had shim's configuration table, other architectures, or a systemd in the
// guest. In dbx is what package vm wrote there, not an update that a key signed.

// secureImages are variants of one image. They have the same size and differ
// at the two ends only.
type secureImages struct {
	images map[string][]byte
	cut    int // what is before it may differ
	end    int // so may what is behind it: the signatures
}

// The initrd has what the images have in common once. The guest puts them together again.
func (s *secureImages) files(t *testing.T) map[string]vm.File {
	t.Helper()
	body := s.images["trusted"][s.cut:s.end]
	files := map[string]vm.File{"images/body": {Data: body}}
	for name, image := range s.images {
		if !bytes.Equal(image[s.cut:s.end], body) {
			t.Fatalf("image %s differs between %d and %d", name, s.cut, s.end)
		}
		files["images/"+name+".head"] = vm.File{Data: image[:s.cut]}
		files["images/"+name+".tail"] = vm.File{Data: image[s.end:]}
	}
	return files
}

// newSecureImages makes them: one that is trusted, and one for each reason not to be.
func newSecureImages(t *testing.T, m *vmImages, kernel []byte) *secureImages {
	t.Helper()
	const cmdline = vm.Quiet + " from=second "
	build := func(c vm.ImageConfig) []byte {
		c.Stub, c.Cmdline, c.Script = m.assets.Stub257, cmdline, reportScript+"; section lockdown cat /sys/kernel/security/lockdown"
		if c.Linux == nil {
			c.Linux = kernel
		}
		image, err := m.assets.Image(c)
		if err != nil {
			t.Fatal(err)
		}
		return image
	}
	unsigned := build(vm.ImageConfig{Name: "second"})
	s := &secureImages{end: len(unsigned)}
	inUnsigned := bytes.Index(unsigned, kernel[:4096])
	if s.cut = inUnsigned + 64<<10; inUnsigned < 0 {
		t.Fatal("no kernel in the image")
	}
	badKernel := slices.Clone(kernel)
	badKernel[32<<10] ^= 1
	key, cert := m.newKey(t)
	s.images = map[string][]byte{
		"trusted":  m.sign(t, unsigned),
		"unsigned": unsigned,
		"other":    sign(t, unsigned, key, cert),
		"revoked":  m.sign(t, build(vm.ImageConfig{Name: "revoked"})),
		// Every level that shim brought yet demands more of this component.
		"sbat":   m.sign(t, build(vm.ImageConfig{Name: "second", SBAT: sbatOf("grub", 1)})),
		"kernel": m.sign(t, build(vm.ImageConfig{Name: "second", Linux: badKernel})),
	}
	tampered := slices.Clone(s.images["trusted"])
	tampered[bytes.Index(tampered, []byte(cmdline))] ^= 1
	s.images["tampered"] = tampered
	return s
}

// newKey makes a key that nobody trusts.
func (m *vmImages) newKey(t *testing.T) (key, cert string) {
	t.Helper()
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "mkexec test other"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return m.write(t, "other.key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})),
		m.write(t, "other.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func sign(t *testing.T, image []byte, key, cert string) []byte {
	t.Helper()
	signed, err := vm.Sign(image, key, cert)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// sign signs with the key that the firmware trusts.
func (m *vmImages) sign(t *testing.T, image []byte) []byte {
	t.Helper()
	return sign(t, image, m.assets.SnakeoilKey, m.assets.SnakeoilCert)
}

// authenticode returns the digest of an image. The firmware confirms it: it would start the image if this were wrong.
func authenticode(t *testing.T, image []byte) []byte {
	t.Helper()
	f, err := uki.Open(bytes.NewReader(image), int64(len(image)))
	if err != nil {
		t.Fatal(err)
	}
	h := sha256.New()
	if err := f.Authenticode(h); err != nil {
		t.Fatal(err)
	}
	return h.Sum(nil)
}

// sbatOf is SBAT data of one component beside SBAT itself.
func sbatOf(component string, generation int) []byte {
	return fmt.Appendf(nil, "sbat,1,SBAT Version,sbat,1,https://github.com/rhboot/shim/blob/main/SBAT.md\n%s,%d,Test,test,1,https://example.com\n",
		component, generation)
}

// secureScript is that of the first system. Everything about a refusal is in one
// section: the status, what mkexec says, all PCRs of all banks, and whether an
// image is loaded.
const secureScript = quiet + `
state() {
	echo "lockdown $(cat /sys/kernel/security/lockdown)"
	echo "SecureBoot$(od -An -tx1 /sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c)"
	echo "SbatLevel $(cat /sys/firmware/efi/mok-variables/SbatLevelRT | tr '\n' ' ')"
}
machine() {
	echo "kexec_loaded $(cat /sys/kernel/kexec_loaded), PCRs $(cat /sys/class/tpm/tpm0/pcr-*/* | sha256sum)"
}
make() { (cd /images && cat $1.head body $1.tail >/tmp/image.efi); }
try() {
	make $1
	shift
	/mkexec boot --policy=/policy.yaml "$@" /tmp/image.efi >/tmp/out 2>/tmp/err
	echo "status $?"
	cat /tmp/out /tmp/err
	machine
}
section state state
section before report
section machine machine
section unsigned try unsigned
section tampered try tampered
section other try other
section revoked try revoked
section sbat try sbat
section kernel try kernel
section cmdline try trusted --cmdline=x
section append try trusted --append=x
section enforced try kernel --no-verify
section after report
make trusted
set -- --addon=/good.addon.efi --addon=/bad.addon.efi
section predicted quiet /mkexec predict --from=tpm --json "$@" /tmp/image.efi
exec /mkexec boot --policy=/policy.yaml "$@" /tmp/image.efi
`

// TestVMSecureBoot boots a signed image by firmware, shim and stub, and out of
// that one another one by mkexec. Images that are unsigned, tampered with, signed
// by somebody else or revoked are refused before: by the firmware, and by mkexec,
// which then has loaded nothing and touched no PCR.
func TestVMSecureBoot(t *testing.T) {
	t.Parallel()
	m := newVM(t)
	kernel, err := m.assets.SecureKernel()
	if err != nil {
		t.Fatal(err)
	}
	shim, err := os.ReadFile(m.assets.Shim)
	if err != nil {
		t.Fatal(err)
	}
	second := newSecureImages(t, m, kernel)
	addon := func(name string) []byte {
		return buildAddon(t, m.assets.Addon257, ukitest.Section{Name: ".sbat", Data: sbatOf("uki-addon", 1)},
			ukitest.Section{Name: ".cmdline", Data: []byte("addon=" + name)})
	}
	good, bad := m.sign(t, addon("good")), addon("bad")

	files := second.files(t)
	files["mkexec"] = vm.File{Data: m.mkexec, Perm: 0o755}
	files["policy.yaml"] = vm.File{Data: []byte("version: 1\nimage:\n  allow:\n    - id: second\n    - id: revoked\n")} // all of them
	files["good.addon.efi"], files["bad.addon.efi"] = vm.File{Data: good}, vm.File{Data: bad}
	first, err := m.assets.Image(vm.ImageConfig{
		Stub: m.assets.Stub257, Linux: kernel, Name: "first", Cmdline: vm.Quiet + " from=first", Files: files, Script: secureScript,
	})
	if err != nil {
		t.Fatal(err)
	}
	config := vm.Config{
		SecureBoot: true, Revoked: authenticode(t, second.images["revoked"]), Timeout: 10 * time.Minute,
		ESP: map[string][]byte{
			"EFI/BOOT/BOOTX64.EFI":                        m.sign(t, shim),
			"EFI/BOOT/grubx64.efi":                        m.sign(t, first), // what shim starts
			"EFI/BOOT/grubx64.efi.extra.d/good.addon.efi": good,
			"EFI/BOOT/grubx64.efi.extra.d/bad.addon.efi":  bad,
		},
	}
	// The firmware knows neither SBAT nor the kernel in the image.
	byFirmware := []string{"unsigned", "tampered", "other", "revoked"}
	for _, name := range byFirmware {
		config.Tried = append(config.Tried, map[string][]byte{"EFI/BOOT/BOOTX64.EFI": second.images[name]})
	}
	r, err := m.assets.Run(t.Context(), config)
	defer func() {
		if t.Failed() {
			t.Log(r.Serial)
		}
	}()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, s := range vm.Sections(r.Serial) {
		got[s.Name] = s.Text
	}

	for i, name := range byFirmware {
		disk := fmt.Sprintf("PciRoot(0x0)/Pci(%#x,0x0)", i+1)
		if !strings.Contains(r.Serial, disk+": Access Denied") {
			t.Errorf("the firmware does not refuse the image %s", name)
		}
	}
	for _, text := range []string{"lockdown none [integrity]", "SecureBoot 06 00 00 00 01", "grub,"} {
		if !strings.Contains(got["state"], text) {
			t.Errorf("the first system does not say %q, but %q", text, got["state"])
		}
	}
	before, after := reportOf(t, got, "before"), reportOf(t, got, "after")
	if !strings.HasSuffix(before.Cmdline, " from=first addon=good") {
		t.Errorf("the first system has the command line %q: other addons", before.Cmdline)
	}
	if strings.Trim(before.PCRs["sha256"][11], "0") == "" || !strings.HasPrefix(got["machine"], "kexec_loaded 0, PCRs ") {
		t.Errorf("the first system has PCR 11 %s, %s", before.PCRs["sha256"][11], got["machine"])
	}

	const otherDigest = `signed by "O=SnakeOil,L=Fort Collins,ST=Colorado,C=US": the image has another digest (SHA-256) than the one signed: `
	for _, c := range []struct {
		section string
		status  int
		text    string
	}{
		{"unsigned", exitNo, "policy not met: image: not trusted: not signed"},
		{"tampered", exitNo, "policy not met: image: not trusted: " + otherDigest},
		{"other", exitNo, "policy not met: image: not trusted: signed by \"CN=mkexec test other\": neither that certificate nor an issuer of it is trusted here"},
		{"revoked", exitNo, "policy not met: image: not trusted: the image's digest (SHA-256) is in dbx"},
		{"sbat", exitNo, "policy not met: image: not trusted: generation 1 of \"grub\" is revoked: this machine demands "},
		{"kernel", exitNo, "policy not met: kernel: Linux will refuse it: " + otherDigest},
		{"cmdline", exitTrouble, "command line \"x\": under Secure Boot the embedded command line cannot be replaced"},
		{"append", exitTrouble, "command line \"" + vm.Quiet + " from=second x\": under Secure Boot the embedded command line cannot be replaced"},
	} {
		text := got[c.section]
		for _, want := range []string{
			fmt.Sprintf("status %d\nmkexec: ", c.status), "mkexec: error: /tmp/image.efi: " + c.text,
			"\nmkexec: state: " + untouched + "\n", "\n" + got["machine"],
		} {
			if !strings.Contains(text, want) {
				t.Errorf("section %s: %q does not say %q", c.section, text, want)
			}
		}
	}
	// Linux means it. What it says of the attempt in PCR 10 (IMA) is its own.
	if text := got["enforced"]; !strings.Contains(text, "(EKEYREJECTED); the kernel says \"") ||
		!strings.Contains(text, "\"\nmkexec: state: "+untouched) || !strings.Contains(text, "\nkexec_loaded 0") {
		t.Errorf("a kernel that was tampered with: %q", text)
	}
	wantPCRs(t, "after refusals", after, before.PCRs)

	predicted := parsePrediction(t, got["predicted"])
	byKexec := reportOf(t, got, "second")
	wantPCRs(t, "kexec under Secure Boot", byKexec, predicted.Phases[0].PCRs)
	if byKexec.Cmdline != predicted.Cmdline || !strings.HasSuffix(byKexec.Cmdline, " from=second addon=good") {
		t.Errorf("command line %q, predicted %q", byKexec.Cmdline, predicted.Cmdline)
	}
	if byKexec.PCRs["sha256"][12] == before.PCRs["sha256"][12] {
		t.Error("PCR 12 is still that of the first system")
	}
	if !strings.Contains(got["lockdown"], "[integrity]") {
		t.Errorf("the second system has lockdown %q", got["lockdown"])
	}
}
