package hwid

import "errors"

// ErrUnknown is wrapped in the error when the answer depends on something that
// is not known of the machine. The error names what.
var ErrUnknown = errors.New("the machine is not known well enough")

// A Fact is what is known of one of the machine's strings: the values that it
// can have. With one value it is known; with several it is one of them; with
// none it is not known at all. The value "" stands for a string that the
// machine does not have. To the stub that is the same as an empty one.
type Fact []string

// Known returns the fact that the string is s.
func Known(s string) Fact { return Fact{s} }

// Value returns the string, and whether it is known.
func (f Fact) Value() (s string, known bool) {
	if len(f) != 1 {
		return "", false
	}
	return f[0], true
}

// A Machine is what is known of a machine's firmware.
type Machine struct {
	// FirmwareDevicetree is the first compatible string of the root node of the
	// devicetree that the firmware hands over in its configuration table
	// (EFI_DTB_TABLE_GUID); "" if it hands over none.
	FirmwareDevicetree Fact
	// SMBIOS holds the strings that identify the machine.
	SMBIOS SMBIOS
	// Panel is the panel in the EDID that the firmware offers
	// (EFI_EDID_DISCOVERED_PROTOCOL): three letters for the manufacturer, and
	// the product code as four lower-case hexadecimal digits, such as
	// "RHT1234"; "" if it offers none.
	Panel Fact
	// CmdlineExtra is what follows io.systemd.stub.kernel-cmdline-extra= in the
	// OEM strings (SMBIOS type 11); "" if there is no such string.
	CmdlineExtra Fact
	// SecureBoot tells whether the firmware enforces Secure Boot, nil if that is
	// not known. Only hardware files say so.
	SecureBoot *bool
	// ConfidentialVM tells whether the machine is a confidential VM, nil if that
	// is not known. Only hardware files say so.
	ConfidentialVM *bool
}

// An SMBIOS holds the strings that identify a machine, as the firmware has them:
// of the first structure of type 1 (System Information) and of type 2 (Baseboard
// Information). The names are those of `systemd-analyze chid`.
type SMBIOS struct {
	Manufacturer          Fact // type 1
	Family                Fact
	ProductName           Fact
	SKU                   Fact
	BaseboardManufacturer Fact // type 2
	BaseboardProduct      Fact
}
