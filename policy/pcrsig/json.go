package pcrsig

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/mkexec/mkexec/policy"
)

// A member is one name and value of a JSON object.
type member struct {
	name  string
	value json.RawMessage
}

// validate refuses what is not one JSON value in UTF-8.
func validate(data []byte) error {
	if !utf8.Valid(data) {
		return fmt.Errorf("not UTF-8")
	}
	var v json.RawMessage
	if err := json.Unmarshal(data, &v); err != nil {
		if e, ok := err.(*json.SyntaxError); ok {
			return fmt.Errorf("offset %d: %.200s", e.Offset, e)
		}
		return err
	}
	return nil
}

// members returns the members of an object in the order of the text. A name
// that stands twice is refused: parsers differ in which of them counts.
func members(value json.RawMessage) ([]member, error) {
	dec := json.NewDecoder(bytes.NewReader(value))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, fmt.Errorf("not an object")
	}
	var ms []member
	seen := map[string]bool{}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return nil, err
		}
		m := member{name: t.(string)}
		if err := dec.Decode(&m.value); err != nil {
			return nil, err
		}
		if seen[m.name] {
			return nil, fmt.Errorf("key %.40q twice", m.name)
		}
		seen[m.name] = true
		ms = append(ms, m)
	}
	return ms, nil
}

// object returns the members of an object by name. Unlike encoding/json it
// takes names as they are, in their case, and none but the known ones.
func object(value json.RawMessage, known ...string) (map[string]json.RawMessage, error) {
	ms, err := members(value)
	if err != nil {
		return nil, err
	}
	o := map[string]json.RawMessage{}
	for _, m := range ms {
		if !slices.Contains(known, m.name) {
			return nil, fmt.Errorf("unknown key %.40q (known: %s): %w", m.name, strings.Join(known, " "), policy.ErrCannotTell)
		}
		o[m.name] = m.value
	}
	return o, nil
}

// elements returns the elements of an array.
func elements(value json.RawMessage) ([]json.RawMessage, error) {
	var a []json.RawMessage
	if err := json.Unmarshal(value, &a); err != nil || a == nil {
		return nil, fmt.Errorf("not an array")
	}
	return a, nil
}

// text returns a string that has no NUL in it and no half of a surrogate pair.
func text(value json.RawMessage) (string, error) {
	var s *string
	if err := json.Unmarshal(value, &s); err != nil || s == nil {
		return "", fmt.Errorf("not a string")
	}
	if strings.ContainsAny(*s, "\x00\uFFFD") {
		return "", fmt.Errorf("not a plain text: %.40q", *s)
	}
	return *s, nil
}
