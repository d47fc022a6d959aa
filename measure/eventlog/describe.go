package eventlog

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/mkexec/mkexec/measure"
)

// tags are the ids of EV_EVENT_TAG events (systemd 262, src/boot/measure.h and
// tpm2-pcr.h; Linux, drivers/firmware/efi/libstub, efi_measure_tagged_event).
var tags = map[uint32]string{
	0xF5BC582A: "loader.conf",
	0x6C46F751: "devicetree addon",
	0x49DFFE0F: "initrd addon",
	0xDAC08E1A: "ucode addon",
	0x13AED6DB: "UKI profile",
	0xD5CB7CBC: "SMBIOS type 1",
	0xE0D47BC8: "SMBIOS type 2",
	0xC0B3BD23: "SMBIOS type 11",
	0x8F3B22ED: "Linux load options",
	0x8F3B22EC: "Linux initrd",
}

// The types whose data is a UEFI_VARIABLE_DATA.
const (
	variableDriverConfig measure.EventType = 0x80000001
	variableBoot         measure.EventType = 0x80000002
	variableBoot2        measure.EventType = 0x8000000C
	variableAuthority    measure.EventType = 0x800000E0
)

// crtmVersion is EV_S_CRTM_VERSION, whose data is text or a GUID.
const crtmVersion measure.EventType = 0x00000008

// Describe says in words what the data of an event says. The words come from the
// log: whoever prints them must quote them. Data that has not the form that its
// type asks for is given by its size.
func Describe(t measure.EventType, data []byte) string {
	text, ok := "", false
	switch t {
	case measure.EventIPL, crtmVersion:
		if text, ok = utf16Text(data); !ok {
			text, ok = plainText(data) // shim and GRUB
		}
	case measure.EventTag:
		text, ok = tagText(data)
	case measure.EventSeparator:
		text, ok = separatorText(data)
	case variableDriverConfig, variableBoot, variableBoot2, variableAuthority:
		text, ok = variableText(data)
	default:
		text, ok = plainText(data)
	}
	if !ok {
		return fmt.Sprintf("%d bytes of data", len(data))
	}
	return text
}

// tagText returns the name of a tag and its text (TCG PC Client Platform Firmware
// Profile, TCG_PCClientTaggedEvent: the id, the size of the text, and that).
func tagText(data []byte) (string, bool) {
	if len(data) < 8 || uint64(binary.LittleEndian.Uint32(data[4:])) != uint64(len(data)-8) {
		return "", false
	}
	id, tagged := binary.LittleEndian.Uint32(data), data[8:]
	text, ok := utf16Text(tagged)
	if !ok {
		if text, ok = plainText(tagged); !ok { // Linux writes ASCII
			text = fmt.Sprintf("%d bytes of data", len(tagged))
		}
	}
	name, known := tags[id]
	if !known {
		name = fmt.Sprintf("tag 0x%08x", id)
	}
	return name + ": " + text, true
}

// separatorText: zero and all ones separate, 1 is an error of the firmware.
func separatorText(data []byte) (string, bool) {
	if len(data) != 4 {
		return "", false
	}
	switch v := binary.LittleEndian.Uint32(data); v {
	case 0, 0xFFFFFFFF:
		return "separator", true
	case 1:
		return "separator after an error", true
	default:
		return fmt.Sprintf("separator 0x%x", v), true
	}
}

// variableText returns the name of an EFI variable: behind its GUID and the sizes
// of the name, in units of 16 bits, and of the data, each of 8 bytes.
func variableText(data []byte) (string, bool) {
	const fixed = 16 + 8 + 8
	if len(data) < fixed {
		return "", false
	}
	units := binary.LittleEndian.Uint64(data[16:])
	if units > uint64(len(data)-fixed)/2 {
		return "", false
	}
	name := data[fixed : fixed+2*units]
	return "variable " + decodeUTF16(name), true
}

// utf16Text decodes text as EFI has it: UTF-16LE up to a NUL at the end.
func utf16Text(data []byte) (string, bool) {
	n := len(data)
	if n < 2 || n%2 != 0 || data[n-2] != 0 || data[n-1] != 0 {
		return "", false
	}
	text := decodeUTF16(data[:n-2])
	return text, !strings.Contains(text, "\x00")
}

func decodeUTF16(data []byte) string {
	units := make([]uint16, len(data)/2)
	for i := range units {
		units[i] = binary.LittleEndian.Uint16(data[2*i:])
	}
	return string(utf16.Decode(units))
}

// plainText takes data for text in UTF-8, with or without NUL bytes at the end, if
// it holds nothing that text would not.
func plainText(data []byte) (string, bool) {
	data = bytes.TrimRight(data, "\x00")
	binary := func(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\t' }
	return string(data), len(data) > 0 && utf8.Valid(data) && !bytes.ContainsFunc(data, binary)
}
