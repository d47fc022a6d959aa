package packaging

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// The packages are built as `make package` does, and installed into small systems by the real dpkg and rpm, whose scripts
// find a mkexec that only writes down how it was called, and once the real one. That does not prove that `mkexec unload`
// unloads, and of rpm it is Debian's.

// cache holds the packages, which several tests use.
var cache string

func TestMain(m *testing.M) {
	var err error
	if cache, err = os.MkdirTemp("", "mkexec-packages"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	status := m.Run()
	os.RemoveAll(cache)
	os.Exit(status)
}

var building sync.Mutex

// build returns the deb and the rpm of a version, made in a directory with that name.
func build(t *testing.T, dir, version string, args ...string) (deb, rpm string) {
	t.Helper()
	building.Lock()
	defer building.Unlock()
	dir = filepath.Join(cache, dir)
	if _, err := os.Stat(dir); err != nil {
		args = append(args, "PACKAGEDIR="+dir, "VERSION="+version, "SOURCE_DATE_EPOCH=1700000000")
		mustMake(t, append(args, "package")...)
	}
	debs, err1 := filepath.Glob(dir + "/mkexec_" + version + "_*.deb")
	rpms, err2 := filepath.Glob(dir + "/mkexec-" + version + "-1.*.rpm")
	if err1 != nil || err2 != nil || len(debs) != 1 || len(rpms) != 1 {
		t.Fatalf("%s: %v, %v", dir, debs, rpms)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
		t.Errorf("%v in %s, %v", entries, dir, err)
	}
	return debs[0], rpms[0]
}

// output runs a program and returns its stdout.
func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out, stderr.Bytes())
	}
	return string(out)
}

// packaged is what both packages install.
func packaged() map[string]string {
	files := installed("/usr", "../../../bin/mkexec")
	for _, page := range []string{"/usr/share/man/man5/mkexec-policy.yaml.5", "/usr/share/man/man7/mkexec-systemd.7", "/usr/share/man/man8/mkexec.8"} {
		files[page+".gz"] = files[page]
		delete(files, page)
	}
	return files
}

func TestReproducible(t *testing.T) {
	deb1, rpm1 := build(t, "1", "1.0.0")
	t.Setenv("TZ", "Asia/Tokyo")
	t.Setenv("LC_ALL", "tr_TR.UTF-8")
	t.Setenv("GOFLAGS", "-buildvcs=auto")
	deb2, rpm2 := build(t, "another name", "1.0.0", "SHUTDOWNDIR=/elsewhere", "PREFIX=/opt")
	for one, other := range map[string]string{deb1: deb2, rpm1: rpm2} {
		a, err1 := os.ReadFile(one)
		b, err2 := os.ReadFile(other)
		if err1 != nil || err2 != nil || !bytes.Equal(a, b) {
			t.Errorf("%s: not the same twice (%v, %v)", filepath.Base(one), err1, err2)
		}
	}
}

func TestLintian(t *testing.T) {
	require(t, "lintian", nil)
	deb, _ := build(t, "1", "1.0.0")
	out, err := exec.Command("lintian", "--allow-root", "--fail-on", "error,warning", "--display-info", deb).CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestDebFiles(t *testing.T) {
	require(t, "dpkg", nil)
	deb, _ := build(t, "1", "1.0.0")
	dir := t.TempDir()
	output(t, "dpkg-deb", "-x", deb, dir)
	files, dirs := tree(t, dir)
	want := packaged()
	want["/usr/share/doc/mkexec/changelog.gz"] = "-rw-r--r--"
	want["/usr/share/lintian/overrides/mkexec"] = "-rw-r--r--"
	sameFiles(t, "deb", files, want)
	if !slices.Contains(dirs, "/etc/mkexec") {
		t.Error("no /etc/mkexec")
	}
	for line := range strings.Lines(output(t, "dpkg-deb", "-c", deb)) {
		if !strings.Contains(line, " root/root ") || !strings.Contains(line, " 2023-11-14 ") {
			t.Errorf("deb: %s", line)
		}
	}
	if got := output(t, dir+"/usr/bin/mkexec", "--version"); got != "mkexec 1.0.0\n" {
		t.Errorf("deb: %s", got)
	}
	output(t, "dpkg-deb", "-e", deb, dir+"/DEBIAN")
	control, _ := tree(t, dir+"/DEBIAN")
	// no postinst: there is nothing to do, and nothing that abort-remove would undo
	if got := slices.Sorted(maps.Keys(control)); !slices.Equal(got, []string{"/control", "/md5sums", "/postrm", "/prerm"}) {
		t.Errorf("control has %v", got)
	}
}

// system makes a root directory with a shell, these programs and a mkexec that writes to /calls, and returns it.
func system(t *testing.T, programs ...string) string {
	t.Helper()
	root := t.TempDir()
	for _, program := range append(programs, "sh", "rm", "cat") {
		path, err := exec.LookPath(program)
		if err != nil {
			t.Fatal(err)
		}
		copyIn := func(path, name string) {
			content, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			write(t, root+name, string(content), 0o755)
		}
		copyIn(path, "/bin/"+program)
		for _, word := range strings.Fields(output(t, "ldd", path)) {
			if strings.HasPrefix(word, "/") {
				copyIn(word, word)
			}
		}
	}
	write(t, root+"/usr/local/bin/mkexec", "#!/bin/sh\necho \"$*\" >>/calls\nexit $(cat /status)\n", 0o755)
	write(t, root+"/status", "0", 0o644)
	write(t, root+"/var/lib/dpkg/status", "", 0o644)
	for _, dir := range []string{"/run/systemd/system", "/sys/kernel", "/var/lib/dpkg/info", "/var/lib/dpkg/updates", "/tmp", "/dev"} {
		if err := os.MkdirAll(root+dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, root+"/dev/null", "", 0o666)
	return root
}

// calls returns what mkexec was called with since the last time.
func calls(t *testing.T, root string) string {
	t.Helper()
	content, err := os.ReadFile(root + "/calls")
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	os.Remove(root + "/calls")
	return string(content)
}

const scriptPath = "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// use writes what mkexec and an administrator write, and returns a check that it is all there.
func use(t *testing.T, root string) func(when string, names ...string) {
	all := []string{"/etc/mkexec/policy.yaml", "/run/mkexec/plan.json", "/var/lib/mkexec/log"}
	for _, name := range all {
		write(t, root+name, name, 0o600)
	}
	return func(when string, names ...string) {
		t.Helper()
		for _, name := range all {
			content, err := os.ReadFile(root + name)
			if there := err == nil && string(content) == name; there != slices.Contains(names, name) {
				t.Errorf("%s: %s: %v", when, name, err)
			}
		}
	}
}

// manager runs the package manager on a root directory.
func manager(t *testing.T, name string, args ...string) error {
	t.Helper()
	cmd := asRoot(t, name, args...)
	cmd.Env = append(os.Environ(), "PATH="+scriptPath)
	out, err := cmd.CombinedOutput()
	t.Logf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	return err
}

func TestDpkg(t *testing.T) {
	require(t, "dpkg", nil)
	first, _ := build(t, "1", "1.0.0")
	second, _ := build(t, "2", "1.1.0")
	root := system(t)
	dpkg := func(args ...string) error {
		t.Helper()
		return manager(t, "dpkg", append([]string{"--root=" + root, "--force-not-root", "--log=/dev/null"}, args...)...)
	}
	hook := root + "/usr/lib/systemd/system-shutdown/mkexec"
	expect := func(when string, err error, good bool, called string, there bool) {
		t.Helper()
		if (err == nil) != good {
			t.Errorf("%s: %v", when, err)
		}
		if got := calls(t, root); got != called {
			t.Errorf("%s: mkexec was called with %q, want %q", when, got, called)
		}
		if _, err := os.Stat(hook); (err == nil) != there {
			t.Errorf("%s: hook: %v", when, err)
		}
	}

	expect("install", dpkg("-i", first), true, "", true)
	kept := use(t, root)
	expect("again", dpkg("-i", first), true, "", true)
	expect("upgrade", dpkg("-i", second), true, "", true)
	expect("downgrade", dpkg("-i", first), true, "", true)
	kept("upgrade", "/etc/mkexec/policy.yaml", "/run/mkexec/plan.json", "/var/lib/mkexec/log")

	write(t, root+"/status", "2", 0o644)
	write(t, root+"/sys/kernel/kexec_loaded", "1\n", 0o644)
	expect("remove, but the image stays", dpkg("-r", "mkexec"), false, "unload\n", true)
	write(t, root+"/sys/kernel/kexec_loaded", "0\n", 0o644)
	expect("remove, nothing loaded", dpkg("-r", "mkexec"), true, "unload\n", false)
	kept("remove", "/etc/mkexec/policy.yaml", "/run/mkexec/plan.json", "/var/lib/mkexec/log")

	write(t, root+"/status", "0", 0o644)
	expect("install after remove", dpkg("-i", second), true, "", true)
	expect("remove", dpkg("-r", "mkexec"), true, "unload\n", false)
	expect("purge after remove", dpkg("-P", "mkexec"), true, "", false)
	kept("purge", "/etc/mkexec/policy.yaml", "/run/mkexec/plan.json")

	expect("install after purge", dpkg("-i", first), true, "", true)
	kept = use(t, root)
	os.Remove(root + "/usr/local/bin/mkexec") // the real one from here on: it drops the plan, and reads that nothing is loaded
	expect("remove with the real mkexec", dpkg("-r", "mkexec"), true, "", false)
	kept("remove with the real mkexec", "/etc/mkexec/policy.yaml", "/var/lib/mkexec/log")

	os.Remove(root + "/etc/mkexec/policy.yaml")
	expect("install once more", dpkg("-i", first), true, "", true)
	expect("purge", dpkg("-P", "mkexec"), true, "", false)
	for _, dir := range []string{"/etc/mkexec", "/usr/share/doc/mkexec", "/var/lib/mkexec", "/usr/lib/systemd"} {
		if _, err := os.Stat(root + dir); err == nil {
			t.Errorf("purge: %s is still there", dir)
		}
	}
	if out, err := exec.Command("dpkg", "--root="+root, "--verify").CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestMaintainerScripts: all ways in which dpkg calls them (Debian Policy 6.5) and rpm does.
func TestMaintainerScripts(t *testing.T) {
	require(t, "dpkg", nil)
	root := system(t)
	for _, script := range []string{"preremove", "postremove"} {
		content, err := os.ReadFile(script)
		if err != nil {
			t.Fatal(err)
		}
		write(t, root+"/"+script, string(content), 0o755)
	}
	for _, tt := range []struct {
		args   string // of script
		called string
		purged bool
	}{
		{"preremove remove", "unload\n", false},
		{"preremove remove in-favour other 1.0", "unload\n", false},
		{"preremove upgrade 1.1.0", "", false},
		{"preremove failed-upgrade 1.0.0 1.1.0", "", false},
		{"preremove deconfigure in-favour other 1.0 removing third 1.0", "", false},
		{"preremove 0", "unload\n", false}, // rpm -e
		{"preremove 1", "", false},         // rpm -U
		{"postremove remove", "", false},
		{"postremove upgrade 1.1.0", "", false},
		{"postremove failed-upgrade 1.0.0 1.1.0", "", false},
		{"postremove abort-install", "", false},
		{"postremove abort-install 1.0.0 1.1.0", "", false},
		{"postremove abort-upgrade 1.0.0 1.1.0", "", false},
		{"postremove disappear other 1.0", "", false},
		{"postremove purge", "", true},
		{"postremove purge", "", true}, // again
	} {
		kept := use(t, root)
		for _, target := range []string{"", "/target"} { // dpkg --root=/target --force-script-chrootless
			if target != "" {
				if tt.purged {
					kept = use(t, root)
					write(t, root+"/target/var/lib/mkexec/log", "", 0o644)
				}
				tt.called = ""
			}
			cmd := asRoot(t, "chroot", append([]string{root, "/bin/sh", "-e"}, strings.Fields("/"+tt.args)...)...)
			cmd.Env = []string{"PATH=" + scriptPath, "DPKG_ROOT=" + target}
			if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
				t.Errorf("%s: %v\n%s", tt.args, err, out)
			}
			if got := calls(t, root); got != tt.called {
				t.Errorf("DPKG_ROOT=%s %s: mkexec was called with %q, want %q", target, tt.args, got, tt.called)
			}
			if tt.purged && target == "" {
				kept(tt.args, "/etc/mkexec/policy.yaml", "/run/mkexec/plan.json")
			} else {
				kept(tt.args, "/etc/mkexec/policy.yaml", "/run/mkexec/plan.json", "/var/lib/mkexec/log")
			}
			if _, err := os.Stat(root + "/target/var/lib/mkexec"); tt.purged && err == nil {
				t.Errorf("%s: the state in DPKG_ROOT is still there", tt.args)
			}
		}
	}

	os.Remove(root + "/run/systemd/system") // in an image that is being built, say
	cmd := asRoot(t, "chroot", root, "/preremove", "remove")
	cmd.Env = []string{"PATH=" + scriptPath}
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("without systemd: %v\n%s", err, out)
	}
	if got := calls(t, root); got != "" {
		t.Errorf("without systemd: mkexec was called with %q", got)
	}
}

func TestRPM(t *testing.T) {
	require(t, "rpm", nil)
	_, first := build(t, "1", "1.0.0")
	_, second := build(t, "2", "1.1.0")
	root := system(t)

	want := packaged()
	want["/usr/share/licenses/mkexec/LICENSE"] = "-rw-r--r--"
	files := map[string]string{}
	for line := range strings.Lines(output(t, "rpm", "-qp", "--qf", `[%{FILENAMES}|%{FILEMODES:perms}|%{FILELINKTOS}|%{FILEUSERNAME}:%{FILEGROUPNAME}\n]`, first)) {
		field := strings.Split(strings.TrimSpace(line), "|")
		switch name, mode, link := field[0], field[1], field[2]; {
		case field[3] != "root:root":
			t.Errorf("rpm: %s", line)
		case mode[0] == 'd': // these and no others are ours
			if !slices.Contains([]string{"/etc/mkexec", "/usr/share/doc/mkexec", "/usr/share/licenses/mkexec"}, name) || mode != "drwxr-xr-x" {
				t.Errorf("rpm: %s", line)
			}
		case link != "":
			files[name] = "-> " + link
		default:
			files[name] = mode
		}
	}
	sameFiles(t, "rpm", files, want)
	docs := strings.Fields(output(t, "rpm", "-qdp", first))
	for name := range want {
		if strings.HasPrefix(name, "/usr/share/doc/") || strings.HasPrefix(name, "/usr/share/man/") {
			if !slices.Contains(docs, name) {
				t.Errorf("rpm: %s is not marked as documentation", name)
			}
		}
	}

	rpm := func(args ...string) error {
		t.Helper()
		// Debian's rpm wants to be told that rpm packages are welcome
		return manager(t, "rpm", append([]string{"--root", root, "--define", "_install_script_path " + scriptPath, "--nodeps", "--force-debian"}, args...)...)
	}
	hook := root + "/usr/lib/systemd/system-shutdown/mkexec"
	expect := func(when string, err error, good bool, called string, there bool) {
		t.Helper()
		if (err == nil) != good {
			t.Errorf("%s: %v", when, err)
		}
		if got := calls(t, root); got != called {
			t.Errorf("%s: mkexec was called with %q, want %q", when, got, called)
		}
		if _, err := os.Stat(hook); (err == nil) != there {
			t.Errorf("%s: hook: %v", when, err)
		}
	}
	expect("install", rpm("-i", first), true, "", true)
	kept := use(t, root)
	expect("upgrade", rpm("-U", second), true, "", true)
	expect("downgrade", rpm("-U", "--oldpackage", first), true, "", true)
	kept("upgrade", "/etc/mkexec/policy.yaml", "/run/mkexec/plan.json", "/var/lib/mkexec/log")
	write(t, root+"/status", "2", 0o644)
	write(t, root+"/sys/kernel/kexec_loaded", "1\n", 0o644)
	expect("erase, but the image stays", rpm("-e", "mkexec"), false, "unload\n", true)
	write(t, root+"/status", "0", 0o644)
	expect("erase", rpm("-e", "mkexec"), true, "unload\n", false)
	kept("erase", "/etc/mkexec/policy.yaml", "/run/mkexec/plan.json", "/var/lib/mkexec/log")
}
