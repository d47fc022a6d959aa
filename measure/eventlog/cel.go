package eventlog

import (
	"cmp"
	"encoding/json"
	"slices"

	"github.com/mkexec/mkexec/measure"
)

// A celJSON is a record of CEL-JSON (TCG Canonical Event Log Format, 5.2), with
// the members that systemd-pcrlock cel gives it (systemd 262,
// src/pcrlock/pcrlock.c, event_log_record_to_cel()).
type celJSON struct {
	PCR         *measure.PCR `json:"pcr,omitempty"`
	NVIndex     uint32       `json:"nv_index,omitempty"`
	RecNum      int          `json:"recnum"`
	Digests     []digestJSON `json:"digests"`
	ContentType string       `json:"content_type,omitempty"`
	Content     any          `json:"content,omitempty"`
}

// A firmwareJSON is the content of a record of the firmware's log.
type firmwareJSON struct {
	Type measure.EventType `json:"event_type"`
	Data measure.Digest    `json:"event_data"` // hexadecimal
}

// CEL returns the events as a JSON array of CEL-JSON records. The content of
// userspace's records is theirs, whatever its type; systemd-pcrlock cel has it of
// systemd's alone.
func (t *Timeline) CEL() ([]byte, error) {
	records := []celJSON{}
	for i, s := range t.Steps() {
		r := celJSON{RecNum: i + 1}
		if s.Event.PCR >= 0 {
			r.PCR = &s.Event.PCR
		}
		for b, d := range s.Event.Digests {
			r.Digests = append(r.Digests, digestJSON{b, d})
		}
		// systemd has them the other way round as its logs do
		slices.SortFunc(r.Digests, func(a, b digestJSON) int { return cmp.Compare(b.Bank, a.Bank) })
		if s.Record == nil {
			r.ContentType, r.Content = "pcclient_std", firmwareJSON{s.Event.Type, s.Event.Data}
		} else {
			r.NVIndex, r.ContentType = s.Record.NVIndex, s.Record.ContentType
			if s.Record.Content != nil {
				r.Content = s.Record.Content
			}
		}
		records = append(records, r)
	}
	return json.Marshal(records)
}
