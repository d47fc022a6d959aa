package discover_test

// What is found on machines that are made up here: their /sys is laid out as
// Linux documents and shows it (Documentation/ABI/testing/sysfs-block-dm,
// sysfs-class-block), with files in place of symbolic links but in TestSymlinks.
// It does not prove that a kernel lays it out so: this needs device-mapper, and
// so a VM. The credentials are of systemd-creds 262 and 252.

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/policy"
	"github.com/mkexec/mkexec/policy/discover"
)

// A machine is the root of one that is made up.
type machine struct{ fstest.MapFS }

func (m machine) write(name, text string) machine {
	m.MapFS[strings.TrimPrefix(name, "/")] = &fstest.MapFile{Data: []byte(text), Mode: 0o644}
	return m
}

func (m machine) link(name, target string) machine {
	m.MapFS[strings.TrimPrefix(name, "/")] = &fstest.MapFile{Data: []byte(target), Mode: fs.ModeSymlink | 0o777}
	return m
}

// block adds a block device with its number and those that it is made of.
func (m machine) block(dev, sysName string, slaves ...string) machine {
	name := strings.ReplaceAll(sysName, "!", "/")
	m.write("dev/"+name, "")
	for _, dir := range []string{"sys/dev/block/" + dev, "sys/class/block/" + sysName, "sys/block/" + sysName} {
		m.write(dir+"/uevent", "MAJOR=1\nDEVNAME="+name+"\nDEVTYPE=disk\n")
		for _, s := range slaves {
			m.write(dir+"/slaves/"+s+"/dev", "")
		}
	}
	return m
}

// partition adds a partition of a disk.
func (m machine) partition(dev, disk, sysName string) machine {
	m.write("dev/"+sysName, "")
	for _, dir := range []string{"sys/dev/block/" + dev, "sys/class/block/" + sysName, "sys/block/" + disk + "/" + sysName} {
		m.write(dir+"/uevent", "DEVNAME="+sysName+"\n").write(dir+"/partition", "1\n")
	}
	return m
}

// mapping adds a device of device-mapper.
func (m machine) mapping(dev, sysName, uuid, name string, slaves ...string) machine {
	m.block(dev, sysName, slaves...)
	for _, dir := range []string{"sys/class/block/", "sys/block/"} {
		m.write(dir+sysName+"/dm/uuid", uuid+"\n").write(dir+sysName+"/dm/name", name+"\n")
	}
	return m.link("dev/mapper/"+name, "../"+sysName)
}

// mounts adds the mounts, each "MAJ:MIN POINT TYPE SOURCE".
func (m machine) mounts(lines ...string) machine {
	var b strings.Builder
	for i, l := range lines {
		f := strings.Fields(l)
		parent := 20
		if i == 0 {
			parent = 1
		}
		fmt.Fprintf(&b, "%d %d %s / %s rw,relatime shared:1 - %s %s rw\n", 20+i, parent, f[0], f[1], f[2], f[3])
	}
	return m.write("proc/self/mountinfo", b.String())
}

const luks = "CRYPT-LUKS2-0123456789abcdef0123456789abcdef-"

// disk is a machine with one disk of four partitions, and no root on any.
func disk() machine {
	m := machine{fstest.MapFS{}}
	m.block("254:0", "vda")
	for n := 1; n <= 4; n++ {
		m.partition(fmt.Sprintf("254:%d", n), "vda", fmt.Sprintf("vda%d", n))
	}
	return m
}

// rooted is one with an encrypted root file system on /dev/vda3, by LVM.
func rooted() machine {
	return disk().mapping("253:0", "dm-0", luks+"crypt", "crypt", "vda3").
		mapping("253:1", "dm-1", "LVM-x", "vg-root", "dm-0").
		mapping("253:2", "dm-2", luks+"home", "home", "vda4").
		mounts("253:1 / ext4 /dev/mapper/vg-root", "253:2 /home ext4 /dev/mapper/home")
}

const (
	inInitrd measure.Phase = "enter-initrd"
	inHost   measure.Phase = "enter-initrd:leave-initrd"
	sysinit  measure.Phase = "enter-initrd:leave-initrd:sysinit"
	ready    measure.Phase = "enter-initrd:leave-initrd:sysinit:ready"
)

// describe says what is found in one line each.
func describe(found []discover.Found) []string {
	var lines []string
	for _, f := range found {
		l := fmt.Sprintf("%s: %s %s, at %s", f.Name, f.Source.Kind, f.Source.Path, f.At)
		for _, p := range f.OrAt {
			l += " or " + string(p)
		}
		l = strings.NewReplacer(string(ready), "ready", string(sysinit), "sysinit", string(inHost), "host", string(inInitrd), "initrd").Replace(l)
		if f.Optional {
			l += ", optional"
		}
		if f.Signature != "" {
			l += ", signature " + f.Signature
		}
		if f.PCRLock != "" {
			l += ", pcrlock " + f.PCRLock
		}
		if f.Extends != nil {
			l += fmt.Sprintf(", extends %v", f.Extends)
		}
		if f.Note != "" {
			l += "; " + f.Note
		}
		if f.Err != nil {
			l += "; error: " + f.Err.Error()
		}
		lines = append(lines, l)
	}
	return lines
}

// check compares what is found with lines, which may end in "…".
func check(t *testing.T, name string, root fs.FS, want ...string) {
	t.Helper()
	found, err := discover.Find(root)
	if err != nil {
		t.Errorf("%s: %v", name, err)
	}
	got := describe(found)
	ok := len(got) == len(want)
	for i := range want {
		prefix, open := strings.CutSuffix(want[i], "…")
		ok = ok && (got[i] == want[i] || open && strings.HasPrefix(got[i], prefix))
	}
	if !ok {
		t.Errorf("%s:\n%s\nwant\n%s", name, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for _, f := range found {
		if f.Err != nil && !errors.Is(f.Err, policy.ErrCannotTell) {
			t.Errorf("%s: %v: not one that cannot be told", name, f.Err)
		}
	}
}

const unlisted = "active, but not in /etc/crypttab"

func TestActive(t *testing.T) {
	t.Parallel()
	const anytime = "at initrd or host or sysinit or ready; " + unlisted
	for _, test := range []struct {
		name string
		root machine
		want []string
	}{
		{"nothing", disk().mounts("254:3 / ext4 /dev/vda3"), nil},
		{"an initrd", disk().mapping("253:0", "dm-0", luks+"crypt", "crypt", "vda3").mounts("0:2 / rootfs rootfs"),
			[]string{"crypt (/dev/vda3): luks /dev/vda3, " + anytime}},
		{"LVM on LUKS", rooted(), []string{
			"root (/dev/vda3): luks /dev/vda3, at initrd; " + unlisted,
			"home (/dev/vda4): luks /dev/vda4, " + anytime,
		}},
		{"root is not the first", disk().mapping("253:2", "dm-2", luks+"a", "a", "vda2").mapping("253:10", "dm-10", luks+"b", "b", "vda3").
			mapping("253:11", "dm-11", luks+"u", "u", "vda4").mounts("253:10 / xfs /dev/dm-10", "253:11 /usr xfs /dev/dm-11"), []string{
			"root (/dev/vda3): luks /dev/vda3, at initrd; " + unlisted,
			"usr (/dev/vda4): luks /dev/vda4, at initrd; " + unlisted,
			"a (/dev/vda2): luks /dev/vda2, " + anytime,
		}},
		{"LUKS1, plain, another mapping", disk().mapping("253:0", "dm-0", "CRYPT-LUKS1-0-a", "a", "vda3").mapping("253:1", "dm-1", "CRYPT-PLAIN-b", "b", "vda2").
			mapping("253:2", "dm-2", "", "c", "vda4").mounts("253:0 / ext4 /dev/dm-0"), nil},
		{"RAID of two", disk().mapping("253:0", "dm-0", luks+"a", "a", "vda2").mapping("253:1", "dm-1", luks+"b", "b", "vda3").
			block("9:127", "md127", "dm-0", "dm-1").partition("259:0", "md127", "md127p1").mounts("259:0 / ext4 /dev/md127p1"), []string{
			"root (/dev/vda2): luks /dev/vda2, at initrd; " + unlisted,
			"root (/dev/vda3): luks /dev/vda3, at initrd; " + unlisted,
		}},
		{"LUKS on RAID", disk().block("9:0", "md0", "vda2", "vda3").mapping("253:0", "dm-0", luks+"a", "a", "md0").mounts("253:0 / ext4 /dev/dm-0"),
			[]string{"root (/dev/md0): luks /dev/md0, at initrd; " + unlisted}},
		{"LUKS with integrity", disk().mapping("253:0", "dm-0", "CRYPT-SUBDEV-0-a_dif", "a_dif", "vda3").mapping("253:1", "dm-1", luks+"a", "a", "dm-0").
			mounts("253:1 / ext4 /dev/dm-1"), []string{"root (/dev/vda3): luks /dev/vda3, at initrd; " + unlisted}},
		{"verity on LUKS", disk().mapping("253:0", "dm-0", luks+"a", "a", "vda3").mapping("253:1", "dm-1", "CRYPT-VERITY-0-root", "root", "dm-0", "vda2").
			mounts("253:1 / erofs /dev/dm-1"), []string{"root (/dev/vda3): luks /dev/vda3, at initrd; " + unlisted}},
		{"a slash in the name", disk().block("104:2", "cciss!c0d0p2").mapping("253:0", "dm-0", luks+"a", "a", "cciss!c0d0p2").mounts("253:0 / ext4 /dev/dm-0"),
			[]string{"root (/dev/cciss/c0d0p2): luks /dev/cciss/c0d0p2, at initrd; " + unlisted}},
		{"btrfs of two", disk().mapping("253:0", "dm-0", luks+"a", "a", "vda2").mapping("253:1", "dm-1", luks+"b", "b", "vda3").mapping("253:2", "dm-2", luks+"c", "c", "vda4").
			write("sys/fs/btrfs/features/raid1c34", "0").write("sys/fs/btrfs/7-7/devices/dm-2/dev", "").
			write("sys/fs/btrfs/8-8/devices/dm-0/dev", "").write("sys/fs/btrfs/8-8/devices/dm-1/dev", "").mounts("0:26 / btrfs /dev/mapper/b"), []string{
			"root (/dev/vda2): luks /dev/vda2, at initrd; " + unlisted,
			"root (/dev/vda3): luks /dev/vda3, at initrd; " + unlisted,
			"c (/dev/vda4): luks /dev/vda4, " + anytime,
		}},
		{"bcachefs of two", disk().mapping("253:0", "dm-0", luks+"a", "a", "vda2").mounts("0:26 / bcachefs /dev/vda3:/dev/dm-0"),
			[]string{"root (/dev/vda2): luks /dev/vda2, at initrd; " + unlisted}},
		{"overlay", disk().mapping("253:0", "dm-0", luks+"a", "a", "vda2").mounts("0:26 / overlay overlay"),
			[]string{"a (/dev/vda2): luks /dev/vda2, " + anytime + `; what / (overlay) is on cannot be told: "overlay" is not a device`}},
		{"btrfs that is not listed", disk().mapping("253:0", "dm-0", luks+"a", "a", "vda2").mounts("0:26 / btrfs /dev/dm-0").write("sys/fs/btrfs/features/a", ""),
			[]string{"a (/dev/vda2): luks /dev/vda2, " + anytime + "; what / (btrfs) is on cannot be told: dm-0 is in no btrfs"}},
		{"/dev/root", disk().mapping("253:0", "dm-0", luks+"a", "a", "vda2").mounts("0:26 / btrfs /dev/root"),
			[]string{"a (/dev/vda2): luks /dev/vda2, " + anytime + "; what / (btrfs) is on cannot be told: lstat dev/root: file does not exist"}},
		{"root in a file", disk().mapping("253:0", "dm-0", luks+"a", "a", "vda2").block("7:0", "loop0").write("sys/class/block/loop0/loop/backing_file", "/x\n").mounts("7:0 / squashfs /dev/loop0"),
			[]string{"a (/dev/vda2): luks /dev/vda2, " + anytime + "; / is on a file, by loop0"}},
		{"no number", disk().mapping("253:0", "dm-0", luks+"a", "a", "vda2").mounts("8:8 / ext4 /dev/sda8"),
			[]string{"a (/dev/vda2): luks /dev/vda2, " + anytime + "; what / (ext4) is on cannot be told: open sys/dev/block/8:8/uevent: file does not exist"}},
		{"nothing at /", disk().mapping("253:0", "dm-0", luks+"a", "a", "vda2").mounts("253:0 /home ext4 /dev/dm-0"),
			[]string{"a (/dev/vda2): luks /dev/vda2, " + anytime + "; what / is on is not listed"}},
		{"nothing below", disk().mapping("253:0", "dm-0", luks+"a", "a").mounts("253:0 / ext4 /dev/dm-0"),
			[]string{"root (/dev/dm-0): luks , at initrd; " + unlisted + "; error: dm-0: 0 devices are below it, not one: cannot tell"}},
		{"two below", disk().mapping("253:0", "dm-0", luks+"a", "a", "vda2", "vda3").mounts("254:4 / ext4 /dev/vda4"),
			[]string{"a (/dev/dm-0): luks , " + anytime + "; error: dm-0: 2 devices are below it, not one: cannot tell"}},
		{"a circle", disk().mapping("253:0", "dm-0", "CRYPT-SUBDEV-0-x", "x", "dm-0").mapping("253:1", "dm-1", luks+"a", "a", "dm-0").mounts("253:0 / ext4 /dev/dm-0"),
			[]string{"a (/dev/dm-1): luks , " + anytime + "; error: dm-1: 0 devices are below it, not one: cannot tell"}},
		{"a name that is not for people", disk().mapping("253:0", "dm-0", luks+"x", "a\x1b[2J", "vda2").mounts("254:4 / ext4 /dev/vda4"),
			[]string{`"a\x1b[2J (/dev/vda2)": luks /dev/vda2, ` + anytime}},
	} {
		check(t, test.name, test.root, test.want...)
	}
}

// TestMountStack: what is mounted over another root is the root.
func TestMountStack(t *testing.T) {
	t.Parallel()
	m := disk().mapping("253:0", "dm-0", luks+"a", "a", "vda2").mapping("253:1", "dm-1", luks+"b", "b", "vda3")
	m.write("proc/self/mountinfo", "1 1 0:2 / / rw - rootfs rootfs rw\n"+
		"30 20 253:1 / / rw - ext4 /dev/dm-1 rw\n"+
		"20 1 253:0 / / rw shared:1 master:2 - ext4 /dev/dm-0 rw\n"+
		"31 30 253:0 / /my\\040disk rw - ext4 /dev/dm-0 rw\n")
	check(t, "stack", m,
		"root (/dev/vda3): luks /dev/vda3, at initrd; "+unlisted,
		"a (/dev/vda2): luks /dev/vda2, at initrd or host or sysinit or ready; "+unlisted)
}

func TestCrypttab(t *testing.T) {
	t.Parallel()
	const plugin = "; no tpm2-device= in /etc/crypttab: a token is tried where libcryptsetup has systemd's plugin"
	root := "root (/dev/vda3): luks /dev/vda3, at initrd"
	home := "home (/dev/vda4): luks /dev/vda4, at "
	for _, test := range []struct {
		name, tab string
		want      []string
	}{
		{"both, by UUID and by path", "crypt UUID=3-3 none tpm2-device=auto\nhome /dev/vda4 none tpm2-device=auto", []string{root, home + "host"}},
		{"by another name", "cryptroot UUID=3-3 - tpm2-device=auto\nhome /dev/vda4 none luks", []string{root, home + "host" + plugin}},
		{"root is never optional", "crypt UUID=3-3 none tpm2-device=auto,nofail,noauto\nhome /dev/vda4 none tpm2-device=auto,nofail",
			[]string{root, home + "host or sysinit or ready, optional"}},
		{"noauto, and what undoes it", "crypt /dev/vda3 - tpm2-device=auto\nhome /dev/vda4 none noauto,tpm2-device=auto,auto", []string{root, home + "host"}},
		{"noauto", "crypt /dev/vda3 - tpm2-device=auto\nhome /dev/vda4 none noauto,tpm2-device=auto", []string{root, home + "host or sysinit or ready, optional"}},
		{"network", "crypt /dev/vda3 - tpm2-device=auto\nhome /dev/vda4 none _netdev,tpm2-device=auto", []string{root, home + "host or sysinit"}},
		{"initrd", "crypt /dev/vda3 - tpm2-device=auto\nhome /dev/vda4 none x-initrd.attach,tpm2-device=auto,nofail", []string{root, home + "initrd"}},
		{"files", "crypt /dev/vda3 - tpm2-device=auto,tpm2-signature=/a\\,b,tpm2-signature=/boot/s.json\nhome /dev/vda4 none tpm2-device=auto,tpm2-pcrlock=/etc/l.json",
			[]string{root + ", signature /boot/s.json", home + "host, pcrlock /etc/l.json"}},
		{"measured", "crypt /dev/vda3 - tpm2-device=auto,tpm2-measure-pcr=yes\nhome /dev/vda4 none tpm2-device=auto,tpm2-measure-pcr=7",
			[]string{root + ", extends [15]", home + "host, extends [7]"}},
		{"header in a file", "crypt /dev/vda3 - tpm2-device=auto,header=/boot/h.img\nhome /dev/vda4 - tpm2-device=auto",
			[]string{"root (/boot/h.img): luks /boot/h.img, at initrd", home + "host"}},
		{"header that is not there", "crypt /dev/vda3 - tpm2-device=auto,header=/no\nhome /dev/vda4 - tpm2-device=auto",
			[]string{"root (/no): luks /no, at initrd; error: /no: not there: cannot tell", home + "host"}},
		{"header elsewhere", "crypt /dev/vda3 - tpm2-device=auto,header=/h.img:LABEL=keys\nhome /dev/vda4 - tpm2-device=auto,header=h",
			[]string{`root (/dev/dm-0): luks , at initrd; error: header="/h.img:LABEL=keys": on another device: cannot tell`,
				`home (/dev/dm-2): luks , at host; error: header="h": not an absolute path, which systemd refuses: cannot tell`}},
		{"key files", "crypt /dev/vda3 /etc/root.key luks\nhome /dev/vda4 /etc/home.key luks",
			[]string{root + `; opened with the key file "/etc/root.key", not with a token`, home + `host, optional; opened with the key file "/etc/home.key", not with a token`}},
		{"key files sealed", "crypt /dev/vda3 /k tpm2-device=auto\nhome /dev/vda4 none plain,tpm2-device=auto",
			[]string{root + `; error: the key is sealed in "/k", not in a token: not supported: cannot tell`,
				home + "host; error: tpm2-device= for a volume that is not of LUKS: not supported: cannot tell"}},
		{"paths that systemd refuses", "crypt /dev/vda3 - tpm2-device=auto,tpm2-signature=s\nhome /dev/vda4 none tpm2-device=auto,tpm2-pcrlock=",
			[]string{root + `; error: tpm2-signature="s": not an absolute path, which systemd refuses: cannot tell`,
				home + `host; error: tpm2-pcrlock="": not an absolute path, which systemd refuses: cannot tell`}},
		{"not active", "crypt /dev/vda3 - tpm2-device=auto\nhome /dev/vda4 - tpm2-device=auto\nusb UUID=9-9 - tpm2-device=auto,nofail\ndata /dev/vda2 - tpm2-device=auto\nswap /dev/vda1 /dev/urandom swap\nold /dev/vda1 - tcrypt",
			[]string{root, home + "host",
				"usb (/dev/disk/by-uuid/9-9): luks /dev/disk/by-uuid/9-9, at host or sysinit or ready, optional; error: /dev/disk/by-uuid/9-9: not there: cannot tell",
				"data (/dev/vda2): luks /dev/vda2, at host"}},
		{"volume in a file", "crypt /dev/vda3 - tpm2-device=auto\nhome /dev/vda4 - tpm2-device=auto\nimage /var/x.img - tpm2-device=auto",
			[]string{root, home + "host", "image (/var/x.img): luks /var/x.img, at host"}},
		{"bad lines", "crypt /dev/vda3 - tpm2-device=auto\nhome\nhome /dev/vda4 - tpm2-device=auto\nb /dev/vda2 - tpm2-signature=\\x\n",
			[]string{root, home + "host",
				`/etc/crypttab line 2: luks , at host; error: /etc/crypttab: line 2: "home": no device: cannot tell`,
				`b (/dev/vda2): luks /dev/vda2, at host; error: /etc/crypttab: line 4: options "tpm2-signature=\\x": a backslash that is not before a comma: cannot tell`}},
	} {
		m := rooted().link("dev/disk/by-uuid/3-3", "../../vda3").write("boot/h.img", "").write("var/x.img", "").write("etc/crypttab", test.tab)
		check(t, test.name, m, test.want...)
	}
}

// TestUndecided: where / is cannot be told, an active volume may be wanted in the
// initrd, whatever /etc/crypttab says; others not.
func TestUndecided(t *testing.T) {
	t.Parallel()
	m := rooted().mounts("0:30 / zfs pool/root").write("etc/crypttab", "crypt /dev/vda3 - tpm2-device=auto,nofail\nhome /dev/vda4 - tpm2-device=auto,x-initrd.attach,nofail\ndata /dev/vda2 - tpm2-device=auto,nofail")
	const why = `what / (zfs) is on cannot be told: "pool/root" is not a device`
	check(t, "zfs", m,
		"crypt (/dev/vda3): luks /dev/vda3, at initrd or host or sysinit or ready; "+why,
		"home (/dev/vda4): luks /dev/vda4, at initrd; "+why,
		"data (/dev/vda2): luks /dev/vda2, at host or sysinit or ready, optional")
}

// TestLoop: a volume in a file is the one of its loop device.
func TestLoop(t *testing.T) {
	t.Parallel()
	m := disk().block("7:0", "loop0").mapping("253:0", "dm-0", luks+"image", "image", "loop0").mounts("254:3 / ext4 /dev/vda3").
		write("var/x.img", "").write("etc/crypttab", "image /var/x.img - tpm2-device=auto")
	check(t, "loop", m, "image (/var/x.img): luks /var/x.img, at host")
}

func TestSearch(t *testing.T) {
	t.Parallel()
	m := disk()
	for _, test := range []struct{ add, signature, image, publicKey string }{ // image: beside one that has its own
		{"etc/systemd/system.conf", "", "", ""},
		{"run/systemd/tpm2-pcr-signature.json", "", "", ""}, // that of this system's image
		{"usr/lib/systemd/tpm2-pcr-signature.json", "/usr/lib/systemd/tpm2-pcr-signature.json", "", ""},
		{"usr/local/lib/systemd/tpm2-pcr-signature.json", "/usr/local/lib/systemd/tpm2-pcr-signature.json", "", ""},
		{"usr/lib/systemd/tpm2-pcr-public-key.pem", "/usr/local/lib/systemd/tpm2-pcr-signature.json", "", "/usr/lib/systemd/tpm2-pcr-public-key.pem"},
		{"run/systemd/tpm2-pcr-public-key.pem", "/usr/local/lib/systemd/tpm2-pcr-signature.json", "", "/run/systemd/tpm2-pcr-public-key.pem"},
		{"etc/systemd/tpm2-pcr-public-key.pem", "/usr/local/lib/systemd/tpm2-pcr-signature.json", "", "/etc/systemd/tpm2-pcr-public-key.pem"},
		{"etc/systemd/tpm2-pcr-signature.json", "/etc/systemd/tpm2-pcr-signature.json", "/etc/systemd/tpm2-pcr-signature.json", "/etc/systemd/tpm2-pcr-public-key.pem"},
	} {
		m.write(test.add, "")
		if got := discover.SignatureFile(m, false); got != test.signature {
			t.Errorf("with %s: signature %s", test.add, got)
		}
		if got := discover.SignatureFile(m, true); got != test.image {
			t.Errorf("with %s: signature %s beside the image's", test.add, got)
		}
		if got := discover.PublicKeyFile(m); got != test.publicKey {
			t.Errorf("with %s: public key %s", test.add, got)
		}
	}
}

func TestPCRLock(t *testing.T) {
	t.Parallel()
	m := disk().mounts("254:3 / ext4 /dev/vda3").write("etc/systemd/pcrlock.json", "{}")
	check(t, "not there", m)
	const note = ", at initrd, optional; what tokens that refer to it depend on"
	m.write("var/lib/systemd/pcrlock.json", "{}")
	check(t, "made", m, "/var/lib/systemd/pcrlock.json: pcrlock /var/lib/systemd/pcrlock.json"+note)
	m.write("run/systemd/pcrlock.json", "{}")
	check(t, "from a credential", m, "/run/systemd/pcrlock.json: pcrlock /run/systemd/pcrlock.json"+note)
}

// recorded returns a file of testdata/, a credential of systemd-creds.
func recorded(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestCredentials(t *testing.T) {
	t.Parallel()
	bound, old, host := recorded(t, "tpm2-7-262.cred"), recorded(t, "tpm2-7-252.cred"), recorded(t, "host-262.cred")
	const esp = "E:ID_PART_ENTRY_TYPE=c12a7328-f81f-11d2-ba4b-00a0c93ec93b\n"
	m := disk().mounts("254:3 / ext4 /dev/vda3", "254:1 /efi vfat /dev/vda1").write("run/udev/data/b254:1", esp).
		write("etc/credstore.encrypted/wireguard", bound).
		write("etc/credstore.encrypted/nothing", host).
		write("etc/credstore.encrypted/masked", host).
		write("etc/credstore.encrypted/folder/inside", bound).
		write("run/credstore.encrypted/masked", bound).
		write("usr/local/lib/credstore.encrypted/local", old).
		write("usr/lib/credstore.encrypted/a\nb", "hello\n").
		write("usr/lib/credstore.encrypted/unbound", recorded(t, "tpm2-262.cred")).
		write("etc/credstore/plain", "secret").
		write("efi/loader/credentials/x.CRED", bound).
		write("efi/loader/credentials/pcrlock.x.cred", recorded(t, "null-262.cred")).
		write("efi/loader/credentials/bad.cred", "AAAA").
		write("efi/loader/credentials/readme.txt", "x")
	m.MapFS["run/credstore.encrypted/fifo"] = &fstest.MapFile{Mode: fs.ModeNamedPipe}
	m.MapFS["run/credstore.encrypted/large"] = &fstest.MapFile{Data: make([]byte, 2<<20+1)}
	service := "at host or sysinit or ready; wanted when a service that names it starts"
	boot := "at  or initrd or host or sysinit or ready; wanted when a service that names it starts, if the image is on this partition"
	check(t, "credentials", m,
		"/etc/credstore.encrypted/wireguard: credential /etc/credstore.encrypted/wireguard, "+service,
		"/run/credstore.encrypted/fifo: credential /run/credstore.encrypted/fifo, "+service+"; error: not a regular file: cannot tell",
		"/run/credstore.encrypted/large: credential /run/credstore.encrypted/large, "+service+"; error: /run/credstore.encrypted/large: more than 2097152 bytes: cannot tell",
		"/usr/local/lib/credstore.encrypted/local: credential /usr/local/lib/credstore.encrypted/local, "+service,
		`"/usr/lib/credstore.encrypted/a\nb": credential /usr/lib/credstore.encrypted/a`+"\nb, "+service+`; error: credential: not base64: "hello\n": cannot tell`,
		"/efi/loader/credentials/bad.cred: credential /efi/loader/credentials/bad.cred, "+boot+"; error: credential: at byte 0: key type: 16 bytes, but only 3 are left: cannot tell",
		"/efi/loader/credentials/x.CRED: credential /efi/loader/credentials/x.CRED, "+boot)
}

// TestIncomplete: what cannot be looked at is an error, and the rest is found.
func TestIncomplete(t *testing.T) {
	t.Parallel()
	without := func(dir string) machine {
		m := rooted().write("etc/credstore.encrypted/x", recorded(t, "tpm2-7-262.cred"))
		for name := range m.MapFS {
			if strings.HasPrefix(name, dir) {
				delete(m.MapFS, name)
			}
		}
		return m
	}
	for _, test := range []struct {
		name  string
		root  fs.FS
		found int
		want  string
	}{
		{"no /sys", without("sys/"), 1, "active volumes: open sys/block: file does not exist"},
		{"no /proc", without("proc/"), 3, "open proc/self/mountinfo: file does not exist"},
		{"not a mount", rooted().write("proc/self/mountinfo", "1 2 3\n"), 2, `proc/self/mountinfo: line 1: "1 2 3": not a mount`},
		{"no dash", rooted().write("proc/self/mountinfo", "1 1 0:2 / / rw ext4 a b\n"), 2, `proc/self/mountinfo: line 1: "1 1 0:2 / / rw ext4 a b": not a mount`},
		{"a long line", rooted().write("proc/self/mountinfo", strings.Repeat("x", 2<<20)), 2, "proc/self/mountinfo: bufio.Scanner: token too long"},
		{"large /etc/crypttab", rooted().write("etc/crypttab", strings.Repeat("#", 1<<20+1)), 2, "/etc/crypttab: more than 1048576 bytes"},
		{"unreadable /etc/crypttab", refusing{rooted(), "etc/crypttab"}, 2, "open etc/crypttab: permission denied"},
		{"unreadable credentials", refusing{without("-"), "etc/credstore.encrypted"}, 2, "encrypted credentials: open etc/credstore.encrypted: permission denied"},
		{"unreadable credential", refusing{without("-"), "etc/credstore.encrypted/x"}, 3, ""},
		{"unreadable UUID", refusing{rooted(), "sys/block/dm-0/dm/uuid"}, 0, "active volumes: open sys/block/dm-0/dm/uuid: permission denied"},
		{"unreadable name", refusing{rooted(), "sys/block/dm-0/dm/name"}, 0, "active volumes: open sys/block/dm-0/dm/name: permission denied"},
	} {
		found, err := discover.Find(test.root)
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.HasPrefix(err.Error(), test.want)) || len(found) != test.found {
			t.Errorf("%s: %v\n%s\nwant %d and %s", test.name, err, strings.Join(describe(found), "\n"), test.found, test.want)
		}
	}
	found, _ := discover.Find(refusing{without("-"), "etc/credstore.encrypted/x"})
	if want := "open etc/credstore.encrypted/x: permission denied: cannot tell"; len(found) != 3 || found[2].Err == nil || found[2].Err.Error() != want {
		t.Errorf("%v, want %s", describe(found), want)
	}
}

// A refusing file system has one file that may not be opened.
type refusing struct {
	machine
	name string
}

func (r refusing) Open(name string) (fs.File, error) {
	if name == r.name {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrPermission}
	}
	return r.machine.Open(name)
}

func (r refusing) ReadFile(name string) ([]byte, error) {
	if name == r.name {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrPermission}
	}
	return r.machine.ReadFile(name)
}

func (r refusing) ReadDir(name string) ([]fs.DirEntry, error) {
	if name == r.name {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrPermission}
	}
	return r.machine.ReadDir(name)
}

// TestSymlinks: the same in a directory of the real file system, with the
// symbolic links that /sys and /dev have.
func TestSymlinks(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	link := func(name, target string) {
		t.Helper()
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, name); err != nil {
			t.Fatal(err)
		}
	}
	device := func(number, at string) {
		name := path.Base(at)
		write("sys/devices/"+at+"/uevent", "MAJOR=1\nMINOR=2\nDEVNAME="+name+"\n")
		link("sys/dev/block/"+number, "../../devices/"+at)
		link("sys/class/block/"+name, "../../devices/"+at)
		write("dev/"+name, "")
	}
	device("254:0", "pci0000:00/virtio1/block/vda")
	device("254:3", "pci0000:00/virtio1/block/vda/vda3")
	write("sys/devices/pci0000:00/virtio1/block/vda/vda3/partition", "3\n")
	device("253:0", "virtual/block/dm-0")
	device("253:1", "virtual/block/dm-1")
	write("sys/devices/virtual/block/dm-0/dm/uuid", luks+"luks-3\n")
	write("sys/devices/virtual/block/dm-0/dm/name", "luks-3\n")
	write("sys/devices/virtual/block/dm-1/dm/uuid", "LVM-a\n")
	link("sys/devices/virtual/block/dm-0/slaves/vda3", "../../../../pci0000:00/virtio1/block/vda/vda3")
	link("sys/devices/virtual/block/dm-1/slaves/dm-0", "../../dm-0")
	for _, d := range []string{"pci0000:00/virtio1/block/vda", "virtual/block/dm-0", "virtual/block/dm-1"} {
		link("sys/block/"+path.Base(d), "../devices/"+d)
	}
	link("dev/mapper/vg-root", "../dm-1")
	link("dev/disk/by-uuid/33", "../../vda3")
	link("dev/disk/by-partlabel/my\\x20disk", "../../vda3")
	link("dev/disk/by-uuid/loop", "loop")
	write("proc/self/mountinfo", "22 1 253:1 / / rw - ext4 /dev/mapper/vg-root rw\n")
	write("etc/crypttab", "luks-3 UUID=\"33\" none tpm2-device=auto\nagain PARTLABEL=my\\x20disk - tpm2-device=auto\nloop UUID=loop - tpm2-device=auto\n")
	// udev's link has a backslash, which is itself escaped if it stands in crypttab
	check(t, "links", os.DirFS(dir),
		"root (/dev/vda3): luks /dev/vda3, at initrd",
		`again (/dev/disk/by-partlabel/my\x5cx20disk): luks /dev/disk/by-partlabel/my\x5cx20disk, at host; error: /dev/disk/by-partlabel/my\x5cx20disk: not there: cannot tell`,
		`loop (/dev/disk/by-uuid/loop): luks /dev/disk/by-uuid/loop, at host; error: "/dev/disk/by-uuid/loop": too many symbolic links: cannot tell`)
}

// TestDeterministic: the same machine gives the same list.
func TestDeterministic(t *testing.T) {
	t.Parallel()
	m := rooted().write("etc/crypttab", "a LABEL=x - tpm2-device=auto\nb PARTLABEL=x - tpm2-device=auto\nc PARTUUID=x\n")
	first, err := discover.Find(m)
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if again, err := discover.Find(m); err != nil || !reflect.DeepEqual(describe(first), describe(again)) {
			t.Fatalf("%v, %v", describe(again), err)
		}
	}
}
