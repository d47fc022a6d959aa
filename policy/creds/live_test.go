package creds_test

// The answers against a real systemd-creds and swtpm, where they are at hand:
// that of the host (252 and later), and systemd 262 in SYSTEMD_ROOT. It does
// not prove anything about TPM chips, or about a boot: PCRs are extended here by
// hand. Only root can decrypt with systemd-creds, and can chroot.

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/tpm"
	"github.com/mkexec/mkexec/measure/tpm/tpmtest"
	"github.com/mkexec/mkexec/policy/creds"
)

func TestLive(t *testing.T) { // sets TMPDIR: not parallel
	t.Run("host", func(t *testing.T) {
		tpmtest.Require(t, "systemd-creds")
		if os.Getuid() != 0 {
			t.Skip("systemd-creds decrypts for root only") // whom CI is
		}
		live(t, "/")
	})
	t.Run("262", func(t *testing.T) { live(t, tpmtest.Systemd262(t)) })
}

func live(t *testing.T, root string) {
	dir, err := os.MkdirTemp(filepath.Join(root, "tmp"), "mkexec")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	t.Setenv("TMPDIR", dir) // the TPM's socket is where programs in root find it
	inside := func(path string) string { return "/" + strings.TrimPrefix(strings.TrimPrefix(path, root), "/") }
	swtpm := tpmtest.Start(t)
	socket := strings.TrimPrefix(swtpm.Device(), "swtpm:path=")
	if err := os.Symlink("ctrl", socket+".ctrl"); err != nil { // where tpm2-tss looks for the control socket
		t.Fatal(err)
	}
	device := "swtpm:path=" + inside(socket)
	if err := os.WriteFile(filepath.Join(dir, "plain"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	// 252 leaves sessions behind, and there is no resource manager
	flush := func() {
		if root != "/" {
			return
		}
		for _, what := range []string{"--saved-session", "--loaded-session", "--transient-object"} {
			cmd := exec.Command("tpm2_flushcontext", what)
			cmd.Env = append(os.Environ(), "TPM2TOOLS_TCTI="+device)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%s: %v: %s", cmd, err, out)
			}
		}
	}
	if root == "/" {
		tpmtest.Require(t, "tpm2_flushcontext")
	}
	systemdCreds := func(args ...string) (string, error) {
		flush()
		cmd := exec.Command("/usr/bin/systemd-creds", args...)
		cmd.Dir = "/"
		if root != "/" {
			cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
		}
		cmd.Env = []string{"PATH=/usr/bin:/bin", "SYSTEMD_CREDENTIAL_SECRET=" + inside(filepath.Join(dir, "host.secret"))}
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Logf("systemd-creds %s: %v: %s", strings.Join(args, " "), err, stderr.Bytes())
		}
		return string(out), err
	}
	dev, err := tpm.Open(swtpm.Device(), tpm.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	extend := func(n measure.PCR) {
		t.Helper()
		ev := measure.Event{PCR: n, Digests: map[measure.Bank]measure.Digest{}}
		for _, b := range measure.Banks() {
			ev.Digests[b] = b.Sum([]byte("an event"))
		}
		if err := dev.Extend(ev); err != nil {
			t.Fatal(err)
		}
	}
	extend(7)
	extend(11)
	type secret struct {
		name   string
		policy *creds.Policy
		yes    int // how many states it decrypts in
	}
	var secrets []*secret
	for _, s := range []struct{ name, pcrs, key string }{
		{"seven", "7", "tpm2"}, {"both", "7+11", "tpm2"}, {"host", "11", "host+tpm2"},
	} {
		path := filepath.Join(dir, s.name)
		if _, err := systemdCreds("encrypt", "--name="+s.name, "--with-key="+s.key, "--tpm2-pcrs="+s.pcrs, "--tpm2-device="+device,
			inside(filepath.Join(dir, "plain")), inside(path)); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		c, err := creds.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if c.Key != s.key || c.Policy == nil {
			t.Fatalf("%s: %+v", s.name, c)
		}
		secrets = append(secrets, &secret{name: s.name, policy: c.Policy})
	}
	check := func() {
		t.Helper()
		pcrs, err := dev.Read(7, 11)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range secrets {
			said := s.policy.Check(pcrs)
			out, err := systemdCreds("decrypt", "--name="+s.name, "--tpm2-device="+device, inside(filepath.Join(dir, s.name)), "-")
			if (said == nil) != (err == nil && out == "secret") {
				t.Errorf("%s: predicted %v; systemd: %q, %v", s.name, said, out, err)
			}
			if said == nil {
				s.yes++
			}
		}
	}
	check() // all
	extend(11)
	check() // seven
	extend(7)
	check() // none
	swtpm.Reset()
	extend(7)
	extend(11)
	check() // all
	for i, want := range []int{3, 2, 2} {
		if secrets[i].yes != want {
			t.Errorf("%s: decrypts in %d of 4 states, not in %d", secrets[i].name, secrets[i].yes, want)
		}
	}
}
