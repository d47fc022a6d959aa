package main

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/mkexec/mkexec/measure"
	"github.com/rogpeppe/go-internal/diff"
)

// The states of what is compared.
const (
	isSame      = "same"
	isDifferent = "different"
	onlyA       = "only-a"
	onlyB       = "only-b"
)

// A comparison is the output of diff --json, version 1.
type comparison struct {
	Version  int           `json:"version"`
	Same     bool          `json:"same"`             // all PCRs
	Reason   string        `json:"reason,omitempty"` // pcr-mismatch
	A        sideJSON      `json:"a"`
	B        sideJSON      `json:"b"`
	PCRs     []pcrDiff     `json:"pcrs"`
	Parts    []partDiff    `json:"parts"` // where each PCR that differs parts
	Sections []sectionDiff `json:"sections"`
	Events   []eventDiff   `json:"events"`
}

type sideJSON struct {
	Kind    string   `json:"kind"` // image, log, kexec, prediction
	Path    string   `json:"path"`
	Stub    string   `json:"stub,omitempty"`
	Profile string   `json:"profile,omitempty"`
	Base    string   `json:"base"`
	Events  int      `json:"events"`          // that are compared
	Words   []string `json:"words,omitempty"` // behind them, not compared
	Later   int      `json:"later,omitempty"` // events of later starts, not compared
}

func (s *side) json() sideJSON {
	return sideJSON{s.kind, s.path, s.stub, s.profile, s.base, len(s.events), s.words, s.later}
}

type pcrDiff struct {
	Bank measure.Bank   `json:"bank"`
	PCR  measure.PCR    `json:"pcr"`
	Same bool           `json:"same"`
	A    measure.Digest `json:"a"`
	B    measure.Digest `json:"b"`
}

// A partDiff is the first event of a PCR that is not the same.
type partDiff struct {
	PCR measure.PCR `json:"pcr"`
	A   int         `json:"a,omitempty"` // the number of the event, absent if only B has it
	B   int         `json:"b,omitempty"`
	At  string      `json:"at"`
}

type sectionDiff struct {
	Name  string       `json:"name"`
	State string       `json:"state"` // same, different, only-a, only-b
	A     *sectionSide `json:"a,omitempty"`
	B     *sectionSide `json:"b,omitempty"`
	Diff  []string     `json:"diff,omitempty"` // the words of a command line, the lines of other text
}

type sectionSide struct {
	Size    *int64                          `json:"size,omitempty"` // absent if only the digest is known
	Digests map[measure.Bank]measure.Digest `json:"digests"`
}

type eventDiff struct {
	PCR   measure.PCR `json:"pcr"`
	State string      `json:"state"`
	A     *eventSide  `json:"a,omitempty"`
	B     *eventSide  `json:"b,omitempty"`
	Diff  []string    `json:"diff,omitempty"` // the words of a command line
}

type eventSide struct {
	Event       int                             `json:"event"` // from 1
	Type        measure.EventType               `json:"type"`
	Description string                          `json:"description"`
	Digests     map[measure.Bank]measure.Digest `json:"digests"`
	Text        *string                         `json:"text,omitempty"` // of a command line
}

// compare compares two sides in the given banks.
func compare(a, b *side, banks []measure.Bank) (*comparison, error) {
	c := &comparison{
		Version: 1, Same: true, A: a.json(), B: b.json(),
		PCRs: []pcrDiff{}, Parts: []partDiff{}, Sections: []sectionDiff{}, Events: []eventDiff{},
	}
	differs := map[measure.PCR]bool{}
	for _, bank := range banks {
		for _, n := range measure.StubPCRs() {
			d := pcrDiff{bank, n, bytes.Equal(a.pcrs[bank][n], b.pcrs[bank][n]), a.pcrs[bank][n], b.pcrs[bank][n]}
			c.PCRs = append(c.PCRs, d)
			if !d.Same {
				differs[n], c.Same, c.Reason = true, false, "pcr-mismatch"
			}
		}
	}
	for _, n := range measure.StubPCRs() {
		pairs, err := align(a.of(n), b.of(n), banks)
		if err != nil {
			return nil, fmt.Errorf("PCR %d: %w", n, err)
		}
		if differs[n] {
			c.Parts = append(c.Parts, part(n, pairs, a.base, b.base))
		}
		for _, p := range pairs {
			if err := c.add(n, p, banks); err != nil {
				return nil, err
			}
		}
	}
	return c, nil
}

// of returns the events in a PCR.
func (s *side) of(n measure.PCR) (events []*sideEvent) {
	for i := range s.events {
		if s.events[i].PCR == n {
			events = append(events, &s.events[i])
		}
	}
	return events
}

// A pair is two events at the same place. One of them is nil if only the other
// side has it.
type pair struct {
	a, b  *sideEvent
	state string
}

// maxEvents bounds the events in one PCR, of which each is compared with each.
const maxEvents = 1000

// align pairs the events of two sides in order: as many as can be, of which both
// have the same digest, or else measure the same thing. It finds the pairs with
// the highest sum of scores.
func align(a, b []*sideEvent, banks []measure.Bank) ([]pair, error) {
	if most := max(len(a), len(b)); most > maxEvents {
		return nil, fmt.Errorf("%d events: more than %d", most, maxEvents)
	}
	score := func(x, y *sideEvent) int {
		same, class := sameDigests(x, y, banks), x.sameClass(y)
		switch {
		case same && class:
			return 4
		case same:
			return 3
		case class:
			return 1
		}
		return -1
	}
	// best[i][j] is for what is behind a[:i] and b[:j].
	best := make([][]int, len(a)+1)
	best[len(a)] = make([]int, len(b)+1)
	for i := len(a) - 1; i >= 0; i-- {
		best[i] = make([]int, len(b)+1)
		for j := len(b) - 1; j >= 0; j-- {
			best[i][j] = max(best[i+1][j], best[i][j+1])
			if s := score(a[i], b[j]); s > 0 {
				best[i][j] = max(best[i][j], best[i+1][j+1]+s)
			}
		}
	}
	var pairs []pair
	i, j := 0, 0
	for i < len(a) || j < len(b) {
		if i < len(a) && j < len(b) {
			if s := score(a[i], b[j]); s > 0 && best[i][j] == best[i+1][j+1]+s {
				state := isDifferent
				if s >= 3 {
					state = isSame
				}
				pairs = append(pairs, pair{a[i], b[j], state})
				i, j = i+1, j+1
				continue
			}
		}
		if j == len(b) || i < len(a) && best[i][j] == best[i+1][j] {
			pairs = append(pairs, pair{a: a[i], state: onlyA})
			i++
		} else {
			pairs = append(pairs, pair{b: b[j], state: onlyB})
			j++
		}
	}
	return pairs, nil
}

// sameDigests tells whether two events extend a PCR by the same.
func sameDigests(a, b *sideEvent, banks []measure.Bank) bool {
	for _, bank := range banks {
		if !bytes.Equal(a.Digests[bank], b.Digests[bank]) {
			return false
		}
	}
	return true
}

// part says where a PCR that differs parts.
func part(n measure.PCR, pairs []pair, baseA, baseB string) partDiff {
	i := slices.IndexFunc(pairs, func(p pair) bool { return p.state != isSame })
	if i < 0 {
		return partDiff{PCR: n, At: fmt.Sprintf("the value that it starts from, %s in A and %s in B: the events are the same", baseA, baseB)}
	}
	p := pairs[i]
	d := partDiff{PCR: n, At: p.what()}
	if section, ok := strings.CutPrefix(d.At, "section "); ok {
		section, _, _ = strings.Cut(section, ": ") // name or data
		d.At = "section " + section
	}
	if p.a != nil {
		d.A = p.a.number
	}
	if p.b != nil {
		d.B = p.b.number
	}
	return d
}

// what says what is measured; an image or prediction knows best.
func (p pair) what() string {
	if p.a == nil || p.b != nil && p.a.class == classCmdline {
		return p.b.what
	}
	return p.a.what
}

// add puts a pair of events, and the section that they are of, into the result.
func (c *comparison) add(n measure.PCR, p pair, banks []measure.Bank) error {
	e := eventDiff{PCR: n, State: p.state, A: p.a.json(banks), B: p.b.json(banks)}
	if p.state == isDifferent && p.a.text != nil && p.b.text != nil {
		e.Diff = diffWords(*p.a.text, *p.b.text)
	}
	c.Events = append(c.Events, e)

	name, isSection := strings.CutPrefix(p.what(), "section ")
	name, isData := strings.CutSuffix(name, ": data")
	if n != measure.PCRKernelImage || !isSection || !isData {
		return nil
	}
	s := sectionDiff{Name: name, State: p.state, A: p.a.section(banks), B: p.b.section(banks)}
	if p.state == isDifferent && slices.Contains(textSections, name) && p.a.content != nil && p.b.content != nil {
		a, err := sectionText(p.a.content)
		if err != nil {
			return fmt.Errorf("section %s of A: %w", name, err)
		}
		b, err := sectionText(p.b.content)
		if err != nil {
			return fmt.Errorf("section %s of B: %w", name, err)
		}
		if name == ".cmdline" {
			s.Diff = diffWords(a, b)
		} else {
			s.Diff = diffLines(a, b)
		}
	}
	c.Sections = append(c.Sections, s)
	return nil
}

func (e *sideEvent) json(banks []measure.Bank) *eventSide {
	if e == nil {
		return nil
	}
	return &eventSide{e.number, e.Type, e.what, digestsOf(e, banks), e.text}
}

func (e *sideEvent) section(banks []measure.Bank) *sectionSide {
	if e == nil {
		return nil
	}
	s := &sectionSide{Digests: digestsOf(e, banks)}
	if e.content != nil {
		size := e.content.Size()
		s.Size = &size
	}
	return s
}

func digestsOf(e *sideEvent, banks []measure.Bank) map[measure.Bank]measure.Digest {
	digests := maps.Clone(e.Digests)
	maps.DeleteFunc(digests, func(b measure.Bank, _ measure.Digest) bool { return !slices.Contains(banks, b) })
	return digests
}

// maxSectionText bounds the sections whose text is compared, in bytes.
const maxSectionText = 1 << 20

// sectionText returns the text of a section, up to the first NUL.
func sectionText(c measure.Content) (string, error) {
	b, err := measure.ReadAll(c, maxSectionText)
	text, _, _ := strings.Cut(string(b), "\x00")
	return strings.ToValidUTF8(text, "\uFFFD"), err
}

// alike is said of texts that have the same words or lines, and are not the same.
const alike = "(the same text but for white space, or for what is behind its end)"

// diffLines returns the lines that differ and those around them, as diff -u does.
func diffLines(a, b string) []string {
	lines := strings.Split(string(diff.Diff("A", []byte(a), "B", []byte(b))), "\n")
	i := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, "@@") })
	if i < 0 {
		return []string{alike}
	}
	return lines[i : len(lines)-1]
}

// diffWords returns the words that differ, those of a marked - and those of b +.
func diffWords(a, b string) []string {
	oneEach := func(s string) string {
		return strings.Join(append(strings.Fields(s), ""), "\n")
	}
	around := func(l string) bool { return l[0] == ' ' || l[0] == '@' }
	return slices.DeleteFunc(diffLines(oneEach(a), oneEach(b)), around)
}
