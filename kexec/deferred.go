package kexec

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/mkexec/mkexec/measure"
	"golang.org/x/sys/unix"
)

// A Deferred is a plan that waits in files until the end of a shutdown, where
// another process carries it out. The files are beside its plan.json.
type Deferred struct {
	Version int       `json:"version"` // 1
	Time    time.Time `json:"time"`    // when it was made
	BootID  string    `json:"bootId"`  // of the system that made it (/proc/sys/kernel/random/boot_id)
	TPM     string    `json:"tpm"`     // the device that it is for, as Device names it to who opens it
	// Image is where the image came from, and its SHA-256.
	Image       string         `json:"image"`
	ImageSHA256 measure.Digest `json:"imageSha256"`

	Kernel  Blob   `json:"kernel"`
	Initrd  *Blob  `json:"initrd,omitempty"` // as systemd-stub would compose it
	Cmdline string `json:"cmdline"`
	// Live is what the TPM held when the plan was made: the PCRs that are compared.
	Live measure.PCRs `json:"live"`
	// Shutdowns are the ways of shutting down whose outcome is acceptable, the words
	// that PCR 11 is extended with on each. The expected one is the first.
	Shutdowns []measure.Phase `json:"shutdowns"`
	// Events are what is extended after the shutdown.
	Events []measure.Event `json:"events"`

	dir string
}

// A Blob is a file beside plan.json.
type Blob struct {
	Size   int64          `json:"size"` // in bytes
	SHA256 measure.Digest `json:"sha256"`
}

const (
	planFile = "plan.json"
	// previousFile is the plan before, until Keep or Undo.
	previousFile = ".previous.json"
	// maxPlan bounds plan.json, in bytes: thousands of events of four banks.
	maxPlan = 16 << 20
)

// ErrNoPlan: no plan waits.
var ErrNoPlan = errors.New("no plan is staged")

// A plan that was made for now cannot wait, and one to defer is not for now.
var (
	errNotDeferred = errors.New("defer: the plan is not for after a shutdown")
	errDeferred    = errors.New("commit: the plan is for after a shutdown")
)

// A Deferral is a plan that has been written, and can be taken back.
type Deferral struct {
	dir      string
	replaced bool // there was a plan before
}

// Defer writes the checked plan into a directory, which is made if it is not
// there, and replaces the plan in it in one step. Of d the image's path, the time,
// the boot ID and the TPM are taken. Either Keep or Undo has to be called.
func (p *Plan) Defer(dir string, d Deferred) (_ *Deferral, err error) {
	if err := p.turn("defer", checked); err != nil {
		return nil, err
	}
	if p.routes == nil {
		return nil, errNotDeferred
	}
	if err := makePrivate(dir); err != nil {
		return nil, err
	}
	u := &Deferral{dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, u.sweep())
		}
	}()
	if err := u.setAside(); err != nil {
		return nil, err
	}
	d.Version, d.Cmdline, d.Live, d.Events, d.Shutdowns = 1, p.Boot.Cmdline, p.live, p.Prediction.Events, nil
	for _, r := range p.routes {
		d.Shutdowns = append(d.Shutdowns, r.words)
	}
	if d.ImageSHA256, err = p.ImageDigest(); err != nil {
		return nil, err
	}
	kernel, err := writeBlob(dir, p.image.kernel)
	if err != nil {
		return nil, err
	}
	d.Kernel = *kernel
	if p.image.initrd != nil {
		if d.Initrd, err = writeBlob(dir, p.image.initrd); err != nil {
			return nil, err
		}
	}
	text, err := json.MarshalIndent(&d, "", "  ")
	if err != nil {
		return nil, err
	}
	if _, err := parseDeferred(text); err != nil { // as who carries it out will
		return nil, fmt.Errorf("defer: %w", err)
	}
	if err := writeFile(filepath.Join(dir, planFile), bytes.NewReader(append(text, '\n'))); err != nil {
		return nil, err
	}
	return u, nil
}

// setAside gives the plan that is there a second name. To give it back from there
// takes no room on a disk that is full.
func (u *Deferral) setAside() error {
	aside := filepath.Join(u.dir, previousFile)
	if err := os.Remove(aside); err != nil && !errors.Is(err, fs.ErrNotExist) { // of a process that died
		return err
	}
	err := os.Link(filepath.Join(u.dir, planFile), aside)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	u.replaced = err == nil
	return err
}

// Keep removes what belonged to the plan before.
func (u *Deferral) Keep() error { return u.sweep() }

// Undo brings the plan before back, or has none if there was none.
func (u *Deferral) Undo() error {
	name := filepath.Join(u.dir, planFile)
	var err error
	if u.replaced {
		err = os.Rename(filepath.Join(u.dir, previousFile), name)
	} else {
		err = os.Remove(name)
	}
	if err != nil {
		return err
	}
	return u.sweep()
}

// sweep removes every file that plan.json does not name.
func (u *Deferral) sweep() error {
	d, err := ReadDeferred(u.dir)
	if err != nil && !errors.Is(err, ErrNoPlan) {
		return err
	}
	keep := map[string]bool{planFile: true}
	if d != nil {
		for _, b := range d.blobs() {
			keep[b.name()] = true
		}
	}
	entries, err := os.ReadDir(u.dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if !keep[e.Name()] {
			errs = append(errs, os.Remove(filepath.Join(u.dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

// RemoveDeferred removes the plan in a directory, and that it was there at all.
func RemoveDeferred(dir string) error {
	// first what makes a plan of it
	if err := os.Remove(filepath.Join(dir, planFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.RemoveAll(dir)
}

// ReadDeferred reads the plan in a directory, and refuses what others than this
// user could have written. The error is ErrNoPlan if there is none. The blobs
// are not looked at.
func ReadDeferred(dir string) (*Deferred, error) {
	name := filepath.Join(dir, planFile)
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", dir, ErrNoPlan)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := checkPrivate(dir); err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	if !isPrivate(&st, unix.S_IFREG) {
		return nil, fmt.Errorf("%s: not a regular file of this user's alone", name)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxPlan+1))
	if err != nil {
		return nil, err
	}
	d, err := parseDeferred(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	d.dir = dir
	return d, nil
}

// parseDeferred parses plan.json.
func parseDeferred(text []byte) (*Deferred, error) {
	if len(text) > maxPlan {
		return nil, fmt.Errorf("more than %d bytes", maxPlan)
	}
	d := &Deferred{}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(d); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more behind the plan")
	}
	if err := d.check(); err != nil {
		return nil, err
	}
	return d, nil
}

// check refuses a plan that could not be carried out.
func (d *Deferred) check() error {
	if d.Version != 1 {
		return fmt.Errorf("version %d: unknown (known: 1)", d.Version)
	}
	if len(d.Events) == 0 || len(d.Shutdowns) == 0 || len(d.Live) == 0 {
		return errors.New("no events, no way to shut down, or no PCRs")
	}
	if len(d.ImageSHA256) != sha256.Size {
		return fmt.Errorf("SHA-256 of the image: %d bytes", len(d.ImageSHA256))
	}
	pcrs := d.pcrs()
	for _, n := range measure.StubPCRs() {
		if !slices.Contains(pcrs, n) {
			return fmt.Errorf("live: PCR %d is missing", n)
		}
	}
	for _, b := range d.Live.Banks() {
		if !slices.Equal(slices.Sorted(maps.Keys(d.Live[b])), pcrs) {
			return fmt.Errorf("live: bank %s has other PCRs", b)
		}
		for _, n := range pcrs {
			if len(d.Live[b][n]) != b.Size() {
				return fmt.Errorf("live: PCR %d (%s): %d bytes", n, b, len(d.Live[b][n]))
			}
		}
	}
	for _, b := range d.blobs() {
		if b.Size <= 0 || len(b.SHA256) != sha256.Size {
			return fmt.Errorf("blob %.80s: %d bytes", b.SHA256, b.Size)
		}
	}
	for _, words := range d.Shutdowns {
		path, err := measure.ParsePhase(string(words))
		if err != nil {
			return err
		}
		if path != words { // ":"
			return fmt.Errorf("phase path %.80q: empty words", words)
		}
		if _, err := d.after(words); err != nil {
			return err
		}
	}
	return nil
}

// after returns what the plan does to the PCRs after a way of shutting down.
func (d *Deferred) after(words measure.Phase) (*transition, error) {
	base, err := d.Live.After(words)
	if err != nil {
		return nil, err
	}
	t := &transition{base, d.Events, base.Clone()}
	for _, ev := range d.Events {
		if err := t.to.Extend(ev); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// Prediction returns what the plan leads to after the expected shutdown.
func (d *Deferred) Prediction() (*measure.Prediction, error) {
	base, err := d.Live.After(d.Shutdowns[0])
	if err != nil {
		return nil, err
	}
	return (&measure.Prediction{Events: d.Events}).From(base)
}

// Check tells whether the plan still holds: whether the TPM holds what it did
// when the plan was made, and the staged files are what they were. The error
// wraps ErrMoved or ErrChanged if not.
func (d *Deferred) Check(device Device) error {
	live, err := device.Read(d.pcrs()...)
	if err != nil {
		return err
	}
	if diffs := differences(d.Live, live); diffs != nil {
		return fmt.Errorf("%w: %s", ErrMoved, diffs[0])
	}
	for _, b := range d.blobs() {
		f, err := b.open(d.dir, "file")
		if err != nil {
			return err
		}
		f.Close()
	}
	return nil
}

// pcrs are those that are compared.
func (d *Deferred) pcrs() []measure.PCR {
	for _, b := range d.Live.Banks() {
		return slices.Sorted(maps.Keys(d.Live[b]))
	}
	return nil
}

func (d *Deferred) blobs() []*Blob {
	if d.Initrd == nil {
		return []*Blob{&d.Kernel}
	}
	return []*Blob{&d.Kernel, d.Initrd}
}

// name is that of the file: the same bytes have the same.
func (b *Blob) name() string { return b.SHA256.String() }

// writeBlob writes a staged file.
func writeBlob(dir string, f *os.File) (*Blob, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(f, 0, info.Size())); err != nil {
		return nil, err
	}
	b := &Blob{info.Size(), h.Sum(nil)}
	if err := writeFile(filepath.Join(dir, b.name()), io.NewSectionReader(f, 0, info.Size())); err != nil {
		return nil, err
	}
	return b, nil
}

// open returns a sealed copy of a blob, which is what was written.
func (b *Blob) open(dir, what string) (_ *os.File, err error) {
	name := filepath.Join(dir, b.name())
	fail := func(err error) (*os.File, error) { return nil, fmt.Errorf("staged %s: %w", what, err) }
	src, err := os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ELOOP) {
		err = fmt.Errorf("%w: %w", ErrChanged, err)
	}
	if err != nil {
		return fail(err)
	}
	defer src.Close()
	if info, err := src.Stat(); err != nil {
		return fail(err)
	} else if !info.Mode().IsRegular() || info.Size() != b.Size {
		return fail(fmt.Errorf("%s: %w: not a regular file of %d bytes", name, ErrChanged, b.Size))
	}
	f, err := newMemfd(what)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	if err := copyRange(f, 0, src, 0, b.Size, make([]byte, copyBuffer), func(int64) {}); err != nil {
		return fail(err)
	}
	if err := seal(f); err != nil {
		return nil, err
	}
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(f, 0, b.Size)); err != nil {
		return fail(err)
	}
	if got := measure.Digest(h.Sum(nil)); !bytes.Equal(got, b.SHA256) {
		return fail(fmt.Errorf("%s: %w: SHA-256 %s", name, ErrChanged, got))
	}
	return f, nil
}

// writeFile writes a file whole or not at all.
func writeFile(name string, r io.Reader) (err error) {
	f, err := os.CreateTemp(filepath.Dir(name), ".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if _, err := io.Copy(f, r); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

// makePrivate makes a directory that only this user gets into.
func makePrivate(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return checkPrivate(dir)
}

func checkPrivate(dir string) error {
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return &fs.PathError{Op: "lstat", Path: dir, Err: err}
	}
	if !isPrivate(&st, unix.S_IFDIR) {
		return fmt.Errorf("%s: not a directory of this user's alone", dir)
	}
	return nil
}

// isPrivate tells whether something is of a kind, and nobody's but this user's.
func isPrivate(st *unix.Stat_t, kind uint32) bool {
	return st.Mode&unix.S_IFMT == kind && int(st.Uid) == os.Geteuid() && st.Mode&0o077 == 0
}
