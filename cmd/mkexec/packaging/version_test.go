package packaging

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestVersion makes a repository whose commits are of known times, so that their names are known too; dpkg and rpm say whether
// the versions come one after the other. It does not prove anything of histories with branches.
func TestVersion(t *testing.T) {
	script, err := filepath.Abs("version.sh")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	run := func(name string, args ...string) (string, error) {
		cmd := exec.Command(name, args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null", "TZ=Asia/Tokyo",
			"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_AUTHOR_DATE=1700000000 +0900",
			"GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com", "GIT_COMMITTER_DATE=1700000000 +0900")
		out, err := cmd.CombinedOutput()
		return strings.TrimSpace(string(out)), err
	}
	git := func(args ...string) string {
		t.Helper()
		out, err := run("git", args...)
		if err != nil {
			t.Fatalf("git %v: %v: %s", args, err, out)
		}
		return out
	}
	commit := func() string {
		t.Helper()
		git("commit", "-q", "--allow-empty", "-m", "change")
		return git("rev-parse", "--short=12", "HEAD")
	}
	var versions []string
	expect := func(want string) {
		t.Helper()
		got, err := run(script)
		if err != nil || got != want {
			t.Errorf("version %q, %v; want %q", got, err, want)
		}
		versions = append(versions, got)
	}

	if out, err := run(script); err == nil || !strings.HasPrefix(out, "version.sh: error: no git commit here; name it: VERSION=") {
		t.Errorf("no repository: %v, %q", err, out)
	}
	git("init", "-q")
	if out, err := run(script); err == nil || !strings.HasPrefix(out, "version.sh: error: no git commit here") {
		t.Errorf("no commit: %v, %q", err, out)
	}
	expect0 := "0.0.0~20231114221320." + commit()
	expect(expect0)
	write(t, dir+"/new", "", 0o644)
	expect(expect0 + "+dirty")
	os.Remove(dir + "/new")
	git("tag", "other-9")
	git("tag", "v1.2.0-rc1")
	expect("1.2.0~rc1")
	expect("1.2.0~rc1+1.g" + func() string { commit := commit(); return commit }())
	git("tag", "-a", "-m", "release", "v1.2.0")
	expect("1.2.0")
	commit()
	expect("1.2.0+2.g" + commit())
	git("tag", "v1.2.1")
	expect("1.2.1")

	for i := range len(versions) - 1 {
		older, newer := versions[i], versions[i+1]
		if out, err := exec.Command("dpkg", "--compare-versions", older, "lt", newer).CombinedOutput(); err != nil {
			t.Errorf("dpkg: %s is not before %s: %v %s", older, newer, err, out)
		}
		require(t, "rpm", nil)
		if out := output(t, "rpm", "--eval", `%{lua: print(rpm.vercmp("`+older+`", "`+newer+`"))}`); out != "-1\n" {
			t.Errorf("rpm: %s is not before %s: %s", older, newer, out)
		}
	}
	if out, err := makeTarget(t, "PACKAGEDIR="+t.TempDir(), "VERSION=v1.2", "SOURCE_DATE_EPOCH=1", "package"); err == nil ||
		!strings.Contains(out, "build.sh: error: VERSION: v1.2: not digits, letters, dots, + and ~\n") {
		t.Errorf("v1.2: %v, %s", err, out)
	}
}
