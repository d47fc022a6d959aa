package discover

import (
	"bufio"
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

// maxMountinfo bounds /proc/self/mountinfo, in bytes.
const maxMountinfo = 64 << 20

// A mount is one line of /proc/self/mountinfo (proc_pid_mountinfo(5)).
type mount struct {
	id, parent string
	dev        string // MAJ:MIN
	point      string
	fstype     string
	source     string // a device by its path, or what the file system says
}

// unescape undoes the kernel's escapes (Linux, fs/proc_namespace.c, mangle).
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`, `\043`, "#")

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

// mountAt returns the mount that is to be seen at a mount point; ok is false if
// nothing is mounted there.
func mountAt(mounts []mount, point string) (m mount, ok bool) {
	for _, c := range mounts {
		over := func(o mount) bool { return o.parent == c.id && o.id != c.id && o.point == point }
		if c.point == point && !slices.ContainsFunc(mounts, over) {
			m, ok = c, true
		}
	}
	return m, ok
}

// parseMount parses a line such as
//
//	36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
//
// with any number of fields before the dash.
func parseMount(line string) (mount, error) {
	before, after, _ := strings.Cut(line, " - ")
	fields, rest := strings.Fields(before), strings.Fields(after)
	if len(fields) < 6 || len(rest) < 2 {
		return mount{}, fmt.Errorf("%.80q: not a mount", line)
	}
	return mount{
		id: fields[0], parent: fields[1], dev: fields[2], point: unescape.Replace(fields[4]),
		fstype: rest[0], source: unescape.Replace(rest[1]),
	}, nil
}
