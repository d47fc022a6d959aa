package main

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"text/tabwriter"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/stub"
	"github.com/spf13/cobra"
)

func newPredict(sys *system, out *bytes.Buffer) *cobra.Command {
	var f imageFlags
	var o output
	cmd := &cobra.Command{
		Use:   "predict [flags] [IMAGE | --linux=FILE [--initrd=FILE]... --cmdline=STR]",
		Short: "Predict the events and the PCRs that starting an image leads to",
		Long: "Predict the events and the PCRs 11, 12 and 13 that starting an image leads to.\n" +
			"Nothing is changed; without --from=tpm no TPM is needed.",
		Args: oneImage,
		RunE: func(_ *cobra.Command, args []string) error {
			if err := o.prepare(&f); err != nil {
				return err
			}
			f.needsUserspace = o.needsUserspace()
			p, err := f.predict(sys, args)
			if err != nil {
				return err
			}
			return o.write(sys, out, p)
		},
	}
	f.add(cmd)
	o.add(cmd)
	f.addPhases("a phase `PATH` such as enter-initrd:leave-initrd (default: the four of systemd-measure)")
	f.addVia()
	f.addShutdown()
	return cmd
}

// A prediction is what predict found out, for printing.
type prediction struct {
	*measure.Prediction
	boot      *stub.Boot
	image     *image
	userspace *userspace     // nil if it was not looked for
	digest    measure.Digest // SHA-256 of the file; only for JSON
	base      string
	shutdown  measure.Phase // the words before
	phases    []measure.Phase
}

// predict predicts what the flags and arguments ask for.
func (f *imageFlags) predict(sys *system, args []string) (*prediction, error) {
	phases, err := f.parsePhases()
	if err != nil {
		return nil, err
	}
	m, err := f.open(sys, args)
	if err != nil {
		return nil, err
	}
	defer m.close()
	boot, err := m.load()
	if err != nil {
		return nil, err
	}
	base, err := f.base(sys)
	if err != nil {
		return nil, err
	}
	return f.predictFrom(sys, m, boot, base, phases)
}

// predictFrom hashes. Beside it the initrd is searched for systemd and, for
// JSON, the digest of the whole file is computed.
func (f *imageFlags) predictFrom(sys *system, m *image, boot *stub.Boot, base measure.PCRs, phases []measure.Phase) (*prediction, error) {
	p := &prediction{boot: boot, image: m, base: f.from, shutdown: f.before, phases: phases}
	var total int64
	for _, c := range boot.Measurements {
		total += c.Content.Size()
	}
	bar := startProgress(sys.stderr, "hashing", total)
	defer bar.finish()

	beside := make(chan error, 2)
	go func() {
		var err error
		if f.needsUserspace {
			p.userspace, err = f.findUserspace(sys, m, boot)
		}
		beside <- err
	}()
	go func() {
		var err error
		if f.json {
			p.digest, err = m.digest()
		}
		beside <- err
	}()
	var err error
	p.Prediction, err = measure.Predict(&boot.Image, measure.Options{Base: base, InitrdDigest: f.json, Progress: bar.add})
	if err = cmp.Or(err, <-beside, <-beside); err != nil {
		return nil, inFile(m.path, err)
	}
	if p.userspace != nil {
		p.OSSeparator = p.userspace.separator
	}
	return p, nil
}

// digest returns the SHA-256 of the UKI or of the bare kernel.
func (m *image) digest() (measure.Digest, error) {
	c := m.src.UKI
	if c == nil {
		c = m.src.Linux
	}
	d, err := measure.Sum(c, measure.SHA256)
	return d[measure.SHA256], err
}

// predictionJSON is the output of predict --json, version 1. Scripts rely on it.
type predictionJSON struct {
	Version int       `json:"version"`
	Image   imageJSON `json:"image"`
	Base    string    `json:"base"`
	// Shutdown are the words that PCR 11 is extended with before the events.
	Shutdown measure.Phase `json:"shutdown,omitempty"`
	Cmdline  string        `json:"cmdline"`
	Initrd   initrdJSON    `json:"initrd"`
	// Systemd is that of the initrd.
	Systemd *userspaceJSON `json:"systemd,omitempty"`
	// Ignored says which files beside the image are not used, and why.
	Ignored []string        `json:"ignored,omitempty"`
	Events  []measure.Event `json:"events"`
	Phases  []phaseJSON     `json:"phases"`
}

type imageJSON struct {
	Path    string         `json:"path"`
	Entry   string         `json:"entry,omitempty"` // the boot entry that was taken
	SHA256  measure.Digest `json:"sha256"`
	Stub    string         `json:"stub"`
	Profile string         `json:"profile"`
}

type initrdJSON struct {
	Size   int64          `json:"size"`
	SHA256 measure.Digest `json:"sha256"` // of nothing where there is no initrd
}

type phaseJSON struct {
	Phase measure.Phase `json:"phase"`
	PCRs  measure.PCRs  `json:"pcrs"`
}

func (p *prediction) imageJSON() imageJSON {
	return imageJSON{p.image.path, p.image.entryID(), p.digest, p.boot.Stub.Version, strconv.Itoa(p.boot.Profile)}
}

func (p *prediction) ignored() []string { return slices.Concat(p.image.ignored, p.boot.Ignored) }

func (p *prediction) json() (predictionJSON, error) {
	j := predictionJSON{
		Version: 1,
		Image:   p.imageJSON(),
		Base:    p.base, Shutdown: p.shutdown,
		Cmdline: p.boot.Cmdline,
		Initrd:  initrdJSON{p.boot.InitrdSize(), p.InitrdDigest},
		Ignored: p.ignored(),
		Events:  p.Events,
	}
	if p.userspace != nil {
		j.Systemd = p.userspace.json()
	}
	if j.Initrd.Size == 0 {
		j.Initrd.SHA256 = measure.SHA256.Sum(nil)
	}
	for _, phase := range append([]measure.Phase{""}, p.phases...) {
		if phase == "" && len(j.Phases) > 0 {
			continue // asked for, and always there
		}
		pcrs, err := p.At(phase)
		if err != nil {
			return j, err
		}
		j.Phases = append(j.Phases, phaseJSON{phase, pcrs.Only(measure.StubPCRs()...)})
	}
	return j, nil
}

// print prints the prediction for a person.
func (p *prediction) print(w io.Writer, phases []phaseJSON) error {
	if p.image.entry != nil {
		fmt.Fprintf(w, "entry    %s, the default\n", clean(p.image.entryID()))
	}
	switch {
	case p.image.uki != nil:
		fmt.Fprintf(w, "image    %s, %s, profile %d\n", clean(p.image.path), clean(p.boot.Stub.String()), p.boot.Profile)
	case p.image.opts.Via == stub.ViaKexec:
		fmt.Fprintf(w, "image    %s, measured as systemd-stub %s would\n", clean(p.image.path), p.boot.Stub.Version)
	default:
		fmt.Fprintf(w, "image    %s, started by %s without systemd-stub\n", clean(p.image.path), p.image.opts.Via)
	}
	fmt.Fprintf(w, "cmdline  %q\n", p.boot.Cmdline)
	fmt.Fprintf(w, "initrd   %d bytes\n", p.boot.InitrdSize())
	if p.userspace != nil {
		fmt.Fprintf(w, "systemd  %s\n", clean(p.userspace.String()))
	}
	for _, ignored := range p.ignored() {
		fmt.Fprintf(w, "ignored  %s\n", clean(ignored))
	}
	fmt.Fprintf(w, "base     %s\n", p.base)
	if p.shutdown != "" {
		fmt.Fprintf(w, "shutdown %s\n", p.shutdown)
	}
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for i, ev := range p.Events {
		what := fmt.Sprintf("event %d, %s", i+1, clean(ev.Description))
		for _, b := range p.Base.Banks() {
			fmt.Fprintf(t, "%s\t%d:%s=%s\n", what, ev.PCR, b, ev.Digests[b])
			what = ""
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	return printPhases(w, phases)
}

// printPhases prints PCRs in the form PCR:BANK=HEX of systemd-measure.
func printPhases(w io.Writer, phases []phaseJSON) error {
	for _, phase := range phases {
		at := "before the first phase"
		if phase.Phase != "" {
			at = "at " + string(phase.Phase)
		}
		if _, err := fmt.Fprintf(w, "\nPCRs %s\n", at); err != nil {
			return err
		}
		for _, b := range phase.PCRs.Banks() {
			for _, n := range measure.StubPCRs() {
				value := phase.PCRs[b][n].String()
				fmt.Fprintf(w, "  %d:%s=%s\n", n, b, cmp.Or(value, "unknown"))
			}
		}
	}
	return nil
}
