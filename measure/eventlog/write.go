package eventlog

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/mkexec/mkexec/measure"
)

// A Stamp is what the records of one moment have in common.
type Stamp struct {
	// BootID is the running kernel's boot id, 32 hexadecimal digits.
	BootID string
	// Timestamp is the time since it was started (CLOCK_BOOTTIME).
	Timestamp time.Duration
	// Image is the SHA-256 of the image that is started; nil if it is not known.
	Image measure.Digest
	// Incomplete says that the log lacks an event that is before these.
	Incomplete bool
}

// The forms of records, with the members in the order of systemd's (systemd 262,
// src/shared/tpm2-util.c, tpm2_userspace_log()).
type (
	recordJSON struct {
		PCR         measure.PCR  `json:"pcr"`
		Digests     []digestJSON `json:"digests"`
		ContentType string       `json:"content_type"`
		Content     any          `json:"content"`
	}
	digestJSON struct {
		Bank   measure.Bank   `json:"hashAlg"`
		Digest measure.Digest `json:"digest"`
	}
	wordJSON struct {
		String    string `json:"string"`
		BootID    string `json:"bootId"`
		Timestamp int64  `json:"timestamp"` // µs
		EventType string `json:"eventType"`
	}
	kexecJSON struct {
		BootID      string            `json:"bootId"`
		Timestamp   int64             `json:"timestamp"` // µs
		EventType   string            `json:"eventType"`
		Type        measure.EventType `json:"type"`
		Description string            `json:"description"`
		Size        int64             `json:"size"`
		Image       measure.Digest    `json:"image,omitempty"`
		Incomplete  bool              `json:"incomplete,omitempty"`
	}
)

// Kexec returns the record of an event of mkexec's, for the end of a log. It has
// no string, which readers would hash, as what was hashed is not text; systemd's
// readers replay it without knowing its content type.
func (s Stamp) Kexec(ev measure.Event) ([]byte, error) {
	return s.record(ev, ContentKexec, kexecJSON{s.BootID, s.Timestamp.Microseconds(), eventKexec, ev.Type, ev.Description, ev.Size, s.Image, s.Incomplete})
}

// Word returns the record of a phase word that PCR 11 is extended with, as
// systemd-pcrextend writes it (systemd 262, src/pcrextend/pcrextend.c).
func (s Stamp) Word(word string, banks []measure.Bank) ([]byte, error) {
	return s.record(measure.WordEvent(measure.PCRKernelImage, word, banks), ContentSystemd, wordJSON{word, s.BootID, s.Timestamp.Microseconds(), "phase"})
}

func (s Stamp) record(ev measure.Event, contentType string, content any) ([]byte, error) {
	r := recordJSON{PCR: ev.PCR, ContentType: contentType, Content: content}
	for b, d := range ev.Digests {
		r.Digests = append(r.Digests, digestJSON{b, d})
	}
	slices.SortFunc(r.Digests, func(a, b digestJSON) int { return int(a.Bank) - int(b.Bank) })
	var b bytes.Buffer
	b.WriteByte(recordSeparator)
	enc := json.NewEncoder(&b) // which writes the line feed
	enc.SetEscapeHTML(false)
	if err := enc.Encode(r); err != nil {
		return nil, fmt.Errorf("userspace log: event %.80q: %w", ev.Description, err)
	}
	// what is written has to be what is read
	if _, err := ParseUserspace(b.Bytes()); err != nil {
		return nil, fmt.Errorf("event %.80q: %w", ev.Description, err)
	}
	return b.Bytes(), nil
}
