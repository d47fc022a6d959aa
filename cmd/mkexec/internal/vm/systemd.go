package vm

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mkexec/mkexec/measure/uki/ukitest"
)

// A System is a small Debian with systemd as PID 1, without udev, D-Bus and logind. They are paths.
type System struct {
	Archive string // a cpio archive
	Initrd  string // the same, compressed
}

func systemIn(dir string, version int) System {
	name := filepath.Join(dir, fmt.Sprintf("system-%d.cpio", version))
	return System{Archive: name, Initrd: name + ".zst"}
}

// MachineID is the /etc/machine-id of every system.
const MachineID = "6d6b657865632d6d616368696e652d31"

// A SystemdConfig describes a UKI of Debian's kernel and a [System].
type SystemdConfig struct {
	System System
	// These are as in ImageConfig.
	Stub, Name, Cmdline string
	Linux               []byte
	// OnDisk makes the initrd a real one, with an /etc/initrd-release: it measures enter-initrd, mounts the root file system of
	// SystemdDisks, measures leave-initrd and switches to it. Else the initrd is the system, which measures sysinit and ready only.
	OnDisk bool
	// Files are more files in the initrd, by paths without symbolic links: /usr/bin, not /bin. A unit is enabled by a file too:
	// /etc/systemd/system/TARGET.d/NAME.conf with Wants=.
	Files map[string]File
	// Script is what a shell runs when the boot has ended. The machine powers off after it. InitrdScript is for OnDisk: the initrd
	// runs it between enter-initrd and leave-initrd, the root file system at /sysroot. They have the functions of Init, and
	//
	//	esp                mounts the partition of Config.ESP at /efi, read only
	//	disk NAME          prints the device of the Disk of that name
	//	leave COMMAND...   runs COMMAND, such as systemctl kexec, and waits for the end of the system
	//
	// A program in /usr/lib/systemd/system-shutdown, say, gets them by: . /usr/lib/mkexec-test/functions
	Script, InitrdScript string
}

// SystemdImage builds the UKI.
func (a *Assets) SystemdImage(c SystemdConfig) ([]byte, error) {
	stub, linux, err := a.stubAndLinux(c.Stub, c.Linux)
	if err != nil {
		return nil, err
	}
	initrd, err := SystemdInitrd(c)
	if err != nil {
		return nil, err
	}
	return ukitest.Build(stub,
		ukitest.Section{Name: ".osrel", Data: fmt.Appendf(nil, "ID=%s\nPRETTY_NAME=\"mkexec %s\"\n", c.Name, c.Name)},
		ukitest.Section{Name: ".cmdline", Data: []byte(c.Cmdline)},
		ukitest.Section{Name: ".uname", Data: []byte(a.Release)},
		ukitest.Section{Name: ".linux", Data: linux},
		ukitest.Section{Name: ".initrd", Data: initrd})
}

// SystemdInitrd returns the initrd of the UKI: Debian's part of it is compressed, the rest is not.
func SystemdInitrd(c SystemdConfig) ([]byte, error) {
	initrd, err := os.ReadFile(c.System.Initrd)
	if err != nil {
		return nil, err
	}
	files := systemFiles()
	files[testDir+"script"] = File{[]byte(c.Script), 0o644}
	if c.OnDisk {
		files[testDir+"initrd-script"] = File{[]byte(c.InitrdScript), 0o644}
		maps.Copy(files, initrdFiles())
	}
	maps.Copy(files, c.Files)
	initrd = append(initrd, make([]byte, -len(initrd)&3)...)
	return append(initrd, Archive(files)...), nil
}

// SystemdDisks returns the Config.Args that give a machine the root file system of a system with more files. It is a disk in a
// file in dir, which the first initrd that uses it fills. What is written to it is there after a kexec, and in a later machine
// with a disk in the same dir.
func (a *Assets) SystemdDisks(dir string, system System, files map[string]File) ([]string, error) {
	root, contents := filepath.Join(dir, "root.ext4"), filepath.Join(dir, "system.cpio")
	if _, err := os.Stat(root); err != nil {
		if out, err := exec.Command("cp", "--sparse=always", a.EmptyRoot, root).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("cp: %w: %s", err, out)
		}
	}
	archive, err := os.ReadFile(system.Archive)
	if err != nil {
		return nil, err
	}
	const header = 110
	end := bytes.LastIndex(archive, []byte("TRAILER!!!")) - header
	if end < 0 {
		return nil, fmt.Errorf("%s: not an archive", system.Archive)
	}
	all := systemFiles()
	maps.Copy(all, files)
	if err := os.WriteFile(contents, append(archive[:end], Archive(all)...), 0o600); err != nil {
		return nil, err
	}
	return slices.Concat(Disk("root", root), Disk("system", contents)), nil
}

// Disk returns the Config.Args that give a machine a disk whose content is a file, and zeros up to the end of a block. The guest
// finds it by its name.
func Disk(name, file string) []string {
	return []string{
		"-drive", "if=none,id=" + name + ",format=raw,file=" + file,
		"-device", "virtio-blk-pci,drive=" + name + ",serial=" + name,
	}
}

// testDir is the directory of the scripts in a guest.
const testDir = "usr/lib/mkexec-test/"

// systemFiles make a system, or an initrd, run scripts.
func systemFiles() map[string]File {
	files := map[string]File{
		testDir + "functions": {[]byte(functions), 0o644},
		"etc/machine-id":      {[]byte(MachineID + "\n"), 0o444},
		// Nothing of systemd's own on the console.
		"etc/systemd/system.conf.d/mkexec-test.conf": {[]byte("[Manager]\nShowStatus=no\n"), 0o644},
		"etc/systemd/system/emergency.service":       {[]byte(emergencyUnit), 0o644},
		"etc/systemd/system/mkexec-test.service":     {[]byte(scriptUnit), 0o644},
	}
	want(files, "multi-user.target", "mkexec-test.service")
	return files
}

// initrdFiles make it an initrd.
func initrdFiles() map[string]File {
	files := map[string]File{
		"etc/initrd-release":                             {[]byte("ID=debian\n"), 0o644},
		testDir + "sysroot":                              {[]byte(sysrootScript), 0o644},
		"etc/systemd/system/mkexec-test-sysroot.service": {[]byte(sysrootUnit), 0o644},
		"etc/systemd/system/mkexec-test-initrd.service":  {[]byte(initrdUnit), 0o644},
		// It looks into /etc/fstab first.
		"etc/systemd/system/initrd-parse-etc.service.d/mkexec-test.conf": {
			[]byte("[Service]\nExecStart=\nExecStart=systemctl --no-block start initrd-cleanup.service\n"), 0o644},
		// There is no udev.
		"etc/systemd/system/initrd-udevadm-cleanup-db.service": {nil, 0o644},
	}
	want(files, "initrd-root-fs.target", "mkexec-test-sysroot.service")
	want(files, "initrd.target", "mkexec-test-initrd.service")
	return files
}

// want adds a unit to a target.
func want(files map[string]File, target, unit string) {
	files["etc/systemd/system/"+target+".d/mkexec-test.conf"] = File{fmt.Appendf(nil, "[Unit]\nRequires=%s\n", unit), 0o644}
}

// functions are those of Init and more, for scripts that systemd starts.
var functions = prologue[strings.Index(prologue, "section() {"):] + `
exec </dev/null >/dev/ttyS0 2>&1

blocks() {
	modprobe -a virtio_pci virtio_blk
}

esp() {
	blocks && modprobe vfat || return
	for esp_device in /dev/vd?1; do
		mount -t vfat -o ro "$esp_device" /efi && return
	done
}

disk() {
	blocks || return
	for disk_dir in /sys/block/vd?; do
		if [ "$(cat "$disk_dir/serial")" = "$1" ]; then
			echo "/dev/${disk_dir##*/}"
			return
		fi
	done
	echo "disk $1: not there" >&2
	return 1
}

leave() {
	dmesg -n 4 # for what is said at the end of the shutdown
	"$@" && exec sleep 600
}

# run SCRIPT: the script of the image that is running lies in /run, if that had an initrd
run() {
	cd /
	if [ -e /run/mkexec-test/$1 ]; then . /run/mkexec-test/$1; else . /usr/lib/mkexec-test/$1; fi
}

failures() {
	systemctl --failed --no-pager
	journalctl -b --no-pager -o short-monotonic | grep -v ' kernel: ' | tail -n 100
}
`

const sysrootScript = `. /usr/lib/mkexec-test/functions
root=$(disk root) && mount -t ext4 -o noatime "$root" /sysroot || exit
if [ ! -e /sysroot/installed ]; then
	system=$(disk system) && cd /sysroot && cpio -idmu <"$system" 2>/dev/null && sync && : >installed || exit
fi
mkdir -p /run/mkexec-test && cp /usr/lib/mkexec-test/script /run/mkexec-test/
`

const sysrootUnit = `[Unit]
DefaultDependencies=no
After=initrd-root-device.target
Before=initrd-root-fs.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh /usr/lib/mkexec-test/sysroot
`

const initrdUnit = `[Unit]
After=systemd-pcrphase-initrd.service mkexec-test-sysroot.service
Before=initrd.target
[Service]
Type=oneshot
ExecStart=/bin/sh -c '. /usr/lib/mkexec-test/functions; run initrd-script'
`

const scriptUnit = `[Unit]
After=multi-user.target systemd-pcrphase.service
[Service]
ExecStart=/bin/sh -c '. /usr/lib/mkexec-test/functions; run script; sync; poweroff -f'
`

const emergencyUnit = `[Unit]
DefaultDependencies=no
After=systemd-journald.service
[Service]
ExecStart=/bin/sh -c '. /usr/lib/mkexec-test/functions; section failures failures; poweroff -f'
`
