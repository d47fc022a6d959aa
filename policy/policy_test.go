package policy_test

// When PCRs meet a policy, when they do not, and when it cannot be told. It does
// not prove that a prediction is right; package measure/stub's tests do.

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/policy"
)

// prediction is of an image with one section, on zero PCRs in the given banks.
func prediction(t *testing.T, banks ...measure.Bank) *measure.Prediction {
	t.Helper()
	p, err := measure.Predict(&measure.Image{Measurements: []measure.Measurement{
		{PCR: 11, Description: "section", Content: measure.Bytes([]byte("contents"))},
	}}, measure.Options{Base: measure.Zero(banks, measure.StubPCRs()...)})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// extended is the value of a zero PCR after extends with the hashes of texts.
func extended(b measure.Bank, texts ...string) measure.Digest {
	value := make(measure.Digest, b.Size())
	for _, text := range texts {
		value = b.Sum(append(bytes.Clone(value), b.Sum([]byte(text))...))
	}
	return value
}

func flip(d measure.Digest) measure.Digest {
	d = bytes.Clone(d)
	d[len(d)-1] ^= 1
	return d
}

type values = map[measure.PCR][]measure.Digest

func TestCheck(t *testing.T) {
	const sha1, sha256 = measure.SHA1, measure.SHA256
	before, first := extended(sha256, "contents"), extended(sha256, "contents", "enter-initrd")
	zero := make(measure.Digest, 32)
	require := func(name string, at measure.Phase, a policy.Accept) policy.Requirement {
		return policy.Requirement{Name: name, At: at, Policy: a}
	}
	disk := func(ds ...measure.Digest) policy.Requirement {
		return require("disk", "enter-initrd", policy.Accept{sha256: values{11: ds}})
	}
	type list = policy.Requirements
	accepts := func(pcr int, when string, got measure.Digest, who string, want ...string) string {
		return fmt.Sprintf("policy not met: PCR %d (sha256) %s will be %s; %s accepts %s", pcr, when, got, who, strings.Join(want, " or "))
	}
	for _, test := range []struct {
		name       string
		rs         policy.Requirements
		mismatches int // 0: not a MismatchError
		want       string
	}{
		{"yes", list{disk(first)}, 0, "<nil>"},
		{"one byte changed", list{disk(flip(first))}, 1, accepts(11, "at enter-initrd", first, "disk", flip(first).String())},
		{"first of several", list{disk(first, zero)}, 0, "<nil>"},
		{"last of several", list{disk(zero, before, first)}, 0, "<nil>"},
		{"none of several", list{disk(zero, before)}, 1, accepts(11, "at enter-initrd", first, "disk", zero.String(), before.String())},
		{"none at all", list{disk()}, 1, accepts(11, "at enter-initrd", first, "disk")},
		{"prefix of the value", list{disk(first[:31])}, 1, accepts(11, "at enter-initrd", first, "disk", first[:31].String())},
		{"value of an earlier phase", list{disk(before)}, 1, accepts(11, "at enter-initrd", first, "disk", before.String())},
		{"before the first phase", list{require("early", "", policy.Accept{sha256: values{11: {before}}})}, 0, "<nil>"},
		{"before the first phase, no", list{require("early", "", policy.Accept{sha256: values{11: {first}}})}, 1,
			accepts(11, "before the first phase", before, "early", first.String())},
		{"later phase", list{require("late", "enter-initrd:leave-initrd", policy.Accept{sha256: values{11: {extended(sha256, "contents", "enter-initrd", "leave-initrd")}}})}, 0, "<nil>"},
		{"PCRs that are not extended", list{require("rest", "enter-initrd", policy.Accept{sha256: values{12: {zero}, 13: {zero}}})}, 0, "<nil>"},
		{"PCR 12 and 13", list{require("rest", "enter-initrd", policy.Accept{sha256: values{13: {flip(zero)}, 12: {flip(zero)}}})}, 2,
			accepts(12, "at enter-initrd", zero, "rest", flip(zero).String()) + " (and 1 more)"},
		{"value of another PCR", list{require("rest", "enter-initrd", policy.Accept{sha256: values{12: {first}}})}, 1,
			accepts(12, "at enter-initrd", zero, "rest", first.String())},
		{"two requirements", list{disk(first), require("early", "", policy.Accept{sha256: values{11: {before}}})}, 0, "<nil>"},
		{"second of two", list{disk(first), require("early", "", policy.Accept{sha256: values{11: {zero}}})}, 1,
			accepts(11, "before the first phase", before, "early", zero.String())},
		{"three of two", list{disk(zero), require("early", "", policy.Accept{sha256: values{11: {zero}, 12: {before}}})}, 3,
			accepts(11, "at enter-initrd", first, "disk", zero.String()) + " (and 2 more)"},

		{"bank not predicted", list{require("disk", "enter-initrd", policy.Accept{sha1: values{11: {extended(sha1, "contents")}}})}, 0,
			"disk: PCR 11 (sha1) is not predicted, but the policy names it: cannot tell"},
		{"PCR not predicted", list{require("disk", "enter-initrd", policy.Accept{sha256: values{7: {zero}}})}, 0,
			"disk: PCR 7 (sha256) is not predicted, but the policy names it: cannot tell"},
		{"one bank of two", list{require("disk", "enter-initrd", policy.Accept{sha1: values{11: {zero[:20]}}, sha256: values{11: {first}}})}, 0,
			"disk: PCR 11 (sha1) is not predicted, but the policy names it: cannot tell"},
		{"no wins in one requirement", list{require("disk", "enter-initrd", policy.Accept{sha1: values{11: {zero[:20]}}, sha256: values{11: {zero}}})}, 1,
			accepts(11, "at enter-initrd", first, "disk", zero.String())},
		{"no wins over the requirement before", list{require("x", "", policy.Accept{sha1: values{11: {zero[:20]}}}), disk(zero)}, 1,
			accepts(11, "at enter-initrd", first, "disk", zero.String())},
		{"no wins over the requirement after", list{disk(zero), require("x", "", policy.Accept{sha1: values{11: {zero[:20]}}})}, 1,
			accepts(11, "at enter-initrd", first, "disk", zero.String())},
		{"yes does not win", list{disk(first), require("x", "", policy.Accept{sha1: values{11: {zero[:20]}}})}, 0,
			"x: PCR 11 (sha1) is not predicted, but the policy names it: cannot tell"},
		{"two cannot tell", list{require("x", "", policy.Accept{sha1: values{12: {zero}, 11: {zero}}}), require("y", "", policy.Accept{sha1: values{13: {zero}}})}, 0,
			"x: PCR 11 (sha1) is not predicted, but the policy names it: cannot tell\ny: PCR 13 (sha1) is not predicted, but the policy names it: cannot tell"},
		{"no requirement", list{}, 0, "policy: nothing is required: it would accept anything"},
		{"nil", nil, 0, "policy: nothing is required: it would accept anything"},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := test.rs.Check(prediction(t, sha256))
			if fmt.Sprint(err) != test.want {
				t.Errorf("error:\n got %v\nwant %s", err, test.want)
			}
			var no *policy.MismatchError
			if !errors.As(err, &no) {
				no = &policy.MismatchError{}
			}
			if len(no.Mismatches) != test.mismatches {
				t.Errorf("%d mismatches, want %d", len(no.Mismatches), test.mismatches)
			}
		})
	}
}

func TestMismatch(t *testing.T) {
	want := []measure.Digest{make(measure.Digest, 48), flip(make(measure.Digest, 48))}
	rs := policy.Requirements{{Name: "disk", At: "ready", Policy: policy.Accept{measure.SHA384: values{11: want}}}}
	err := rs.Check(prediction(t, measure.Banks()...))
	var no *policy.MismatchError
	if !errors.As(err, &no) || len(no.Mismatches) != 1 {
		t.Fatal(err)
	}
	m := no.Mismatches[0]
	if m.Requirement != "disk" || m.Phase != "ready" || m.Bank != measure.SHA384 || m.PCR != 11 ||
		!bytes.Equal(m.Got, extended(measure.SHA384, "contents", "ready")) || len(m.Want) != 2 || &m.Want[0] != &want[0] {
		t.Errorf("%+v", m)
	}

	// an Accept alone knows neither
	pcrs, err := prediction(t, measure.SHA384).At("ready")
	if err != nil {
		t.Fatal(err)
	}
	if err := rs[0].Policy.Check(pcrs); !errors.As(err, &no) || no.Mismatches[0].Requirement != "" || no.Mismatches[0].Phase != "" {
		t.Error(err)
	}
}

// answer is a Policy with one answer.
type answer struct{ err error }

func (a answer) Check(measure.PCRs) error { return a.err }

// TestRequirements: of several answers a no wins over one that cannot be told,
// PCRs over other reasons, the first over later ones; what is optional is not asked.
func TestRequirements(t *testing.T) {
	unreadable := errors.New("unreadable")
	yes := policy.Requirement{Name: "yes", Policy: answer{nil}}
	unknown := policy.Requirement{Name: "unknown", At: "ready", Policy: answer{unreadable}}
	unsigned := policy.Requirement{Name: "signed", At: "ready", Policy: answer{&policy.MismatchError{Reason: policy.ReasonUnsigned, Detail: "no signature"}}}
	other := policy.Requirement{Name: "other", Policy: answer{fmt.Errorf("token 0: %w", &policy.MismatchError{Reason: policy.ReasonPolicy, Detail: "another policy"})}}
	values := policy.Requirement{Name: "values", At: "ready", Policy: answer{&policy.MismatchError{
		Reason: policy.ReasonPCR, Mismatches: []policy.Mismatch{{Bank: measure.SHA1, PCR: 7, Want: []measure.Digest{{1}}, Got: measure.Digest{2}}},
	}}}
	wrapped := policy.Requirement{Name: "wrapped", Policy: answer{fmt.Errorf("token 1: %w", values.Policy.Check(nil))}}
	unread := policy.Requirement{Name: "luks /dev/vda3", Source: &policy.Source{Kind: policy.SourceLUKS, Path: "/dev/vda3"}}
	optional := func(r policy.Requirement) policy.Requirement {
		r.Optional = true
		return r
	}
	const mismatch = "policy not met: PCR 7 (sha1) at ready will be 02; values accepts 01"
	for _, test := range []struct {
		name   string
		rs     policy.Requirements
		reason policy.Reason // "" if it is not a no
		want   string
	}{
		{"yes", policy.Requirements{yes}, "", "<nil>"},
		{"cannot tell", policy.Requirements{yes, unknown}, "", "unknown: unreadable"},
		{"not read", policy.Requirements{yes, unread}, "", "luks /dev/vda3: its policy was not read: cannot tell"},
		{"two cannot tell", policy.Requirements{unknown, yes, unread}, "", "unknown: unreadable\nluks /dev/vda3: its policy was not read: cannot tell"},
		{"no signature", policy.Requirements{unsigned}, policy.ReasonUnsigned, "policy not met: signed at ready: no signature"},
		{"no wins over cannot tell", policy.Requirements{unknown, unsigned, unread}, policy.ReasonUnsigned, "policy not met: signed at ready: no signature"},
		{"the first no", policy.Requirements{other, unsigned}, policy.ReasonPolicy, "policy not met: other before the first phase: another policy"},
		{"the first no, turned round", policy.Requirements{unsigned, other}, policy.ReasonUnsigned, "policy not met: signed at ready: no signature"},
		{"PCRs win", policy.Requirements{unsigned, values, unknown}, policy.ReasonPCR, mismatch},
		{"all PCRs", policy.Requirements{values, unsigned, wrapped}, policy.ReasonPCR, mismatch + " (and 1 more)"},
		{"optional no", policy.Requirements{yes, optional(values), optional(unsigned)}, "", "<nil>"},
		{"optional cannot tell", policy.Requirements{optional(unknown), yes, optional(unread)}, "", "<nil>"},
		{"optional yes does not help", policy.Requirements{optional(yes), unsigned}, policy.ReasonUnsigned, "policy not met: signed at ready: no signature"},
		{"optional no does not hide another", policy.Requirements{optional(values), unsigned}, policy.ReasonUnsigned, "policy not met: signed at ready: no signature"},
		{"optional no does not hide what cannot be told", policy.Requirements{optional(values), unknown}, "", "unknown: unreadable"},
		{"all optional", policy.Requirements{optional(yes), optional(values)}, "", "policy: nothing is required: it would accept anything"},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := test.rs.Check(prediction(t, measure.SHA256))
			if fmt.Sprint(err) != test.want {
				t.Errorf("error:\n got %v\nwant %s", err, test.want)
			}
			var no *policy.MismatchError
			if errors.As(err, &no) != (test.reason != "") || no != nil && no.Reason != test.reason {
				t.Errorf("%#v, want reason %q", no, test.reason)
			}
		})
	}

	p := prediction(t, measure.SHA256)
	if err := (policy.Requirements{unknown}).Check(p); !errors.Is(err, unreadable) {
		t.Error(err)
	}
	if err := (policy.Requirements{unread}).Check(p); !errors.Is(err, policy.ErrCannotTell) {
		t.Error(err)
	}
	// alone, an optional requirement answers like any other
	for _, r := range []policy.Requirement{yes, unknown, unsigned, values, unread} {
		o := optional(r)
		if got, want := fmt.Sprint(o.Check(p)), fmt.Sprint(r.Check(p)); got != want {
			t.Errorf("%s: optional %s, required %s", r.Name, got, want)
		}
	}
	// and what names it leaves the policy's own error as it was
	var no *policy.MismatchError
	if err := wrapped.Check(p); !errors.As(err, &no) || no.Mismatches[0].Requirement != "wrapped" || no.Mismatches[0].Phase != "" {
		t.Error(err)
	}
	if err := values.Policy.Check(nil); !errors.As(err, &no) || no.Mismatches[0].Requirement != "" {
		t.Error(err)
	}
}

// TestFileAgainstPrediction: a file that names the predicted values accepts, and
// none of its siblings with one changed digit does.
func TestFileAgainstPrediction(t *testing.T) {
	p := prediction(t, measure.Banks()...)
	text := "version: 1\nrequire:\n  - name: all\n    at: enter-initrd\n    pcrs:\n"
	for _, b := range measure.Banks() {
		text += fmt.Sprintf("      %s: {11: %s}\n", b, extended(b, "contents", "enter-initrd"))
	}
	rs, err := parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if err := rs.Check(p); err != nil {
		t.Error(err)
	}
	for _, b := range measure.Banks() {
		d := extended(b, "contents", "enter-initrd").String()
		for i := range d {
			c := "0"
			if d[i] == '0' {
				c = "1"
			}
			rs, err := parse([]byte(strings.Replace(text, d, d[:i]+c+d[i+1:], 1)))
			if err != nil {
				t.Fatal(err)
			}
			var no *policy.MismatchError
			if err := rs.Check(p); !errors.As(err, &no) || len(no.Mismatches) != 1 || no.Mismatches[0].Bank != b {
				t.Errorf("%s, digit %d: %v", b, i, err)
			}
		}
	}
}
