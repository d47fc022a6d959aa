package main

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/mkexec/mkexec/cmd/mkexec/internal/vm"
)

// These tests run mkexec on a machine whose PID 1 is systemd: Debian's, of trixie
// (257) and, where make vm-assets found one, of sid (262), with its pcrphase units, an
// initrd that it leaves for a root file system on a disk, and its systemd-shutdown. It
// was started by OVMF and the real systemd-stub.
// They do not prove anything about udev, D-Bus and logind, which are not in there,
// about an exitrd, real TPM chips, or other architectures.

// A systemdVM is a machine with two images of one system, which measures its phases.
type systemdVM struct {
	*vmImages
	system        vm.System
	first, second []byte
	args          []string // for QEMU: the disks
}

// hookScript installs what make install does.
const hookScript = `
hook=/usr/lib/systemd/system-shutdown/mkexec
mkdir -p ${hook%/*}
ln -s ../../../bin/mkexec $hook
esp
quiet() { "$@" 2>/dev/null; }
# a command's output, its complaints and its status
tell() {
	"$@" >/tmp/out 2>/tmp/err
	status=$?
	cat /tmp/out /tmp/err
	echo "status $status"
}
`

// newSystemdVM builds the machine. The scripts are what the first and the second
// system run at the end of their boot.
func newSystemdVM(t *testing.T, first, second vm.SystemdConfig, files map[string]vm.File) *systemdVM {
	t.Helper()
	return buildSystemdVM(t, newVM(t), first, second, files)
}

func buildSystemdVM(t *testing.T, images *vmImages, first, second vm.SystemdConfig, files map[string]vm.File) *systemdVM {
	t.Helper()
	m := &systemdVM{vmImages: images}
	for _, c := range []struct {
		vm.SystemdConfig
		name  string
		image *[]byte
	}{{first, "first", &m.first}, {second, "second", &m.second}} {
		if c.System == (vm.System{}) {
			c.System = m.assets.System257
		}
		m.system = c.System
		c.Stub, c.Name, c.OnDisk = m.assets.Stub257, c.name, true
		c.Cmdline = vm.Quiet + " from=" + c.name
		var err error
		if *c.image, err = m.assets.SystemdImage(c.SystemdConfig); err != nil {
			t.Fatal(err)
		}
	}
	all := map[string]vm.File{"/usr/bin/mkexec": {Data: m.mkexec, Perm: 0o755}}
	maps.Copy(all, files)
	var err error
	if m.args, err = m.assets.SystemdDisks(t.TempDir(), m.system, all); err != nil {
		t.Fatal(err)
	}
	return m
}

func (m *systemdVM) boot(t *testing.T) map[string]string {
	t.Helper()
	return m.run(t, vm.Config{Args: m.args, ESP: map[string][]byte{"EFI/BOOT/BOOTX64.EFI": m.first, "EFI/Linux/second.efi": m.second}})
}

// at returns the PCRs that were predicted for a phase.
func (p predictionOutput) at(t *testing.T, phase string) map[string]map[int]string {
	t.Helper()
	for _, at := range p.Phases {
		if at.Phase == phase {
			return at.PCRs
		}
	}
	t.Fatalf("no phase %q in %v", phase, p.Phases)
	return nil
}

// TestVMSystemd is a measured kexec on a server, twice: by mkexec load and systemctl
// kexec, and by mkexec boot with a policy. The event log is taken along both times.
func TestVMSystemd(t *testing.T) {
	t.Parallel()
	a := vm.Require(t)
	t.Run("257", func(t *testing.T) {
		t.Parallel()
		testVMSystemd(t, a.System257)
	})
	t.Run("262", func(t *testing.T) {
		t.Parallel()
		if a.System262 == (vm.System{}) {
			t.Skip("no systemd 262 in SYSTEMD_ROOT when the assets were made")
		}
		testVMSystemd(t, a.System262)
	})
}

func testVMSystemd(t *testing.T, system vm.System) {
	const from = "from=$(sed 's/.*from=//' /proc/cmdline)\n"
	m := newSystemdVM(t, vm.SystemdConfig{System: system, Script: hookScript + `
modprobe efibc
section efibc tell ls -d /sys/module/efibc/holders
section before report
section predicted-second quiet mkexec predict --from=tpm --json /efi/EFI/Linux/second.efi
section load tell mkexec load --no-policy --no-verify --json /efi/EFI/Linux/second.efi
section staged report
section status tell mkexec status
leave systemctl kexec
`}, vm.SystemdConfig{
		System:       system,
		InitrdScript: from + "section initrd-$from report",
		Script: hookScript + from + `
section ready-$from report
section efivars-$from ls /sys/firmware/efi/efivars
section failed-$from systemctl --failed --no-legend
section log-$from cat /run/log/systemd/tpm2-measure.log
section replay-$from tell mkexec log
section pcrlock-$from tell /usr/lib/systemd/systemd-pcrlock log --no-pager --json=short
if [ $from = second ]; then
	set -- --append=from=third /efi/EFI/Linux/second.efi
	section predicted-third quiet mkexec predict --from=tpm --json "$@"
	mkdir -p /etc/mkexec
	mkexec policy init --from=tpm "$@" >/etc/mkexec/policy.yaml 2>/dev/null
	section lint tell mkexec policy lint /etc/mkexec/policy.yaml
	leave mkexec boot --no-verify "$@"
fi
`}, nil)
	got := m.boot(t)
	before, staged := reportOf(t, got, "before"), reportOf(t, got, "staged")
	wantPCRs(t, "load", staged, before.PCRs)
	if before.KexecLoaded || !staged.KexecLoaded {
		t.Errorf("loaded: %v before, %v after load", before.KexecLoaded, staged.KexecLoaded)
	}
	for _, name := range []string{"second", "third"} {
		predicted := parsePrediction(t, got["predicted-"+name])
		wantPCRs(t, name+", enter-initrd", reportOf(t, got, "initrd-"+name), predicted.at(t, "enter-initrd"))
		ready := reportOf(t, got, "ready-"+name)
		wantPCRs(t, name+", ready", ready, predicted.at(t, "enter-initrd:leave-initrd:sysinit:ready"))
		if ready.Cmdline != predicted.Cmdline {
			t.Errorf("%s: command line %q, predicted %q", name, ready.Cmdline, predicted.Cmdline)
		}
		if vars := got["efivars-"+name]; strings.Contains(vars, "LoaderEntryOneShot") || !strings.Contains(vars, "StubInfo") {
			t.Errorf("%s: EFI variables: %s", name, vars)
		}
		// From 259 on systemd cannot set up its NvPCRs anew after a kexec.
		if failed, ok := got["failed-"+name]; !ok || failed != "" && system == m.assets.System257 {
			t.Errorf("%s: failed units: %s", name, failed)
		}
		if replay := got["replay-"+name]; !strings.HasSuffix(replay, "status 0") {
			t.Errorf("%s: mkexec log: %s", name, replay)
		}
		wantPCRLock(t, name, got["pcrlock-"+name])
	}
	wantRecords(t, got["log-third"], len(parsePrediction(t, got["predicted-second"]).Events), len(parsePrediction(t, got["predicted-third"]).Events))
	if cold := predict(t, m.write(t, "second.efi", m.second)); cold.at(t, "")["sha256"][11] == parsePrediction(t, got["predicted-second"]).at(t, "")["sha256"][11] {
		t.Error("the prediction is that of a cold boot")
	}
	if text, status, _ := strings.Cut(got["load"], "\nmkexec: "); parsePrediction(t, text).Phases[0].PCRs["sha256"][11] !=
		parsePrediction(t, got["predicted-second"]).Phases[0].PCRs["sha256"][11] || !strings.HasSuffix(status, "status 0") {
		t.Errorf("load: %s", got["load"])
	}
	if text := got["efibc"]; !strings.HasSuffix(text, "status 0") { // or the check of the EFI variables would be none
		t.Errorf("efibc: %s", text)
	}
	if !strings.Contains(got["status"], "holds; after shutdown:final PCR 11 becomes") {
		t.Errorf("status: %s", got["status"])
	}
}

// wantPCRLock checks that systemd-pcrlock can read the logs, and that they lead to
// the PCRs in its opinion, too.
func wantPCRLock(t *testing.T, name, text string) {
	t.Helper()
	var log struct {
		PCRs []struct {
			PCR                 int
			HashMatchesEventLog bool
		}
	}
	output, _, _ := strings.Cut(text, "\n") // and notes on stderr
	if err := json.Unmarshal([]byte(output), &log); err != nil || !strings.HasSuffix(text, "status 0") {
		t.Errorf("%s: systemd-pcrlock log: %v: %s", name, err, text)
		return
	}
	matches := 0
	for _, p := range log.PCRs {
		if p.HashMatchesEventLog && p.PCR >= 11 && p.PCR <= 15 {
			matches++
		}
	}
	if matches != 5 {
		t.Errorf("%s: systemd-pcrlock log: %d of PCRs 11 to 15 match: %+v", name, matches, log.PCRs)
	}
}

// wantRecords checks a log of userspace for the words of each kernel's time, and
// between them the events of the kexecs.
func wantRecords(t *testing.T, log string, kexecs ...int) {
	t.Helper()
	var got []string
	boots := map[string]bool{}
	for line := range strings.Lines(log) {
		var r struct {
			PCR         int
			ContentType string `json:"content_type"`
			Content     struct{ BootID, String string }
		}
		if err := json.Unmarshal([]byte(strings.TrimPrefix(line, "\x1e")), &r); err != nil {
			t.Fatalf("%v in %q", err, line)
		}
		boots[r.Content.BootID] = true
		switch {
		case r.ContentType == "mkexec":
			got = append(got, "mkexec")
		case r.PCR == 11:
			got = append(got, r.Content.String)
		}
	}
	boot := []string{"enter-initrd", "leave-initrd", "sysinit", "ready"}
	want := slices.Clone(boot)
	for _, n := range kexecs {
		want = slices.Concat(want, []string{"shutdown", "final"}, slices.Repeat([]string{"mkexec"}, n), boot)
	}
	if !slices.Equal(got, want) || len(boots) != len(kexecs)+1 {
		t.Errorf("the log has %q, %d boots; want %q", got, len(boots), want)
	}
}

// TestVMSystemdSecureBoot is the same under Secure Boot, and so with a kernel that
// is locked down: an image that the firmware does not trust is not staged.
func TestVMSystemdSecureBoot(t *testing.T) {
	t.Parallel()
	images := newVM(t)
	kernel, err := images.assets.SecureKernel()
	if err != nil {
		t.Fatal(err)
	}
	m := buildSystemdVM(t, images, vm.SystemdConfig{Linux: kernel, Script: hookScript + `
section before report
section lockdown cat /sys/kernel/security/lockdown
section predicted quiet mkexec predict --from=tpm --json /efi/EFI/Linux/second.efi
section unsigned tell mkexec load --no-policy /efi/EFI/Linux/unsigned.efi
section after report
section load tell mkexec load --no-policy /efi/EFI/Linux/second.efi
leave systemctl kexec
`}, vm.SystemdConfig{
		Linux:        kernel,
		InitrdScript: "section initrd report",
		Script: `
section ready report
section second-lockdown cat /sys/kernel/security/lockdown
`}, nil)
	got := m.run(t, vm.Config{SecureBoot: true, Args: m.args, ESP: map[string][]byte{
		"EFI/BOOT/BOOTX64.EFI": m.sign(t, m.first), "EFI/Linux/second.efi": m.sign(t, m.second), "EFI/Linux/unsigned.efi": m.second,
	}})
	predicted := parsePrediction(t, got["predicted"])
	before, after := reportOf(t, got, "before"), reportOf(t, got, "after")
	wantPCRs(t, "after a refusal", after, before.PCRs)
	wantPCRs(t, "enter-initrd", reportOf(t, got, "initrd"), predicted.at(t, "enter-initrd"))
	wantPCRs(t, "ready", reportOf(t, got, "ready"), predicted.at(t, "enter-initrd:leave-initrd:sysinit:ready"))
	for section, text := range map[string]string{
		"lockdown": "[integrity]", "second-lockdown": "[integrity]",
		"unsigned": "policy not met: image: not trusted: not signed",
		"load":     "second.efi is staged",
	} {
		if !strings.Contains(got[section], text) {
			t.Errorf("section %s: %q does not say %q", section, got[section], text)
		}
	}
	if !strings.Contains(got["unsigned"], "status 1") || !strings.Contains(got["unsigned"], untouched) || after.KexecLoaded {
		t.Errorf("an image that is not signed: %s", got["unsigned"])
	}
}
