package vm

import (
	"fmt"
	"strconv"
	"strings"
)

// Quiet are the kernel parameters that every guest wants: the serial console, no kernel messages on it, the end
// of the machine on a panic, and no self-tests of the kernel's ciphers, which are slow without KVM.
const Quiet = "console=ttyS0 quiet loglevel=0 panic=-1 cryptomgr.notests"

const (
	begin = "MKEXEC-BEGIN "
	end   = "MKEXEC-END "
)

// Init returns the /init of an initrd: it mounts what there is to mount, runs the shell script given with
// its output on the console, and powers off. The script has two functions.
//
//	section NAME COMMAND...   runs COMMAND, its output being the section NAME
//	report                    prints what the kernel says of the TPM, itself and /.extra, for ParseReport
func Init(script string) File {
	return File{[]byte(prologue + script + "\nsync\npoweroff -f\n"), 0o755}
}

const prologue = `#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mkdir -p /proc /sys /dev /run /tmp
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /run
mount -t securityfs securityfs /sys/kernel/security
dmesg -n 1
exec </dev/null >/dev/ttyS0 2>&1
if [ -d /sys/firmware/efi/efivars ] && insmod /efivarfs.ko; then
	mount -t efivarfs efivarfs /sys/firmware/efi/efivars
fi

section() {
	section_name=$1
	shift
	printf '\nMKEXEC-BEGIN %s\n' "$section_name"
	"$@"
	printf '\nMKEXEC-END %s\n' "$section_name"
}

report() {
	for bank in sha1 sha256 sha384 sha512; do
		for pcr in 11 12 13; do
			read -r value </sys/class/tpm/tpm0/pcr-$bank/$pcr && echo "pcr $bank $pcr $value"
		done
	done
	read -r value </proc/cmdline
	echo "cmdline $value"
	read -r value </sys/kernel/kexec_loaded
	echo "kexec_loaded $value"
	[ -d /.extra ] || return 0
	find /.extra -type f | sort | while read -r file; do
		set -- $(sha256sum "$file")
		echo "extra $(stat -c %a "$file") $1 $file"
	done
}

`

// A Section is what a guest printed between a pair of markers.
type Section struct {
	Name string
	Text string
}

// Sections returns the complete sections of a serial log in their order; a name may occur more than once.
func Sections(serial string) []Section {
	var sections []Section
	var name string
	var text []string
	inside := false
	for line := range strings.SplitSeq(serial, "\n") {
		line = strings.TrimRight(line, "\r")
		// Firmware leaves control sequences without an end of line, so a marker may have something before it.
		if i := strings.Index(line, begin); i >= 0 {
			inside, name, text = true, line[i+len(begin):], nil
		} else if i := strings.Index(line, end); inside && i >= 0 && line[i+len(end):] == name {
			sections = append(sections, Section{name, strings.TrimRight(strings.Join(text, "\n"), "\n")})
			inside = false
		} else if inside {
			text = append(text, line)
		}
	}
	return sections
}

// Report is what the guest's function report says.
type Report struct {
	PCRs        map[string]map[int]string // bank, PCR: value in lower-case hex
	Cmdline     string
	Extra       map[string]Extra // path: file
	KexecLoaded bool
}

// Extra is one file in /.extra of the guest.
type Extra struct {
	Mode   string // octal digits
	SHA256 string
}

// ParseReport reads the text of a section that holds a report.
func ParseReport(text string) (*Report, error) {
	r := &Report{PCRs: map[string]map[int]string{}, Extra: map[string]Extra{}}
	for line := range strings.SplitSeq(text, "\n") {
		key, rest, _ := strings.Cut(line, " ")
		f := strings.SplitN(rest, " ", 3)
		switch {
		case key == "pcr" && len(f) == 3:
			pcr, err := strconv.Atoi(f[1])
			if err != nil {
				return nil, fmt.Errorf("report: %q: not a PCR", line)
			}
			if r.PCRs[f[0]] == nil {
				r.PCRs[f[0]] = map[int]string{}
			}
			r.PCRs[f[0]][pcr] = strings.ToLower(f[2])
		case key == "cmdline":
			r.Cmdline = rest
		case key == "kexec_loaded":
			r.KexecLoaded = rest == "1"
		case key == "extra" && len(f) == 3:
			r.Extra[f[2]] = Extra{f[0], f[1]}
		default:
			return nil, fmt.Errorf("report: %q: not a line of it", line)
		}
	}
	return r, nil
}
