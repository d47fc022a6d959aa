package luks2

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"unicode/utf8"
)

// An object is a JSON object whose values are not looked at yet. Unlike for
// encoding/json, its keys are case-sensitive and there once.
type object map[string]json.RawMessage

// parseObject parses data, which is one object and nothing more.
func parseObject(data []byte) (object, error) {
	if !utf8.Valid(data) {
		return nil, errors.New("not UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	if t, err := dec.Token(); err != nil {
		return nil, jsonError(err)
	} else if t != json.Delim('{') {
		return nil, errors.New("not an object")
	}
	o := object{}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return nil, jsonError(err)
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, jsonError(err)
		}
		name := key.(string) // an object's keys are strings
		if _, ok := o[name]; ok {
			return nil, fmt.Errorf("%.40q twice", name)
		}
		o[name] = value
	}
	if _, err := dec.Token(); err != nil {
		return nil, jsonError(err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something behind the object")
	}
	return o, nil
}

func jsonError(err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("not JSON: %.200s", err.Error())
}

// keys returns the names, ascending.
func (o object) keys() []string { return slices.Sorted(maps.Keys(o)) }

// get decodes the value of a key into v. A null, and a value of another type,
// is an error.
func (o object) get(name string, v any) error {
	value, ok := o[name]
	if !ok {
		return fmt.Errorf("no %s", name)
	}
	// encoding/json takes null for anything
	if err := json.Unmarshal(value, v); err != nil || string(value) == "null" {
		return fmt.Errorf("%s: %s is not expected here", name, kind(value))
	}
	return nil
}

// object returns the object that a key has.
func (o object) object(name string) (object, error) {
	value, ok := o[name]
	if !ok {
		return nil, fmt.Errorf("no %s", name)
	}
	child, err := parseObject(value)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return child, nil
}

// kind describes a JSON value for messages.
func kind(value json.RawMessage) string {
	switch value[0] { // a RawMessage has no white space before it
	case '{':
		return "an object"
	case '[':
		return "such a list"
	case '"':
		return "a text"
	case 't', 'f', 'n':
		return string(value)
	}
	return fmt.Sprintf("the number %.20s", value)
}
