package kexec

// The event log in the initrd of the next system: what is behind the image's own
// initrd, as the cpio of the machine unpacks it, and what the host's systemd-tmpfiles
// makes of it. That the unit runs before systemd's first record is not proved here:
// the VM tests in cmd/mkexec do that.

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/initrd"
	"github.com/mkexec/mkexec/measure/tpm/tpmtest"
	"github.com/mkexec/mkexec/measure/uki/ukitest"
)

const logText = "\x1e{\"pcr\":11,\"digests\":[]}\n\x1e{\"pcr\":12,\"digests\":[]}\n"

// initrdImage is an image whose initrd has so many bytes.
func initrdImage(t testing.TB, size int) Source {
	sections := []ukitest.Section{{Name: ".linux", Data: testKernel(t, 5001)}}
	if size > 0 {
		sections = append(sections, ukitest.Section{Name: ".initrd", Data: noise(size, 2)})
	}
	return Source{UKI: measure.Bytes(build(t, "262.1-1", sections...))}
}

// behind returns the archives behind an initrd, after checking that it is there
// whole, and that they begin at a multiple of 4 bytes.
func behind(t testing.TB, own, loaded []byte) []byte {
	t.Helper()
	aligned := slices.Concat(own, make([]byte, -len(own)&3))
	archives, ok := bytes.CutPrefix(loaded, aligned)
	if !ok {
		t.Fatalf("the initrd of %d bytes is not at the beginning of the %d that were loaded", len(own), len(loaded))
	}
	return archives
}

// unpack lets cpio unpack archives that are one behind the other, as the kernel
// does (Linux, Documentation/driver-api/early-userspace/buffer-format.rst).
func unpack(t testing.TB, archives []byte) (dir string) {
	t.Helper()
	tpmtest.Require(t, "cpio")
	dir = t.TempDir()
	for _, archive := range bytes.SplitAfter(archives, []byte("TRAILER!!!\x00\x00\x00\x00")) {
		if len(archive) == 0 {
			continue
		}
		if len(archive)%4 != 0 {
			t.Errorf("an archive of %d bytes", len(archive))
		}
		cmd := exec.Command("cpio", "--extract", "--make-directories", "--unconditional", "--quiet")
		cmd.Dir, cmd.Stdin = dir, bytes.NewReader(archive)
		if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
			t.Fatalf("cpio: %v: %s", err, out)
		}
	}
	return dir
}

// TestLogTravels: on both ways, by Load of a plan for now and by CarryOut, the log
// is behind the initrd, whatever its size, and is what is restored.
func TestLogTravels(t *testing.T) {
	for size := 3001; size <= 3004; size++ {
		for _, deferred := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d, deferred %v", size, deferred), func(t *testing.T) {
				log := &fakeLog{text: logText}
				opts := Options{Log: log}
				if deferred {
					opts.Shutdowns, opts.Placeholder = deferOptions().Shutdowns, deferOptions().Placeholder
				}
				r := newRigOf(t, initrdImage(t, size), opts)
				own := concat(t, r.plan.Boot.Initrd)
				if len(own) != size {
					t.Fatalf("the initrd has %d bytes", len(own))
				}
				files := 0
				if deferred {
					d := deferRig(t, r)
					if log.shutdown != "shutdown:final" {
						t.Errorf("the planned log has the words %q", log.shutdown)
					}
					d.shutDown("")
					files = countFiles(t)
					if err := d.deferred.CarryOut(d.device, d.kernel, log); err != nil {
						t.Fatal(err)
					}
				} else {
					files = countFiles(t)
					r.load(t)
				}
				if n := countFiles(t); n != files {
					t.Errorf("%d files are open, %d were", n, files)
				}
				if log.shutdown != "" || measure.FirstDifference(log.planned, r.plan.Prediction.Events) >= 0 {
					t.Errorf("the log has the words %q and %d events", log.shutdown, len(log.planned))
				}
				if !deferred {
					if err := r.plan.Commit(); err != nil {
						t.Fatal(err)
					}
				}
				if measure.FirstDifference(log.recorded, r.plan.Prediction.Events) >= 0 {
					t.Errorf("%d events were recorded", len(log.recorded))
				}
				if len(r.kernel.initrd)%4 != 0 {
					t.Errorf("the initrd ends at %d", len(r.kernel.initrd))
				}
				archives := behind(t, own, r.kernel.initrd)
				u, err := initrd.Inspect(measure.Bytes(archives))
				if err != nil || u.Systemd != "" {
					t.Errorf("%+v, %v", u, err)
				}
				checkRestores(t, unpack(t, archives))
			})
		}
	}
}

// checkRestores lets systemd-tmpfiles do in a directory what the unit there has it
// do in the initrd.
func checkRestores(t testing.TB, dir string) {
	t.Helper()
	modes := map[string]os.FileMode{
		".mkexec":                               os.ModeDir | 0o700,
		".mkexec/tpm2-measure.log":              0o600,
		".mkexec/tmpfiles.conf":                 0o600,
		"etc":                                   os.ModeDir | 0o755,
		"etc/systemd":                           os.ModeDir | 0o755,
		"etc/systemd/system":                    os.ModeDir | 0o755,
		"etc/systemd/system/mkexec-log.service": 0o644,
		"etc/systemd/system/sysinit.target.d":   os.ModeDir | 0o755,
		"etc/systemd/system/sysinit.target.d/mkexec-log.conf": 0o644,
	}
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path, dir+"/")
		if want, ok := modes[name]; !ok || info.Mode() != want {
			t.Errorf("%s: mode %v, want %v", name, info.Mode(), want)
		}
		delete(modes, name)
		return nil
	})
	if err != nil || len(modes) > 0 {
		t.Errorf("missing: %v, %v", modes, err)
	}
	unit, err := os.ReadFile(filepath.Join(dir, "etc/systemd/system/mkexec-log.service"))
	if err != nil {
		t.Fatal(err)
	}
	const command = "ExecStart=systemd-tmpfiles --create /.mkexec/tmpfiles.conf\n"
	if !strings.HasSuffix(string(unit), command) {
		t.Errorf("the unit: %s", unit)
	}
	tpmtest.Require(t, "systemd-tmpfiles")
	if err := os.Mkdir(filepath.Join(dir, "run"), 0o755); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("systemd-tmpfiles", "--root="+dir, "--create", filepath.Join(dir, ".mkexec/tmpfiles.conf")).CombinedOutput()
	if err != nil {
		t.Fatalf("systemd-tmpfiles: %v: %s", err, out)
	}
	restored := filepath.Join(dir, "run/log/systemd/tpm2-measure.log")
	got, err := os.ReadFile(restored)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != logText {
		t.Errorf("restored is %q", got)
	}
	if info, err := os.Stat(restored); err != nil || info.Mode() != 0o600 {
		t.Errorf("restored: %v, %v", info.Mode(), err)
	}
}

// TestNoLog: a log that there is not, and an image that cannot take one along.
func TestNoLog(t *testing.T) {
	for _, test := range []struct {
		name   string
		size   int
		text   string
		behind bool
	}{
		{"log and initrd", 3001, logText, true},
		{"no log", 3001, "", false},
		{"no initrd", 0, logText, false},
		{"neither", 0, "", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			opts := deferOptions()
			opts.Stub, opts.Log = planOptions.Stub, &fakeLog{text: test.text}
			opts.Stub.Profile = ""
			d := deferRig(t, newRigOf(t, initrdImage(t, test.size), opts))
			own := concat(t, d.plan.Boot.Initrd)
			d.shutDown("")
			if err := d.deferred.CarryOut(d.device, d.kernel, opts.Log); err != nil {
				t.Fatal(err)
			}
			if test.behind {
				behind(t, own, d.kernel.initrd)
			} else if string(d.kernel.initrd) != string(own) {
				t.Errorf("%d bytes are behind the initrd", len(d.kernel.initrd)-len(own))
			}
		})
	}
}

// TestLogFails: a log that cannot be read stops everything before it begins, and
// one that does not let an extend happen is as an extend that fails.
func TestLogFails(t *testing.T) {
	unreadable := &fakeLog{err: errors.New("no log")}
	for _, deferred := range []bool{false, true} {
		opts := planOptions
		if deferred {
			opts = deferOptions()
		}
		log := &fakeLog{}
		opts.Log = log
		r := newRigOf(t, Source{UKI: measure.Bytes(planImage(t))}, opts)
		if err := r.plan.Check(AcceptAnything{}); err != nil {
			t.Fatal(err)
		}
		log.err = unreadable.err
		files := countFiles(t)
		checkError(t, r.plan.Load(), false, "no log")
		if n := countFiles(t); n != files {
			t.Errorf("%d files are open, %d were", n, files)
		}
		r.kernel.check(t)
		r.checkTPM(t, 0)
		log.err = nil
		if err := r.plan.Load(); err != nil {
			t.Errorf("a second try: %v", err)
		}
	}

	d := newDeferredRig(t)
	d.shutDown("")
	files := countFiles(t)
	checkError(t, d.deferred.CarryOut(d.device, d.kernel, unreadable), false, "no log")
	if n := countFiles(t); n != files {
		t.Errorf("%d files are open, %d were", n, files)
	}
	d.kernel.check(t, "loaded", "unload", "loaded")
	d.checkStopped(t, 0)

	d = newDeferredRig(t)
	d.shutDown("")
	checkError(t, d.deferred.CarryOut(d.device, d.kernel, &fakeLog{deaf: true}), false,
		fmt.Sprintf("event 1 of %d (%s): told to fail (no PCR has changed)", len(d.deferred.Events), d.deferred.Events[0].Description))
	d.checkStopped(t, 0)

	if _, err := carry(bytes.NewReader([]byte("abc")), 4, nil); err == nil || err.Error() != "initrd: read at 3: unexpected EOF" {
		t.Errorf("an initrd that is short: %v", err)
	}
}
