package measure

import "fmt"

// An EventType is the type of an event in a TCG event log (TCG PC Client
// Platform Firmware Profile, 10.4.1 "Event Types").
type EventType uint32

// The event types that matter here.
const (
	EventNoAction  EventType = 0x00000003 // EV_NO_ACTION, which extends no PCR
	EventSeparator EventType = 0x00000004 // EV_SEPARATOR
	EventTag       EventType = 0x00000006 // EV_EVENT_TAG: systemd-boot and systemd-stub
	EventIPL       EventType = 0x0000000D // EV_IPL: systemd-boot and systemd-stub
	EventEFIAction EventType = 0x80000007 // EV_EFI_ACTION
)

// eventTypes are the names of the types (TCG PC Client Platform Firmware Profile
// 1.06, table "Events").
var eventTypes = map[EventType]string{
	0x00000000: "EV_PREBOOT_CERT",
	0x00000001: "EV_POST_CODE",
	0x00000002: "EV_UNUSED",
	0x00000003: "EV_NO_ACTION",
	0x00000004: "EV_SEPARATOR",
	0x00000005: "EV_ACTION",
	0x00000006: "EV_EVENT_TAG",
	0x00000007: "EV_S_CRTM_CONTENTS",
	0x00000008: "EV_S_CRTM_VERSION",
	0x00000009: "EV_CPU_MICROCODE",
	0x0000000A: "EV_PLATFORM_CONFIG_FLAGS",
	0x0000000B: "EV_TABLE_OF_DEVICES",
	0x0000000C: "EV_COMPACT_HASH",
	0x0000000D: "EV_IPL",
	0x0000000E: "EV_IPL_PARTITION_DATA",
	0x0000000F: "EV_NONHOST_CODE",
	0x00000010: "EV_NONHOST_CONFIG",
	0x00000011: "EV_NONHOST_INFO",
	0x00000012: "EV_OMIT_BOOT_DEVICE_EVENTS",
	0x00000013: "EV_POST_CODE2",
	0x80000001: "EV_EFI_VARIABLE_DRIVER_CONFIG",
	0x80000002: "EV_EFI_VARIABLE_BOOT",
	0x80000003: "EV_EFI_BOOT_SERVICES_APPLICATION",
	0x80000004: "EV_EFI_BOOT_SERVICES_DRIVER",
	0x80000005: "EV_EFI_RUNTIME_SERVICES_DRIVER",
	0x80000006: "EV_EFI_GPT_EVENT",
	0x80000007: "EV_EFI_ACTION",
	0x80000008: "EV_EFI_PLATFORM_FIRMWARE_BLOB",
	0x80000009: "EV_EFI_HANDOFF_TABLES",
	0x8000000A: "EV_EFI_PLATFORM_FIRMWARE_BLOB2",
	0x8000000B: "EV_EFI_HANDOFF_TABLES2",
	0x8000000C: "EV_EFI_VARIABLE_BOOT2",
	0x8000000D: "EV_EFI_GPT_EVENT2",
	0x80000010: "EV_EFI_HCRTM_EVENT",
	0x800000E0: "EV_EFI_VARIABLE_AUTHORITY",
	0x800000E1: "EV_EFI_SPDM_FIRMWARE_BLOB",
	0x800000E2: "EV_EFI_SPDM_FIRMWARE_CONFIG",
	0x800000E3: "EV_EFI_SPDM_DEVICE_POLICY",
	0x800000E4: "EV_EFI_SPDM_DEVICE_AUTHORITY",
}

// String returns the TCG name of the type, or its number, 0x and 8 digits, if it
// is not known.
func (t EventType) String() string {
	if name, ok := eventTypes[t]; ok {
		return name
	}
	return fmt.Sprintf("0x%08x", uint32(t))
}

// MarshalText returns what String does.
func (t EventType) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// An Event is one extend of one PCR, in every bank that is predicted, or a record
// in an event log. A record of type EV_NO_ACTION extends nothing.
type Event struct {
	PCR     PCR             `json:"pcr"`
	Type    EventType       `json:"type"`
	Digests map[Bank]Digest `json:"digests"`
	// Description says what was hashed, for people.
	Description string `json:"description"`
	// Size is how many bytes were hashed, where that is known.
	Size int64 `json:"size,omitempty"`
	// Data is the event data in the firmware's event log. As systemd-stub writes
	// it, it is not what was hashed, other than for command lines.
	Data []byte `json:"-"`
}

// UnmarshalText parses the TCG name of a type. Numbers are refused.
func (t *EventType) UnmarshalText(text []byte) error {
	for known, name := range eventTypes {
		if string(text) == name {
			*t = known
			return nil
		}
	}
	return fmt.Errorf("event type %.40q: unknown", text)
}
