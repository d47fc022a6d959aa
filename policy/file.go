package policy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/strictyaml"
	"go.yaml.in/yaml/v3"
)

// MaxFileSize is the size in bytes above which a policy file is refused.
const MaxFileSize = 1 << 20

// The most characters of a name, and of a path or command line.
const (
	maxName = 80
	maxPath = 4095 // Linux, PATH_MAX without the NUL
)

// A File is a policy file.
type File struct {
	// Require are the conditions on PCRs, and the secrets that have to stay
	// within reach.
	Require Requirements
	// Image says which images may be started.
	Image ImageRules
}

// Parse parses a policy file, which mkexec-policy.yaml(5) describes:
//
//	version: 1
//	require:
//	  - name: root disk
//	    at: enter-initrd
//	    pcrs:
//	      sha256:
//	        11: [3b1f…, 9ac2…]
//	        12: 0000…
//	  - at: enter-initrd
//	    luks: /dev/vda3
//	image:
//	  trust: required
//
// The file is taken strictly: an unknown key, bank, phase word or PCR, a value
// of the wrong size, and a file that requires nothing are errors, with the line.
func Parse(data []byte) (*File, error) {
	n, err := strictyaml.Parse(data, MaxFileSize)
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	f, err := parseFile(n)
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	return f, nil
}

func parseFile(n *yaml.Node) (*File, error) {
	keys, err := strictyaml.Mapping(n, "the policy", "version", "require", "image")
	if err != nil {
		return nil, err
	}
	if err := strictyaml.Version(n, keys); err != nil {
		return nil, err
	}
	f := &File{}
	if keys["require"] != nil {
		entries, err := list(keys["require"], "require")
		if err != nil {
			return nil, err
		}
		for i, e := range entries {
			r, err := parseRequirement(e, i+1)
			if err != nil {
				return nil, err
			}
			f.Require = append(f.Require, r)
		}
	}
	if keys["image"] != nil {
		if f.Image, err = parseImage(keys["image"]); err != nil {
			return nil, err
		}
	}
	if !f.Require.required() && (keys["image"] == nil || f.Image.accepts()) {
		return nil, strictyaml.Error(n, "nothing is required: it would accept anything")
	}
	return f, nil
}

// sourceKeys are the keys of a requirement that say what its policy is. It has
// exactly one of them. All but pcrs are a SourceKind.
var sourceKeys = []string{"pcrs", string(SourceLUKS), string(SourceSignature), string(SourcePCRLock), string(SourceKey)}

func parseRequirement(n *yaml.Node, number int) (r Requirement, err error) {
	keys, err := strictyaml.Mapping(n, "a requirement", append([]string{"name", "at", "optional", "public-key"}, sourceKeys...)...)
	if err != nil {
		return r, err
	}
	at := keys["at"]
	if !isText(at) {
		return r, strictyaml.Error(n, "requirement %d: no at: the phase at which it has to hold, such as enter-initrd", number)
	}
	if r.At, err = measure.ParsePhase(at.Value); err != nil {
		return r, strictyaml.Error(at, "at: %w", err)
	}
	if r.Optional, err = boolean(keys["optional"], "optional"); err != nil {
		return r, err
	}
	if err := r.parseSource(n, keys, number); err != nil {
		return r, err
	}
	if keys["name"] != nil {
		r.Name, err = text(keys["name"], "name", maxName)
		return r, err
	}
	if r.Source != nil {
		r.Name = fmt.Sprintf("%s %s", r.Source.Kind, r.Source.Path)
	}
	if r.Source == nil || len(r.Name) > maxName {
		r.Name = fmt.Sprintf("requirement %d", number)
	}
	return r, nil
}

// parseSource parses what the policy of a requirement is, or where.
func (r *Requirement) parseSource(n *yaml.Node, keys map[string]*yaml.Node, number int) (err error) {
	source := ""
	for i := 0; i < len(n.Content); i += 2 { // in the order of the file, for the line
		key := n.Content[i]
		switch {
		case !slices.Contains(sourceKeys, key.Value):
		case source != "":
			return strictyaml.Error(key, "requirement %d: %s beside %s: one requirement has one of %v", number, key.Value, source, sourceKeys)
		default:
			source = key.Value
		}
	}
	switch source {
	case "":
		return strictyaml.Error(n, "requirement %d: none of %v: it would accept anything", number, sourceKeys)
	case "pcrs":
		r.Policy, err = parsePCRs(keys[source])
	default:
		r.Source = &Source{Kind: SourceKind(source)}
		r.Source.Path, err = parsePath(keys[source], source)
	}
	if err != nil {
		return err
	}
	if key := keys["public-key"]; key != nil {
		if source != string(SourceSignature) {
			return strictyaml.Error(key, "public-key: goes with %s, not with %s", SourceSignature, source)
		}
		r.Source.PublicKey, err = parsePath(key, "public-key")
	}
	return err
}

// parsePath parses the path of a file; of a signature also the word image.
func parsePath(n *yaml.Node, what string) (string, error) {
	path, err := text(n, what, maxPath)
	if err != nil {
		return "", err
	}
	if path[0] != '/' && !(what == string(SourceSignature) && path == InImage) {
		return "", strictyaml.Error(n, "%s: %.80q: not an absolute path", what, path)
	}
	return path, nil
}

func parsePCRs(n *yaml.Node) (Accept, error) {
	if _, err := strictyaml.Mapping(n, "pcrs"); err != nil {
		return nil, err
	}
	accept := Accept{}
	for i := 0; i < len(n.Content); i += 2 { // in the order of the file, for the line
		name, values := n.Content[i], n.Content[i+1]
		bank, err := measure.ParseBank(name.Value)
		if err != nil {
			return nil, strictyaml.Error(name, "%w", err)
		}
		if _, err := strictyaml.Mapping(values, name.Value); err != nil {
			return nil, err
		}
		accept[bank] = map[measure.PCR][]measure.Digest{}
		for i := 0; i < len(values.Content); i += 2 {
			number := values.Content[i]
			pcr, err := parsePCR(number.Value)
			if err != nil {
				return nil, strictyaml.Error(number, "%w", err)
			}
			if accept[bank][pcr], err = parseDigests(values.Content[i+1], bank); err != nil {
				return nil, err
			}
		}
	}
	return accept, nil
}

// parsePCR accepts the PCRs that a prediction can hold, and no others.
func parsePCR(s string) (measure.PCR, error) {
	n, err := strconv.Atoi(s)
	if err != nil || strconv.Itoa(n) != s || !slices.Contains(measure.PredictablePCRs(), measure.PCR(n)) {
		return 0, fmt.Errorf("PCR %.20q: not one that is predicted (predicted: %s)", s, strings.Trim(fmt.Sprint(measure.PredictablePCRs()), "[]"))
	}
	return measure.PCR(n), nil
}

// parseDigests parses a digest or a list of them.
func parseDigests(n *yaml.Node, bank measure.Bank) ([]measure.Digest, error) {
	nodes := []*yaml.Node{n}
	if n.Kind == yaml.SequenceNode {
		nodes = n.Content
	}
	if len(nodes) == 0 {
		return nil, strictyaml.Error(n, "no value: nothing would be accepted")
	}
	var digests []measure.Digest
	for _, v := range nodes {
		if v.Kind != yaml.ScalarNode {
			return nil, strictyaml.Error(v, "not a digest")
		}
		d, err := measure.ParseDigest(bank, v.Value)
		if err != nil {
			return nil, strictyaml.Error(v, "%w", err)
		}
		digests = append(digests, d)
	}
	return digests, nil
}
