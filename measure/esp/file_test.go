package esp

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
)

// Reading a partition. These tests do not show what the FAT driver of a firmware does.

func partition(names ...string) fstest.MapFS {
	fsys := fstest.MapFS{}
	for _, name := range names {
		fsys[name] = &fstest.MapFile{Data: []byte("content of " + name)}
	}
	return fsys
}

func TestLookup(t *testing.T) {
	t.Parallel()
	fsys := partition("EFI/Linux/Uki.EFI", "EFI/Linux/uki.efi.extra.d/x", "loader/a", "loader/A", "ünï/é", "Loader2/x", "LOADER2/y")
	fsys["link"] = &fstest.MapFile{Mode: fs.ModeSymlink, Data: []byte("EFI")}
	for _, c := range []struct{ name, want, err string }{
		{"EFI/Linux/Uki.EFI", "EFI/Linux/Uki.EFI", ""},
		{"efi/linux/uki.efi", "EFI/Linux/Uki.EFI", ""},
		{"EFI/LINUX", "EFI/Linux", ""},
		{".", ".", ""},
		{"ünï/é", "ünï/é", ""},
		{"Ünï/é", "", `"Ünï/é": file does not exist`}, // ASCII only
		{"EFI/Linux/uki.efj", "", `"EFI/Linux/uki.efj": file does not exist`},
		{"efi/linux/uki.efi/x", "", `"efi/linux/uki.efi/x": file does not exist: "EFI/Linux/Uki.EFI" is not a directory`},
		{"loader/a", "", `"loader/a": ambiguous: "loader/A" and "loader/a" differ in case only`},
		{"loader2/x", "", `"loader2/x": ambiguous: "LOADER2" and "Loader2" differ in case only`},
		{"link", "", `"link": a symbolic link, which firmware does not follow`},
		{"link/Linux", "", `"link": a symbolic link, which firmware does not follow`},
		{"../x", "", `"../x": not a path on the partition`},
		{"/efi", "", `"/efi": not a path on the partition`},
		{"EFI//Linux", "", `"EFI//Linux": not a path on the partition`},
		{"", "", `"": not a path on the partition`},
	} {
		got, err := Lookup(fsys, c.name)
		if got != c.want || text(err) != c.err {
			t.Errorf("%s: %q %v; want %q %s", c.name, got, err, c.want, c.err)
		}
		if strings.Contains(c.err, "does not exist") != errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v: fs.ErrNotExist: %v", c.name, err, errors.Is(err, fs.ErrNotExist))
		}
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// disk makes a directory with files, a FIFO and links, and opens it as the
// program does.
func disk(t *testing.T) fs.FS {
	t.Helper()
	dir := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{"good", "fifo", "link", "out", "sub/a.cred"} {
		must(os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	for _, f := range []string{"good/b.cred", "good/B2.CRED", "good/a.addon.efi", "good/x.txt", "file"} {
		must(os.WriteFile(filepath.Join(dir, f), []byte("content of "+f), 0o600))
	}
	must(os.Mkdir(filepath.Join(dir, "good/c.cred"), 0o755))
	must(syscall.Mkfifo(filepath.Join(dir, "fifo/a.cred"), 0o600))
	must(os.Symlink("../good/b.cred", filepath.Join(dir, "link/a.cred")))
	must(os.Symlink("/etc/passwd", filepath.Join(dir, "out/a.cred")))
	root, err := os.OpenRoot(dir)
	must(err)
	t.Cleanup(func() { root.Close() })
	return root.FS()
}

func TestOpenDir(t *testing.T) {
	t.Parallel()
	fsys := disk(t)
	cred := func(name string) bool { return strings.HasSuffix(strings.ToLower(name), ".cred") }
	files, err := OpenDir(fsys, "GOOD", cred)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range files {
		b, err := io.ReadAll(io.NewSectionReader(f, 0, f.Size()))
		if err != nil {
			t.Error(err)
		}
		got = append(got, f.Name()+": "+string(b))
	}
	if want := "B2.CRED: content of good/B2.CRED; b.cred: content of good/b.cred"; strings.Join(got, "; ") != want {
		t.Errorf("%q", got)
	}
	if err := files.Close(); err != nil {
		t.Error(err)
	}
	if _, err := files[0].ReadAt(make([]byte, 1), 0); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("read after Close: %v", err)
	}
	all := func(string) bool { return true }
	none := func(string) bool { return false }
	for _, c := range []struct {
		dir  string
		want func(string) bool
		err  string
	}{
		{"nowhere", all, ""},
		{"nowhere/x", all, ""},
		{"sub", all, ""},
		{"fifo", none, ""},
		{"fifo", all, `"fifo/a.cred": not a regular file`},
		{"link", all, `"link/a.cred": a symbolic link, which firmware does not follow`},
		{"out", all, `"out/a.cred": a symbolic link, which firmware does not follow`},
		{"file", all, `"file": not a directory`},
		{"..", all, `"..": not a path on the partition`},
	} {
		files, err := OpenDir(fsys, c.dir, c.want)
		if len(files) != 0 || text(err) != c.err {
			t.Errorf("%s: %d files, %v; want %s", c.dir, len(files), err, c.err)
		}
	}
}

// TestOpenDirTwice needs a file system that tells case apart.
func TestOpenDirTwice(t *testing.T) {
	t.Parallel()
	files, err := OpenDir(partition("d/a.cred", "d/A.cred"), "d", func(string) bool { return true })
	if files != nil || text(err) != `"d/A.cred" and "d/a.cred" differ in case only` {
		t.Errorf("%v, %v", files, err)
	}
}

func TestOpen(t *testing.T) {
	t.Parallel()
	fsys := disk(t)
	f, err := Open(fsys, "Good/B.Cred")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if f.Path != "good/b.cred" || f.Name() != "b.cred" || f.Size() != int64(len("content of good/b.cred")) {
		t.Errorf("%q %q %d", f.Path, f.Name(), f.Size())
	}
	for name, want := range map[string]string{
		"good":        `"good": not a regular file`,
		"fifo/a.cred": `"fifo/a.cred": not a regular file`,
		"out/a.cred":  `"out/a.cred": a symbolic link, which firmware does not follow`,
		"good/none":   `"good/none": file does not exist`,
	} {
		if f, err := Open(fsys, name); f != nil || text(err) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestUnreadable: a file that cannot be opened is an error that names it, and
// what was opened before is closed again.
func TestUnreadable(t *testing.T) {
	t.Parallel()
	fsys := &refusing{MapFS: partition("d/a", "d/b")}
	_, err := OpenDir(fsys, "d", func(string) bool { return true })
	if text(err) != "open d/b: permission denied" || fsys.open != 0 {
		t.Errorf("%v; still open: %d", err, fsys.open)
	}
}

// refusing does not open d/b and counts files that are open.
type refusing struct {
	fstest.MapFS
	open int
}

func (r *refusing) Open(name string) (fs.File, error) {
	if name == "d/b" {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrPermission}
	}
	f, err := r.MapFS.Open(name)
	if name != "d/a" || err != nil {
		return f, err
	}
	r.open++
	return &counted{f, f.(io.ReaderAt), r}, nil
}

type counted struct {
	fs.File
	io.ReaderAt
	r *refusing
}

func (c *counted) Close() error {
	c.r.open--
	return c.File.Close()
}
