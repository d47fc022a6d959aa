package eventlog

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mkexec/mkexec/measure"
)

// MaxUserspace is the size of the largest userspace log that is read, in bytes.
// A record has about 1 KB where there are four banks.
const MaxUserspace = 4 << 20

// recordSeparator begins every record (RFC 7464, 2.2).
const recordSeparator = 0x1E

// The content types whose content is understood.
const (
	ContentSystemd = "systemd" // systemd 262, src/shared/tpm2-util.c, tpm2_userspace_log()
	ContentKexec   = "mkexec"
)

// A Userspace is the log that systemd keeps of what userspace extends,
// /run/log/systemd/tpm2-measure.log.
type Userspace struct {
	Records []Record
}

// A Record is one record of a userspace log: one extend of a PCR, or of an NvPCR.
type Record struct {
	// PCR is what was extended, -1 if it is the NvPCR in the TPM's NV index NVIndex.
	PCR     measure.PCR
	NVIndex uint32
	// Digests are what it was extended with, without those of Unknown, which are
	// the names of hash algorithms that are not known here.
	Digests map[measure.Bank]measure.Digest
	Unknown []string

	// ContentType says whose Content is. Content, a JSON value, is kept whatever
	// it is; nil if there is none. The fields below are from it, and empty if the
	// content type is not known.
	ContentType string
	Content     json.RawMessage

	// EventType is what was measured, such as phase.
	EventType string
	// BootID is the kernel's boot id, 32 hexadecimal digits.
	BootID string
	// Timestamp is the time since that kernel was started (CLOCK_BOOTTIME).
	Timestamp time.Duration
	// String is the text that was hashed, as the log has it, and Text what it is worth.
	String string
	Text   Text
	// NVName is the name of the NvPCR.
	NVName string
	// Kexec is what an event of mkexec's says; nil for all others.
	Kexec *Kexec
}

// A Kexec is what mkexec says of an event of its own.
type Kexec struct {
	Type        measure.EventType // that systemd-stub would have logged it with
	Description string            // such as "section .linux: data"
	Size        int64             // bytes that were hashed
	Image       measure.Digest    // SHA-256 of the UKI, or of the bare kernel
	// Incomplete: the log that the event was added to was marked as one that
	// lacks an event.
	Incomplete bool
}

// ParseUserspace parses a log of systemd 255 to 262: a JSON text sequence (RFC
// 7464) of records like those of CEL-JSON (TCG Canonical Event Log Format, 5.2).
// Every record has to extend one PCR, 0 to 23, or one NV index, with digests of
// the right size, each bank once. The string of a record of systemd's, if it is
// what was hashed, has to hash to the digests. Content types and event types that
// are not known are taken as they are. All of data must be records; no data is an
// empty log. The result refers to data.
func ParseUserspace(data []byte) (*Userspace, error) {
	if len(data) > MaxUserspace {
		return nil, fmt.Errorf("userspace log: %d bytes: more than %d", len(data), MaxUserspace)
	}
	u := &Userspace{}
	for off := 0; off < len(data); {
		text, err := nextRecord(data[off:])
		var r Record
		if err == nil {
			r, err = parseRecord(text)
		}
		if err != nil {
			return nil, fmt.Errorf("userspace log: record %d at offset %d: %w", len(u.Records)+1, off, err)
		}
		u.Records = append(u.Records, r)
		off += 1 + len(text) + 1
	}
	return u, nil
}

// nextRecord returns the text of the record that data begins with, which has a
// separator before it and a line feed behind it.
func nextRecord(data []byte) ([]byte, error) {
	if data[0] != recordSeparator {
		return nil, fmt.Errorf("begins with byte 0x%02x, not 0x%02x", data[0], recordSeparator)
	}
	text := data[1:]
	if i := bytes.IndexByte(text, recordSeparator); i >= 0 {
		text = text[:i]
	}
	if i := bytes.IndexByte(text, 0); i >= 0 {
		return nil, fmt.Errorf("NUL at offset %d of it", 1+i)
	}
	if len(text) == 0 || text[len(text)-1] != '\n' {
		return nil, errors.New("cut short: no line feed at its end")
	}
	return text[:len(text)-1], nil
}

func parseRecord(text []byte) (Record, error) {
	r := Record{PCR: -1}
	if err := checkJSON(text); err != nil {
		return r, err
	}
	o, err := parseObject(text)
	if err != nil {
		return r, err
	}
	for _, key := range o.keys {
		if !slices.Contains([]string{"recnum", "pcr", "nv_index", "digests", "content_type", "content"}, key) {
			return r, fmt.Errorf("unknown key %.40q", key)
		}
	}
	if _, err := o.number("recnum", 64); err != nil { // CEL has it, systemd's file does not
		return r, err
	}
	if err := r.parseRegister(o); err != nil {
		return r, err
	}
	if err := r.parseDigests(o.values["digests"]); err != nil {
		return r, err
	}
	if r.ContentType, err = o.text("content_type"); err != nil {
		return r, err
	}
	r.Content = o.values["content"]
	switch r.ContentType {
	case ContentSystemd, ContentKexec:
		if err := r.parseContent(); err != nil {
			return r, fmt.Errorf("content: %w", err)
		}
	}
	return r, nil
}

// The NV indices of a TPM (TPM 2.0 Library Part 2, "Handle Types", TPM_HT_NV_INDEX).
const firstNV, lastNV = 0x01000000, 0x01FFFFFF

// parseRegister finds out what was extended.
func (r *Record) parseRegister(o *object) error {
	pcr, isPCR := o.values["pcr"]
	nv, isNV := o.values["nv_index"]
	switch {
	case isPCR && isNV:
		return errors.New("both pcr and nv_index")
	case isPCR:
		n, err := strconv.ParseUint(string(pcr), 10, 32)
		if err != nil || n > maxPCR {
			return fmt.Errorf("pcr %.20s: not 0 to %d", pcr, maxPCR)
		}
		r.PCR = measure.PCR(n)
	case isNV:
		n, err := strconv.ParseUint(string(nv), 10, 32)
		if err != nil || n < firstNV || n > lastNV {
			return fmt.Errorf("nv_index %.20s: not an NV index", nv)
		}
		r.NVIndex = uint32(n)
	default:
		return errors.New("neither pcr nor nv_index")
	}
	return nil
}

// otherAlgorithms are hash algorithms that a TPM may have and package measure does
// not know, with the size of their digests in bytes (TCG Algorithm Registry, table 3).
var otherAlgorithms = map[string]int{"sm3_256": 32, "sha3_256": 32, "sha3_384": 48, "sha3_512": 64}

func (r *Record) parseDigests(value json.RawMessage) error {
	var list []json.RawMessage
	if err := json.Unmarshal(value, &list); err != nil || len(list) == 0 {
		return errors.New("digests: not an array with something in it")
	}
	if len(list) > maxAlgorithms {
		return fmt.Errorf("digests: %d of them: more than %d", len(list), maxAlgorithms)
	}
	r.Digests = map[measure.Bank]measure.Digest{}
	for _, v := range list {
		o, err := parseObject(v)
		if err != nil {
			return fmt.Errorf("digests: %w", err)
		}
		name, err1 := o.text("hashAlg")
		digest, err2 := o.text("digest")
		if err1 != nil || err2 != nil || len(o.keys) != 2 {
			return errors.New("digests: want hashAlg and digest, both strings, and no more")
		}
		if size, ok := otherAlgorithms[name]; ok {
			var d measure.Digest
			if err := d.UnmarshalText([]byte(digest)); err != nil || len(d) != size || slices.Contains(r.Unknown, name) {
				return fmt.Errorf("digests: %s: %.140q: twice, or not %d bytes", name, digest, size)
			}
			r.Unknown = append(r.Unknown, name)
			continue
		}
		bank, err := measure.ParseBank(name)
		if err != nil {
			return fmt.Errorf("digests: %w", err)
		}
		if r.Digests[bank] != nil {
			return fmt.Errorf("digests: %s: the second one", bank)
		}
		if r.Digests[bank], err = measure.ParseDigest(bank, digest); err != nil {
			return fmt.Errorf("digests: %w", err)
		}
	}
	return nil
}

// parseContent parses the content of systemd's records, and of ours, which have
// the same fields for when and where.
func (r *Record) parseContent() error {
	if r.Content == nil {
		return errors.New("not there")
	}
	o, err := parseObject(r.Content)
	if err != nil {
		return err
	}
	if r.EventType, err = o.text("eventType"); err != nil {
		return err
	}
	if r.BootID, err = o.text("bootId"); err != nil {
		return err
	}
	if _, there := o.values["bootId"]; there && !isBootID(r.BootID) {
		return fmt.Errorf("bootId %.40q: not 32 hexadecimal digits", r.BootID)
	}
	µs, err := o.number("timestamp", 53)
	if err != nil {
		return err
	}
	r.Timestamp = time.Duration(µs) * time.Microsecond
	if r.ContentType == ContentKexec {
		return r.parseKexec(o)
	}
	if r.NVName, err = o.text("nvIndexName"); err != nil {
		return err
	}
	if r.String, err = o.text("string"); err != nil {
		return err
	}
	if _, there := o.values["string"]; there {
		return r.checkString()
	}
	return nil
}

// eventKexec is the event type of what mkexec extends.
const eventKexec = "kexec"

func (r *Record) parseKexec(o *object) error {
	if r.EventType != eventKexec {
		return nil // of a later version
	}
	k := &Kexec{}
	kind, err := o.text("type")
	if err == nil {
		err = k.Type.UnmarshalText([]byte(kind))
	}
	if err != nil {
		return err
	}
	if k.Description, err = o.text("description"); err != nil {
		return err
	}
	size, err := o.number("size", 63)
	if err != nil {
		return err
	}
	k.Size = int64(size)
	image, err := o.text("image")
	if err == nil && image != "" {
		k.Image, err = measure.ParseDigest(measure.SHA256, image)
	}
	if err != nil {
		return fmt.Errorf("image: %w", err)
	}
	if v, there := o.values["incomplete"]; there {
		if err := json.Unmarshal(v, &k.Incomplete); err != nil || string(v) == "null" {
			return errors.New("incomplete: not a boolean")
		}
	}
	r.Kexec = k
	return nil
}

// isBootID tells whether s is a boot id as systemd writes it.
func isBootID(s string) bool {
	return len(s) == 32 && strings.Trim(s, "0123456789abcdef") == ""
}

// An object is a JSON object.
type object struct {
	keys   []string
	values map[string]json.RawMessage
}

// parseObject parses a JSON object that has been checked. Unlike encoding/json it
// takes keys in their case.
func parseObject(text []byte) (*object, error) {
	o := &object{}
	if err := json.Unmarshal(text, &o.values); err != nil || o.values == nil {
		return nil, errors.New("not a JSON object")
	}
	for key := range o.values {
		o.keys = append(o.keys, key)
	}
	slices.Sort(o.keys)
	return o, nil
}

// text returns a string, "" if it is not there.
func (o *object) text(key string) (string, error) {
	value, there := o.values[key]
	if !there {
		return "", nil
	}
	var s *string
	if err := json.Unmarshal(value, &s); err != nil || s == nil {
		return "", fmt.Errorf("%s: not a string", key)
	}
	if strings.Contains(*s, "\x00") {
		return "", fmt.Errorf("%s: NUL in it", key)
	}
	return *s, nil
}

// number returns an integer of so many bits that is not negative, 0 if it is not there.
func (o *object) number(key string, bits int) (uint64, error) {
	value, there := o.values[key]
	if !there {
		return 0, nil
	}
	n, err := strconv.ParseUint(string(value), 10, bits)
	if err != nil {
		return 0, fmt.Errorf("%s: %.20q: not an integer, or too large", key, string(value))
	}
	return n, nil
}
