package kexec

// What happens at the end of a shutdown, with a fake kernel and a TPM that fails on
// demand; once with a TPM in software. It is not proved that systemd-shutdown runs
// this, or jumps: the VM tests in cmd/mkexec do that.

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/tpm"
	"github.com/mkexec/mkexec/measure/tpm/tpmtest"
)

// A fakeLog is a log of one text, and what was recorded in it.
type fakeLog struct {
	text     string // "" is none
	err      error  // of After
	deaf     bool   // Record does nothing
	before   func() // called before each extend; may not return
	shutdown measure.Phase
	planned  []measure.Event
	recorded []measure.Event
}

func (l *fakeLog) Record(ev measure.Event, extend func() error) error {
	if l.before != nil {
		l.before()
	}
	if l.deaf {
		return errFake
	}
	err := extend()
	if err == nil {
		l.recorded = append(l.recorded, ev)
	}
	return err
}

func (l *fakeLog) After(shutdown measure.Phase, events []measure.Event) ([]byte, error) {
	l.shutdown, l.planned = shutdown, events
	if l.err != nil || l.text == "" {
		return nil, l.err
	}
	return []byte(l.text), nil
}

// checkLoaded checks that the image is loaded, for good, and nothing else of it.
func (r *deferredRig) checkLoaded(t testing.TB) {
	t.Helper()
	k := r.kernel
	if !k.loaded || string(k.linux) != string(testKernel(t, 5001)) || string(k.initrd) != string(concat(t, r.plan.Boot.Initrd)) || k.cmdline != "of the profile" {
		t.Errorf("loaded: %v: kernel of %d bytes, initrd of %d, command line %q", k.loaded, len(k.linux), len(k.initrd), k.cmdline)
	}
}

// checkStopped checks that a failed CarryOut leaves nothing loaded, and the TPM
// extended by n events, or anyhow if n is negative.
func (r *deferredRig) checkStopped(t testing.TB, n int) {
	t.Helper()
	if r.kernel.loaded {
		t.Error("something is still loaded")
	}
	if n >= 0 {
		r.checkTPM(t, n)
	}
}

func (r *deferredRig) carryOut() error { return r.deferred.CarryOut(r.device, r.kernel, nil) }

func TestCarryOut(t *testing.T) {
	for _, banks := range [][]measure.Bank{measure.Banks(), {measure.SHA1}, {measure.SHA256}, {measure.SHA384, measure.SHA512}} {
		for _, words := range deferOptions().Shutdowns {
			t.Run(fmt.Sprintf("%s/%s", measure.BankNames(banks), words), func(t *testing.T) {
				r := newDeferredRig(t, banks...)
				if r.deferred.CarriedOut(r.device) == nil {
					t.Error("carried out already")
				}
				r.shutDown(words)
				if r.deferred.CarriedOut(r.device) == nil {
					t.Error("carried out by the shutdown alone")
				}
				files := countFiles(t)
				if err := r.carryOut(); err != nil {
					t.Fatal(err)
				}
				if n := countFiles(t); n != files {
					t.Errorf("%d files are open, %d were", n, files)
				}
				r.kernel.check(t, "loaded", "unload", "load", "loaded", "freeze")
				r.checkLoaded(t)
				r.checkTPM(t, len(r.deferred.Events))
				if err := r.deferred.CarriedOut(r.device); err != nil {
					t.Error(err)
				}
				if p, err := r.deferred.Prediction(); err != nil {
					t.Error(err)
				} else if want, _ := p.At(""); (differences(want, r.fake.PCRs().Only(measure.StubPCRs()...)) == nil) != (words == "shutdown:final") {
					t.Errorf("the prediction is not that of the expected shutdown: %v", words)
				}

				// once more: nothing is extended, and what is loaded is not let go
				checkError(t, r.carryOut(), false, ErrStillLoaded.Error()+": frozen")
				r.checkLoaded(t)
				r.checkTPM(t, len(r.deferred.Events))
			})
		}
	}
}

// TestCarryOutWithTPM lets a TPM in software extend, after another process has
// extended the words of the shutdown.
func TestCarryOutWithTPM(t *testing.T) {
	swtpm := tpmtest.Start(t)
	device := openTPM(t, swtpm)
	if err := device.Extend(extension(11, measure.Banks()...)); err != nil {
		t.Fatal(err)
	}
	kernel := &fakeKernel{}
	plan, err := NewPlan(Source{UKI: measure.Bytes(planImage(t))}, device, kernel, deferOptions())
	if err != nil {
		t.Fatal(err)
	}
	defer plan.Close()
	r := &deferredRig{rig: &rig{plan: plan, kernel: kernel}, dir: filepath.Join(t.TempDir(), "mkexec")}
	if err := errors.Join(r.deferTo(t, r.dir).Keep(), plan.Load()); err != nil {
		t.Fatal(err)
	}
	want, err := plan.Prediction.At("")
	if err != nil {
		t.Fatal(err)
	}
	device.Close()

	device = openTPM(t, swtpm)
	defer device.Close()
	for _, word := range []string{"shutdown", "final"} {
		if err := device.Extend(measure.WordEvent(measure.PCRKernelImage, word, measure.Banks())); err != nil {
			t.Fatal(err)
		}
	}
	r.deferred = readDeferred(t, r.dir)
	if err := r.deferred.CarryOut(device, kernel, nil); err != nil {
		t.Fatal(err)
	}
	r.checkLoaded(t)
	if err := r.deferred.CarriedOut(device); err != nil {
		t.Error(err)
	}
	got, err := device.Read(measure.StubPCRs()...)
	if err != nil {
		t.Fatal(err)
	}
	checkPCRs(t, want, got)
}

// TestCarryOutRoutes: only the state that an accepted way leads to is gone on from.
func TestCarryOutRoutes(t *testing.T) {
	for words, accepted := range map[measure.Phase]bool{
		"shutdown:final": true, "": true,
		"shutdown": false, "final": false, "final:shutdown": false, "shutdown:final:final": false, "sysinit": false,
	} {
		t.Run(string(words), func(t *testing.T) {
			r := newDeferredRig(t)
			first, err := r.deferred.after("shutdown:final")
			if err != nil {
				t.Fatal(err)
			}
			r.shutDown(words)
			err = r.carryOut()
			if accepted {
				checkError(t, err, false, "<nil>")
				return
			}
			checkError(t, err, false, fmt.Sprintf("%v: PCR 11 (sha1) is %s, not %s", ErrMoved, r.base[measure.SHA1][11], first.from[measure.SHA1][11]))
			if !errors.Is(err, ErrMoved) {
				t.Error("not an ErrMoved")
			}
			r.kernel.check(t, "loaded", "unload", "loaded")
			r.checkStopped(t, 0)
		})
	}
	for n, moved := range map[measure.PCR]bool{10: false, 11: true, 12: true, 13: true, 14: false} {
		for _, b := range measure.Banks() {
			t.Run(fmt.Sprintf("PCR %d %s", n, b), func(t *testing.T) {
				r := newDeferredRig(t)
				r.fake.ExtendAs(extension(n, b))
				r.shutDown("shutdown:final")
				err := r.carryOut()
				if errors.Is(err, ErrMoved) != moved || (err == nil) != !moved {
					t.Error(err)
				}
				if moved {
					checkError(t, err, false, fmt.Sprintf("%v: PCR %d (*", ErrMoved, n))
					r.checkStopped(t, 0)
				}
			})
		}
	}
}

// TestCarryOutBanks: a bank that comes or goes is a move as any other.
func TestCarryOutBanks(t *testing.T) {
	for name, change := range map[string]func(measure.PCRs){
		"is unknown, not ": func(p measure.PCRs) { delete(p, measure.SHA256) },
		", not unknown": func(p measure.PCRs) {
			for _, n := range measure.StubPCRs() {
				p.Set(measure.SHA512, n, make(measure.Digest, 64))
			}
		},
		"": func(measure.PCRs) {},
	} {
		r := newDeferredRig(t, measure.SHA1, measure.SHA256)
		after, err := r.deferred.after("shutdown:final")
		if err != nil {
			t.Fatal(err)
		}
		device := &table{pcrs: after.from}
		change(device.pcrs)
		err = r.deferred.CarryOut(device, r.kernel, nil)
		if name == "" {
			checkError(t, err, false, "<nil>")
			continue
		}
		if !errors.Is(err, ErrMoved) || !strings.Contains(err.Error(), name) || device.extends != 0 {
			t.Errorf("%d extends: %v", device.extends, err)
		}
		r.checkStopped(t, 0)
	}
}

func TestCarryOutChanged(t *testing.T) {
	forBlobFaults(t, func(t *testing.T, r *deferredRig, what, want string) {
		r.shutDown("shutdown:final")
		files, commands := countFiles(t), r.fake.Commands()
		err := r.carryOut()
		if n := countFiles(t); n != files {
			t.Errorf("%d files are open, %d were", n, files)
		}
		if want == "" {
			checkError(t, err, false, "<nil>")
			r.checkLoaded(t)
			return
		}
		checkError(t, err, false, "staged "+what+": "+want)
		if !errors.Is(err, ErrChanged) {
			t.Error("not an ErrChanged")
		}
		r.kernel.check(t, "loaded", "unload", "loaded")
		r.checkStopped(t, 0)
		if r.fake.Commands() != commands {
			t.Error("the TPM was asked")
		}
	})
}

func TestCarryOutExtendFails(t *testing.T) {
	for _, test := range extendFaults {
		for n := range newRig(t).plan.Prediction.Events {
			t.Run(fmt.Sprintf("%s/%d", test.name, n+1), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { // hangs end at once
					r := newDeferredRig(t)
					r.shutDown("shutdown:final")
					r.fake.AtExtend(n+1, test.fault)
					r.checkExtendFailed(t, r.carryOut(), "", n+1, test)
					r.kernel.check(t, "loaded", "unload", "loaded")
					r.checkNeverAgain(t)
				})
			})
		}
	}
}

func TestCarryOutExtendLies(t *testing.T) {
	for _, test := range extendLies {
		for n := range newRig(t).plan.Prediction.Events {
			t.Run(fmt.Sprintf("%s/%d", test.name, n+1), func(t *testing.T) {
				r := newDeferredRig(t)
				r.shutDown("")
				r.fake.AtExtend(n+1, test.fault)
				checkError(t, r.carryOut(), true, ErrCommitted.Error()+": read back: PCR 1*")
				r.checkNeverAgain(t)
			})
		}
	}
}

// checkNeverAgain checks that nothing is loaded, and that none of what a hook might
// do afterwards, with a TPM that works again, extends or loads.
func (r *deferredRig) checkNeverAgain(t testing.TB) {
	t.Helper()
	r.checkStopped(t, -1)
	device := tpm.New(r.fake, tpm.Options{})
	before := r.fake.PCRs()
	if differences(r.base, before) == nil {
		return // nothing has happened: it may be done again
	}
	to, err := r.deferred.after(r.words)
	if err != nil {
		t.Fatal(err)
	}
	whole := differences(to.to, before.Only(measure.StubPCRs()...)) == nil // the last answer was lost
	if err := r.deferred.CarriedOut(device); (err == nil) != whole {
		t.Errorf("carried out: %v", err)
	}
	err = readDeferred(t, r.dir).CarryOut(device, r.kernel, nil)
	if !errors.Is(err, ErrMoved) {
		t.Errorf("a second time: %v", err)
	}
	checkPCRs(t, before, r.fake.PCRs())
	r.checkStopped(t, -1)
}

// checkHalfDone checks what is said where somebody has extended a part of the events.
func checkHalfDone(t testing.TB, err error) {
	t.Helper()
	checkError(t, err, true, ErrMoved.Error()+": they are as after event *")
	if !errors.Is(err, ErrMoved) {
		t.Error("not an ErrMoved")
	}
}

// TestCarryOutHalfDone: what another process has left of it is not gone on with.
func TestCarryOutHalfDone(t *testing.T) {
	for _, words := range deferOptions().Shutdowns {
		r := newDeferredRig(t)
		r.shutDown(words)
		for n, ev := range r.deferred.Events {
			r.fake.ExtendAs(ev)
			checkError(t, r.carryOut(), true, fmt.Sprintf("%v: they are as after event %d of %d: %v", ErrMoved, n+1, len(r.deferred.Events), ErrCommitted))
			r.checkStopped(t, n+1)
		}
	}
	r := newDeferredRig(t) // the sibling: one that somebody else has extended, too
	r.shutDown("")
	r.fake.ExtendAs(r.deferred.Events[0])
	r.fake.ExtendAs(extension(13, measure.SHA384))
	checkError(t, r.carryOut(), false, ErrMoved.Error()+": PCR 1*")
}

// TestCarryOutReadFails lets each command that is not an extend fail.
func TestCarryOutReadFails(t *testing.T) {
	r := newDeferredRig(t)
	r.shutDown("")
	before := r.fake.Commands()
	if err := r.carryOut(); err != nil {
		t.Fatal(err)
	}
	commands, events := r.fake.Commands()-before, len(r.deferred.Events)
	reads := (commands - events) / 3 // that one Read takes: for the route, before, and after
	if reads < 1 || 3*reads+events != commands {
		t.Fatalf("%d commands, %d extends", commands, events)
	}
	for i := range 3 * reads {
		for _, fault := range []tpmtest.Fault{{RC: tpmtest.RCFailure}, {Before: errFake}, {Change: func([]byte) []byte { return nil }}} {
			r := newDeferredRig(t)
			r.shutDown("")
			if i < 2*reads {
				r.fake.AtCommand(1+i, fault)
				checkError(t, r.carryOut(), false, "TPM: read PCR 11 12 13 (sha1 sha256 sha384 sha512): *")
				r.checkStopped(t, 0)
				continue
			}
			r.fake.AtCommand(1+events+i, fault)
			checkError(t, r.carryOut(), true, ErrCommitted.Error()+": read back: TPM: read *")
			r.checkStopped(t, events)
		}
	}
}

// TestCarryOutKernelFails: what the kernel may do to it.
func TestCarryOutKernelFails(t *testing.T) {
	const still = "the image is still loaded, and the next reboot may enter it unmeasured: "
	committed := ": " + ErrCommitted.Error()
	all := len(newRig(t).plan.Prediction.Events)
	for _, test := range []struct {
		name, want string
		breakIt    func(*fakeKernel)
		calls      string
		extends    int
		loaded     bool
	}{
		{"nothing", "<nil>", func(*fakeKernel) {}, "loaded unload load loaded freeze", all, true},
		{"nothing is loaded", "<nil>", func(k *fakeKernel) { k.loaded = false }, "loaded load loaded freeze", all, true},
		{"not known whether something is loaded", "<nil>", func(k *fakeKernel) { k.fail["loaded 1"] = errFake }, "loaded unload load loaded freeze", all, true},
		{"unload", still + "told to fail", func(k *fakeKernel) { k.fail["unload"] = errFake }, "loaded unload", 0, true},
		{"not known, and unload", still + "told to fail", func(k *fakeKernel) { k.fail["loaded"], k.fail["unload"] = errors.New("who knows"), errFake }, "loaded unload", 0, true},
		{"frozen before", still + "frozen", func(k *fakeKernel) { k.frozen = true }, "loaded unload", 0, true},
		{"load", "told to fail" + committed, func(k *fakeKernel) { k.fail["load"] = errFake }, "loaded unload load loaded", all, false},
		{"load does nothing", "load: the kernel says that nothing is loaded" + committed, func(k *fakeKernel) { k.deaf = true }, "loaded unload load loaded loaded", all, false},
		{"not known after load", "told to fail" + committed, func(k *fakeKernel) { k.fail["loaded"] = errFake }, "loaded unload load loaded loaded unload", all, false},
		{"freeze", "told to fail" + committed, func(k *fakeKernel) { k.fail["freeze"] = errFake }, "loaded unload load loaded freeze loaded unload", all, false},
		{"freeze and unload", "told to fail" + committed + "\n" + still + "no", func(k *fakeKernel) {
			k.fail["freeze"], k.fail["unload 2"] = errFake, errors.New("no")
		}, "loaded unload load loaded freeze loaded unload", all, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newDeferredRig(t)
			r.kernel.count = nil
			test.breakIt(r.kernel)
			r.shutDown("shutdown:final")
			files := countFiles(t)
			err := r.carryOut()
			checkError(t, err, strings.Contains(test.want, committed), test.want)
			if errors.Is(err, ErrStillLoaded) != strings.Contains(test.want, still) {
				t.Errorf("errors.Is(err, ErrStillLoaded): %v", err)
			}
			if n := countFiles(t); n != files {
				t.Errorf("%d files are open, %d were", n, files)
			}
			r.kernel.check(t, strings.Fields(test.calls)...)
			r.checkTPM(t, test.extends)
			if r.kernel.loaded != test.loaded {
				t.Errorf("loaded: %v", r.kernel.loaded)
			}
		})
	}
}

// A meddler is a Device during whose n-th call, reads and extends, somebody does something.
type meddler struct {
	Device
	at int
	do func()
}

func (m *meddler) meddle() {
	if m.at--; m.at == 0 {
		m.do()
	}
}

func (m *meddler) Read(pcrs ...measure.PCR) (measure.PCRs, error) {
	m.meddle()
	return m.Device.Read(pcrs...)
}

func (m *meddler) Extend(ev measure.Event) error {
	m.meddle()
	return m.Device.Extend(ev)
}

// TestCarryOutMeddled lets another process load an image, or extend a PCR, at each
// call of the TPM: what it has loaded is never what stays.
func TestCarryOutMeddled(t *testing.T) {
	events := len(newRig(t).plan.Prediction.Events)
	for at := 1; at <= events+3; at++ {
		for _, extends := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d, extends %v", at, extends), func(t *testing.T) {
				r := newDeferredRig(t)
				r.shutDown("shutdown:final")
				err := r.deferred.CarryOut(&meddler{r.device, at, func() {
					r.kernel.loaded, r.kernel.linux, r.kernel.initrd, r.kernel.cmdline = true, []byte("another"), nil, "another"
					if extends {
						r.fake.ExtendAs(extension(12, measure.SHA256))
					}
				}}, r.kernel, nil)
				if !extends {
					checkError(t, err, false, "<nil>")
					r.checkLoaded(t)
					return
				}
				if at <= 2 {
					checkError(t, err, false, ErrMoved.Error()+": PCR 12 (sha256) is *")
				} else {
					checkError(t, err, true, ErrCommitted.Error()+": read back: PCR 12 (sha256) is *")
				}
				r.checkStopped(t, -1)
			})
		}
	}
}

// TestCarriedOut: only the whole of the events after an accepted shutdown will do.
func TestCarriedOut(t *testing.T) {
	for _, words := range []measure.Phase{"shutdown:final", "", "shutdown"} {
		r := newDeferredRig(t)
		r.shutDown(words)
		events := r.deferred.Events
		for n := 0; ; n++ {
			done := n == len(events) && words != "shutdown"
			err := r.deferred.CarriedOut(r.device)
			if done {
				checkError(t, err, false, "<nil>")
			} else {
				checkError(t, err, false, "the PCRs are not what the plan leads to: PCR 1*")
			}
			if n == len(events) {
				break
			}
			r.fake.ExtendAs(events[n])
		}
		for _, n := range []measure.PCR{10, 12} { // 10 is nothing to it
			r.fake.ExtendAs(extension(n, measure.SHA384))
			if err := r.deferred.CarriedOut(r.device); (err != nil) != (n == 12 || words == "shutdown") {
				t.Errorf("after PCR %d has been extended: %v", n, err)
			}
		}
		r.device.Close()
		checkError(t, r.deferred.CarriedOut(r.device), false, "TPM: *")
	}

	r := newDeferredRig(t, measure.SHA1, measure.SHA256)
	to, err := r.deferred.after("")
	if err != nil {
		t.Fatal(err)
	}
	device := &table{pcrs: to.to}
	checkError(t, r.deferred.CarriedOut(device), false, "<nil>")
	delete(device.pcrs, measure.SHA1)
	checkError(t, r.deferred.CarriedOut(device), false, "the PCRs are not what the plan leads to: PCR 11 (sha1) is unknown, not *")
}

func TestVeto(t *testing.T) {
	const still = "the image is still loaded, and the next reboot may enter it unmeasured: told to fail"
	for _, test := range []struct {
		name, want string
		kernel     fakeKernel
		calls      string
	}{
		{"loaded", "<nil>", fakeKernel{loaded: true}, "loaded unload"},
		{"not loaded", "<nil>", fakeKernel{fail: map[string]error{"unload": errFake}}, "loaded"},
		{"not known", "<nil>", fakeKernel{loaded: true, fail: map[string]error{"loaded": errFake}}, "loaded unload"},
		{"stays", still, fakeKernel{loaded: true, fail: map[string]error{"unload": errFake}}, "loaded unload"},
		{"neither", still, fakeKernel{fail: map[string]error{"loaded": errors.New("who knows"), "unload": errFake}}, "loaded unload"},
	} {
		err := Veto(&test.kernel)
		checkError(t, err, false, test.want)
		if errors.Is(err, ErrStillLoaded) != (err != nil) || err == nil && test.kernel.loaded {
			t.Errorf("%s: %v", test.name, err)
		}
		test.kernel.check(t, strings.Fields(test.calls)...)
	}
}

// refuses is a Checker that accepts all predictions but some.
type refuses []measure.PCRs

var errRefused = errors.New("refused")

func (r refuses) Check(p *measure.Prediction) error {
	for _, base := range r {
		if differences(base, p.Base) == nil {
			return errRefused
		}
	}
	return nil
}

// TestCheckWays: ways of shutting down that are not acceptable are dropped, other
// than the expected one, with which all is refused.
func TestCheckWays(t *testing.T) {
	ways := []measure.Phase{"shutdown:final", "", "shutdown", "final"}
	for mask := range 1 << len(ways) {
		opts := deferOptions()
		opts.Shutdowns = ways
		r := newRigOf(t, Source{UKI: measure.Bytes(planImage(t))}, opts)
		var refused refuses
		var want []measure.Phase
		for i, words := range ways {
			if mask>>i&1 == 0 {
				want = append(want, words)
				continue
			}
			base, err := r.base.Only(measure.StubPCRs()...).After(words)
			if err != nil {
				t.Fatal(err)
			}
			refused = append(refused, base)
		}
		err := r.plan.Check(refused)
		if mask&1 != 0 {
			if err != errRefused {
				t.Errorf("%04b: %v", mask, err)
			}
			_, err := r.plan.Defer(t.TempDir(), about)
			checkError(t, err, false, "defer: out of turn: the plan is planned, not checked")
			continue
		}
		if err != nil {
			t.Errorf("%04b: %v", mask, err)
		}
		dir := filepath.Join(t.TempDir(), "mkexec")
		if _, err := r.plan.Defer(dir, about); err != nil {
			t.Fatal(err)
		}
		if got := readDeferred(t, dir).Shutdowns; !slices.Equal(got, want) {
			t.Errorf("%04b: %q, want %q", mask, got, want)
		}
	}
}
