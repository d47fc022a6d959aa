package esp

import (
	"errors"
	"io/fs"
	"strings"

	"github.com/mkexec/mkexec/measure/mountinfo"
)

// holding returns the mount that a path, which is absolute and clean, is on. It
// goes the way that the kernel goes along the path: from the root over each
// mount that is on a directory of the path in the mount before.
func holding(mounts []mountinfo.Mount, name string) (at mountinfo.Mount, ok bool) {
	listed := map[string]bool{}
	for _, m := range mounts {
		listed[m.ID] = true
	}
	for range mounts { // each step enters another mount
		var next *mountinfo.Mount
		for i := range mounts {
			m := &mounts[i]
			isRoot := !listed[m.Parent] || m.Parent == m.ID
			if ok && (isRoot || m.Parent != at.ID) || !ok && !isRoot {
				continue
			}
			if _, in := below(name, m.Point); in && (next == nil || len(m.Point) < len(next.Point)) {
				next = m
			}
		}
		if next == nil {
			break
		}
		at, ok = *next, true
	}
	return at, ok
}

// below returns the part of a clean absolute path behind dir, and whether the
// path is dir or in it. The part has no slash at its start.
func below(name, dir string) (string, bool) {
	if name == dir {
		return "", true
	}
	return strings.CutPrefix(name, strings.TrimSuffix(dir, "/")+"/")
}

// partitionType returns what udev knows of the partition of a device, "" if
// that is nothing (systemd 262, src/shared/find-esp.c, verify_esp_udev).
func partitionType(root fs.FS, m mountinfo.Mount) (Type, error) {
	data, err := fs.ReadFile(root, "run/udev/data/b"+m.Dev)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), "E:ID_PART_ENTRY_TYPE="); ok {
			switch strings.ToLower(value) {
			case "c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "0xef":
				return ESP, nil
			case "bc13c2ff-59e6-4262-a352-b275fd6f7172", "0xea":
				return XBOOTLDR, nil
			}
			return other, nil
		}
	}
	return "", nil
}
