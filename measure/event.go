package measure

import "fmt"

// An EventType is the type of an event in a TCG event log (TCG PC Client
// Platform Firmware Profile, 10.4.1 "Event Types").
type EventType uint32

// The event types that systemd-boot and systemd-stub use.
const (
	EventIPL EventType = 0x0000000D // EV_IPL
	EventTag EventType = 0x00000006 // EV_EVENT_TAG
)

// String returns the TCG name of the type.
func (t EventType) String() string {
	switch t {
	case EventIPL:
		return "EV_IPL"
	case EventTag:
		return "EV_EVENT_TAG"
	}
	return fmt.Sprintf("0x%08x", uint32(t))
}

// MarshalText returns the TCG name of the type.
func (t EventType) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// An Event is one extend of one PCR, in every bank that is predicted.
type Event struct {
	PCR     PCR             `json:"pcr"`
	Type    EventType       `json:"type"`
	Digests map[Bank]Digest `json:"digests"`
	// Description says what was hashed, for people.
	Description string `json:"description"`
	// Data is the event data that systemd-stub writes into the firmware's event
	// log. Other than for command lines it is not what was hashed.
	Data []byte `json:"-"`
}

// UnmarshalText parses the TCG name of a type that systemd-boot or systemd-stub uses.
func (t *EventType) UnmarshalText(text []byte) error {
	for _, known := range []EventType{EventIPL, EventTag} {
		if string(text) == known.String() {
			*t = known
			return nil
		}
	}
	return fmt.Errorf("event type %.40q: unknown", text)
}
