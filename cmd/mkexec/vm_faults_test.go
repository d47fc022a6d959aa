package main

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/mkexec/mkexec/cmd/mkexec/internal/vm"
)

// This test lets a machine that systemd runs shut down for a kexec in which
// something goes wrong, once for each fault, and looks at what it starts next: the
// second image, with exactly the predicted PCRs, or through firmware, with the PCRs
// of a cold boot. Faults of the TPM in the midst of a commit, staged files that have
// changed, and a process that is killed at each step, are in the tests of package
// kexec; a log that is garbage, and what is committed before a shutdown, are in
// testdata/tpm/load.txtar. It does not prove anything about faults of a machine whose
// PID 1 is not systemd.

// A fault is a shell script that runs before, or in place of, systemctl kexec.
type fault struct {
	name   string
	script string
	// how is the shutdown; systemctl kexec if it is empty.
	how string
	// measured: the second image is started, with the PCRs that were predicted with
	// --shutdown= this. Empty: the machine restarts through firmware.
	measured string
	orCold   bool // both are well
	// says is in what the script prints.
	says []string
	// console is in what the console has of the end of the shutdown.
	console string
}

const loadSecond = "mkexec load --no-policy --no-verify \"$@\"\n"

var faults = []fault{
	{name: "/run is full, and the hook dies", script: "dd if=/dev/zero of=/run/full bs=1M\n" + loadSecond + "ls /run/mkexec\nrm /run/full\n" +
		"cat /sys/kernel/kexec_loaded\n" + loadSecond + "rm $hook\nprintf '#!/bin/sh\\nkill -9 $$\\n' >$hook\nchmod 755 $hook\n",
		says: []string{"no space left on device", "nothing was loaded and mkexec extended no PCR", "\n0\n", "second.efi is staged"}},
	{name: "PCR 11 is extended", script: loadSecond + "/usr/lib/systemd/systemd-pcrextend stray\nmkexec status\n",
		says: []string{"plan", "will not be carried out"}, console: "mkexec: error: the PCRs are not what the prediction starts from: PCR 11 (sha1) is "},
	{name: "another image is loaded meanwhile", script: loadSecond + "kexecload /efi/linux /efi/initrd unmeasured\n", measured: "auto"},
	{name: "an image without a plan", script: "kexecload /efi/linux /efi/initrd unmeasured\n",
		console: "mkexec: error: /run/mkexec: no plan is staged: what is loaded was not measured"},
	{name: "kexec is locked", script: loadSecond + "echo 1 >/proc/sys/kernel/kexec_load_disabled\nmkexec unload\n",
		says: []string{"kexec is locked"}, console: "mkexec: error: kexec is locked (kernel.kexec_load_disabled), and not by this plan: "},
	{name: "the TPM is gone", script: loadSecond + `cd /sys/class/tpm/tpm0/device && d=$(readlink -f .) && echo ${d##*/} >driver/unbind; cd /
`, console: "mkexec: error: /dev/tpmrm0: no TPM"},
	{name: "forced", script: loadSecond, how: "systemctl kexec --force", measured: "none"},
	{name: "a jump at once", script: loadSecond + "sync\n", how: "kexecload"},
	{name: "an exitrd", script: loadSecond + `mkdir -p /run/initramfs/bin
cp /usr/bin/busybox /run/initramfs/bin/
cp /usr/bin/kexecload /run/initramfs/
printf '#!/bin/busybox sh\n[ "$1" = kexec ] && exec /kexecload\n' >/run/initramfs/shutdown
chmod 755 /run/initramfs/shutdown
`, measured: "auto"},
	// Some versions of systemctl make a kexec of it.
	{name: "a reboot with an image loaded", script: loadSecond, how: "systemctl reboot", measured: "auto", orCold: true},
	{name: "the power is cut between commit and jump", script: loadSecond + "mkexec commit\nsync\n", how: "sh -c 'echo b >/proc/sysrq-trigger'",
		says: []string{"the image is locked in"}},
}

// faultScript runs one fault at each boot.
func faultScript() string {
	var b strings.Builder
	b.WriteString(`
n=$(cat $state || echo 0)
echo $((n + 1)) >$state
cp /efi/kexecload /usr/bin/
mkdir -p ${hook%/*}
ln -s ../../../bin/mkexec $hook
plain() { "$@" 2>&1 | cat; }
set -- --append=fault=$n /efi/second.efi
section boot-$n report
section log-$n log
case $n in
`)
	for i, f := range faults {
		fmt.Fprintf(&b, "%d)\n", i)
		if f.measured != "" {
			fmt.Fprintf(&b, "section predicted-$n quiet mkexec predict --from=tpm --shutdown=%s --json \"$@\"\n", f.measured)
		}
		how := f.how
		if how == "" {
			how = "systemctl kexec"
		}
		fmt.Fprintf(&b, "fault() {\n%s}\nsection fault-$n plain fault \"$@\"\nleave %s\n;;\n", f.script, how)
	}
	b.WriteString("esac\n")
	return b.String()
}

func TestVMSystemdFaults(t *testing.T) {
	t.Parallel()
	m := newVM(t)
	image := func(name, script string) []byte {
		b, err := m.assets.SystemdImage(vm.SystemdConfig{
			System: m.assets.System257, Stub: m.assets.Stub257, Name: name, Cmdline: vm.Quiet + " from=" + name,
			Script: `
hook=/usr/lib/systemd/system-shutdown/mkexec
quiet() { "$@" 2>/dev/null; }
log() { mkexec log; echo "status $?"; }
esp
cp /efi/mkexec /usr/bin/
mkdir -p /var/lib/mkexec
mount -t ext4 "$(disk root)" /var/lib/mkexec
state=/var/lib/mkexec/state
` + script,
		})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	first := image("first", faultScript())
	second, err := m.assets.Image(vm.ImageConfig{
		Stub: m.assets.Stub257, Name: "second", Cmdline: vm.Quiet,
		Script: "section second-$(sed 's/.*fault=//' /proc/cmdline) report\nexec reboot -f",
	})
	if err != nil {
		t.Fatal(err)
	}
	unmeasured, err := m.assets.Initrd(map[string]vm.File{"init": vm.Init("section unmeasured report")})
	if err != nil {
		t.Fatal(err)
	}
	kexecload, err := buildProgram("./internal/vm/testdata/kexecload")
	if err != nil {
		t.Fatal(err)
	}
	root := m.path("root.ext4")
	if out, err := exec.Command("cp", "--sparse=always", m.assets.EmptyRoot, root).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v: %s", err, out)
	}
	got := m.run(t, vm.Config{
		Args: vm.Disk("root", root), Resets: true, Timeout: 18 * time.Minute,
		ESP: map[string][]byte{
			"EFI/BOOT/BOOTX64.EFI": first, "second.efi": second, "mkexec": m.mkexec, "kexecload": kexecload,
			"linux": m.read(t, m.assets.Kernel), "initrd": unmeasured,
		},
	})
	cold := predict(t, "--phase=sysinit:ready", m.write(t, "first.efi", first)).at(t, "sysinit:ready")
	for i, f := range faults {
		n := fmt.Sprint("-", i)
		wantPCRs(t, f.name+": before", reportOf(t, got, "boot"+n), cold)
		if !strings.HasSuffix(got["log"+n], "status 0") {
			t.Errorf("%s: before: mkexec log: %s", f.name, got["log"+n])
		}
		for _, text := range f.says {
			if !strings.Contains(got["fault"+n]+"\n", text) {
				t.Errorf("%s: %q does not say %q", f.name, got["fault"+n], text)
			}
		}
		if !strings.Contains(got[""], f.console) {
			t.Errorf("%s: the console does not say %q", f.name, f.console)
		}
		_, started := got["second"+n]
		if f.measured == "" && started {
			t.Errorf("%s: the second image was started", f.name)
		}
		if f.measured == "" || f.orCold && !started {
			continue
		}
		predicted := parsePrediction(t, got["predicted"+n])
		second := reportOf(t, got, "second"+n)
		wantPCRs(t, f.name+": the second image", second, predicted.Phases[0].PCRs)
		if second.Cmdline != predicted.Cmdline || second.Cmdline != vm.Quiet+" fault="+n[1:] {
			t.Errorf("%s: the second image: command line %q, predicted %q", f.name, second.Cmdline, predicted.Cmdline)
		}
	}
	wantPCRs(t, "the last boot", reportOf(t, got, fmt.Sprint("boot-", len(faults))), cold)
	if _, ok := got["unmeasured"]; ok {
		t.Error("an image that was not measured has been started")
	}
	if t.Failed() {
		t.Log(got)
	}
}
