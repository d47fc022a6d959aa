package main

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode/utf8"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/stub"
	"github.com/mkexec/mkexec/measure/uki"
	"github.com/spf13/cobra"
)

func newInspect(sys *system, out *bytes.Buffer) *cobra.Command {
	var asJSON, digests bool
	var espDir, xbootldrDir string
	cmd := &cobra.Command{
		Use:   "inspect [flags] [IMAGE]",
		Short: "Show what is in a UKI or addon",
		Long: "Show the sections, profiles and stub of a UKI or addon. Only headers and small sections are\n" +
			"read, however large the image is, unless --digests asks for more.",
		Args: oneImage,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := refuseEmpty(cmd); err != nil {
				return err
			}
			path, err := imageOrDefault(sys, args, espDir, xbootldrDir)
			if err != nil {
				return err
			}
			r, err := inspect(sys, path, digests)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(out, r)
			}
			return r.print(out)
		},
	}
	cmd.Flags().SortFlags = false
	addPartitionFlags(cmd.Flags(), &espDir, &xbootldrDir)
	cmd.Flags().BoolVar(&digests, "digests", false, "hash the sections and the whole image (SHA-256, Authenticode)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// imageOrDefault returns the image that is named, or that of the default boot
// entry, and says then which one that is.
func imageOrDefault(sys *system, args []string, espDir, xbootldrDir string) (string, error) {
	if len(args) > 0 {
		return args[0], nil
	}
	e, err := defaultEntry(sys, espDir, xbootldrDir)
	if err != nil {
		err = fmt.Errorf("no IMAGE; of the boot entries: %w", err)
		if hintFor(err) == "" {
			err = withHint(err, "mkexec inspect --help")
		}
		return "", err
	}
	defer e.close()
	name := cmp.Or(e.entry.UKI, e.entry.EFI, e.entry.Linux)
	if name == "" {
		return "", fmt.Errorf("default entry %.80q: it is downloaded (uki-url)", e.entry.ID)
	}
	path := filepath.Join(e.dir, filepath.FromSlash(name))
	writeNotes(sys.stderr, &image{path: path, entry: &bootEntry{Entry: e.entry}}, &stub.Boot{}, nil)
	return path, nil
}

// An inspection is the output of inspect --json, version 1.
type inspection struct {
	Version      int            `json:"version"`
	Path         string         `json:"path"`
	Size         int64          `json:"size"`
	Arch         string         `json:"arch"`
	Kind         string         `json:"kind"` // systemd-stub, systemd-addon, systemd-boot, or unknown
	Stub         string         `json:"stub,omitempty"`
	Signed       bool           `json:"signed"` // has a certificate table; nothing is verified
	SHA256       measure.Digest `json:"sha256,omitempty"`
	Authenticode measure.Digest `json:"authenticode_sha256,omitempty"`
	// Trust, Kernel and SBAT are there with --digests.
	Trust  *trustJSON `json:"trust,omitempty"`
	Kernel *trustJSON `json:"kernel,omitempty"` // of the kernel in a UKI: what Linux will make of it
	SBAT   []string   `json:"sbat,omitempty"`   // component,generation
	// PCRSignatures are the entries of .pcrsig in words.
	PCRSignatures []string      `json:"pcr_signatures,omitempty"`
	Profiles      []profileJSON `json:"profiles"`
	Sections      []sectionJSON `json:"sections"`
}

type profileJSON struct {
	Profile int    `json:"profile"`
	ID      string `json:"id"`
	Title   string `json:"title"`
}

type sectionJSON struct {
	Name    string         `json:"name"`
	Profile *int           `json:"profile,omitempty"` // absent for the base
	Size    int64          `json:"size"`              // as measured: VirtualSize
	Offset  uint32         `json:"offset"`            // in the file
	SHA256  measure.Digest `json:"sha256,omitempty"`
	Text    string         `json:"text,omitempty"` // of sections that hold text
}

// textSections hold text that says what an image is.
var textSections = []string{".osrel", ".cmdline", ".uname", ".sbat", ".profile"}

func inspect(sys *system, path string, digests bool) (_ *inspection, err error) {
	var m image
	defer m.close()
	content, err := m.file(path)
	if err != nil {
		return nil, err
	}
	u, err := uki.Open(content, content.Size())
	if err != nil {
		return nil, inFile(path, err)
	}
	r := &inspection{
		Version: 1, Path: path, Size: u.Size(), Arch: u.Machine.String(), Kind: "unknown", Signed: u.Signed(),
		Profiles: []profileJSON{},
	}
	if s, err := u.Stub(); err == nil {
		r.Kind, r.Stub = string(s.Kind), s.Version
	}
	base, profiles, err := u.Profiles()
	if err != nil {
		return nil, inFile(path, err)
	}
	if err := r.addSections(base, nil, digests); err != nil {
		return nil, inFile(path, err)
	}
	for i, p := range profiles {
		r.Profiles = append(r.Profiles, profileJSON{i, p.ID, p.Title})
		if err := r.addSections(p.Sections, &i, digests); err != nil {
			return nil, inFile(path, err)
		}
	}
	if digests {
		if err = r.addDigests(u, content); err == nil {
			err = r.addTrust(sys, u)
		}
	}
	if err == nil {
		err = r.addPCRSignatures(u, base, profiles, digests)
	}
	return r, inFile(path, err)
}

func (r *inspection) addSections(sections []*uki.Section, profile *int, digests bool) error {
	for _, s := range sections {
		j := sectionJSON{Name: s.Name, Profile: profile, Size: s.Size(), Offset: s.RawOffset}
		if slices.Contains(textSections, s.Name) {
			text, err := s.Text()
			if err != nil {
				return err
			}
			j.Text = strings.ToValidUTF8(text, "\uFFFD")
		}
		if digests {
			d, err := measure.Sum(s, measure.SHA256)
			if err != nil {
				return err
			}
			j.SHA256 = d[measure.SHA256]
		}
		r.Sections = append(r.Sections, j)
	}
	return nil
}

func (r *inspection) addDigests(u *uki.File, content measure.Content) error {
	d, err := measure.Sum(content, measure.SHA256)
	if err != nil {
		return err
	}
	r.SHA256 = d[measure.SHA256]
	h := measure.SHA256.New()
	if u.Authenticode(h) == nil { // else there is none, and addTrust says why
		r.Authenticode = h.Sum(nil)
	}
	return nil
}

func (r *inspection) print(w io.Writer) error {
	signed := "not signed"
	if r.Signed {
		signed = "signed"
		if r.Trust == nil {
			signed += " (the signature is looked at with --digests)"
		}
	}
	fmt.Fprintf(w, "image  %s, %d bytes, %s, %s\n", clean(r.Path), r.Size, r.Arch, signed)
	fmt.Fprintf(w, "stub   %s\n", clean(strings.TrimSpace(r.Kind+" "+r.Stub)))
	if r.SHA256 != nil {
		fmt.Fprintf(w, "sha256 %s\n", r.SHA256)
	}
	if r.Authenticode != nil {
		fmt.Fprintf(w, "authenticode sha256 %s\n", r.Authenticode)
	}
	if r.Trust != nil {
		r.printTrust(w)
	}
	for _, s := range r.PCRSignatures {
		fmt.Fprintf(w, "pcrsig %s\n", clean(s))
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprint(t, "\nSECTION\tPROFILE\tSIZE\tHOLDS\n")
	for _, s := range r.Sections {
		profile := "-"
		if s.Profile != nil {
			profile = fmt.Sprint(*s.Profile)
		}
		holds := s.SHA256.String()
		if s.Text != "" {
			holds = strings.TrimSpace(holds + " " + firstLine(s))
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%s\n", quoteUnprintable(s.Name), profile, s.Size, holds)
	}
	return t.Flush()
}

// firstLine returns the line of a text section that says most, quoted where it
// holds anything that a terminal could take for a command.
func firstLine(s sectionJSON) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s.Text), "\n")
	want := map[string]string{".osrel": "PRETTY_NAME=", ".profile": "TITLE=", ".sbat": "systemd"}[s.Name]
	if want != "" {
		for l := range strings.Lines(s.Text) {
			if strings.HasPrefix(l, want) {
				line = strings.TrimSpace(l)
				break
			}
		}
	}
	const most = 100
	if r := []rune(line); len(r) > most {
		line = string(r[:most]) + "…"
	}
	return quoteUnprintable(line)
}

// clean returns s with what a terminal could take for a command, and what is not
// UTF-8, escaped.
func clean(s string) string {
	var b strings.Builder
	for _, r := range s {
		if r < ' ' || r == 0x7F || r >= 0x80 && r < 0xA0 || r == utf8.RuneError {
			b.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}

// quoteUnprintable returns s, in quotes and escaped if it holds control characters.
func quoteUnprintable(s string) string {
	if q := fmt.Sprintf("%q", s); q != `"`+s+`"` && strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7F || r >= 0x80 && r < 0xA0 }) {
		return q
	}
	return s
}
