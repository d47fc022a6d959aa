package stub

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/hwid"
	"github.com/mkexec/mkexec/measure/uki"
)

// A Via is who starts the image.
type Via string

// The ways to start an image.
const (
	// ViaKexec is mkexec itself: the measurements of a firmware boot, without
	// those of a boot loader.
	ViaKexec Via = "kexec"
	// ViaFirmware is UEFI firmware that starts the image from a boot entry.
	ViaFirmware Via = "firmware"
	// ViaSystemdBoot is systemd-boot, which measures the load options too.
	ViaSystemdBoot Via = "systemd-boot"
)

// Vias returns the known ways to start an image.
func Vias() []Via { return []Via{ViaKexec, ViaFirmware, ViaSystemdBoot} }

// Options says how an image is started.
type Options struct {
	// Via is who starts it; there is no default.
	Via Via
	// Profile is the number or ID of the profile; "" is profile 0.
	Profile string
	// Choice is the choice of a profile as load options begin with it, such as
	// "@03 ", in place of Profile: systemd-boot measures it as it is spelled. ""
	// if there is none.
	Choice string
	// Cmdline is the command line that is passed to the stub; nil if none is.
	Cmdline *string
	// Append is put behind the passed or embedded command line, with a space
	// between; the result counts as passed. "" for nothing.
	Append string
	// SecureBoot tells whether the firmware enforces Secure Boot: an embedded
	// command line can then not be replaced.
	SecureBoot bool
	// ConfidentialVM tells whether the image runs in a confidential VM: no
	// command line is then accepted from outside (254.2 and newer).
	ConfidentialVM bool

	// Sidecars are the files beside the image.
	Sidecars Sidecars
	// AcceptAddon tells whether the firmware loads an addon. If it is nil, every
	// addon is loaded, but under Secure Boot the answer is ErrCannotTell.
	AcceptAddon func(name string, f *uki.File) (bool, error)
	// SMBIOSCmdline is the machine's SMBIOS OEM string
	// io.systemd.stub.kernel-cmdline-extra=, "" for none.
	SMBIOSCmdline string
	// Hardware is the machine that .dtbauto and .efifw are selected for; nil if
	// it is not known.
	Hardware *hwid.Machine
	// IgnoreRefused starts an image whose command line cannot be replaced with the
	// embedded one, as firmware would; see ErrCmdlineRefused.
	IgnoreRefused bool
	// Version is the version of systemd-stub whose rules apply, in place of the
	// one that the image names; "" for that one.
	Version string
}

// A Boot is what the stub does with an image.
type Boot struct {
	measure.Image
	// Stub is the stub whose rules were applied.
	Stub uki.Stub
	// Profile is the number of the profile.
	Profile int
	// Embedded is the embedded command line, as the kernel would get it alone,
	// and OSRelease the text of .osrel; "" if there is none.
	Embedded, OSRelease string
	// PCRSignature and PCRPublicKey are .pcrsig and .pcrpkey; nil if there is none.
	PCRSignature, PCRPublicKey measure.Content
	// Devicetrees names the devicetrees that the stub would install, in order.
	Devicetrees []string
	// Ignored says which addons are not used, and why.
	Ignored []string

	cmdline []uint16 // the kernel's, as far as it is settled
}

// ErrCmdlineRefused is wrapped in the error when the command line of an image
// cannot be replaced. A stub that is started by firmware ignores the passed
// command line then; mkexec does not, because who passed it meant it.
var ErrCmdlineRefused = errors.New("the embedded command line cannot be replaced")

// loadOptions describes the event of systemd-boot.
const loadOptions = "load options of systemd-boot"

// ErrUnknownVersion is wrapped in the error for an image whose stub is of a
// version whose rules are not known.
var ErrUnknownVersion = errors.New("its rules are not known")

// tagProfile is the tag of the event that measures the profile number
// (systemd 262, src/boot/measure.h, UKI_PROFILE_EVENT_TAG_ID).
const tagProfile = 0x13AED6DB

// Load applies the rules of the stub in the image f.
func Load(f *uki.File, opts Options) (*Boot, error) {
	if !slices.Contains(Vias(), opts.Via) {
		return nil, fmt.Errorf("via %.40q: unknown (known: %v)", opts.Via, Vias())
	}
	version, err := Rules(f, opts.Version)
	if err != nil {
		return nil, err
	}
	base, profiles, err := f.Profiles()
	if err != nil {
		return nil, err
	}
	if version.Major < 257 {
		profiles = nil // they do not know profiles
	}
	b := &Boot{Stub: version}
	name, choice, err := chosenProfile(opts)
	if err != nil {
		return nil, err
	}
	var profile []*uki.Section
	if b.Profile, profile, err = findProfile(profiles, name); err != nil {
		return nil, err
	}
	text, err := passedText(f, version, opts, base, profile)
	if err != nil {
		return nil, err
	}
	// What firmware and systemd-boot hand over as LoadOptions.
	if choice == "" && b.Profile > 0 {
		choice = fmt.Sprintf("@%d", b.Profile)
	}
	if text != "" && choice != "" && !strings.HasSuffix(choice, " ") {
		choice += " "
	}
	options := choice + text
	entry, err := b.addEntryFiles(opts.Sidecars.Entry, opts.Via)
	if err != nil {
		return nil, err
	}
	if opts.Via == ViaSystemdBoot && options != "" {
		b.measureText(loadOptions, toUTF16(options))
	}
	if opts.Via != ViaKexec {
		garbage, err := isGarbage(toUTF16(options), version)
		if err != nil {
			return nil, err
		}
		if garbage {
			text = ""
			b.Profile, profile, _ = findProfile(profiles, "") // profile 0 always is
		}
	}
	passed := mangle(toUTF16(text), version)
	if len(passed) == 0 && text != "" && (version.Major == 255 || version.Major == 256) {
		return nil, fmt.Errorf("command line: only blanks: what %s does with that: %w", version, ErrCannotTell) // it reads beyond the text
	}
	if opts.Via == ViaKexec && opts.Cmdline != nil && len(passed) == 0 {
		return nil, fmt.Errorf("command line: empty: it would not replace the embedded one")
	}

	sel, err := selectSections(f, version.Major, [][]*uki.Section{base, profile}, opts.Hardware)
	if err != nil {
		return nil, err
	}
	if sel[".linux"] == nil {
		return nil, errors.New("no .linux section: not a UKI")
	}
	if b.Kernel, err = kernel(sel[".linux"]); err != nil {
		return nil, err
	}
	if err := b.run(f, sel, passed, entry, opts); err != nil {
		return nil, err
	}
	return b, nil
}

// run does what the stub does after it has found its sections, in the stub's
// order (systemd 262, src/boot/stub.c, run). entry is the archives that
// systemd-boot hands over.
func (b *Boot) run(f *uki.File, sel selection, passed []uint16, entry [][]measure.Content, opts Options) error {
	if b.Profile != 0 {
		n := utf16z(toUTF16(fmt.Sprint(b.Profile)))
		b.measureTag(tagProfile, n, fmt.Sprintf("profile %d", b.Profile), measure.Bytes(n))
	}
	b.measureSections(sel)
	if err := b.describe(sel); err != nil {
		return err
	}
	if err := b.decideCmdline(sel, passed, opts); err != nil {
		return err
	}
	addons, err := b.addAddons(f, sel, opts)
	if err != nil {
		return err
	}
	if err := b.addSMBIOS(opts); err != nil {
		return err
	}
	b.Cmdline = toUTF8(b.cmdline)

	b.noteDevicetrees(sel, addons)
	if b.Stub.Major >= 257 {
		b.measureDevicetrees(addons)
	}
	archives, err := b.addArchives(&opts.Sidecars)
	if err != nil {
		return err
	}
	if b.Stub.Major < 257 {
		b.measureDevicetrees(addons)
	}
	b.Initrd = b.composeInitrd(sel, entry, archives, addons)
	return nil
}

// describe notes what the image says of itself.
func (b *Boot) describe(sel selection) (err error) {
	if s := sel[".osrel"]; s != nil {
		if b.OSRelease, err = s.Text(); err != nil {
			return err
		}
	}
	if s := sel[".pcrsig"]; s != nil {
		b.PCRSignature = s
	}
	if s := sel[".pcrpkey"]; s != nil {
		b.PCRPublicKey = s
	}
	embedded, err := embeddedCmdline(sel, b.Stub)
	b.Embedded = toUTF8(embedded)
	return err
}

// Rules returns the stub whose rules apply to an image: the one that it names,
// or that of a version that is insisted on ("" for none). A version whose rules
// are not known is an error, and so is code that does not fit its version.
func Rules(f *uki.File, version string) (v uki.Stub, err error) {
	if version != "" {
		if v, err = uki.ParseStub(version); err != nil {
			return v, err
		}
	} else {
		if v, err = f.Stub(); err != nil {
			return v, err
		}
		if v.Kind != uki.StubKindStub {
			return v, fmt.Errorf("not a UKI: the file holds %s", v)
		}
	}
	if v.Major < oldestVersion || v.Major > NewestVersion {
		return v, fmt.Errorf("%s: %w (known: %d to %d)", v, ErrUnknownVersion, oldestVersion, NewestVersion)
	}
	if version == "" {
		err = checkFeatures(f, v)
	}
	return v, err
}

// passedText returns the command line that is passed to the stub, "" if none is.
func passedText(f *uki.File, v uki.Stub, opts Options, base, profile []*uki.Section) (string, error) {
	text := ""
	if opts.Cmdline != nil {
		text = *opts.Cmdline
	} else if opts.Append != "" {
		sel, err := selectSections(f, v.Major, [][]*uki.Section{base, profile}, opts.Hardware)
		if err != nil {
			return "", err
		}
		embedded, err := embeddedCmdline(sel, v)
		if err != nil {
			return "", err
		}
		text = toUTF8(embedded)
	}
	if opts.Append != "" {
		text = Join(text, opts.Append)
	}
	if _, _, selects := SplitProfile(text); selects && v.Major >= 257 {
		return "", fmt.Errorf("command line: begins with %.12q, which selects a profile; name the profile by its own option", text)
	}
	return text, CheckCmdline(text)
}

// Join puts a space between two texts of a command line that are not empty.
func Join(text, more string) string {
	if text == "" || more == "" {
		return text + more
	}
	return text + " " + more
}

// CheckCmdline refuses text that cannot be a command line.
func CheckCmdline(text string) error {
	if i := strings.IndexByte(text, 0); i >= 0 {
		return fmt.Errorf("command line: NUL at offset %d", i)
	}
	if !utf8.ValidString(text) {
		return fmt.Errorf("command line: not valid UTF-8")
	}
	return nil
}

func embeddedCmdline(sel selection, v uki.Stub) ([]uint16, error) {
	s := sel[".cmdline"]
	if s == nil {
		return nil, nil
	}
	text, err := s.Text()
	if err != nil {
		return nil, err
	}
	return mangle(fromUTF8(text), v), nil
}

// decideCmdline makes the passed command line the kernel's, and measures it, if
// the stub accepts it; otherwise the embedded one is the kernel's (systemd 262,
// src/boot/stub.c, determine_cmdline; the clause on confidential VMs since 254.2).
func (b *Boot) decideCmdline(sel selection, passed []uint16, opts Options) error {
	if len(passed) > 0 {
		v := b.Stub
		sealed := opts.ConfidentialVM && (v.Major > 254 || v.Major == 254 && v.Minor >= 2)
		if !opts.SecureBoot || sel[".cmdline"] == nil && !sealed {
			b.cmdline = passed
			b.measureText("command line", passed)
			return nil
		}
		if opts.IgnoreRefused {
			b.Ignored = append(b.Ignored, fmt.Sprintf("command line %q: under Secure Boot the embedded one counts", toUTF8(passed)))
		} else if opts.Via == ViaKexec {
			return fmt.Errorf("command line %.80q: under Secure Boot %w", toUTF8(passed), ErrCmdlineRefused)
		}
	}
	var err error
	b.cmdline, err = embeddedCmdline(sel, b.Stub)
	return err
}

// measureSections measures the sections into PCR 11: the name with a NUL, then
// the contents, in canonical order (systemd 262, src/boot/stub.c, measure_sections).
func (b *Boot) measureSections(sel selection) {
	for _, name := range knownSections(b.Stub.Major) {
		s := sel[name]
		if s == nil || name == ".pcrsig" {
			continue
		}
		b.measureSection(name, s)
	}
}

func (b *Boot) measureSection(name string, contents measure.Content) {
	data := utf16z(toUTF16(name))
	add := func(what string, c measure.Content) {
		b.Measurements = append(b.Measurements, measure.Measurement{
			PCR: measure.PCRKernelImage, Type: measure.EventIPL, Data: data,
			Description: fmt.Sprintf("section %s: %s", name, what), Content: c,
		})
	}
	add("name", measure.Bytes([]byte(name+"\x00")))
	add("data", contents)
}

// measureText measures a command line into PCR 12. It is its own event data.
func (b *Boot) measureText(description string, units []uint16) {
	z := utf16z(units)
	b.Measurements = append(b.Measurements, measure.Measurement{
		PCR: measure.PCRKernelConfig, Type: measure.EventIPL, Data: z,
		Description: description, Content: measure.Bytes(z),
	})
}

// measureTag measures c into PCR 12 with a tagged event (TCG PC Client Platform
// Firmware Profile, TCG_PCClientTaggedEvent; systemd 262, src/boot/measure.c,
// tpm_log_tagged_event).
func (b *Boot) measureTag(tag uint32, text []byte, description string, c measure.Content) {
	data := binary.LittleEndian.AppendUint32(nil, tag)
	data = binary.LittleEndian.AppendUint32(data, uint32(len(text)))
	b.Measurements = append(b.Measurements, measure.Measurement{
		PCR: measure.PCRKernelConfig, Type: measure.EventTag, Data: append(data, text...),
		Description: description, Content: c,
	})
}

// kernel returns the file in a .linux section: what the file backs of it,
// without the padding that ukify 257.0 to 257.2 count as contents.
func kernel(s *uki.Section) (*uki.Section, error) {
	_, size := s.FileRange()
	inner, err := uki.Open(s, size)
	if err != nil {
		return s.Prefix(size), nil // not a PE file, and then there is nothing to trim
	}
	if size, err = inner.TrimPadding(); err != nil {
		return nil, fmt.Errorf("section .linux: %w", err)
	}
	return s.Prefix(size), nil
}
