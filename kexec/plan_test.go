package kexec

// The order of the steps of a Plan, and what holds when one of them fails, with
// a fake kernel and a TPM that fails on demand; the happy path with a real TPM
// in software. It does not prove that a kernel is loaded or started, nor what
// the kernel does with the files that it gets: the VM tests in cmd/mkexec do.

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/stub"
	"github.com/mkexec/mkexec/measure/tpm"
	"github.com/mkexec/mkexec/measure/tpm/tpmtest"
	"github.com/mkexec/mkexec/measure/uki/ukitest"
)

// planImage is a UKI with a profile, so that PCR 12 is extended too.
func planImage(t testing.TB) []byte {
	return build(t, "262.1-1",
		ukitest.Section{Name: ".osrel", Data: []byte("ID=test\n")},
		ukitest.Section{Name: ".cmdline", Data: []byte("base")},
		ukitest.Section{Name: ".linux", Data: testKernel(t, 5001)},
		ukitest.Section{Name: ".initrd", Data: noise(3001, 2)},
		ukitest.Section{Name: ".profile", Data: []byte("ID=main\n")},
		ukitest.Section{Name: ".profile", Data: []byte("ID=other\n")},
		ukitest.Section{Name: ".cmdline", Data: []byte("of the profile")},
	)
}

var planOptions = Options{Stub: stub.Options{Profile: "other"}}

// A rig is a plan with all that is around it.
type rig struct {
	fake   *tpmtest.Fake
	device *tpm.Device
	kernel *fakeKernel
	plan   *Plan
	base   measure.PCRs  // of the whole TPM, before
	words  measure.Phase // that are in it, if it was shut down
}

// extension is an event of somebody else's.
func extension(n measure.PCR, banks ...measure.Bank) measure.Event {
	ev := measure.Event{PCR: n, Digests: map[measure.Bank]measure.Digest{}}
	for _, b := range banks {
		ev.Digests[b] = b.Sum([]byte("somebody else"))
	}
	return ev
}

// newRig makes a plan on a TPM that has been extended before, as that of a
// running system has.
func newRig(t testing.TB, banks ...measure.Bank) *rig {
	t.Helper()
	return newRigOf(t, Source{UKI: measure.Bytes(planImage(t))}, planOptions, banks...)
}

func newRigOf(t testing.TB, src Source, opts Options, banks ...measure.Bank) *rig {
	t.Helper()
	r := &rig{fake: tpmtest.NewFake(banks...), kernel: &fakeKernel{fail: map[string]error{}}}
	r.fake.ExtendAs(extension(11, measure.Banks()...))
	r.base = r.fake.PCRs()
	r.device = tpm.New(r.fake, tpm.Options{})
	t.Cleanup(func() { r.device.Close() })
	var err error
	if r.plan, err = NewPlan(src, r.device, r.kernel, opts); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.plan.Close)
	return r
}

func (r *rig) load(t testing.TB) {
	t.Helper()
	if err := r.plan.Check(AcceptAnything{}); err != nil {
		t.Fatal(err)
	}
	if err := r.plan.Load(); err != nil {
		t.Fatal(err)
	}
	r.kernel.check(t, "load", "loaded")
}

// checkTPM compares the whole TPM with what it was, extended by the first n events.
func (r *rig) checkTPM(t testing.TB, n int) {
	t.Helper()
	want := r.base.Clone()
	for _, ev := range r.plan.Prediction.Events[:n] {
		if err := want.Extend(ev); err != nil {
			t.Fatal(err)
		}
	}
	checkPCRs(t, want, r.fake.PCRs())
}

// checkOver checks that a failed plan has unloaded the image and does nothing more.
func (r *rig) checkOver(t testing.TB) {
	t.Helper()
	r.kernel.check(t, "unload")
	if r.kernel.loaded {
		t.Error("the image is still loaded")
	}
	before := r.fake.Commands()
	for name, step := range map[string]func() error{
		"load": r.plan.Load, "commit": r.plan.Commit, "exec": r.plan.Exec,
		"check": func() error { return r.plan.Check(AcceptAnything{}) },
	} {
		if err := step(); !errors.Is(err, ErrOrder) {
			t.Errorf("%s after that: %v", name, err)
		}
	}
	if err := r.plan.Abandon(); err != nil {
		t.Error(err)
	}
	r.kernel.check(t)
	if r.fake.Commands() != before {
		t.Error("the TPM was sent something after that")
	}
}

// checkError checks the text of err, which may have a * at its end, and whether
// it says that the PCRs are extended.
func checkError(t testing.TB, err error, committed bool, want string) {
	t.Helper()
	prefix, cut := strings.CutSuffix(want, "*")
	if got := fmt.Sprint(err); got != want && !(cut && strings.HasPrefix(got, prefix)) {
		t.Errorf("error:\n got %v\nwant %s", err, want)
	}
	if errors.Is(err, ErrCommitted) != committed {
		t.Errorf("errors.Is(err, ErrCommitted) is %v: %v", !committed, err)
	}
}

func TestPlan(t *testing.T) {
	for _, banks := range [][]measure.Bank{measure.Banks(), {measure.SHA256}, {measure.SHA1, measure.SHA512}} {
		t.Run(fmt.Sprint(banks), func(t *testing.T) {
			r := newRig(t, banks...)
			if commands := r.fake.Commands(); commands == 0 {
				t.Error("NewPlan did not ask the TPM")
			}
			r.kernel.check(t)
			r.checkTPM(t, 0)
			r.load(t)
			r.checkTPM(t, 0)
			if err := r.plan.Commit(); err != nil {
				t.Fatal(err)
			}
			r.kernel.check(t)
			r.checkTPM(t, len(r.plan.Prediction.Events))
			if err := r.plan.Exec(); err == nil {
				t.Error("the fake kernel returned, and Exec did not say so")
			}
			r.kernel.check(t, "exec", "unload")

			if string(r.kernel.linux) != string(testKernel(t, 5001)) {
				t.Error("what was loaded is not .linux")
			}
			if string(r.kernel.initrd) != string(concat(t, r.plan.Boot.Initrd)) {
				t.Error("what was loaded is not the initrd")
			}
			if r.kernel.cmdline != "of the profile" {
				t.Errorf("command line %q", r.kernel.cmdline)
			}
		})
	}
}

func openTPM(t testing.TB, swtpm *tpmtest.SWTPM) *tpm.Device {
	t.Helper()
	device, err := tpm.Open(swtpm.Device(), tpm.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return device
}

// TestPlanWithTPM lets a real TPM in software extend, on top of what a running
// system has extended.
func TestPlanWithTPM(t *testing.T) {
	for _, banks := range [][]measure.Bank{nil, {measure.SHA256}} {
		t.Run(fmt.Sprint(banks), func(t *testing.T) {
			swtpm := tpmtest.Start(t, banks...)
			device := openTPM(t, swtpm)
			for _, n := range []measure.PCR{11, 11, 12} {
				if err := device.Extend(extension(n, measure.Banks()...)); err != nil {
					t.Fatal(err)
				}
			}
			kernel := &fakeKernel{}
			plan, err := NewPlan(Source{UKI: measure.Bytes(planImage(t))}, device, kernel, planOptions)
			if err != nil {
				t.Fatal(err)
			}
			defer plan.Close()
			for _, step := range []func() error{
				func() error { return plan.Check(AcceptAnything{}) }, plan.Load, plan.Commit,
			} {
				if err := step(); err != nil {
					t.Fatal(err)
				}
			}
			device.Close()
			device = openTPM(t, swtpm) // as somebody else would
			defer device.Close()
			got, err := device.Read(measure.StubPCRs()...)
			if err != nil {
				t.Fatal(err)
			}
			want, err := plan.Prediction.At("")
			if err != nil {
				t.Fatal(err)
			}
			checkPCRs(t, want, got)
			if n := len(got); banks == nil && n != 4 || banks != nil && n != len(banks) {
				t.Errorf("%d banks", n)
			}
			for _, b := range got.Banks() {
				if string(got[b][11]) == string(plan.Prediction.Base[b][11]) || string(got[b][12]) == string(plan.Prediction.Base[b][12]) {
					t.Errorf("%s: PCR 11 or 12 is what it was", b)
				}
			}

			// the next system's own extends give the next phase
			for _, word := range []string{"enter-initrd", "leave-initrd"} {
				ev := measure.Event{PCR: 11, Digests: map[measure.Bank]measure.Digest{}}
				for _, b := range measure.Banks() {
					ev.Digests[b] = b.Sum([]byte(word))
				}
				if err := device.Extend(ev); err != nil {
					t.Fatal(err)
				}
			}
			if got, err = device.Read(measure.StubPCRs()...); err != nil {
				t.Fatal(err)
			}
			if want, err = plan.Prediction.At("enter-initrd:leave-initrd"); err != nil {
				t.Fatal(err)
			}
			checkPCRs(t, want, got)
		})
	}
}

func TestOutOfTurn(t *testing.T) {
	steps := []string{"check", "load", "commit", "exec"}
	states := []string{"planned", "checked", "loaded", "committed", "over"}
	for done := range len(states) {
		for i, name := range steps {
			if i == done {
				continue
			}
			t.Run(fmt.Sprintf("%s when %s", name, states[done]), func(t *testing.T) {
				r := newRig(t)
				calls := map[string]func() error{
					"check": func() error { return r.plan.Check(AcceptAnything{}) },
					"load":  r.plan.Load, "commit": r.plan.Commit, "exec": r.plan.Exec,
				}
				for _, before := range steps[:done] {
					if err := calls[before](); err != nil && before != "exec" {
						t.Fatal(err)
					}
				}
				r.kernel.calls = nil
				commands, loaded := r.fake.Commands(), r.kernel.loaded
				err := calls[name]()
				if !errors.Is(err, ErrOrder) {
					t.Error("not an ErrOrder")
				}
				checkError(t, err, false, fmt.Sprintf("%s: out of turn: the plan is %s, not %s", name, states[done], states[i]))
				r.kernel.check(t)
				if r.fake.Commands() != commands || r.kernel.loaded != loaded {
					t.Error("it did something")
				}
				// and the plan goes on from where it was
				if done < len(steps) {
					if err := calls[steps[done]](); errors.Is(err, ErrOrder) {
						t.Error(err)
					}
				}
			})
		}
	}
}

// says is a Checker that says always the same.
type says struct{ err error }

func (s says) Check(*measure.Prediction) error { return s.err }

func TestPolicySaysNo(t *testing.T) {
	r := newRig(t)
	no := errors.New("no")
	if err := r.plan.Check(says{no}); err != no {
		t.Errorf("the checker's error was changed: %v", err)
	}
	for _, step := range []func() error{r.plan.Load, r.plan.Commit, r.plan.Exec} {
		if err := step(); !errors.Is(err, ErrOrder) {
			t.Errorf("a refused plan went on: %v", err)
		}
	}
	if err := r.plan.Abandon(); err != nil {
		t.Error(err)
	}
	r.kernel.check(t)
	r.checkTPM(t, 0)

	r = newRig(t) // the sibling
	if err := r.plan.Check(says{nil}); err != nil {
		t.Fatal(err)
	}
	if err := r.plan.Load(); err != nil {
		t.Error(err)
	}
}

func TestLoadFails(t *testing.T) {
	r := newRig(t)
	if err := r.plan.Check(AcceptAnything{}); err != nil {
		t.Fatal(err)
	}
	r.kernel.fail["load"] = errFake
	if err := r.plan.Load(); err != errFake {
		t.Errorf("the kernel's error was changed: %v", err)
	}
	r.kernel.check(t, "load") // and nothing to unload
	if err := r.plan.Commit(); !errors.Is(err, ErrOrder) {
		t.Errorf("commit of what is not loaded: %v", err)
	}
	r.checkTPM(t, 0)
	delete(r.kernel.fail, "load")
	if err := r.plan.Load(); err != nil {
		t.Errorf("second try: %v", err)
	}
}

func TestLoadedSaysNo(t *testing.T) {
	for name, breakIt := range map[string]func(*fakeKernel){
		"load: the kernel says that nothing is loaded": func(k *fakeKernel) { k.deaf = true },
		"told to fail": func(k *fakeKernel) { k.fail["loaded"] = errFake },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			if err := r.plan.Check(AcceptAnything{}); err != nil {
				t.Fatal(err)
			}
			breakIt(r.kernel)
			checkError(t, r.plan.Load(), false, name)
			if want := []string{"load", "loaded", "unload"}; !slices.Equal(r.kernel.calls, want) {
				t.Errorf("calls %v", r.kernel.calls)
			}
			r.kernel.calls = []string{"unload"}
			r.checkOver(t)
			r.checkTPM(t, 0)
		})
	}
}

func TestMoved(t *testing.T) {
	one := []measure.Bank{measure.SHA384}
	for _, test := range []struct {
		name  string
		ev    measure.Event
		moved bool
	}{
		{"PCR 11", extension(11, measure.Banks()...), true},
		{"PCR 12", extension(12, measure.Banks()...), true},
		{"PCR 13", extension(13, measure.Banks()...), true},
		{"PCR 13 in one bank", extension(13, one...), true},
		{"PCR 10", extension(10, measure.Banks()...), false},
		{"PCR 14", extension(14, measure.Banks()...), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t)
			r.load(t)
			r.fake.ExtendAs(test.ev)
			r.base = r.fake.PCRs()
			err := r.plan.Commit()
			if !test.moved {
				if err != nil {
					t.Error(err)
				}
				r.checkTPM(t, len(r.plan.Prediction.Events))
				return
			}
			if !errors.Is(err, ErrMoved) {
				t.Error("not an ErrMoved")
			}
			b := slices.Min(slices.Collect(func(yield func(measure.Bank) bool) {
				for b := range test.ev.Digests {
					if !yield(b) {
						return
					}
				}
			}))
			checkError(t, err, false, fmt.Sprintf("commit: the PCRs are not what the prediction starts from: PCR %d (%s) is %s, not %s",
				test.ev.PCR, b, r.base[b][test.ev.PCR], r.plan.Prediction.Base[b][test.ev.PCR]))
			r.checkOver(t)
			r.checkTPM(t, 0)
		})
	}
}

// A table is a Device without a TPM: PCRs that a test can change at will.
type table struct {
	pcrs    measure.PCRs
	extends int
}

func (d *table) Read(...measure.PCR) (measure.PCRs, error) { return d.pcrs.Clone(), nil }
func (d *table) Extend(ev measure.Event) error {
	d.extends++
	return d.pcrs.Extend(ev)
}

// TestBanksChange: a bank that comes or goes is a move as any other.
func TestBanksChange(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(measure.PCRs)
		want   string
	}{
		{"goes", func(p measure.PCRs) { delete(p, measure.SHA256) }, "commit: " + ErrMoved.Error() + ": PCR 11 (sha256) is unknown, not " + zeros(32)},
		{"comes", func(p measure.PCRs) {
			for _, n := range measure.StubPCRs() {
				p.Set(measure.SHA512, n, make(measure.Digest, 64))
			}
		}, "commit: " + ErrMoved.Error() + ": PCR 11 (sha512) is " + zeros(64) + ", not unknown"},
		{"nothing", func(measure.PCRs) {}, "<nil>"},
	} {
		t.Run(test.name, func(t *testing.T) {
			device := &table{pcrs: measure.Zero([]measure.Bank{measure.SHA1, measure.SHA256}, measure.StubPCRs()...)}
			kernel := &fakeKernel{}
			plan, err := NewPlan(Source{UKI: measure.Bytes(planImage(t))}, device, kernel, planOptions)
			if err != nil {
				t.Fatal(err)
			}
			defer plan.Close()
			r := &rig{kernel: kernel, plan: plan}
			r.load(t)
			test.change(device.pcrs)
			err = plan.Commit()
			checkError(t, err, false, test.want)
			if err == nil {
				return
			}
			if !errors.Is(err, ErrMoved) || device.extends != 0 {
				t.Errorf("%d extends: %v", device.extends, err)
			}
			kernel.check(t, "unload")
		})
	}
}

func zeros(n int) string { return strings.Repeat("00", n) }

// An extendFault is a way in which an extend fails.
type extendFault struct {
	name     string
	fault    tpmtest.Fault
	executed bool // it is done all the same
	usable   bool // the TPM can be asked afterwards
}

var extendFaults = []extendFault{
	{"refused", tpmtest.Fault{RC: tpmtest.RCLocality}, false, true},
	{"failure mode", tpmtest.Fault{RC: tpmtest.RCFailure}, false, true},
	{"not sent", tpmtest.Fault{Before: errFake}, false, false},
	{"answer lost", tpmtest.Fault{After: errFake}, true, false},
	{"answer garbage", tpmtest.Fault{Change: func([]byte) []byte { return []byte("garbage") }}, true, false},
	{"answer an error", tpmtest.Fault{Change: func([]byte) []byte { return []byte("\x80\x01\x00\x00\x00\x0a\x00\x00\x01\x01") }}, true, true},
	{"hangs", tpmtest.Fault{Hang: true}, false, false},
}

// checkExtendFailed checks what is said, and held, after the n-th extend has failed.
func (r *rig) checkExtendFailed(t testing.TB, err error, prefix string, n int, fault extendFault) {
	t.Helper()
	ev, count := r.plan.Prediction.Events[n-1], len(r.plan.Prediction.Events)
	checkError(t, err, !(n == 1 && !fault.executed && fault.usable),
		fmt.Sprintf("%sevent %d of %d (%s): TPM: extend PCR %d (%s) with *", prefix, n, count, ev.Description, ev.PCR, measure.BankNames(r.base.Banks())))
	if says := strings.HasSuffix(fmt.Sprint(err), " (no PCR has changed)"); says == errors.Is(err, ErrCommitted) {
		t.Error(err)
	}
	done := n - 1
	if fault.executed {
		done++
	}
	r.checkTPM(t, done)
}

// TestExtendFails lets each extend fail in each way.
func TestExtendFails(t *testing.T) {
	events := newRig(t).plan.Prediction.Events
	if len(events) < 10 {
		t.Fatalf("only %d events", len(events))
	}
	for _, test := range extendFaults {
		for n := 1; n <= len(events); n++ {
			t.Run(fmt.Sprintf("%s/%d", test.name, n), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { // hangs end at once
					r := newRig(t)
					r.load(t)
					r.fake.AtExtend(n, test.fault)
					r.checkExtendFailed(t, r.plan.Commit(), "commit: ", n, test)
					r.checkOver(t)
				})
			})
		}
	}
}

// extendLies are what is done instead of an extend, and answered with success.
var extendLies = []struct {
	name  string
	fault tpmtest.Fault
}{
	{"dropped", tpmtest.Fault{Drop: true}},
	{"somebody else is first", tpmtest.Fault{Other: []measure.Event{extension(12, measure.SHA512)}}},
}

// TestExtendLies lets each extend say yes and do something else.
func TestExtendLies(t *testing.T) {
	count := len(newRig(t).plan.Prediction.Events)
	for _, test := range extendLies {
		for n := 1; n <= count; n++ {
			t.Run(fmt.Sprintf("%s/%d", test.name, n), func(t *testing.T) {
				r := newRig(t)
				r.load(t)
				r.fake.AtExtend(n, test.fault)
				checkError(t, r.plan.Commit(), true, "commit: "+ErrCommitted.Error()+": read back: PCR 1*")
				r.checkOver(t)
			})
		}
	}
	t.Run("sibling", func(t *testing.T) {
		r := newRig(t)
		r.load(t)
		r.fake.AtExtend(1, tpmtest.Fault{Other: []measure.Event{extension(10, measure.SHA512)}})
		checkError(t, r.plan.Commit(), false, "<nil>")
	})
}

// TestReadFails lets each command of Commit that is not an extend fail.
func TestReadFails(t *testing.T) {
	r := newRig(t)
	r.load(t)
	before := r.fake.Commands()
	if err := r.plan.Commit(); err != nil {
		t.Fatal(err)
	}
	commands, events := r.fake.Commands()-before, len(r.plan.Prediction.Events)
	reads := (commands - events) / 2 // that one Read takes
	if reads < 1 || 2*reads+events != commands {
		t.Fatalf("%d commands, %d extends", commands, events)
	}
	for i := range reads {
		for _, fault := range []tpmtest.Fault{{RC: tpmtest.RCFailure}, {Before: errFake}} {
			r := newRig(t)
			r.load(t)
			r.fake.AtCommand(1+i, fault)
			checkError(t, r.plan.Commit(), false, "commit: TPM: read PCR 11 12 13 (sha1 sha256 sha384 sha512): *")
			r.checkTPM(t, 0)
			r.checkOver(t)

			r = newRig(t)
			r.load(t)
			r.fake.AtCommand(1+reads+events+i, fault)
			checkError(t, r.plan.Commit(), true, "commit: "+ErrCommitted.Error()+": read back: TPM: read *")
			r.checkTPM(t, events)
			r.checkOver(t)
		}
	}
}

func TestReadBackLies(t *testing.T) {
	r := newRig(t)
	r.load(t)
	flip := tpmtest.Fault{Change: func(b []byte) []byte { b[len(b)-1] ^= 1; return b }}
	var faults []tpmtest.Fault
	for range len(r.plan.Prediction.Events) {
		faults = append(faults, tpmtest.Fault{})
	}
	// with four banks one Read is two commands
	r.fake.AtCommand(1, append(append(make([]tpmtest.Fault, 2), faults...), flip)...)
	checkError(t, r.plan.Commit(), true, "commit: "+ErrCommitted.Error()+": read back: PCR *")
	r.checkOver(t)
}

func TestUnloadFails(t *testing.T) {
	const still = "\nthe image is still loaded, and the next reboot may enter it unmeasured: told to fail"
	t.Run("load", func(t *testing.T) {
		r := newRig(t)
		if err := r.plan.Check(AcceptAnything{}); err != nil {
			t.Fatal(err)
		}
		r.kernel.fail["loaded"], r.kernel.fail["unload"] = errors.New("who knows"), errFake
		checkError(t, r.plan.Load(), false, "who knows"+still)
	})
	t.Run("commit", func(t *testing.T) {
		r := newRig(t)
		r.load(t)
		r.kernel.fail["unload"] = errFake
		r.fake.AtExtend(2, tpmtest.Fault{RC: tpmtest.RCFailure})
		err := r.plan.Commit()
		checkError(t, err, true, "commit: event 2 of *")
		if !strings.HasSuffix(err.Error(), still) || !errors.Is(err, errFake) {
			t.Error(err)
		}
		if err := r.plan.Exec(); !errors.Is(err, ErrOrder) {
			t.Error(err)
		}
	})
	t.Run("exec", func(t *testing.T) {
		r := newRig(t)
		r.load(t)
		if err := r.plan.Commit(); err != nil {
			t.Fatal(err)
		}
		r.kernel.fail["unload"], r.kernel.fail["exec"] = errFake, errors.New("no jump")
		checkError(t, r.plan.Exec(), true, "no jump: "+ErrCommitted.Error()+still)
	})
	t.Run("abandon", func(t *testing.T) {
		r := newRig(t)
		r.load(t)
		r.kernel.fail["unload"] = errFake
		checkError(t, r.plan.Abandon(), false, still[1:])
	})
}

func TestExecReturns(t *testing.T) {
	for want, fails := range map[string]error{
		"exec: the kernel returned: " + ErrCommitted.Error(): nil,
		"told to fail: " + ErrCommitted.Error():              errFake,
	} {
		r := newRig(t)
		r.load(t)
		if err := r.plan.Commit(); err != nil {
			t.Fatal(err)
		}
		if fails != nil {
			r.kernel.fail["exec"] = fails
		}
		checkError(t, r.plan.Exec(), true, want)
		r.kernel.check(t, "exec", "unload")
		r.kernel.calls = []string{"unload"}
		r.checkOver(t)
	}
}

func TestAbandon(t *testing.T) {
	r := newRig(t)
	if err := r.plan.Abandon(); err != nil {
		t.Error(err)
	}
	r.kernel.check(t) // what somebody else has loaded stays
	checkError(t, r.plan.Check(AcceptAnything{}), false, "check: out of turn: the plan is over, not planned")

	r = newRig(t)
	r.load(t)
	if err := r.plan.Abandon(); err != nil {
		t.Error(err)
	}
	r.checkTPM(t, 0)
	r.checkOver(t)

	// the PCRs are spent
	r = newRig(t)
	r.load(t)
	if err := r.plan.Commit(); err != nil {
		t.Fatal(err)
	}
	checkError(t, r.plan.Abandon(), true, ErrCommitted.Error())
	r.checkOver(t)
}

func TestBase(t *testing.T) {
	fake := tpmtest.NewFake()
	fake.ExtendAs(extension(11, measure.Banks()...))
	held := measure.PCRs{}
	for _, b := range measure.Banks() {
		for _, n := range measure.StubPCRs() {
			held.Set(b, n, fake.PCRs()[b][n])
		}
	}
	changed := held.Clone()
	changed.Set(measure.SHA256, 12, append(make(measure.Digest, 31), 1))
	fewer := held.Clone()
	delete(fewer, measure.SHA1)
	for _, test := range []struct {
		name string
		base measure.PCRs
		want string
	}{
		{"held", held, "<nil>"},
		{"none", nil, "<nil>"},
		{"one byte", changed, ErrMoved.Error() + ": PCR 12 (sha256) is " + zeros(32) + ", not " + zeros(31) + "01"},
		{"a bank less", fewer, ErrMoved.Error() + ": PCR 11 (sha1) is *"},
		{"empty", measure.PCRs{}, ErrMoved.Error() + ": PCR 11 (sha1) is *"},
	} {
		t.Run(test.name, func(t *testing.T) {
			kernel := &fakeKernel{}
			opts := planOptions
			opts.Base = test.base
			before := fake.PCRs()
			plan, err := NewPlan(Source{UKI: measure.Bytes(planImage(t))}, tpm.New(fake, tpm.Options{}), kernel, opts)
			checkError(t, err, false, test.want)
			if (err != nil) != errors.Is(err, ErrMoved) {
				t.Error("not an ErrMoved")
			}
			if err == nil {
				checkPCRs(t, held, plan.Prediction.Base)
				plan.Close()
			}
			kernel.check(t)
			checkPCRs(t, before, fake.PCRs())
		})
	}
}

func TestNewPlanFails(t *testing.T) {
	good := planImage(t)
	bad := slices.Clone(good)
	magic := map[string]string{"amd64": "HdrS", "arm64": "ARM\x64", "riscv64": "RSC\x05"}[runtime.GOARCH]
	bad[strings.Index(string(bad), magic)]++ // one byte
	for _, test := range []struct {
		name, want string
		image      []byte
		fault      tpmtest.Fault
	}{
		{"good", "<nil>", good, tpmtest.Fault{}},
		{"kernel", "kernel: n*", bad, tpmtest.Fault{}},
		{"no image", "not a PE file: no MZ at offset 0", make([]byte, 100), tpmtest.Fault{}},
		{"TPM", "TPM: list banks: told to fail", good, tpmtest.Fault{Before: errFake}},
	} {
		t.Run(test.name, func(t *testing.T) {
			fake, kernel := tpmtest.NewFake(), &fakeKernel{}
			fake.AtCommand(1, test.fault)
			files := countFiles(t)
			plan, err := NewPlan(Source{UKI: measure.Bytes(test.image)}, tpm.New(fake, tpm.Options{}), kernel, planOptions)
			checkError(t, err, false, test.want)
			if plan != nil {
				plan.Close()
			}
			if n := countFiles(t); n != files {
				t.Errorf("%d files are open, %d were", n, files)
			}
			kernel.check(t)
			checkPCRs(t, tpmtest.NewFake().PCRs(), fake.PCRs())
		})
	}
}

func TestImageDigest(t *testing.T) {
	kernel := testKernel(t, 5000)
	for name, test := range map[string]struct {
		src  Source
		want []byte
	}{
		"UKI":  {Source{UKI: measure.Bytes(planImage(t))}, planImage(t)},
		"bare": {Source{Linux: measure.Bytes(kernel), Initrds: []measure.Content{measure.Bytes([]byte("initrd"))}}, kernel},
	} {
		plan, err := NewPlan(test.src, newRig(t).device, &fakeKernel{}, planOptions)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		defer plan.Close()
		got, err := plan.ImageDigest()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if want := measure.SHA256.Sum(test.want); got.String() != want.String() {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}
