package tpm_test

// What Banks, Read and Extend do with a real TPM in software, and with one that
// fails. It does not prove that any TPM chip or firmware behaves as libtpms and
// the fake do, nor anything about the kernel's device and its resource manager.

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/tpm"
	"github.com/mkexec/mkexec/measure/tpm/tpmtest"
)

// event returns an extend of PCR n with the digests of text in the banks.
func event(n measure.PCR, text string, banks ...measure.Bank) measure.Event {
	ev := measure.Event{PCR: n, Type: measure.EventIPL, Digests: map[measure.Bank]measure.Digest{}, Description: text}
	for _, b := range banks {
		ev.Digests[b] = b.Sum([]byte(text))
	}
	return ev
}

func checkError(t *testing.T, err error, want string) {
	t.Helper()
	if fmt.Sprint(err) != want {
		t.Errorf("error:\n got %v\nwant %s", err, want)
	}
}

func checkPCRs(t *testing.T, want, got measure.PCRs) {
	t.Helper()
	if !slices.Equal(want.Banks(), got.Banks()) {
		t.Errorf("banks %v, want %v", got.Banks(), want.Banks())
	}
	for _, d := range measure.Compare(want, got) {
		t.Error(d)
	}
}

var all = measure.Banks()

func TestExtendEqualsPrediction(t *testing.T) {
	t.Parallel()
	for _, banks := range [][]measure.Bank{{measure.SHA256}, {measure.SHA384}, {measure.SHA1, measure.SHA256}, all} {
		t.Run(fmt.Sprint(banks), func(t *testing.T) {
			t.Parallel()
			swtpm := tpmtest.Start(t, banks...)
			d, err := tpm.Open(swtpm.Device(), tpm.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			if got, err := d.Banks(); err != nil || !slices.Equal(got, banks) {
				t.Fatalf("banks %v, %v, want %v", got, err, banks)
			}
			predicted := measure.Zero(banks, measure.StubPCRs()...)
			for i, n := range []measure.PCR{11, 11, 12, 13, 11, 12} {
				ev := event(n, fmt.Sprint("event ", i), all...) // with more digests than needed
				if err := predicted.Extend(ev); err != nil {
					t.Fatal(err)
				}
				if err := d.Extend(ev); err != nil {
					t.Fatal(err)
				}
				got, err := d.Read(measure.StubPCRs()...)
				if err != nil {
					t.Fatal(err)
				}
				checkPCRs(t, predicted, got)
			}

			swtpm.Reset()
			got, err := d.Read(measure.StubPCRs()...)
			if err != nil {
				t.Fatal(err)
			}
			checkPCRs(t, measure.Zero(banks, measure.StubPCRs()...), got)
		})
	}
}

func TestReadAll24(t *testing.T) {
	t.Parallel()
	d, err := tpm.Open(tpmtest.Start(t).Device(), tpm.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	var pcrs []measure.PCR
	for n := range measure.PCR(24) {
		pcrs = append(pcrs, n, n) // twice is as good as once
	}
	got, err := d.Read(pcrs...)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range all {
		for _, n := range pcrs {
			if len(got[b][n]) != b.Size() {
				t.Errorf("PCR %d (%s): %v", n, b, got[b][n])
			}
		}
		if want := bytes.Repeat([]byte{0xff}, b.Size()); !bytes.Equal(got[b][17], want) { // as no DRTM has run
			t.Errorf("PCR 17 (%s): %v", b, got[b][17])
		}
	}
}

// Two devices of one software TPM do not lock each other out.
func TestTwoDevices(t *testing.T) {
	t.Parallel()
	swtpm := tpmtest.Start(t, measure.SHA256)
	var devices [2]*tpm.Device
	for i := range devices {
		d, err := tpm.Open(swtpm.Device(), tpm.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		devices[i] = d
	}
	if err := devices[0].Extend(event(11, "x", measure.SHA256)); err != nil {
		t.Fatal(err)
	}
	got, err := devices[1].Read(11)
	if err != nil {
		t.Fatal(err)
	}
	want := measure.Zero([]measure.Bank{measure.SHA256}, 11)
	if err := want.Extend(event(11, "x", measure.SHA256)); err != nil {
		t.Fatal(err)
	}
	checkPCRs(t, want, got)
}

// The response code of a real TPM comes out in words, and leaves it usable.
func TestRefusedByTPM(t *testing.T) {
	t.Parallel()
	d, err := tpm.Open(tpmtest.Start(t, measure.SHA256).Device(), tpm.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	err = d.Extend(event(17, "x", measure.SHA256))
	checkError(t, tidy(err), `TPM: extend PCR 17 (sha256) with "x": TPM_RC_LOCALITY: bad locality`)
	var e *tpm.ExtendError
	if !errors.As(err, &e) || e.Unknown || !errors.Is(err, tpm2.TPMRCLocality) {
		t.Errorf("%#v", err)
	}
	if err := d.Extend(event(11, "x", measure.SHA256)); err != nil {
		t.Error(err)
	}
}

// tidy replaces the socket's random path by TPM.
func tidy(err error) error {
	if s := fmt.Sprint(err); strings.HasPrefix(s, "/") {
		_, rest, _ := strings.Cut(s, ":")
		return errors.New("TPM:" + rest)
	}
	return err
}

func TestBanks(t *testing.T) {
	t.Parallel()
	three := measure.StubPCRs()
	change := func(i int, b byte) func(*tpmtest.Fake) {
		return func(f *tpmtest.Fake) {
			f.AtCommand(1, tpmtest.Fault{Change: func(r []byte) []byte { r[i] = b; return r }})
		}
	}
	const hint = " in the firmware setup or with tpm2_pcrallocate"
	for _, test := range []struct {
		name    string
		prepare func(*tpmtest.Fake)
		want    string
	}{
		{"only these PCRs", func(f *tpmtest.Fake) { f.Allocate(0xC, three...) }, "[sha256 sha384]"},
		{"inactive", func(f *tpmtest.Fake) { f.Allocate(0x4); f.Allocate(0x12) }, "[sha256]"},
		{"other PCRs only", func(f *tpmtest.Fake) { f.Allocate(0x4, 0, 7, 17) }, "[sha256]"},
		{"order", func(f *tpmtest.Fake) { f.Allocate(0x4, three...) }, "[sha1 sha256]"},
		{"part", func(f *tpmtest.Fake) { f.Allocate(0x4, 0, 11) },
			"TPM: bank sha1: has no PCR 12 13; deactivate it or allocate all its PCRs," + hint},
		{"sm3", func(f *tpmtest.Fake) { f.Allocate(0x12, three...) },
			"TPM: bank sm3_256: active, but mkexec cannot compute its digests; deactivate it" + hint},
		{"sha3", func(f *tpmtest.Fake) { f.Allocate(0x28, 7) },
			"TPM: bank sha3_384: active, but mkexec cannot compute its digests; deactivate it" + hint},
		{"unknown", func(f *tpmtest.Fake) { f.Allocate(0x1234, three...) },
			"TPM: bank alg_0x1234: active, but mkexec cannot compute its digests; deactivate it" + hint},
		{"none", func(f *tpmtest.Fake) { f.Allocate(0xB) },
			"TPM: no bank has PCR 11 12 13; activate sha256" + hint},
		{"twice", func(f *tpmtest.Fake) { f.Allocate(0xC, three...); change(26, 0xB)(f) },
			"TPM: bank sha256: the TPM lists it twice"},
		{"more data", change(10, 1), "TPM: list banks: the TPM left some out"},
		{"other capability", change(14, 1), "TPM: list banks: the answer is about something else: did not contain assignedPCR (selector value was 1)"},
		{"refused", func(f *tpmtest.Fake) { f.AtCommand(1, tpmtest.Fault{RC: 0x100}) },
			"TPM: list banks: TPM_RC_INITIALIZE: TPM not initialized by TPM2_Startup or already initialized"},
		{"I/O error", func(f *tpmtest.Fake) { f.AtCommand(1, tpmtest.Fault{Before: errors.New("unplugged")}) },
			"TPM: list banks: unplugged"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			f := tpmtest.NewFake(measure.SHA256)
			test.prepare(f)
			banks, err := tpm.New(f, tpm.Options{}).Banks()
			if err != nil {
				checkError(t, err, test.want)
			} else if got := fmt.Sprint(banks); got != test.want {
				t.Errorf("%s, want %s", got, test.want)
			}
		})
	}
}

func TestReadErrors(t *testing.T) {
	t.Parallel()
	// offsets in the response that has PCR 11 and 12 of one bank: counter at 10,
	// selections at 14 (the mask from 21), digests at 24 (sizes at 28 and 62)
	set := func(i int, b byte) func(r []byte) []byte {
		return func(r []byte) []byte { r[i] = b; return r }
	}
	const prefix = "TPM: read PCR 11 12 (sha256): "
	for _, test := range []struct {
		name  string
		fault tpmtest.Fault
		want  string
	}{
		{"failure", tpmtest.Fault{RC: tpmtest.RCFailure}, "TPM_RC_FAILURE: commands not being accepted because of a TPM failure"},
		{"I/O error", tpmtest.Fault{Before: errors.New("unplugged")}, "unplugged"},
		{"another PCR", tpmtest.Fault{Change: set(22, 0x28)}, "the TPM returns PCR 13 (sha256), which it was not asked for"},
		{"another bank", tpmtest.Fault{Change: set(19, 0x12)}, "the TPM returns PCR 11 (sm3_256), which it was not asked for"},
		{"a PCR too many", tpmtest.Fault{Change: set(22, 0x38)}, "the TPM returns PCR 13 (sha256), which it was not asked for"},
		{"a value too few", tpmtest.Fault{Change: set(27, 1)}, "the TPM returns no value of PCR 12 (sha256)"},
		{"no values", tpmtest.Fault{Change: set(27, 0)}, "the TPM does not return PCR 11 (sha256)"},
		{"a value too many", tpmtest.Fault{Change: set(22, 0x08)}, "the TPM returns 1 values too many"},
		{"short value", tpmtest.Fault{Change: func(r []byte) []byte { r = slices.Delete(r, 93, 96); r[5] -= 3; r[63] -= 3; return r }},
			"the TPM returns 29 bytes for PCR 12 (sha256)"},
		{"truncated", tpmtest.Fault{Change: func(r []byte) []byte { return r[:len(r)-1] }},
			"not a TPM 2.0: its response says it has 96 bytes, but has 95"},
		{"short header", tpmtest.Fault{Change: func(r []byte) []byte { return r[:9] }}, "not a TPM 2.0: its response has only 9 bytes"},
		{"no response", tpmtest.Fault{Change: func(r []byte) []byte { return nil }}, "not a TPM 2.0: its response has only 0 bytes"},
		{"huge", tpmtest.Fault{Change: set(2, 0xff)}, "not a TPM 2.0: its response says it has 4278190176 bytes"},
		{"TPM 1.2", tpmtest.Fault{Change: func(r []byte) []byte { return []byte{0, 0xC4, 0, 0, 0, 10, 0, 0, 0, 0x1E} }},
			"not a TPM 2.0: it answers as a TPM 1.2 does"},
		{"tag", tpmtest.Fault{Change: set(0, 'H')}, "not a TPM 2.0: its response has the tag 0x4801"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			f := tpmtest.NewFake(measure.SHA256)
			f.AtCommand(2, test.fault)
			got, err := tpm.New(f, tpm.Options{}).Read(11, 12)
			checkError(t, err, prefix+test.want)
			if got != nil {
				t.Errorf("values with an error: %v", got)
			}
		})
	}
	t.Run("no such PCR", func(t *testing.T) {
		t.Parallel()
		for _, n := range []measure.PCR{-1, 24, 1 << 40} {
			_, err := tpm.New(tpmtest.NewFake(measure.SHA1), tpm.Options{}).Read(n)
			checkError(t, err, fmt.Sprintf("TPM: read PCR %d (sha1): PCR %d: a TPM has PCR 0 to 23", n, n))
		}
	})
	t.Run("not allocated", func(t *testing.T) {
		t.Parallel()
		f := tpmtest.NewFake(measure.SHA256)
		f.Allocate(uint16(measure.SHA1), 11, 12, 13)
		_, err := tpm.New(f, tpm.Options{}).Read(11, 7)
		checkError(t, err, "TPM: read PCR 11 7 (sha1 sha256): the TPM does not return PCR 7 (sha1)")
	})
}

// Values of two moments are never mixed.
func TestReadIsOneMoment(t *testing.T) {
	t.Parallel()
	other := []measure.Event{event(11, "somebody else", all...)}
	f := tpmtest.NewFake()
	f.AtCommand(3, tpmtest.Fault{Other: other}) // between the two commands that twelve values take
	got, err := tpm.New(f, tpm.Options{}).Read(measure.StubPCRs()...)
	if err != nil {
		t.Fatal(err)
	}
	want := measure.Zero(all, measure.StubPCRs()...)
	if err := want.Extend(other[0]); err != nil {
		t.Fatal(err)
	}
	checkPCRs(t, want, got)

	f = tpmtest.NewFake()
	for i := range 100 {
		f.AtCommand(i+1, tpmtest.Fault{Other: other})
	}
	_, err = tpm.New(f, tpm.Options{}).Read(measure.StubPCRs()...)
	checkError(t, err, "TPM: read PCR 11 12 13 (sha1 sha256 sha384 sha512): PCRs were extended in each of 20 tries")
}

func TestExtendErrors(t *testing.T) {
	t.Parallel()
	good := event(11, "x", measure.SHA1, measure.SHA256)
	short := event(11, "x", measure.SHA1, measure.SHA256)
	short.Digests[measure.SHA256] = short.Digests[measure.SHA1]
	const maybe = "; it may be extended all the same"
	for _, test := range []struct {
		name     string
		ev       measure.Event
		fault    tpmtest.Fault
		want     string
		unknown  bool
		extended bool // whether it was, for the test's own sake
		commands int  // that the TPM got
	}{
		{name: "no digest", ev: event(11, "x", measure.SHA1), commands: 1,
			want: `PCR 11 (sha1 sha256) with "x": the event has no sha256 digest, but the bank is active`},
		{name: "digest of another size", ev: short, commands: 1,
			want: `PCR 11 (sha1 sha256) with "x": the event's sha256 digest has 20 bytes, not 32`},
		{name: "no such PCR", ev: event(24, strings.Repeat("x", 99), all...), commands: 1,
			want: `PCR 24 (sha1 sha256) with "` + strings.Repeat("x", 80) + `": PCR 24: a TPM has PCR 0 to 23`},
		{name: "refused", ev: good, fault: tpmtest.Fault{RC: tpmtest.RCLocality}, commands: 2,
			want: `PCR 11 (sha1 sha256) with "x": TPM_RC_LOCALITY: bad locality`},
		{name: "failure", ev: good, fault: tpmtest.Fault{RC: tpmtest.RCFailure}, commands: 2, unknown: true,
			want: `PCR 11 (sha1 sha256) with "x": TPM_RC_FAILURE: commands not being accepted because of a TPM failure` + maybe},
		{name: "I/O error before", ev: good, fault: tpmtest.Fault{Before: errors.New("unplugged")}, commands: 2, unknown: true,
			want: `PCR 11 (sha1 sha256) with "x": unplugged` + maybe},
		{name: "I/O error after", ev: good, fault: tpmtest.Fault{After: errors.New("unplugged")}, commands: 2, unknown: true, extended: true,
			want: `PCR 11 (sha1 sha256) with "x": unplugged` + maybe},
		{name: "late", ev: good, fault: tpmtest.Fault{Hang: true}, commands: 2, unknown: true,
			want: `PCR 11 (sha1 sha256) with "x": no answer from the TPM within 1s` + maybe},
		{name: "garbled success", ev: good, fault: tpmtest.Fault{Change: func(r []byte) []byte { return r[:12] }}, commands: 2, unknown: true, extended: true,
			want: `PCR 11 (sha1 sha256) with "x": not a TPM 2.0: its response says it has 19 bytes, but has 12` + maybe},
		{name: "no session in success", ev: good, fault: tpmtest.Fault{Change: func(r []byte) []byte { return []byte{0x80, 1, 0, 0, 0, 10, 0, 0, 0, 0} }},
			commands: 2, unknown: true, extended: true,
			want: `PCR 11 (sha1 sha256) with "x": reading length of parameter area: EOF` + maybe},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			f := tpmtest.NewFake(measure.SHA1, measure.SHA256)
			f.AtExtend(1, test.fault)
			opts := tpm.Options{}
			if test.fault.Hang {
				opts.Timeout = time.Second
			}
			d := tpm.New(f, opts)
			defer d.Close()
			err := d.Extend(test.ev)
			checkError(t, err, "TPM: extend "+test.want)
			var e *tpm.ExtendError
			if !errors.As(err, &e) {
				t.Fatalf("%T", err)
			}
			if e.Unknown != test.unknown {
				t.Errorf("unknown is %v", e.Unknown)
			}
			if f.Commands() != test.commands {
				t.Errorf("%d commands, want %d", f.Commands(), test.commands)
			}
			want := measure.Zero([]measure.Bank{measure.SHA1, measure.SHA256}, 11)
			if test.extended {
				if err := want.Extend(test.ev); err != nil {
					t.Fatal(err)
				}
			}
			checkPCRs(t, want, f.PCRs())
		})
	}
	t.Run("banks", func(t *testing.T) {
		t.Parallel()
		err := tpm.New(tpmtest.NewFake(measure.Bank(0x12)), tpm.Options{}).Extend(good)
		checkError(t, err, "TPM: bank sm3_256: active, but mkexec cannot compute its digests; deactivate it in the firmware setup or with tpm2_pcrallocate")
	})
}

// A lost extend is a success like any other; only reading back finds it.
func TestLostExtendNeedsReadBack(t *testing.T) {
	t.Parallel()
	f := tpmtest.NewFake(measure.SHA256)
	f.AtExtend(1, tpmtest.Fault{Drop: true})
	d := tpm.New(f, tpm.Options{})
	if err := d.Extend(event(11, "x", measure.SHA256)); err != nil {
		t.Fatal(err)
	}
	got, err := d.Read(11)
	if err != nil {
		t.Fatal(err)
	}
	checkPCRs(t, measure.Zero([]measure.Bank{measure.SHA256}, 11), got)
}

func TestRetry(t *testing.T) {
	t.Parallel()
	f := tpmtest.NewFake(measure.SHA256)
	f.AtExtend(1, tpmtest.Fault{RC: tpmtest.RCRetry}, tpmtest.Fault{RC: tpmtest.RCYielded}, tpmtest.Fault{RC: tpmtest.RCTesting})
	d := tpm.New(f, tpm.Options{})
	ev := event(11, "x", measure.SHA256)
	if err := d.Extend(ev); err != nil {
		t.Fatal(err)
	}
	if f.Commands() != 5 {
		t.Errorf("%d commands, want 5", f.Commands())
	}
	want := measure.Zero([]measure.Bank{measure.SHA256}, 11) // extended once
	if err := want.Extend(ev); err != nil {
		t.Fatal(err)
	}
	got, err := d.Read(11)
	if err != nil {
		t.Fatal(err)
	}
	checkPCRs(t, want, got)
}

// A TPM that is busy for ever is an error, but stays usable: it did answer.
func TestRetryForEver(t *testing.T) {
	t.Parallel()
	for rc, text := range map[uint32]string{
		tpmtest.RCRetry:   "TPM_RC_RETRY: the TPM was not able to start the command",
		tpmtest.RCYielded: "TPM_RC_YIELDED: the TPM has suspended operation on the command; forward progress was made and the command may be retried",
		tpmtest.RCTesting: "TPM_RC_TESTING: TPM is performing self-tests",
	} {
		t.Run(strings.Fields(text)[0], func(t *testing.T) {
			t.Parallel()
			f := tpmtest.NewFake(measure.SHA256)
			f.AtExtend(1, slices.Repeat([]tpmtest.Fault{{RC: rc}}, 1000)...)
			d := tpm.New(f, tpm.Options{Timeout: time.Second})
			err := d.Extend(event(11, "x", measure.SHA256))
			checkError(t, err, `TPM: extend PCR 11 (sha256) with "x": still busy after 500ms: `+text)
			var e *tpm.ExtendError
			if !errors.As(err, &e) || e.Unknown {
				t.Error("busy taken for unknown")
			}
			if f.Commands() > 20 {
				t.Errorf("%d commands: no backing off", f.Commands())
			}
			if _, err := d.Read(11); err != nil {
				t.Error(err)
			}
		})
	}
}

// An answer that comes after the time limit is not taken for the next answer.
func TestLateAnswer(t *testing.T) {
	t.Parallel()
	f := tpmtest.NewFake(measure.SHA256)
	d := tpm.New(f, tpm.Options{Timeout: time.Second})
	if _, err := d.Banks(); err != nil {
		t.Fatal(err)
	}
	f.AtCommand(1, tpmtest.Fault{Delay: 1500 * time.Millisecond})
	_, err := d.Read(11)
	checkError(t, err, "TPM: read PCR 11 (sha256): no answer from the TPM within 1s")
	if !errors.Is(err, tpm.ErrTimeout) {
		t.Error("not ErrTimeout")
	}
	time.Sleep(time.Second)
	for range 2 {
		_, err = d.Read(11)
		checkError(t, err, "TPM: read PCR 11 (sha256): no longer usable: no answer from the TPM within 1s")
		err = d.Extend(event(11, "x", measure.SHA256))
		checkError(t, err, `TPM: extend PCR 11 (sha256) with "x": no longer usable: no answer from the TPM within 1s`)
		var e *tpm.ExtendError
		if !errors.As(err, &e) || e.Unknown {
			t.Error("an extend that was not sent is said to be unknown")
		}
	}
	if !errors.Is(err, tpm.ErrUnusable) || !errors.Is(err, tpm.ErrTimeout) {
		t.Error("not ErrUnusable because of ErrTimeout")
	}
	if f.Commands() != 2 {
		t.Errorf("%d commands, want 2", f.Commands())
	}
}

func TestClosed(t *testing.T) {
	t.Parallel()
	d := tpm.New(tpmtest.NewFake(measure.SHA256), tpm.Options{})
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := d.Banks()
	checkError(t, err, "TPM: list banks: no longer usable: file already closed")
	if !errors.Is(err, fs.ErrClosed) {
		t.Error("not fs.ErrClosed")
	}
}
