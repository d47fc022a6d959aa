package policy

import (
	"encoding/json"

	"github.com/mkexec/mkexec/measure"
)

// MarshalYAML returns the policy in full: names that were left out are there, and
// values are in lists. What has its default is left out. [Parse] reads the same
// policy from it.
func (f *File) MarshalYAML() (any, error) { return f.document(), nil }

// MarshalJSON returns the same as MarshalYAML does as JSON, which Parse reads too.
func (f *File) MarshalJSON() ([]byte, error) { return json.Marshal(f.document()) }

// A document is a policy file as it is written.
type document struct {
	Version int                   `json:"version" yaml:"version"`
	Require []requirementDocument `json:"require,omitempty" yaml:"require,omitempty"`
	Image   *imageDocument        `json:"image,omitempty" yaml:"image,omitempty"`
}

type requirementDocument struct {
	Name      string        `json:"name" yaml:"name"`
	At        measure.Phase `json:"at" yaml:"at"`
	Optional  bool          `json:"optional,omitempty" yaml:"optional,omitempty"`
	PCRs      Accept        `json:"pcrs,omitempty" yaml:"pcrs,omitempty"`
	LUKS      string        `json:"luks,omitempty" yaml:"luks,omitempty"`
	Signature string        `json:"pcrsig,omitempty" yaml:"pcrsig,omitempty"`
	PublicKey string        `json:"public-key,omitempty" yaml:"public-key,omitempty"`
	PCRLock   string        `json:"pcrlock,omitempty" yaml:"pcrlock,omitempty"`
	Key       string        `json:"key,omitempty" yaml:"key,omitempty"`
}

type imageDocument struct {
	Trust        Trust       `json:"trust,omitempty" yaml:"trust,omitempty"`
	SBAT         Trust       `json:"sbat,omitempty" yaml:"sbat,omitempty"`
	Certificates []string    `json:"certificates,omitempty" yaml:"certificates,omitempty"`
	Cmdline      any         `json:"cmdline,omitempty" yaml:"cmdline,omitempty"` // a word or a list
	Allow        []ImageRule `json:"allow,omitempty" yaml:"allow,omitempty"`
}

func (f *File) document() *document {
	d := &document{Version: 1}
	for _, r := range f.Require {
		d.Require = append(d.Require, r.document())
	}
	i := &imageDocument{Trust: f.Image.Trust, SBAT: f.Image.SBAT, Certificates: f.Image.Certificates, Allow: f.Image.Allow}
	switch {
	case f.Image.EmbeddedCmdline:
		i.Cmdline = embedded
	case f.Image.Cmdlines != nil:
		i.Cmdline = f.Image.Cmdlines
	}
	if i.Trust != "" || i.SBAT != "" || i.Certificates != nil || i.Cmdline != nil || i.Allow != nil {
		d.Image = i
	}
	return d
}

func (r *Requirement) document() requirementDocument {
	d := requirementDocument{Name: r.Name, At: r.At, Optional: r.Optional}
	if r.Source == nil {
		d.PCRs, _ = r.Policy.(Accept)
		return d
	}
	d.PublicKey = r.Source.PublicKey
	switch r.Source.Kind {
	case SourceLUKS:
		d.LUKS = r.Source.Path
	case SourceSignature:
		d.Signature = r.Source.Path
	case SourcePCRLock:
		d.PCRLock = r.Source.Path
	case SourceKey:
		d.Key = r.Source.Path
	}
	return d
}
