package eventlog

import (
	"fmt"
	"strings"

	"github.com/mkexec/mkexec/measure"
)

// A Text says what the string of a record is to its digests.
type Text string

// The values of a Text.
const (
	TextNone Text = ""
	// TextHashed: it hashes to the digest in every bank.
	TextHashed Text = "hashed"
	// TextCut: it is the beginning of what was hashed, which cannot be checked.
	TextCut Text = "cut"
	// TextHMAC: the digest is an HMAC of it, with a key that is not known: that of
	// a volume.
	TextHMAC Text = "hmac"
	// TextOther: it is not what was hashed, or that cannot be told. Such is the
	// string of some event types that are not known.
	TextOther Text = "other"
)

// hashedTypes are the event types whose string is what is hashed (systemd 262,
// the callers of tpm2_pcr_extend_bytes() and tpm2_nvpcr_extend_bytes()).
var hashedTypes = map[string]bool{
	"phase": true, "filesystem": true, "machine-id": true, "product-id": true, "keyslot": true,
	"nvpcr-init": true, "nvpcr-separator": true, "os-separator": true,
}

// volumeKey is the event type of HMACs (systemd 262, src/cryptsetup/cryptsetup.c,
// measure_volume_key()).
const volumeKey = "volume-key"

// systemd keeps so many bytes of what was hashed, and writes the mark behind
// them if it was more (systemd 262, src/shared/pcrextend-util.c and
// src/shared/tpm2-util.c: 1024 bytes, cescape_length(), "...").
const (
	cutSize = 1024
	cutMark = "..."
)

// checkString finds out what the string is worth. It is an error if it should be
// what was hashed and is not.
func (r *Record) checkString() error {
	r.Text = TextHashed
	if r.EventType == volumeKey {
		r.Text = TextHMAC
		return nil
	}
	text, escaped := unescape(r.String)
	for b, d := range r.Digests {
		// some of systemd's programs escape what they log, others do not
		if d.String() == b.Sum([]byte(r.String)).String() || escaped && d.String() == b.Sum([]byte(text)).String() {
			continue
		}
		begin, cut := strings.CutSuffix(text, cutMark)
		switch {
		case escaped && cut && len(begin) == cutSize:
			r.Text = TextCut
		case hashedTypes[r.EventType]:
			return fmt.Errorf("string %.80q: does not hash to the %s digest", r.String, b)
		default:
			r.Text = TextOther
		}
		return nil
	}
	if len(r.Digests) == 0 {
		r.Text = TextOther
	}
	return nil
}

// unescape undoes the C escapes of systemd's cescape() (systemd 262,
// src/basic/escape.c, cescape_char()), and of what is not escaped at all. It
// returns false if s is not what that would have written.
func unescape(s string) (string, bool) {
	if !strings.Contains(s, `\`) {
		return s, true
	}
	single := map[byte]byte{'a': '\a', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t', 'v': '\v', '\\': '\\', '"': '"', '\'': '\''}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			b.WriteByte(s[i])
			continue
		}
		rest := s[i+1:]
		if rest == "" {
			return "", false
		}
		if c, ok := single[rest[0]]; ok {
			b.WriteByte(c)
			i++
			continue
		}
		if len(rest) < 3 || rest[0] < '0' || rest[0] > '3' || rest[1] < '0' || rest[1] > '7' || rest[2] < '0' || rest[2] > '7' {
			return "", false
		}
		b.WriteByte((rest[0]-'0')<<6 | (rest[1]-'0')<<3 | (rest[2] - '0'))
		i += 3
	}
	return b.String(), true
}

// Describe says in words what was measured. The words come from the log: whoever
// prints them must quote them.
func (r *Record) Describe() string {
	switch {
	case r.Kexec != nil && r.Kexec.Size > 0:
		return fmt.Sprintf("%s, %d bytes", r.Kexec.Description, r.Kexec.Size)
	case r.Kexec != nil:
		return r.Kexec.Description
	}
	var text string
	switch r.Text {
	case TextNone:
		text = "no text"
		if r.ContentType != ContentSystemd {
			text = fmt.Sprintf("content of type %q", r.ContentType)
		}
	case TextHashed:
		text = r.String
	case TextCut:
		text = r.String[:min(len(r.String), 60)] + "… (more was hashed)"
	case TextHMAC:
		text = r.String + " (HMAC with the volume key)"
	case TextOther:
		text = r.String + " (not what was hashed)"
	}
	if r.PCR < 0 {
		text = fmt.Sprintf("NvPCR %s: %s", r.NVName, text)
	}
	return text
}

// Event returns the extend of the record. PCR is -1 for an NvPCR.
func (r *Record) Event() measure.Event {
	ev := measure.Event{PCR: r.PCR, Digests: r.Digests, Description: r.Describe()}
	if r.Kexec != nil {
		ev.Type, ev.Description, ev.Size = r.Kexec.Type, r.Kexec.Description, r.Kexec.Size
	}
	return ev
}
