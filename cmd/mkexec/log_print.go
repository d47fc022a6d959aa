package main

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/eventlog"
)

// A logJSON is the output of log --json, version 1.
type logJSON struct {
	Version int `json:"version"`
	// Replays is the answer; absent if no TPM was asked.
	Replays *bool      `json:"replays,omitempty"`
	Events  []stepJSON `json:"events"`
	// FromCopy is how many records of userspace are from the copy on disk.
	FromCopy int `json:"fromCopy,omitempty"`
	// Replay is what the events lead to, of the PCRs that there are any for.
	Replay measure.PCRs  `json:"replay"`
	PCRs   []verdictJSON `json:"pcrs,omitempty"`
	IMA    *imaJSON      `json:"ima,omitempty"`
	Notes  []string      `json:"notes,omitempty"`
}

type stepJSON struct {
	Event  int    `json:"event"` // from 1 on
	Source string `json:"source"`
	Hop    int    `json:"hop"` // which kernel since power-on; 0 for firmware
	BootID string `json:"bootId,omitempty"`
	// PCR is absent for an NvPCR.
	PCR         *measure.PCR                    `json:"pcr,omitempty"`
	NVIndex     uint32                          `json:"nvIndex,omitempty"`
	Type        string                          `json:"type"`
	Digests     map[measure.Bank]measure.Digest `json:"digests"`
	Description string                          `json:"description"`
	// Text tells what the description is to the digests: hashed, cut, hmac, other.
	Text       eventlog.Text  `json:"text,omitempty"`
	Timestamp  int64          `json:"timestamp,omitempty"` // µs since the kernel was started
	Size       int64          `json:"size,omitempty"`
	Image      measure.Digest `json:"image,omitempty"`
	Incomplete bool           `json:"incomplete,omitempty"`
}

type verdictJSON struct {
	PCR   measure.PCR    `json:"pcr"`
	Bank  measure.Bank   `json:"bank"`
	State eventlog.State `json:"state"`
	TPM   measure.Digest `json:"tpm"`
	Log   measure.Digest `json:"log,omitempty"`
	Last  int            `json:"lastEvent,omitempty"`
	Match int            `json:"matchingEvent,omitempty"`
}

type imaJSON struct {
	Count int             `json:"count"`
	Kexec []imaRecordJSON `json:"kexec,omitempty"`
}

type imaRecordJSON struct {
	Record int    `json:"record"`
	Name   string `json:"name"`
	Digest string `json:"digest"`
	Data   string `json:"data,omitempty"`
}

// stepSource says who extended: for a person, and not proved by anything.
func stepSource(s eventlog.Step) string {
	switch {
	case s.Record == nil && slices.Contains(measure.StubPCRs(), s.Event.PCR):
		return "stub" // or systemd-boot
	case s.Record == nil:
		return "firmware"
	}
	return cmp.Or(s.Record.ContentType, "unknown")
}

func stepType(s eventlog.Step) string {
	if s.Record == nil || s.Record.Kexec != nil {
		return s.Event.Type.String()
	}
	return cmp.Or(s.Record.EventType, "-")
}

func (l *logReader) json() logJSON {
	j := logJSON{Version: 1, Events: []stepJSON{}, FromCopy: l.fromCopy, Replay: l.replay(l.timeline.Banks()...), Notes: l.notes}
	if l.compare {
		yes := !l.no()
		j.Replays = &yes
	}
	for i, s := range l.timeline.Steps() {
		e := stepJSON{
			Event: i + 1, Source: stepSource(s), Hop: s.Hop, Type: stepType(s),
			Digests: s.Event.Digests, Description: s.Event.Description, Size: s.Event.Size,
		}
		if s.Event.PCR >= 0 {
			e.PCR = &s.Event.PCR
		}
		if r := s.Record; r != nil {
			e.BootID, e.NVIndex, e.Text, e.Timestamp = r.BootID, r.NVIndex, r.Text, r.Timestamp.Microseconds()
			if r.Kexec != nil {
				e.Image, e.Incomplete = r.Kexec.Image, r.Kexec.Incomplete
			}
		}
		j.Events = append(j.Events, e)
	}
	for _, v := range l.verdicts {
		j.PCRs = append(j.PCRs, verdictJSON{v.PCR, v.Bank, v.State, v.TPM, v.Log, v.Last, v.Match})
	}
	if l.ima != nil {
		j.IMA = &imaJSON{Count: l.ima.Count}
		for _, k := range l.ima.Kexec {
			j.IMA.Kexec = append(j.IMA.Kexec, imaRecordJSON{k.Number, k.Name, k.Digest, k.Data})
		}
	}
	return j
}

// replay returns what the events lead to, of the PCRs that they are for. One for
// which an event lacks the digest is not in it.
func (l *logReader) replay(banks ...measure.Bank) measure.PCRs {
	pcrs := measure.PCRs{}
	for _, v := range l.timeline.Judge(measure.Zero(banks, allPCRs()...)) {
		if v.Last > 0 && v.Log != nil {
			pcrs.Set(v.Bank, v.PCR, v.Log)
		}
	}
	return pcrs
}

// print prints the timeline for a person, with the digests of one bank, and what
// the TPM says to it.
func (l *logReader) print(out *bytes.Buffer, bank measure.Bank) error {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	heading := ""
	for i, s := range l.timeline.Steps() {
		if h := l.heading(s); h != heading {
			if err := t.Flush(); err != nil {
				return err
			}
			if i > 0 {
				fmt.Fprintln(out)
			}
			fmt.Fprintln(out, h)
			heading = h
		}
		register := fmt.Sprint(s.Event.PCR)
		if s.Event.PCR < 0 {
			register = fmt.Sprintf("0x%x", s.Record.NVIndex)
		}
		fmt.Fprintf(t, "  %d\t%s:%s=%s\t%s\t%s\n", i+1, register, bank, cmp.Or(s.Event.Digests[bank].String(), "-"), cleanLine(stepType(s)), cleanLine(stepText(s)))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(out)
	l.printIMA(out)
	for _, n := range l.notes {
		fmt.Fprintf(out, "note  %s\n", clean(n))
	}
	if !l.compare {
		fmt.Fprintln(out, "note  no TPM was asked: a log by itself proves nothing")
		fmt.Fprintln(out, "\nPCRs that the events lead to")
		values := l.replay(bank)[bank]
		for _, n := range slices.Sorted(maps.Keys(values)) {
			fmt.Fprintf(out, "  %d:%s=%s\n", n, bank, values[n])
		}
		return nil
	}
	l.printVerdicts(out, bank)
	return nil
}

func stepText(s eventlog.Step) string {
	if s.Record == nil {
		return s.Event.Description
	}
	return s.Record.Describe()
}

// cleanLine is clean of text that may be long.
func cleanLine(s string) string {
	const most = 160
	if r := []rune(s); len(r) > most {
		s = string(r[:most]) + "…"
	}
	return clean(s)
}

// heading says to which part of the timeline an event belongs.
func (l *logReader) heading(s eventlog.Step) string {
	switch r := s.Record; {
	case r == nil:
		return "power-on: firmware, boot loader, systemd-stub"
	case r.Kexec != nil:
		h := fmt.Sprintf("kexec at the end of hop %d, image %s", s.Hop, cmp.Or(r.Kexec.Image.String(), "not known"))
		if r.Kexec.Incomplete {
			h += "; an event before it is missing"
		}
		return h
	default:
		return fmt.Sprintf("hop %d, boot id %s", s.Hop, cmp.Or(r.BootID, "not known"))
	}
}

func (l *logReader) printIMA(w io.Writer) {
	if l.ima == nil {
		return
	}
	fmt.Fprintf(w, "note  IMA has a log of its own for PCR 10, with %d records\n", l.ima.Count)
	for _, k := range l.ima.Kexec {
		fmt.Fprintf(w, "      %d  %s  %s", k.Number, cleanLine(k.Digest), cleanLine(k.Name))
		if k.Data != "" {
			fmt.Fprintf(w, "  %q", cleanLine(k.Data))
		}
		fmt.Fprintln(w)
	}
}

func (l *logReader) printVerdicts(w io.Writer, bank measure.Bank) {
	l.printYes(w, eventlog.Replayed, "what the events lead to")
	l.printYes(w, eventlog.Untouched, "what a reset leaves, and no event is logged,")
	for n := range measure.PCR(24) {
		for _, same := range l.verdictsOf(n) {
			v := same[0]
			if i := slices.IndexFunc(same, func(v eventlog.Verdict) bool { return v.Bank == bank }); i >= 0 {
				v = same[i]
			}
			if text := explainVerdict(v); text != "" {
				var banks []measure.Bank
				for _, s := range same {
					banks = append(banks, s.Bank)
				}
				fmt.Fprintf(w, "%-5s PCR %d (%s): %s\n", map[bool]string{true: "no", false: "note"}[v.State.No()], n, measure.BankNames(banks), text)
			}
		}
	}
	if l.no() {
		fmt.Fprintln(w, "the logs do not explain what the TPM holds")
		return
	}
	fmt.Fprintln(w, "the logs explain what the TPM holds")
}

// printYes prints which PCRs are in a state that is in order, with a line for the
// banks that have the same.
func (l *logReader) printYes(w io.Writer, state eventlog.State, text string) {
	var lists []string
	banks := map[string][]measure.Bank{}
	for _, b := range l.live.Banks() {
		var pcrs []string
		for _, v := range l.verdicts {
			if v.Bank == b && v.State == state {
				pcrs = append(pcrs, fmt.Sprint(v.PCR))
			}
		}
		list := strings.Join(pcrs, " ")
		if list == "" {
			continue
		}
		if banks[list] == nil {
			lists = append(lists, list)
		}
		banks[list] = append(banks[list], b)
	}
	for _, list := range lists {
		fmt.Fprintf(w, "yes   %s: the TPM holds %s in PCR %s\n", measure.BankNames(banks[list]), text, list)
	}
}

// verdictsOf returns the verdicts on a PCR, those together that are the same but
// for the bank.
func (l *logReader) verdictsOf(n measure.PCR) (groups [][]eventlog.Verdict) {
	for _, v := range l.verdicts {
		if v.PCR != n {
			continue
		}
		same := func(g []eventlog.Verdict) bool {
			return g[0].State == v.State && g[0].Last == v.Last && g[0].Match == v.Match
		}
		if i := slices.IndexFunc(groups, same); i >= 0 {
			groups[i] = append(groups[i], v)
		} else {
			groups = append(groups, []eventlog.Verdict{v})
		}
	}
	return groups
}

// explainVerdict says what is wrong with a PCR, "" if nothing is.
func explainVerdict(v eventlog.Verdict) string {
	holds := fmt.Sprintf("the TPM holds %s=%s", v.Bank, v.TPM)
	switch v.State {
	case eventlog.Unlogged:
		return holds + ", but no event of the log is for it"
	case eventlog.Behind:
		if v.Match == 0 {
			return fmt.Sprintf("%s, as after a reset: none of the events up to %d was extended", holds, v.Last)
		}
		return fmt.Sprintf("%s, which the log leads to with event %d: what is logged behind that, up to event %d, was not extended", holds, v.Match, v.Last)
	case eventlog.Differs:
		return fmt.Sprintf("%s, the log leads to %s; no event of the log leads to it: the last one logged for it is %d", holds, v.Log, v.Last)
	case eventlog.NoDigest:
		return fmt.Sprintf("event %d has no digest for this bank", v.Last)
	case eventlog.NotJudged:
		if !bytes.Equal(v.Log, v.TPM) && v.PCR != 10 {
			return "not judged, as it can be reset without a trace: the TPM does not hold what the log leads to"
		}
	}
	return ""
}
