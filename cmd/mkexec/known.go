package main

import (
	"bytes"
	"slices"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/policy"
)

// knownValues returns the values of PCRs that a secret may have been sealed to:
// those that the TPM holds, those that this system had at each phase by the
// firmware's log, and those that the image leads to by a kexec and by firmware,
// with and without the os-separator.
func (c *checker) knownValues(p *prediction, cold *start) policy.Accept {
	known := policy.Accept{}
	add := func(pcrs measure.PCRs) {
		for b, values := range pcrs {
			if known[b] == nil {
				known[b] = map[measure.PCR][]measure.Digest{}
			}
			for n, d := range values {
				if !slices.ContainsFunc(known[b][n], func(o measure.Digest) bool { return bytes.Equal(o, d) }) {
					known[b][n] = append(known[b][n], d)
				}
			}
		}
	}
	addPhases := func(p *measure.Prediction) {
		for _, separator := range []measure.Separator{measure.SeparatorNo, measure.SeparatorYes} {
			at := *p
			at.OSSeparator = separator
			for _, phase := range append([]measure.Phase{""}, measure.DefaultPhases()...) {
				if pcrs, err := at.At(phase); err == nil {
					add(pcrs)
				}
			}
		}
	}
	add(p.Base)
	addPhases(p.Prediction)
	if cold.err == nil {
		addPhases(cold.Prediction)
	}
	log := c.firmwareLog()
	if log == nil {
		return known
	}
	base := measure.Zero(p.Base.Banks(), measure.StubPCRs()...)
	for b := range base {
		replayed, err := log.Replay(b)
		if err != nil {
			continue
		}
		for n, d := range replayed[b] {
			base.Set(b, n, d)
		}
	}
	if running, err := measure.Predict(&measure.Image{}, measure.Options{Base: base}); err == nil {
		addPhases(running)
	}
	return known
}
