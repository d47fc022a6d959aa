package logfile_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/eventlog"
	"github.com/mkexec/mkexec/measure/eventlog/logfile"
)

// These tests hold the file against systemd's rules for writers, with extends that
// only say that they were called; live_test.go has systemd itself and a TPM. They
// do not prove that a record survives a power cut.

const bootID = "d57d4b10-3950-4d7d-8f30-a20ed44fadc6"

func event(text string) measure.Event {
	ev := measure.Event{PCR: 11, Type: measure.EventIPL, Description: text, Size: int64(len(text)), Digests: map[measure.Bank]measure.Digest{}}
	for _, b := range []measure.Bank{measure.SHA1, measure.SHA256} {
		ev.Digests[b] = b.Sum([]byte(text))
	}
	return ev
}

func newLog(t testing.TB) *logfile.Log {
	return &logfile.Log{Path: filepath.Join(t.TempDir(), "log", "systemd", "tpm2-measure.log"), BootID: bootID}
}

func mode(t testing.TB, path string) string {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode().String()
}

// descriptions returns those of the records in a log.
func descriptions(t testing.TB, path string) (list []string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	u, err := eventlog.ParseUserspace(data)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range u.Records {
		list = append(list, r.Event().Description)
	}
	return list
}

const (
	clean  = "-rw-------"
	marked = "trw-------"
)

// TestRecord: the directory is made, the file is marked and locked while the TPM
// is extended, and not after.
func TestRecord(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	l.Image = measure.SHA256.Sum([]byte("image"))
	for i := range 3 {
		err := l.Record(event(fmt.Sprint(i)), func() error {
			if m := mode(t, l.Path); m != marked {
				t.Errorf("during the extend: %s", m)
			}
			f, err := os.Open(l.Path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
				t.Errorf("during the extend: not locked: %v", err)
			}
			return nil
		})
		if err != nil || l.Err() != nil || mode(t, l.Path) != clean {
			t.Fatalf("%v, %v, %s", err, l.Err(), mode(t, l.Path))
		}
	}
	if got := strings.Join(descriptions(t, l.Path), " "); got != "0 1 2" {
		t.Error(got)
	}
	if m := mode(t, filepath.Dir(l.Path)); m != "drwxr-xr-x" {
		t.Error(m)
	}
	data, dirty, err := logfile.Read(l.Path)
	if err != nil || dirty {
		t.Fatal(dirty, err)
	}
	u, err := eventlog.ParseUserspace(data)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range u.Records {
		if r.BootID != strings.ReplaceAll(bootID, "-", "") || r.Timestamp <= 0 || r.Kexec == nil || r.Kexec.Incomplete || r.Kexec.Image.String() != l.Image.String() {
			t.Errorf("%+v", r)
		}
	}
}

// TestExtendFails: the error is returned as it is, nothing is written, and the mark stays.
func TestExtendFails(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	l.Record(event("before"), func() error { return nil })
	want := errors.New("no")
	if err := l.Record(event("x"), func() error { return want }); err != want {
		t.Error(err)
	}
	if got := strings.Join(descriptions(t, l.Path), " "); got != "before" || mode(t, l.Path) != marked {
		t.Errorf("%s, %s", got, mode(t, l.Path))
	}
	// a later writer writes on and leaves the mark, as systemd 262 does
	next := &logfile.Log{Path: l.Path, BootID: bootID}
	if err := next.Record(event("after"), func() error { return nil }); err != nil || next.Err() != nil {
		t.Error(err, next.Err())
	}
	if got := strings.Join(descriptions(t, l.Path), " "); got != "before after" || mode(t, l.Path) != marked {
		t.Errorf("%s, %s", got, mode(t, l.Path))
	}
	data, dirty, err := logfile.Read(l.Path)
	if u, _ := eventlog.ParseUserspace(data); err != nil || !dirty || !u.Records[1].Kexec.Incomplete || u.Records[0].Kexec.Incomplete {
		t.Error(dirty, err)
	}
}

// TestNoLog: what cannot be logged is extended all the same, once, and the reason is told.
func TestNoLog(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		setup func(path string) error
		want  string
	}{
		{"link", func(path string) error { return os.Symlink("/tmp/elsewhere", path) }, "too many levels of symbolic links"},
		{"directory", func(path string) error { return os.Mkdir(path, 0o700) }, "is a directory"},
		{"FIFO", func(path string) error { return unix.Mkfifo(path, 0o600) }, "no such device or address"},
		{"device", func(path string) error { return unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))) }, "not a regular file"},
		{"no directory", func(path string) error {
			if err := os.Remove(filepath.Dir(path)); err != nil {
				return err
			}
			return os.WriteFile(filepath.Dir(path), nil, 0o600)
		}, "not a directory"},
	} {
		l := newLog(t)
		if err := os.MkdirAll(filepath.Dir(l.Path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := c.setup(l.Path); err != nil {
			t.Logf("%s: %v", c.name, err) // only root makes devices
			continue
		}
		calls := 0
		err := l.Record(event("x"), func() error { calls++; return nil })
		if err != nil || calls != 1 || l.Err() == nil || !strings.HasSuffix(l.Err().Error(), c.want) {
			t.Errorf("%s: %v, %d extends, %v", c.name, err, calls, l.Err())
		}
		want := errors.New("no")
		if err := l.Record(event("x"), func() error { return want }); err != want {
			t.Errorf("%s: %v", c.name, err)
		}
		if c.name != "FIFO" { // which another process might fill
			if _, _, err := logfile.Read(l.Path); err == nil {
				t.Errorf("%s: read", c.name)
			}
		}
	}
}

// TestMode: a file that others may read becomes one that they may not.
func TestMode(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	if err := os.MkdirAll(filepath.Dir(l.Path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(l.Path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := l.Record(event("x"), func() error { return nil }); err != nil || l.Err() != nil || mode(t, l.Path) != clean {
		t.Errorf("%v, %v, %s", err, l.Err(), mode(t, l.Path))
	}
}

// TestLocked: who holds the lock too long is not waited for twice, and the gap is marked.
func TestLocked(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	l.Record(event("before"), func() error { return nil })
	f, err := os.Open(l.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	start, calls := time.Now(), 0
	for range 20 {
		if err := l.Record(event("lost"), func() error { calls++; return nil }); err != nil {
			t.Error(err)
		}
	}
	if took := time.Since(start); calls != 20 || !errors.Is(l.Err(), logfile.ErrLocked) || took < 4*time.Second || took > 20*time.Second {
		t.Errorf("%d extends, %v, %s", calls, l.Err(), took)
	}
	if _, _, err := logfile.Read(l.Path); !errors.Is(err, logfile.ErrLocked) {
		t.Errorf("read: %v", err)
	}
	if _, err := l.After("", nil); !errors.Is(err, logfile.ErrLocked) {
		t.Errorf("after: %v", err)
	}
	f.Close()
	l.Record(event("after"), func() error { return nil })
	if got := strings.Join(descriptions(t, l.Path), " "); got != "before after" || mode(t, l.Path) != marked {
		t.Errorf("%s, %s", got, mode(t, l.Path))
	}
}

// TestWriters: goroutines and processes at a time; the order of the log is that of the extends.
func TestWriters(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	l.Record(event("first"), func() error { return nil })
	order := filepath.Join(t.TempDir(), "order")
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() { write(l, order, fmt.Sprint("goroutine", i)) })
		wg.Go(func() {
			if out, err := helper(t, "write", l.Path, order, fmt.Sprint("process", i)).CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	wg.Wait()
	extended, err := os.ReadFile(order)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(descriptions(t, l.Path)[1:], "\n") + "\n"; got != string(extended) || strings.Count(got, "\n") != 80 || l.Err() != nil || mode(t, l.Path) != clean {
		t.Errorf("%d extends\n%s\nlogged\n%s\n%v", strings.Count(got, "\n"), extended, got, l.Err())
	}
}

// write records ten events, which extend a file.
func write(l *logfile.Log, order, name string) {
	for i := range 10 {
		text := fmt.Sprintf("%s/%d", name, i)
		err := l.Record(event(text), func() error {
			f, err := os.OpenFile(order, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = f.WriteString(text + "\n")
			return err
		})
		if err != nil {
			panic(err)
		}
	}
}

// TestKilled: who dies between the extend and the record leaves the mark and no
// part of a record.
func TestKilled(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	l.Record(event("before"), func() error { return nil })
	err := helper(t, "die", l.Path).Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != -1 {
		t.Errorf("not killed: %v", err)
	}
	if got := strings.Join(descriptions(t, l.Path), " "); got != "before" || mode(t, l.Path) != marked {
		t.Errorf("%s, %s", got, mode(t, l.Path))
	}
}

// TestFull: a record that can be written in part only is not written at all.
func TestFull(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	l.Record(event("before"), func() error { return nil })
	before, _ := os.ReadFile(l.Path)
	out, err := helper(t, "full", l.Path, fmt.Sprint(len(before)+100)).CombinedOutput()
	if err != nil || !strings.HasSuffix(string(out), "file too large\nextended\n") {
		t.Errorf("%v: %s", err, out)
	}
	if after, _ := os.ReadFile(l.Path); !bytes.Equal(before, after) || mode(t, l.Path) != marked {
		t.Errorf("%q, %s", after[len(before):], mode(t, l.Path))
	}
}

// helper returns a process that runs TestMain with arguments.
func helper(t testing.TB, args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), "LOGFILE_TEST="+strings.Join(args, "\n"))
	return cmd
}

// TestMain is also what the helper processes run.
func TestMain(m *testing.M) {
	args := strings.Split(os.Getenv("LOGFILE_TEST"), "\n")
	if args[0] == "" {
		os.Exit(m.Run())
	}
	l := &logfile.Log{Path: args[1], BootID: bootID}
	switch args[0] {
	case "write":
		write(l, args[2], args[3])
	case "die":
		l.Record(event("dies"), func() error { return unix.Kill(os.Getpid(), unix.SIGKILL) })
	case "full":
		signal.Ignore(unix.SIGXFSZ)
		var limit unix.Rlimit
		fmt.Sscan(args[2], &limit.Cur)
		limit.Max = limit.Cur
		if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &limit); err != nil {
			panic(err)
		}
		extended := false
		if err := l.Record(event("too large"), func() error { extended = true; return nil }); err != nil {
			panic(err)
		}
		fmt.Println(l.Err())
		if extended {
			fmt.Println("extended")
		}
	}
}

// TestAfter: what the log will be is what it then is, but for the times.
func TestAfter(t *testing.T) {
	t.Parallel()
	l := newLog(t)
	if _, err := l.After("shutdown", nil); err == nil || !strings.HasSuffix(err.Error(), `no event tells the banks that "shutdown" is extended in`) {
		t.Error(err)
	}
	if data, err := l.After("", nil); err != nil || len(data) != 0 {
		t.Errorf("%q, %v", data, err)
	}
	l.Record(event("before"), func() error { return nil })
	before, _ := os.ReadFile(l.Path)
	data, err := l.After("shutdown:final", []measure.Event{event("a"), event("b")})
	if err != nil || !bytes.HasPrefix(data, before) {
		t.Fatalf("%q, %v", data, err)
	}
	if now, _ := os.ReadFile(l.Path); !bytes.Equal(now, before) || mode(t, l.Path) != clean {
		t.Error("the file changed")
	}
	u, err := eventlog.ParseUserspace(data)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range u.Records {
		got = append(got, fmt.Sprintf("%d %s %s %s %s %d", r.PCR, r.ContentType, r.EventType, r.String, r.Event().Description, len(r.Digests)))
		if r.Kexec != nil && r.Kexec.Incomplete {
			t.Error("incomplete")
		}
	}
	want := []string{"11 mkexec kexec  before 2", "11 systemd phase shutdown shutdown 2", "11 systemd phase final final 2", "11 mkexec kexec  a 2", "11 mkexec kexec  b 2"}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("%q", got)
	}

	// the mark is in the records
	if err := os.Chmod(l.Path, 0o600|fs.ModeSticky); err != nil {
		t.Fatal(err)
	}
	data, err = l.After("", []measure.Event{event("a")})
	if u, _ := eventlog.ParseUserspace(data); err != nil || len(u.Records) != 2 || !u.Records[1].Kexec.Incomplete {
		t.Errorf("%q, %v", data, err)
	}

	// what is no log is not carried
	for _, c := range []struct {
		add  string
		want string
	}{
		{"\x1e{\"pcr\":11", "cut short: no line feed at its end"},
		{"garbage\n", "invalid character 'g' after top-level value"},
		{strings.Repeat(" ", eventlog.MaxUserspace), "more than 4194304 bytes"},
	} {
		if err := os.WriteFile(l.Path, append(bytes.Clone(before), c.add...), 0o600); err != nil {
			t.Fatal(err)
		}
		if data, err := l.After("", nil); data != nil || !errors.Is(err, logfile.ErrUnreadable) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), l.Path) {
			t.Errorf("%d bytes, %v", len(data), err)
		}
	}
	many := make([]measure.Event, 50)
	for i := range many {
		many[i] = event(strings.Repeat("x", 100<<10))
	}
	os.Remove(l.Path)
	if data, err := l.After("", many); data != nil || !errors.Is(err, logfile.ErrUnreadable) {
		t.Errorf("%d bytes, %v", len(data), err)
	}
}

// TestComplete: the records of before come first, and what is in the file stays.
func TestComplete(t *testing.T) {
	t.Parallel()
	old, l := newLog(t), newLog(t)
	for _, log := range []*logfile.Log{old, l} {
		for i := range 2 {
			if err := log.Record(event(fmt.Sprintf("%d of %s", i, map[bool]string{true: "old", false: "new"}[log == old])), func() error { return nil }); err != nil {
				t.Fatal(err)
			}
		}
	}
	before, _, err := logfile.Read(old.Path)
	if err != nil {
		t.Fatal(err)
	}
	was, _, err := logfile.Read(l.Path)
	if err != nil {
		t.Fatal(err)
	}
	for what, bad := range map[string][]byte{"garbage": []byte("garbage"), "cut": before[:len(before)-9]} {
		if err := l.Complete(bad); !errors.Is(err, logfile.ErrUnreadable) {
			t.Errorf("%s: %v", what, err)
		}
		if now, dirty, err := logfile.Read(l.Path); !bytes.Equal(now, was) || dirty || err != nil {
			t.Errorf("%s: the log has changed: %v", what, err)
		}
	}
	for _, marks := range []fs.FileMode{0o600, 0o600 | fs.ModeSticky} { // the second time twice of old
		if err := os.Chmod(l.Path, marks); err != nil {
			t.Fatal(err)
		}
		if err := l.Complete(before); err != nil {
			t.Fatal(err)
		}
		if got, want := mode(t, l.Path), map[bool]string{true: clean, false: marked}[marks == 0o600]; got != want {
			t.Errorf("mode %s, want %s", got, want)
		}
	}
	if got, want := fmt.Sprint(descriptions(t, l.Path)), "[0 of old 1 of old 0 of old 1 of old 0 of new 1 of new]"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	// a file that is not there is an empty log
	fresh := newLog(t)
	if err := fresh.Complete(before); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(descriptions(t, fresh.Path)); got != "[0 of old 1 of old]" {
		t.Error(got)
	}
}
