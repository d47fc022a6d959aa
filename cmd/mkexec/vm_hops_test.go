package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/mkexec/mkexec/cmd/mkexec/internal/vm"
)

// hops is how many kexecs follow each other.
const hops = 10

// hopScript is that of every system. An initrd that holds the files of the running
// one is made of these, so each system starts the next. What the unit in the carried
// archive does where systemd runs the initrd, a line here does.
const hopScript = quiet + `
mkdir -p /run/log/systemd
[ ! -e /.mkexec/tpm2-measure.log ] || cp /.mkexec/tpm2-measure.log /run/log/systemd/
rm -rf /.mkexec /etc/systemd
hop=$(sed 's/.*hop=//' /proc/cmdline)
section report-$hop report
if [ $hop -lt $HOPS ]; then
	cd / && find . -xdev ! -path './proc/*' ! -path './sys/*' ! -path './dev/*' ! -path './run/*' | cpio -o -H newc >/run/initrd 2>/dev/null
	set -- --linux=/linux --initrd=/run/initrd --cmdline="$(sed "s/hop=.*/hop=$((hop + 1))/" /proc/cmdline)"
	case $hop in 0 | $((HOPS - 1))) section predicted-$((hop + 1)) quiet /mkexec predict --from=tpm --json "$@" ;; esac
	exec /mkexec boot --no-policy --no-verify "$@"
fi
log() {
	/mkexec log
	echo "status $?"
}
section log log
`

// TestVMHops kexecs many times in a row, from a start by firmware and systemd-stub.
// The first and the last have the PCRs that were predicted in the one before, and the
// log of the last one explains all that were in between: mkexec would not have jumped
// if they had been others than predicted. It proves nothing about systemd:
// TestVMSystemd does.
func TestVMHops(t *testing.T) {
	t.Parallel()
	m := newVM(t)
	kernel := m.read(t, m.assets.Kernel)
	first, err := m.assets.Image(vm.ImageConfig{
		Stub: m.assets.Stub257, Name: "first", Cmdline: vm.Quiet + " hop=0", Script: fmt.Sprintf("HOPS=%d\n%s", hops, hopScript),
		Files: map[string]vm.File{"mkexec": {Data: m.mkexec, Perm: 0o755}, "linux": {Data: kernel, Perm: 0o644}},
	})
	if err != nil {
		t.Fatal(err)
	}
	got := m.run(t, vm.Config{ESP: map[string][]byte{"EFI/BOOT/BOOTX64.EFI": first}, Timeout: 15 * time.Minute})
	for _, hop := range []int{1, hops} {
		predicted := parsePrediction(t, got[fmt.Sprint("predicted-", hop)])
		report := reportOf(t, got, fmt.Sprint("report-", hop))
		wantPCRs(t, fmt.Sprint("hop ", hop), report, predicted.at(t, ""))
		if want := fmt.Sprint(vm.Quiet, " hop=", hop); report.Cmdline != want {
			t.Errorf("hop %d: command line %q, want %q", hop, report.Cmdline, want)
		}
	}
	log := got["log"]
	if kexecs := strings.Count(log, "\nkexec at the end of hop "); kexecs != hops || !strings.HasSuffix(log, "\nthe logs explain what the TPM holds\nstatus 0") {
		t.Errorf("%d kexecs in the log: %s", kexecs, log)
	}
}
