package kexec

// What the kernel holds between Load and CarryOut. That the kernel starts the
// placeholder's program, and that this restarts the machine, is not proved here:
// the VM tests in cmd/mkexec do that.

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mkexec/mkexec/measure"
)

// checkPlaceholder checks that what is loaded starts the program of the
// placeholder, and nothing of the image's initrd, by its command line.
func (r *rig) checkPlaceholder(t testing.TB) {
	t.Helper()
	k := r.kernel
	if strings.TrimRight(k.cmdline, " ") != "rdinit=/mkexec/restart panic=-1 quiet" {
		t.Errorf("command line %q", k.cmdline)
	}
	// what is last in an initrd is what counts
	if !strings.HasSuffix(string(k.initrd), string(concat(t, placeholderArchive(measure.Bytes(program))))) {
		t.Error("the placeholder is not the last in the initrd")
	}
}

func TestPlaceholder(t *testing.T) {
	for size := range 4 {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			opts := deferOptions()
			opts.Stub, opts.Log = Options{}.Stub, &fakeLog{text: logText}
			src := initrdImage(t, 3000+size)
			if size == 0 {
				src = initrdImage(t, 0)
			}
			r := newRigOf(t, src, opts)
			if err := r.plan.Check(AcceptAnything{}); err != nil {
				t.Fatal(err)
			}
			own := concat(t, r.plan.Boot.Initrd)
			loads := 0
			r.kernel.before = func() { // what is loaded by then
				if !r.kernel.loaded {
					return
				}
				loads++
				r.checkPlaceholder(t)
				if loads > 1 {
					return
				}
				// the image once, whole, with the log, and started by the placeholder
				if string(r.kernel.linux) != string(testKernel(t, 5001)) {
					t.Error("the kernel was not asked to take the kernel of the image")
				}
				archives := behind(t, own, r.kernel.initrd)
				if size > 0 {
					log := concat(t, logArchive([]byte(logText)))
					if !strings.HasPrefix(string(archives), string(log)) {
						t.Error("the log was not behind the initrd")
					}
				}
			}
			files := countFiles(t)
			if err := r.plan.Load(); err != nil {
				t.Fatal(err)
			}
			if n := countFiles(t); n != files {
				t.Errorf("%d files are open, %d were", n, files)
			}
			r.kernel.before = nil
			r.kernel.check(t, "load", "load", "loaded")
			r.checkPlaceholder(t)
			r.checkTPM(t, 0)

			if string(r.kernel.linux) != string(testKernel(t, 5001)) {
				t.Error("the placeholder's kernel is not that of the image")
			}
			dir := unpack(t, r.kernel.initrd)
			got, err := os.ReadFile(filepath.Join(dir, PlaceholderInit))
			if err != nil || string(got) != string(program) {
				t.Errorf("the program has %d bytes, not %d; %v", len(got), len(program), err)
			}
			if info, err := os.Stat(filepath.Join(dir, PlaceholderInit)); err != nil || info.Mode() != 0o755 {
				t.Errorf("%v, %v", info.Mode(), err)
			}
			entries, err := os.ReadDir(dir)
			if err != nil || len(entries) != 1 {
				t.Errorf("%v, %v", entries, err)
			}
			checkError(t, r.plan.Abandon(), false, "<nil>")
			r.kernel.check(t, "unload")
		})
	}
}

// TestTryCmdline: the kernel checks the length of a command line, so it is that of
// the image's.
func TestTryCmdline(t *testing.T) {
	for size := range 2048 {
		got := tryCmdline(strings.Repeat("x", size))
		if !strings.HasPrefix(got, placeholderCmdline) || len(got) != max(size, len(placeholderCmdline)) || strings.Trim(got[len(placeholderCmdline):], " ") != "" {
			t.Fatalf("%d: %q", size, got)
		}
	}
}

func TestPlaceholderFails(t *testing.T) {
	const still = "\nthe image is still loaded, and the next reboot may enter it unmeasured: no"
	refused := &LoadError{Call: callLoad, Errno: 12, Cause: "no memory"}
	for _, test := range []struct {
		name, want string
		breakIt    func(*rig)
		calls      string
		before     string // what is loaded afterwards: what was before; "" is nothing
	}{
		{"image", "kexec_file_load: no memory (ENOMEM)", func(r *rig) { r.kernel.fail["load 1"] = refused }, "load", "before"},
		{"placeholder", "placeholder: kexec_file_load: no memory (ENOMEM)", func(r *rig) { r.kernel.fail["load 2"] = refused }, "load load unload", ""},
		{"nothing is loaded", "load: the kernel says that nothing is loaded", func(r *rig) { r.kernel.deaf, r.kernel.loaded = true, false }, "load load loaded unload", ""},
		{"not known", "told to fail", func(r *rig) { r.kernel.fail["loaded"] = errFake }, "load load loaded unload", ""},
		{"unload, too", "placeholder: kexec_file_load: no memory (ENOMEM)" + still, func(r *rig) {
			r.kernel.fail["load 2"], r.kernel.fail["unload"] = refused, errors.New("no")
		}, "load load unload", "placeholder"},
		{"program is short", "behind the initrd: read at 1237: unexpected EOF", func(r *rig) { r.plan.placeholder = &longer{measure.Bytes(program)} }, "", "before"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRigOf(t, Source{UKI: measure.Bytes(planImage(t))}, deferOptions())
			r.kernel.loaded, r.kernel.cmdline = true, "before"
			if err := r.plan.Check(AcceptAnything{}); err != nil {
				t.Fatal(err)
			}
			test.breakIt(r)
			files := countFiles(t)
			err := r.plan.Load()
			checkError(t, err, false, test.want)
			if errors.Is(err, ErrStillLoaded) != strings.Contains(test.want, still) {
				t.Error(err)
			}
			var loadErr *LoadError
			if errors.As(err, &loadErr) != strings.Contains(test.want, "kexec_file_load") {
				t.Errorf("not a *LoadError: %v", err)
			}
			if n := countFiles(t); n != files {
				t.Errorf("%d files are open, %d were", n, files)
			}
			r.kernel.check(t, strings.Fields(test.calls)...)
			switch test.before {
			case "":
				if r.kernel.loaded {
					t.Error("something is still loaded")
				}
			case "before":
				if !r.kernel.loaded || r.kernel.cmdline != "before" {
					t.Errorf("what was loaded before is not any more: %v, %q", r.kernel.loaded, r.kernel.cmdline)
				}
			case "placeholder":
				r.checkPlaceholder(t)
			}
			r.checkTPM(t, 0)
		})
	}
}

// longer says that it has a byte more than it has.
type longer struct{ measure.Content }

func (l *longer) Size() int64 { return l.Content.Size() + 1 }
