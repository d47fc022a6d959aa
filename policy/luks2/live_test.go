package luks2_test

// Volumes that cryptsetup and systemd-cryptenroll make with a TPM in software:
// their tokens are judged for several states, and in each it is tried whether
// they open. TestLive does so with what this machine has, for literal PCRs only,
// and asks the TPM whether it releases the secret. TestReference has systemd 262
// enroll all kinds of tokens and really unlock the volumes with them, where it is
// at hand; what it did on one day is testdata/live, which TestUnlocks has. It
// does not prove anything about TPM chips, or about a boot: PCRs are extended here
// by hand.

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	gotpm "github.com/google/go-tpm/tpm2"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/tpm"
	"github.com/mkexec/mkexec/measure/tpm/tpmtest"
	"github.com/mkexec/mkexec/policy/luks2"
)

// command runs a program that must succeed.
func command(t *testing.T, name string, args ...string) {
	t.Helper()
	c := exec.Command(name, args...)
	c.Env = append(os.Environ(), "PASSWORD=pw")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
}

// volumeSize has room for the header and key slots, and a little data, in bytes.
const volumeSize = 3 << 20

// format returns the path of a LUKS2 volume.
func format(t *testing.T) string {
	dir := t.TempDir()
	path, key := filepath.Join(dir, "volume"), filepath.Join(dir, "key")
	if err := os.WriteFile(key, []byte("pw"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, volumeSize); err != nil {
		t.Fatal(err)
	}
	command(t, "cryptsetup", "luksFormat", "-q", "--type", "luks2", "--key-size", "256", "--luks2-metadata-size=32k", "--luks2-keyslots-size=512k",
		"--offset", "4096", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", path, key)
	return path
}

func openVolume(t *testing.T, path string) *luks2.Header {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h, err := luks2.Open(f, volumeSize)
	if err != nil {
		t.Fatal(err)
	}
	if h.Damage != "" {
		t.Fatal(h.Damage)
	}
	return h
}

// extend extends a PCR in all banks.
func extend(t *testing.T, d *tpm.Device, n measure.PCR, text string) {
	t.Helper()
	ev := measure.Event{PCR: n, Digests: map[measure.Bank]measure.Digest{}}
	for _, b := range measure.Banks() {
		ev.Digests[b] = b.Sum([]byte(text))
	}
	if err := d.Extend(ev); err != nil {
		t.Fatal(err)
	}
}

// legacyPrimary is the key that systemd before 254 seals to (systemd 262,
// src/shared/tpm2-util.c, tpm2_get_legacy_template()).
func legacyPrimary() gotpm.TPMTPublic {
	public := gotpm.ECCSRKTemplate
	public.ObjectAttributes.NoDA = false
	public.Unique = gotpm.NewTPMUPublicID(gotpm.TPMAlgECC, &gotpm.TPMSECCPoint{})
	return public
}

// unseals tells whether the TPM releases the secret of a token sealed to literal PCRs.
func unseals(t *testing.T, d *tpm.Device, path string, tok *luks2.Token) bool {
	t.Helper()
	out, err := exec.Command("cryptsetup", "token", "export", "--token-id", "0", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	var fields struct {
		Blob []byte `json:"tpm2-blob"`
		SRK  []byte `json:"tpm2_srk"`
	}
	if err := json.Unmarshal(out, &fields); err != nil {
		t.Fatal(err)
	}
	var parent gotpm.NamedHandle
	if fields.SRK != nil { // persistent
		response, err := gotpm.ReadPublic{ObjectHandle: gotpm.TPMHandle(0x81000001)}.Execute(d)
		if err != nil {
			t.Fatal(err)
		}
		parent = gotpm.NamedHandle{Handle: 0x81000001, Name: response.Name}
	} else {
		response, err := gotpm.CreatePrimary{PrimaryHandle: gotpm.TPMRHOwner, InPublic: gotpm.New2B(legacyPrimary())}.Execute(d)
		if err != nil {
			t.Fatal(err)
		}
		defer gotpm.FlushContext{FlushHandle: response.ObjectHandle}.Execute(d)
		parent = gotpm.NamedHandle{Handle: response.ObjectHandle, Name: response.Name}
	}
	size := int(fields.Blob[0])<<8 | int(fields.Blob[1])
	public, err := gotpm.Unmarshal[gotpm.TPM2BPublic](fields.Blob[2+size:])
	if err != nil {
		t.Fatal(err)
	}
	object, err := gotpm.Load{
		ParentHandle: gotpm.AuthHandle{Handle: parent.Handle, Name: parent.Name, Auth: gotpm.PasswordAuth(nil)},
		InPrivate:    gotpm.TPM2BPrivate{Buffer: fields.Blob[2:][:size]}, InPublic: *public,
	}.Execute(d)
	if err != nil {
		t.Fatal(err)
	}
	defer gotpm.FlushContext{FlushHandle: object.ObjectHandle}.Execute(d)

	session, end, err := gotpm.PolicySession(d, gotpm.TPMAlgSHA256, 16)
	if err != nil {
		t.Fatal(err)
	}
	defer end()
	if len(tok.PCRs) > 0 {
		var pcrs []uint
		for _, n := range tok.PCRs {
			pcrs = append(pcrs, uint(n))
		}
		if _, err := (gotpm.PolicyPCR{PolicySession: session.Handle(), Pcrs: gotpm.TPMLPCRSelection{PCRSelections: []gotpm.TPMSPCRSelection{
			{Hash: gotpm.TPMAlgID(tok.Bank), PCRSelect: gotpm.PCClientCompatible.PCRs(pcrs...)},
		}}}).Execute(d); err != nil {
			t.Fatal(err)
		}
	}
	secret, err := gotpm.Unseal{ItemHandle: gotpm.AuthHandle{Handle: object.ObjectHandle, Name: object.Name, Auth: session}}.Execute(d)
	if err != nil && !strings.Contains(err.Error(), "TPM_RC_POLICY_FAIL") {
		t.Fatal(err)
	}
	return err == nil && len(secret.OutData.Buffer) > 0
}

func TestLive(t *testing.T) {
	t.Parallel()
	tpmtest.Require(t, "cryptsetup")
	tpmtest.Require(t, "systemd-cryptenroll")
	swtpm := tpmtest.Start(t)
	path := strings.TrimPrefix(swtpm.Device(), "swtpm:path=")
	if err := os.Symlink("ctrl", path+".ctrl"); err != nil { // where tpm2-tss looks for it
		t.Fatal(err)
	}
	d, err := tpm.Open(swtpm.Device(), tpm.Options{Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	reset := func() { // systemd-cryptenroll leaves sessions open
		swtpm.Reset()
		extend(t, d, 7, "seven")
		extend(t, d, 11, "eleven")
	}

	volumes := map[string]string{}
	for _, pcrs := range []string{"", "7", "11", "7+11", "0+7+11+23"} {
		reset()
		volumes[pcrs] = format(t)
		command(t, "systemd-cryptenroll", "--tpm2-device="+swtpm.Device(), "--tpm2-pcrs="+pcrs, "--tpm2-public-key=", volumes[pcrs])
	}
	reset()
	check := func(state string, yes ...string) {
		values, err := d.Read(0, 7, 11, 23)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for pcrs, path := range volumes {
			tokens, err := openVolume(t, path).Tokens()
			if err != nil || len(tokens) != 1 || tokens[0].Err != nil {
				t.Fatalf("%q: %v, %+v", pcrs, err, tokens)
			}
			err = tokens[0].Policy(luks2.Sources{}).Check(values)
			if unseals := unseals(t, d, path, tokens[0]); (err == nil) != unseals || answer(err) != "yes" && answer(err) != "no: pcr-mismatch" {
				t.Errorf("%s, %q: the TPM releases %t, but %v", state, pcrs, unseals, err)
			}
			if err == nil {
				n++
			}
		}
		if n != len(yes) {
			t.Errorf("%s: %d unlock, want %q", state, n, yes)
		}
	}
	check("as enrolled", "", "7", "11", "7+11", "0+7+11+23")
	extend(t, d, 11, "leave")
	check("PCR 11 extended", "", "7")
	extend(t, d, 7, "leave")
	check("PCR 7 extended", "")
	reset()
	extend(t, d, 0, "firmware")
	check("PCR 0 extended", "", "7", "11", "7+11")
}

// TestReference runs testdata/record.sh with the systemd 262 that is below
// SYSTEMD_ROOT, and predicts what it does. Only root can chroot.
func TestReference(t *testing.T) {
	t.Parallel()
	root := tpmtest.Systemd262(t)
	for _, program := range []string{"cryptsetup", "systemd-cryptenroll", "swtpm", "tpm2_pcrread", "jq", "xxd"} {
		tpmtest.Require(t, program)
	}
	dir := t.TempDir()
	if out, err := exec.Command("testdata/record.sh", root, dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	checkUnlocks(t, dir)
}
