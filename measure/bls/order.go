package bls

import (
	"cmp"
	"strings"
)

// compare orders the menu, the entry to prefer first (systemd 262,
// src/boot/boot.c, boot_entry_compare): entries without tries left last; then
// those with a sort key before those without; by sort key and machine ID up, and
// version down; by file name as a version down; by profile up; with counters, by
// tries left down and tries done up.
func compare(a, b *Entry) int {
	if c := compareBool(a.bad(), b.bad()); c != 0 {
		return c
	}
	if c := compareBool(!a.hasSortKey, !b.hasSortKey); c != 0 {
		return c
	}
	if a.hasSortKey {
		if c := cmp.Or(strings.Compare(a.SortKey, b.SortKey), strings.Compare(a.MachineID, b.MachineID),
			CompareVersions(b.Version, a.Version)); c != 0 {
			return c
		}
	}
	if c := CompareVersions(b.file, a.file); c != 0 {
		return c
	}
	if a.Type == Type2 && b.Type == Type2 {
		if c := cmp.Compare(a.Profile, b.Profile); c != 0 {
			return c
		}
	}
	if a.Counter == nil || b.Counter == nil {
		return 0
	}
	return cmp.Or(cmp.Compare(b.Counter.Left, a.Counter.Left), cmp.Compare(a.Counter.Done, b.Counter.Done))
}

// compareBool puts false before true.
func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}
