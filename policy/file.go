package policy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"

	"github.com/mkexec/mkexec/measure"
	"go.yaml.in/yaml/v3"
)

// MaxFileSize is the size in bytes above which a policy file is refused.
const MaxFileSize = 1 << 20

// Parse parses a policy file (mkexec-policy.yaml(5) describes it):
//
//	version: 1
//	require:
//	  - name: root disk
//	    at: enter-initrd
//	    pcrs:
//	      sha256:
//	        11: [3b1f…, 9ac2…]
//	        12: 0000…
//
// The file is taken strictly: an unknown key, bank, phase word or PCR, a value
// of the wrong size, and a file that requires nothing are errors, with the line.
func Parse(data []byte) (Requirements, error) {
	if len(data) > MaxFileSize {
		return nil, fmt.Errorf("policy: more than %d bytes", MaxFileSize)
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("policy: empty")
	} else if err != nil {
		return nil, fmt.Errorf("policy: %.200s", err) // an anchor's name in it may be long
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("policy: more than one document")
	}
	rs, err := parseFile(doc.Content[0])
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	return rs, nil
}

func parseFile(n *yaml.Node) (Requirements, error) {
	keys, err := mapping(n, "the policy", "version", "require")
	if err != nil {
		return nil, err
	}
	if v := keys["version"]; v == nil {
		return nil, lineError(n, "no version (this is version 1)")
	} else if v.Value != "1" {
		return nil, lineError(v, "version %.20q: unknown (known: 1)", v.Value)
	}
	list := keys["require"]
	if list == nil {
		return nil, lineError(n, "no require: it would accept anything")
	}
	if list.Kind != yaml.SequenceNode || len(list.Content) == 0 {
		return nil, lineError(list, "require: not a list with at least one entry")
	}
	var rs Requirements
	for i, e := range list.Content {
		r, err := parseRequirement(e, i+1)
		if err != nil {
			return nil, err
		}
		rs = append(rs, r)
	}
	return rs, nil
}

func parseRequirement(n *yaml.Node, number int) (r Requirement, err error) {
	keys, err := mapping(n, "a requirement", "name", "at", "pcrs")
	if err != nil {
		return r, err
	}
	r.Name = fmt.Sprintf("requirement %d", number)
	if name := keys["name"]; name != nil {
		if name.Kind != yaml.ScalarNode || name.Value == "" || len(name.Value) > 80 || !isPrintable(name.Value) {
			return r, lineError(name, "name: not a text of 1 to 80 printable characters")
		}
		r.Name = name.Value
	}
	at := keys["at"]
	if at == nil || at.Kind != yaml.ScalarNode || at.ShortTag() == "!!null" {
		return r, lineError(n, "%s: no at: the phase at which it has to hold, such as enter-initrd", r.Name)
	}
	if r.At, err = measure.ParsePhase(at.Value); err != nil {
		return r, lineError(at, "at: %w", err)
	}
	if keys["pcrs"] == nil {
		return r, lineError(n, "%s: no pcrs: it would accept anything", r.Name)
	}
	r.Policy, err = parsePCRs(keys["pcrs"])
	return r, err
}

func parsePCRs(n *yaml.Node) (Accept, error) {
	if _, err := mapping(n, "pcrs"); err != nil {
		return nil, err
	}
	accept := Accept{}
	for i := 0; i < len(n.Content); i += 2 { // in the order of the file, for the error
		name, values := n.Content[i], n.Content[i+1]
		bank, err := measure.ParseBank(name.Value)
		if err != nil {
			return nil, lineError(name, "%w", err)
		}
		if _, err := mapping(values, name.Value); err != nil {
			return nil, err
		}
		accept[bank] = map[measure.PCR][]measure.Digest{}
		for i := 0; i < len(values.Content); i += 2 {
			number := values.Content[i]
			pcr, err := parsePCR(number.Value)
			if err != nil {
				return nil, lineError(number, "%w", err)
			}
			if accept[bank][pcr], err = parseDigests(values.Content[i+1], bank); err != nil {
				return nil, err
			}
		}
	}
	return accept, nil
}

// parsePCR accepts the PCRs that a prediction holds, and no others.
func parsePCR(s string) (measure.PCR, error) {
	n, err := strconv.Atoi(s)
	if err != nil || strconv.Itoa(n) != s || !slices.Contains(measure.StubPCRs(), measure.PCR(n)) {
		return 0, fmt.Errorf("PCR %.20q: not one that is predicted (predicted: 11 12 13)", s)
	}
	return measure.PCR(n), nil
}

func parseDigests(n *yaml.Node, bank measure.Bank) ([]measure.Digest, error) {
	nodes := []*yaml.Node{n}
	if n.Kind == yaml.SequenceNode {
		nodes = n.Content
	}
	if len(nodes) == 0 {
		return nil, lineError(n, "no value: nothing would be accepted")
	}
	var digests []measure.Digest
	for _, v := range nodes {
		if v.Kind != yaml.ScalarNode {
			return nil, lineError(v, "not a digest")
		}
		d, err := measure.ParseDigest(bank, v.Value)
		if err != nil {
			return nil, lineError(v, "%w", err)
		}
		digests = append(digests, d)
	}
	return digests, nil
}

// mapping returns the values of a mapping by key. Only the named keys are
// known; if none is named, every key is, but there must be one.
func mapping(n *yaml.Node, what string, known ...string) (map[string]*yaml.Node, error) {
	if n.Kind != yaml.MappingNode || len(n.Content) == 0 {
		return nil, lineError(n, "%.40s: not a mapping with at least one key", what)
	}
	values := map[string]*yaml.Node{}
	for i := 0; i < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Kind != yaml.ScalarNode {
			return nil, lineError(key, "%.40s: a key that is not a plain word", what)
		}
		if known != nil && !slices.Contains(known, key.Value) {
			return nil, lineError(key, "%.40s: unknown key %.40q (known: %v)", what, key.Value, known)
		}
		if values[key.Value] != nil {
			return nil, lineError(key, "%.40s: key %.40q twice", what, key.Value)
		}
		if value.Kind == yaml.AliasNode {
			return nil, lineError(value, "%.40q: aliases are not supported", key.Value)
		}
		values[key.Value] = value
	}
	return values, nil
}

func isPrintable(s string) bool {
	for _, r := range s {
		if !strconv.IsPrint(r) {
			return false
		}
	}
	return true
}

func lineError(n *yaml.Node, format string, args ...any) error {
	return fmt.Errorf("line %d: %w", n.Line, fmt.Errorf(format, args...))
}
