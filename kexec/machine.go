package kexec

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"regexp"
	"strconv"
	"strings"
)

// A Tristate is yes, no, or not known.
type Tristate string

// The values of a Tristate.
const (
	Yes     Tristate = "yes"
	No      Tristate = "no"
	Unknown Tristate = "unknown"
)

func tristate(b bool) Tristate {
	if b {
		return Yes
	}
	return No
}

// A Machine is what the running system says about kexec. Nothing is tried out:
// even a refused call of kexec_file_load uses up kexec_load_limit_reboot.
type Machine struct {
	// KexecFile: the kernel is built with kexec_file_load(2) (CONFIG_KEXEC_FILE).
	KexecFile Tristate `json:"kexec_file"`
	// CapSysBoot: this process has CAP_SYS_BOOT.
	CapSysBoot Tristate `json:"cap_sys_boot"`
	// Loaded: an image is loaded for the next kexec.
	Loaded Tristate `json:"loaded"`
	// LoadDisabled: kernel.kexec_load_disabled is set, until the next reboot.
	LoadDisabled Tristate `json:"load_disabled"`
	// LoadLimit is kernel.kexec_load_limit_reboot, how many more loads are
	// allowed; -1 is no limit, and what kernels before 6.3 have.
	LoadLimit int `json:"load_limit"`
	// Lockdown is the kernel's lockdown mode: none, integrity, confidentiality, or unknown.
	Lockdown string `json:"lockdown"`
	// SecureBoot: the firmware enforces Secure Boot.
	SecureBoot Tristate `json:"secure_boot"`
	// ConfidentialVM: this is a confidential VM (AMD SEV, Intel TDX).
	ConfidentialVM Tristate `json:"confidential_vm"`
	// Xen: this is a Xen control domain, where kexec goes through the hypervisor.
	Xen Tristate `json:"xen_dom0"`
	// Systemd: PID 1 is systemd, which wants to shut the system down.
	Systemd Tristate `json:"systemd"`
	// Kexeced: this kernel was itself started by kexec (x86 only).
	Kexeced Tristate `json:"kexeced"`
	// InitPIDNamespace: this process is not in a PID namespace of its own, from
	// which reboot(2) cannot kexec.
	InitPIDNamespace Tristate `json:"init_pid_namespace"`
}

// ReadMachine reads the state of the running system below root.
func ReadMachine(root fs.FS) Machine {
	m := Machine{
		KexecFile:      kernelConfig(root, "CONFIG_KEXEC_FILE"),
		CapSysBoot:     capability(root, 22), // CAP_SYS_BOOT, linux/capability.h
		Loaded:         flag(root, "sys/kernel/kexec_loaded"),
		LoadDisabled:   flag(root, "proc/sys/kernel/kexec_load_disabled"),
		LoadLimit:      -1,
		Lockdown:       "unknown",
		SecureBoot:     secureBoot(root),
		ConfidentialVM: tristate(exists(root, "dev/tdx_guest") || exists(root, "dev/sev-guest")),
		Xen:            No,
		Systemd:        tristate(exists(root, "run/systemd/system")),
		Kexeced:        Unknown,

		InitPIDNamespace: Unknown,
	}
	if n, err := strconv.Atoi(line(root, "proc/sys/kernel/kexec_load_limit_reboot")); err == nil {
		m.LoadLimit = n
	}
	// "none [integrity] confidentiality"
	if _, mode, ok := strings.Cut(line(root, "sys/kernel/security/lockdown"), "["); ok {
		m.Lockdown, _, _ = strings.Cut(mode, "]")
	}
	if strings.Contains(line(root, "proc/xen/capabilities"), "control_d") {
		m.Xen = Yes
	}
	// PROC_PID_INIT_INO (Linux, include/linux/proc_ns.h)
	if ns, err := fs.ReadLink(root, "proc/self/ns/pid"); err == nil {
		m.InitPIDNamespace = tristate(ns == "pid:[4026531836]")
	}
	// type_of_loader: 0xD is kexec (Linux, Documentation/arch/x86/boot.rst)
	if n, err := strconv.Atoi(line(root, "proc/sys/kernel/bootloader_type")); err == nil {
		m.Kexeced = tristate(n>>4 == 0xD)
	}
	return m
}

func line(root fs.FS, name string) string {
	b, _ := fs.ReadFile(root, name) // what cannot be read is not known
	return strings.TrimSpace(string(b))
}

func exists(root fs.FS, name string) bool {
	_, err := fs.Stat(root, name)
	return err == nil
}

func flag(root fs.FS, name string) Tristate {
	switch line(root, name) {
	case "0":
		return No
	case "1":
		return Yes
	}
	return Unknown
}

// secureBoot asks the firmware's variable and, where efivarfs is not mounted,
// what Linux's EFI stub noted in the boot parameters (x86). Without EFI there
// is no Secure Boot.
func secureBoot(root fs.FS) Tristate {
	if !exists(root, "sys/kernel") { // /sys is not mounted
		return Unknown
	}
	if entries, err := fs.ReadDir(root, "sys/firmware"); err == nil && len(entries) == 0 {
		return Unknown // covered, in a container
	}
	if !exists(root, "sys/firmware/efi") {
		return No
	}
	// four bytes of attributes, then the value
	b, err := fs.ReadFile(root, "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c")
	if err == nil && len(b) == 5 {
		return tristate(b[4] != 0)
	}
	// struct boot_params.secure_boot: enum efi_secureboot_mode, 2 disabled, 3 enabled
	// (Linux, arch/x86/include/uapi/asm/bootparam.h, include/linux/efi.h)
	const secureBootOffset = 0x1EC
	b, err = fs.ReadFile(root, "sys/kernel/boot_params/data")
	if err == nil && len(b) > secureBootOffset {
		switch b[secureBootOffset] {
		case 2:
			return No
		case 3:
			return Yes
		}
	}
	return Unknown
}

// capability tells whether this process has an effective capability.
func capability(root fs.FS, n uint) Tristate {
	b, _ := fs.ReadFile(root, "proc/self/status")
	for l := range strings.Lines(string(b)) {
		if hex, ok := strings.CutPrefix(l, "CapEff:"); ok {
			set, err := strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
			if err == nil {
				return tristate(set>>n&1 == 1)
			}
		}
	}
	return Unknown
}

// kernelConfig looks an option up in the configuration of the running kernel.
func kernelConfig(root fs.FS, option string) Tristate {
	release := line(root, "proc/sys/kernel/osrelease")
	for _, name := range []string{
		"proc/config.gz", "boot/config-" + release,
		"usr/lib/modules/" + release + "/config", "lib/modules/" + release + "/config",
	} {
		config, err := readConfig(root, name)
		if err != nil {
			continue
		}
		return tristate(regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(option) + `=[ym]$`).Match(config))
	}
	return Unknown
}

func readConfig(root fs.FS, name string) ([]byte, error) {
	const limit = 4 << 20
	f, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r := io.Reader(f)
	if strings.HasSuffix(name, ".gz") {
		if r, err = gzip.NewReader(f); err != nil {
			return nil, err
		}
	}
	b, err := io.ReadAll(io.LimitReader(r, limit))
	if err == nil && !bytes.Contains(b, []byte("CONFIG_")) {
		err = errors.New("not a kernel configuration")
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return b, nil
}
