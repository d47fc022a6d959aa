package bls

import (
	"math"
	"strconv"
	"strings"
)

// A Counter is the boot counter in the name of an entry's file (UAPI.1, "Boot
// counting"): +LEFT or +LEFT-DONE before the suffix. systemd-boot counts at
// each start; the system removes the counter once it is up. A kexec does not count.
type Counter struct {
	Left int // tries left; with 0 the entry counts as bad, and is last in the menu
	Done int // tries done
}

// bad tells whether all tries have been used up.
func (e *Entry) bad() bool { return e.Counter != nil && e.Counter.Left == 0 }

// splitCounter takes the boot counter out of a file name that ends in suffix.
// What is not exactly a counter, or above 2^31-1, belongs to the name (systemd
// 262, src/boot/boot.c, boot_entry_parse_tries).
func splitCounter(name, suffix string) (string, *Counter) {
	if !hasSuffixFold(name, suffix) {
		return name, nil
	}
	stem := name[:len(name)-len(suffix)]
	plus := strings.LastIndex(stem, "+")
	if plus < 0 {
		return name, nil
	}
	left, done, counted := strings.Cut(stem[plus+1:], "-")
	c := &Counter{}
	var ok bool
	if c.Left, ok = tries(left); !ok {
		return name, nil
	}
	if counted {
		if c.Done, ok = tries(done); !ok {
			return name, nil
		}
	}
	return stem[:plus] + name[len(stem):], c
}

// tries parses digits.
func tries(s string) (int, bool) {
	for _, r := range s {
		if r < '0' || r > '9' {
			return 0, false
		}
	}
	n, err := strconv.ParseUint(s, 10, 64)
	return int(n), err == nil && n <= math.MaxInt32
}
