package strictjson

// What encoding/json takes and this does not. The files that are read with it
// have tests of their own.

import (
	"errors"
	"fmt"
	"testing"

	"github.com/mkexec/mkexec/policy"
)

func TestRefused(t *testing.T) {
	t.Parallel()
	object := func(s string) error { _, err := Object([]byte(s), "a", "b"); return err }
	elements := func(s string) error { _, err := Elements([]byte(s)); return err }
	text := func(s string) error { _, err := Text([]byte(s)); return err }
	valid := func(s string) error { return Validate([]byte(s)) }
	for _, test := range []struct {
		take func(string) error
		json string
		want string // "" for no error
	}{
		{valid, `{"a": [1]} `, ""},
		{valid, "\"\xff\"", "not UTF-8"},
		{valid, "{} {}", "offset 4: invalid character '{' after top-level value"},
		{valid, "", "offset 0: unexpected end of JSON input"},
		{object, `{"a": 1, "b": null}`, ""},
		{object, `{"A": 1}`, `unknown key "A" (known: a b): cannot tell`},
		{object, `{"a": 1, "a": 1}`, `key "a" twice`},
		{object, `{"a": 1, "\u0061": 1}`, `key "a" twice`},
		{object, "[]", "not an object"},
		{object, "null", "not an object"},
		{elements, "[1, {}]", ""},
		{elements, "[]", ""},
		{elements, "null", "not an array"},
		{elements, "{}", "not an array"},
		{text, `"ä"`, ""},
		{text, "null", "not a string"},
		{text, "1", "not a string"},
		{text, `"a\u0000"`, `not a plain text: "a\x00"`},
		{text, `"\ud800"`, "not a plain text: \"\uFFFD\""},
	} {
		err := test.take(test.json)
		if got := fmt.Sprint(err); test.want == "" && err != nil || test.want != "" && got != test.want {
			t.Errorf("%s: %v, want %q", test.json, err, test.want)
		}
	}
	if err := object(`{"c": 1}`); !errors.Is(err, policy.ErrCannotTell) {
		t.Error(err)
	}
}

// FuzzObject: what is taken has known names, each with a value that is JSON.
func FuzzObject(f *testing.F) {
	f.Add([]byte(`{"a": 1, "b": [null]}`))
	f.Add([]byte(`{"a": {"a": 1}} `))
	f.Fuzz(func(t *testing.T, data []byte) {
		if Validate(data) != nil {
			return
		}
		o, err := Object(data, "a", "b")
		if err != nil {
			return
		}
		for name, value := range o {
			if name != "a" && name != "b" || Validate(value) != nil {
				t.Fatalf("%q: %q", name, value)
			}
		}
	})
}
