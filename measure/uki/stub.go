package uki

import (
	"fmt"
	"strconv"
	"strings"
)

// A StubKind is what a PE file of systemd's is.
type StubKind string

// The kinds that systemd marks its EFI programs with (systemd 262,
// src/boot/stub.c, addon.c, boot.c: DECLARE_NOALLOC_SECTION ".sdmagic").
const (
	StubKindStub  StubKind = "systemd-stub"
	StubKindAddon StubKind = "systemd-addon"
	StubKindBoot  StubKind = "systemd-boot"
)

// A Stub identifies the EFI program in a file.
type Stub struct {
	Kind StubKind
	// Version is the package version, such as "257.13-1~deb13u1".
	Version string
	// Major and Minor are the numbers that Version begins with, 257 and 13. A
	// version without a stable release number has Minor 0.
	Major, Minor int
}

// String returns the kind and version, as in StubInfo.
func (s Stub) String() string { return string(s.Kind) + " " + s.Version }

// Stub tells which EFI program the file holds, by .sdmagic, or by .sbat where a
// file has no .sdmagic. A file that is not systemd's is an error.
func (f *File) Stub() (Stub, error) {
	var sbat *Section
	for _, s := range f.Sections {
		switch s.Name {
		case ".sdmagic":
			text, err := s.Text()
			if err != nil {
				return Stub{}, err
			}
			return ParseMagic(text)
		case ".sbat":
			sbat = s
		}
	}
	if sbat == nil {
		return Stub{}, fmt.Errorf("not systemd-stub: neither a .sdmagic nor a .sbat section")
	}
	text, err := sbat.Text()
	if err != nil {
		return Stub{}, err
	}
	return stubFromSBAT(text)
}

// ParseMagic parses the contents of .sdmagic,
// "#### LoaderInfo: systemd-stub 257.13-1~deb13u1 ####".
func ParseMagic(text string) (Stub, error) {
	info, ok := strings.CutPrefix(text, "#### LoaderInfo: ")
	info, ok2 := strings.CutSuffix(info, " ####")
	kind, version, ok3 := strings.Cut(info, " ")
	if !ok || !ok2 || !ok3 {
		return Stub{}, fmt.Errorf("section .sdmagic: %.80q: not of the form \"#### LoaderInfo: systemd-stub VERSION ####\"", text)
	}
	switch StubKind(kind) {
	case StubKindStub, StubKindAddon, StubKindBoot:
	default:
		return Stub{}, fmt.Errorf("section .sdmagic: %.40q: unknown EFI program", kind)
	}
	return parseVersion(StubKind(kind), version)
}

// stubFromSBAT finds systemd's line in SBAT data, "systemd-stub,1,The systemd
// Developers,systemd,257,…" or, before 255, "systemd,1,…". ukify merges the
// kernel's lines into the same section.
func stubFromSBAT(text string) (Stub, error) {
	for line := range strings.Lines(text) {
		f := strings.Split(strings.TrimSpace(line), ",")
		if len(f) >= 5 && (f[0] == "systemd-stub" || f[0] == "systemd" && f[3] == "systemd") {
			return parseVersion(StubKindStub, f[4])
		}
	}
	return Stub{}, fmt.Errorf("not systemd-stub: no .sdmagic section, and no systemd-stub line in .sbat")
}

// ParseStub parses the version of a systemd-stub, such as "257.13-1~deb13u1" or "262".
func ParseStub(version string) (Stub, error) { return parseVersion(StubKindStub, version) }

// parseVersion splits a package version: "v258-rc1-12-gabcdef", "259~rc1", "262.1-1".
func parseVersion(kind StubKind, version string) (Stub, error) {
	major, rest := leadingNumber(strings.TrimPrefix(version, "v"))
	if major < 0 {
		return Stub{}, fmt.Errorf("%s version %.80q: does not begin with a number", kind, version)
	}
	minor := 0
	if m, ok := strings.CutPrefix(rest, "."); ok {
		if minor, _ = leadingNumber(m); minor < 0 {
			return Stub{}, fmt.Errorf("%s version %.80q: no number after the dot", kind, version)
		}
	}
	return Stub{kind, version, major, minor}, nil
}

// leadingNumber returns the number that s begins with, -1 if it does not or if
// the number has more than six digits, and what follows it.
func leadingNumber(s string) (n int, rest string) {
	end := 0
	for end < len(s) && s[end] >= '0' && s[end] <= '9' {
		end++
	}
	if end == 0 || end > 6 {
		return -1, s
	}
	n, _ = strconv.Atoi(s[:end]) // at most six digits
	return n, s[end:]
}
