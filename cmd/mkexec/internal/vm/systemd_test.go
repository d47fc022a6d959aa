//go:build linux

package vm

// This test shows that a Debian with systemd as PID 1 starts, measures its phases and shuts down for a kexec. It does not show
// anything about mkexec, nor about udev, D-Bus and logind, which are not in there, nor about a disk that is encrypted.

import (
	"crypto"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// shutdownHook is a program that systemd-shutdown runs.
const shutdownHook = `#!/bin/sh
. /usr/lib/mkexec-test/functions
section hook report
look() {
	echo "verb $*"
	stat -c 'tpm %F' /dev/tpmrm0
	touch /run/here && echo /run can be written
	touch /here || echo / cannot
	echo "disabled $(cat /proc/sys/kernel/kexec_load_disabled)"
	ls /sys/kernel/security/tpm0
}
section look look "$@"
section hook-log cat /run/log/systemd/tpm2-measure.log
`

func TestSystemd(t *testing.T) {
	t.Parallel()
	a := Require(t)
	t.Run("257", func(t *testing.T) {
		t.Parallel()
		testSystemd(t, a, a.System257, false)
	})
	t.Run("262", func(t *testing.T) {
		t.Parallel()
		if a.System262 == (System{}) {
			t.Skip("no systemd 262 in SYSTEMD_ROOT when the assets were made")
		}
		testSystemd(t, a, a.System262, true)
	})
}

// testSystemd boots a system by firmware, with an initrd and a disk, and by systemctl kexec the same without. A separator is what
// systemd extends PCR 12 and 13 with in an initrd, from 261 on.
func testSystemd(t *testing.T, a *Assets, system System, separator bool) {
	first, err := a.SystemdImage(SystemdConfig{
		System: system, Stub: a.Stub257, Name: "first", Cmdline: Quiet + " from=first", OnDisk: true,
		InitrdScript: `
section initrd report
`,
		Script: `
section ready report
section log cat /run/log/systemd/tpm2-measure.log
section mode stat -c '%a %U' /run/log/systemd/tpm2-measure.log
section units systemctl show -p ActiveState systemd-pcrphase systemd-pcrphase-sysinit
section failed systemctl --failed --no-legend
load() {
	esp && kexecload /efi/linux /efi/initrd "` + Quiet + ` from=second" && echo loaded >/state
}
section load load
leave systemctl kexec
`})
	if err != nil {
		t.Fatal(err)
	}
	second, err := SystemdInitrd(SystemdConfig{System: system, Script: `
section second report
section second-log cat /run/log/systemd/tpm2-measure.log
kept() {
	mount -t ext4 "$(disk root)" /tmp && cat /tmp/state
}
section kept kept
`})
	if err != nil {
		t.Fatal(err)
	}
	kernel, err := os.ReadFile(a.Kernel)
	if err != nil {
		t.Fatal(err)
	}
	disks, err := a.SystemdDisks(t.TempDir(), system, map[string]File{
		"/usr/bin/kexecload":                    buildStatic(t, "kexecload"),
		"/usr/lib/systemd/system-shutdown/hook": {[]byte(shutdownHook), 0o755},
	})
	if err != nil {
		t.Fatal(err)
	}
	r, err := a.Run(t.Context(), Config{Args: disks,
		ESP: map[string][]byte{"EFI/BOOT/BOOTX64.EFI": first, "linux": kernel, "initrd": second}})
	if err != nil {
		t.Fatalf("%v\n%s", err, r.Serial)
	}
	t.Logf("%v", r.Took)
	got := map[string]string{}
	for _, s := range Sections(r.Serial) {
		got[s.Name] = s.Text
	}

	for name, words := range map[string]string{
		"initrd": "enter-initrd",
		"ready":  "enter-initrd leave-initrd sysinit ready",
		"hook":   "enter-initrd leave-initrd sysinit ready shutdown final",
		"second": "enter-initrd leave-initrd sysinit ready shutdown final sysinit ready",
	} {
		report, err := ParseReport(got[name])
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for bank, h := range banks {
			sections := pcr11(t, h, first, ".linux", ".osrel", ".cmdline", ".initrd", ".uname", ".sbat")
			other := strings.Repeat("00", h.Size())
			if separator {
				other = extendWords(t, h, other, "os-separator")
			}
			for pcr, want := range map[int]string{11: extendWords(t, h, sections, strings.Fields(words)...), 12: other, 13: other} {
				if report.PCRs[bank][pcr] != want {
					t.Errorf("%s: PCR %d %s: %s, want %s", name, pcr, bank, report.PCRs[bank][pcr], want)
				}
			}
		}
		if image := map[bool]string{true: "second", false: "first"}[name == "second"]; report.Cmdline != Quiet+" from="+image {
			t.Errorf("%s: command line %q", name, report.Cmdline)
		}
		if report.KexecLoaded != (name == "hook") {
			t.Errorf("%s: an image is loaded: %v", name, report.KexecLoaded)
		}
	}

	machine := "15 machine-id machine-id:" + MachineID
	ready := []string{"11 phase enter-initrd", "11 phase leave-initrd", machine, "11 phase sysinit", "11 phase ready"}
	for name, want := range map[string][]string{
		"log":        ready,
		"hook-log":   append(slices.Clone(ready), "11 phase shutdown", "11 phase final"),
		"second-log": {machine, "11 phase sysinit", "11 phase ready"}, // the kexec has lost the others
	} {
		records := slices.DeleteFunc(measureLog(t, got[name]), func(r string) bool { return strings.HasSuffix(r, " os-separator os-separator") })
		if !slices.Equal(records, want) {
			t.Errorf("%s: %q, want %q", name, records, want)
		}
	}

	for name, want := range map[string]string{
		"mode":   "600 root",
		"units":  "ActiveState=active\n\nActiveState=active",
		"failed": "",
		"load":   "",
		"look": "verb kexec\ntpm character special file\n/run can be written\n" +
			"touch: /here: Read-only file system\n/ cannot\ndisabled 0\nbinary_bios_measurements",
		"kept": "loaded",
	} {
		if text, ok := got[name]; !ok || text != want {
			t.Errorf("%s: %q, want %q", name, text, want)
		}
	}
	if t.Failed() {
		t.Log(r.Serial)
	}
}

// extendWords extends a PCR with the hashes of words.
func extendWords(t *testing.T, h crypto.Hash, pcr string, words ...string) string {
	t.Helper()
	value, err := hex.DecodeString(pcr)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range words {
		event := h.New()
		event.Write([]byte(w))
		d := h.New()
		d.Write(value)
		d.Write(event.Sum(nil))
		value = d.Sum(nil)
	}
	return hex.EncodeToString(value)
}

// measureLog returns the records of systemd's log, each as its PCR, type and string. Their digests must be those of the strings.
func measureLog(t *testing.T, text string) []string {
	t.Helper()
	var records []string
	for line := range strings.Lines(text) {
		var r struct {
			PCR     int
			Digests []struct{ HashAlg, Digest string }
			Content struct{ EventType, String string }
		}
		if err := json.Unmarshal([]byte(strings.TrimPrefix(line, "\x1e")), &r); err != nil {
			t.Errorf("measurement log: %v in %q", err, line)
		}
		digests := map[string]string{}
		for _, d := range r.Digests {
			digests[d.HashAlg] = d.Digest
		}
		want := map[string]string{}
		for bank, h := range banks {
			d := h.New()
			d.Write([]byte(r.Content.String))
			want[bank] = hex.EncodeToString(d.Sum(nil))
		}
		if !maps.Equal(digests, want) {
			t.Errorf("measurement log: %v for %q, want %v", digests, r.Content.String, want)
		}
		records = append(records, fmt.Sprint(r.PCR, " ", r.Content.EventType, " ", r.Content.String))
	}
	return records
}

// buildStatic builds a program in testdata for a guest.
func buildStatic(t *testing.T, name string) File {
	t.Helper()
	program := filepath.Join(t.TempDir(), name)
	build := exec.Command("go", "build", "-trimpath", "-o", program, "./testdata/"+name)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	data, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	return File{data, 0o755}
}
