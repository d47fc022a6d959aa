package measure

import "fmt"

// Options says what to predict.
type Options struct {
	// Base is the value of the PCRs before the first event: Zero for a cold
	// boot, what the TPM holds for a kexec. It must know PCR 11, 12 and 13 in
	// every bank it has, and its banks are the banks that are predicted. Others
	// that it knows are predicted as well: they stay, but for the os-separator.
	Base PCRs
	// InitrdDigest asks for Prediction.InitrdDigest.
	InitrdDigest bool
	// Progress, if not nil, is called with the number of bytes hashed since the
	// last call, from several goroutines at a time.
	Progress func(n int64)
}

// A Separator tells whether the word os-separator is extended.
type Separator int

// The values of a Separator.
const (
	SeparatorNo Separator = iota
	SeparatorYes
	SeparatorUnknown
)

// A Prediction is what starting an image will do to the PCRs.
type Prediction struct {
	// Base is the PCRs before the first event.
	Base PCRs
	// Events are the extends, in order.
	Events []Event
	// OSSeparator tells whether systemd in the initrd extends PCRs 12 and 13,
	// among others, with the word os-separator about when it extends PCR 11 with
	// enter-initrd (systemd 261 and newer, systemd-pcrosseparator.service). It is
	// set by who knows; SeparatorUnknown makes these PCRs unknown from there on. PCR
	// 9, which then has more that cannot be told, is unknown in both cases.
	OSSeparator Separator
	// InitrdDigest is the SHA-256 of the whole initrd as the kernel gets it.
	// Nil if it was not asked for or there is no initrd.
	InitrdDigest Digest
	// final is the PCRs after the last event.
	final PCRs
}

// Predict hashes what starting the image measures, for the banks of the base,
// and extends the base with it. It reads every byte that it hashes once, and
// changes nothing.
func Predict(image *Image, opts Options) (*Prediction, error) {
	banks := opts.Base.Banks()
	if len(banks) == 0 {
		return nil, fmt.Errorf("predict: no bank in the base")
	}
	for _, b := range banks {
		if b.Size() == 0 {
			return nil, fmt.Errorf("predict: bank %s: unknown", b)
		}
		for _, n := range StubPCRs() {
			if len(opts.Base[b][n]) != b.Size() {
				return nil, fmt.Errorf("predict: the base does not know PCR %d (%s)", n, b)
			}
		}
	}

	var messages []message
	for _, m := range image.Measurements {
		messages = append(messages, message{m.Description, []Content{m.Content}, banks})
	}
	withInitrd := opts.InitrdDigest && len(image.Initrd) > 0
	if withInitrd {
		messages = append(messages, message{"initrd", image.Initrd, []Bank{SHA256}})
	}
	digests, err := sumAll(messages, opts.Progress)
	if err != nil {
		return nil, fmt.Errorf("predict: %w", err)
	}

	p := &Prediction{Base: opts.Base.Clone(), final: opts.Base.Clone()}
	for i, m := range image.Measurements {
		ev := Event{PCR: m.PCR, Type: m.Type, Digests: digests[i], Description: m.Description, Size: m.Content.Size(), Data: m.Data}
		if err := p.final.Extend(ev); err != nil {
			return nil, fmt.Errorf("predict: %w", err)
		}
		p.Events = append(p.Events, ev)
	}
	if withInitrd {
		p.InitrdDigest = digests[len(digests)-1][SHA256]
	}
	return p, nil
}

// From returns what the same events do from another base. The base may know
// more PCRs, and fewer banks.
func (p *Prediction) From(base PCRs) (*Prediction, error) {
	q := *p
	q.Base, q.final = base.Clone(), base.Clone()
	for _, ev := range p.Events {
		if err := q.final.Extend(ev); err != nil {
			return nil, fmt.Errorf("predict: %w", err)
		}
	}
	return &q, nil
}

// At returns the PCRs at a phase of the system that is started: after all
// events and the words of the phase path, and what its userspace extends
// together with them. A PCR that cannot be told is absent.
func (p *Prediction) At(phase Phase) (PCRs, error) {
	pcrs := p.final.Clone()
	for _, w := range phase.Words() {
		if err := pcrs.Extend(WordEvent(PCRKernelImage, w, pcrs.Banks())); err != nil {
			return nil, err
		}
		if p.OSSeparator == SeparatorNo || w != "enter-initrd" {
			continue
		}
		for _, n := range separatedPCRs {
			if p.OSSeparator == SeparatorUnknown || n == pcrInitrd { // with other things, too
				pcrs.forget(n)
			}
			if !pcrs.knows(n) {
				continue // and is not predicted
			}
			if err := pcrs.Extend(WordEvent(n, OSSeparator, pcrs.Banks())); err != nil {
				return nil, err
			}
		}
	}
	return pcrs, nil
}

// FirstDifference returns the index of the first event in which two
// predictions differ, in PCR, type or a digest of a bank that both have. If one
// of them has all events of the other and more, that is the index of the first
// it has more. It returns -1 if they are the same.
func FirstDifference(a, b []Event) int {
	for i := range max(len(a), len(b)) {
		if i >= len(a) || i >= len(b) || !sameEvent(a[i], b[i]) {
			return i
		}
	}
	return -1
}

func sameEvent(a, b Event) bool {
	if a.PCR != b.PCR || a.Type != b.Type {
		return false
	}
	for bank, d := range a.Digests {
		if e, ok := b.Digests[bank]; ok && d.String() != e.String() {
			return false
		}
	}
	return true
}
