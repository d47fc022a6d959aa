// Package mountinfo reads the list of mounts that Linux keeps for a process.
package mountinfo

import (
	"bufio"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
)

// maxMountinfo bounds /proc/self/mountinfo, in bytes. Hosts of thousands of
// containers have a few megabytes.
const maxMountinfo = 64 << 20

// A Mount is one line of /proc/self/mountinfo (proc_pid_mountinfo(5)).
type Mount struct {
	ID     string
	Parent string // the ID of the mount that this one is on
	Dev    string // MAJ:MIN
	Root   string // the directory of the file system that is mounted; "/" for all of it
	Point  string // where
	FSType string
	Source string // a device by its path, or what else the file system says
}

// Read returns the mounts that this process sees, below root, the file system's
// root directory.
func Read(root fs.FS) ([]Mount, error) {
	const name = "proc/self/mountinfo"
	f, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var mounts []Mount
	s := bufio.NewScanner(f)
	s.Buffer(nil, 1<<20)
	for n, size := 1, 0; s.Scan(); n++ {
		if size += len(s.Bytes()); size > maxMountinfo {
			return nil, fmt.Errorf("%s: more than %d bytes", name, maxMountinfo)
		}
		m, err := parse(s.Text())
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

// parse parses a line such as
//
//	36 35 98:0 /mnt1 /mnt/parent rw,noatime master:1 - ext3 /dev/root rw,errors=continue
//
// with any number of fields before the dash.
func parse(line string) (Mount, error) {
	before, after, ok := strings.Cut(line, " - ")
	fields, rest := strings.Fields(before), strings.Fields(after)
	if !ok || len(fields) < 6 || len(rest) < 2 {
		return Mount{}, fmt.Errorf("%.80q: not a mount", line)
	}
	m := Mount{ID: fields[0], Parent: fields[1], Dev: fields[2], FSType: rest[0], Source: rest[1]}
	if !isDevice(m.Dev) {
		return Mount{}, fmt.Errorf("%.80q: not MAJ:MIN", m.Dev)
	}
	var err error
	if m.Root, err = unescape(fields[3]); err != nil {
		return Mount{}, err
	}
	if m.Point, err = unescape(fields[4]); err != nil {
		return Mount{}, err
	}
	if !strings.HasPrefix(m.Point, "/") {
		return Mount{}, fmt.Errorf("%.80q: not a mount point", m.Point)
	}
	if source, err := unescape(m.Source); err == nil { // each file system writes its own
		m.Source = source
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
