// Package packaging has no code: its tests install mkexec in every way that there is and look at what is there then.
package packaging

import (
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// These tests do not prove that systemd runs the hook (the virtual machines do), nor that the completions complete.

// top is the top of the source tree, where the Makefile is.
const top = "../../.."

// makeTarget runs make with nothing of the make and the variables that this test may run under.
func makeTarget(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := exec.Command("make", append([]string{"-C", top, "--no-print-directory"}, args...)...)
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		if !slices.Contains([]string{"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "DESTDIR", "PREFIX", "SHUTDOWNDIR", "VERSION", "SOURCE_DATE_EPOCH", "GOARCH"}, name) {
			cmd.Env = append(cmd.Env, v)
		}
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func mustMake(t *testing.T, args ...string) {
	t.Helper()
	if out, err := makeTarget(t, args...); err != nil {
		t.Fatalf("make %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// tree returns path -> mode and link target of what is below dir, directories apart.
func tree(t *testing.T, dir string) (files map[string]string, dirs []string) {
	t.Helper()
	files = map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path, dir)
		switch {
		case d.IsDir():
			if name != "" {
				dirs = append(dirs, name)
			}
			if info.Mode().Perm() != 0o755 && name != "" {
				t.Errorf("%s: mode %v", name, info.Mode())
			}
		case info.Mode()&fs.ModeSymlink != 0:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			files[name] = "-> " + to
		default:
			files[name] = info.Mode().String()
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files, dirs
}

func sameFiles(t *testing.T, what string, got, want map[string]string) {
	t.Helper()
	for name := range maps.Keys(got) {
		if want[name] == "" {
			t.Errorf("%s: %s (%s) is too much", what, name, got[name])
		}
	}
	for name, mode := range want {
		if got[name] != mode {
			t.Errorf("%s: %s is %q, want %q", what, name, got[name], mode)
		}
	}
}

// installed is what `make install` has to install, and nothing else.
func installed(prefix, hook string) map[string]string {
	const program, data = "-rwxr-xr-x", "-rw-r--r--"
	return map[string]string{
		prefix + "/bin/mkexec":                                  program,
		prefix + "/share/man/man5/mkexec-policy.yaml.5":         data,
		prefix + "/share/man/man7/mkexec-systemd.7":             data,
		prefix + "/share/man/man8/mkexec.8":                     data,
		prefix + "/share/doc/mkexec/README.md":                  data,
		prefix + "/share/doc/mkexec/copyright":                  data,
		prefix + "/share/bash-completion/completions/mkexec":    data,
		prefix + "/share/fish/vendor_completions.d/mkexec.fish": data,
		prefix + "/share/zsh/site-functions/_mkexec":            data,
		"/usr/lib/systemd/system-shutdown/mkexec":               "-> " + hook,
	}
}

func write(t *testing.T, name, content string, mode fs.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(name, mode); err != nil { // whatever the umask
		t.Fatal(err)
	}
}

func TestInstall(t *testing.T) {
	for prefix, hook := range map[string]string{"/usr": "../../../bin/mkexec", "/usr/local": "../../../local/bin/mkexec"} {
		t.Run(strings.ReplaceAll(prefix[1:], "/", "-"), func(t *testing.T) {
			dest := t.TempDir()
			args := []string{"DESTDIR=" + dest, "PREFIX=" + prefix}
			want := installed(prefix, hook)
			for round := range 2 {
				mustMake(t, append(args, "install")...)
				got, dirs := tree(t, dest)
				sameFiles(t, "install", got, want)
				if !slices.Contains(dirs, "/etc/mkexec") {
					t.Error("no /etc/mkexec")
				}
				program, err1 := os.Stat(filepath.Join(dest, prefix, "bin/mkexec"))
				found, err2 := os.Stat(filepath.Join(dest, "usr/lib/systemd/system-shutdown/mkexec"))
				if err1 != nil || err2 != nil || !os.SameFile(program, found) {
					t.Errorf("the hook is not the program: %v, %v", err1, err2)
				}
				if round == 1 {
					break
				}
				// the second time everything is there already, and wrong
				for name, mode := range want {
					name = filepath.Join(dest, name)
					if strings.HasPrefix(mode, "-> ") {
						os.Remove(name)
						if err := os.Symlink("/nowhere", name); err != nil {
							t.Fatal(err)
						}
						continue
					}
					write(t, name, "old", 0o600)
				}
			}
			foreign := map[string]string{}
			for _, name := range []string{"/etc/mkexec/policy.yaml", "/usr/lib/systemd/system-shutdown/other", "/var/lib/mkexec/log",
				prefix + "/bin/other", prefix + "/share/doc/mkexec/other", prefix + "/share/man/man8/other.8"} {
				write(t, dest+name, name, 0o640)
				foreign[name] = "-rw-r-----"
			}
			for range 2 {
				mustMake(t, append(args, "uninstall")...)
				got, _ := tree(t, dest)
				sameFiles(t, "uninstall", got, foreign)
			}
			os.Remove(dest + "/etc/mkexec/policy.yaml")
			os.Remove(dest + prefix + "/share/doc/mkexec/other")
			mustMake(t, append(args, "uninstall")...)
			for _, dir := range []string{"/etc/mkexec", prefix + "/share/doc/mkexec"} {
				if _, err := os.Stat(dest + dir); err == nil {
					t.Errorf("uninstall: the empty %s is still there", dir)
				}
			}
			mustMake(t, "DESTDIR="+t.TempDir(), "PREFIX="+prefix, "uninstall") // of what never was
		})
	}
}

func TestInstallUmask(t *testing.T) {
	dest := t.TempDir()
	cmd := exec.Command("sh", "-c", "umask 077; exec make -s -C "+top+" install DESTDIR="+dest+" PREFIX=/usr")
	cmd.Env = append(os.Environ(), "MAKEFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	got, _ := tree(t, dest)
	sameFiles(t, "umask 077", got, installed("/usr", "../../../bin/mkexec"))
}

// TestInstallBesideAnother: a package has its hook there.
func TestInstallBesideAnother(t *testing.T) {
	dest := t.TempDir()
	mustMake(t, "DESTDIR="+dest, "PREFIX=/usr", "install")
	args := []string{"DESTDIR=" + dest, "PREFIX=/usr/local"}
	out, err := makeTarget(t, append(args, "install")...)
	if err == nil || !strings.Contains(out, dest+"/usr/lib/systemd/system-shutdown/mkexec: there is another mkexec, to be removed before\n") {
		t.Errorf("%v\n%s", err, out)
	}
	mustMake(t, append(args, "uninstall")...)
	got, _ := tree(t, dest)
	sameFiles(t, "of the other", got, installed("/usr", "../../../bin/mkexec"))
}

// TestInstallOtherFileSystem: systemd-shutdown has unmounted a /usr/local of its own when it looks for hooks, and a link to
// there is none.
func TestInstallOtherFileSystem(t *testing.T) {
	dest := t.TempDir()
	other, err := os.MkdirTemp("/dev/shm", "mkexec-packaging")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(other) })
	if output(t, "stat", "-c", "%d", dest) == output(t, "stat", "-c", "%d", other) {
		t.Fatal("/dev/shm and the temporary files are on one file system")
	}
	if err := os.Mkdir(dest+"/usr", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(other, dest+"/usr/local"); err != nil { // as good as a mount
		t.Fatal(err)
	}
	out, err := makeTarget(t, "DESTDIR="+dest, "PREFIX=/usr/local", "install")
	if err == nil || !strings.Contains(out, dest+"/usr/local/bin: a file system that is unmounted when the shutdown hook runs: make install PREFIX=/usr\n") {
		t.Errorf("%v\n%s", err, out)
	}
	if got, _ := tree(t, other); len(got) != 0 {
		t.Errorf("installed: %v", got)
	}
}

// TestUninstallUnloads: on the machine itself, here a root directory, the image goes before the hook does.
func TestUninstallUnloads(t *testing.T) {
	root := system(t, "make", "realpath", "rmdir", "find")
	for name, in := range map[string]string{"/src/Makefile": top + "/Makefile", "/src/cmd/mkexec/packaging/preremove": "preremove"} {
		content, err := os.ReadFile(in)
		if err != nil {
			t.Fatal(err)
		}
		write(t, root+name, string(content), 0o644)
	}
	if err := os.MkdirAll(root+"/usr/lib/systemd/system-shutdown", 0o755); err != nil {
		t.Fatal(err)
	}
	hook := root + "/usr/lib/systemd/system-shutdown/mkexec"
	if err := os.Symlink("../../../local/bin/mkexec", hook); err != nil {
		t.Fatal(err)
	}
	write(t, root+"/sys/kernel/kexec_loaded", "1\n", 0o644)
	for _, tt := range []struct {
		status, called string
		good, there    bool
	}{
		{"2", "unload\n", false, true},
		{"0", "unload\n", true, false},
		{"0", "", true, false},
	} {
		write(t, root+"/status", tt.status, 0o644)
		cmd := asRoot(t, "chroot", root, "make", "-s", "-C", "/src", "uninstall")
		cmd.Env = []string{"PATH=" + scriptPath}
		out, err := cmd.CombinedOutput()
		if (err == nil) != tt.good {
			t.Errorf("unload exits with %s: %v\n%s", tt.status, err, out)
		}
		if got := calls(t, root); got != tt.called {
			t.Errorf("mkexec was called with %q, want %q", got, tt.called)
		}
		for _, name := range []string{hook, root + "/usr/local/bin/mkexec"} {
			if _, err := os.Lstat(name); (err == nil) != tt.there {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}
