package creds_test

// What is refused, and with which words. It does not prove that systemd refuses
// the same: it does not look at padding, and takes IVs of other sizes until
// decryption fails.

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/mkexec/mkexec/policy"
	"github.com/mkexec/mkexec/policy/creds"
)

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	r := readRecorded(t)
	good := header(t, r, "pk-7 (262)")
	with := func(at int, bytes ...byte) []byte {
		b := slices.Clone(good)
		copy(b[at:], bytes)
		return encode(b)
	}
	user := header(t, r, "host+pk-7-user (262)")
	const pkSize, srkSize = 352, 808 // the sizes of the public key and of the storage root key
	if binary.LittleEndian.Uint32(good[pkSize:]) != 451 || binary.LittleEndian.Uint32(good[srkSize:]) != 136 {
		t.Fatal("the recorded credential is laid out in another way")
	}
	for _, test := range []struct {
		name, text, want string
		cannotTell       bool
	}{
		{name: "empty", want: "at byte 0: key type: 16 bytes, but only 0 are left"},
		{name: "white space", text: " \n\t\r\n", want: "at byte 0: key type: 16 bytes, but only 0 are left"},
		{name: "text", text: "secret, but not encrypted", want: `not base64: "secret, but not encrypted"`},
		{name: "long text", text: strings.Repeat("-", 200), want: `not base64: "` + strings.Repeat("-", 80) + `"`},
		{name: "binary", text: string(good), want: `not base64: "^-\\v\x03rN\xaf\x84<o\xb5\xf6@\x98\xf5`},
		{name: "pretty", text: "SetCredentialEncrypted=x: \\\n", want: `not base64: "SetCredentialEncrypted=x: \\\n"`},
		{name: "bits behind the end", text: "AB==", want: `not base64: "AB=="`},
		{name: "no padding", text: "AAA", want: `not base64: "AAA"`},
		{name: "NUL", text: "AAAA\x00", want: `not base64: "AAAA\x00"`},
		{name: "large", text: strings.Repeat("A", creds.MaxSize+1), want: "more than 2097152 bytes"},
		{name: "short", text: "AAAA", want: "at byte 0: key type: 16 bytes, but only 3 are left"},
		{name: "key type", text: string(with(15, 0)), cannotTell: true,
			want: "at byte 0: key type 5e2d5c7603724eaf843c6fb5f6409800: unknown: cannot tell"},
		{name: "automatic key type", text: string(with(0, 0xa2, 0x19, 0xcb, 0x07, 0x85, 0xb2, 0x4c, 0x04, 0xb1, 0x6d, 0x18, 0xca, 0xb9, 0xd2, 0xee, 0x01)), cannotTell: true,
			want: "at byte 0: key type a219cb0785b24c04b16d18cab9d2ee01: unknown: cannot tell"},
		{name: "key size", text: string(with(16, 16)), want: "at byte 16: key size: 16, not 32"},
		{name: "block size", text: string(with(20, 0)), want: "at byte 20: block size: 0, not 1"},
		{name: "IV size", text: string(with(24, 0xff, 0xff, 0xff, 0xff)), want: "at byte 24: IV size: 4294967295, not 12"},
		{name: "tag size", text: string(with(28, 12)), want: "at byte 28: tag size: 12, not 16"},
		{name: "padding", text: string(with(47, 1)), want: "at byte 44: padding 00000001: not zero"},
		{name: "PCR 24", text: string(with(51, 1)), want: "at byte 48: PCRs: mask 0x1000080: there are PCR 0 to 23"},
		{name: "PCR 63", text: string(with(55, 0x80)), want: "at byte 48: PCRs: mask 0x8000000000000080: there are PCR 0 to 23"},
		{name: "bank", text: string(with(56, 0x12)), want: "at byte 56: PCR bank 0x0012: unknown: cannot tell", cannotTell: true},
		{name: "primary key", text: string(with(58, 8)), want: "at byte 58: primary key of algorithm 0x0008: unknown: cannot tell", cannotTell: true},
		{name: "no sealed key", text: string(with(60, 0, 0)), want: "at byte 60: sealed key: 0 bytes, not 1 to 16384"},
		{name: "large sealed key", text: string(with(60, 0xff, 0xff, 0xff, 0xff)), want: "at byte 60: sealed key: 4294967295 bytes, not 1 to 16384"},
		{name: "sealed key past the end", text: string(with(60, 0, 0x40)), want: "at byte 68: sealed key: 16384 bytes, but only "},
		{name: "digest size", text: string(with(64, 20)), want: "at byte 64: policy digest size: 20, not 32"},
		{name: "padding behind the digest", text: string(with(340, 9)), want: "at byte 340: padding 09000000: not zero"},
		{name: "no PCR of the key", text: string(with(344, 0, 0)), want: "at byte 352: PCRs of the public key: none"},
		{name: "PCR 24 of the key", text: string(with(347, 1)), want: "at byte 344: PCRs of the public key: mask 0x1000800: there are PCR 0 to 23"},
		{name: "no key", text: string(with(pkSize, 0, 0)), want: "at byte 352: public key: 0 bytes, not 1 to 1048576"},
		{name: "large key", text: string(with(pkSize, 1, 0, 0x10)), want: "at byte 352: public key: 1048577 bytes, not 1 to 1048576"},
		{name: "key past the end", text: string(with(pkSize, 0, 0, 0x10)), want: "at byte 356: public key: 1048576 bytes, but only "},
		{name: "padding behind the key", text: string(with(807, 1)), want: "at byte 807: padding 01: not zero"},
		{name: "no storage root key", text: string(with(srkSize, 0)), want: "at byte 808: storage root key: 0 bytes, not 1 to 16384"},
		{name: "storage root key past the end", text: string(with(srkSize, 0, 0x40)), want: "at byte 812: storage root key: 16384 bytes, but only "},
		{name: "padding behind the storage root key", text: string(with(948, 0, 0, 0, 7)), want: "at byte 948: padding 00000007: not zero"},
		{name: "flags", text: string(encode(slices.Replace(slices.Clone(user), 952, 953, 6))), want: "at byte 952: flags of the user's key: 0x6, not 0x7"},
		{name: "nothing encrypted", text: string(encode(good[:952])), want: "at byte 952: encrypted part of 0 bytes: it has 40 at least"},
		{name: "too little encrypted", text: string(encode(good[:991])), want: "at byte 952: encrypted part of 39 bytes: it has 40 at least"},
	} {
		_, err := creds.Parse([]byte(test.text))
		if err == nil || !strings.HasPrefix(err.Error(), "credential: "+test.want) || len(err.Error()) > 400 || errors.Is(err, policy.ErrCannotTell) != test.cannotTell {
			t.Errorf("%s: %v\nwant %s", test.name, err, test.want)
		}
	}
	// cut anywhere before that it is refused as well
	for n := range 992 {
		if _, err := creds.Parse(encode(good[:n])); err == nil {
			t.Errorf("%d bytes are accepted", n)
		}
	}
	if _, err := creds.Parse(encode(good[:992])); err != nil {
		t.Error(err)
	}
}

// TestCheckDetail: what a no says, and what a public key that is none does.
func TestCheckDetail(t *testing.T) {
	t.Parallel()
	r := readRecorded(t)
	for _, test := range []struct {
		name, credential, state, want string
		change                        func(*creds.Policy)
	}{
		{"value", "tpm2-7+11 (262)", "B", "policy not met: sealed to other values of PCR 7 11 (sha256) than those predicted", nil},
		{"no signatures", "pk (262)", "A", "wants a signed policy, and there are no signatures to look at: cannot tell", func(p *creds.Policy) { p.Signatures = nil }},
		{"not signed", "pk (262)", "D", "policy not met: no signature for PCR 11 (sha256) as predicted, policy ", nil},
		{"other digest", "pk (262)", "A", "policy not met: sealed with the policy 00", func(p *creds.Policy) { p.Digest = [32]byte{} }},
		{"no key", "pk (262)", "A", "public key: no PEM block", func(p *creds.Policy) { p.PublicKey = []byte("x") }},
		{"EC key", "pk-ec (262)", "A", "public key: EC P-256: not supported", nil},
		{"unknown", "tpm2-7 (262)", "A", "PCR 8 (sha256) is not predicted, but the policy names it: cannot tell", func(p *creds.Policy) { p.PCRs[0] = 8 }},
	} {
		p := r.credential(t, test.credential).Policy
		if test.change != nil {
			test.change(p)
		}
		err := p.Check(r.pcrs(t, test.state))
		if err == nil || !strings.HasPrefix(err.Error(), test.want) {
			t.Errorf("%s: %v, want %s", test.name, err, test.want)
		}
	}
}

// FuzzParse: what is accepted does not change with white space in the text or
// with what is encrypted, and says again what stands in the header.
func FuzzParse(f *testing.F) {
	r := readRecorded(f)
	for _, c := range r.Credentials {
		f.Add([]byte(c.Text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := creds.Parse(text)
		if err != nil {
			if c != nil || len(err.Error()) > 600 {
				t.Fatalf("%v, %.1000q", c, err.Error())
			}
			return
		}
		spaced, err := creds.Parse(bytes.Join([][]byte{nil, text, nil}, []byte(" \n")))
		if err != nil || !reflect.DeepEqual(c, spaced) {
			t.Fatalf("with white space: %+v, %v; %+v", spaced, err, c)
		}
		b, err := decodeText(text)
		if err != nil {
			t.Fatal(err)
		}
		longer, err := creds.Parse(encode(append(b, 0)))
		if err != nil || !reflect.DeepEqual(c, longer) {
			t.Fatalf("longer: %+v, %v; %+v", longer, err, c)
		}
		if c.Policy == nil {
			return
		}
		// id, four sizes, IV and padding: then the mask
		var mask uint64
		for _, n := range c.Policy.PCRs {
			mask |= 1 << n
		}
		if binary.LittleEndian.Uint64(b[48:]) != mask || binary.LittleEndian.Uint16(b[56:]) != uint16(c.Policy.Bank) {
			t.Fatalf("%x: %+v", b[:64], c.Policy)
		}
		if !bytes.Contains(b, c.Policy.PublicKey) || !strings.Contains(hex.EncodeToString(b), c.Policy.Digest.String()) {
			t.Fatalf("%x: %+v", b, c.Policy)
		}
	})
}
