package policy

import (
	"strconv"
	"unicode/utf8"

	"github.com/mkexec/mkexec/measure/strictyaml"
	"go.yaml.in/yaml/v3"
)

// list returns the entries of a list, of which there must be one.
func list(n *yaml.Node, what string) ([]*yaml.Node, error) {
	if n.Kind != yaml.SequenceNode || len(n.Content) == 0 {
		return nil, strictyaml.Error(n, "%s: not a list with at least one entry", what)
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
		return "", strictyaml.Error(n, "%s: not a text of 1 to %d printable characters", what, most)
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
	return false, strictyaml.Error(n, "%s: %.20q: neither yes nor no", what, n.Value)
}
