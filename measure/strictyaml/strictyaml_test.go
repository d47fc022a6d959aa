package strictyaml

// The mistakes that the files of mkexec have in common. Those of one file are
// tested with that file; the library's own messages are not.

import (
	"fmt"
	"testing"
)

func TestMistakes(t *testing.T) {
	t.Parallel()
	parse := func(text string) error {
		n, err := Parse([]byte(text), 40)
		if err != nil {
			return err
		}
		keys, err := Mapping(n, "the file", "version", "a")
		if err != nil {
			return err
		}
		return Version(n, keys)
	}
	for text, want := range map[string]string{
		"version: 1":                  "<nil>",
		`{"version": 1, "a": null}`:   "<nil>",
		"":                            "empty",
		"# nothing\n":                 "empty",
		"version: 1\n---\nversion: 1": "more than one document",
		"version: 1 # and thirty more characters...": "more than 40 bytes",
		"- version":                "line 1: the file: not a mapping with at least one key",
		"{}":                       "line 1: the file: not a mapping with at least one key",
		"version: 1\nb: 1":         `line 2: the file: unknown key "b" (known: [version a])`,
		"version: 1\n\na: 1\na: 1": `line 4: the file: key "a" twice`,
		"version: 1\n[a]: 1":       "line 2: the file: a key that is not a plain word",
		"version: &x 1\na: *x":     `line 2: "a": aliases are not supported`,
		"a: 1":                     "line 1: no version (this is version 1)",
		"a: 1\nversion: 2":         `line 2: version "2": unknown (known: 1)`,
	} {
		if got := fmt.Sprint(parse(text)); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}
