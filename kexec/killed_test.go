package kexec

// What holds if the process is killed (kill -9) at any step. The steps of the kernel
// and of the TPM end in a panic here, at the end of which nothing of this package
// does more than close files; those of the file system are killed for real, by
// strace. It is not proved that a kernel or a TPM that dies in the middle of a call
// has done all of it or nothing.

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/tpm/tpmtest"
)

// A life is how many steps a process takes until it is killed.
type life struct{ left int }

type killed struct{}

func (l *life) step() {
	if l.left--; l.left < 0 {
		panic(killed{})
	}
}

// spend runs do, and tells whether it was killed.
func (l *life) spend(t testing.TB, do func() error) (dead bool) {
	t.Helper()
	defer func() {
		if r := recover(); r != nil {
			if _, dead = r.(killed); !dead {
				panic(r)
			}
		}
	}()
	if err := do(); err != nil {
		t.Error(err)
	}
	return false
}

// A mortal is a Device each call of which is a step before it and one after it.
type mortal struct {
	Device
	life *life
}

func (m *mortal) Read(pcrs ...measure.PCR) (measure.PCRs, error) {
	m.life.step()
	defer m.life.step()
	return m.Device.Read(pcrs...)
}

func (m *mortal) Extend(ev measure.Event) error {
	m.life.step()
	defer m.life.step()
	return m.Device.Extend(ev)
}

// checkHonest checks that what is loaded is nothing, or the placeholder, or the
// whole image on a TPM that holds all that was predicted.
func (r *rig) checkHonest(t testing.TB, initrd []byte) {
	t.Helper()
	k := r.kernel
	if !k.loaded {
		return
	}
	if strings.HasPrefix(k.cmdline, placeholderCmdline) {
		r.checkPlaceholder(t)
		return
	}
	if string(k.linux) != string(testKernel(t, 5001)) || string(k.initrd) != string(initrd) || k.cmdline != r.plan.Boot.Cmdline {
		t.Errorf("what is loaded is not the image: command line %q", k.cmdline)
	}
	r.checkTPM(t, len(r.plan.Prediction.Events))
}

// TestCarryOutKilled kills CarryOut at each step, and then runs it again, as the
// hook would after a commit by hand that was killed.
func TestCarryOutKilled(t *testing.T) {
	for _, words := range deferOptions().Shutdowns {
		for n, alive := 0, false; !alive; n++ {
			t.Run(fmt.Sprintf("%s/%d", words, n), func(t *testing.T) {
				r := newDeferredRig(t)
				r.shutDown(words)
				initrd := concat(t, r.plan.Boot.Initrd)
				logged := slices.Concat(initrd, make([]byte, -len(initrd)&3), concat(t, logArchive([]byte(logText))))
				l := &life{n}
				r.kernel.before = l.step
				dead := l.spend(t, func() error {
					return r.deferred.CarryOut(&mortal{r.device, l}, r.kernel, &fakeLog{text: logText, before: l.step})
				})
				r.kernel.before = nil
				r.checkHonest(t, logged)

				before := r.fake.PCRs()
				to, err := r.deferred.after(words)
				if err != nil {
					t.Fatal(err)
				}
				untouched := differences(r.base, before) == nil
				whole := differences(to.to, before.Only(measure.StubPCRs()...)) == nil
				frozen := r.kernel.frozen
				if !dead {
					alive = true
					if !whole || !frozen || !r.kernel.loaded {
						t.Errorf("all done: extended %v, frozen %v, loaded %v", whole, frozen, r.kernel.loaded)
					}
				}
				if err := r.deferred.CarriedOut(r.device); (err == nil) != whole {
					t.Errorf("carried out: %v", err)
				}

				err = readDeferred(t, r.dir).CarryOut(r.device, r.kernel, nil)
				switch {
				case untouched: // as if nothing had been
					checkError(t, err, false, "<nil>")
					r.checkHonest(t, initrd)
				case frozen: // it is what was measured
					checkError(t, err, false, ErrStillLoaded.Error()+": frozen")
					r.checkHonest(t, logged)
				default:
					checkHalfDone(t, err)
					checkPCRs(t, before, r.fake.PCRs())
					r.checkStopped(t, -1)
				}
			})
			if n > 100 {
				t.Fatal("it never ends")
			}
		}
	}
}

// TestLoadKilled kills the loading of a plan at each call of the kernel: nothing
// is ever loaded that starts the image.
func TestLoadKilled(t *testing.T) {
	for n, alive := 0, false; !alive; n++ {
		r := newRigOf(t, Source{UKI: measure.Bytes(planImage(t))}, deferOptions())
		dir := filepath.Join(t.TempDir(), "mkexec")
		u := r.deferTo(t, dir)
		l := &life{n}
		r.kernel.before = l.step
		alive = !l.spend(t, r.plan.Load)
		if n > 10 {
			t.Fatal("it never ends")
		}
		r.kernel.before = nil
		if r.kernel.loaded {
			r.checkPlaceholder(t)
		} else if n > 1 {
			t.Errorf("killed at %d: nothing is loaded", n)
		}
		r.checkTPM(t, 0)
		if alive {
			if err := u.Keep(); err != nil {
				t.Error(err)
			}
		}
		// the plan is there, whole, and the hook drops what is loaded
		r.shutDown("")
		if err := readDeferred(t, dir).CarryOut(r.device, r.kernel, nil); err != nil {
			t.Error(err)
		}
		r.checkHonest(t, concat(t, r.plan.Boot.Initrd))
	}
}

// TestDeferChild is not a test: it is the process that TestDeferKilled kills. It
// replaces a plan by another.
func TestDeferChild(t *testing.T) {
	dir := os.Getenv("MKEXEC_TEST_DEFER")
	if dir == "" {
		return
	}
	runtime.LockOSThread() // strace counts the calls of each thread
	r := otherRig(t)
	if err := r.plan.Check(AcceptAnything{}); err != nil {
		t.Fatal(err)
	}
	u, err := r.plan.Defer(dir, about)
	if err == nil && os.Getenv("MKEXEC_TEST_THEN") == "undo" {
		err = u.Undo()
	} else if err == nil {
		err = u.Keep()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		os.Exit(3)
	}
}

// fileSteps are the system calls by which Defer, Keep and Undo change files.
var fileSteps = []string{"mkdirat", "write", "fsync", "linkat", "renameat", "unlinkat"}

// What child returns if the child was killed, or there are fewer calls.
const (
	wasKilled = -1
	noCall    = -2
)

// child runs TestDeferChild under strace, which does something at the n-th call of
// a kind. It returns the exit status, wasKilled or noCall, and what the child says.
func child(t *testing.T, dir, then, call, what string, n int) (int, string) {
	t.Helper()
	trace := filepath.Join(t.TempDir(), "trace")
	cmd := exec.Command("strace", "-f", "-o", trace, "-e", "trace="+call, "-e", fmt.Sprintf("inject=%s:%s:when=%d", call, what, n),
		os.Args[0], "-test.run=^TestDeferChild$")
	cmd.Env = append(os.Environ(), "MKEXEC_TEST_DEFER="+dir, "MKEXEC_TEST_THEN="+then, "TMPDIR="+t.TempDir())
	var said strings.Builder
	cmd.Stderr = &said
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(trace); err != nil {
		t.Fatalf("%v; %s", err, said.String())
	} else if strings.Contains(string(b), "+++ killed by SIGKILL +++") {
		return wasKilled, said.String()
	} else if !strings.Contains(string(b), "(INJECTED)") {
		return noCall, said.String()
	}
	return cmd.ProcessState.ExitCode(), said.String()
}

// checkEither checks that the plan in a directory is one of two, or none if there
// was none, and whole; and that the next Defer leaves nothing else.
func checkEither(t *testing.T, dir string, before bool) {
	t.Helper()
	d, err := ReadDeferred(dir)
	switch {
	case errors.Is(err, ErrNoPlan) && !before:
	case err != nil:
		t.Error(err)
	default:
		if err := d.Check(&table{pcrs: d.Live}); err != nil {
			t.Errorf("the plan is not whole: %v", err)
		}
	}
	if err := otherRig(t).deferTo(t, dir).Keep(); err != nil {
		t.Error(err)
	}
	if files := readTree(t, dir); len(files) != 3 {
		t.Errorf("files %v", slices.Sorted(keys(files)))
	}
}

// TestDeferKilled kills a process, for real, before each system call by which it
// changes files, while it replaces a plan.
func TestDeferKilled(t *testing.T) {
	whole := func(t *testing.T, dir string, before bool, _ tree, _ int, _ string) { checkEither(t, dir, before) }
	forFileSteps(t, fileSteps, "keep", "signal=SIGKILL", whole)
	forFileSteps(t, []string{"renameat", "unlinkat"}, "undo", "signal=SIGKILL", whole)
}

// TestDeferCallFails lets each of these calls fail once.
func TestDeferCallFails(t *testing.T) {
	forFileSteps(t, fileSteps, "keep", "error=EDQUOT", func(t *testing.T, dir string, before bool, first tree, status int, said string) {
		// where a stray cannot be removed, it is said, and the next one removes it
		if status == 3 && !strings.Contains(said, "remove ") {
			if !strings.Contains(said, "disk quota exceeded") {
				t.Error(said)
			}
			got := readTree(t, dir)
			if files := strings.Join(slices.Sorted(keys(got)), " "); files != strings.Join(slices.Sorted(keys(first)), " ") || got["plan.json"] != first["plan.json"] {
				t.Errorf("files %s; said: %s", files, said)
			}
		}
		checkEither(t, dir, before)
	})
}

// forFileSteps runs the child for each call of each kind until there are no more.
func forFileSteps(t *testing.T, calls []string, then, what string, check func(t *testing.T, dir string, before bool, first tree, status int, said string)) {
	tpmtest.Require(t, "strace")
	for _, call := range calls {
		for _, before := range []bool{true, false} {
			for n, more := 1, true; more; n++ {
				name := fmt.Sprintf("%s %s/%d, a plan before %v", then, call, n, before)
				t.Run(name, func(t *testing.T) {
					dir, first := filepath.Join(t.TempDir(), "mkexec"), tree{}
					if before {
						if err := newRigOf(t, Source{UKI: measure.Bytes(planImage(t))}, deferOptions()).deferTo(t, dir).Keep(); err != nil {
							t.Fatal(err)
						}
						first = readTree(t, dir)
					}
					status, said := child(t, dir, then, call, what, n)
					if more = status != noCall; more {
						check(t, dir, before, first, status, said)
					}
				})
				if n > 60 {
					t.Fatalf("%s: it never ends", name)
				}
			}
		}
	}
}
