package discover

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// maxLinks is how many symbolic links are followed, as Linux does.
const maxLinks = 40

// A volume is an active LUKS2 volume.
type volume struct {
	sysName string // of the mapping in /sys/class/block, such as dm-0
	name    string // of the mapping, as in /dev/mapper
	device  string // the path of the device that the header is on, by the kernel's name
	err     error  // why there is no device
}

// activeVolumes returns the active LUKS2 volumes, by number.
func activeVolumes(root fs.FS) ([]volume, error) {
	disks, err := fs.ReadDir(root, "sys/block")
	if err != nil {
		return nil, fmt.Errorf("active volumes: %w", err)
	}
	var volumes []volume
	for _, d := range disks {
		uuid, err := mappingUUID(root, d.Name())
		if err != nil {
			return nil, fmt.Errorf("active volumes: %w", err)
		}
		// type, UUID of the header, name of the mapping (cryptsetup, lib/libdevmapper.c, dm_prepare_uuid())
		if !strings.HasPrefix(uuid, "CRYPT-LUKS2-") {
			continue
		}
		v := volume{sysName: d.Name()}
		if v.name, err = line(root, "sys/block/"+d.Name()+"/dm/name"); err != nil {
			return nil, fmt.Errorf("active volumes: %w", err)
		}
		v.device, v.err = headerDevice(root, v.sysName)
		volumes = append(volumes, v)
	}
	slices.SortFunc(volumes, func(a, b volume) int {
		return cmp.Or(cmp.Compare(len(a.sysName), len(b.sysName)), cmp.Compare(a.sysName, b.sysName))
	})
	return volumes, nil
}

// mappingUUID returns what device-mapper knows a device by, "" if the device is
// none of its or not there any more.
func mappingUUID(root fs.FS, sysName string) (string, error) {
	uuid, err := line(root, "sys/block/"+sysName+"/dm/uuid")
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return uuid, err
}

// line reads a file of /sys that has one line.
func line(root fs.FS, name string) (string, error) {
	b, err := fs.ReadFile(root, name)
	return strings.TrimSuffix(string(b), "\n"), err
}

// headerDevice returns the path of the device that the header of a volume is
// on. That is the one below it, or below those that cryptsetup puts in between
// for integrity or reencryption. A detached header is elsewhere.
func headerDevice(root fs.FS, sysName string) (string, error) {
	headers, seen := map[string]bool{}, map[string]bool{}
	for todo := []string{sysName}; len(todo) > 0; todo = todo[1:] {
		at := todo[0]
		if seen[at] {
			continue
		}
		seen[at] = true
		slaves, err := readSlaves(root, at)
		if err != nil {
			return "", cannotTell("what is below %s: %v", at, err)
		}
		for _, s := range slaves {
			uuid, err := mappingUUID(root, s)
			if err != nil {
				return "", cannotTell("what is below %s: %v", at, err)
			}
			if strings.HasPrefix(uuid, "CRYPT-SUBDEV-") {
				todo = append(todo, s)
			} else {
				headers[s] = true
			}
		}
	}
	if len(headers) != 1 {
		return "", cannotTell("%s: %d devices are below it, not one", sysName, len(headers))
	}
	for s := range headers {
		sysName = s
	}
	return devPath(sysName), nil
}

// readSlaves returns the devices that a device is made of, by name. A partition
// is made of its disk.
func readSlaves(root fs.FS, sysName string) ([]string, error) {
	dir := "sys/class/block/" + sysName
	if _, err := fs.Stat(root, dir+"/partition"); err == nil {
		return diskOf(root, sysName)
	}
	slaves, err := fs.ReadDir(root, dir+"/slaves")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, s := range slaves {
		names = append(names, s.Name())
	}
	return names, nil
}

func diskOf(root fs.FS, partition string) ([]string, error) {
	disks, err := fs.ReadDir(root, "sys/block")
	if err != nil {
		return nil, err
	}
	for _, d := range disks {
		if _, err := fs.Stat(root, "sys/block/"+d.Name()+"/"+partition); err == nil {
			return []string{d.Name()}, nil
		}
	}
	return nil, fmt.Errorf("partition %s: of no disk", partition)
}

// devPath returns the path of a device, and sysNameOf its name in
// /sys/class/block, where an exclamation mark stands for a slash.
func devPath(sysName string) string { return "/dev/" + strings.ReplaceAll(sysName, "!", "/") }

func sysNameOf(device string) string {
	return strings.ReplaceAll(strings.TrimPrefix(device, "/dev/"), "/", "!")
}

// resolve follows the symbolic link that a path ends in, and those that it leads
// to. The directories before it are taken for none.
func resolve(root fs.FS, file string) (string, error) {
	for range maxLinks {
		info, err := fs.Lstat(root, strings.TrimPrefix(file, "/"))
		if err != nil {
			return "", err
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			return file, nil
		}
		target, err := fs.ReadLink(root, strings.TrimPrefix(file, "/"))
		if err != nil {
			return "", err
		}
		if !path.IsAbs(target) {
			target = path.Join(path.Dir(file), target)
		}
		file = path.Clean(target)
	}
	return "", fmt.Errorf("%.80q: too many symbolic links", file)
}

// StablePath returns the path of a device by its UUID, which it has at each boot,
// if udev made one; else the path itself.
func StablePath(root fs.FS, device string) string {
	const dir = "/dev/disk/by-uuid"
	links, err := fs.ReadDir(root, dir[1:])
	if err != nil {
		return device
	}
	for _, l := range links {
		link := path.Join(dir, l.Name())
		if target, err := resolve(root, link); err == nil && target == device {
			return link
		}
	}
	return device
}
