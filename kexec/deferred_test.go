package kexec

// A plan that waits in files: that it is replaced in one step or not at all, what
// of it is refused, and how it tells that it does not hold any more. The files are
// on the file systems of the machine that runs the tests, and on a small tmpfs; that
// nobody else gets into /run/mkexec of a real machine is not proved.

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/stub"
	"github.com/mkexec/mkexec/measure/uki/ukitest"
	"golang.org/x/sys/unix"
)

// program passes for the static program of the placeholder.
var program = noise(1237, 40)

// deferOptions make a plan for after a shutdown, with or without jobs to stop.
func deferOptions() Options {
	opts := planOptions
	opts.Shutdowns = []measure.Phase{"shutdown:final", ""}
	opts.Placeholder = measure.Bytes(program)
	return opts
}

// A deferredRig is a rig whose plan waits in a directory, with its placeholder loaded.
type deferredRig struct {
	*rig
	dir      string
	deferred *Deferred
}

func newDeferredRig(t testing.TB, banks ...measure.Bank) *deferredRig {
	t.Helper()
	return deferRig(t, newRigOf(t, Source{UKI: measure.Bytes(planImage(t))}, deferOptions(), banks...))
}

func deferRig(t testing.TB, r *rig) *deferredRig {
	t.Helper()
	d := &deferredRig{rig: r, dir: filepath.Join(t.TempDir(), "mkexec")}
	u := d.deferTo(t, d.dir)
	if err := r.plan.Load(); err != nil {
		t.Fatal(err)
	}
	if err := u.Keep(); err != nil {
		t.Fatal(err)
	}
	r.kernel.calls = nil
	d.deferred = readDeferred(t, d.dir)
	return d
}

// about is what a plan to defer does not know of itself.
var about = Deferred{
	Time: time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC), BootID: "1d3f4c5e-0001-4002-8003-a0b0c0d0e0f0", TPM: "/dev/tpmrm0", Image: "/efi/EFI/Linux/é \x01<new>.efi",
}

// deferTo checks the plan and writes it.
func (r *rig) deferTo(t testing.TB, dir string) *Deferral {
	t.Helper()
	if err := r.plan.Check(AcceptAnything{}); err != nil {
		t.Fatal(err)
	}
	u, err := r.plan.Defer(dir, about)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func readDeferred(t testing.TB, dir string) *Deferred {
	t.Helper()
	d, err := ReadDeferred(dir)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// shutDown extends PCR 11 as a shutdown does; checkTPM counts from there.
func (r *rig) shutDown(words measure.Phase) {
	for _, w := range words.Words() {
		r.fake.ExtendAs(measure.WordEvent(measure.PCRKernelImage, w, measure.Banks()))
	}
	r.base, r.words = r.fake.PCRs(), words
}

// A tree is the files of a directory: their contents, by name.
type tree map[string]string

func readTree(t testing.TB, dir string) tree {
	t.Helper()
	files := tree{}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		files[e.Name()] = string(b)
	}
	return files
}

func checkTree(t testing.TB, dir string, want tree) {
	t.Helper()
	if got := readTree(t, dir); !reflect.DeepEqual(got, want) {
		t.Errorf("files:\n got %v\nwant %v", slices.Sorted(keys(got)), slices.Sorted(keys(want)))
	}
}

func keys(files tree) func(func(string) bool) {
	return func(yield func(string) bool) {
		for name := range files {
			if !yield(name) {
				return
			}
		}
	}
}

// otherRig is a rig with another image, with the same kernel.
func otherRig(t testing.TB) *rig {
	image := build(t, "262.1-1",
		ukitest.Section{Name: ".linux", Data: testKernel(t, 5001)},
		ukitest.Section{Name: ".initrd", Data: noise(4001, 7)})
	opts := deferOptions()
	opts.Stub = stub.Options{}
	return newRigOf(t, Source{UKI: measure.Bytes(image)}, opts)
}

func TestDefer(t *testing.T) {
	for _, banks := range [][]measure.Bank{measure.Banks(), {measure.SHA1}, {measure.SHA256}} {
		t.Run(measure.BankNames(banks), func(t *testing.T) {
			r := newDeferredRig(t, banks...)
			linux, initrd := testKernel(t, 5001), concat(t, r.plan.Boot.Initrd)
			name := func(b []byte) string { return measure.SHA256.Sum(b).String() }
			files := readTree(t, r.dir)
			checkTree(t, r.dir, tree{"plan.json": files["plan.json"], name(linux): string(linux), name(initrd): string(initrd)})
			for _, path := range []string{r.dir, filepath.Join(r.dir, "plan.json")} {
				if info, err := os.Stat(path); err != nil || info.Mode().Perm()&0o077 != 0 {
					t.Errorf("%s: %v, %v", path, info.Mode(), err)
				}
			}

			d := r.deferred
			if d.Version != 1 || !d.Time.Equal(about.Time) || d.BootID != about.BootID || d.Image != about.Image || d.TPM != about.TPM {
				t.Errorf("%+v", d)
			}
			if want := name(planImage(t)); d.ImageSHA256.String() != want {
				t.Errorf("image %s, want %s", d.ImageSHA256, want)
			}
			if d.Cmdline != "of the profile" || !slices.Equal(d.Shutdowns, deferOptions().Shutdowns) {
				t.Errorf("command line %q, shutdowns %q", d.Cmdline, d.Shutdowns)
			}
			checkPCRs(t, r.base.Only(measure.StubPCRs()...), d.Live)
			if i := measure.FirstDifference(r.plan.Prediction.Events, d.Events); i >= 0 {
				t.Errorf("event %d differs", i)
			}
			p, err := d.Prediction()
			if err != nil {
				t.Fatal(err)
			}
			want, _ := r.plan.Prediction.At("enter-initrd")
			got, err := p.At("enter-initrd")
			if err != nil {
				t.Fatal(err)
			}
			checkPCRs(t, want, got)
			if err := d.Check(r.device); err != nil {
				t.Error(err)
			}
			r.checkTPM(t, 0)

			if err := RemoveDeferred(r.dir); err != nil {
				t.Error(err)
			}
			if _, err := os.Lstat(r.dir); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the directory is still there: %v", err)
			}
			if err := RemoveDeferred(r.dir); err != nil {
				t.Errorf("a second time: %v", err)
			}
		})
	}
}

// TestDeferBare: an image without an initrd, and with a command line of odd letters.
func TestDeferBare(t *testing.T) {
	const cmdline = "a=\"\u2028<&>\\\" é\ufffdb"
	r := deferRig(t, newRigOf(t, Source{Linux: measure.Bytes(testKernel(t, 5001)), Cmdline: cmdline}, deferOptions()))
	if r.deferred.Initrd != nil || r.deferred.Cmdline != r.plan.Boot.Cmdline {
		t.Errorf("initrd %v, command line %q, not %q", r.deferred.Initrd, r.deferred.Cmdline, r.plan.Boot.Cmdline)
	}
	r.shutDown("")
	if err := r.deferred.CarryOut(r.device, r.kernel, &fakeLog{text: "a log"}); err != nil {
		t.Fatal(err)
	}
	if r.kernel.initrd != nil || r.kernel.cmdline != r.plan.Boot.Cmdline {
		t.Errorf("loaded: initrd of %d bytes, command line %q", len(r.kernel.initrd), r.kernel.cmdline)
	}
}

func TestDeferOutOfTurn(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "mkexec")
	r := newRig(t)
	_, err := r.plan.Defer(dir, about)
	checkError(t, err, false, "defer: out of turn: the plan is planned, not checked")
	if err := r.plan.Check(AcceptAnything{}); err != nil {
		t.Fatal(err)
	}
	_, err = r.plan.Defer(dir, about)
	checkError(t, err, false, "defer: the plan is not for after a shutdown")
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("something was written: %v", err)
	}

	d := newDeferredRig(t)
	checkError(t, d.plan.Commit(), false, "commit: the plan is for after a shutdown")
	d.checkTPM(t, 0)
	_, err = d.plan.Defer(d.dir, about)
	checkError(t, err, false, "defer: out of turn: the plan is loaded, not checked")
}

// TestReplace replaces a plan by another that has the same kernel.
func TestReplace(t *testing.T) {
	for _, before := range []bool{true, false} {
		for _, keep := range []bool{true, false} {
			t.Run(fmt.Sprintf("before %v, keep %v", before, keep), func(t *testing.T) {
				dir := filepath.Join(t.TempDir(), "mkexec")
				if before {
					dir = newDeferredRig(t).dir
				}
				first := readTree(t, dir)
				u := otherRig(t).deferTo(t, dir)
				d := readDeferred(t, dir)
				if d.Initrd.Size != 4001 {
					t.Errorf("the plan is not the new one: %+v", d)
				}
				if keep {
					if err := u.Keep(); err != nil {
						t.Error(err)
					}
					files := readTree(t, dir)
					if len(files) != 3 || files[d.Kernel.name()] == "" || files[d.Initrd.name()] == "" {
						t.Errorf("files %v", slices.Sorted(keys(files)))
					}
					return
				}
				if err := u.Undo(); err != nil {
					t.Error(err)
				}
				checkTree(t, dir, first)
				if _, err := ReadDeferred(dir); before && err != nil || !before && !errors.Is(err, ErrNoPlan) {
					t.Error(err)
				}
			})
		}
	}
}

// TestDeferRefused: what may be where the plan is to be written.
func TestDeferRefused(t *testing.T) {
	for _, test := range []struct {
		name, want string
		make       func(dir string) error
	}{
		{"nothing", "<nil>", func(string) error { return nil }},
		{"empty directory", "<nil>", func(dir string) error { return os.Mkdir(dir, 0o700) }},
		{"strays", "<nil>", func(dir string) error {
			return errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(filepath.Join(dir, ".new-123"), []byte("x"), 0o600),
				os.WriteFile(filepath.Join(dir, ".previous.json"), []byte("x"), 0o600))
		}},
		{"garbage before", "<nil>", func(dir string) error {
			return errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(filepath.Join(dir, "plan.json"), []byte("x"), 0o600))
		}},
		{"others read it", "DIR: not a directory of this user's alone", func(dir string) error {
			return errors.Join(os.Mkdir(dir, 0o700), os.Chmod(dir, 0o710))
		}},
		{"others write to it", "DIR: not a directory of this user's alone", func(dir string) error {
			return errors.Join(os.Mkdir(dir, 0o700), os.Chmod(dir, 0o702))
		}},
		{"link", "DIR: not a directory of this user's alone", func(dir string) error {
			return errors.Join(os.Mkdir(dir+"x", 0o700), os.Symlink(dir+"x", dir))
		}},
		{"file", "DIR: not a directory of this user's alone", func(dir string) error { return os.WriteFile(dir, nil, 0o700) }},
		{"no parent", "mkdir DIR: no such file or directory", func(dir string) error { return os.Remove(filepath.Dir(dir)) }},
		{"somebody else's", "DIR: not a directory of this user's alone", func(dir string) error {
			return errors.Join(os.Mkdir(dir, 0o700), os.Chown(dir, 1, -1))
		}},
		{"plan.json is a directory", "link DIR/plan.json DIR/.previous.json: operation not permitted\nDIR/plan.json: not a regular file of this user's alone", func(dir string) error {
			return errors.Join(os.Mkdir(dir, 0o700), os.Mkdir(filepath.Join(dir, "plan.json"), 0o700))
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "run", "mkexec")
			if err := os.Mkdir(filepath.Dir(dir), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := test.make(dir); errors.Is(err, unix.EPERM) {
				return // only root gives files away
			} else if err != nil {
				t.Fatal(err)
			}
			r := otherRig(t)
			if err := r.plan.Check(AcceptAnything{}); err != nil {
				t.Fatal(err)
			}
			files := countFiles(t)
			u, err := r.plan.Defer(dir, about)
			checkError(t, err, false, strings.ReplaceAll(test.want, "DIR", dir))
			if n := countFiles(t); n != files {
				t.Errorf("%d files are open, %d were", n, files)
			}
			if err != nil {
				if u != nil {
					t.Error("a Deferral in spite of it")
				}
				return
			}
			if err := u.Keep(); err != nil {
				t.Error(err)
			}
			if n := len(readTree(t, dir)); n != 3 {
				t.Errorf("%d files", n)
			}
		})
	}
}

// TestDiskFull lets a tmpfs have room for so many pages, or so many files, until
// it is enough: before that, the plan that was there is whole, and nothing else is
// there. To undo takes no room.
func TestDiskFull(t *testing.T) {
	for _, unit := range []string{"pages", "files"} {
		for _, before := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, a plan before %v", unit, before), func(t *testing.T) {
				root := t.TempDir()
				mountTmpfs(t, root)
				dir := filepath.Join(root, "mkexec")
				for room := uint64(0); ; room++ {
					first := tree{}
					if err := os.RemoveAll(dir); err != nil {
						t.Fatal(err)
					}
					if before {
						if err := newRigOf(t, Source{UKI: measure.Bytes(planImage(t))}, deferOptions()).deferTo(t, dir).Keep(); err != nil {
							t.Fatal(err)
						}
						first = readTree(t, dir)
					}
					r := otherRig(t)
					if err := r.plan.Check(AcceptAnything{}); err != nil {
						t.Fatal(err)
					}
					leave(t, root, unit, room)
					u, err := r.plan.Defer(dir, about)
					if err != nil {
						if !errors.Is(err, unix.ENOSPC) || !strings.HasSuffix(err.Error(), "no space left on device") || strings.Contains(err.Error(), "\n") {
							t.Fatal(err)
						}
						checkTree(t, dir, first)
						continue
					}
					if room < 2 {
						t.Errorf("room for %d %s was enough", room, unit)
					}
					leave(t, root, unit, 0)
					if err := u.Undo(); err != nil {
						t.Error(err)
					}
					checkTree(t, dir, first)
					return
				}
			})
		}
	}
}

// mountTmpfs mounts a tmpfs that only the thread of this goroutine sees, and which
// ends with it.
func mountTmpfs(t *testing.T, dir string) {
	t.Helper()
	runtime.LockOSThread() // for good: the thread is thrown away
	err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS)
	if err == nil {
		err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	}
	if err == nil {
		err = unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m,nr_inodes=100")
	}
	if errors.Is(err, unix.EPERM) {
		if slices.Contains(strings.Split(os.Getenv("MKEXEC_REQUIRE"), ","), "mount") {
			t.Fatal("not allowed to mount, but MKEXEC_REQUIRE has mount")
		}
		t.Skip("not allowed to mount")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
}

// leave fills a tmpfs until so many units are left.
func leave(t *testing.T, root, unit string, room uint64) {
	t.Helper()
	ballast := filepath.Join(root, "ballast")
	if err := os.RemoveAll(ballast); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(ballast, 0o700); err != nil {
		t.Fatal(err)
	}
	free := func() uint64 {
		var st unix.Statfs_t
		if err := unix.Statfs(root, &st); err != nil {
			t.Fatal(err)
		}
		if unit == "files" {
			return st.Ffree
		}
		return st.Bfree
	}
	page := make([]byte, 0)
	if unit == "pages" {
		page = make([]byte, os.Getpagesize())
	}
	f, err := os.Create(filepath.Join(ballast, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for i := 1; free() > room; i++ {
		if unit == "files" {
			err = os.WriteFile(filepath.Join(ballast, fmt.Sprint(i)), page, 0o600)
		} else {
			_, err = f.Write(page)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if got := free(); got != room {
		t.Fatalf("%d %s are left, not %d", got, unit, room)
	}
}

// TestReadDeferredRefuses: what others could have made, or what is no plan.
func TestReadDeferredRefuses(t *testing.T) {
	good := readTree(t, newDeferredRig(t).dir)["plan.json"]
	put := func(text string, mode fs.FileMode) func(string) error {
		return func(name string) error {
			return errors.Join(os.WriteFile(name, []byte(text), 0o600), os.Chmod(name, mode))
		}
	}
	dir := func(mode fs.FileMode) func(string) error {
		return func(name string) error {
			return errors.Join(os.WriteFile(name, []byte(good), 0o600), os.Chmod(filepath.Dir(name), mode))
		}
	}
	for _, test := range []struct {
		name, want string
		make       func(name string) error
	}{
		{"good", "<nil>", put(good, 0o600)},
		{"read-only", "<nil>", put(good, 0o400)},
		{"nothing", "DIR: no plan is staged", func(string) error { return nil }},
		{"no directory", "DIR: no plan is staged", func(name string) error { return os.Remove(filepath.Dir(name)) }},
		{"directory is a file", "open DIR/plan.json: not a directory", func(name string) error {
			return errors.Join(os.Remove(filepath.Dir(name)), os.WriteFile(filepath.Dir(name), nil, 0o700))
		}},
		{"directory is a link", "DIR: not a directory of this user's alone", func(name string) error {
			d := filepath.Dir(name)
			return errors.Join(os.Rename(d, d+"x"), os.Symlink(d+"x", d), os.WriteFile(name, []byte(good), 0o600))
		}},
		{"others enter", "DIR: not a directory of this user's alone", dir(0o701)},
		{"the group writes", "DIR: not a directory of this user's alone", dir(0o720)},
		{"others read the file", "DIR/plan.json: not a regular file of this user's alone", put(good, 0o604)},
		{"the group writes the file", "DIR/plan.json: not a regular file of this user's alone", put(good, 0o620)},
		{"directory of somebody else", "DIR: not a directory of this user's alone", func(name string) error {
			return errors.Join(put(good, 0o600)(name), os.Chown(filepath.Dir(name), 1, -1))
		}},
		{"file of somebody else", "DIR/plan.json: not a regular file of this user's alone", func(name string) error {
			return errors.Join(put(good, 0o600)(name), os.Chown(name, 1, -1))
		}},
		{"link", "open DIR/plan.json: too many levels of symbolic links", func(name string) error {
			return errors.Join(put(good, 0o600)(name+"x"), os.Symlink(name+"x", name))
		}},
		{"FIFO", "DIR/plan.json: not a regular file of this user's alone", func(name string) error { return unix.Mkfifo(name, 0o600) }},
		{"directory", "DIR/plan.json: not a regular file of this user's alone", func(name string) error { return os.Mkdir(name, 0o700) }},
		{"socket", "open DIR/plan.json: no such device or address", func(name string) error {
			return unix.Mknod(name, unix.S_IFSOCK|0o600, 0)
		}},
		{"empty", "DIR/plan.json: EOF", put("", 0o600)},
		{"as large as it may be", "<nil>", put(good+strings.Repeat(" ", maxPlan-len(good)), 0o600)},
		{"larger", "DIR/plan.json: more than 16777216 bytes", put(good+strings.Repeat(" ", maxPlan-len(good)+1), 0o600)},
		{"sparse", "DIR/plan.json: more than 16777216 bytes", func(name string) error {
			return errors.Join(put(good, 0o600)(name), os.Truncate(name, 1<<40))
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "mkexec")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := test.make(filepath.Join(dir, "plan.json")); errors.Is(err, unix.EPERM) {
				return // only root gives files away
			} else if err != nil {
				t.Fatal(err)
			}
			files := countFiles(t)
			_, err := ReadDeferred(dir)
			checkError(t, err, false, strings.ReplaceAll(test.want, "DIR", dir))
			if is := errors.Is(err, ErrNoPlan); is != strings.HasSuffix(test.want, ErrNoPlan.Error()) {
				t.Errorf("errors.Is(err, ErrNoPlan) is %v", is)
			}
			if n := countFiles(t); n != files {
				t.Errorf("%d files are open, %d were", n, files)
			}
		})
	}
}

// TestParseDeferred: each thing that a plan may say wrongly, one change a time.
func TestParseDeferred(t *testing.T) {
	text := readTree(t, newDeferredRig(t, measure.SHA1, measure.SHA256).dir)["plan.json"]
	if _, err := parseDeferred([]byte(text)); err != nil {
		t.Fatal(err)
	}
	// change decodes the plan, and encodes it after a change
	change := func(f func(m map[string]any)) func() string {
		return func() string {
			var m map[string]any
			if err := json.Unmarshal([]byte(text), &m); err != nil {
				t.Fatal(err)
			}
			f(m)
			b, err := json.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			return string(b)
		}
	}
	set := func(name string, value any) func() string {
		return change(func(m map[string]any) { m[name] = value })
	}
	at := func(v any, path ...string) map[string]any {
		for _, name := range path {
			if list, ok := v.([]any); ok {
				v = list[0]
			}
			v = v.(map[string]any)[name]
		}
		if list, ok := v.([]any); ok {
			v = list[0]
		}
		return v.(map[string]any)
	}
	drop := func(name string, path ...string) func() string {
		return change(func(m map[string]any) { delete(at(m, path...), name) })
	}
	put := func(value any, name string, path ...string) func() string {
		return change(func(m map[string]any) { at(m, path...)[name] = value })
	}
	as := func(s string) func() string { return func() string { return s } }
	sum := strings.Repeat("ab", 32)
	for _, test := range []struct {
		name, want string
		text       func() string
	}{
		{"as it was", "<nil>", change(func(map[string]any) {})},
		{"space behind", "<nil>", as(text + " \n")},
		{"other image", "<nil>", set("image", "x")},
		{"no ways but one", "<nil>", set("shutdowns", []string{"final"})},

		{"nothing", "EOF", as("")},
		{"cut", "unexpected EOF", as(text[:len(text)-3])},
		{"not JSON", "invalid character 'x' looking for beginning of value", as("x")},
		{"array", "json: cannot unmarshal array into Go value of type kexec.Deferred", as("[]")},
		{"null", "version 0: unknown (known: 1)", as("null")},
		{"empty", "version 0: unknown (known: 1)", as("{}")},
		{"another behind", "more behind the plan", as(text + text)},
		{"garbage behind", "more behind the plan", as(text + "x")},
		{"NUL behind", "more behind the plan", as(text + "\x00")},
		{"deep", "json: cannot unmarshal array into Go value of type kexec.Deferred", as("[" + text + "]")},
		{"deeper", "invalid character '[' exceeded max depth", as(`{"events":` + strings.Repeat("[", 20000))},

		{"version 2", "version 2: unknown (known: 1)", set("version", 2)},
		{"version 0", "version 0: unknown (known: 1)", set("version", 0)},
		{"no version", "version 0: unknown (known: 1)", drop("version")},
		{"version a string", "json: cannot unmarshal string into Go struct field Deferred.version of type int", set("version", "1")},
		{"version 1.5", "json: cannot unmarshal number 1.5 into Go struct field Deferred.version of type int", set("version", 1.5)},
		{"unknown field", `json: unknown field "extra"`, set("extra", 1)},
		{"unknown field of a blob", `json: unknown field "path"`, put("/etc/shadow", "path", "kernel")},
		{"unknown field of an event", `json: unknown field "data"`, put("x", "data", "events")},
		{"time", "parsing time *", set("time", "yesterday")},

		{"no image digest", "SHA-256 of the image: 0 bytes", drop("imageSha256")},
		{"image digest short", "SHA-256 of the image: 31 bytes", set("imageSha256", sum[2:])},
		{"image digest not hexadecimal", `digest "*`, set("imageSha256", sum[1:]+"x")},

		{"no kernel", "blob : 0 bytes", drop("kernel")},
		{"kernel null", "blob : 0 bytes", set("kernel", nil)},
		{"kernel without digest", "blob : 5001 bytes", drop("sha256", "kernel")},
		{"kernel digest short", "blob " + sum[2:] + ": 5001 bytes", put(sum[2:], "sha256", "kernel")},
		{"kernel digest long", "blob " + sum + "abababab: 5001 bytes", put(sum+"abababab", "sha256", "kernel")},
		{"kernel digest very long", "blob " + sum + "abababababababab: 5001 bytes", put(strings.Repeat("ab", 2000), "sha256", "kernel")},
		{"kernel digest a path", `digest "../../../etc/shadow": not hexadecimal`, put("../../../etc/shadow", "sha256", "kernel")},
		{"kernel digest of another bank", "blob " + sum[:40] + ": 5001 bytes", put(sum[:40], "sha256", "kernel")},
		{"kernel of no bytes", "blob " + measure.SHA256.Sum(testKernel(t, 5001)).String() + ": 0 bytes", put(0, "size", "kernel")},
		{"kernel of less", "blob " + measure.SHA256.Sum(testKernel(t, 5001)).String() + ": -1 bytes", put(-1, "size", "kernel")},
		{"kernel of too much", "json: cannot unmarshal number 9223372036854775808 into Go struct field *", as(strings.Replace(text, `"size": 5001`, `"size": 9223372036854775808`, 1))},
		{"initrd without digest", "blob : *", drop("sha256", "initrd")},
		{"initrd of no bytes", "blob *", put(0, "size", "initrd")},
		{"initrd empty", "blob : 0 bytes", set("initrd", map[string]any{})},
		{"no initrd", "<nil>", drop("initrd")},

		{"no shutdowns", "no events, no way to shut down, or no PCRs", set("shutdowns", []string{})},
		{"shutdowns null", "no events, no way to shut down, or no PCRs", drop("shutdowns")},
		{"unknown word", `phase path "shutdown:finale": unknown word "finale" (known: *`, set("shutdowns", []string{"shutdown:finale"})},
		{"unknown word in the second", `phase path "x": unknown word "x" (known: *`, set("shutdowns", []string{"", "x"})},
		{"upper case", `phase path "Shutdown": unknown word "Shutdown" (known: *`, set("shutdowns", []string{"Shutdown"})},
		{"colon at the end", `phase path "final:": unknown word "" (known: *`, set("shutdowns", []string{"final:"})},
		{"colon", `phase path ":": empty words`, set("shutdowns", []string{":"})},
		{"words a number", "json: cannot unmarshal number into *", set("shutdowns", []int{1})},

		{"no events", "no events, no way to shut down, or no PCRs", set("events", []any{})},
		{"event null", `extend PCR 0: event "" has no * digest`, set("events", []any{nil})},
		{"no digests", `extend PCR 12: event "*`, drop("digests", "events")},
		{"a bank without a digest", `extend PCR 12: event "* has no sha1 digest`, drop("sha1", "events", "digests")},
		{"digest empty", `extend PCR 12: event "*: sha256 digest of 0 bytes`, put("", "sha256", "events", "digests")},
		{"digest short", `extend PCR 12: event "*: sha256 digest of 31 bytes`, put(sum[2:], "sha256", "events", "digests")},
		{"digest not hexadecimal", `digest "zz": not hexadecimal`, put("zz", "sha256", "events", "digests")},
		{"unknown bank", `bank "md5": unknown (known: sha1 sha256 sha384 sha512)`, put("00", "md5", "events", "digests")},
		{"a bank more", "<nil>", put(strings.Repeat("ab", 64), "sha512", "events", "digests")},
		{"PCR that is not compared", "extend PCR 10: its * value is not known", put(10, "pcr", "events")},
		{"PCR -1", "extend PCR -1: its * value is not known", put(-1, "pcr", "events")},
		{"event type unknown", `event type "EV_X": unknown`, put("EV_X", "type", "events")},
		{"event type a number", "json: cannot unmarshal number into *", put(13, "type", "events")},

		{"no live", "no events, no way to shut down, or no PCRs", drop("live")},
		{"live empty", "no events, no way to shut down, or no PCRs", set("live", map[string]any{})},
		{"live of an unknown bank", `bank "sm3_256": unknown (known: *`, put(map[string]any{}, "sm3_256", "live")},
		{"live of no PCRs", "live: bank sha256 has other PCRs", put(map[string]any{}, "sha256", "live")},
		{"live of a PCR less", "live: bank sha256 has other PCRs", drop("13", "live", "sha256")},
		{"live of a PCR more", "live: bank sha256 has other PCRs", put(sum[:40], "14", "live", "sha1")},
		{"live of another PCR", "live: bank sha256 has other PCRs", change(func(m map[string]any) {
			values := at(m, "live", "sha256")
			values["14"] = values["13"]
			delete(values, "13")
		})},
		{"live without PCR 11", "live: PCR 11 is missing", change(func(m map[string]any) {
			delete(at(m, "live", "sha256"), "11")
			delete(at(m, "live", "sha1"), "11")
		})},
		{"live without PCR 13", "live: PCR 13 is missing", change(func(m map[string]any) {
			delete(at(m, "live", "sha256"), "13")
			delete(at(m, "live", "sha1"), "13")
		})},
		{"live short", "live: PCR 13 (sha256): 31 bytes", put(sum[2:], "13", "live", "sha256")},
		{"live empty value", "live: PCR 13 (sha1): 0 bytes", put("", "13", "live", "sha1")},
		{"live PCR not a number", "json: cannot unmarshal number x into *", put(sum, "x", "live", "sha256")},
	} {
		t.Run(test.name, func(t *testing.T) {
			d, err := parseDeferred([]byte(test.text()))
			want, tail, cut := strings.Cut(test.want, "*")
			if cut {
				want += "*"
			}
			checkError(t, err, false, want)
			if !strings.HasSuffix(fmt.Sprint(err), tail) {
				t.Errorf("error %v, want %s", err, test.want)
			}
			if n := len(fmt.Sprint(err)); n > 400 {
				t.Errorf("an error of %d bytes", n)
			}
			if (err == nil) != (d != nil) {
				t.Errorf("%v and %v", d, err)
			}
		})
	}
}

// FuzzParseDeferred: whatever is accepted can be asked for all that is done with it,
// and is the same after having been written again.
func FuzzParseDeferred(f *testing.F) {
	for _, banks := range [][]measure.Bank{{measure.SHA256}, {measure.SHA1, measure.SHA384}} {
		f.Add([]byte(readTree(f, newDeferredRig(f, banks...).dir)["plan.json"]))
	}
	sum := strings.Repeat("00", 32)
	small := `{"version":1,"imageSha256":"` + sum + `","kernel":{"size":1,"sha256":"` + sum + `"},"live":{"sha256":{"11":"` + sum + `","12":"` + sum +
		`","13":"` + sum + `"}},"shutdowns":["final"],"events":[{"pcr":11,"type":"EV_IPL","digests":{"sha256":"` + sum + `"}}]}`
	if _, err := parseDeferred([]byte(small)); err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{small, small + "x", "{}", "null", "", `{"version":1,"live":{"sha1":{}}}`, strings.Replace(small, `"11"`, `"-11"`, 1)} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		d, err := parseDeferred(text)
		if err != nil {
			return
		}
		if _, err := d.Prediction(); err != nil {
			t.Errorf("no prediction: %v", err)
		}
		device := &table{pcrs: d.Live}
		if _, err := d.route(device); err != nil && !errors.Is(err, ErrMoved) {
			t.Error(err)
		}
		if len(d.pcrs()) < 3 || d.Kernel.name() != filepath.Base(d.Kernel.name()) || len(d.Kernel.name()) != 64 {
			t.Errorf("PCRs %v, kernel %q", d.pcrs(), d.Kernel.name())
		}
		again, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		e, err := parseDeferred(again)
		if err != nil {
			t.Fatal(err)
		}
		if third, _ := json.Marshal(e); string(third) != string(again) {
			t.Errorf("written again it is another:\n%s\n%s", again, third)
		}
	})
}

// blobFaults are what may have become of a staged file, by what is said of it.
var blobFaults = []struct {
	name, want string // behind the name of the file, or the whole error with FILE
	change     func(name string) error
}{
	{"nothing", "", func(string) error { return nil }},
	{"read-only", "", func(name string) error { return os.Chmod(name, 0o400) }},
	{"missing", "open FILE: no such file or directory", os.Remove},
	{"one byte", "FILE: CHANGED: SHA-256 *", func(name string) error {
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		b := make([]byte, 1)
		if _, err := f.ReadAt(b, 2345); err != nil {
			return err
		}
		b[0] ^= 1
		_, err = f.WriteAt(b, 2345)
		return err
	}},
	{"truncated", "FILE: CHANGED: not a regular file of SIZE bytes", func(name string) error { return os.Truncate(name, 1000) }},
	{"emptied", "FILE: CHANGED: not a regular file of SIZE bytes", func(name string) error { return os.Truncate(name, 0) }},
	{"grown", "FILE: CHANGED: not a regular file of SIZE bytes", func(name string) error { return os.Truncate(name, 1<<40) }},
	{"directory", "FILE: CHANGED: not a regular file of SIZE bytes", func(name string) error { return errors.Join(os.Remove(name), os.Mkdir(name, 0o700)) }},
	{"FIFO", "FILE: CHANGED: not a regular file of SIZE bytes", func(name string) error { return errors.Join(os.Remove(name), unix.Mkfifo(name, 0o600)) }},
	{"link to the same bytes", "CHANGED: open FILE: too many levels of symbolic links", func(name string) error {
		return errors.Join(os.Rename(name, name+"x"), os.Symlink(name+"x", name))
	}},
}

// forBlobFaults runs a test for each fault of each staged file. want is the error
// without what the file is called in it.
func forBlobFaults(t *testing.T, test func(t *testing.T, r *deferredRig, what, want string)) {
	for _, what := range []string{"kernel", "initrd"} {
		for _, fault := range blobFaults {
			t.Run(what+"/"+fault.name, func(t *testing.T) {
				r := newDeferredRig(t)
				b := &r.deferred.Kernel
				if what == "initrd" {
					b = r.deferred.Initrd
				}
				name := filepath.Join(r.dir, b.name())
				if err := fault.change(name); err != nil {
					t.Fatal(err)
				}
				want := fault.want
				if fault.name == "missing" {
					want = "CHANGED: " + want
				}
				test(t, r, what, strings.NewReplacer("FILE", name, "CHANGED", ErrChanged.Error(), "SIZE", fmt.Sprint(b.Size)).Replace(want))
			})
		}
	}
}

func TestDeferredCheck(t *testing.T) {
	forBlobFaults(t, func(t *testing.T, r *deferredRig, _, want string) {
		files := countFiles(t)
		err := r.deferred.Check(r.device)
		if want == "" {
			want = "<nil>"
		} else {
			want = "staged file: " + want
		}
		checkError(t, err, false, want)
		if errors.Is(err, ErrChanged) != (err != nil) || errors.Is(err, ErrMoved) {
			t.Errorf("not an ErrChanged: %v", err)
		}
		if n := countFiles(t); n != files {
			t.Errorf("%d files are open, %d were", n, files)
		}
		r.kernel.check(t)
		r.checkTPM(t, 0)
	})
}

func TestDeferredMoved(t *testing.T) {
	for n, moved := range map[measure.PCR]bool{10: false, 11: true, 12: true, 13: true, 14: false} {
		r := newDeferredRig(t)
		r.fake.ExtendAs(extension(n, measure.SHA384))
		err := r.deferred.Check(r.device)
		if !moved {
			checkError(t, err, false, "<nil>")
			continue
		}
		checkError(t, err, false, fmt.Sprintf("%v: PCR %d (sha384) is %s, not %s", ErrMoved, n, r.fake.PCRs()[measure.SHA384][n], r.base[measure.SHA384][n]))
		if !errors.Is(err, ErrMoved) || errors.Is(err, ErrChanged) {
			t.Errorf("not an ErrMoved: %v", err)
		}
	}
	r := newDeferredRig(t)
	r.device.Close()
	err := r.deferred.Check(r.device)
	checkError(t, err, false, "TPM: *")
	if errors.Is(err, ErrMoved) || errors.Is(err, ErrChanged) {
		t.Errorf("a TPM that does not answer is told for a change: %v", err)
	}
}
