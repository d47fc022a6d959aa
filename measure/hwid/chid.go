package hwid

import (
	"crypto/sha1"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
	"unicode/utf16"
)

// A CHID is a computer hardware ID, a UUID in the byte order of RFC 9562.
type CHID [16]byte

// String returns the CHID in lower case, with dashes.
func (c CHID) String() string {
	h := hex.EncodeToString(c[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// guid swaps between the byte orders of RFC 9562 and of EFI, which has the first
// three fields as little-endian numbers (UEFI specification 2.10, appendix A).
func guid(b [16]byte) [16]byte {
	return [16]byte{b[3], b[2], b[1], b[0], b[5], b[4], b[7], b[6],
		b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]}
}

// namespace is that of all CHIDs (systemd 262, src/fundamental/chid.c; Microsoft,
// "Specifying Hardware IDs for a Computer").
var namespace = CHID{0x70, 0xff, 0xd8, 0x12, 0x4c, 0x7f, 0x4c, 0x7d}

// A field is one of the strings that CHIDs are made of.
type field int

// The fields, in the order in which they are hashed (systemd 262,
// src/fundamental/chid.h, ChidSmbiosFields). The BIOS and enclosure fields are in
// no CHID that the stub looks for.
const (
	manufacturer field = iota
	family
	productName
	sku
	baseboardManufacturer
	baseboardProduct
	panel
)

// fieldNames are those of hardware files.
var fieldNames = [...]string{"smbios manufacturer", "smbios family", "smbios product-name", "smbios sku",
	"smbios baseboard-manufacturer", "smbios baseboard-product", "panel"}

// fact returns what is known of a field.
func (m *Machine) fact(f field) Fact {
	return [...]Fact{m.SMBIOS.Manufacturer, m.SMBIOS.Family, m.SMBIOS.ProductName, m.SMBIOS.SKU,
		m.SMBIOS.BaseboardManufacturer, m.SMBIOS.BaseboardProduct, m.Panel}[f]
}

// priority is the CHIDs that the stub looks for, the most specific one first,
// and what they are made of (systemd 262, src/boot/chid.c, chid_match;
// src/fundamental/chid.c, chid_smbios_table). The extensions, 15 to 17, are in
// 258 and newer.
var priority = []struct {
	number, since int
	fields        []field
}{
	{17, 258, []field{manufacturer, sku, panel}},
	{16, 258, []field{manufacturer, family, panel}},
	{15, 258, []field{manufacturer, family, productName, panel}},
	{3, 257, []field{manufacturer, family, productName, sku, baseboardManufacturer, baseboardProduct}},
	{6, 257, []field{manufacturer, sku, baseboardManufacturer, baseboardProduct}},
	{8, 257, []field{manufacturer, productName, baseboardManufacturer, baseboardProduct}},
	{10, 257, []field{manufacturer, family, baseboardManufacturer, baseboardProduct}},
	{4, 257, []field{manufacturer, family, productName, sku}},
	{5, 257, []field{manufacturer, family, productName}},
	{7, 257, []field{manufacturer, sku}},
	{9, 257, []field{manufacturer, productName}},
	{11, 257, []field{manufacturer, family}},
}

// A HardwareID is one of the CHIDs of a machine.
type HardwareID struct {
	// Number is that of Microsoft's list, 3 to 11, or of systemd's extensions,
	// 15 to 17 (ext0 to ext2 in `systemd-analyze chid`).
	Number int
	// CHID is zero if Unknown is not "".
	CHID CHID
	// Unknown names the field for which the CHID cannot be told.
	Unknown string
}

// CHIDs returns the CHIDs of the machine in the order in which systemd-stub of
// the major version looks for them. Without a panel there are no extensions. An
// SMBIOS string that the machine does not have counts as an empty one, unlike in
// `systemd-analyze chid`, which then shows no CHID (systemd 257 and 262,
// src/boot/chid.c, smbios_to_hashable_string).
func (m *Machine) CHIDs(version int) []HardwareID {
	var ids []HardwareID
	for _, p := range priority {
		if p.since > version {
			continue
		}
		id, text := HardwareID{Number: p.number}, make([]string, len(p.fields))
		missing := false
		for i, f := range p.fields {
			s, known := m.fact(f).Value()
			missing = missing || known && f == panel && s == ""
			if f != panel {
				s = trim(s)
			}
			if text[i] = s; !known && id.Unknown == "" {
				id.Unknown = fieldNames[f]
			}
		}
		if missing {
			continue
		}
		if id.Unknown == "" {
			id.CHID = newCHID(text)
		}
		ids = append(ids, id)
	}
	return ids
}

// trim cuts off what CHIDs leave out of SMBIOS strings: leading spaces, then
// leading zeros, then trailing spaces (systemd 262, src/boot/chid.c,
// smbios_to_hashable_string).
func trim(s string) string {
	return strings.TrimRight(strings.TrimLeft(strings.TrimLeft(s, " "), "0"), " ")
}

// newCHID returns the UUID, version 5, of the fields in UTF-16LE with "&" between
// them (systemd 262, src/fundamental/chid.c, get_chid).
func newCHID(fields []string) CHID {
	b := namespace[:]
	for _, u := range utf16.Encode([]rune(strings.Join(fields, "&"))) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	sum := sha1.Sum(b)
	c := CHID(sum[:16])
	c[6] = c[6]&0x0f | 0x50
	c[8] = c[8]&0x3f | 0x80
	return c
}

// checkText refuses strings that the stub would convert to UTF-16 with loss, so
// that their CHIDs would not be those of the text.
func checkText(s string) error {
	for i, r := range s {
		// A replacement character is taken for a sign of invalid UTF-8: the stub
		// drops that, and no firmware has the character itself.
		if r == 0 || r == '\uFFFD' || r > 0xFFFF {
			return fmt.Errorf("%.80q: offset %d: not a character of UTF-8 up to U+FFFF", s, i)
		}
	}
	return nil
}
