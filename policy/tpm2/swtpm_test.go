package tpm2_test

// Digests and names against trial sessions and objects of a TPM in software.

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rsa"
	"testing"
	"time"

	gotpm "github.com/google/go-tpm/tpm2"

	"github.com/mkexec/mkexec/measure"
	"github.com/mkexec/mkexec/measure/tpm"
	"github.com/mkexec/mkexec/measure/tpm/tpmtest"
	"github.com/mkexec/mkexec/policy/tpm2"
)

// open starts a TPM whose PCRs 0 to 23 are not zero but for a few.
func open(t *testing.T) *tpm.Device {
	d, err := tpm.Open(tpmtest.Start(t).Device(), tpm.Options{Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	for _, n := range []measure.PCR{0, 7, 8, 11, 15, 16} {
		ev := measure.Event{PCR: n, Digests: map[measure.Bank]measure.Digest{}}
		for _, b := range measure.Banks() {
			ev.Digests[b] = b.Sum([]byte{byte(n)})
		}
		if err := d.Extend(ev); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

// trial returns the digest of a trial session in which f ran commands.
func trial(t *testing.T, d *tpm.Device, f func(session gotpm.TPMHandle) error) tpm2.Digest {
	t.Helper()
	session, end, err := gotpm.PolicySession(d, gotpm.TPMAlgSHA256, 16, gotpm.Trial())
	if err != nil {
		t.Fatal(err)
	}
	defer end()
	if err := f(session.Handle()); err != nil {
		t.Fatal(err)
	}
	response, err := gotpm.PolicyGetDigest{PolicySession: session.Handle()}.Execute(d)
	if err != nil {
		t.Fatal(err)
	}
	digest, err := tpm2.ParseDigest(response.PolicyDigest.Buffer)
	if err != nil {
		t.Fatal(err)
	}
	return digest
}

func policyPCR(d *tpm.Device, session gotpm.TPMHandle, bank measure.Bank, pcrs ...measure.PCR) error {
	var selection []uint
	for _, n := range pcrs {
		selection = append(selection, uint(n))
	}
	_, err := gotpm.PolicyPCR{PolicySession: session, Pcrs: gotpm.TPMLPCRSelection{PCRSelections: []gotpm.TPMSPCRSelection{
		{Hash: gotpm.TPMAlgID(bank), PCRSelect: gotpm.PCClientCompatible.PCRs(selection...)},
	}}}.Execute(d)
	return err
}

func policyAuthValue(d *tpm.Device, session gotpm.TPMHandle) error {
	_, err := gotpm.PolicyAuthValue{PolicySession: session}.Execute(d)
	return err
}

func TestTrialPCR(t *testing.T) {
	t.Parallel()
	d := open(t)
	for _, bank := range measure.Banks() {
		for _, pcrs := range [][]measure.PCR{{11}, {0}, {23}, {11, 7}, {7, 8, 15, 16, 23}, {12}} {
			values, err := d.Read(pcrs...)
			if err != nil {
				t.Fatal(err)
			}
			got, err := tpm2.Digest{}.PCR(bank, pcrs, values)
			if err != nil {
				t.Fatal(err)
			}
			want := trial(t, d, func(s gotpm.TPMHandle) error { return policyPCR(d, s, bank, pcrs...) })
			if got != want {
				t.Errorf("%s %v: %s, want %s", bank, pcrs, got, want)
			}
		}
	}
}

func TestTrialChain(t *testing.T) {
	t.Parallel()
	d := open(t)
	values, err := d.Read(7, 11)
	if err != nil {
		t.Fatal(err)
	}
	pcr := func(bank measure.Bank, n measure.PCR) tpm2.Digest {
		got, err := tpm2.Digest{}.PCR(bank, []measure.PCR{n}, values)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	branches := []tpm2.Digest{pcr(measure.SHA256, 11), pcr(measure.SHA1, 7), {1, 2, 3}}
	got, err := or(t, branches...).AuthValue().PCR(measure.SHA384, []measure.PCR{7}, values)
	if err != nil {
		t.Fatal(err)
	}
	want := trial(t, d, func(s gotpm.TPMHandle) error {
		var list gotpm.TPMLDigest
		for _, b := range branches {
			list.Digests = append(list.Digests, gotpm.TPM2BDigest{Buffer: b[:]})
		}
		if err := policyPCR(d, s, measure.SHA256, 11); err != nil {
			return err
		}
		if _, err := (gotpm.PolicyOr{PolicySession: s, PHashList: list}).Execute(d); err != nil {
			return err
		}
		if err := policyAuthValue(d, s); err != nil {
			return err
		}
		return policyPCR(d, s, measure.SHA384, 7)
	})
	if got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// TestTrialAuthorize loads the keys that a TPM takes (libtpms has no P-224 and
// no RSA of 1024, 2047 or 4096 bits, and wants an exponent above 2^16) and has
// their names and policies from it.
func TestTrialAuthorize(t *testing.T) {
	t.Parallel()
	d := open(t)
	loaded := 0
	for _, k := range publicKeys(t) {
		var names [][]byte
		var publics []gotpm.TPMTPublic
		public := gotpm.TPMTPublic{NameAlg: gotpm.TPMAlgSHA256, ObjectAttributes: gotpm.TPMAObject{SignEncrypt: true, Decrypt: true, UserWithAuth: true}}
		switch key := k.parse(t).(type) {
		case *rsa.PublicKey:
			for _, exponent := range []uint32{uint32(key.E), 0} {
				public.Type = gotpm.TPMAlgRSA
				public.Parameters = gotpm.NewTPMUPublicParms(gotpm.TPMAlgRSA, &gotpm.TPMSRSAParms{KeyBits: gotpm.TPMKeyBits(key.N.BitLen()), Exponent: exponent})
				public.Unique = gotpm.NewTPMUPublicID(gotpm.TPMAlgRSA, &gotpm.TPM2BPublicKeyRSA{Buffer: key.N.Bytes()})
				names = append(names, tpm2.RSAKeyName(key, exponent))
				publics = append(publics, public)
			}
		case *ecdsa.PublicKey:
			point, err := key.Bytes()
			if err != nil {
				t.Fatal(err)
			}
			name, err := tpm2.ECCKeyName(key)
			if err != nil {
				t.Fatal(err)
			}
			curve := map[string]gotpm.TPMECCCurve{"P-224": gotpm.TPMECCNistP224, "P-256": gotpm.TPMECCNistP256, "P-384": gotpm.TPMECCNistP384, "P-521": gotpm.TPMECCNistP521}
			size := len(point) / 2
			public.Type = gotpm.TPMAlgECC
			public.Parameters = gotpm.NewTPMUPublicParms(gotpm.TPMAlgECC, &gotpm.TPMSECCParms{CurveID: curve[key.Params().Name]})
			public.Unique = gotpm.NewTPMUPublicID(gotpm.TPMAlgECC, &gotpm.TPMSECCPoint{
				X: gotpm.TPM2BECCParameter{Buffer: point[1 : 1+size]}, Y: gotpm.TPM2BECCParameter{Buffer: point[1+size:]},
			})
			names = append(names, name)
			publics = append(publics, public)
		}
		for i, public := range publics {
			key, err := gotpm.LoadExternal{InPublic: gotpm.New2B(public), Hierarchy: gotpm.TPMRHOwner}.Execute(d)
			if err != nil {
				t.Logf("%s: not loaded: %v", k.Name, err)
				continue
			}
			loaded++
			if !bytes.Equal(names[i], key.Name.Buffer) {
				t.Errorf("%s: name %x, want %x", k.Name, names[i], key.Name.Buffer)
			}
			ref := []byte("any bytes")
			want := trial(t, d, func(s gotpm.TPMHandle) error {
				if err := policyPCR(d, s, measure.SHA256, 11); err != nil {
					return err
				}
				_, err := gotpm.PolicyAuthorize{
					PolicySession: s, PolicyRef: gotpm.TPM2BDigest{Buffer: ref}, KeySign: key.Name,
					CheckTicket: gotpm.TPMTTKVerified{Tag: gotpm.TPMSTVerified, Hierarchy: gotpm.TPMRHOwner},
				}.Execute(d)
				return err
			})
			if got := (tpm2.Digest{}).Authorize(names[i], ref); got != want {
				t.Errorf("%s: policy %s, want %s", k.Name, got, want)
			}
			if _, err := (gotpm.FlushContext{FlushHandle: key.ObjectHandle}).Execute(d); err != nil {
				t.Fatal(err)
			}
		}
	}
	if loaded < 5 {
		t.Errorf("%d keys loaded", loaded)
	}
}

// TestTrialAuthorizeNV has the name of an index from the TPM, before and after
// the first write to it.
func TestTrialAuthorizeNV(t *testing.T) {
	t.Parallel()
	d := open(t)
	const index = 0x01800042
	public := gotpm.TPMSNVPublic{
		NVIndex: index, NameAlg: gotpm.TPMAlgSHA256, DataSize: 34,
		Attributes: gotpm.TPMANV{OwnerRead: true, OwnerWrite: true, AuthRead: true},
		AuthPolicy: gotpm.TPM2BDigest{Buffer: make([]byte, 32)},
	}
	if _, err := (gotpm.NVDefineSpace{AuthHandle: gotpm.TPMRHOwner, PublicInfo: gotpm.New2B(public)}).Execute(d); err != nil {
		t.Fatal(err)
	}
	var name gotpm.TPM2BName
	check := func(written bool) {
		response, err := gotpm.NVReadPublic{NVIndex: gotpm.TPMHandle(index)}.Execute(d)
		if err != nil {
			t.Fatal(err)
		}
		name = response.NVName
		if got, err := tpm2.NVName(gotpm.Marshal(public), written); err != nil || !bytes.Equal(got, name.Buffer) {
			t.Errorf("written %t: name %x, %v, want %x", written, got, err, name.Buffer)
		}
	}
	check(false)
	before := name.Buffer
	content := append([]byte{0, 0x0b}, make([]byte, 32)...)
	if _, err := (gotpm.NVWrite{
		AuthHandle: gotpm.TPMRHOwner, NVIndex: gotpm.NamedHandle{Handle: index, Name: name}, Data: gotpm.TPM2BMaxNVBuffer{Buffer: content},
	}).Execute(d); err != nil {
		t.Fatal(err)
	}
	check(true)
	if bytes.Equal(before, name.Buffer) {
		t.Error("the first write does not change the name")
	}
	want := trial(t, d, func(s gotpm.TPMHandle) error {
		_, err := gotpm.PolicyAuthorizeNV{AuthHandle: gotpm.TPMRHOwner, NVIndex: gotpm.NamedHandle{Handle: index, Name: name}, PolicySession: s}.Execute(d)
		if err != nil {
			return err
		}
		return policyAuthValue(d, s)
	})
	if got := (tpm2.Digest{}).AuthorizeNV(name.Buffer).AuthValue(); got != want {
		t.Errorf("policy %s, want %s", got, want)
	}
}
