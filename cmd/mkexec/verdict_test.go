package main

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/policy"
	"github.com/mkexec/mkexec/policy/luks2"
)

// What check says of tokens that systemd-cryptenroll made, in TPM states in which
// systemd tried to unlock with them (policy/luks2/testdata). It does not prove
// that a machine's log has the values that a secret was sealed to.

func recordedStates(t *testing.T) (states map[string]measure.PCRs, tokens map[string]*luks2.Token) {
	t.Helper()
	b, err := os.ReadFile("../../policy/luks2/testdata/live/result.json")
	if err != nil {
		t.Fatal(err)
	}
	var r struct {
		States map[string]measure.PCRs
		Tokens map[string]struct{ Token json.RawMessage }
	}
	if err := json.Unmarshal(b, &r); err != nil {
		t.Fatal(err)
	}
	tokens = map[string]*luks2.Token{}
	for name, raw := range r.Tokens {
		parsed, err := luks2.ParseTokens(raw.Token)
		if err != nil {
			t.Fatal(err)
		}
		tokens[name] = parsed[0]
	}
	return r.States, tokens
}

// startIn is a start after which the PCRs are those of a state.
func startIn(t *testing.T, pcrs measure.PCRs) *start {
	t.Helper()
	base := pcrs.Clone()
	for b := range base {
		base.Set(b, 12, make(measure.Digest, b.Size()))
		base.Set(b, 13, make(measure.Digest, b.Size()))
	}
	p, err := measure.Predict(&measure.Image{}, measure.Options{Base: base})
	if err != nil {
		t.Fatal(err)
	}
	return &start{name: startKexec, Prediction: p, userspace: &userspace{}}
}

func TestVerdictNamesThePCR(t *testing.T) {
	t.Parallel()
	states, tokens := recordedStates(t)
	volume := func(names ...string) *secret {
		s := &secret{Requirement: policy.Requirement{Name: "disk", Source: &policy.Source{Kind: policy.SourceLUKS, Path: "/dev/x"}}}
		for _, name := range names {
			s.parts = append(s.parts, way{name: "token " + name, policy: tokens[name].Policy(luks2.Sources{}), token: tokens[name]})
		}
		s.Policy = anyOf(s.parts)
		return s
	}
	accept := policy.Accept{measure.SHA256: {}}
	for _, n := range []measure.PCR{7, 11} {
		for _, state := range []string{"G", "A", "F"} {
			accept[measure.SHA256][n] = append(accept[measure.SHA256][n], states[state][measure.SHA256][n])
		}
	}
	by := &background{cold: func() *start { return startIn(t, states["G"]) }, known: func() policy.Accept { return accept }}
	value := func(state string, n measure.PCR) string { return states[state][measure.SHA256][n].String() }
	for _, test := range []struct {
		name   string
		s      *secret
		state  string
		answer string
		want   []string // lines
	}{
		{"both as enrolled", volume("literal"), "A", "yes", nil},
		{"PCR 11", volume("literal"), "B", "no", []string{
			"PCR 11 (sha256) before the first phase will be " + value("B", 11) + "; disk accepts " + value("A", 11)}},
		{"PCR 7", volume("literal"), "E", "no", []string{
			"PCR 7 (sha256) before the first phase will be " + value("E", 7) + "; disk accepts " + value("A", 7)}},
		{"both", volume("literal"), "F", "no", []string{
			"PCR 7 (sha256) before the first phase will be " + value("F", 7) + "; disk accepts " + value("A", 7),
			"PCR 11 (sha256) before the first phase will be " + value("F", 11) + "; disk accepts " + value("A", 11)}},
		{"two tokens", volume("literal", "literal7"), "F", "no", []string{
			"; disk, token literal, accepts " + value("A", 11), "; disk, token literal7, accepts " + value("A", 7)}},
		{"one of two opens", volume("literal", "literal7"), "B", "yes", nil},
		{"with a PIN", volume("pin7"), "A", "yes", []string{"will unlock, with its PIN\n"}},
		{"without one, too", volume("pin7", "literal7"), "A", "yes", []string{"will unlock\n"}},
		{"not known", volume("sha384"), "B", "no", []string{"will not unlock: PCRs 11 (sha384) as predicted"}},
	} {
		v := test.s.judge(startIn(t, states[test.state]), by)
		if v.answer() != test.answer {
			t.Errorf("%s: %s, want %s", test.name, v.answer(), test.answer)
		}
		var out bytes.Buffer
		if err := (&checkJSON{Sources: []sourceJSON{v.json()}}).print(&out); err != nil {
			t.Fatal(err)
		}
		for _, want := range test.want {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%s: %s does not say %s", test.name, out.String(), want)
			}
		}
		if test.name == "PCR 11" && strings.Contains(out.String(), "PCR 7 ") {
			t.Errorf("%s: %s", test.name, out.String())
		}
	}
}
