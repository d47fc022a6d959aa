package packaging

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// require skips the test if what it needs, of the program, is not there; if $MKEXEC_REQUIRE has the program's name, the test
// fails instead.
func require(t *testing.T, program string, err error) {
	t.Helper()
	if err == nil {
		_, err = exec.LookPath(program)
	}
	switch {
	case err == nil:
	case slices.Contains(strings.Split(os.Getenv("MKEXEC_REQUIRE"), ","), program):
		t.Fatalf("%v, but MKEXEC_REQUIRE has %s", err, program)
	default:
		t.Skip(err)
	}
}

// asRoot returns the command to be run as root, or in a user namespace as what looks like root: dpkg, rpm and chroot go into
// a root directory.
func asRoot(t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	var command []string
	if os.Getuid() != 0 {
		command = []string{"unshare", "-r", "--"}
	}
	probe := append(slices.Clone(command), "chroot", "/", "true")
	if out, err := exec.Command(probe[0], probe[1:]...).CombinedOutput(); err != nil {
		require(t, "dpkg", fmt.Errorf("%s: %v: %s", strings.Join(probe, " "), err, out))
	}
	command = append(append(command, name), args...)
	return exec.Command(command[0], command[1:]...)
}
