package eventlog

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// checkJSON refuses what is not one JSON value in UTF-8, and objects with a key
// twice, however deep: readers differ in which of them counts.
func checkJSON(text []byte) error {
	if !utf8.Valid(text) {
		return errors.New("not UTF-8")
	}
	if !json.Valid(text) {
		var v any
		err := json.Unmarshal(text, &v)
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			return fmt.Errorf("not JSON: %.100s, byte %d of it", syntax, syntax.Offset)
		}
		return errors.New("not JSON")
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	var open []map[string]bool // the keys of each object that is open, nil for an array
	isKey := false
	for {
		t, err := dec.Token()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		switch v := t.(type) {
		case json.Delim:
			switch v {
			case '{':
				open = append(open, map[string]bool{})
			case '[':
				open = append(open, nil)
			default:
				open = open[:len(open)-1]
			}
			isKey = v == '{'
			if v == '}' || v == ']' {
				isKey = len(open) > 0 && open[len(open)-1] != nil
			}
			continue
		case string:
			if isKey {
				keys := open[len(open)-1]
				if keys[v] {
					return fmt.Errorf("key %.40q twice", v)
				}
				keys[v] = true
				isKey = false
				continue
			}
		}
		isKey = len(open) > 0 && open[len(open)-1] != nil
	}
}
