package esp

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
)

// maxMountinfo bounds /proc/self/mountinfo, in bytes. Hosts of thousands of
// containers have a few megabytes.
const maxMountinfo = 64 << 20

// A mount is one line of /proc/self/mountinfo (proc_pid_mountinfo(5)).
type mount struct {
	id     string
	parent string // the id of the mount that this one is on
	dev    string // MAJ:MIN
	root   string // the directory of the file system that is mounted; "/" for all of it
	point  string // where
	fstype string
}

// readMounts returns the mounts that this process sees.
func readMounts(root fs.FS) ([]mount, error) {
	const name = "proc/self/mountinfo"
	f, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var mounts []mount
	s := bufio.NewScanner(f)
	s.Buffer(nil, 1<<20)
	for n, size := 1, 0; s.Scan(); n++ {
		if size += len(s.Bytes()); size > maxMountinfo {
			return nil, fmt.Errorf("%s: more than %d bytes", name, maxMountinfo)
		}
		m, err := parseMount(s.Text())
		if err != nil {
			return nil, fmt.Errorf("%s: line %d: %w", name, n, err)
		}
		mounts = append(mounts, m)
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return mounts, nil
}

// parseMount parses a line such as
//
//	36 35 98:0 /mnt1 /mnt/parent rw,noatime master:1 - ext3 /dev/root rw,errors=continue
//
// with any number of fields before the dash.
func parseMount(line string) (mount, error) {
	before, after, ok := strings.Cut(line, " - ")
	fields, rest := strings.Fields(before), strings.Fields(after)
	if !ok || len(fields) < 6 || len(rest) < 2 {
		return mount{}, fmt.Errorf("%.80q: not a mount", line)
	}
	m := mount{id: fields[0], parent: fields[1], dev: fields[2], fstype: rest[0]}
	if !isDevice(m.dev) {
		return mount{}, fmt.Errorf("%.80q: not MAJ:MIN", m.dev)
	}
	var err error
	if m.root, err = unescape(fields[3]); err != nil {
		return mount{}, err
	}
	if m.point, err = unescape(fields[4]); err != nil {
		return mount{}, err
	}
	if !strings.HasPrefix(m.point, "/") {
		return mount{}, fmt.Errorf("%.80q: not a mount point", m.point)
	}
	return m, nil
}

func isDevice(s string) bool {
	major, minor, _ := strings.Cut(s, ":")
	for _, n := range []string{major, minor} {
		if _, err := strconv.ParseUint(n, 10, 32); err != nil {
			return false
		}
	}
	return true
}

// unescape undoes the kernel's escapes: a backslash and three octal digits for
// space, tab, newline, backslash and # (Linux, fs/proc_namespace.c, mangle).
func unescape(s string) (string, error) {
	var b strings.Builder
	for {
		before, after, ok := strings.Cut(s, `\`)
		b.WriteString(before)
		if !ok {
			return b.String(), nil
		}
		if len(after) < 3 {
			return "", fmt.Errorf("%.80q: a backslash without three octal digits", s)
		}
		c, err := strconv.ParseUint(after[:3], 8, 8)
		if err != nil {
			return "", fmt.Errorf("%.80q: a backslash without three octal digits", s)
		}
		b.WriteByte(byte(c))
		s = after[3:]
	}
}

// holding returns the mount that a path, which is absolute and clean, is on. It
// goes the way that the kernel goes along the path: from the root over each
// mount that is on a directory of the path in the mount before.
func holding(mounts []mount, name string) (at mount, ok bool) {
	listed := map[string]bool{}
	for _, m := range mounts {
		listed[m.id] = true
	}
	for range mounts { // each step enters another mount
		var next *mount
		for i := range mounts {
			m := &mounts[i]
			isRoot := !listed[m.parent] || m.parent == m.id
			if ok && (isRoot || m.parent != at.id) || !ok && !isRoot {
				continue
			}
			if _, in := below(name, m.point); in && (next == nil || len(m.point) < len(next.point)) {
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
func (m mount) partitionType(root fs.FS) (Type, error) {
	data, err := fs.ReadFile(root, "run/udev/data/b"+m.dev)
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
