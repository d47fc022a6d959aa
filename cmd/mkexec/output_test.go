package main

// These tests hold the formats of predict --output against the tools that read
// or write them: against files that the tools made (testdata/output/README.md)
// everywhere, and against the tools themselves where they are installed. They do
// not prove that the prediction is right; the tests of measure/stub do. That a
// file survives a power failure is not tested.

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/tpm"
	"github.com/mkexec/mkexec/measure/tpm/tpmtest"
	"github.com/mkexec/mkexec/measure/uki/ukitest"
)

const (
	plainUKI       = "../../measure/stub/testdata/golden/plain_262/uki.efi"
	measureGoldens = "../../measure/stub/testdata/systemd-measure"
	lastPhase      = "enter-initrd:leave-initrd:sysinit:ready:shutdown:final"
)

// predictRun runs mkexec predict, which must succeed.
func predictRun(t *testing.T, args ...string) (stdout, stderr string) {
	t.Helper()
	var out, errOut bytes.Buffer
	sys := &system{stdout: &out, stderr: &errOut, root: fstest.MapFS{}}
	if status := run(append([]string{"predict"}, args...), sys); status != exitYes {
		t.Fatalf("predict %q: status %d: %s", args, status, &errOut)
	}
	return out.String(), errOut.String()
}

func golden(t *testing.T, path ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// sectionsUKI builds the image that the calculate-* and sign-* files are of,
// with edit applied to the command line.
func sectionsUKI(t *testing.T, edit func([]byte)) string {
	t.Helper()
	var sections []ukitest.Section
	for _, name := range []string{"linux", "osrel", "cmdline", "initrd", "uname", "sbat", "pcrpkey"} {
		data := []byte(golden(t, measureGoldens, "sections", name))
		if name == "cmdline" {
			edit(data)
		}
		sections = append(sections, ukitest.Section{Name: "." + name, Data: data})
	}
	image, err := ukitest.Build(ukitest.Minimal("262.1-1"), sections...)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "sections.efi")
	if err := os.WriteFile(path, image, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func same([]byte) {}

func TestOutputMeasure(t *testing.T) {
	t.Parallel()
	order := []string{"--bank=sha512", "--bank=sha256", "--bank=sha512", "--phase=enter-initrd:leave-initrd", "--phase=",
		"--phase=enter-initrd:final", "--phase=enter-initrd", "--phase=:", "--phase=enter-initrd"}
	image := sectionsUKI(t, same)
	other := sectionsUKI(t, func(b []byte) { b[0] ^= 1 })
	for name, flags := range map[string][]string{"calculate-basic": nil, "calculate-order": order} {
		flags = append(flags, "--output=systemd-measure")
		stdout, stderr := predictRun(t, append(flags, image)...)
		if want := golden(t, "testdata/output", name+".txt"); stdout != want {
			t.Errorf("%s:\n%s\nsystemd-measure has\n%s", name, stdout, want)
		}
		if want := golden(t, "testdata/output", name+".stderr"); stderr != want {
			t.Errorf("%s:\n%s\nsystemd-measure has\n%s", name, stderr, want)
		}
		changed, _ := predictRun(t, append(flags, other)...)
		for i, line := range strings.Split(strings.TrimSpace(changed), "\n") {
			was := strings.Split(stdout, "\n")[i]
			if bank, _, _ := strings.Cut(line, "="); line == was || !strings.HasPrefix(was, bank+"=") {
				t.Errorf("%s: with another command line %s, was %s", name, line, was)
			}
		}
	}

	short, stderr := predictRun(t, append(order, "--output=systemd-measure", "--json", image)...)
	if want := golden(t, "testdata/output/calculate-order.json"); short != want || stderr != "" {
		t.Errorf("%s%s\nsystemd-measure has\n%s", short, stderr, want)
	}
}

// TestOutputMeasurePretty: golden is calculate --json=pretty.
func TestOutputMeasurePretty(t *testing.T) {
	t.Parallel()
	short, _ := predictRun(t, "--output=systemd-measure", "--json", sectionsUKI(t, same))
	var values map[measure.Bank][]measureJSON
	if err := json.Unmarshal([]byte(short), &values); err != nil {
		t.Fatal(err)
	}
	var pretty bytes.Buffer
	if err := printMeasureJSON(&pretty, values, true); err != nil {
		t.Fatal(err)
	}
	if want := golden(t, measureGoldens, "calculate-basic.json"); pretty.String() != want {
		t.Errorf("%s\nsystemd-measure has\n%s", &pretty, want)
	}

	program, person := openTerminal(t)
	if status := run([]string{"predict", "--output=systemd-measure", "--json", "--bank=sha256", "--phase=:", plainUKI},
		&system{stdout: program, stderr: new(bytes.Buffer), root: fstest.MapFS{}}); status != exitYes {
		t.Fatalf("status %d", status)
	}
	shown := make([]byte, 4096)
	n, err := person.Read(shown)
	if want := "{\r\n\t\"sha256\" : ["; err != nil || !strings.HasPrefix(string(shown[:n]), want) {
		t.Errorf("a terminal shows %q, %v", shown[:n], err)
	}
}

// tempDirIn returns a new directory and its name for programs in root.
func tempDirIn(t *testing.T, root string) (dir, inside string) {
	t.Helper()
	dir, err := os.MkdirTemp(filepath.Join(root, "tmp"), "mkexec")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir, "/tmp/" + filepath.Base(dir)
}

// command runs a program in root and returns what it says.
func command(t *testing.T, root string, env []string, argv ...string) (stdout, stderr string, err error) {
	t.Helper()
	c := exec.Command(argv[0], argv[1:]...)
	if root != "/" {
		c.Dir = "/"
		c.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
	}
	c.Env = append([]string{"PATH=/usr/bin:/bin", "SYSTEMD_COLORS=0"}, env...)
	var out, errOut bytes.Buffer
	c.Stdout, c.Stderr = &out, &errOut
	err = c.Run()
	return out.String(), errOut.String(), err
}

func TestOutputMeasureLive(t *testing.T) {
	t.Parallel()
	for name, root := range map[string]func(testing.TB) string{"host": func(testing.TB) string { return "/" }, "systemd 262": tpmtest.Systemd262} {
		t.Run(name, func(t *testing.T) {
			const tool = "/usr/lib/systemd/systemd-measure"
			root := root(t)
			if _, err := os.Stat(filepath.Join(root, tool)); err != nil {
				t.Skipf("no systemd-measure: %v", err)
			}
			dir, inside := tempDirIn(t, root)
			calculate, predict := []string{tool, "calculate"}, []string{"--output=systemd-measure"}
			for name, data := range map[string]string{"linux": "a kernel, so to say", "initrd": "an initrd", "cmdline": "root=/dev/vda1 quiet"} {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
					t.Fatal(err)
				}
				calculate = append(calculate, "--"+name+"="+filepath.Join(inside, name))
				if name == "cmdline" {
					predict = append(predict, "--cmdline="+data)
				} else {
					predict = append(predict, "--"+name+"="+filepath.Join(dir, name))
				}
			}
			for _, flags := range [][]string{
				nil, {"--phase=:"}, {"--phase="}, {"--bank=sha384", "--bank=sha1", "--bank=sha384"},
				{"--phase=sysinit:ready", "--phase=enter-initrd:leave-initrd", "--phase=enter-initrd", "--phase=:", "--phase=enter-initrd", "--bank=sha256"},
			} {
				for _, form := range []struct{ tool, ours []string }{{}, {[]string{"--json=short"}, []string{"--json"}}} {
					want, wantErr, err := command(t, root, nil, slices.Concat(calculate, flags, form.tool)...)
					if err != nil {
						t.Fatalf("%s: %v: %s", tool, err, wantErr)
					}
					got, gotErr := predictRun(t, slices.Concat(predict, flags, form.ours)...)
					if got != want || gotErr != wantErr {
						t.Errorf("%q:\n%s%s\nsystemd-measure has\n%s%s", flags, got, gotErr, want, wantErr)
					}
				}
			}
		})
	}
}

// policyPCR returns the digest of a TPM2_PolicyPCR in a policy of its own, by
// the formula of TPM 2.0 Library Part 3, 23.7.
func policyPCR(banks []measure.Bank, pcrs []int, values []byte) string {
	message := append(make([]byte, 32), 0, 0, 1, 0x7F)
	message = binary.BigEndian.AppendUint32(message, uint32(len(banks)))
	for _, b := range banks {
		selected := make([]byte, 3)
		for _, n := range pcrs {
			selected[n/8] |= 1 << (n % 8)
		}
		message = append(append(binary.BigEndian.AppendUint16(message, uint16(b)), 3), selected...)
	}
	message = append(message, measure.SHA256.Sum(values)...)
	return measure.SHA256.Sum(message).String()
}

func TestOutputTools(t *testing.T) {
	t.Parallel()
	image := sectionsUKI(t, same)
	check := func(bank measure.Bank, phase, want string) {
		t.Helper()
		values, stderr := predictRun(t, "--output=tpm2-tools", "--pcr=11", "--bank="+bank.String(), "--phase="+phase, image)
		if want := "tpm2_policypcr -S session.ctx -l " + bank.String() + ":11 -f FILE -L policy.digest\n"; stderr != want {
			t.Errorf("stderr has %q, want %q", stderr, want)
		}
		if got := policyPCR([]measure.Bank{bank}, []int{11}, []byte(values)); got != want {
			t.Errorf("%v %s: policy %s, systemd-measure signs %s", bank, phase, got, want)
		}
	}
	var signed map[measure.Bank][]struct{ Pol string }
	if err := json.Unmarshal([]byte(golden(t, "testdata/output/sign-sha256.json")), &signed); err != nil || len(signed[measure.SHA256]) != 4 {
		t.Fatal(err, signed)
	}
	for i, s := range signed[measure.SHA256] {
		check(measure.SHA256, string(measure.DefaultPhases()[i]), s.Pol)
	}
	if err := json.Unmarshal([]byte(golden(t, "testdata/output/sign-allbanks-enter-initrd.json")), &signed); err != nil || len(signed) != 4 {
		t.Fatal(err, signed)
	}
	for bank, s := range signed {
		check(bank, "enter-initrd", s[0].Pol)
	}

	// Several PCRs and banks: the digest is that of tpm2_policypcr in TestOutputToolsLive.
	values, _ := predictRun(t, "--output=tpm2-tools", "--systemd=257", "--bank=sha256", "--bank=sha1", "--phase=enter-initrd", plainUKI)
	banks := []measure.Bank{measure.SHA1, measure.SHA256}
	if got := policyPCR(banks, []int{11, 12, 13}, []byte(values)); got != toolsPolicy {
		t.Errorf("policy %s, tpm2_policypcr has %s", got, toolsPolicy)
	}
	if got := policyPCR(banks, []int{11, 12, 13}, []byte(values[:len(values)-1]+"\x01")); got == toolsPolicy {
		t.Error("one bit in the last PCR does not change the policy")
	}
}

// toolsPolicy is what tpm2_policypcr (tpm2-tools 5.4, swtpm 0.7.1) makes of
// sha1:11,12,13+sha256:11,12,13 in a TPM that was extended with what plain_262
// measured, and enter-initrd.
const toolsPolicy = "c862286d4f1715208be6c98fcfa1e98ba8238fcc952d7a27e1631070d487d298"

func TestOutputToolsLive(t *testing.T) {
	if _, err := exec.LookPath("tpm2_policypcr"); err != nil {
		if slices.Contains(strings.Split(os.Getenv("MKEXEC_REQUIRE"), ","), "tpm2-tools") {
			t.Fatal("tpm2-tools: not installed, but MKEXEC_REQUIRE has it")
		}
		t.Skip("tpm2-tools: not installed")
	}
	t.Parallel()
	sw := tpmtest.Start(t)
	device := toolDevice(t, sw)
	extendTo(t, sw, plainUKI, "enter-initrd")

	work := filepath.Join(t.TempDir(), "it's a directory")
	_, commands := predictRun(t, "--output=tpm2-tools", "--systemd=257", "--output-dir="+work, "--bank=sha256", "--bank=sha1",
		"--phase=enter-initrd", "--phase=enter-initrd:leave-initrd", plainUKI)
	lines := strings.Split(strings.TrimSpace(commands), "\n")
	if len(lines) != 2 {
		t.Fatalf("stderr has %q", commands)
	}
	policy := func(line string) string {
		t.Helper()
		script := `set -e; cd "$0"; tpm2_startauthsession -S session.ctx; ` + line + "; tpm2_flushcontext session.ctx"
		if out, stderr, err := command(t, "/", []string{"TPM2TOOLS_TCTI=" + device}, "sh", "-c", script, work); err != nil {
			t.Fatalf("%s: %v: %s%s", line, err, out, stderr)
		}
		return hex.EncodeToString([]byte(golden(t, work, "policy.digest")))
	}
	const selection = "sha1:11,12,13+sha256:11,12,13"
	live := policy("tpm2_policypcr -S session.ctx -l " + selection + " -L policy.digest")
	if live != toolsPolicy {
		t.Errorf("policy %s, was %s", live, toolsPolicy)
	}
	if got := policy(lines[0]); got != live {
		t.Errorf("%s: policy %s, from the TPM %s", lines[0], got, live)
	}
	if got := policy(lines[1]); got == live {
		t.Errorf("%s: the same policy at another phase", lines[1])
	}
	policy("tpm2_pcrread " + selection + " -o read.pcrs; cp enter-initrd.pcrs changed; printf x | dd of=changed conv=notrunc status=none; " + lines[0])
	if golden(t, work, "read.pcrs") != golden(t, work, "enter-initrd.pcrs") {
		t.Error("tpm2_pcrread has other bytes")
	}
	if got := policy("tpm2_policypcr -S session.ctx -l " + selection + " -f changed -L policy.digest"); got == live {
		t.Error("one byte does not change the policy")
	}
}

// toolDevice returns what the TPM is called by those who use the TSS, which
// looks for the control socket beside the other.
func toolDevice(t *testing.T, sw *tpmtest.SWTPM) string {
	t.Helper()
	path := strings.TrimPrefix(sw.Device(), "swtpm:path=")
	if err := os.Symlink("ctrl", path+".ctrl"); err != nil {
		t.Fatal(err)
	}
	return "swtpm:path=" + path
}

// extendTo extends the TPM with what the image measures and the words of a
// phase, and returns the events.
func extendTo(t *testing.T, sw *tpmtest.SWTPM, image string, phase measure.Phase) []measure.Event {
	t.Helper()
	stdout, _ := predictRun(t, "--json", "--bank=sha1", "--bank=sha256", "--bank=sha384", "--bank=sha512", image)
	var p predictionJSON
	if err := json.Unmarshal([]byte(stdout), &p); err != nil {
		t.Fatal(err)
	}
	for _, w := range phase.Words() {
		ev := measure.Event{PCR: 11, Digests: map[measure.Bank]measure.Digest{}}
		for _, b := range measure.Banks() {
			ev.Digests[b] = b.Sum([]byte(w))
		}
		p.Events = append(p.Events, ev)
	}
	dev, err := tpm.Open(sw.Device(), tpm.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	for _, ev := range p.Events {
		if err := dev.Extend(ev); err != nil {
			t.Fatal(err)
		}
	}
	return p.Events
}

// TestOutputPCRLock: systemd-pcrlock lock-uki writes the same but for PCR 4,
// which the firmware extends, lock-raw the same for a command line, and systemd
// ships the same for the words.
func TestOutputPCRLock(t *testing.T) {
	t.Parallel()
	stdout, stderr := predictRun(t, "--output=pcrlock", plainUKI)
	uki := golden(t, "testdata/output/lock-uki.pcrlock")
	_, rest, _ := strings.Cut(uki, `{"pcr":11,`)
	if want := `{"records":[{"pcr":11,` + rest; stdout != want || stderr != "" {
		t.Errorf("%s%s\nlock-uki has\n%s", stdout, stderr, want)
	}
	stdout, _ = predictRun(t, "--output=pcrlock", "--pcr=12", "--secure-boot=no", "--cmdline=x", plainUKI)
	if want := golden(t, "testdata/output/lock-raw.pcrlock"); stdout != want {
		t.Errorf("%s\nlock-raw has\n%s", stdout, want)
	}
	if stdout, _ = predictRun(t, "--output=pcrlock", "--pcr=13", plainUKI); stdout != "{\"records\":[]}\n" {
		t.Errorf("PCR 13: %s", stdout)
	}

	dir := filepath.Join(t.TempDir(), "pcrlock.d")
	predictRun(t, "--output=pcrlock", "--output-dir="+dir, "--phase="+lastPhase, "--phase=enter-initrd", plainUKI)
	for _, path := range filesBelow(t, "testdata/output/pcrlock.d") {
		if got, want := golden(t, dir, path), golden(t, "testdata/output/pcrlock.d", path); got != want {
			t.Errorf("%s: %s\nsystemd has\n%s", path, got, want)
		}
	}
	if got := filesBelow(t, dir); len(got) != 7 || got[0] != "650-kernel.pcrlock.d/uki.efi.pcrlock" {
		t.Errorf("files %q", got)
	}
}

// TestOutputPCRLockPredict: what systemd-pcrlock predict makes of the components
// of lock-uki and of systemd is what predict says.
func TestOutputPCRLockPredict(t *testing.T) {
	t.Parallel()
	var want map[measure.Bank][]struct {
		PCR    measure.PCR
		Values []measure.Digest
	}
	if err := json.Unmarshal([]byte(golden(t, "testdata/output/pcrlock-predict.json")), &want); err != nil || len(want) != 4 {
		t.Fatal(err, want)
	}
	args := []string{"--json", plainUKI, "--phase=:"}
	for i := range measure.Phase(lastPhase).Words() {
		args = append(args, "--phase="+strings.Join(measure.Phase(lastPhase).Words()[:i+1], ":"))
	}
	for _, b := range measure.Banks() {
		args = append(args, "--bank="+b.String())
	}
	stdout, _ := predictRun(t, args...)
	var p predictionJSON
	if err := json.Unmarshal([]byte(stdout), &p); err != nil {
		t.Fatal(err)
	}
	for b, pcrs := range want {
		values := pcrs[0].Values[1:] // the first is that before the image
		if len(values) != len(p.Phases) || pcrs[0].PCR != 11 {
			t.Fatalf("%v: %d values, %d phases", b, len(values), len(p.Phases))
		}
		for i, phase := range p.Phases {
			if got := phase.PCRs[b][11]; !bytes.Equal(got, values[i]) {
				t.Errorf("%v %q: %v, systemd-pcrlock has %v", b, phase.Phase, got, values[i])
			}
		}
	}
}

// TestOutputPCRLockLive gives the components to systemd-pcrlock: before the
// image is measured, as golden has it, and after, when it has to recognise them
// in the log.
func TestOutputPCRLockLive(t *testing.T) {
	root := tpmtest.Systemd262(t)
	dir, inside := tempDirIn(t, root)
	t.Setenv("TMPDIR", dir) // for the socket of swtpm
	sw := tpmtest.Start(t)
	device := strings.Replace(toolDevice(t, sw), root, "", 1)
	components := filepath.Join(dir, "pcrlock.d")
	predictRun(t, "--output=pcrlock", "--output-dir="+components, "--phase="+lastPhase, "--secure-boot=no", "--cmdline=x", plainUKI)

	pcrlock := func(args ...string) (stdout, stderr string) {
		t.Helper()
		env := []string{"SYSTEMD_TPM2_DEVICE=" + device, "SYSTEMD_MEASURE_LOG_FIRMWARE=/dev/null", "SYSTEMD_FORCE_MEASURE=1",
			"SYSTEMD_MEASURE_LOG_USERSPACE=" + inside + "/log"}
		argv := append([]string{"/usr/lib/systemd/systemd-pcrlock", "--no-pager", "--json=short", "--components=" + inside + "/pcrlock.d"}, args...)
		stdout, stderr, err := command(t, root, env, argv...)
		if err != nil {
			t.Fatalf("systemd-pcrlock %q: %v: %s", args, err, stderr)
		}
		return stdout, stderr
	}

	list, stderr := pcrlock("list-components")
	var ids []struct{ ID string }
	if err := json.Unmarshal([]byte(list), &ids); err != nil || len(ids) != 7 || ids[0].ID != "650-kernel" {
		t.Errorf("list-components: %s%s, %v", list, stderr, err)
	}
	got, stderr := pcrlock("predict", "--pcr=11", "--location=640-:995-")
	if want := golden(t, "testdata/output/pcrlock-predict.json"); got != want {
		t.Errorf("predict: %s%s\nwith the component of lock-uki\n%s", got, stderr, want)
	}

	var log bytes.Buffer
	for _, ev := range extendTo(t, sw, plainUKI, "enter-initrd") {
		line, err := json.Marshal(newPCRLockRecord(ev.PCR, ev.Digests))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&log, "\x1e%s\n", line)
	}
	if err := os.WriteFile(filepath.Join(dir, "log"), log.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	// predicted without a command line of its own, as it was measured
	predictRun(t, "--output=pcrlock", "--output-dir="+components, plainUKI)
	got, stderr = pcrlock("predict", "--pcr=11", "--pcr=12")
	if !strings.Contains(stderr, "PCRs in protection mask: 11 (kernel-boot), 12 (kernel-config)") || strings.Contains(stderr, "650-kernel") {
		t.Errorf("predict does not recognise the image: %s%s", got, stderr)
	}
	// another image in its place is not recognised, and beside it does no harm
	variant := filepath.Join(components, "650-kernel.pcrlock.d/uki.efi.pcrlock")
	data := []byte(golden(t, variant))
	data[bytes.Index(data, []byte(`sha256","digest":"`))+len(`sha256","digest":"`)] ^= 1
	if err := os.WriteFile(variant, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, stderr = pcrlock("predict", "--pcr=11"); !strings.Contains(stderr, "Couldn't find component '650-kernel' in event log") || got != "{}\n" {
		t.Errorf("predict recognises another image: %s%s", got, stderr)
	}
	predictRun(t, "--output=pcrlock", "--output-dir="+components, "--linux="+strings.Replace(plainUKI, "uki.efi", "eventlog.bin", 1), "--cmdline=")
	variant = filepath.Join(filepath.Dir(variant), "eventlog.bin.pcrlock")
	if err := os.Rename(variant, filepath.Join(filepath.Dir(variant), "other.pcrlock")); err != nil {
		t.Fatal(err)
	}
	predictRun(t, "--output=pcrlock", "--output-dir="+components, plainUKI)
	if got, stderr = pcrlock("predict", "--pcr=11"); !strings.Contains(stderr, "2 combinations of components") || strings.Contains(stderr, "650-kernel") {
		t.Errorf("predict does not recognise one variant of two: %s%s", got, stderr)
	}
}

// filesBelow returns the files below a directory, hidden ones too.
func filesBelow(t *testing.T, dir string) (files []string) {
	t.Helper()
	err := fs.WalkDir(os.DirFS(dir), ".", func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestWriteFiles(t *testing.T) {
	t.Parallel()
	files := []file{{"a", []byte("new a")}, {"sub/b", []byte("new b")}, {"c", []byte("new c")}}
	for name, test := range map[string]struct {
		spoil func(dir string) error
		want  string
	}{
		"nothing":     {func(string) error { return nil }, ""},
		"a directory": {func(dir string) error { return os.Mkdir(dir+"/c", 0o700) }, "/c: not a regular file"},
		"a mask":      {func(dir string) error { return os.Symlink("/dev/null", dir+"/c") }, "/c: not a regular file"},
		"not a directory": {func(dir string) error {
			return os.WriteFile(dir+"/sub", nil, 0o600)
		}, "/sub: not a directory"},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(dir+"/a", []byte("old a"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := test.spoil(dir); err != nil {
			t.Fatal(err)
		}
		before := filesBelow(t, dir)
		err := writeFiles(dir, files)
		if test.want == "" {
			if err != nil || golden(t, dir, "a") != "new a" || golden(t, dir, "sub/b") != "new b" || golden(t, dir, "c") != "new c" {
				t.Errorf("%s: %v", name, err)
			}
			if got := filesBelow(t, dir); len(got) != 3 {
				t.Errorf("%s: files %q", name, got)
			}
			if info, err := os.Stat(dir + "/a"); err != nil || info.Mode() != 0o644 {
				t.Errorf("%s: %v, %v", name, info.Mode(), err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want %s", name, err, test.want)
		}
		if after := filesBelow(t, dir); !slices.Equal(after, before) || golden(t, dir, "a") != "old a" {
			t.Errorf("%s: files %q, were %q", name, after, before)
		}
	}
}

func TestPhaseComponents(t *testing.T) {
	t.Parallel()
	for _, phases := range [][]measure.Phase{{""}, {"enter-initrd", ""}, {"enter-initrd:leave-initrd", "enter-initrd"}, {"enter-initrd:final"}, {lastPhase}} {
		names, err := phaseComponents(phases)
		longest := slices.MaxFunc(phases, func(a, b measure.Phase) int { return len(a) - len(b) })
		if err != nil || len(names) != len(longest.Words()) || !slices.IsSorted(names) {
			t.Errorf("%q: %q, %v", phases, names, err)
		}
	}
	for want, phases := range map[string][]measure.Phase{
		`phase path "sysinit": not on the way to "enter-initrd", and pcrlock has one way only`:            {"sysinit", "enter-initrd"},
		`phase path "enter-initrd": not on the way to "leave-initrd:ready", and pcrlock has one way only`: {"leave-initrd:ready", "enter-initrd"},
		`phase path "ready:sysinit": pcrlock has no sysinit, or not at this place`:                        {"ready:sysinit"},
		`phase path "ready:ready": pcrlock has no ready, or not at this place`:                            {"ready:ready", "ready"},
		`phase path "factory-reset": pcrlock has no factory-reset, or not at this place`:                  {"factory-reset"},
	} {
		if names, err := phaseComponents(phases); err == nil || err.Error() != want {
			t.Errorf("%q: %q, %v\nwant %s", phases, names, err, want)
		}
	}
}
