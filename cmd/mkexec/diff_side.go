package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/eventlog"
	"github.com/mkexec/mkexec/measure/stub"
)

// What diff can compare.
const (
	sideImage      = "image"
	sideLog        = "log"   // of the firmware
	sideKexec      = "kexec" // the last one in the log of userspace
	sidePrediction = "prediction"
)

// A side is one of the two that diff compares: the events in PCRs 11, 12 and 13,
// and the PCRs that they lead to.
type side struct {
	kind    string
	path    string
	stub    string // the version; of an event log it is not known
	profile string
	base    string // zero or tpm
	events  []sideEvent
	pcrs    measure.PCRs // after the events
	// words are the phase words at the end of a log, and later is the number of
	// its events of later starts. Neither is among the events if the other side
	// ends where the stub does.
	words []string
	later int
}

// A sideEvent is an event of a side.
type sideEvent struct {
	measure.Event
	number int    // from 1, among the events in the three PCRs
	what   string // what is measured, for people
	class  string // the same for what is measured at the same place of another image
	// text is a command line that is measured as such; nil for others.
	text *string
	// content is what was hashed; nil if only its digest is known.
	content measure.Content
}

// What the class of an event of a log is: a log does not tell one command line
// from another.
const (
	classCmdline = "a command line"
	classWord    = "word "
)

// sameClass tells whether the same is measured at the places of both events.
func (e *sideEvent) sameClass(o *sideEvent) bool {
	if e.class == classCmdline || o.class == classCmdline {
		return coarse(e.class) == coarse(o.class)
	}
	return e.class == o.class
}

// maxPredictionJSON bounds the size of the output of predict --json, in bytes.
const maxPredictionJSON = 4 << 20

// imageSide is what the rules of the stub and the hashes say of an image.
func imageSide(path string, b *stub.Boot, p *measure.Prediction) (*side, error) {
	s := &side{kind: sideImage, path: path, stub: b.Stub.Version, profile: fmt.Sprint(b.Profile), base: "zero"}
	for i, ev := range p.Events {
		e := sideEvent{Event: ev, number: i + 1, what: ev.Description, class: classOf(ev.Description), content: b.Measurements[i].Content}
		if coarse(e.class) == classCmdline {
			text := eventlog.Describe(ev.Type, ev.Data)
			e.text = &text
		}
		s.events = append(s.events, e)
	}
	return s, s.replay(p.Base)
}

// classOf returns the class of what package measure/stub describes: for archives
// without the names of the files, for profiles without the number.
func classOf(description string) string {
	if strings.HasPrefix(description, "section ") {
		return description
	}
	if strings.HasPrefix(description, "profile ") {
		return "UKI profile"
	}
	if what, file, ok := strings.Cut(description, " of addon "); ok {
		return what + " addon: " + file
	}
	class, _, _ := strings.Cut(description, ": ")
	return class
}

// coarse returns classCmdline for the class of any command line.
func coarse(class string) string {
	if strings.HasPrefix(class, "command line") || strings.HasPrefix(class, "load options") {
		return classCmdline
	}
	return class
}

// predictionSide reads the output of predict --json.
func predictionSide(path string, data []byte, banks []measure.Bank) (*side, error) {
	var j predictionJSON
	d := json.NewDecoder(bytes.NewReader(data))
	if err := d.Decode(&j); err != nil {
		return nil, fmt.Errorf("prediction: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("prediction: something behind its end")
	}
	i := slices.IndexFunc(j.Phases, func(p phaseJSON) bool { return p.Phase == "" })
	switch {
	case j.Version != 1:
		return nil, fmt.Errorf("prediction: version %d: unknown (known: 1)", j.Version)
	case j.Base != "zero" && j.Base != "tpm":
		return nil, fmt.Errorf("prediction: base %.40q: unknown (known: zero tpm)", j.Base)
	case i < 0:
		return nil, errors.New("prediction: no PCRs before the first phase")
	}
	s := &side{kind: sidePrediction, path: path, stub: j.Image.Stub, profile: j.Image.Profile, base: j.Base}
	for n, ev := range j.Events {
		if !slices.Contains(measure.StubPCRs(), ev.PCR) {
			return nil, fmt.Errorf("prediction: event %d: PCR %d: not one of %v", n+1, ev.PCR, measure.StubPCRs())
		}
		s.events = append(s.events, sideEvent{Event: ev, number: n + 1, what: ev.Description, class: classOf(ev.Description)})
	}
	said := j.Phases[i].PCRs
	for _, b := range banks {
		if said[b] == nil {
			return nil, noBank(b, said.Banks())
		}
		for _, n := range measure.StubPCRs() {
			if len(said[b][n]) != b.Size() {
				return nil, fmt.Errorf("prediction: PCR %d (%s): %d bytes", n, b, len(said[b][n]))
			}
		}
	}
	// Also where the base is not known this checks the digests.
	if err := s.replay(measure.Zero(banks, measure.StubPCRs()...)); err != nil {
		return nil, fmt.Errorf("prediction: %w", err)
	}
	if s.base == "zero" {
		if diffs := measure.Compare(s.pcrs, said); len(diffs) > 0 {
			return nil, fmt.Errorf("prediction: the events do not lead to the PCRs: %s", diffs[0])
		}
		return s, nil
	}
	s.pcrs = said
	return s, nil
}

// noBank is the error for a bank that one of the sides does not have.
func noBank(b measure.Bank, has []measure.Bank) error {
	err := fmt.Errorf("no bank %s (it has: %s)", b, measure.BankNames(has))
	if len(has) > 0 {
		err = withHint(err, "compare in another bank: --bank="+has[0].String())
	}
	return err
}

// replay extends a base with the events.
func (s *side) replay(base measure.PCRs) error {
	s.pcrs = base.Clone()
	for _, e := range s.events {
		if err := s.pcrs.Extend(e.Event); err != nil {
			return fmt.Errorf("event %d: %w", e.number, err)
		}
	}
	return nil
}

// returned is what firmware measures when an image that it has started comes
// back (TCG PC Client Platform Firmware Profile, EV_EFI_ACTION strings).
const returned = "Returning from EFI Application from Boot Option"

// logSide reads a firmware log. If whole is false only the events of the first
// start that measured anything are taken, without phase words at the end: that is
// where a prediction ends too.
func logSide(path string, data []byte, banks []measure.Bank, whole bool) (*side, error) {
	l, err := eventlog.ParseFirmware(data)
	if err != nil {
		return nil, err
	}
	for _, b := range banks {
		if !slices.Contains(l.Banks, b) {
			return nil, noBank(b, l.Banks)
		}
	}
	s := &side{kind: sideLog, path: path, base: "zero"}
	back := false
	for _, ev := range l.Events {
		switch {
		case ev.Type == measure.EventEFIAction && string(ev.Data) == returned && len(s.events) > 0:
			back = true
		case ev.Type == measure.EventNoAction || !slices.Contains(measure.StubPCRs(), ev.PCR):
		case back && !whole:
			s.later++
		default:
			s.addLogged(ev)
		}
	}
	for n := len(s.events) - 1; !whole && n >= 0; n-- {
		word, ok := strings.CutPrefix(s.events[n].class, classWord)
		if !ok {
			break
		}
		s.words = append([]string{word}, s.words...)
		s.events = s.events[:n]
	}
	return s, s.replay(measure.Zero(banks, measure.StubPCRs()...))
}

// addLogged puts an event of a log behind the others, and says what it is in the
// words of package measure/stub.
func (s *side) addLogged(ev measure.Event) {
	e := sideEvent{Event: ev, number: len(s.events) + 1, what: ev.Description}
	text := ev.Type == measure.EventIPL
	switch word := loggedWord(ev); {
	case word != "":
		e.what = classWord + word
	case text && s.named(ev):
		e.what = fmt.Sprintf("section %s: data", ev.Description)
	case text && ev.PCR == measure.PCRKernelImage && hashes(ev, []byte(ev.Description+"\x00")):
		e.what = fmt.Sprintf("section %s: name", ev.Description)
	case text && ev.PCR == measure.PCRKernelConfig && hashes(ev, ev.Data):
		e.what, e.text = classCmdline, &ev.Description
	}
	e.class = e.what
	if strings.HasPrefix(e.what, "UKI profile: ") {
		e.class = "UKI profile"
	}
	s.events = append(s.events, e)
}

// named tells whether the last event is the name of the section that this one is
// the contents of: both have the name as their data.
func (s *side) named(ev measure.Event) bool {
	if len(s.events) == 0 {
		return false
	}
	last := s.events[len(s.events)-1]
	return last.PCR == ev.PCR && last.class == fmt.Sprintf("section %s: name", ev.Description) && bytes.Equal(last.Data, ev.Data)
}

// loggedWord returns the word of userspace's that was hashed, "" if it was none.
// Nothing that a stub measures is one.
func loggedWord(ev measure.Event) string {
	for _, w := range append(measure.PhaseWords(), measure.OSSeparator) {
		if hashes(ev, []byte(w)) {
			return w
		}
	}
	return ""
}

// hashes tells whether the event's digests are those of data.
func hashes(ev measure.Event, data []byte) bool {
	for b, d := range ev.Digests {
		if !bytes.Equal(d, b.Sum(data)) {
			return false
		}
	}
	return len(ev.Digests) > 0
}
