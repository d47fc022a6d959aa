package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/policy"
)

// A verdict is what is to be said of one secret after one start.
type verdict struct {
	secret   *secret
	start    string
	at       measure.Phase
	optional bool
	pin      bool                  // it takes a PIN as well
	no       *policy.MismatchError // nil unless it is a no
	err      error                 // why it cannot be told, nil if it can
	notes    []string
	hint     string
}

// A background is what helps to explain a no, where there is one.
type background struct {
	cold  func() *start        // the same image started by firmware
	known func() policy.Accept // the values that secrets may be sealed to
	// compared: the events are going to be compared with those of another image.
	compared bool
}

// judge tells whether a secret is within reach after a start.
func (s *secret) judge(start *start, by *background) *verdict {
	v := &verdict{secret: s, start: start.name, at: s.At, optional: s.Optional}
	if s.note != "" {
		v.notes = append(v.notes, s.note)
	}
	yes := 0
	for _, phase := range append([]measure.Phase{s.At}, s.orAt...) {
		err := s.checkAt(phase, start)
		var no *policy.MismatchError
		switch {
		case err == nil:
			yes++
		case errors.As(err, &no) && v.no == nil:
			v.at, v.no = phase, no
		case no == nil && v.err == nil:
			v.at, v.err = phase, err
		}
	}
	if v.no != nil && (yes > 0 || v.err != nil) { // it depends on when it is wanted
		v.err = fmt.Errorf("when it is wanted is not known, and %s it will not unlock: %w", at(v.at), policy.ErrCannotTell)
		v.no = nil
	}
	if v.no != nil || v.err != nil {
		v.addParts(start)
	}
	var silent *silentError
	switch {
	case v.no != nil:
		v.explain(start, by)
	case errors.As(v.err, &silent):
		v.hint = silentHint
	case v.err == nil:
		v.pin = s.needsPIN(v.at, start)
	}
	return v
}

// checkAt asks the policy of a secret at a phase.
func (s *secret) checkAt(phase measure.Phase, start *start) error {
	if start.err != nil {
		return start.err
	}
	if u, ok := s.Policy.(unreadable); ok {
		return u.Check(nil)
	}
	if start.userspace.silent && phase != "" {
		return &silentError{phase, start.userspace.why}
	}
	r := s.Requirement
	r.At = phase
	if phase != "" && start.userspace.hasNvPCRs() && r.Policy != nil {
		r.Policy = forgetful{r.Policy, []measure.PCR{9}} // which they change
	}
	return r.Check(start.Prediction)
}

// A silentError is that a phase never comes.
type silentError struct {
	phase measure.Phase
	why   string
}

func (e *silentError) Error() string {
	return fmt.Sprintf("the phase %s never comes: %s: %v", e.phase, e.why, policy.ErrCannotTell)
}

func (e *silentError) Unwrap() error { return policy.ErrCannotTell }

const silentHint = `to say which systemd is in the initrd: --systemd=VERSION; what has to hold before the first phase has at: "", or --at=`

// needsPIN tells whether the secret opens with a PIN only.
func (s *secret) needsPIN(phase measure.Phase, start *start) bool {
	pcrs, err := start.At(phase)
	if err != nil {
		return false
	}
	pin := false
	for _, w := range s.parts {
		if w.policy.Check(pcrs) == nil {
			if w.token == nil || !w.token.PIN {
				return false
			}
			pin = true
		}
	}
	return pin
}

// addParts says what is with each of several tokens.
func (v *verdict) addParts(start *start) {
	if start.err != nil || len(v.secret.parts) < 2 {
		return
	}
	pcrs, err := start.At(v.at)
	if err != nil {
		return
	}
	for _, w := range v.secret.parts {
		if err := w.policy.Check(pcrs); err != nil {
			v.notes = append(v.notes, fmt.Sprintf("%s: %v", w.name, err))
		}
	}
}

// explain adds which PCRs are others, why a no is inherent to the way of
// starting, and the way out.
func (v *verdict) explain(start *start, by *background) {
	pcrs, err := start.At(v.at)
	if err != nil {
		return
	}
	v.addValues(pcrs, by)
	if !by.compared {
		v.hint = "to see which event differs from those of an image that did: --reference=IMAGE"
	}
	if v.start != startKexec {
		return
	}
	if start.OSSeparator == measure.SeparatorYes {
		without := *start
		p := *start.Prediction
		p.OSSeparator = measure.SeparatorNo
		without.Prediction = &p
		if v.secret.checkAt(v.at, &without) == nil {
			v.notes = append(v.notes, "systemd extends os-separator into its PCRs a second time after a kexec")
			v.hint = "to have the next system measure nothing: --append=systemd.tpm2_measured_os=no"
			return
		}
	}
	if v.secret.checkAt(v.at, by.cold()) == nil {
		v.notes = append(v.notes, "after a cold boot it would: a kexec extends PCRs that hold what was measured before")
		v.hint = "to start it by firmware: systemctl reboot --boot-loader-entry=ID"
	}
}

// addValues names the PCRs that a token is sealed to other values of, which it
// does not say itself, where one of the known values is it.
func (v *verdict) addValues(pcrs measure.PCRs, by *background) {
	no := *v.no
	no.Mismatches = slices.Clone(no.Mismatches)
	for _, w := range v.secret.parts {
		if w.token == nil || len(w.token.PCRs) == 0 {
			continue
		}
		sealed, ok := w.token.SealedValues(by.known())
		if !ok {
			continue
		}
		name := v.secret.Name
		if len(v.secret.parts) > 1 {
			name += ", " + w.name + ","
		}
		for b := range sealed {
			for _, n := range w.token.PCRs {
				if got := pcrs[b][n]; got != nil && got.String() != sealed[b][n].String() {
					no.Mismatches = append(no.Mismatches, policy.Mismatch{
						Requirement: name, Phase: v.at, Bank: b, PCR: n, Want: []measure.Digest{sealed[b][n]}, Got: got,
					})
				}
			}
		}
	}
	v.no = &no
}

// answer is yes, no or unknown.
func (v *verdict) answer() string {
	switch {
	case v.no != nil:
		return "no"
	case v.err != nil:
		return "unknown"
	}
	return "yes"
}

// A sourceJSON is one source in the output of check --json.
type sourceJSON struct {
	Name     string        `json:"name"`
	Kind     string        `json:"kind"` // pcrs, luks, pcrsig, pcrlock, key, credential
	Path     string        `json:"path,omitempty"`
	For      string        `json:"for"` // kexec, cold
	At       measure.Phase `json:"at"`
	Required bool          `json:"required"`
	Answer   string        `json:"answer"` // yes, no, unknown
	PIN      bool          `json:"pin,omitempty"`
	Reason   policy.Reason `json:"reason,omitempty"`
	Detail   string        `json:"detail,omitempty"`
	Notes    []string      `json:"notes,omitempty"`
	Hint     string        `json:"hint,omitempty"`

	mismatches []policy.Mismatch
}

func (v *verdict) json() sourceJSON {
	j := sourceJSON{
		Name: v.secret.Name, Kind: "pcrs", For: v.start, At: v.at, Required: !v.optional,
		Answer: v.answer(), PIN: v.pin, Notes: v.notes, Hint: v.hint,
	}
	if src := v.secret.Source; src != nil {
		j.Kind, j.Path = string(src.Kind), src.Path
	}
	switch {
	case v.no != nil:
		j.Reason = v.no.Reason
		j.Detail = strings.TrimPrefix(v.no.Detail, fmt.Sprintf("%s %s: ", j.Name, at(j.At)))
		j.mismatches = v.no.Mismatches
	case v.err != nil:
		j.Detail = v.err.Error()
	}
	return j
}

// at says when.
func at(p measure.Phase) string {
	if p == "" {
		return "before the first phase"
	}
	return "at " + string(p)
}

// String says it in one line.
func (j sourceJSON) String() string {
	words := map[string]string{"yes": "will hold", "no": "will not hold", "unknown": "cannot be told"}
	if j.Kind != "pcrs" && j.Kind != string(policy.SourceSignature) {
		words["yes"], words["no"] = "will unlock", "will not unlock"
	}
	text := fmt.Sprintf("%s, %s, %s: %s", map[string]string{startKexec: "kexec", startCold: "cold boot"}[j.For], j.Name, at(j.At), words[j.Answer])
	if j.PIN {
		text += ", with its PIN"
	}
	if !j.Required {
		text += " (optional)"
	}
	if j.Detail != "" {
		text += ": " + strings.ReplaceAll(j.Detail, "\n", "; ")
	}
	return text
}

// A checkJSON is the output of check --json, version 1.
type checkJSON struct {
	Version int           `json:"version"`
	OK      bool          `json:"ok"`
	Reason  policy.Reason `json:"reason,omitempty"` // of the first no
	Image   imageJSON     `json:"image"`
	Trust   string        `json:"trust,omitempty"` // what is to be said of the signature
	Base    string        `json:"base"`
	Policy  string        `json:"policy"` // the file, "" without one
	Sources []sourceJSON  `json:"sources"`
	// Mismatches are the PCRs that are not accepted.
	Mismatches      []mismatchJSON   `json:"mismatches"`
	FirstDifference *firstDifference `json:"first_difference,omitempty"`
	Phases          []phaseJSON      `json:"phases,omitempty"` // with --phase
}

// print prints the verdicts for a person.
func (c *checkJSON) print(w io.Writer) error {
	if c.Trust != "" {
		fmt.Fprintf(w, "image: %s\n", clean(c.Trust))
	}
	for _, s := range c.Sources {
		fmt.Fprintln(w, clean(s.String()))
		for _, m := range s.mismatches {
			fmt.Fprintln(w, clean(m.String()))
		}
		for _, note := range s.Notes {
			fmt.Fprintf(w, "  %s\n", clean(note))
		}
		if s.Hint != "" {
			fmt.Fprintf(w, "  %s\n", s.Hint)
		}
	}
	switch {
	case c.OK && c.Policy != "":
		fmt.Fprintf(w, "%s: in policy (%s)\n", clean(c.Image.Path), clean(c.Policy))
	case c.OK:
		fmt.Fprintf(w, "%s: yes to all that is required\n", clean(c.Image.Path))
	}
	if c.FirstDifference != nil {
		fmt.Fprintln(w, clean(c.FirstDifference.String()))
	}
	return printPhases(w, c.Phases)
}

type mismatchJSON struct {
	Requirement string           `json:"requirement"`
	At          measure.Phase    `json:"at"`
	Bank        measure.Bank     `json:"bank"`
	PCR         measure.PCR      `json:"pcr"`
	Want        []measure.Digest `json:"want"`
	Got         measure.Digest   `json:"got"`
}

// A firstDifference is the first event in which an image parts from another.
type firstDifference struct {
	Index     int            `json:"event"` // from 1
	Got       *measure.Event `json:"got"`   // null if the image has no more events
	Want      *measure.Event `json:"want"`  // null if the reference has no more events
	Reference string         `json:"reference"`
}

// String says it in one line.
func (d *firstDifference) String() string {
	what := func(ev *measure.Event) string {
		if ev == nil {
			return "no more events"
		}
		return fmt.Sprintf("%s (PCR %d)", ev.Description, ev.PCR)
	}
	return fmt.Sprintf("the first event that differs from %s is event %d: %s, there %s", d.Reference, d.Index, what(d.Got), what(d.Want))
}
