package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/policy"
	"github.com/spf13/cobra"
)

func newCheck(sys *system, out *bytes.Buffer) *cobra.Command {
	var f imageFlags
	var policyPath, reference string
	cmd := &cobra.Command{
		Use:   "check [flags] [IMAGE | --linux=FILE [--initrd=FILE]... --cmdline=STR]",
		Short: "Check whether the PCRs that an image leads to are in policy",
		Long: "Predict as predict does and check the PCRs against the policy. Exit status 0 is yes, 1 is no,\n" +
			"2 is cannot tell. A no names each PCR with the accepted and the predicted value and, with\n" +
			"--reference, the first event that differs from those of an image that is known to be good.",
		Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			file, err := readPolicy(policyPath)
			if err != nil {
				return err
			}
			if err := followed(file); err != nil {
				return inFile(policyPath, err)
			}
			f.needsUserspace = true
			p, err := f.predict(sys, args)
			if err != nil {
				return err
			}
			writeNotes(sys.stderr, p.image, p.boot, p.userspace)
			if err := p.userspace.reaches(file.Require); err != nil {
				return err
			}
			c := checkJSON{Version: 1, OK: true, Image: p.imageJSON(), Base: p.base, Policy: policyPath, Mismatches: []mismatchJSON{}}
			err = file.Require.Check(p.Prediction)
			var no *policy.MismatchError
			switch {
			case errors.As(err, &no):
				c.OK, c.Reason = false, "pcr-mismatch"
				for _, m := range no.Mismatches {
					c.Mismatches = append(c.Mismatches, mismatchJSON{m.Requirement, m.Phase, m.Bank, m.PCR, m.Want, m.Got})
				}
			case err != nil:
				return cannotTellHint(err, p)
			}
			if !c.OK && reference != "" {
				// a no stays one, whatever is wrong with the reference
				if c.FirstDifference, err = f.compare(sys, p, reference); err != nil {
					report(sys.stderr, fmt.Errorf("reference: %w", err))
				}
			}
			if len(f.phases) > 0 {
				j, err := p.json()
				if err != nil {
					return err
				}
				c.Phases = j.Phases
			}
			if f.json {
				if err := printJSON(out, c); err != nil {
					return err
				}
				if !c.OK {
					return errNo
				}
				return nil
			}
			if err := c.print(out, no); err != nil {
				return err
			}
			if !c.OK {
				return errNo
			}
			return nil
		},
	}
	f.add(cmd)
	f.addPhases("also print the PCRs at a phase `PATH`; the policy says itself at which phases it has to hold")
	f.addVia()
	cmd.Flags().StringVar(&policyPath, "policy", defaultPolicy, "the policy `FILE`")
	cmd.Flags().StringVar(&reference, "reference", "", "a known good `IMAGE` to name the first differing event against")
	return cmd
}

// A checkJSON is the output of check --json, version 1.
type checkJSON struct {
	Version int       `json:"version"`
	OK      bool      `json:"ok"`
	Reason  string    `json:"reason,omitempty"` // pcr-mismatch
	Image   imageJSON `json:"image"`
	Base    string    `json:"base"`
	Policy  string    `json:"policy"`
	// Mismatches are the PCRs that are not accepted.
	Mismatches      []mismatchJSON   `json:"mismatches"`
	FirstDifference *firstDifference `json:"first_difference,omitempty"`
	Phases          []phaseJSON      `json:"phases,omitempty"` // with --phase
}

// print prints the verdict for a person; no is nil if it is a yes.
func (c *checkJSON) print(w io.Writer, no *policy.MismatchError) error {
	if no == nil {
		fmt.Fprintf(w, "%s: in policy (%s)\n", clean(c.Image.Path), clean(c.Policy))
	} else {
		for _, m := range no.Mismatches {
			fmt.Fprintln(w, m)
		}
	}
	if c.FirstDifference != nil {
		fmt.Fprintln(w, c.FirstDifference)
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

// compare predicts the reference as p was predicted and returns the first
// event that differs, nil if none does.
func (f *imageFlags) compare(sys *system, p *prediction, reference string) (*firstDifference, error) {
	m := &image{}
	defer m.close()
	if err := m.openUKI(reference); err != nil {
		return nil, err
	}
	path, err := realPath(reference)
	if err != nil {
		return nil, err
	}
	other := *f
	if _, _, _, err := f.place(sys, path); err != nil { // it is somewhere else than the image
		other.none = true
	}
	if p.image.uki != nil {
		m.entry = p.image.entry // started the same way
	}
	if m.opts, err = other.options(sys, m); err != nil {
		return nil, err
	}
	if p.image.uki == nil { // its command line is a section, not one that is passed
		m.opts.Cmdline, m.opts.Append = nil, ""
	}
	boot, err := m.load()
	if err != nil {
		return nil, err
	}
	ref, err := measure.Predict(&boot.Image, measure.Options{Base: p.Base})
	if err != nil {
		return nil, inFile(reference, err)
	}
	i := measure.FirstDifference(p.Events, ref.Events)
	if i < 0 {
		return nil, nil
	}
	event := func(events []measure.Event) *measure.Event {
		if i < len(events) {
			return &events[i]
		}
		return nil
	}
	return &firstDifference{i + 1, event(p.Events), event(ref.Events), reference}, nil
}

// cannotTellHint is for a policy that names what was not predicted.
func cannotTellHint(err error, p *prediction) error {
	if p.OSSeparator == measure.SeparatorUnknown && !strings.Contains(err.Error(), "PCR 11 ") {
		return withHint(err, "to say which systemd is in the initrd: --systemd=VERSION")
	}
	return withHint(err, "predict the banks that the policy names: --bank=BANK")
}

// followed refuses a policy that asks for more than check and boot do yet: what
// is not looked at must not pass for met.
func followed(file *policy.File) error {
	if !reflect.ValueOf(file.Image).IsZero() {
		return errors.New("image: rules for images are not followed by this version")
	}
	for _, r := range file.Require {
		if r.Source != nil {
			return fmt.Errorf("%s: %s is not followed by this version", r.Name, r.Source.Kind)
		}
	}
	return nil
}
