package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mkexec/mkexec/measure"
	"github.com/spf13/cobra"
)

// The formats that predict --output takes.
const (
	formatText    = "text"
	formatJSON    = "json"
	formatMeasure = "systemd-measure"
	formatTools   = "tpm2-tools"
	formatPCRLock = "pcrlock"
)

// An output is the form in which predict tells what it found out, and where.
type output struct {
	format string
	dir    string
	pcrs   []int
	json   bool // systemd-measure: its JSON in place of its text
}

func (o *output) add(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&o.format, "output", formatText, "the `FORMAT`: text, json, systemd-measure, tpm2-tools or pcrlock")
	fl.StringVar(&o.dir, "output-dir", "", "write the files of tpm2-tools or pcrlock to `DIR`, not one of them to stdout")
	fl.IntSliceVar(&o.pcrs, "pcr", nil, "only PCR `N`, for tpm2-tools and pcrlock; may be given more than once")
}

// prepare refuses flags that do not go together, and sets what the format
// implies in those of the image. It is called before anything is read.
func (o *output) prepare(f *imageFlags) error {
	formats := []string{formatText, formatJSON, formatMeasure, formatTools, formatPCRLock}
	if !slices.Contains(formats, o.format) {
		return fmt.Errorf("--output=%.40s: unknown (known: %s)", o.format, strings.Join(formats, " "))
	}
	if f.json && !f.cmd.Flags().Changed("output") {
		o.format = formatJSON
	}
	files := o.format == formatTools || o.format == formatPCRLock
	for _, n := range o.pcrs {
		if !slices.Contains(measure.StubPCRs(), measure.PCR(n)) {
			return fmt.Errorf("--pcr=%d: not predicted (known: %v)", n, measure.StubPCRs())
		}
	}
	switch {
	case f.json && o.format != formatJSON && o.format != formatMeasure:
		return fmt.Errorf("--json does not go with --output=%s", o.format)
	case o.dir != "" && !files:
		return fmt.Errorf("--output-dir goes with --output=tpm2-tools and pcrlock, not %s", o.format)
	case len(o.pcrs) > 0 && !files:
		return fmt.Errorf("--pcr goes with --output=tpm2-tools and pcrlock, not %s", o.format)
	case o.dir == "" && o.format == formatTools && len(f.phases) != 1:
		return errors.New("--output=tpm2-tools has one file a phase: name one with --phase, or a place for them with --output-dir")
	case o.dir == "" && o.format == formatPCRLock && len(f.phases) > 0:
		return errors.New("--output=pcrlock has one file a phase word: name a place for them with --output-dir, or no --phase")
	}
	o.json, f.json = f.json, o.format == formatJSON

	// Like the tools of systemd these formats have all banks where none is named.
	zero := f.from == "zero" || f.from == "" && f.device == ""
	if (o.format == formatMeasure || o.format == formatPCRLock) && zero && len(f.banks) == 0 {
		for _, b := range measure.Banks() {
			f.banks = append(f.banks, b.String())
		}
	}
	return nil
}

// needsUserspace tells whether the output depends on what the initrd's systemd
// does: PCR 11 does not, nor does what a .pcrlock file says of the image.
func (o *output) needsUserspace() bool {
	switch o.format {
	case formatMeasure, formatPCRLock:
		return false
	case formatTools:
		return slices.ContainsFunc(o.selected(), func(n measure.PCR) bool { return n != measure.PCRKernelImage })
	}
	return true
}

// selected returns the PCRs that --pcr names, ascending.
func (o *output) selected() []measure.PCR {
	return slices.DeleteFunc(measure.StubPCRs(), func(n measure.PCR) bool {
		return len(o.pcrs) > 0 && !slices.Contains(o.pcrs, int(n))
	})
}

// write writes the prediction, to out or to the directory.
func (o *output) write(sys *system, out *bytes.Buffer, p *prediction) error {
	switch o.format {
	case formatMeasure:
		return o.writeMeasure(sys, out, p)
	case formatTools:
		return o.writeTools(sys.stderr, out, p)
	case formatPCRLock:
		return o.writePCRLock(out, p)
	}
	j, err := p.json()
	if err != nil {
		return err
	}
	if o.format == formatJSON {
		return printJSON(out, j)
	}
	return p.print(out, j.Phases)
}

// A measureJSON is PCR 11 at a phase as systemd-measure calculate --json= has it.
type measureJSON struct {
	Phase measure.Phase  `json:"phase,omitempty"`
	PCR   measure.PCR    `json:"pcr"`
	Hash  measure.Digest `json:"hash"`
}

// writeMeasure prints PCR 11 as systemd-measure calculate does: the phases
// sorted and each once, and beside the text a comment for each phase on stderr;
// JSON as with -j, on one line if not on a terminal (systemd 262,
// src/measure/measure-tool.c).
func (o *output) writeMeasure(sys *system, out *bytes.Buffer, p *prediction) error {
	const pcr = measure.PCRKernelImage
	phases := slices.Clone(p.phases)
	slices.Sort(phases)
	byBank := map[measure.Bank][]measureJSON{}
	for _, phase := range slices.Compact(phases) {
		pcrs, err := p.At(phase)
		if err != nil {
			return err
		}
		if !o.json {
			fmt.Fprintf(sys.stderr, "# PCR[%d] Phase <%s>\n", pcr, cmp.Or(phase, ":"))
		}
		for _, b := range pcrs.Banks() {
			byBank[b] = append(byBank[b], measureJSON{phase, pcr, pcrs[b][pcr]})
			if !o.json {
				fmt.Fprintf(out, "%d:%s=%s\n", pcr, b, pcrs[b][pcr])
			}
		}
	}
	if !o.json {
		return nil
	}
	return printMeasureJSON(out, byBank, isTerminal(sys.stdout))
}

// printMeasureJSON prints JSON as systemd does: short, or pretty with tabs and a
// space on both sides of the colons (systemd 262, sd_json_variant_dump). The
// banks come sorted by name.
func printMeasureJSON(out *bytes.Buffer, byBank map[measure.Bank][]measureJSON, pretty bool) error {
	b, err := json.Marshal(byBank)
	if err != nil {
		return err
	}
	b = append(b, '\n')
	if pretty {
		var indented bytes.Buffer
		if err := json.Indent(&indented, b, "", "\t"); err != nil {
			return err
		}
		b = bytes.ReplaceAll(indented.Bytes(), []byte(`": `), []byte(`" : `)) // no string has that in it
	}
	_, err = out.Write(b)
	return err
}

// writeTools writes the values of the PCRs as tpm2_pcrread -o does: bytes, one
// value after the other, bank by bank in the order of the selection (tpm2-tools
// 5.4, lib/pcr.c). The command that takes them goes to stderr.
func (o *output) writeTools(stderr io.Writer, out *bytes.Buffer, p *prediction) error {
	var files []file
	selection := ""
	for _, phase := range p.phases {
		pcrs, err := p.At(phase)
		if err != nil {
			return err
		}
		var values []byte
		if selection, values, err = selectPCRs(pcrs, o.selected()); err != nil {
			return err
		}
		name := strings.ReplaceAll(cmp.Or(string(phase), "before-first-phase"), ":", "+") + ".pcrs" // FAT has no colon
		files = append(files, file{name, values})
	}
	command := func(path string) {
		fmt.Fprintf(stderr, "tpm2_policypcr -S session.ctx -l %s -f %s -L policy.digest\n", selection, path)
	}
	if o.dir == "" {
		command("FILE")
		_, err := out.Write(files[0].data)
		return err
	}
	if err := writeFiles(o.dir, files); err != nil {
		return err
	}
	for _, f := range files {
		command("'" + strings.ReplaceAll(filepath.Join(o.dir, f.name), "'", `'\''`) + "'")
	}
	return nil
}

// selectPCRs returns the PCRs that are named, in all banks: the selection as
// tpm2-tools spell it, such as sha1:11,12+sha256:11,12, and their values.
func selectPCRs(pcrs measure.PCRs, named []measure.PCR) (selection string, values []byte, err error) {
	var banks []string
	for _, b := range pcrs.Banks() {
		var numbers []string
		for _, n := range named {
			if pcrs[b][n] == nil {
				return "", nil, withHint(fmt.Errorf("PCR %d (%s): %w, as the initrd's systemd is not known", n, b, measure.ErrCannotTell), "--systemd=VERSION")
			}
			numbers = append(numbers, fmt.Sprint(n))
			values = append(values, pcrs[b][n]...)
		}
		banks = append(banks, b.String()+":"+strings.Join(numbers, ","))
	}
	return strings.Join(banks, "+"), values, nil
}

// A pcrlockRecord is one extend in a .pcrlock file, systemd.pcrlock(5).
type pcrlockRecord struct {
	PCR     measure.PCR     `json:"pcr"`
	Digests []pcrlockDigest `json:"digests"`
}

type pcrlockDigest struct {
	HashAlg measure.Bank   `json:"hashAlg"`
	Digest  measure.Digest `json:"digest"`
}

func newPCRLockRecord(n measure.PCR, digests map[measure.Bank]measure.Digest) pcrlockRecord {
	r := pcrlockRecord{PCR: n}
	for _, b := range slices.Sorted(maps.Keys(digests)) {
		r.Digests = append(r.Digests, pcrlockDigest{b, digests[b]})
	}
	return r
}

// pcrlockFile returns a component: one line, as systemd-pcrlock lock-uki writes it.
func pcrlockFile(name string, records []pcrlockRecord) (file, error) {
	b, err := json.Marshal(map[string][]pcrlockRecord{"records": records})
	return file{name + ".pcrlock", append(b, '\n')}, err
}

// writePCRLock writes the component of the image, and into a directory also
// those of the phase words. The image is one variant of 650-kernel, the example
// of systemd.pcrlock(5) for kernels side by side.
func (o *output) writePCRLock(out *bytes.Buffer, p *prediction) error {
	words, err := phaseComponents(p.phases)
	if err != nil {
		return err
	}
	pcrs := o.selected()
	records := []pcrlockRecord{}
	for _, ev := range p.Events {
		if slices.Contains(pcrs, ev.PCR) {
			records = append(records, newPCRLockRecord(ev.PCR, ev.Digests))
		}
	}
	name := p.image.entryID()
	if name == "" {
		name = filepath.Base(p.image.path)
	}
	if p.boot.Profile > 0 {
		name += fmt.Sprintf("@%d", p.boot.Profile)
	}
	image, err := pcrlockFile(filepath.Join("650-kernel.pcrlock.d", name), records)
	if err != nil {
		return err
	}
	if o.dir == "" {
		_, err := out.Write(image.data)
		return err
	}
	if strings.HasPrefix(name, ".") {
		return fmt.Errorf("%.80q: systemd-pcrlock ignores hidden files, and the component would be one", name)
	}
	files := []file{image}
	if slices.Contains(pcrs, measure.PCRKernelImage) {
		for _, name := range words {
			digests := map[measure.Bank]measure.Digest{}
			for _, b := range p.Base.Banks() {
				digests[b] = b.Sum([]byte(phaseWord(name)))
			}
			word, err := pcrlockFile(name, []pcrlockRecord{newPCRLockRecord(measure.PCRKernelImage, digests)})
			if err != nil {
				return err
			}
			files = append(files, word)
		}
	}
	return writeFiles(o.dir, files)
}

// phaseComponents returns the components of the words of the phase paths, under
// the names that systemd has for them (systemd 262, /usr/lib/pcrlock.d): with
// these systemd-pcrlock does not take a word twice. It walks all components in
// the order of their names, so all paths must be on one way, and that in order.
func phaseComponents(phases []measure.Phase) ([]string, error) {
	known := []string{"750-enter-initrd", "800-leave-initrd", "850-sysinit", "900-ready", "950-shutdown", "990-final"}
	longest := slices.MaxFunc(phases, func(a, b measure.Phase) int { return len(a) - len(b) })
	for _, p := range phases {
		if p != "" && !strings.HasPrefix(string(longest)+":", string(p)+":") {
			return nil, fmt.Errorf("phase path %.80q: not on the way to %.80q, and pcrlock has one way only", p, longest)
		}
	}
	var names []string
	for _, w := range longest.Words() {
		i := slices.IndexFunc(known, func(name string) bool { return phaseWord(name) == w })
		if i < 0 {
			return nil, fmt.Errorf("phase path %.80q: pcrlock has no %s, or not at this place", longest, w)
		}
		names, known = append(names, known[i]), known[i+1:]
	}
	return names, nil
}

// phaseWord returns the word of a component NNN-word.
func phaseWord(name string) string { return name[len("750-"):] }

// A file is a file to write.
type file struct {
	name string // below the directory
	data []byte
}

// writeFiles writes the files below dir. All of them are there in full, synced,
// before the first takes its place by a rename, so an error before that changes
// nothing, and each file is the old or the new one at any time.
func writeFiles(dir string, files []file) error {
	var staged []string
	defer func() {
		for _, temp := range staged {
			os.Remove(temp) // those that were renamed are not there any more
		}
	}()
	for _, f := range files {
		path := filepath.Join(dir, f.name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if info, err := os.Lstat(path); err == nil && !info.Mode().IsRegular() {
			return fmt.Errorf("%s: not a regular file", path) // a mask, say
		}
		temp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".")
		if err != nil {
			return err
		}
		staged = append(staged, temp.Name())
		_, err = temp.Write(f.data)
		if err := errors.Join(err, temp.Chmod(0o644), temp.Sync(), temp.Close()); err != nil {
			return err
		}
	}
	for i, f := range files {
		path := filepath.Join(dir, f.name)
		if err := os.Rename(staged[i], path); err != nil {
			return err
		}
		if err := syncDir(filepath.Dir(path)); err != nil {
			return err
		}
	}
	return nil
}

// syncDir makes a rename last.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
