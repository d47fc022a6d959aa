package tpm_test

// Whatever a TPM answers, there is no panic, no endless loop and no large
// allocation. It does not prove that an answer is understood; pcr_test.go does.

import (
	"encoding/binary"
	"runtime"
	"testing"
	"time"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/tpm"
	"github.com/mkexec/mkexec/measure/tpm/tpmtest"
)

// An answerer is a TPM that has one answer for TPM2_GetCapability and one for
// all else.
type answerer struct{ capability, other []byte }

func (a answerer) Send(command []byte) ([]byte, error) {
	if binary.BigEndian.Uint32(command[6:]) == 0x17A {
		return a.capability, nil
	}
	return a.other, nil
}

func (a answerer) Close() error { return nil }

// A recorder keeps the answers of a fake.
type recorder struct {
	*tpmtest.Fake
	answers [][]byte
}

func (r *recorder) Send(command []byte) ([]byte, error) {
	answer, err := r.Fake.Send(command)
	r.answers = append(r.answers, answer)
	return answer, err
}

func FuzzResponse(f *testing.F) {
	for _, banks := range [][]measure.Bank{{measure.SHA256}, all} {
		r := &recorder{Fake: tpmtest.NewFake(banks...)}
		d := tpm.New(r, tpm.Options{})
		if _, err := d.Read(measure.StubPCRs()...); err != nil {
			f.Fatal(err)
		}
		if err := d.Extend(event(11, "x", all...)); err != nil {
			f.Fatal(err)
		}
		for _, answer := range r.answers[1:] {
			f.Add(r.answers[0], answer)
			f.Add(r.answers[0], answer[:len(answer)-1])
		}
	}
	f.Add([]byte{}, []byte{})
	f.Add([]byte{0x80, 1, 0, 0, 0, 10, 0, 0, 0, 0}, []byte{0, 0xC4, 0, 0, 0, 10, 0, 0, 0, 30})
	// lists that say they are longer than the answer
	f.Add([]byte{0x80, 1, 0, 0, 0, 19, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0xff, 0xff, 0xff, 0xff}, []byte{})
	f.Add([]byte{0x80, 1, 0, 0, 0, 22, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0x10, 0, 0, 11, 255}, []byte{})

	f.Fuzz(func(t *testing.T, capability, other []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		d := tpm.New(answerer{capability, other}, tpm.Options{Timeout: 5 * time.Millisecond}) // for inputs that say TPM_RC_RETRY
		d.Banks()
		values, err := d.Read(measure.StubPCRs()...)
		for b, pcrs := range values {
			for n, v := range pcrs {
				if err != nil || len(v) != b.Size() {
					t.Errorf("PCR %d (%s): %v, %v", n, b, v, err)
				}
			}
		}
		d.Extend(event(11, "x", all...))
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > 8<<20 {
			t.Errorf("%d bytes allocated", n)
		}
	})
}
