package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// print prints the comparison for a person.
func (c *comparison) print(w io.Writer) error {
	c.A.print(w, "A")
	c.B.print(w, "B")
	fmt.Fprintln(w)
	for _, p := range c.PCRs {
		if p.Same {
			fmt.Fprintf(w, "PCR %d (%s) is the same: %s\n", p.PCR, p.Bank, p.A)
			continue
		}
		fmt.Fprintf(w, "PCR %d (%s) differs\n  A  %d:%s=%s\n  B  %d:%s=%s\n", p.PCR, p.Bank, p.PCR, p.Bank, p.A, p.PCR, p.Bank, p.B)
	}
	if c.Same {
		return nil
	}
	fmt.Fprintln(w)
	for _, p := range c.Parts {
		fmt.Fprintln(w, p)
	}
	c.printSections(w)
	c.printEvents(w)
	return nil
}

func (s *sideJSON) print(w io.Writer, name string) {
	fmt.Fprintf(w, "%s  %s %s", name, s.Kind, s.Path)
	if s.Stub != "" {
		fmt.Fprintf(w, ", systemd-stub %s, profile %s", printable(s.Stub), printable(s.Profile))
	}
	if s.Base != "zero" {
		fmt.Fprintf(w, ", from %s", s.Base)
	}
	fmt.Fprintf(w, ", %d events\n", s.Events)
	if s.Words != nil {
		fmt.Fprintf(w, "   not compared: the phase words behind them, %s\n", strings.Join(s.Words, ":"))
	}
	if s.Later > 0 {
		fmt.Fprintf(w, "   not compared: %d events of a later start, after this one had come back to the firmware\n", s.Later)
	}
}

// String says it in one line.
func (p partDiff) String() string {
	at := printable(p.At)
	switch {
	case p.A == 0 && p.B == 0:
		return fmt.Sprintf("PCR %d parts at %s", p.PCR, p.At)
	case p.B == 0:
		return fmt.Sprintf("PCR %d parts at event %d, %s, which only A has", p.PCR, p.A, at)
	case p.A == 0:
		return fmt.Sprintf("PCR %d parts at event %d of B, %s, which only B has", p.PCR, p.B, at)
	case p.A != p.B:
		return fmt.Sprintf("PCR %d parts at event %d (of B %d), %s, which differs", p.PCR, p.A, p.B, at)
	}
	return fmt.Sprintf("PCR %d parts at event %d, %s, which differs", p.PCR, p.A, at)
}

func (c *comparison) printSections(w io.Writer) {
	if len(c.Sections) == 0 {
		return
	}
	fmt.Fprint(w, "\nsections\n")
	for _, s := range c.Sections {
		state := map[string]string{isSame: "same", isDifferent: "different", onlyA: "only in A", onlyB: "only in B"}[s.State]
		fmt.Fprintf(w, "  %-9s  %-9s", printable(s.Name), state)
		switch {
		case s.State == isDifferent:
			fmt.Fprintf(w, "\n    A  %s\n    B  %s\n", s.A, s.B)
		case s.A != nil: // if it is the same, a prediction knows more than a log
			fmt.Fprintf(w, "  %s\n", better(s.A, s.B))
		default:
			fmt.Fprintf(w, "  %s\n", s.B)
		}
		printDiff(w, s.Diff)
	}
}

// better returns the one whose size is known.
func better(a, b *sectionSide) *sectionSide {
	if a.Size == nil && b != nil {
		return b
	}
	return a
}

func (s *sectionSide) String() string {
	var parts []string
	if s.Size != nil {
		parts = append(parts, fmt.Sprintf("%d bytes", *s.Size))
	}
	for _, bank := range slices.Sorted(maps.Keys(s.Digests)) {
		parts = append(parts, fmt.Sprintf("%s %s", bank, s.Digests[bank]))
	}
	return strings.Join(parts, ", ")
}

func (c *comparison) printEvents(w io.Writer) {
	fmt.Fprint(w, "\nevents: - only A has it, + only B has it, ! the digests differ\n")
	for _, e := range c.Events {
		mark := map[string]string{isSame: " ", isDifferent: "!", onlyA: "-", onlyB: "+"}[e.State]
		fmt.Fprintf(w, "  %s %4s %4s  PCR %d  %s\n", mark, e.A.number(), e.B.number(), e.PCR, e.what())
		if e.State == isDifferent && !sayTheSame(e.A.Description, e.B.Description) {
			fmt.Fprintf(w, "      A  %s\n      B  %s\n", printable(e.A.Description), printable(e.B.Description))
		}
		printDiff(w, e.Diff)
	}
}

// sayTheSame tells whether descriptions differ at most in that a log says less.
func sayTheSame(a, b string) bool {
	return strings.HasPrefix(a, b) || strings.HasPrefix(b, a) || a == classCmdline || b == classCmdline
}

func (e *eventSide) number() string {
	if e == nil {
		return ""
	}
	return fmt.Sprint(e.Event)
}

// what says what is measured, and a command line that only one side has.
func (e *eventDiff) what() string {
	one := e.A
	if one == nil || e.B != nil && one.Description == classCmdline {
		one = e.B
	}
	what := printable(one.Description)
	if one.Text != nil && e.State != isDifferent {
		what += ": " + printable(*one.Text)
	}
	return what
}

// printDiff prints lines of a diff below what they are of.
func printDiff(w io.Writer, lines []string) {
	const most = 200
	for _, line := range lines[:min(len(lines), most)] {
		fmt.Fprintf(w, "      %s\n", printable(line))
	}
	if more := len(lines) - most; more > 0 {
		fmt.Fprintf(w, "      … %d more lines\n", more)
	}
}

// printable returns text from outside for a terminal: bounded, and quoted if need be.
func printable(s string) string {
	const most = 500
	if r := []rune(s); len(r) > most {
		s = string(r[:most]) + "…"
	}
	return quoteUnprintable(s)
}
