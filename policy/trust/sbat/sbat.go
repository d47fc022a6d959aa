// Package sbat reads SBAT data, the generations by which many old images are
// revoked at once, and compares an image's with the level that this machine
// demands (rhboot/shim, SBAT.md).
//
// It is at least as strict as shim (sbat.c, csv.c): what shim refuses is an
// error here, and so is a generation that shim would read as another number.
package sbat

import (
	"bytes"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/mkexec/mkexec/measure/uki"
)

const (
	// maxSize bounds SBAT data in bytes. Real ones have a few hundred.
	maxSize = 64 << 10
	// maxEntries bounds the lines.
	maxEntries = 1024

	imageFields = 6 // component, generation, vendor, package, version, URL
	levelFields = 3 // component, generation, datestamp; the last one only in the first line
)

// An Entry is a line of an image's SBAT data: it has this generation of a component.
type Entry struct {
	Component  string `json:"component"`
	Generation uint16 `json:"generation"`
	Vendor     string `json:"vendor"`
	Package    string `json:"package"`
	Version    string `json:"version"`
	URL        string `json:"url"`
}

// A Requirement is a line of a level: images need at least this generation of a component.
type Requirement struct {
	Component  string `json:"component"`
	Generation uint16 `json:"generation"`
}

// A Level is what the machine demands. An empty one demands nothing.
type Level []Requirement

// ParseLevel parses the variable SbatLevelRT:
//
//	sbat,1,2025051000
//	shim,4
func ParseLevel(text []byte) (Level, error) {
	rows, err := parse(text, 2)
	if err != nil {
		return nil, err
	}
	var level Level
	for i, r := range rows {
		if len(r.fields) > levelFields {
			return nil, fmt.Errorf("line %d: %d fields: more than %d", r.line, len(r.fields), levelFields)
		}
		generation, err := r.generation()
		if err != nil {
			return nil, err
		}
		if i == 0 && r.fields[0] != "sbat" {
			return nil, fmt.Errorf("line %d: component %.40q: the first one has to be \"sbat\"", r.line, r.fields[0])
		}
		level = append(level, Requirement{r.fields[0], generation})
	}
	return level, nil
}

// ParseImage parses the contents of an image's section .sbat:
//
//	sbat,1,SBAT Version,sbat,1,https://github.com/rhboot/shim/blob/main/SBAT.md
//	systemd-stub,1,The systemd Developers,systemd,262,https://systemd.io/
//
// Fields behind the sixth are ignored, as shim does.
func ParseImage(text []byte) ([]Entry, error) {
	rows, err := parse(text, imageFields)
	if err != nil {
		return nil, err
	}
	var entries []Entry
	for _, r := range rows {
		generation, err := r.generation()
		if err != nil {
			return nil, err
		}
		entries = append(entries, Entry{r.fields[0], generation, r.fields[2], r.fields[3], r.fields[4], r.fields[5]})
	}
	return entries, nil
}

// ReadImage returns the SBAT data of an image, nil if there is no section .sbat
// or nothing in it. Like shim (verify.c, verify_buffer_sbat) it reads what the
// file has, padding included, and refuses a file with two such sections.
func ReadImage(f *uki.File) ([]Entry, error) {
	var section *uki.Section
	for _, s := range f.Sections {
		if s.Name != ".sbat" {
			continue
		}
		if section != nil {
			return nil, fmt.Errorf("section .sbat: there are two")
		}
		section = s
	}
	if section == nil || section.RawSize == 0 {
		return nil, nil
	}
	if section.RawSize < section.VirtualSize { // shim passes over it
		return nil, fmt.Errorf("section .sbat: the file has %d bytes of %d", section.RawSize, section.VirtualSize)
	}
	if section.RawSize > maxSize {
		return nil, fmt.Errorf("section .sbat: %d bytes: more than %d", section.RawSize, maxSize)
	}
	text := make([]byte, section.RawSize)
	if n, err := f.ReadAt(text, int64(section.RawOffset)); n < len(text) {
		if err == nil || err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("section .sbat: read at %d: %w", section.RawOffset, err)
	}
	entries, err := ParseImage(text)
	if err != nil {
		return nil, fmt.Errorf("section .sbat: %w", err)
	}
	return entries, nil
}

// Revoked returns the first entry whose generation is below what the level
// demands, and the requirement. Components that the level does not name are
// fine. As in shim, the first requirement of a name counts.
func (l Level) Revoked(image []Entry) (Entry, Requirement, bool) {
	for _, e := range image {
		for _, r := range l {
			if r.Component != e.Component {
				continue
			}
			if e.Generation < r.Generation {
				return e, r, true
			}
			break
		}
	}
	return Entry{}, Requirement{}, false
}

// A row is one line that is not empty.
type row struct {
	line   int // from 1
	fields []string
}

// generation reads the second field. shim's atoi has 0 for garbage and takes the
// result modulo 65536; both are refused.
func (r row) generation() (uint16, error) {
	n, err := strconv.ParseUint(r.fields[1], 10, 16)
	if err != nil {
		return 0, fmt.Errorf("line %d: generation %.40q: not a number up to 65535", r.line, r.fields[1])
	}
	return uint16(n), nil
}

// parse splits text into lines, and each into at least want fields, of which
// none of the first want is empty. NUL bytes may be at the end only: for shim
// they end a line, not the data, so that more could be hidden behind them.
func parse(text []byte, want int) ([]row, error) {
	if len(text) > maxSize {
		return nil, fmt.Errorf("%d bytes: more than %d", len(text), maxSize)
	}
	text = bytes.TrimRight(text, "\x00")
	if i := bytes.IndexByte(text, 0); i >= 0 {
		return nil, fmt.Errorf("NUL at %d: there is text behind it", i)
	}
	text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf"))
	lines := strings.Split(strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(string(text)), "\n")
	var rows []row
	for i, line := range lines {
		if line == "" {
			continue
		}
		if len(rows) == maxEntries {
			return nil, fmt.Errorf("line %d: more than %d lines", i+1, maxEntries)
		}
		fields := strings.Split(line, ",")
		if len(fields) < want {
			return nil, fmt.Errorf("line %d: %d fields: wants %d", i+1, len(fields), want)
		}
		for n, f := range fields[:want] {
			if f == "" {
				return nil, fmt.Errorf("line %d: field %d is empty", i+1, n+1)
			}
		}
		rows = append(rows, row{i + 1, fields})
	}
	return rows, nil
}
