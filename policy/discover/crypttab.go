package discover

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/mkexec/mkexec/measure"
)

// crypttab is where it is; maxCrypttab is the size in bytes above which it is refused.
const (
	crypttab    = "/etc/crypttab"
	maxCrypttab = 1 << 20
)

// An entry is one line of /etc/crypttab (crypttab(5)).
type entry struct {
	line    int
	name    string
	device  string // a path, which may be a symbolic link of udev's or a file
	key     string // the path of the file with the key, "" for none
	options []string
	err     error // what is wrong with the line

	resolved string // the path that device leads to; "" if it is not there
}

// readCrypttab returns the entries of /etc/crypttab, none if it is not there.
// Those of volumes that neither LUKS nor a TPM has to do with are left out.
func readCrypttab(root fs.FS) ([]entry, error) {
	data, err := readFile(root, crypttab, maxCrypttab)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	entries := slices.DeleteFunc(parseCrypttab(data), func(e entry) bool {
		_, tpm := e.value("tpm2-device")
		return e.err == nil && !e.isLUKS() && !tpm
	})
	for i := range entries {
		if e := &entries[i]; e.device != "" {
			e.resolved, _ = resolve(root, path.Clean(e.device)) // who needs it there finds out
		}
	}
	return entries, nil
}

// readFile reads a file of a size up to limit, in bytes.
func readFile(root fs.FS, name string, limit int64) ([]byte, error) {
	f, err := root.Open(strings.TrimPrefix(name, "/"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s: more than %d bytes", name, limit)
	}
	return data, nil
}

// parseCrypttab parses /etc/crypttab as systemd 262 does
// (src/cryptsetup/cryptsetup-generator.c, add_crypttab_devices()). A line that it
// passes over with a warning is an entry with an error.
func parseCrypttab(data []byte) []entry {
	var entries []entry
	n := 0
	for text := range bytes.SplitSeq(data, []byte("\n")) {
		n++
		if text = bytes.Trim(text, " \t\r"); len(text) > 0 && text[0] != '#' {
			entries = append(entries, parseEntry(n, string(text)))
		}
	}
	return entries
}

// parseEntry parses a line: up to four fields with white space between them.
// What is behind them is passed over.
func parseEntry(n int, text string) entry {
	e := entry{line: n}
	if strings.ContainsAny(text, "\x00\r") { // where lines end for systemd too
		e.err = cannotTell("%s: line %d: %.80q: a control character", crypttab, n, text)
		return e
	}
	fields := strings.FieldsFunc(text, func(c rune) bool { return strings.ContainsRune(" \t\v\f", c) }) // isspace(3)
	if len(fields) < 2 {
		e.err = cannotTell("%s: line %d: %.80q: no device", crypttab, n, text)
		return e
	}
	e.name, e.device = fields[0], deviceNode(fields[1])
	if !path.IsAbs(e.device) {
		e.err = cannotTell("%s: line %d: device %.80q: not an absolute path", crypttab, n, e.device)
		e.device = ""
		return e
	}
	if len(fields) > 2 && path.IsAbs(fields[2]) { // "none", "-" and relative paths are no file
		e.key = fields[2]
	}
	if len(fields) > 3 {
		var err error
		if e.options, err = splitOptions(fields[3]); err != nil {
			e.err = cannotTell("%s: line %d: %v", crypttab, n, err)
		}
	}
	return e
}

// splitOptions splits at commas. A comma in an option has a backslash before it.
// What else a backslash does depends on the parsers that the text goes through
// on its way, of units and of options.
func splitOptions(text string) ([]string, error) {
	var options []string
	var option strings.Builder
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == ',':
			options = append(options, option.String())
			option.Reset()
		case c == '\\' && strings.HasPrefix(text[i+1:], ","):
			option.WriteByte(',')
			i++
		case c == '\\':
			return nil, fmt.Errorf("options %.80q: a backslash that is not before a comma", text)
		default:
			option.WriteByte(c)
		}
	}
	return append(options, option.String()), nil
}

// deviceNode returns the path that udev gives a device which is named by a tag,
// and any other text unchanged (systemd 262, src/shared/fstab-util.c,
// fstab_node_to_udev_node()).
func deviceNode(text string) string {
	for tag, by := range map[string]string{"LABEL=": "label", "UUID=": "uuid", "PARTUUID=": "partuuid", "PARTLABEL=": "partlabel"} {
		if value, ok := strings.CutPrefix(text, tag); ok {
			if n := len(value); n >= 2 && strings.ContainsRune(`"'`, rune(value[0])) && value[n-1] == value[0] {
				value = value[1 : n-1]
			}
			return "/dev/disk/by-" + by + "/" + encodeNode(value)
		}
	}
	return text
}

// encodeNode escapes what udev does not have in the name of a symbolic link
// (systemd 262, src/shared/device-nodes.c, encode_devnode_name()).
func encodeNode(text string) string {
	var b strings.Builder
	for len(text) > 0 {
		c, size := utf8.DecodeRuneInString(text)
		if size > 1 || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.ContainsRune("#+-.:=@_", c) {
			b.WriteString(text[:size])
		} else {
			fmt.Fprintf(&b, `\x%02x`, text[0])
		}
		text = text[size:]
	}
	return b.String()
}

// value returns the value of an option, of the last one if there are several.
func (e *entry) value(name string) (value string, ok bool) {
	for _, o := range e.options {
		if v, has := strings.CutPrefix(o, name+"="); has {
			value, ok = v, true
		}
	}
	return value, ok
}

// has tells whether an option without a value is there.
func (e *entry) has(name string) bool { return slices.Contains(e.options, name) }

// yes tells which of an option and its contrary is the last one. Neither is no.
func (e *entry) yes(name, contrary string) bool {
	last := contrary
	for _, o := range e.options {
		if o == name || o == contrary {
			last = o
		}
	}
	return last == name
}

// inInitrd tells whether the initrd attaches the volume (systemd 262,
// src/cryptsetup/cryptsetup-generator.c, attach_in_initrd()).
func (e *entry) inInitrd() bool {
	return e.has("x-initrd.attach") || e.name == "root" || e.name == "usr"
}

// isLUKS tells whether the volume may be of LUKS by its options.
func (e *entry) isLUKS() bool {
	return !slices.ContainsFunc(e.options, func(o string) bool {
		return o == "plain" || o == "swap" || o == "tmp" || strings.HasPrefix(o, "tmp=") || o == "bitlk" ||
			strings.HasPrefix(o, "tcrypt") || strings.HasPrefix(o, "veracrypt")
	})
}

// isOptional tells whether the machine starts without the volume.
func (e *entry) isOptional() bool { return e.yes("noauto", "auto") || e.yes("nofail", "fail") }

// phases returns when the volume is wanted.
func (e *entry) phases() (at measure.Phase, orAt []measure.Phase) {
	switch {
	case e.inInitrd():
		return inInitrd, nil
	case e.isOptional(): // ordered before nothing
		return inHost, []measure.Phase{sysinit, ready}
	case e.has("_netdev"): // before remote-cryptsetup.target
		return inHost, []measure.Phase{sysinit}
	}
	return inHost, nil
}

// header returns the path of the file or device with the LUKS2 header, which is
// the device of the volume if no other one is named.
func (e *entry) header() (string, error) {
	spec, ok := e.value("header")
	if !ok {
		return path.Clean(e.device), nil
	}
	// FILE:DEVICE is a file on a device that is not mounted (split_locationspec())
	if i := strings.LastIndexByte(spec, ':'); i >= 0 && path.IsAbs(deviceNode(spec[i+1:])) {
		return "", cannotTell("header=%.80q: on another device", spec)
	}
	if !path.IsAbs(spec) {
		return "", cannotTell("header=%.80q: not an absolute path, which systemd refuses", spec)
	}
	return path.Clean(spec), nil
}

// file returns the absolute path that an option names, "" if it is not there.
func (e *entry) file(option string) (string, error) {
	name, ok := e.value(option)
	if ok && !path.IsAbs(name) {
		return "", cannotTell("%s=%.80q: not an absolute path, which systemd refuses", option, name)
	}
	return name, nil
}

// systemIdentity is the PCR that tpm2-measure-pcr=yes means (TPM2_PCR_SYSTEM_IDENTITY).
const systemIdentity measure.PCR = 15

// measured returns the PCR that the volume key is measured into, if any (systemd
// 262, src/cryptsetup/cryptsetup.c, parse_one_option()). Values that systemd
// does not know are passed over.
func (e *entry) measured() []measure.PCR {
	var pcrs []measure.PCR
	for _, o := range e.options {
		v, ok := strings.CutPrefix(o, "tpm2-measure-pcr=")
		if !ok {
			continue
		}
		if n, err := strconv.ParseUint(v, 0, 32); err == nil {
			if n < 24 {
				pcrs = []measure.PCR{measure.PCR(n)}
			}
			continue
		}
		switch strings.ToLower(v) {
		case "yes", "y", "true", "t", "on":
			pcrs = []measure.PCR{systemIdentity}
		case "no", "n", "false", "f", "off":
			pcrs = nil
		}
	}
	return pcrs
}

// depend fills in what opens the volume.
func (e *entry) depend(f *Found) {
	_, tpm := e.value("tpm2-device")
	switch {
	case tpm && !e.isLUKS():
		f.Err = cannotTell("tpm2-device= for a volume that is not of LUKS: not supported")
	case tpm && e.key != "":
		f.Err = cannotTell("the key is sealed in %.80q, not in a token: not supported", e.key)
	case e.key != "":
		f.Note = fmt.Sprintf("opened with the key file %.80q, not with a token", e.key)
	case !tpm:
		f.Note = "no tpm2-device= in " + crypttab + ": a token is tried where libcryptsetup has systemd's plugin"
	}
	f.Extends = e.measured()
	for _, o := range []struct {
		option string
		file   *string
	}{{"tpm2-signature", &f.Signature}, {"tpm2-pcrlock", &f.PCRLock}} {
		var err error
		if *o.file, err = e.file(o.option); err != nil {
			f.Err = err
		}
	}
}
