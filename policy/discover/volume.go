package discover

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/policy"
)

// A secret is an encrypted volume, by one or both of what tells of it.
type secret struct {
	volume *volume // nil if it is not active
	entry  *entry  // nil if it is not in /etc/crypttab
	// carries is "root" or "usr" if that file system is on it, "" if not. unknown
	// says why one of them may be on it all the same, "" if that is certain.
	carries, unknown string
}

// join puts together what is about the same volume: volumes that root and /usr
// are on first, then the other active ones, then the other entries.
func join(volumes []volume, entries []entry, roots, usr carriers) []secret {
	var secrets []secret
	for i := range volumes {
		s := secret{volume: &volumes[i], unknown: cmp.Or(roots.unknown, usr.unknown)}
		switch {
		case roots.devices[s.volume.sysName]:
			s.carries = "root"
		case usr.devices[s.volume.sysName]:
			s.carries = "usr"
		}
		if n := slices.IndexFunc(entries, s.volume.is); n >= 0 {
			s.entry = &entries[n]
			entries = slices.Concat(entries[:n], entries[n+1:])
		}
		secrets = append(secrets, s)
	}
	rank := func(s secret) int { return slices.Index([]string{"root", "usr", ""}, s.carries) }
	slices.SortStableFunc(secrets, func(a, b secret) int { return cmp.Compare(rank(a), rank(b)) })
	for i := range entries {
		secrets = append(secrets, secret{entry: &entries[i]})
	}
	return secrets
}

// is tells whether an entry is of this volume: by its device, or by its name if
// its device is a file, to which a loop device belongs.
func (v *volume) is(e entry) bool {
	if v.device != "" && e.resolved == v.device {
		return true
	}
	return e.name == v.name && e.device != "" && !strings.HasPrefix(e.device, "/dev/")
}

// found returns what is known of the secret.
func (s *secret) found(root fs.FS) Found {
	f := Found{Source: policy.Source{Kind: policy.SourceLUKS}}
	switch {
	case s.entry == nil:
		f.Note = "active, but not in " + crypttab
	case s.entry.err == nil:
		s.entry.depend(&f)
	}
	f.At, f.OrAt = s.phases()
	mayCarry := s.carries == "" && s.volume != nil && s.unknown != ""
	switch {
	case s.carries != "" || mayCarry || s.entry == nil: // a key file may be another one in the initrd
	case s.entry.key != "" && f.Err == nil:
		f.Optional = true
	default:
		f.Optional = s.entry.isOptional() && !s.entry.inInitrd()
	}
	if mayCarry {
		f.Note = strings.TrimPrefix(f.Note+"; "+s.unknown, "; ")
	}
	path, err := s.header(root)
	f.Source.Path, f.Name = path, s.name(path)
	f.Err = cmp.Or(err, f.Err)
	return f
}

// phases returns when the secret is wanted.
func (s *secret) phases() (at measure.Phase, orAt []measure.Phase) {
	switch {
	case s.carries != "":
		return inInitrd, nil
	case s.entry == nil: // the kernel command line, a unit or a person opened it
		return inInitrd, []measure.Phase{inHost, sysinit, ready}
	}
	at, orAt = s.entry.phases()
	if s.volume != nil && s.unknown != "" && at != inInitrd {
		return inInitrd, append([]measure.Phase{at}, orAt...)
	}
	return at, orAt
}

// header returns the path that the LUKS2 header is at, which exists unless there
// is an error.
func (s *secret) header(root fs.FS) (string, error) {
	if s.entry == nil {
		return s.volume.device, s.volume.err
	}
	if s.entry.device == "" { // there is no more than an error
		return "", s.entry.err
	}
	path, err := s.entry.header()
	if err != nil {
		return "", err
	}
	resolved, err := resolve(root, path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return path, cannotTell("%.200s: not there", path)
	case err != nil:
		return path, cannotTell("%v", err)
	}
	return resolved, s.entry.err
}

// name returns the name for people of the secret with a header at path.
func (s *secret) name(path string) string {
	var name string
	switch {
	case s.carries != "":
		name = s.carries
	case s.entry == nil:
		name = s.volume.name
	case s.entry.name != "":
		name = s.entry.name
	default:
		return fmt.Sprintf("%s line %d", crypttab, s.entry.line)
	}
	if path == "" && s.volume != nil {
		path = devPath(s.volume.sysName)
	}
	if path != "" {
		name += " (" + path + ")"
	}
	return printable(name)
}

// printable returns a text for people, quoted if there is in it what is not for people.
func printable(text string) string {
	if strings.ContainsFunc(text, func(c rune) bool { return !strconv.IsPrint(c) }) {
		return fmt.Sprintf("%.200q", text)
	}
	return fmt.Sprintf("%.200s", text)
}
