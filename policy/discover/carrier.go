package discover

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/mkexec/mkexec/measure/mountinfo"
)

// carriers are the devices that a file system is on, and all that those are made of.
type carriers struct {
	devices map[string]bool // by their names in /sys/class/block
	// unknown says why there may be others, "" if there are none.
	unknown string
}

// diskless are file systems that no block device of this machine carries.
var diskless = []string{"rootfs", "tmpfs", "ramfs", "nfs", "nfs4", "cifs", "smb3", "9p", "virtiofs", "ceph"}

// carriersOf returns the carriers of the file system that is mounted at a
// directory, none if it is not a mount point.
func carriersOf(root fs.FS, mounts []mountinfo.Mount, point string) carriers {
	c := carriers{devices: map[string]bool{}}
	m, ok := mountAt(mounts, point)
	if !ok {
		if point == "/" {
			c.unknown = "what / is on is not listed"
		}
		return c
	}
	if slices.Contains(diskless, m.FSType) {
		return c
	}
	todo, err := devicesOf(root, m)
	if err != nil {
		c.unknown = fmt.Sprintf("what %s (%s) is on cannot be told: %v", point, m.FSType, err)
		return c
	}
	for len(todo) > 0 {
		name := todo[0]
		todo = todo[1:]
		if c.devices[name] {
			continue
		}
		c.devices[name] = true
		slaves, err := readSlaves(root, name)
		if err != nil {
			c.unknown = fmt.Sprintf("what %s is made of cannot be told: %v", name, err)
			continue
		}
		if _, err := fs.Stat(root, "sys/class/block/"+name+"/loop/backing_file"); err == nil {
			c.unknown = fmt.Sprintf("%s is on a file, by %s", point, name)
		}
		todo = append(todo, slaves...)
	}
	return c
}

// devicesOf returns the names in /sys/class/block of the devices that a mounted
// file system says it is on.
func devicesOf(root fs.FS, m mountinfo.Mount) ([]string, error) {
	// the number of a block device, or an anonymous one of a file system that has several or none
	if !strings.HasPrefix(m.Dev, "0:") {
		event, err := fs.ReadFile(root, "sys/dev/block/"+m.Dev+"/uevent")
		if err != nil {
			return nil, err
		}
		for l := range strings.Lines(string(event)) {
			if name, ok := strings.CutPrefix(strings.TrimSuffix(l, "\n"), "DEVNAME="); ok {
				return []string{sysNameOf(name)}, nil
			}
		}
		return nil, fmt.Errorf("device %s has no name", m.Dev)
	}
	var names []string
	for _, source := range strings.Split(m.Source, ":") { // bcachefs has colons between them
		if !strings.HasPrefix(source, "/dev/") {
			return nil, fmt.Errorf("%.80q is not a device", source)
		}
		device, err := resolve(root, path.Clean(source))
		if err != nil {
			return nil, err
		}
		if _, err := fs.Stat(root, "sys/class/block/"+sysNameOf(device)); err != nil {
			return nil, err
		}
		names = append(names, sysNameOf(device))
	}
	if m.FSType == "btrfs" { // names one of its devices
		return btrfsDevices(root, names[0])
	}
	return names, nil
}

// btrfsDevices returns the devices of the btrfs that a device belongs to.
func btrfsDevices(root fs.FS, sysName string) ([]string, error) {
	systems, err := fs.ReadDir(root, "sys/fs/btrfs")
	if err != nil {
		return nil, err
	}
	for _, s := range systems {
		devices, err := fs.ReadDir(root, "sys/fs/btrfs/"+s.Name()+"/devices")
		if errors.Is(err, fs.ErrNotExist) { // "features" is not a file system
			continue
		}
		if err != nil {
			return nil, err
		}
		var names []string
		for _, d := range devices {
			names = append(names, d.Name())
		}
		if slices.Contains(names, sysName) {
			return names, nil
		}
	}
	return nil, fmt.Errorf("%s is in no btrfs", sysName)
}

// mountAt returns the mount that is to be seen at a mount point; ok is false if
// nothing is mounted there.
func mountAt(mounts []mountinfo.Mount, point string) (m mountinfo.Mount, ok bool) {
	for _, c := range mounts {
		over := func(o mountinfo.Mount) bool { return o.Parent == c.ID && o.ID != c.ID && o.Point == point }
		if c.Point == point && !slices.ContainsFunc(mounts, over) {
			m, ok = c, true
		}
	}
	return m, ok
}
