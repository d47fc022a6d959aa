package main

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mkexec/mkexec/kexec"
	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/eventlog"
	"github.com/mkexec/mkexec/measure/tpm"
	"github.com/mkexec/mkexec/measure/tpm/tpmtest"
	"github.com/mkexec/mkexec/measure/uki/ukitest"
	"github.com/rogpeppe/go-internal/testscript"
)

// The scripts in testdata/script are what the command line promises. They do
// not load or start anything: mkexec runs with a kernel that only says what it
// was asked to do. The VM tests do the real thing.

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"mkexec":      func() { os.Exit(run(os.Args[1:], scriptSystem())) },
		"hook":        func() { os.Exit(runHook(os.Args[1:], scriptSystem())) },
		"placeholder": func() { os.Exit(runPlaceholder(scriptSystem())) },
	})
}

func scriptSystem() *system {
	dir := os.Getenv("KERNEL")
	return &system{
		stdout: os.Stdout, stderr: os.Stderr,
		root:   os.DirFS(os.Getenv("MACHINE")),
		kernel: scriptKernel{dir},
		lock:   func() (func(), error) { return kexec.Lock(filepath.Join(dir, "lock")) },
		systemctl: func(args ...string) (string, error) {
			out, err := exec.Command(filepath.Join(dir, "systemctl"), args...).Output()
			return string(out), err
		},
		program: func() (*os.File, error) { return os.Open(filepath.Join(dir, "program")) },
		planDir: filepath.Join(dir, "plan"),
		logPath: filepath.Join(os.Getenv("MACHINE"), "run/log/systemd/tpm2-measure.log"),
		logCopy: filepath.Join(dir, "copy"),
	}
}

// A scriptKernel writes what it is asked to do to a file, and can fail, or be
// interrupted. What is
// loaded lies in the files image, image-initrd and image-cmdline.
type scriptKernel struct{ dir string }

func (k scriptKernel) say(what string) error {
	f, err := os.OpenFile(filepath.Join(k.dir, "calls"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteString(what + "\n"); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(k.dir, "signal-"+what)); err == nil {
		if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
			return err
		}
		time.Sleep(100 * time.Millisecond) // until it has arrived
	}
	if _, err := os.Stat(filepath.Join(k.dir, "fail-"+what)); err == nil {
		return errors.New(what + " fails for the test")
	}
	return nil
}

func (k scriptKernel) Load(linux, initrd *os.File, cmdline string) error {
	if err := k.say("load"); err != nil {
		return err
	}
	for name, f := range map[string]*os.File{"image": linux, "image-initrd": initrd} {
		var data []byte
		if f != nil {
			var err error
			if data, err = io.ReadAll(io.NewSectionReader(f, 0, 1<<30)); err != nil {
				return err
			}
		}
		if err := os.WriteFile(filepath.Join(k.dir, name), data, 0o600); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(k.dir, "image-cmdline"), []byte(cmdline+"\n"), 0o600)
}

func (k scriptKernel) Loaded() (bool, error) {
	_, err := os.Stat(filepath.Join(k.dir, "image"))
	return err == nil, k.say("loaded")
}

func (k scriptKernel) Unload() error {
	if err := k.say("unload"); err != nil {
		return err
	}
	return os.Remove(filepath.Join(k.dir, "image"))
}

func (k scriptKernel) Freeze() error  { return k.say("freeze") }
func (k scriptKernel) Restart() error { return k.say("restart") }
func (k scriptKernel) Exec() error {
	if err := k.say("exec"); err != nil {
		return err
	}
	os.Exit(0) // as far as a test can go
	return nil
}

func TestScripts(t *testing.T) {
	runScripts(t, "testdata/script", nil)
}

// TestTPMScripts runs each script in testdata/tpm with a software TPM of its own.
func TestTPMScripts(t *testing.T) {
	scripts, err := filepath.Glob("testdata/tpm/*.txtar")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, script := range scripts {
		t.Run(strings.TrimSuffix(filepath.Base(script), ".txtar"), func(t *testing.T) {
			t.Parallel()
			sw := tpmtest.Start(t)
			dir := t.TempDir()
			data, err := os.ReadFile(script)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, filepath.Base(script)), data, 0o600); err != nil {
				t.Fatal(err)
			}
			runScripts(t, dir, sw)
		})
	}
}

func runScripts(t *testing.T, dir string, sw *tpmtest.SWTPM) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 dir,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			for name, dir := range map[string]string{
				"GOLDEN": "measure/stub/testdata/golden", "SECTIONS": "measure/stub/testdata/systemd-measure/sections", "HWID": "measure/hwid/testdata",
				"TRUST": "policy/trust/testdata/recorded", "LUKS": "policy/luks2/testdata/golden", "PCRSIG": "policy/pcrsig/testdata",
				"EVENTLOG": "measure/eventlog/testdata",
			} {
				e.Setenv(name, filepath.Join(root, dir))
			}
			e.Setenv("KERNEL", e.WorkDir)
			e.Setenv("MACHINE", filepath.Join(e.WorkDir, "machine"))
			if sw != nil {
				e.Setenv("TPM", sw.Device())
			}
			return os.MkdirAll(filepath.Join(e.WorkDir, "machine/sys/kernel"), 0o755)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"uki": scriptUKI, "bzimage": scriptBzImage, "flip": scriptFlip, "extend": scriptExtend, "replay": scriptReplay, "pcrs": scriptPCRs,
		},
	})
}

// scriptUKI builds a UKI: uki OUT VERSION NAME=FILE…
func scriptUKI(ts *testscript.TestScript, _ bool, args []string) {
	var sections []ukitest.Section
	for _, a := range args[2:] {
		name, file, _ := strings.Cut(a, "=")
		sections = append(sections, ukitest.Section{Name: name, Data: []byte(ts.ReadFile(file))})
	}
	image, err := ukitest.Build(ukitest.Minimal(args[1]), sections...)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), image, 0o600))
}

// scriptBzImage writes a file that looks like an x86 kernel: bzimage OUT
func scriptBzImage(ts *testscript.TestScript, _ bool, args []string) {
	b := make([]byte, 4096)
	b[0x1FE], b[0x1FF] = 0x55, 0xAA
	copy(b[0x202:], "HdrS")
	b[0x206], b[0x207] = 0x0F, 0x02 // protocol 2.15
	b[0x211] = 1                    // loaded high
	b[0x236] = 3                    // 64 bit, above 4 GiB
	b[0x238], b[0x239] = 0xFF, 0x07 // cmdline_size 2047
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b, 0o600))
}

// scriptFlip changes one bit of a file: flip FILE WORD, in the first letter of
// the last place where WORD stands
func scriptFlip(ts *testscript.TestScript, _ bool, args []string) {
	data := []byte(ts.ReadFile(args[0]))
	i := strings.LastIndex(string(data), args[1])
	if i < 0 {
		ts.Fatalf("%s: no %q in it", args[0], args[1])
	}
	data[i] ^= 1
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), data, 0o600))
}

// scriptExtend extends PCR 11 of the TPM as somebody else would: extend WORD
func scriptExtend(ts *testscript.TestScript, _ bool, args []string) {
	dev, err := tpm.Open(ts.Getenv("TPM"), tpm.Options{})
	ts.Check(err)
	defer dev.Close()
	ev := measure.Event{PCR: 11, Digests: map[measure.Bank]measure.Digest{}}
	for _, b := range measure.Banks() {
		ev.Digests[b] = b.Sum([]byte(args[0]))
	}
	ts.Check(dev.Extend(ev))
}

// scriptReplay extends the TPM with the events of logs: replay FILE…, of firmware
// if it ends in .bin.
func scriptReplay(ts *testscript.TestScript, _ bool, args []string) {
	dev, err := tpm.Open(ts.Getenv("TPM"), tpm.Options{})
	ts.Check(err)
	defer dev.Close()
	var line eventlog.Timeline
	for _, path := range args {
		if strings.HasSuffix(path, ".bin") {
			line.Firmware, err = eventlog.ParseFirmware([]byte(ts.ReadFile(path)))
			ts.Check(err)
			continue
		}
		u, err := eventlog.ParseUserspace([]byte(ts.ReadFile(path)))
		ts.Check(err)
		line.Records = append(line.Records, u.Records...)
	}
	for _, s := range line.Steps() {
		if s.Event.PCR >= 0 {
			ts.Check(dev.Extend(s.Event))
		}
	}
}

// scriptPCRs compares the TPM with a prediction: pcrs zero, or pcrs FILE with
// the output of predict --json
func scriptPCRs(ts *testscript.TestScript, neg bool, args []string) {
	dev, err := tpm.Open(ts.Getenv("TPM"), tpm.Options{})
	ts.Check(err)
	defer dev.Close()
	got, err := dev.Read(measure.StubPCRs()...)
	ts.Check(err)
	want := measure.Zero(measure.Banks(), measure.StubPCRs()...)
	if args[0] != "zero" {
		var p predictionJSON
		ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &p))
		want = p.Phases[0].PCRs
	}
	diffs := append(measure.Compare(want, got), measure.Compare(got, want)...)
	if (len(diffs) > 0) != neg {
		ts.Fatalf("the TPM against %s: %v", args[0], diffs)
	}
}
