package initrd_test

// What is found in initrds that real generators made, and in one small archive
// packed in all ways, and what changes the answer. It is not proven that
// systemd extends the PCRs where the answer is yes: whether it does is decided
// when it runs, too.

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/initrd"
)

func read(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A node is a file of an archive: a mode, links if not one, and contents.
type node struct {
	name     string
	mode     uint32
	contents string
	links    uint32
}

const (
	regular   = 0o100644
	link      = 0o120777
	directory = 0o040755
)

// archive returns a newc archive (cpio(5)).
func archive(nodes ...node) []byte {
	var b bytes.Buffer
	for i, n := range append(nodes, node{name: "TRAILER!!!"}) {
		fmt.Fprintf(&b, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
			i+1, n.mode, 0, 0, max(1, n.links), 0, len(n.contents), 0, 0, 0, 0, len(n.name)+1, 0, n.name)
		b.Write(make([]byte, -b.Len()&3))
		b.WriteString(n.contents)
		b.Write(make([]byte, -b.Len()&3))
	}
	return b.Bytes()
}

func inspect(t *testing.T, b ...[]byte) *initrd.Userspace {
	t.Helper()
	u, err := initrd.Inspect(measure.Bytes(bytes.Join(b, nil)))
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func brief(u *initrd.Userspace) string {
	return fmt.Sprintf("%q %d %v %v", u.Systemd, u.Major, u.EnterInitrd.Answer, u.OSSeparator.Answer)
}

const (
	both    = `"262" 262 yes yes`
	nothing = `"" 0 no no`
)

func TestGenerators(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"dracut.zst":                   both,
		"dracut-bsdtar.zst":            both,
		"dracut-without-pcrextend.zst": `"262" 262 no no`,
		"dracut-without-systemd.zst":   `"262" 262 no no`, // udev is there
		"initramfs-tools.zst":          `"262" 262 no no`,
		"mini.cpio":                    both,
		"mini.crc":                     both,
		"mini.gz":                      both,
		"mini.xz":                      both,
		"mini.lzma":                    both,
		"mini.bz2":                     both,
		"mini.lz4":                     both,
		"mini.zst":                     both,
		"early.cpio":                   nothing,
	} {
		u := inspect(t, read(t, name))
		if got := brief(u); got != want {
			t.Errorf("%s: %s, want %s: %s, %s", name, got, want, u.EnterInitrd.Why, u.OSSeparator.Why)
		}
	}
}

// TestParts: an initrd is made of several archives, as Linux takes them.
func TestParts(t *testing.T) {
	t.Parallel()
	early, plain, gz, zst, lz4 := read(t, "early.cpio"), read(t, "mini.cpio"), read(t, "mini.gz"), read(t, "mini.zst"), read(t, "mini.lz4")
	file := archive(node{name: "usr/lib/systemd/libsystemd-shared-9.so", mode: regular})
	unpadded := archive(node{name: "usr/lib/systemd/libsystemd-shared-9.so", mode: regular, contents: "12345"})
	unpadded = unpadded[:bytes.Index(unpadded, []byte("12345"))+5]
	zero := func(n int) []byte { return make([]byte, n) }
	align := func(b []byte) []byte { return append(b[:len(b):len(b)], zero(-len(b)&3)...) }
	for _, test := range []struct {
		name  string
		parts [][]byte
		want  string
	}{
		{"nothing", nil, nothing},
		{"zero bytes alone", [][]byte{zero(3)}, nothing},
		{"zero bytes before", [][]byte{zero(512), plain}, both},
		{"early, plain", [][]byte{early, plain}, both},
		{"early, gzip", [][]byte{early, gz}, both},
		{"early, zero bytes, gzip", [][]byte{early, zero(1), gz}, both},
		{"gzip, early", [][]byte{align(gz), early}, both},
		{"gzip, gzip", [][]byte{gz, gz}, both},
		{"gzip, zero bytes, gzip", [][]byte{gz, zero(7), gz}, both},
		{"gzip, zstd, gzip", [][]byte{gz, zst, gz}, both},
		{"lz4, zero bytes, early", [][]byte{align(lz4), zero(4), early}, both},
		{"lz4, lz4", [][]byte{lz4, lz4}, both},
		{"plain, and one more", [][]byte{plain, file}, `"" 0 yes yes`}, // two versions
		{"zstd, and one more", [][]byte{align(zst), file}, `"" 0 yes yes`},
		{"without a trailer", [][]byte{plain[:bytes.Index(plain, []byte("TRAILER!!!"))-110]}, both},
		{"without the last padding", [][]byte{plain, unpadded}, `"" 0 yes yes`},
	} {
		u := inspect(t, test.parts...)
		if got := brief(u); got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
		// In pieces it is the same.
		var pieces []measure.Content
		for _, p := range test.parts {
			pieces = append(pieces, measure.Bytes(nil), measure.Bytes(p[:len(p)/2]), measure.Bytes(p[len(p)/2:]))
		}
		if v, err := initrd.Inspect(pieces...); err != nil || brief(v) != brief(u) {
			t.Errorf("%s, in pieces: %v, %v", test.name, v, err)
		}
	}
}

const (
	units     = "usr/lib/systemd/system/"
	phase     = units + "systemd-pcrphase-initrd.service"
	separator = units + "systemd-pcrosseparator.service"
)

// TestChanges: what is put behind the small initrd changes the answer on
// enter-initrd. Without anything it is yes.
func TestChanges(t *testing.T) {
	t.Parallel()
	mini := read(t, "mini.cpio")
	unit := string(mini[bytes.Index(mini, []byte("#  SPDX")):])
	unit = unit[:strings.Index(unit, "leave-initrd\n")+len("leave-initrd\n")]
	if !strings.Contains(unit, "os-separator") { // it comes first
		t.Fatal("the archive has another order")
	}
	unit = unit[strings.LastIndex(unit, "#  SPDX"):]
	old := "[Unit]\nAssertPathExists=/etc/initrd-release\nConditionSecurity=tpm2\n" +
		"ConditionPathExists=/sys/firmware/efi/efivars/StubPcrKernelImage-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f\n" +
		"[Service]\nType=oneshot\nExecStart=/lib/systemd/systemd-pcrphase --graceful enter-initrd\n" // systemd 252, units/systemd-pcrphase-initrd.service.in
	changed := func(old, new string) []node {
		if !strings.Contains(unit, old) {
			t.Fatalf("no %q", old)
		}
		return []node{{name: phase, mode: regular, contents: strings.Replace(unit, old, new, 1)}}
	}
	const dir = "usr/lib/systemd/system"
	for _, test := range []struct {
		name  string
		nodes []node
		want  string
	}{
		{"nothing", nil, "yes: /" + units + "initrd.target.wants/systemd-pcrphase-initrd.service starts it"},
		{"the same", []node{{name: phase, mode: regular, contents: unit}}, "yes: /" + units + "initrd.target.wants/systemd-pcrphase-initrd.service starts it"},
		{"of systemd 252", []node{{name: phase, mode: regular, contents: old}, {name: "lib/systemd/systemd-pcrphase", mode: regular}}, "yes: /" + units + "initrd.target.wants/systemd-pcrphase-initrd.service starts it"},
		{"slash and dots", []node{{name: "/usr/./lib/../lib//systemd/system/systemd-pcrphase-initrd.service", mode: link, contents: "/dev/null"}}, "no: /" + phase + " is masked"},

		{"masked in etc", []node{{name: "etc/systemd/system/systemd-pcrphase-initrd.service", mode: link, contents: "/dev/null"}}, "no: /etc/systemd/system/systemd-pcrphase-initrd.service is masked"},
		{"masked in local", []node{{name: "usr/local/lib/systemd/system/systemd-pcrphase-initrd.service", mode: link, contents: "/dev/null"}}, "no: /usr/local/lib/systemd/system/systemd-pcrphase-initrd.service is masked"},
		{"masked in lib", []node{{name: "lib/systemd/system/systemd-pcrphase-initrd.service", mode: link, contents: "/dev/null"}}, "no: /" + phase + " is masked"},
		{"masked and not any more", []node{{name: phase, mode: link, contents: "/dev/null"}, {name: phase, mode: regular, contents: unit}}, "yes: /" + units + "initrd.target.wants/systemd-pcrphase-initrd.service starts it"},
		{"masked, a directory now", []node{{name: "etc/systemd/system/systemd-pcrphase-initrd.service", mode: link, contents: "/dev/null"}, {name: "etc/systemd/system/systemd-pcrphase-initrd.service", mode: directory}}, "yes: /" + units + "initrd.target.wants/systemd-pcrphase-initrd.service starts it"},
		{"empty", []node{{name: phase, mode: regular}}, "no: /" + phase + " is masked"},
		{"a device", []node{{name: phase, mode: 0o020666}}, "unknown: /" + phase + " is not a file"},
		{"an empty hard link", []node{{name: phase, mode: regular, links: 2}}, "unknown: /" + phase + " is a hard link"},
		{"a hard link", []node{{name: phase, mode: regular, links: 2, contents: unit}}, "yes: /" + units + "initrd.target.wants/systemd-pcrphase-initrd.service starts it"},
		{"a link", []node{{name: phase, mode: link, contents: "elsewhere"}}, "unknown: /" + phase + " is a link to \"elsewhere\""},
		{"large", []node{{name: phase, mode: regular, contents: strings.Repeat("#", 65537)}}, "unknown: /" + phase + " has more than 65536 bytes"},

		{"another word", changed("enter-initrd", "enter-inotrd"), `unknown: /` + phase + ` has "ExecStart=/usr/lib/systemd/systemd-pcrextend --graceful enter-inotrd"`},
		{"two words", changed("enter-initrd", "enter-initrd x"), `unknown: /` + phase + ` has "ExecStart=/usr/lib/systemd/systemd-pcrextend --graceful enter-initrd x"`},
		{"another program", changed("systemd-pcrextend", "systemd-pcrextent"), `unknown: /` + phase + ` has "ExecStart=/usr/lib/systemd/systemd-pcrextent --graceful enter-initrd"`},
		{"another option", changed("--graceful", "--tpm2-device=/dev/null"), `unknown: /` + phase + ` has "ExecStart=/usr/lib/systemd/systemd-pcrextend --tpm2-device=/dev/null enter-initrd"`},
		{"another PCR", changed("--graceful", "--pcr=12"), `unknown: /` + phase + ` has "ExecStart=/usr/lib/systemd/systemd-pcrextend --pcr=12 enter-initrd"`},
		{"no number", changed("--graceful", "--pcr=x"), `unknown: /` + phase + ` has "ExecStart=/usr/lib/systemd/systemd-pcrextend --pcr=x enter-initrd"`},
		{"PCR 11", changed("--graceful", "--pcr=11"), "yes: /" + units + "initrd.target.wants/systemd-pcrphase-initrd.service starts it"},
		{"ignoring failure", changed("ExecStart=", "ExecStart=-"), "yes: /" + units + "initrd.target.wants/systemd-pcrphase-initrd.service starts it"},
		{"no command", changed("ExecStart=", "#ExecStart="), "unknown: /" + phase + " has 0 times ExecStart="},
		{"empty command", changed("ExecStart=", "ExecStart=\n#"), `unknown: /` + phase + ` has "ExecStart="`},
		{"two commands", changed("ExecStop=", "ExecStart=/usr/lib/systemd/systemd-pcrextend enter-initrd\n#"), "unknown: /" + phase + " has 2 times ExecStart="},
		{"another condition", changed("ConditionPathExists=", "ConditionPathExists=!"), `unknown: /` + phase + ` has "ConditionPathExists=!/etc/initrd-release"`},
		{"another assertion", changed("[Service]", "AssertVirtualization=no\n[Service]"), `unknown: /` + phase + ` has "AssertVirtualization=no"`},

		{"hidden", []node{{name: units + "initrd.target.wants/systemd-pcrphase-initrd.service", mode: link, contents: "/dev/null"}}, "no: nothing starts systemd-pcrphase-initrd.service"},
		{"hidden by etc", []node{{name: "etc/systemd/system/initrd.target.wants/systemd-pcrphase-initrd.service", mode: link, contents: "/dev/null"}}, "no: nothing starts systemd-pcrphase-initrd.service"},
		{"hidden, and wanted by another", []node{{name: units + "initrd.target.wants/systemd-pcrphase-initrd.service", mode: link, contents: "/dev/null"}, {name: units + "basic.target.requires/systemd-pcrphase-initrd.service", mode: link, contents: "../x"}}, "yes: /" + units + "basic.target.requires/systemd-pcrphase-initrd.service starts it"},
		{"hidden, and wanted by who knows", []node{{name: units + "initrd.target.wants/systemd-pcrphase-initrd.service", mode: link, contents: "/dev/null"}, {name: units + "tpm2.target.wants/systemd-pcrphase-initrd.service", mode: link, contents: "../x"}}, "unknown: whether what wants it is started is not known: /" + units + "tpm2.target.wants/systemd-pcrphase-initrd.service"},

		{"drop-in", []node{{name: phase + ".d/10-x.conf", mode: regular, contents: "[Unit]\nConditionKernelCommandLine=x\n"}}, "unknown: /" + phase + ".d/10-x.conf may change it"},
		{"drop-in of all services", []node{{name: units + "service.d/10-x.conf", mode: regular, contents: "[Service]\n\tExecStart=\n"}}, "unknown: /" + units + "service.d/10-x.conf may change it"},
		{"drop-in of a prefix", []node{{name: "etc/systemd/system/systemd-pcrphase-.service.d/x.conf", mode: regular, contents: "[Service]\nExecStart=\n"}}, "unknown: /etc/systemd/system/systemd-pcrphase-.service.d/x.conf may change it"},
		{"drop-in of another prefix", []node{{name: "etc/systemd/system/systemd-pcrosseparator-.service.d/x.conf", mode: regular, contents: "[Service]\nExecStart=\n"}}, "yes: /" + units + "initrd.target.wants/systemd-pcrphase-initrd.service starts it"},
		{"drop-in of the other", []node{{name: separator + ".d/x.conf", mode: regular, contents: "[Service]\nExecStart=\n"}}, "yes: /" + units + "initrd.target.wants/systemd-pcrphase-initrd.service starts it"},
		{"harmless drop-in", []node{{name: units + "service.d/10-timeout-abort.conf", mode: regular, contents: "# Condition\n[Service]\nTimeoutStopFailureMode=abort\n"}}, "yes: /" + units + "initrd.target.wants/systemd-pcrphase-initrd.service starts it"}, // Fedora
		{"masked drop-in", []node{{name: phase + ".d/x.conf", mode: link, contents: "/dev/null"}}, "yes: /" + units + "initrd.target.wants/systemd-pcrphase-initrd.service starts it"},
		{"drop-in, a link", []node{{name: phase + ".d/x.conf", mode: link, contents: "y"}}, "unknown: /" + phase + ".d/x.conf is a link"},
		{"no drop-in", []node{{name: phase + ".d/x.txt", mode: regular, contents: "ExecStart=\n"}}, "yes: /" + units + "initrd.target.wants/systemd-pcrphase-initrd.service starts it"},

		{"units elsewhere", []node{{name: "etc/systemd/system", mode: link, contents: "/nix/store/x"}}, `unknown: /etc/systemd/system is a link to "/nix/store/x"`},
		{"lib elsewhere", []node{{name: "usr/lib", mode: link, contents: "/lib"}}, `unknown: /usr/lib is a link to "/lib"`},
		{"wants elsewhere", []node{{name: units + "x.target.wants", mode: link, contents: "y"}}, `unknown: /` + units + `x.target.wants is a link to "y"`},
		{"drop-ins elsewhere", []node{{name: units + "service.d", mode: link, contents: "y"}}, `unknown: /` + units + `service.d is a link to "y"`},
		{"directory again", []node{{name: dir, mode: link, contents: "y"}, {name: dir, mode: directory}}, "yes: /" + units + "initrd.target.wants/systemd-pcrphase-initrd.service starts it"},

		{"init by sbin", []node{{name: "init", mode: link, contents: "/sbin/init"}, {name: "sbin/init", mode: link, contents: "../lib/systemd/systemd"}}, "yes: /" + units + "initrd.target.wants/systemd-pcrphase-initrd.service starts it"},
		{"init by a link to nothing", []node{{name: "init", mode: link, contents: "sbin/init"}}, "no: there is no /init"},
		{"init by itself", []node{{name: "init", mode: link, contents: "init"}}, `unknown: whether /init, a link to "/init", starts systemd is not known`},
		{"init elsewhere", []node{{name: "init", mode: link, contents: "bin/busybox"}}, `unknown: whether /init, a link to "/usr/bin/busybox", starts systemd is not known`},
		{"init a script", []node{{name: "init", mode: regular, contents: "#!/bin/sh\n"}}, "unknown: whether /init, a file, starts systemd is not known"},
		{"systemd of a store", []node{{name: "init", mode: link, contents: "/nix/store/x-systemd/lib/systemd/systemd"}}, "yes: /" + units + "initrd.target.wants/systemd-pcrphase-initrd.service starts it"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			u := inspect(t, mini, archive(test.nodes...))
			if got := fmt.Sprintf("%v: %s", u.EnterInitrd.Answer, u.EnterInitrd.Why); got != test.want {
				t.Errorf("enter-initrd:\n got %s\nwant %s", got, test.want)
			}
		})
	}
}

// TestMissing: the small initrd without one of its files.
func TestMissing(t *testing.T) {
	t.Parallel()
	mini := string(read(t, "mini.cpio"))
	for _, test := range []struct{ name, phase, separator string }{
		{"init", "no: there is no /init", "no: there is no /init"},
		{"etc/initrd-release", "no: there is no /etc/initrd-release", "no: there is no /etc/initrd-release"},
		{phase, "no: there is no systemd-pcrphase-initrd.service", ""},
		{separator, "", "no: there is no systemd-pcrosseparator.service"},
		{units + "initrd.target.wants/systemd-pcrphase-initrd.service", "no: nothing starts systemd-pcrphase-initrd.service", ""},
		{units + "sysinit.target.wants/systemd-pcrosseparator.service", "", "no: nothing starts systemd-pcrosseparator.service"},
		{"usr/lib/systemd/systemd-pcrextend", "no: there is no /usr/lib/systemd/systemd-pcrextend", "no: there is no /usr/lib/systemd/systemd-pcrextend"},
		{"usr/lib/systemd/systemd", "", ""}, // not looked for
	} {
		renamed := strings.Replace(mini, test.name+"\x00", "x"+test.name[1:]+"\x00", 1)
		if renamed == mini {
			t.Fatalf("no %s", test.name)
		}
		u := inspect(t, []byte(renamed))
		for _, x := range []struct {
			got  initrd.Extend
			want string
		}{{u.EnterInitrd, test.phase}, {u.OSSeparator, test.separator}} {
			if got := fmt.Sprintf("%v: %s", x.got.Answer, x.got.Why); x.want != "" && got != x.want || x.want == "" && x.got.Answer != initrd.Yes {
				t.Errorf("without %s: %s, want %s", test.name, got, x.want)
			}
		}
	}
	// A program that is not there, of the PCRs and the word.
	for _, change := range []string{"--pcr=12 ", "--pcr=13 ", "os-separator\n"} {
		// The last one is the word; the one before is the type of the event.
		at := strings.LastIndex(mini, change)
		changed := []byte(mini)
		changed[at+len(change)-2] = '1'
		u := inspect(t, changed)
		if u.OSSeparator.Answer != initrd.Unknown || u.EnterInitrd.Answer != initrd.Yes {
			t.Errorf("with %q changed: %+v", change, u)
		}
	}
}

func TestSystemdVersion(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"usr/lib/systemd/libsystemd-shared-257.9-1.fc42.so":           `"257.9-1.fc42" 257`,
		"usr/lib64/systemd/libsystemd-shared-252.so":                  `"252" 252`,
		"lib/systemd/libsystemd-shared-247.so":                        `"247" 247`,
		"usr/lib/aarch64-linux-gnu/systemd/libsystemd-shared-261.so":  `"261" 261`,
		"/nix/store/x-systemd/lib/systemd/libsystemd-shared-262~1.so": `"262~1" 262`,
		"usr/lib/systemd/libsystemd-shared-x.so":                      `"" 0`,
		"usr/lib/systemd/libsystemd-shared-.so":                       `"" 0`,
		"usr/lib/systemd/libsystemd-shared-262.so.1":                  `"" 0`,
		"usr/lib/systemd/libsystemd-shared-99999999999999999999.so":   `"" 0`,
		"usr/lib/libsystemd-shared-262.so":                            `"" 0`,
		"usr/lib/systemd/libsystemd-core-262.so":                      `"" 0`,
	} {
		u := inspect(t, archive(node{name: name, mode: regular}))
		if got := fmt.Sprintf("%q %d", u.Systemd, u.Major); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

func TestHostile(t *testing.T) {
	t.Parallel()
	mini := read(t, "mini.cpio")
	second := bytes.Index(mini[1:], []byte("070701")) + 1
	change := func(at int, s string) string {
		b := bytes.Clone(mini)
		copy(b[at:], s)
		return string(b)
	}
	var many, versions []node
	for i := range 4097 {
		many = append(many, node{name: fmt.Sprintf("%s%d.wants/systemd-pcrphase-initrd.service", units, i), mode: link, contents: "x"})
		versions = append(versions, node{name: fmt.Sprintf("usr/lib/systemd/libsystemd-shared-%d.so", i), mode: regular})
	}
	for _, test := range []struct{ name, initrd, want string }{
		{"text", "no initrd at all", "unreadable initrd: at 0: neither a cpio archive nor compressed in a known way"},
		{"one byte", "x", "unreadable initrd: at 0: neither a cpio archive nor compressed in a known way"},
		{"squashfs", "hsqs", "unreadable initrd: at 0: neither a cpio archive nor compressed in a known way"},
		{"odc", string(read(t, "mini.odc")), `unreadable initrd: cpio entry at 0: magic number "070707": not the newc format`},
		{"magic", change(5, "3"), `unreadable initrd: cpio entry at 0: magic number "070703": not the newc format`},
		{"magic of the second entry", change(second+3, "8"), fmt.Sprintf(`unreadable initrd: cpio entry at %d: magic number "070801": not the newc format`, second)},
		{"lz4 frame", string(read(t, "mini.lz4-frame")), "unreadable initrd: at 0: an lz4 frame: the kernel knows lz4 -l alone"},
		{"lzo", string(read(t, "mini.lzo")), "unreadable initrd: at 0: lzo stream: not supported"},
		{"not aligned", "\x00" + string(mini), "unreadable initrd: at 1: neither a cpio archive nor compressed in a known way"},
		{"something behind", string(mini) + "x", "unreadable initrd: at 5632: neither a cpio archive nor compressed in a known way"},
		{"header cut", string(mini[:109]), "unreadable initrd: cpio entry at 0: unexpected EOF"},
		{"name cut", string(mini[:110]), "unreadable initrd: cpio entry at 0: unexpected EOF"},
		{"body cut", string(archive(node{name: "x", mode: regular, contents: strings.Repeat("x", 1000)})[:500]), "unreadable initrd: cpio entry at 0: unexpected EOF"},
		{"not hexadecimal", change(14, "0x"), `unreadable initrd: cpio entry at 0: a number that is not hexadecimal: "0x0041ED"`},
		{"sign", change(14, "+"), `unreadable initrd: cpio entry at 0: a number that is not hexadecimal: "+00041ED"`},
		{"size of 4 GiB", change(54, "FFFFFFFF"), "unreadable initrd: cpio entry at 0: unexpected EOF"},
		{"name of 4 GiB", change(94, "FFFFFFFF"), "unreadable initrd: cpio entry at 0: unexpected EOF"},
		{"name without a NUL", change(94, "00000001"), "unreadable initrd: cpio entry at 0: a name without a NUL behind it"},
		{"no name", change(94, "00000000"), "<nil>"}, // Linux skips it
		{"gzip of text", "\x1F\x8B\x08\x00\x00\x00\x00\x00\x00\xFF\x01\x01\x00\xFE\xFFx\x83\x16\xDC\x8C\x01\x00\x00\x00", "unreadable initrd: at 0, gzip: not a cpio archive"},
		{"gzip cut", string(read(t, "mini.gz")[:500]), "unreadable initrd: at 0, gzip: "},
		{"gzip header cut", "\x1F\x8B\x08", "unreadable initrd: at 0: gzip stream: unexpected EOF"},
		{"256 streams", strings.Repeat(string(read(t, "mini.zst")), 256), "<nil>"},
		{"257 streams", strings.Repeat(string(read(t, "mini.zst")), 257), "unreadable initrd: at 258048: more than 256 compressed parts"},
		{"many units", string(archive(many...)), "unreadable initrd: cpio entry at "},
		{"many versions", string(archive(versions...)), "<nil>"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			_, err := initrd.Inspect(measure.Bytes([]byte(test.initrd)))
			if got := fmt.Sprint(err); got != test.want && (!strings.HasSuffix(test.want, " ") || !strings.HasPrefix(got, test.want)) {
				t.Errorf("error:\n got %v\nwant %s", err, test.want)
			}
			if err != nil && !errors.Is(err, initrd.ErrUnreadable) {
				t.Error("is not ErrUnreadable")
			}
		})
	}
}

// TestSkipped: what Linux does not unpack is not there.
func TestSkipped(t *testing.T) {
	t.Parallel()
	mini := read(t, "mini.cpio")
	null := func(n node) node {
		n.mode, n.contents = link, "/dev/null"
		return n
	}
	long := strings.Repeat("/", 5000)
	for _, test := range []struct {
		name string
		node node
		want string
	}{
		{"long name", null(node{name: long[:4095-len(phase)] + phase}), "no"}, // 4095 and a NUL
		{"longer name", null(node{name: long[:4096-len(phase)] + phase}), "yes"},
		{"long target", node{name: phase, mode: link, contents: strings.Repeat("/", 4096)}, "unknown"},
		{"longer target", node{name: phase, mode: link, contents: strings.Repeat("/", 4097)}, "yes"},
		{"empty target", node{name: phase, mode: link}, "yes"},
		{"a device with contents", node{name: phase, mode: 0o020666, contents: "x"}, "yes"},
		{"behind a NUL", null(node{name: phase + "\x00x"}), "no"},
		{"the end", null(node{name: "TRAILER!!!"}), "yes"},
	} {
		u := inspect(t, mini, archive(test.node, node{name: "x", mode: regular, contents: "x"}))
		if got := u.EnterInitrd.Answer.String(); got != test.want {
			t.Errorf("%s (%d bytes): %s, want %s", test.name, len(test.node.name), got, test.want)
		}
	}
}

// A brokenContent ends early, or with an error.
type brokenContent struct {
	b   []byte
	err error
}

func (c *brokenContent) Size() int64 { return int64(len(c.b)) + 1000 }

func (c *brokenContent) ReadAt(b []byte, off int64) (int, error) {
	n := copy(b, c.b[min(off, int64(len(c.b))):])
	if n < len(b) {
		return n, c.err
	}
	return n, nil
}

func TestReadError(t *testing.T) {
	t.Parallel()
	errDisk := errors.New("no such luck")
	for _, name := range []string{"mini.cpio", "mini.gz", "mini.xz", "mini.bz2", "mini.lz4", "mini.zst", "mini.lzma"} {
		for _, n := range []int{0, 1, 100, 900} {
			for err, want := range map[error]error{errDisk: errDisk, io.EOF: io.ErrUnexpectedEOF} {
				_, got := initrd.Inspect(&brokenContent{read(t, name)[:n], err})
				if !errors.Is(got, want) || errors.Is(got, initrd.ErrUnreadable) {
					t.Errorf("%s after %d bytes: %v", name, n, got)
				}
			}
		}
	}
}

// FuzzInspect checks that the answer does not depend on how an initrd is cut
// into pieces, and that one more empty archive behind it does not change it.
func FuzzInspect(f *testing.F) {
	for _, name := range []string{"mini.cpio", "mini.crc", "mini.gz", "mini.xz", "mini.lzma", "mini.bz2", "mini.lz4", "mini.zst", "early.cpio", "initramfs-tools.zst"} {
		f.Add(read(f, name), 100)
	}
	f.Add(append(read(f, "early.cpio"), read(f, "mini.gz")...), 1536)
	f.Add(append(read(f, "mini.cpio"), archive(node{name: phase, mode: link, contents: "/dev/null"})...), 5632)
	f.Fuzz(func(t *testing.T, b []byte, cut int) {
		u, err := initrd.Inspect(measure.Bytes(b))
		if err != nil {
			if !errors.Is(err, initrd.ErrUnreadable) || u != nil {
				t.Fatal(u, err)
			}
			return
		}
		if u.EnterInitrd.Why == "" || u.OSSeparator.Why == "" || (u.Systemd == "") != (u.Major == 0 && !strings.HasPrefix(u.Systemd, "0")) {
			t.Fatalf("%+v", u)
		}
		cut = max(0, min(cut, len(b)))
		same := func(what string, pieces ...measure.Content) {
			v, err := initrd.Inspect(pieces...)
			if err != nil || *v != *u {
				t.Fatalf("%s: %+v, %v; as a whole %+v", what, v, err, u)
			}
		}
		same("in two pieces", measure.Bytes(b[:cut]), measure.Bytes(b[cut:]))
		same("with padding", measure.Bytes(b), measure.Bytes(make([]byte, 8+-len(b)&3)), measure.Bytes(archive()))
	})
}
