package stub

import (
	"fmt"
	"slices"
	"strings"

	"github.com/mkexec/mkexec/measure/uki"
)

// The tags of the events that measure addons (systemd 262, src/boot/measure.h).
const (
	tagDevicetreeAddon = 0x6C46F751
	tagInitrdAddon     = 0x49DFFE0F
	tagUcodeAddon      = 0xDAC08E1A
)

// An addonPart is one section of an addon. It is not a *uki.Section, so that it
// is not taken for one of the image.
type addonPart struct {
	section *uki.Section
	file    string // the name of the addon
}

func (p *addonPart) Size() int64                             { return p.section.Size() }
func (p *addonPart) ReadAt(b []byte, off int64) (int, error) { return p.section.ReadAt(b, off) }

// addons is what the stub takes from the addons of one directory or of both.
type addons struct {
	cmdline                    []uint16 // joined
	devicetree, initrds, ucode []*addonPart
}

// loadAddons takes what the addons among files have. The firmware may refuse
// them, and the stub passes over those that are not for this image: each of
// these is noted in b.Ignored (systemd 262, src/boot/stub.c, load_addons).
func (b *Boot) loadAddons(into *addons, image *uki.File, sel selection, files []File, opts Options) error {
	for _, file := range pick(files, SuffixAddon, "") {
		if err := b.loadAddon(into, image, sel, file, opts); err != nil {
			return fmt.Errorf("addon %.255s: %w", file.Name, err)
		}
	}
	return nil
}

func (b *Boot) loadAddon(into *addons, image *uki.File, imageSections selection, file File, opts Options) error {
	f, err := uki.Open(file.Content, file.Content.Size())
	if err != nil {
		return err
	}
	ignore := func(format string, args ...any) error {
		b.Ignored = append(b.Ignored, fmt.Sprintf("addon %s: %s", file.Name, fmt.Sprintf(format, args...)))
		return nil
	}
	if f.Machine != image.Machine {
		return ignore("it is for %s, the image is for %s", f.Machine, image.Machine)
	}
	switch accepted, err := acceptAddon(file.Name, f, opts); {
	case err != nil:
		return err
	case !accepted:
		return ignore("the firmware does not trust its signature")
	}
	base, _, err := f.Profiles()
	if err != nil {
		return err
	}
	v := b.Stub
	// .efifw is not among what is used, so whom it is for does not matter.
	base = slices.DeleteFunc(slices.Clone(base), func(s *uki.Section) bool { return s.Name == ".efifw" })
	sel, err := selectSections(f, v.Major, [][]*uki.Section{base}, opts.Hardware)
	if err != nil {
		return err
	}
	part := func(name string, since int) *uki.Section {
		if v.Major < since {
			return nil
		}
		return sel[name]
	}
	cmdline, dtb, dtbauto, initrd, ucode := part(".cmdline", 254), part(".dtb", 255), part(".dtbauto", 257), part(".initrd", 257), part(".ucode", 257)
	switch {
	case !slices.ContainsFunc([]*uki.Section{cmdline, dtb, dtbauto, initrd, ucode}, func(s *uki.Section) bool { return s != nil }):
		return ignore("it has nothing that %s takes from an addon", v)
	case sel[".linux"] != nil:
		return ignore("it has a .linux section: it is a UKI")
	}
	if checksUname(v) && imageSections[".uname"] != nil && sel[".uname"] != nil {
		same, err := sameUname(imageSections[".uname"], sel[".uname"])
		if err != nil {
			return err
		}
		if !same {
			return ignore("it is for another kernel (.uname)")
		}
	}

	if cmdline != nil {
		text, err := cmdline.Text()
		if err != nil {
			return err
		}
		into.add(fromUTF8(text), v)
	}
	if dtbauto != nil {
		dtb = dtbauto
	}
	for _, x := range []struct {
		parts   *[]*addonPart
		section *uki.Section
	}{{&into.devicetree, dtb}, {&into.initrds, initrd}, {&into.ucode, ucode}} {
		if x.section != nil {
			*x.parts = append(*x.parts, &addonPart{x.section, file.Name})
		}
	}
	return nil
}

// acceptAddon tells whether the firmware loads an addon. Without Secure Boot it
// loads every PE file.
func acceptAddon(name string, f *uki.File, opts Options) (bool, error) {
	switch {
	case opts.AcceptAddon != nil:
		return opts.AcceptAddon(name, f)
	case opts.SecureBoot:
		return false, ErrUntrusted
	}
	return true, nil
}

// ErrUntrusted is wrapped in the error for an addon of which it is not known
// whether the firmware loads it. It is an ErrCannotTell.
var ErrUntrusted = fmt.Errorf("under Secure Boot it counts only if the firmware trusts its signature: %w", ErrCannotTell)

// AcceptAnyAddon is the Options.AcceptAddon of someone who trusts every addon.
func AcceptAnyAddon(string, *uki.File) (bool, error) { return true, nil }

// checksUname tells whether a version passes over addons for other kernels.
func checksUname(v uki.Stub) bool { return v.Major != 255 || v.Minor >= 5 }

// sameUname compares as the stub does: the addon's .uname is a prefix of the
// image's, or the same up to a NUL (systemd 262, src/boot/stub.c, load_addons:
// strneq8 over the size of the addon's section).
func sameUname(image, addon *uki.Section) (bool, error) {
	want, err := image.Text()
	if err != nil {
		return false, err
	}
	got, err := addon.Text()
	if err != nil {
		return false, err
	}
	if int64(len(got)) < addon.Size() { // there is a NUL behind
		return got == want, nil
	}
	return strings.HasPrefix(want, got), nil
}

// add puts the text of one more addon behind the others: since 257 cleaned on
// its own, and with a space between even where it is empty then (systemd 257,
// src/boot/stub.c, load_addons).
func (a *addons) add(text []uint16, v uki.Stub) {
	if v.Major >= 257 {
		text = mangle(text, v)
	}
	if len(a.cmdline) > 0 {
		a.cmdline = append(a.cmdline, ' ')
	}
	a.cmdline = append(a.cmdline, text...)
}

// addAddons loads the addons, those for all images first, and measures their
// command lines: as one event, in 254 as one event for each directory. 255 and
// 256 join what is not empty of the two directories, newer ones all texts alike.
func (b *Boot) addAddons(image *uki.File, sel selection, opts Options) (*addons, error) {
	a := &addons{}
	if b.Stub.Major < 254 {
		return a, nil
	}
	const what = "command line of addons"
	var joined []uint16
	for _, files := range [][]File{opts.Sidecars.Addons, opts.Sidecars.Image} {
		if err := b.loadAddons(a, image, sel, files, opts); err != nil {
			return nil, err
		}
		switch b.Stub.Major {
		case 254:
			b.appendText(what, mangle(a.cmdline, b.Stub))
			a.cmdline = nil
		case 255, 256:
			joined = joinUnits(joined, a.cmdline)
			a.cmdline = nil
		default:
			joined = a.cmdline
		}
	}
	b.appendText(what, mangle(joined, b.Stub))
	return a, nil
}

// appendText puts text behind the kernel's command line and measures it.
func (b *Boot) appendText(description string, text []uint16) {
	if len(text) == 0 {
		return
	}
	b.measureText(description, text)
	b.cmdline = joinUnits(b.cmdline, text)
}

// joinUnits is Join for UTF-16.
func joinUnits(text, more []uint16) []uint16 {
	if len(text) == 0 || len(more) == 0 {
		return slices.Concat(text, more)
	}
	return slices.Concat(text, []uint16{' '}, more)
}

// addSMBIOS takes the extra command line of the SMBIOS. In a confidential VM it
// comes from the host, who is not trusted (systemd 262, src/boot/stub.c,
// cmdline_append_and_measure_smbios; not cleaned before 257).
func (b *Boot) addSMBIOS(opts Options) error {
	if opts.SMBIOSCmdline == "" || opts.ConfidentialVM || b.Stub.Major < 254 {
		return nil
	}
	if err := CheckCmdline(opts.SMBIOSCmdline); err != nil {
		return fmt.Errorf("SMBIOS: %w", err)
	}
	text := fromUTF8(opts.SMBIOSCmdline)
	if b.Stub.Major >= 257 {
		text = mangle(text, b.Stub)
	}
	b.appendText("command line of the SMBIOS", text)
	return nil
}

// noteDevicetrees lists the devicetrees that are installed: one of the image,
// that for this machine before the other, and then those of addons.
func (b *Boot) noteDevicetrees(sel selection, a *addons) {
	for _, name := range []string{".dtbauto", ".dtb"} {
		if sel[name] != nil {
			b.Devicetrees = append(b.Devicetrees, "section "+name)
			break
		}
	}
	for _, p := range a.devicetree {
		b.Devicetrees = append(b.Devicetrees, "addon "+p.file)
	}
}

// measureDevicetrees measures the devicetrees of addons.
func (b *Boot) measureDevicetrees(a *addons) {
	for _, p := range a.devicetree {
		b.measurePart(tagDevicetreeAddon, "devicetree", p)
	}
}

func (b *Boot) measurePart(tag uint32, what string, p *addonPart) {
	b.measureTag(tag, utf16z(toUTF16(p.file)), fmt.Sprintf("%s of addon %s", what, p.file), p)
}
