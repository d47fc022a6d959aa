package vm

import (
	"fmt"
	"os"

	"github.com/mkexec/mkexec/measure/uki/ukitest"
)

// An ImageConfig describes a UKI of Debian's kernel and a busybox initrd.
type ImageConfig struct {
	// Stub is the path of the systemd-stub, Assets.Stub252 or Stub257.
	Stub string
	// Linux is the kernel; nil: Assets.Kernel.
	Linux []byte
	// SBAT, if not nil, takes the place of the stub's own SBAT data.
	SBAT []byte
	// Name is what os-release calls the image.
	Name string
	// Cmdline is the embedded command line.
	Cmdline string
	// Script is what its /init runs, see Init.
	Script string
	// Files are more files in the initrd.
	Files map[string]File
	// Ucode, if any, is microcode: an initrd to put before the other.
	Ucode []byte
}

// Image builds a UKI that has a file for each name that the stub can put into
// /.extra of the initrd. The PCR signature and key in it are only looked at,
// never used.
func (a *Assets) Image(c ImageConfig) ([]byte, error) {
	stub, linux, err := a.stubAndLinux(c.Stub, c.Linux)
	if err != nil {
		return nil, err
	}
	files := map[string]File{"init": Init(c.Script)}
	for name, f := range c.Files {
		files[name] = f
	}
	initrd, err := a.Initrd(files)
	if err != nil {
		return nil, err
	}
	sections := []ukitest.Section{
		{Name: ".osrel", Data: fmt.Appendf(nil, "ID=%s\nPRETTY_NAME=\"mkexec %s\"\n", c.Name, c.Name)},
		{Name: ".cmdline", Data: []byte(c.Cmdline)},
		{Name: ".uname", Data: []byte(a.Release)},
		{Name: ".pcrsig", Data: []byte(`{"sha256":[]}`)},
		{Name: ".pcrpkey", Data: []byte("-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n")},
		{Name: ".linux", Data: linux},
		{Name: ".initrd", Data: initrd},
	}
	if c.Ucode != nil {
		sections = append(sections, ukitest.Section{Name: ".ucode", Data: c.Ucode})
	}
	if c.SBAT != nil {
		sections = append(sections, ukitest.Section{Name: ".sbat", Data: c.SBAT})
	}
	return ukitest.Build(stub, append(sections,
		ukitest.Section{Name: ".profile", Data: []byte("ID=main\nTITLE=\"The main one\"\n")},
		ukitest.Section{Name: ".profile", Data: []byte("ID=debug\nTITLE=Debug\n")},
		ukitest.Section{Name: ".cmdline", Data: []byte(c.Cmdline + " debug=1")},
	)...)
}

// stubAndLinux returns the two that make a file a UKI. The kernel is Assets.Kernel if it is nil.
func (a *Assets) stubAndLinux(path string, kernel []byte) (stub, linux []byte, err error) {
	if stub, err = os.ReadFile(path); err == nil && kernel == nil {
		kernel, err = os.ReadFile(a.Kernel)
	}
	return stub, kernel, err
}
