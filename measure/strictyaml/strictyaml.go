// Package strictyaml reads the YAML files of mkexec so that a mistake is an error
// with its line: one document, no aliases, and no key that is unknown or twice.
package strictyaml

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"

	"go.yaml.in/yaml/v3"
)

// Parse returns the only document of a file, which has at most limit bytes.
func Parse(data []byte, limit int) (*yaml.Node, error) {
	if len(data) > limit {
		return nil, fmt.Errorf("more than %d bytes", limit)
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, errors.New("empty")
	} else if err != nil {
		return nil, fmt.Errorf("%.200s", err) // an anchor's name in it may be long
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one document")
	}
	return doc.Content[0], nil
}

// Version checks the key version of a file, of which there is only 1 yet.
func Version(file *yaml.Node, keys map[string]*yaml.Node) error {
	if v := keys["version"]; v == nil {
		return Error(file, "no version (this is version 1)")
	} else if v.Value != "1" {
		return Error(v, "version %.20q: unknown (known: 1)", v.Value)
	}
	return nil
}

// Mapping returns the values of a mapping by key. Only the named keys are
// known; if none is named, every key is, but there must be one.
func Mapping(n *yaml.Node, what string, known ...string) (map[string]*yaml.Node, error) {
	if n.Kind != yaml.MappingNode || len(n.Content) == 0 {
		return nil, Error(n, "%.40s: not a mapping with at least one key", what)
	}
	values := map[string]*yaml.Node{}
	for i := 0; i < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Kind != yaml.ScalarNode {
			return nil, Error(key, "%.40s: a key that is not a plain word", what)
		}
		if known != nil && !slices.Contains(known, key.Value) {
			return nil, Error(key, "%.40s: unknown key %.40q (known: %v)", what, key.Value, known)
		}
		if values[key.Value] != nil {
			return nil, Error(key, "%.40s: key %.40q twice", what, key.Value)
		}
		if value.Kind == yaml.AliasNode {
			return nil, Error(value, "%.40q: aliases are not supported", key.Value)
		}
		values[key.Value] = value
	}
	return values, nil
}

// Error returns an error with the line of a node.
func Error(n *yaml.Node, format string, args ...any) error {
	return fmt.Errorf("line %d: %w", n.Line, fmt.Errorf(format, args...))
}
