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

// TestVerdictSeparator: a literal PCR 7 that systemd extends a second time.
func TestVerdictSeparator(t *testing.T) {
	t.Parallel()
	states, tokens := recordedStates(t)
	s := &secret{
		Requirement: policy.Requirement{Name: "disk", At: "enter-initrd", Source: &policy.Source{Kind: policy.SourceLUKS, Path: "/dev/x"}},
		parts:       []way{{name: "token 0", policy: tokens["literal7"].Policy(luks2.Sources{}), token: tokens["literal7"]}},
	}
	s.Policy = anyOf(s.parts)
	by := &background{cold: func() *start { return startIn(t, states["A"]) }, known: func() policy.Accept { return nil }}
	for separator, want := range map[measure.Separator]string{measure.SeparatorNo: "yes", measure.SeparatorYes: "no", measure.SeparatorUnknown: "unknown"} {
		start := startIn(t, states["A"])
		start.OSSeparator = separator
		v := s.judge(start, by)
		notes, hint := strings.Join(v.notes, " "), v.hint
		if v.answer() != want {
			t.Errorf("separator %d: %s, want %s", separator, v.answer(), want)
		}
		if want == "no" && (notes != "systemd extends os-separator into its PCRs a second time after a kexec" ||
			hint != "to have the next system measure nothing: --append=systemd.tpm2_measured_os=no") {
			t.Errorf("%s; %s", notes, hint)
		}
	}
	// and a no for another reason is not blamed on it; a cold boot would not do either
	by.cold = func() *start { return startIn(t, states["E"]) }
	start := startIn(t, states["E"])
	start.OSSeparator = measure.SeparatorYes
	if v := s.judge(start, by); v.answer() != "no" || len(v.notes) != 0 || v.hint != "to see which event differs from those of an image that did: --reference=IMAGE" {
		t.Errorf("%s %q %s", v.answer(), v.notes, v.hint)
	}
	// when it is wanted is not known, and it opens at one of the phases only
	s.orAt = []measure.Phase{""}
	start = startIn(t, states["A"])
	start.OSSeparator = measure.SeparatorYes
	if v := s.judge(start, by); v.answer() != "unknown" || !strings.Contains(v.err.Error(), "when it is wanted is not known, and at enter-initrd it will not unlock") {
		t.Errorf("%s %v", v.answer(), v.err)
	}
}

// TestForgetful: a PCR that another secret's volume key is measured into is not known.
func TestForgetful(t *testing.T) {
	t.Parallel()
	states, tokens := recordedStates(t)
	literal := tokens["literal"].Policy(luks2.Sources{})
	for _, test := range []struct {
		pcrs []measure.PCR
		want string
	}{{nil, "yes"}, {[]measure.PCR{15}, "yes"}, {[]measure.PCR{11}, "unknown"}, {[]measure.PCR{15, 7}, "unknown"}} {
		a := states["A"]
		if got := answerOf(forgetful{literal, test.pcrs}.Check(a)); got != test.want {
			t.Errorf("%v: %s, want %s", test.pcrs, got, test.want)
		}
		if len(a[measure.SHA256]) < 2 {
			t.Fatal("the values were changed")
		}
	}
}

// TestVerdictNvPCRs: PCR 9 is not known where systemd 259 may be in the initrd.
func TestVerdictNvPCRs(t *testing.T) {
	t.Parallel()
	states, _ := recordedStates(t)
	a := states["A"].Clone()
	zero := make(measure.Digest, 32)
	a.Set(measure.SHA256, 9, zero)
	s := &secret{Requirement: policy.Requirement{Name: "x", Policy: policy.Accept{measure.SHA256: {9: {zero}}}}}
	by := &background{cold: func() *start { return startIn(t, a) }, known: func() policy.Accept { return nil }}
	for _, test := range []struct{ version, at, want string }{
		{"258.1", "enter-initrd", "yes"}, {"259~rc1", "enter-initrd", "unknown"}, {"262", "enter-initrd:leave-initrd", "unknown"},
		{"", "enter-initrd", "unknown"}, {"262", "", "yes"},
	} {
		start := startIn(t, a)
		start.userspace.version = test.version
		s.At = measure.Phase(test.at)
		if v := s.judge(start, by); v.answer() != test.want {
			t.Errorf("%q at %q: %s, want %s", test.version, test.at, v.answer(), test.want)
		}
	}
}
