package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/mkexec/mkexec/cmd/mkexec/internal/vm"
	"github.com/mkexec/mkexec/measure"
)

// These tests boot virtual machines: OVMF, the real systemd-stub, a software
// TPM with four banks, Debian's kernel. What the guests report is read from the
// kernel's sysfs, not by mkexec. They do not prove anything about Secure Boot or
// lockdown, other architectures, real TPM chips, or a systemd in the guest.

// vmImages are the UKIs and the program that go into the guests.
type vmImages struct {
	assets *vm.Assets
	mkexec []byte
	dir    string
	second []byte // the UKI that is booted by firmware and by kexec
}

const reportScript = "section second report"

// buildMkexec builds the program once.
var buildMkexec = sync.OnceValues(func() ([]byte, error) { return buildProgram(".") })

// buildProgram builds a static program.
func buildProgram(path string) ([]byte, error) {
	dir, err := os.MkdirTemp("", "mkexec")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "program")
	build := exec.Command("go", "build", "-trimpath", "-o", program, path)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("go build: %w\n%s", err, out)
	}
	return os.ReadFile(program)
}

// newVM returns what every test needs, without an image.
func newVM(t *testing.T) *vmImages {
	t.Helper()
	assets := vm.Require(t)
	mkexec, err := buildMkexec()
	if err != nil {
		t.Fatal(err)
	}
	return &vmImages{assets: assets, mkexec: mkexec, dir: t.TempDir()}
}

func newVMImages(t *testing.T, stub func(*vm.Assets) string) *vmImages {
	t.Helper()
	m := newVM(t)
	var err error
	m.second, err = m.assets.Image(vm.ImageConfig{
		Stub: stub(m.assets), Name: "second", Cmdline: vm.Quiet + " from=second ", Script: reportScript,
	})
	if err != nil {
		t.Fatal(err)
	}
	m.write(t, "second.efi", m.second)
	return m
}

// read returns the contents of a file.
func (m *vmImages) read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func (m *vmImages) path(name string) string { return filepath.Join(m.dir, name) }

func (m *vmImages) write(t *testing.T, name string, data []byte) string {
	t.Helper()
	if err := os.WriteFile(m.path(name), data, 0o644); err != nil {
		t.Fatal(err)
	}
	return m.path(name)
}

// predict runs mkexec predict, on a machine that says nothing of itself.
func predict(t *testing.T, args ...string) predictionOutput {
	t.Helper()
	args = append([]string{"predict", "--json", "--secure-boot=no", "--bank=sha1", "--bank=sha256", "--bank=sha384", "--bank=sha512"}, args...)
	var stdout, stderr bytes.Buffer
	if status := run(args, &system{stdout: &stdout, stderr: &stderr, root: fstest.MapFS{}}); status != exitYes {
		t.Fatalf("mkexec %q: status %d: %s", args, status, &stderr)
	}
	return parsePrediction(t, stdout.String())
}

// predictionOutput is what these tests read of predict --json.
type predictionOutput struct {
	Image   struct{ Entry string }
	Cmdline string
	Initrd  struct {
		Size   int64
		SHA256 measure.Digest
	}
	Ignored []string
	Events  []measure.Event
	Phases  []struct {
		Phase string
		PCRs  map[string]map[int]string
	}
}

func parsePrediction(t *testing.T, text string) predictionOutput {
	t.Helper()
	var p predictionOutput
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		t.Fatalf("predict --json: %v in %q", err, text)
	}
	if len(p.Phases) == 0 || p.Phases[0].Phase != "" || len(p.Phases[0].PCRs) != 4 {
		t.Fatalf("predict --json: no PCRs before the first phase: %q", text)
	}
	return p
}

// run runs a VM and returns the sections that the guests printed, and as the one
// without a name all that was on the console.
func (m *vmImages) run(t *testing.T, c vm.Config) map[string]string {
	t.Helper()
	r, err := m.assets.Run(context.Background(), c)
	if err != nil {
		t.Fatalf("%v\n%s", err, r.Serial)
	}
	sections := map[string]string{"": r.Serial}
	for _, s := range vm.Sections(r.Serial) {
		if _, twice := sections[s.Name]; twice {
			t.Fatalf("section %q twice:\n%s", s.Name, r.Serial)
		}
		sections[s.Name] = s.Text
	}
	if t.Failed() {
		t.Log(r.Serial)
	}
	return sections
}

func reportOf(t *testing.T, sections map[string]string, name string) *vm.Report {
	t.Helper()
	text, ok := sections[name]
	if !ok {
		serial := sections[""]
		t.Fatalf("the guest printed no section %q, but %q; its last words: %s", name, slices.Sorted(maps.Keys(sections)), serial[max(0, len(serial)-4000):])
	}
	r, err := vm.ParseReport(text)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func wantPCRs(t *testing.T, what string, got *vm.Report, want map[string]map[int]string) {
	t.Helper()
	for _, b := range measure.Banks() {
		for _, n := range []int{11, 12, 13} {
			if g, w := got.PCRs[b.String()][n], want[b.String()][n]; g != w || w == "" {
				t.Errorf("%s: PCR %d (%v) is %s, want %s", what, n, b, g, w)
			}
		}
	}
}

func zeroPCRs() map[string]map[int]string {
	zero := map[string]map[int]string{}
	for _, b := range measure.Banks() {
		z := strings.Repeat("0", 2*b.Size())
		zero[b.String()] = map[int]string{11: z, 12: z, 13: z}
	}
	return zero
}

// firstFiles are the files of the initrd of the first system.
func (m *vmImages) firstFiles(more map[string][]byte) map[string]vm.File {
	files := map[string]vm.File{"mkexec": {Data: m.mkexec, Perm: 0o755}, "second.efi": {Data: m.second, Perm: 0o644}}
	for name, data := range more {
		files[name] = vm.File{Data: data, Perm: 0o644}
	}
	return files
}

// policyFor accepts exactly the PCRs that are predicted at a phase.
func policyFor(p predictionOutput, phase string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "version: 1\nrequire:\n  - name: root disk\n    at: %q\n    pcrs:\n", phase)
	for _, at := range p.Phases {
		if at.Phase != phase {
			continue
		}
		for _, bank := range slices.Sorted(maps.Keys(at.PCRs)) {
			fmt.Fprintf(&b, "      %s:\n", bank)
			for _, n := range []int{11, 12, 13} {
				fmt.Fprintf(&b, "        %d: %s\n", n, at.PCRs[bank][n])
			}
		}
	}
	return b.String()
}

// quiet is a guest script: a command without its progress bar.
const quiet = `
quiet() { "$@" 2>/dev/null; }
`

// refused is a guest script: mkexec boot must say no or fail, and say why.
const refused = quiet + `
refused() {
	refused_name=$1 refused_status=$2
	shift 2
	/mkexec boot --no-verify "$@" >/tmp/out 2>/tmp/err
	status=$?
	[ $status = $refused_status ] || echo "WRONG STATUS $status"
	[ -s /tmp/out ] && echo "OUTPUT ON STDOUT"
	cat /tmp/err
}
`

// TestVMKexecEqualsFirmware is the main promise: a UKI that is booted by mkexec
// from a system with empty PCRs is in the state in which firmware and the stub
// put it: PCRs in all banks, command line, /.extra; and predict said so. Before
// that, attempts with one byte changed are refused and change nothing.
func TestVMKexecEqualsFirmware(t *testing.T) {
	stubs := map[string]func(*vm.Assets) string{
		"stub252": func(a *vm.Assets) string { return a.Stub252 },
		"stub257": func(a *vm.Assets) string { return a.Stub257 },
	}
	for name, stub := range stubs {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newVMImages(t, stub)
			predicted := predict(t, m.path("second.efi"))

			// (a) by firmware
			byFirmware := reportOf(t, m.run(t, vm.Config{ESP: map[string][]byte{"EFI/BOOT/BOOTX64.EFI": m.second}}), "second")
			wantPCRs(t, "firmware boot", byFirmware, predicted.Phases[0].PCRs)

			// (b) by mkexec, after (d) attempts that must be refused
			policy := policyFor(predicted, "")
			digest := predicted.Phases[0].PCRs["sha256"][11]
			tampered := slices.Clone(m.second)
			tampered[len(tampered)/2] ^= 1 // in .linux or .initrd
			first, err := m.assets.Initrd(func() map[string]vm.File {
				files := m.firstFiles(map[string][]byte{
					"policy.yaml":   []byte(policy),
					"tampered.yaml": []byte(strings.Replace(policy, digest, flipHex(digest), 1)),
					"tampered.efi":  tampered,
				})
				files["init"] = vm.Init(refused + `
section before report
section status /mkexec status --policy=/policy.yaml
section policy refused policy 1 --policy=/tampered.yaml /second.efi
section image refused image 1 --policy=/policy.yaml /tampered.efi
section cmdline refused cmdline 1 --policy=/policy.yaml --append=x /second.efi
section none refused none 2 /second.efi
section dry quiet /mkexec boot --dry-run --json --no-verify --policy=/policy.yaml /second.efi
section after report
exec /mkexec boot --no-verify --policy=/policy.yaml /second.efi
`)
				return files
			}())
			if err != nil {
				t.Fatal(err)
			}
			got := m.run(t, vm.Config{Kernel: m.assets.Kernel, Initrd: first, Cmdline: vm.Quiet})

			zero := zeroPCRs()
			wantPCRs(t, "first system", reportOf(t, got, "before"), zero)
			after := reportOf(t, got, "after")
			wantPCRs(t, "after refusals", after, zero)
			if after.KexecLoaded {
				t.Error("an image is loaded after refusals")
			}
			for section, text := range map[string]string{
				"status":  "\nready",
				"policy":  "policy not met: PCR 11 (sha256) before the first phase will be " + digest + "; root disk accepts " + flipHex(digest),
				"image":   "policy not met: PCR 11 (sha1) before the first phase will be",
				"cmdline": "policy not met: PCR 12 (sha1) before the first phase will be",
				"none":    "policy: open /etc/mkexec/policy.yaml: no such file or directory",
			} {
				if !strings.Contains(got[section], text) || strings.Contains(got[section], "WRONG") || strings.Contains(got[section], "OUTPUT") {
					t.Errorf("section %s: %q does not say %q", section, got[section], text)
				}
				if section != "status" && !strings.Contains(got[section], "state: "+untouched) {
					t.Errorf("section %s: %q does not say that nothing was touched", section, got[section])
				}
			}
			if dry := parsePrediction(t, got["dry"]); len(dry.Events) != len(predicted.Events) || dry.Cmdline != predicted.Cmdline {
				t.Errorf("dry run: %d events, %q; predict has %d, %q", len(dry.Events), dry.Cmdline, len(predicted.Events), predicted.Cmdline)
			}

			byKexec := reportOf(t, got, "second")
			wantPCRs(t, "measured kexec", byKexec, predicted.Phases[0].PCRs)
			wantPCRs(t, "measured kexec against firmware boot", byKexec, byFirmware.PCRs)
			if byKexec.Cmdline != byFirmware.Cmdline || byKexec.Cmdline != predicted.Cmdline {
				t.Errorf("command line: kexec %q, firmware %q, predicted %q", byKexec.Cmdline, byFirmware.Cmdline, predicted.Cmdline)
			}
			if !maps.Equal(byKexec.Extra, byFirmware.Extra) || len(byKexec.Extra) != map[string]int{"stub252": 2, "stub257": 4}[name] {
				t.Errorf("/.extra: kexec %v, firmware %v", byKexec.Extra, byFirmware.Extra)
			}
		})
	}
}

// flipHex changes the last digit.
func flipHex(s string) string {
	last := "0"
	if strings.HasSuffix(s, "0") {
		last = "1"
	}
	return s[:len(s)-1] + last
}

// TestVMChained kexecs out of a system that the stub itself booted, into
// profile 1: the PCRs are what predict --from=tpm said, chained on its own.
func TestVMChained(t *testing.T) {
	for _, systemd := range systemdReleases(t) {
		if systemd.version >= 257 { // older ones know no profiles
			t.Run(fmt.Sprint(systemd.version), func(t *testing.T) {
				t.Parallel()
				testChained(t, systemd)
			})
		}
	}
}

func testChained(t *testing.T, systemd systemdRelease) {
	m := newVMImages(t, func(*vm.Assets) string { return systemd.stub })
	first, err := m.assets.Image(vm.ImageConfig{
		Stub: systemd.stub, Name: "first", Cmdline: vm.Quiet + " from=first", Files: m.firstFiles(nil), Script: quiet + `
section before report
section predicted quiet /mkexec predict --from=tpm --profile=debug --json /second.efi
section zero /mkexec boot --from=zero --no-verify --no-policy --profile=debug /second.efi
section still report
exec /mkexec boot --no-verify --no-policy --profile=debug /second.efi
`})
	if err != nil {
		t.Fatal(err)
	}
	got := m.run(t, vm.Config{ESP: map[string][]byte{"EFI/BOOT/BOOTX64.EFI": first}})
	before, second := reportOf(t, got, "before"), reportOf(t, got, "second")
	predicted := parsePrediction(t, got["predicted"])
	wantPCRs(t, "chained", second, predicted.Phases[0].PCRs)
	if !strings.Contains(got["zero"], "PCR 11 (sha1) is ") || !strings.Contains(got["zero"], untouched) {
		t.Errorf("boot --from=zero says %q", got["zero"])
	}
	wantPCRs(t, "after a refusal", reportOf(t, got, "still"), before.PCRs)

	// The chain, computed by hand from the report of the first system.
	fromZero := predict(t, "--profile=debug", m.path("second.efi"))
	if before.PCRs["sha256"][11] == fromZero.Phases[0].PCRs["sha256"][11] || strings.Trim(before.PCRs["sha256"][11], "0") == "" {
		t.Errorf("the first system has PCR 11 %s", before.PCRs["sha256"][11])
	}
	if second.PCRs["sha256"][11] == fromZero.Phases[0].PCRs["sha256"][11] {
		t.Error("PCR 11 is that of a cold boot")
	}
	if want := predicted.Cmdline; second.Cmdline != want || !strings.HasSuffix(want, "debug=1") {
		t.Errorf("command line %q, predicted %q", second.Cmdline, want)
	}
}
