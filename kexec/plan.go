package kexec

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/stub"
)

// A Device is the TPM. Package measure/tpm has one.
type Device interface {
	// Read returns the values of the PCRs in every active bank.
	Read(pcrs ...measure.PCR) (measure.PCRs, error)
	// Extend extends one PCR in every active bank.
	Extend(ev measure.Event) error
}

// A Kernel is the running kernel's kexec. [Linux] is the real one.
type Kernel interface {
	// Load loads a kernel, an initrd (nil for none) and a command line for the
	// next Exec. What was loaded before is replaced, or stays if Load fails.
	Load(linux, initrd *os.File, cmdline string) error
	// Loaded tells whether something is loaded.
	Loaded() (bool, error)
	// Unload drops what is loaded.
	Unload() error
	// Freeze makes what is loaded final, until the next boot: nothing can be
	// loaded or unloaded any more.
	Freeze() error
	// Exec jumps into what is loaded. It returns only if it fails.
	Exec() error
	// Restart restarts the machine through firmware. It returns only if it fails.
	Restart() error
}

// A Checker decides whether a prediction is acceptable.
type Checker interface {
	// Check returns nil if it is. The error of a Checker that says no, rather
	// than being unable to tell, is up to it; Plan.Check hands it on.
	Check(p *measure.Prediction) error
}

// AcceptAnything is the Checker of someone who insists on having none.
type AcceptAnything struct{}

// Check returns nil.
func (AcceptAnything) Check(*measure.Prediction) error { return nil }

var (
	// ErrMoved: the PCRs are no longer, or were never, what the prediction
	// starts from. Nothing was extended.
	ErrMoved = errors.New("the PCRs are not what the prediction starts from")
	// ErrCommitted: the PCRs have been extended, wholly or in part, but the
	// kernel that they describe was not started. They describe no system now;
	// only a reboot through firmware resets them.
	ErrCommitted = errors.New("the PCRs are extended but nothing was started; reboot through firmware")
	// ErrStillLoaded: a step failed, and then the image could not be unloaded.
	// The next reboot of systemd's would enter it, whatever the PCRs are.
	ErrStillLoaded = errors.New("the image is still loaded, and the next reboot may enter it unmeasured")
	// ErrDevicetree: systemd-stub would install a devicetree, which
	// kexec_file_load(2) cannot. Nothing was done.
	ErrDevicetree = errors.New("a devicetree cannot be given to the kernel by kexec: it would go on with that of the running one")
	// ErrOrder: a step of a Plan was called out of turn. Nothing was done.
	ErrOrder = errors.New("out of turn")
)

// Options says how to start an image.
type Options struct {
	// Stub is how the image is started; its Via is set to kexec.
	Stub stub.Options
	// Base, if not nil, is what PCRs 11 to 13 have to hold now, in every active bank.
	// Without it the prediction starts from whatever the TPM holds.
	Base measure.PCRs
	// IgnoreDevicetree starts an image although its devicetree, or that of an
	// addon, is only measured: the kernel makes one of the running kernel's.
	IgnoreDevicetree bool
	// OSSeparator tells of the staged image what measure.Prediction.OSSeparator
	// is. Nil is no.
	OSSeparator func(*stub.Boot) (measure.Separator, error)
	// Verify, if not nil, decides on the staged UKI, or bare kernel, before
	// anything else is done with it.
	Verify func(image measure.Content) error
	// PCRs are read and predicted beside those that starting an image changes,
	// for policies that name them.
	PCRs []measure.PCR
	// Shutdowns, if not nil, are ways in which this system may be shut down before
	// the events are extended: the words that PCR 11 is extended with on each, the
	// expected way first. The plan is then one to Defer.
	Shutdowns []measure.Phase
	// Placeholder, for a plan to defer, is a static program that restarts the
	// machine when it is started as PlaceholderInit. Load leaves it loaded, once the
	// kernel has taken the image, in a form that starts this program, too.
	Placeholder measure.Content
	// Log, if not nil, gets the events, and is taken along to the next system, in
	// an archive behind the initrd's last piece.
	Log Log
	// InitrdDigest asks for the prediction's InitrdDigest.
	InitrdDigest bool
	// Progress, if not nil, is called with the number of bytes that were copied
	// or hashed since the last call, from several goroutines at a time.
	Progress func(n int64)
}

// A step is how far a Plan has come.
type step int

const (
	planned step = iota
	checked
	loaded
	committed
	over // failed after Load, or jumped
)

func (s step) String() string {
	return [...]string{"planned", "checked", "loaded", "committed", "over"}[s]
}

// A Plan is one measured kexec, from a staged image to the jump.
type Plan struct {
	// Boot is what the image does, decided from the staged copy.
	Boot *stub.Boot
	// Prediction is what starting it does to the PCRs: to those that the TPM holds,
	// or to those after the expected shutdown.
	Prediction *measure.Prediction

	routes []route      // none if the plan is not one to defer
	live   measure.PCRs // what the TPM held
	// placeholder is Options.Placeholder.
	placeholder measure.Content

	step   step
	digest measure.Digest // of the image; nil until somebody asks
	image  *staged
	kernel Kernel
	device Device
	log    Log
	pcrs   []measure.PCR // that are predicted and compared
}

// NewPlan stages the image and predicts: it copies the source into sealed
// memory, checks that this machine's kernel can load it, reads the TPM and
// computes the events and the PCRs after them. It changes nothing. The caller
// must Close the plan.
func NewPlan(src Source, device Device, kernel Kernel, opts Options) (*Plan, error) {
	if opts.Progress == nil {
		opts.Progress = func(int64) {}
	}
	if opts.Log == nil {
		opts.Log = noLog{}
	}
	opts.Stub.Via = stub.ViaKexec
	image, err := stage(src, opts.Stub, opts.Progress)
	if err != nil {
		return nil, err
	}
	p := &Plan{
		Boot: image.boot, image: image, kernel: kernel, device: device, log: opts.Log,
		pcrs: append(measure.StubPCRs(), opts.PCRs...), placeholder: opts.Placeholder,
	}
	if opts.Verify != nil {
		err = opts.Verify(image.whole)
	}
	if err == nil {
		err = p.predict(opts)
	}
	if err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

func (p *Plan) predict(opts Options) error {
	if err := p.image.prepareKernel(runtime.GOARCH); err != nil {
		return err
	}
	if len(p.Boot.Devicetrees) > 0 && !opts.IgnoreDevicetree {
		return fmt.Errorf("%s: %w", strings.Join(p.Boot.Devicetrees, ", "), ErrDevicetree)
	}
	base, err := p.device.Read(p.pcrs...)
	if err != nil {
		return err
	}
	if opts.Base != nil {
		if diffs := differences(opts.Base, base.Only(measure.StubPCRs()...)); diffs != nil {
			return fmt.Errorf("%w: %s", ErrMoved, diffs[0])
		}
	}
	p.live = base
	p.Prediction, err = measure.Predict(&p.Boot.Image, measure.Options{
		Base: base, InitrdDigest: opts.InitrdDigest, Progress: opts.Progress,
	})
	if err == nil && opts.OSSeparator != nil {
		p.Prediction.OSSeparator, err = opts.OSSeparator(p.Boot)
	}
	if err != nil || opts.Shutdowns == nil {
		return err
	}
	for _, words := range opts.Shutdowns {
		after, err := base.After(words)
		if err != nil {
			return err
		}
		prediction, err := p.Prediction.From(after)
		if err != nil {
			return err
		}
		p.routes = append(p.routes, route{words, prediction})
	}
	p.Prediction = p.routes[0].Prediction
	return nil
}

// A route is what a plan leads to after a way of shutting down.
type route struct {
	words measure.Phase
	*measure.Prediction
}

// ImageDigest returns the SHA-256 of the staged UKI, or of the bare kernel. It is
// computed once.
func (p *Plan) ImageDigest() (measure.Digest, error) {
	if p.digest != nil {
		return p.digest, nil
	}
	d, err := measure.Sum(p.image.whole, measure.SHA256)
	p.digest = d[measure.SHA256]
	return p.digest, err
}

// Close frees the staged image. What is loaded stays loaded.
func (p *Plan) Close() { p.image.close() }

// turn refuses a step out of turn.
func (p *Plan) turn(name string, want step) error {
	if p.step != want {
		return fmt.Errorf("%s: %w: the plan is %s, not %s", name, ErrOrder, p.step, want)
	}
	return nil
}

// Check asks the checker. Its error is returned as it is; nothing has happened
// then. Of a plan to defer, the ways of shutting down other than the expected one
// are dropped if the checker does not accept where they lead.
func (p *Plan) Check(c Checker) error {
	if err := p.turn("check", planned); err != nil {
		return err
	}
	if err := c.Check(p.Prediction); err != nil {
		return err
	}
	for i := len(p.routes) - 1; i > 0; i-- {
		if c.Check(p.routes[i].Prediction) != nil {
			p.routes = slices.Delete(p.routes, i, i+1)
		}
	}
	p.step = checked
	return nil
}

// Load loads the image into the kernel. The error wraps a *LoadError where the
// kernel refused. If it fails what was loaded before still is, or nothing is: where
// the kernel took the image and then something else failed.
func (p *Plan) Load() error {
	if err := p.turn("load", checked); err != nil {
		return err
	}
	log, err := p.log.After(p.words(), p.Prediction.Events)
	if err != nil {
		return err
	}
	var archives []measure.Content
	if p.image.initrd != nil && log != nil {
		archives = logArchive(log)
	}
	cmdline := p.Boot.Cmdline
	if p.placeholder != nil {
		archives = append(archives, placeholderArchive(p.placeholder)...)
		cmdline = tryCmdline(cmdline)
	}
	initrd := p.image.initrd
	if archives != nil {
		if initrd, err = carry(initrd, p.Boot.InitrdSize(), archives); err != nil {
			return err
		}
		defer initrd.Close()
	}
	if err := p.kernel.Load(p.image.kernel, initrd, cmdline); err != nil {
		return err
	}
	p.step = loaded
	if p.placeholder != nil {
		err = p.loadPlaceholder()
	}
	if err == nil {
		err = checkLoaded(p.kernel)
	}
	if err != nil {
		return p.abandon(err)
	}
	return nil
}

// words are those of the expected shutdown.
func (p *Plan) words() measure.Phase {
	if len(p.routes) == 0 {
		return ""
	}
	return p.routes[0].words
}

func checkLoaded(kernel Kernel) error {
	ok, err := kernel.Loaded()
	if err == nil && !ok {
		err = errors.New("load: the kernel says that nothing is loaded")
	}
	return err
}

// Commit extends the TPM with the predicted events and proves, by reading it
// back, that it then holds what was predicted. On failure the image is unloaded
// again; the error wraps ErrCommitted if any PCR may have changed.
func (p *Plan) Commit() error {
	if err := p.turn("commit", loaded); err != nil {
		return err
	}
	if p.routes != nil {
		return errDeferred
	}
	want, err := p.Prediction.At("")
	if err == nil {
		t := transition{p.Prediction.Base, p.Prediction.Events, want}
		err = t.commit(p.device, p.log, p.pcrs)
	}
	if err != nil {
		return p.abandon(fmt.Errorf("commit: %w", err))
	}
	p.step = committed
	return nil
}

// Exec jumps into the image. It returns only if that fails; the image is
// unloaded then and the error wraps ErrCommitted.
func (p *Plan) Exec() error {
	if err := p.turn("exec", committed); err != nil {
		return err
	}
	err := p.kernel.Exec()
	if err == nil {
		err = errors.New("exec: the kernel returned")
	}
	return p.abandon(fmt.Errorf("%w: %w", err, ErrCommitted))
}

// Abandon unloads the image, if it is loaded, without jumping into it. The
// plan cannot be used any more. After Commit the error wraps ErrCommitted.
func (p *Plan) Abandon() error {
	switch p.step {
	case loaded:
		return p.abandon(nil)
	case committed:
		return p.abandon(ErrCommitted)
	}
	p.step = over
	return nil
}

// abandon unloads the image and returns err, and more if that fails: a loaded
// image would be entered, unmeasured, by the next reboot of systemd's.
func (p *Plan) abandon(err error) error {
	p.step = over
	if unloadErr := p.kernel.Unload(); unloadErr != nil {
		return errors.Join(err, fmt.Errorf("%w: %w", ErrStillLoaded, unloadErr))
	}
	return err
}
