package policy

import (
	"fmt"
	"slices"
	"strconv"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

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

// list returns the entries of a list, of which there must be one.
func list(n *yaml.Node, what string) ([]*yaml.Node, error) {
	if n.Kind != yaml.SequenceNode || len(n.Content) == 0 {
		return nil, lineError(n, "%s: not a list with at least one entry", what)
	}
	return n.Content, nil
}

// isText tells whether there is a plain value, be it an empty text in quotes.
func isText(n *yaml.Node) bool {
	return n != nil && n.Kind == yaml.ScalarNode && n.ShortTag() != "!!null"
}

// text returns a text of 1 to most characters, none of which a terminal obeys.
func text(n *yaml.Node, what string, most int) (string, error) {
	if !isText(n) || n.Value == "" || utf8.RuneCountInString(n.Value) > most || !isPrintable(n.Value) {
		return "", lineError(n, "%s: not a text of 1 to %d printable characters", what, most)
	}
	return n.Value, nil
}

func isPrintable(s string) bool {
	for _, r := range s {
		if !strconv.IsPrint(r) {
			return false
		}
	}
	return true
}

// boolean returns whether a key is yes; no is the default.
func boolean(n *yaml.Node, what string) (bool, error) {
	if n == nil {
		return false, nil
	}
	switch n.Value {
	case "yes", "true":
		return true, nil
	case "no", "false":
		return false, nil
	}
	return false, lineError(n, "%s: %.20q: neither yes nor no", what, n.Value)
}

func lineError(n *yaml.Node, format string, args ...any) error {
	return fmt.Errorf("line %d: %w", n.Line, fmt.Errorf(format, args...))
}
