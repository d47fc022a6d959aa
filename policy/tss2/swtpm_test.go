package tss2_test

// The verdict against a TPM in software: data is sealed, and unsealed in states
// for which the file says yes, and refused in those for which it says no. The
// commands are sent as the test has them, not as the package reads them.

import (
	"crypto/sha256"
	"errors"
	"slices"
	"testing"
	"time"

	gotpm "github.com/google/go-tpm/tpm2"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/tpm"
	"github.com/mkexec/mkexec/measure/tpm/tpmtest"
	"github.com/mkexec/mkexec/policy"
	"github.com/mkexec/mkexec/policy/tss2"
)

// extend extends a PCR of every bank.
func extend(t *testing.T, d *tpm.Device, n measure.PCR, word string) {
	t.Helper()
	ev := measure.Event{PCR: n, Digests: map[measure.Bank]measure.Digest{}}
	for _, b := range measure.Banks() {
		ev.Digests[b] = b.Sum([]byte(word))
	}
	if err := d.Extend(ev); err != nil {
		t.Fatal(err)
	}
}

func TestUnseal(t *testing.T) {
	t.Parallel()
	d, err := tpm.Open(tpmtest.Start(t).Device(), tpm.Options{Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	srk, err := gotpm.CreatePrimary{PrimaryHandle: gotpm.TPMRHOwner, InPublic: gotpm.New2B(gotpm.ECCSRKTemplate)}.Execute(d)
	if err != nil {
		t.Fatal(err)
	}
	parent := gotpm.AuthHandle{Handle: srk.ObjectHandle, Name: srk.Name, Auth: gotpm.PasswordAuth(nil)}
	extend(t, d, 7, "seven")
	extend(t, d, 11, "eleven")
	// steps send the same commands to a session
	type step func(session gotpm.TPMHandle) error
	pcr := func(bank gotpm.TPMAlgID, digest []byte) step {
		return func(s gotpm.TPMHandle) error {
			_, err := gotpm.PolicyPCR{PolicySession: s, PcrDigest: gotpm.TPM2BDigest{Buffer: digest}, Pcrs: gotpm.TPMLPCRSelection{
				PCRSelections: []gotpm.TPMSPCRSelection{{Hash: bank, PCRSelect: gotpm.PCClientCompatible.PCRs(7, 11)}}}}.Execute(d)
			return err
		}
	}
	password := func(s gotpm.TPMHandle) error {
		_, err := gotpm.PolicyAuthValue{PolicySession: s}.Execute(d)
		return err
	}
	or := func(digests ...[]byte) step {
		var list gotpm.TPMLDigest
		for _, b := range digests {
			list.Digests = append(list.Digests, gotpm.TPM2BDigest{Buffer: b})
		}
		return func(s gotpm.TPMHandle) error {
			_, err := gotpm.PolicyOr{PolicySession: s, PHashList: list}.Execute(d)
			return err
		}
	}
	session := func(steps []step, options ...gotpm.AuthOption) (gotpm.Session, func() error, error) {
		s, end, err := gotpm.PolicySession(d, gotpm.TPMAlgSHA256, 16, options...)
		if err != nil {
			t.Fatal(err)
		}
		for _, step := range steps {
			if err := step(s.Handle()); err != nil {
				return s, end, err
			}
		}
		return s, end, nil
	}
	trial := func(steps ...step) []byte {
		s, end, err := session(steps, gotpm.Trial())
		defer end()
		if err != nil {
			t.Fatal(err)
		}
		response, err := gotpm.PolicyGetDigest{PolicySession: s.Handle()}.Execute(d)
		if err != nil {
			t.Fatal(err)
		}
		return response.PolicyDigest.Buffer
	}
	other := make([]byte, 32)
	ofTPM := func(digest, selection []byte) []byte { return slices.Concat(sized(digest), selection) }

	// policies are made for the state that the TPM is in: of its composite of
	// sha256, and its policy digest
	type policyOf func(composite, now []byte) (steps []step, commands [][]byte)
	one := func(bank gotpm.TPMAlgID) policyOf {
		return func([]byte, []byte) ([]step, [][]byte) {
			return []step{pcr(bank, nil)}, [][]byte{command(0x17F, ofTPM(nil, selection(uint16(bank))))}
		}
	}
	for _, test := range []struct {
		name     string
		policy   policyOf
		password string
	}{
		{"PCRs", one(gotpm.TPMAlgSHA256), ""},
		{"PCRs of sha1", one(gotpm.TPMAlgSHA1), ""},
		{"PCRs of sha384", one(gotpm.TPMAlgSHA384), ""},
		{"PCRs of sha512", one(gotpm.TPMAlgSHA512), ""},
		{"PCRs and their digest", func(composite, _ []byte) ([]step, [][]byte) {
			return []step{pcr(gotpm.TPMAlgSHA256, composite)}, [][]byte{command(0x17F, ofTPM(composite, selection(0x0B)))}
		}, ""},
		{"PCRs, in the other order", func(composite, _ []byte) ([]step, [][]byte) {
			return []step{pcr(gotpm.TPMAlgSHA256, composite)}, [][]byte{command(0x17F, slices.Concat(selection(0x0B), composite))}
		}, ""},
		{"PCRs and a password", func([]byte, []byte) ([]step, [][]byte) {
			return []step{pcr(gotpm.TPMAlgSHA256, nil), password}, [][]byte{command(0x17F, ofTPM(nil, selection(0x0B))), command(0x16B, nil)}
		}, "secret"},
		{"a password and PCRs", func([]byte, []byte) ([]step, [][]byte) {
			return []step{password, pcr(gotpm.TPMAlgSHA1, nil)}, [][]byte{command(0x16B, nil), command(0x17F, ofTPM(nil, selection(0x04)))}
		}, "secret"},
		{"PCRs or others", func(_, now []byte) ([]step, [][]byte) {
			list := slices.Concat([]byte{0, 0, 0, 2}, sized(other), sized(now))
			return []step{pcr(gotpm.TPMAlgSHA256, nil), or(other, now)}, [][]byte{command(0x17F, ofTPM(nil, selection(0x0B))), command(0x171, list)}
		}, ""},
	} {
		t.Run(test.name, func(t *testing.T) { // one after the other: there is one TPM
			before, err := d.Read(7, 11)
			if err != nil {
				t.Fatal(err)
			}
			composite := sha256.Sum256(slices.Concat(before[measure.SHA256][7], before[measure.SHA256][11]))
			steps, commands := test.policy(composite[:], trial(pcr(gotpm.TPMAlgSHA256, nil)))
			authPolicy := trial(steps...)
			object, err := gotpm.Create{
				ParentHandle: parent,
				InSensitive: gotpm.TPM2BSensitiveCreate{Sensitive: &gotpm.TPMSSensitiveCreate{
					UserAuth: gotpm.TPM2BAuth{Buffer: []byte(test.password)},
					Data:     gotpm.NewTPMUSensitiveCreate(&gotpm.TPM2BSensitiveData{Buffer: []byte("mkexec")}),
				}},
				InPublic: gotpm.New2B(gotpm.TPMTPublic{Type: gotpm.TPMAlgKeyedHash, NameAlg: gotpm.TPMAlgSHA256,
					ObjectAttributes: gotpm.TPMAObject{FixedTPM: true, FixedParent: true, NoDA: true}, AuthPolicy: gotpm.TPM2BDigest{Buffer: authPolicy}}),
			}.Execute(d)
			if err != nil {
				t.Fatal(err)
			}
			k, err := tss2.Parse(armor(tlv(sequence, sealed(), tlv(0xA1, tlv(sequence, commands...)),
				tlv(integer, []byte{0x40, 0, 0, 1}), tlv(octets, gotpm.Marshal(object.OutPublic)), tlv(octets, gotpm.Marshal(object.OutPrivate)))))
			if err != nil {
				t.Fatal(err)
			}
			loaded, err := gotpm.Load{ParentHandle: parent, InPrivate: object.OutPrivate, InPublic: object.OutPublic}.Execute(d)
			if err != nil {
				t.Fatal(err)
			}
			defer gotpm.FlushContext{FlushHandle: loaded.ObjectHandle}.Execute(d)
			unseal := func() error {
				s, end, err := session(steps, gotpm.Auth([]byte(test.password)))
				defer end()
				if err != nil {
					return err
				}
				_, err = gotpm.Unseal{ItemHandle: gotpm.AuthHandle{Handle: loaded.ObjectHandle, Name: loaded.Name, Auth: s}}.Execute(d)
				return err
			}
			check := func(when string, yes bool) {
				pcrs, err := d.Read(7, 11)
				if err != nil {
					t.Fatal(err)
				}
				verdict, unsealed := k.Check(pcrs), unseal()
				if (unsealed == nil) != yes {
					t.Errorf("%s: unsealing: %v", when, unsealed)
				}
				var no *policy.MismatchError
				if yes && verdict != nil || !yes && !errors.As(verdict, &no) {
					t.Errorf("%s: unsealing: %v, but the verdict is %v", when, unsealed, verdict)
				}
			}
			check("as sealed", true)
			extend(t, d, 12, "of no matter")
			check("another PCR extended", true)
			extend(t, d, 11, test.name)
			check("a PCR of the policy extended", false)
		})
	}
}
