// Package strictjson takes JSON apart without what encoding/json lets pass: names
// in another case, names that stand twice, unknown names, null for anything, and
// text that is not plain.
package strictjson

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/mkexec/mkexec/policy"
)

// A Member is one name and value of a JSON object.
type Member struct {
	Name  string
	Value json.RawMessage
}

// Validate refuses what is not one JSON value in UTF-8.
func Validate(data []byte) error {
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

// Members returns the members of an object in the order of the text. A name
// that stands twice is refused: parsers differ in which of them counts.
func Members(value json.RawMessage) ([]Member, error) {
	dec := json.NewDecoder(bytes.NewReader(value))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, fmt.Errorf("not an object")
	}
	var ms []Member
	seen := map[string]bool{}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return nil, err
		}
		m := Member{Name: t.(string)}
		if err := dec.Decode(&m.Value); err != nil {
			return nil, err
		}
		if seen[m.Name] {
			return nil, fmt.Errorf("key %.40q twice", m.Name)
		}
		seen[m.Name] = true
		ms = append(ms, m)
	}
	return ms, nil
}

// Object returns the members of an object by name. Unlike encoding/json it
// takes names as they are, in their case, and none but the known ones: another one is an error that wraps [policy.ErrCannotTell].
func Object(value json.RawMessage, known ...string) (map[string]json.RawMessage, error) {
	ms, err := Members(value)
	if err != nil {
		return nil, err
	}
	o := map[string]json.RawMessage{}
	for _, m := range ms {
		if !slices.Contains(known, m.Name) {
			return nil, fmt.Errorf("unknown key %.40q (known: %s): %w", m.Name, strings.Join(known, " "), policy.ErrCannotTell)
		}
		o[m.Name] = m.Value
	}
	return o, nil
}

// Elements returns the elements of an array.
func Elements(value json.RawMessage) ([]json.RawMessage, error) {
	var a []json.RawMessage
	if err := json.Unmarshal(value, &a); err != nil || a == nil {
		return nil, fmt.Errorf("not an array")
	}
	return a, nil
}

// Text returns a string that has no NUL in it and no half of a surrogate pair.
func Text(value json.RawMessage) (string, error) {
	var s *string
	if err := json.Unmarshal(value, &s); err != nil || s == nil {
		return "", fmt.Errorf("not a string")
	}
	if strings.ContainsAny(*s, "\x00\uFFFD") {
		return "", fmt.Errorf("not a plain text: %.40q", *s)
	}
	return *s, nil
}
