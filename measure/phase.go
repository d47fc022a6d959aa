package measure

import (
	"fmt"
	"slices"
	"strings"
)

// A Phase is a path of boot phases: the words that systemd-pcrextend has
// extended PCR 11 with, joined by colons, such as "enter-initrd:leave-initrd"
// (systemd-measure(1), --phase=). The empty path is the moment before the first
// word.
type Phase string

// OSSeparator is the word that systemd in an initrd extends PCRs 12 and 13 with,
// among others (systemd 262, units/systemd-pcrosseparator.service.in).
const OSSeparator = "os-separator"

// pcrInitrd is extended by systemd 259 and newer in an initrd, with the Names of
// its NvPCRs and the word nvpcr-separator, about when PCR 11 is with enter-initrd
// (systemd 262, systemd-tpm2-setup-early.service, systemd-pcrnvdone.service). The
// Names are those of NV indices that it makes.
const pcrInitrd PCR = 9

// separatedPCRs are the PCRs that are extended with it (systemd 262, the same unit).
var separatedPCRs = []PCR{0, 1, 2, 3, 4, 5, 6, 7, 9, 12, 13, 14}

// PhaseWords returns the words that systemd extends PCR 11 with (systemd 262,
// units/systemd-pcrphase*.service.in, factory-reset and storage-target-mode).
func PhaseWords() []string {
	return []string{
		"enter-initrd", "leave-initrd", "sysinit", "ready", "shutdown", "final",
		"factory-reset", "storage-target-mode-start", "storage-target-mode-stop",
	}
}

// DefaultPhases returns the four phase paths that systemd-measure computes when
// none is named (systemd 262, src/measure/measure-tool.c).
func DefaultPhases() []Phase {
	return []Phase{
		"enter-initrd",
		"enter-initrd:leave-initrd",
		"enter-initrd:leave-initrd:sysinit",
		"enter-initrd:leave-initrd:sysinit:ready",
	}
}

// ParsePhase parses a phase path. As for systemd-measure, "" and ":" name the
// moment before the first word. A word that systemd does not extend is an
// error: with a typing error in it the prediction would be of a state that
// never comes.
func ParsePhase(s string) (Phase, error) {
	if s == "" || s == ":" {
		return "", nil
	}
	for _, w := range strings.Split(s, ":") {
		if !slices.Contains(PhaseWords(), w) {
			return "", fmt.Errorf("phase path %.80q: unknown word %.40q (known: %s)", s, w, strings.Join(PhaseWords(), " "))
		}
	}
	return Phase(s), nil
}

// Words returns the words of the path, in order.
func (p Phase) Words() []string {
	if p == "" {
		return nil
	}
	return strings.Split(string(p), ":")
}

// WordEvent returns the event of one word that userspace extends a PCR with: the
// hash of its ASCII bytes without a NUL (systemd 262, src/pcrextend/pcrextend.c).
func WordEvent(pcr PCR, word string, banks []Bank) Event {
	ev := Event{PCR: pcr, Type: EventIPL, Description: "word " + word, Digests: map[Bank]Digest{}}
	for _, b := range banks {
		ev.Digests[b] = b.Sum([]byte(word))
	}
	return ev
}

// After returns p after the words of a phase path, which PCR 11 is extended with
// in every bank that p has. It fails if the value of PCR 11 is not known.
func (p PCRs) After(path Phase) (PCRs, error) {
	after := p.Clone()
	for _, w := range path.Words() {
		if err := after.Extend(WordEvent(PCRKernelImage, w, p.Banks())); err != nil {
			return nil, err
		}
	}
	return after, nil
}
